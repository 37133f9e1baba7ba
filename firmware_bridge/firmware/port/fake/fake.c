/* A device of memory alone; see fake.h. */
#include "fake.h"

#include <string.h>

static uint32_t next_random(fake *self) {
    self->random ^= self->random << 13;
    self->random ^= self->random >> 17;
    self->random ^= self->random << 5;
    return self->random;
}

static void check(fake *self, bool allowed) {
    if (!allowed) {
        self->violations++;
    }
}

static bool is_cut(fake *self) {
    return self->operations++ == self->cut_at;
}

static int flash_read(void *context, uint32_t address, void *data, uint32_t bytes) {
    fake *self = context;
    if (bytes > FLASH_BYTES || address > FLASH_BYTES - bytes) {
        check(self, false);
        return -1;
    }
    memcpy(data, self->flash + address, bytes);
    return 0;
}

static void program_byte(fake *self, uint32_t address, uint8_t value) {
    uint8_t stuck = self->stuck_mask != 0 && address == self->stuck_address ? self->stuck_mask : 0;
    self->flash[address] &= (uint8_t)(value | stuck);
}

static int flash_program(void *context, uint32_t address, const void *data, uint32_t bytes) {
    fake *self = context;
    const uint8_t *from = data;
    if (address % FLASH_WORD_BYTES != 0 || bytes % FLASH_WORD_BYTES != 0 || bytes > FLASH_BYTES ||
        address > FLASH_BYTES - bytes) {
        check(self, false);
        return -1;
    }
    for (uint32_t word = 0; word < bytes; word += FLASH_WORD_BYTES) {
        uint32_t at = address + word;
        check(self, at >= FLASH_META &&
                        (self->forbidden == 0 || at < self->forbidden || at >= self->forbidden + FLASH_SLOT_BYTES));
        for (uint32_t i = 0; i < FLASH_WORD_BYTES; i++) {
            check(self, self->flash[at + i] == 0xFF);
        }
        bool cut = is_cut(self);
        uint32_t bit = next_random(self) % (8 * FLASH_WORD_BYTES);
        for (uint32_t i = 0; i < FLASH_WORD_BYTES; i++) {
            uint8_t value = from[word + i];
            if (cut && (self->cut_mode == CUT_BEFORE || (self->cut_mode == CUT_HALF && i >= FLASH_WORD_BYTES / 2))) {
                value = 0xFF;
            } else if (cut && self->cut_mode == CUT_RANDOM) {
                value |= (uint8_t)next_random(self);
            } else if (cut && self->cut_mode == CUT_BIT && i == bit / 8) {
                value |= (uint8_t)(1u << bit % 8);
            }
            program_byte(self, at + i, value);
        }
        if (cut) {
            longjmp(self->power_cut, 1);
        }
    }
    return 0;
}

static int flash_erase(void *context, uint32_t address) {
    fake *self = context;
    if (address % FLASH_SECTOR_BYTES != 0 || address >= FLASH_BYTES) {
        check(self, false);
        return -1;
    }
    check(self, address >= FLASH_META && (self->forbidden == 0 || address < self->forbidden ||
                                          address >= self->forbidden + FLASH_SLOT_BYTES));
    bool cut = is_cut(self);
    uint32_t bit = next_random(self) % (8 * FLASH_SECTOR_BYTES);
    for (uint32_t i = 0; i < FLASH_SECTOR_BYTES; i++) {
        uint8_t *byte = self->flash + address + i;
        if (cut && self->cut_mode == CUT_BIT) {
            *byte = (uint8_t)(*byte | (i == bit / 8 ? ~(1u << bit % 8) : 0xFFu));
        } else if (!cut || (self->cut_mode == CUT_HALF && i < FLASH_SECTOR_BYTES / 2)) {
            *byte = 0xFF;
        } else if (self->cut_mode == CUT_RANDOM) {
            *byte |= (uint8_t)next_random(self);
        }
    }
    if (cut) {
        longjmp(self->power_cut, 1);
    }
    return 0;
}

static size_t uart_read(void *context, uint8_t *data, size_t bytes) {
    fake *self = context;
    size_t left = self->to_device_bytes - self->to_device_at;
    size_t count = left < bytes ? left : bytes;
    memcpy(data, self->to_device + self->to_device_at, count);
    self->to_device_at += count;
    return count;
}

static void uart_write(void *context, const uint8_t *data, size_t bytes) {
    fake *self = context;
    size_t room = sizeof self->from_device - self->from_device_bytes;
    size_t count = bytes < room ? bytes : room;
    memcpy(self->from_device + self->from_device_bytes, data, count);
    self->from_device_bytes += count;
}

static void idle(void *context) {
    ((fake *)context)->now_us += 1000;
}

static uint64_t micros(void *context) {
    return ((fake *)context)->now_us++;
}

static void reset(void *context) {
    ((fake *)context)->reset_asked = true; /* the test boots again */
}

static void set_gate(void *context, bool open) {
    fake *self = context;
    self->gate_openings += open && !self->gate_open;
    self->gate_open = open;
}

void fake_init(fake *fake, void *arena, size_t arena_bytes) {
    memset(fake, 0, sizeof *fake);
    memset(fake->flash, 0xFF, sizeof fake->flash);
    fake->cut_at = UINT32_MAX;
    fake->random = 2463534242u;
    fake->hal = (hal){
        .context = fake,
        .board = "fake",
        .flash = fake->flash,
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
        .arena_bytes = arena_bytes,
    };
}

void fake_arm(fake *fake, uint32_t operation, fake_cut mode) {
    fake->cut_at = operation == UINT32_MAX ? UINT32_MAX : fake->operations + operation;
    fake->cut_mode = mode;
}
