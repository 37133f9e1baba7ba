/* The device on an MPS board: CMSDK UART, SysTick, an LED as the gate, flash in external RAM.
 *
 * External RAM: flash as in flash_map.h | u32, flash operations until power is cut, 0: never (fault
 * tests write it through the emulator's file) | one picture for MLPerf Tiny's `db`. There is no FIFO:
 * a host that waits for each reply loses nothing, and QEMU holds back what does not fit.
 */
#include <string.h>

#include "../../flash_map.h"
#include "../../port.h"
#include "board.h"
#include "systick.h"

enum { ARENA_BYTES = 96 * 1024, FRAME_BYTES = 4 << 20, FRAME_OFFSET = 4096, BAUD = 115200 };
enum { ROUND_US = 10000, ROUND_TICKS = BOARD_CLOCK_HZ / 1000000u * ROUND_US };

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define UART_DATA REGISTER(BOARD_UART)
#define UART_STATE REGISTER(BOARD_UART + 0x04u)
#define UART_CONTROL REGISTER(BOARD_UART + 0x08u)
#define UART_INTERRUPT REGISTER(BOARD_UART + 0x0cu)
#define UART_DIVIDER REGISTER(BOARD_UART + 0x10u)
#define NVIC_ENABLE REGISTER(0xe000e100u + BOARD_UART_RX_IRQ / 32u * 4u)
#define NVIC_DISABLE REGISTER(0xe000e180u + BOARD_UART_RX_IRQ / 32u * 4u)
#define NVIC_UNPEND REGISTER(0xe000e280u + BOARD_UART_RX_IRQ / 32u * 4u)
#define NVIC_BIT (1u << BOARD_UART_RX_IRQ % 32u)
#define AIRCR REGISTER(0xe000ed0cu)
#define LEDS REGISTER(BOARD_FPGAIO)
#define CUT_AFTER REGISTER(BOARD_EXTERNAL + FLASH_BYTES)

enum { UART_TX_FULL = 1, UART_RX_FULL = 2 };                       /* of the state */
enum { UART_TX_ON = 1, UART_RX_ON = 2, UART_RX_INTERRUPT_ON = 8 }; /* of the control */
enum { UART_RX_INTERRUPT = 2 };

static uint8_t *const flash = (uint8_t *)BOARD_EXTERNAL;
_Alignas(16) static uint8_t arena[ARENA_BYTES];
static volatile uint32_t rounds; /* of the SysTick counter, ROUND_US each */

void tick(void) {
    rounds++;
}

static void set_gate(void *context, bool open) {
    (void)context;
    LEDS = open ? 1 : 0;
}

static void reset(void *context) {
    (void)context;
    for (;;) AIRCR = 0x05fa0004u;
}

/* Whatever went wrong: reject, and boot again. A model on trial is left that way. */
void fault(void) {
    set_gate(NULL, false);
    reset(NULL);
}

/* True when power goes in this operation; what follows must not return. */
static bool is_cut(void) {
    if (CUT_AFTER == 0) return false;
    CUT_AFTER = CUT_AFTER - 1;
    return CUT_AFTER == 0;
}

static void power_off(void) {
    set_gate(NULL, false);
    for (;;) __asm volatile("cpsid i\n wfi");
}

static int flash_read(void *context, uint32_t address, void *data, uint32_t bytes) {
    (void)context;
    if (bytes > FLASH_BYTES || address > FLASH_BYTES - bytes) return -1;
    memcpy(data, flash + address, bytes);
    return 0;
}

static int flash_program(void *context, uint32_t address, const void *data, uint32_t bytes) {
    (void)context;
    if (address % FLASH_WORD_BYTES != 0 || bytes % FLASH_WORD_BYTES != 0 || bytes > FLASH_BYTES ||
        address > FLASH_BYTES - bytes) {
        return -1;
    }
    const uint8_t *from = data;
    for (uint32_t word = 0; word < bytes; word += FLASH_WORD_BYTES) {
        const bool cut = is_cut();
        for (uint32_t i = word; i < word + (cut ? FLASH_WORD_BYTES / 2 : FLASH_WORD_BYTES); i++) {
            flash[address + i] &= from[i]; /* bits only go to 0, as in flash */
        }
        if (cut) power_off();
    }
    return 0;
}

static int flash_erase(void *context, uint32_t address) {
    (void)context;
    if (address % FLASH_SECTOR_BYTES != 0 || address >= FLASH_BYTES) return -1;
    const bool cut = is_cut();
    memset(flash + address, 0xFF, cut ? FLASH_SECTOR_BYTES / 2 : FLASH_SECTOR_BYTES);
    if (cut) power_off();
    return 0;
}

static size_t uart_read(void *context, uint8_t *data, size_t bytes) {
    (void)context;
    size_t count = 0;
    while (count < bytes && (UART_STATE & UART_RX_FULL) != 0) data[count++] = (uint8_t)UART_DATA;
    return count;
}

static void uart_write(void *context, const uint8_t *data, size_t bytes) {
    (void)context;
    for (size_t i = 0; i < bytes; i++) {
        while ((UART_STATE & UART_TX_FULL) != 0) {
        }
        UART_DATA = data[i];
    }
}

/* Sleeps until a byte arrives or SysTick has gone round. The interrupt only wakes: it is never taken. */
static void idle(void *context) {
    (void)context;
    __asm volatile("cpsid i" ::: "memory");
    NVIC_ENABLE = NVIC_BIT;
    if ((UART_STATE & UART_RX_FULL) == 0) __asm volatile("dsb\n wfi" ::: "memory");
    NVIC_DISABLE = NVIC_BIT;
    UART_INTERRUPT = UART_RX_INTERRUPT;
    NVIC_UNPEND = NVIC_BIT;
    __asm volatile("cpsie i" ::: "memory");
}

static uint64_t micros(void *context) {
    static uint64_t latest;
    (void)context;
    uint32_t before, count;
    do {
        before = rounds;
        count = SYSTICK_COUNT;
    } while (before != rounds);
    const uint64_t now = (uint64_t)before * ROUND_US + (ROUND_TICKS - 1 - count) / (BOARD_CLOCK_HZ / 1000000u);
    latest = now > latest ? now : latest; /* a round whose interrupt is still to be taken */
    return latest;
}

const hal *port_hal(int argc, char **argv) {
    static hal board = {
        .board = BOARD_NAME,
        .flash_read = flash_read,
        .flash_program = flash_program,
        .flash_erase = flash_erase,
        .uart_read = uart_read,
        .uart_write = uart_write,
        .idle = idle,
        .micros = micros,
        .reset = reset,
        .set_gate = set_gate,
        .arena = arena,
        .arena_bytes = ARENA_BYTES,
        .frame_bytes = FRAME_BYTES,
    };
    (void)argc;
    (void)argv;
    set_gate(NULL, false);
    board.flash = flash;
    board.frame = flash + FLASH_BYTES + FRAME_OFFSET;
    systick_start_rounds(ROUND_TICKS);
    UART_DIVIDER = BOARD_CLOCK_HZ / BAUD;
    UART_CONTROL = UART_TX_ON | UART_RX_ON | UART_RX_INTERRUPT_ON;
    (void)UART_DATA; /* QEMU wakes a port that was opened before now by this read alone */
    return &board;
}
