/* The device as a process: its serial port is a pty, its flash a file, a reset starts the program again.
 *
 *     device_host FLASH_FILE [ARENA_BYTES]
 *
 * The first line on stdout is the pty's path. The file is made when it is missing, blank. SIGKILL is
 * a power cut: what was programmed stays. For fault tests, DIAGLINE_CUT_AT=N ends the process in the
 * N-th flash operation (a word programmed or a sector erased, counted over resets), half of it done.
 * Leaves out: a gate (ask `info`), and any other host than POSIX.
 */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE

#include "../../port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "../../flash_map.h"

enum { IDLE_MS = 20, FRAME_BYTES = 4 << 20, DEFAULT_ARENA_BYTES = 128 * 1024, POWER_CUT_EXIT = 137 };

static struct {
    hal hal;
    char **argv;
    int serial;
    uint8_t *flash;
    unsigned long operations_left; /* before the cut; 0: no cut */
} port;

static _Noreturn void give_up(const char *what, const char *name) {
    fprintf(stderr, "%s %s: %s\n", what, name, strerror(errno));
    exit(2);
}

/* True when power goes in this operation. */
static bool is_cut(void) {
    return port.operations_left > 0 && --port.operations_left == 0;
}

static int flash_read(void *context, uint32_t address, void *data, uint32_t bytes) {
    (void)context;
    if (bytes > FLASH_BYTES || address > FLASH_BYTES - bytes) {
        return -1;
    }
    memcpy(data, port.flash + address, bytes);
    return 0;
}

static int flash_program(void *context, uint32_t address, const void *data, uint32_t bytes) {
    (void)context;
    if (address % FLASH_WORD_BYTES != 0 || bytes % FLASH_WORD_BYTES != 0 || bytes > FLASH_BYTES ||
        address > FLASH_BYTES - bytes) {
        return -1;
    }
    for (uint32_t i = 0; i < bytes; i++) {
        if (i % FLASH_WORD_BYTES == 0 && is_cut()) {
            for (uint32_t half = 0; half < FLASH_WORD_BYTES / 2; half++) {
                port.flash[address + i + half] &= ((const uint8_t *)data)[i + half];
            }
            _exit(POWER_CUT_EXIT);
        }
        port.flash[address + i] &= ((const uint8_t *)data)[i]; /* bits only go to 0, as in flash */
    }
    return 0;
}

static int flash_erase(void *context, uint32_t address) {
    (void)context;
    if (address % FLASH_SECTOR_BYTES != 0 || address >= FLASH_BYTES) {
        return -1;
    }
    bool cut = is_cut();
    memset(port.flash + address, 0xFF, cut ? FLASH_SECTOR_BYTES / 2 : FLASH_SECTOR_BYTES);
    if (cut) {
        _exit(POWER_CUT_EXIT);
    }
    return 0;
}

static size_t uart_read(void *context, uint8_t *data, size_t bytes) {
    (void)context;
    ssize_t count = read(port.serial, data, bytes);
    return count > 0 ? (size_t)count : 0;
}

/* A wire does not wait for its reader: what nobody takes within a second is lost. */
static void uart_write(void *context, const uint8_t *data, size_t bytes) {
    (void)context;
    while (bytes > 0) {
        ssize_t count = write(port.serial, data, bytes);
        if (count > 0) {
            data += count;
            bytes -= (size_t)count;
        } else if (count < 0 && errno != EAGAIN && errno != EINTR) {
            return;
        } else {
            struct pollfd room = {.fd = port.serial, .events = POLLOUT};
            if (poll(&room, 1, 1000) == 0) {
                return;
            }
        }
    }
}

static void idle(void *context) {
    (void)context;
    struct pollfd arrived = {.fd = port.serial, .events = POLLIN};
    poll(&arrived, 1, IDLE_MS);
}

static uint64_t micros(void *context) {
    (void)context;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void reset(void *context) {
    (void)context;
    char serial[16], cut[24];
    snprintf(serial, sizeof serial, "%d", port.serial);
    setenv("DIAGLINE_SERIAL", serial, 1); /* the host's end stays open */
    if (port.operations_left > 0) {
        snprintf(cut, sizeof cut, "%lu", port.operations_left);
        setenv("DIAGLINE_CUT_AT", cut, 1);
    }
    execv("/proc/self/exe", port.argv);
    execv(port.argv[0], port.argv);
    give_up("cannot start again", port.argv[0]);
}

static void set_gate(void *context, bool open) {
    (void)context;
    (void)open;
}

static void open_flash(const char *path) {
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct stat found;
    if (file < 0 || fstat(file, &found) != 0) {
        give_up("cannot open flash file", path);
    }
    if (found.st_size != 0 && found.st_size != (off_t)FLASH_BYTES) {
        fprintf(stderr, "flash file %s has %lld bytes, expected %u; name another file\n", path,
                (long long)found.st_size, FLASH_BYTES);
        exit(2);
    }
    if (ftruncate(file, (off_t)FLASH_BYTES) != 0) {
        give_up("cannot grow flash file", path);
    }
    port.flash = mmap(NULL, FLASH_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (port.flash == MAP_FAILED) {
        give_up("cannot map flash file", path);
    }
    if (found.st_size == 0) {
        memset(port.flash, 0xFF, FLASH_BYTES);
    }
    close(file);
}

static void open_serial(void) {
    const char *inherited = getenv("DIAGLINE_SERIAL");
    if (inherited != NULL) {
        port.serial = atoi(inherited);
        return;
    }
    port.serial = posix_openpt(O_RDWR | O_NOCTTY);
    if (port.serial < 0 || grantpt(port.serial) != 0 || unlockpt(port.serial) != 0) {
        give_up("cannot open", "a pty");
    }
    const char *path = ptsname(port.serial);
    /* One end of our own keeps the line up while no host has it open, also over a reset. */
    int line = open(path, O_RDWR | O_NOCTTY);
    struct termios raw;
    if (line < 0 || tcgetattr(line, &raw) != 0) {
        give_up("cannot open", path);
    }
    cfmakeraw(&raw);
    tcsetattr(line, TCSANOW, &raw);
    fcntl(port.serial, F_SETFL, O_NONBLOCK);
    printf("%s\n", path);
    fflush(stdout);
}

const hal *port_hal(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s FLASH_FILE [ARENA_BYTES]\n", argv[0]);
        exit(2);
    }
    port.argv = argv;
    size_t arena_bytes = argc == 3 ? strtoul(argv[2], NULL, 10) : DEFAULT_ARENA_BYTES;
    const char *cut = getenv("DIAGLINE_CUT_AT");
    port.operations_left = cut == NULL ? 0 : strtoul(cut, NULL, 10);
    signal(SIGHUP, SIG_IGN);
    open_flash(argv[1]);
    open_serial();
    port.hal = (hal){
        .board = "host",
        .flash = port.flash,
        .flash_read = flash_read,
        .flash_program = flash_program,
        .flash_erase = flash_erase,
        .uart_read = uart_read,
        .uart_write = uart_write,
        .idle = idle,
        .micros = micros,
        .reset = reset,
        .set_gate = set_gate,
        .arena = aligned_alloc(64, (arena_bytes + 63) / 64 * 64),
        .arena_bytes = arena_bytes,
        .frame = malloc(FRAME_BYTES),
        .frame_bytes = FRAME_BYTES,
    };
    if (port.hal.arena == NULL || port.hal.frame == NULL) {
        give_up("cannot allocate", "memory");
    }
    return &port.hal;
}
