/* libFuzzer: a whole device of memory, and whatever its wire says: SMP and MLPerf Tiny's protocol.
 *
 * The input is a row of records, kind u8 | length u16 | bytes: raw bytes, an SMP message that gets a
 * right frame, or a text command. Afterwards the flash was used by its rules, the slot in force was
 * not touched, and the device boots a whole and trusted model with the gate closed.
 */
#include "../device.h"

#include <stdlib.h>
#include <string.h>

#include "../port/fake/fake.h"

enum { ARENA_BYTES = 1 << 14, FRAME_BYTES = 48 };

/* tiny.py's Tiny(), passed on the compiler's command line by fuzz.py. */
static const uint8_t first_model[] = {FIRST_MODEL};

static fake flash_device;
static device line_device;
static uint8_t start_flash[FLASH_BYTES];
_Alignas(16) static uint8_t arena[ARENA_BYTES];
static uint8_t frame_memory[FRAME_BYTES];
static fake *fake_ = &flash_device;

static void power_on(void) {
    fake_init(fake_, arena, sizeof arena);
    memcpy(fake_->flash, start_flash, sizeof start_flash);
    fake_->hal.frame = frame_memory;
    fake_->hal.frame_bytes = sizeof frame_memory;
    device_boot(&line_device, &fake_->hal);
    fake_->forbidden = line_device.slots.state.active <= 1 ? flash_slot(line_device.slots.state.active) : 0;
}

/* Puts the first model in force, by the same functions as the protocol. */
static void prepare(void) {
    memset(start_flash, 0xFF, sizeof start_flash);
    power_on();
    static const uint8_t key[SLOTS_KEY_BYTES] = {1};
    slots *slots = &line_device.slots;
    slots_upload_begin(slots, sizeof first_model, key);
    slots_upload_write(slots, 0, first_model, sizeof first_model);
    if (device_accept_spare(&line_device) != ACCEPT_OK) abort();
    slots_upload_finish(slots);
    slots_request(slots, true);
    device_boot(&line_device, &fake_->hal);
    if (!device_confirmed(&line_device)) abort();
    memcpy(start_flash, fake_->flash, sizeof start_flash);
}

static void to_device(void *context, const uint8_t *data, size_t bytes) {
    fake *fake = context;
    const size_t room = sizeof fake->to_device - fake->to_device_bytes;
    const size_t count = bytes < room ? bytes : room;
    memcpy(fake->to_device + fake->to_device_bytes, data, count);
    fake->to_device_bytes += count;
}

static void deliver(void) {
    while (fake_->to_device_at < fake_->to_device_bytes) {
        fake_->from_device_bytes = 0;
        device_poll(&line_device);
        const uint8_t active = line_device.slots.state.active;
        if (active <= 1) fake_->forbidden = flash_slot(active);
        if (fake_->reset_asked) {
            fake_->reset_asked = false;
            device_boot(&line_device, &fake_->hal);
        }
        if (fake_->gate_open && !device_confirmed(&line_device)) abort();
    }
    fake_->to_device_at = 0;
    fake_->to_device_bytes = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static bool prepared;
    if (!prepared) prepare();
    prepared = true;
    power_on();
    const hal out = {.context = fake_, .uart_write = to_device};
    while (bytes >= 3) {
        const uint8_t kind = data[0] % 3;
        size_t length = (size_t)data[1] | (size_t)data[2] << 8;
        data += 3;
        bytes -= 3;
        if (length > bytes) length = bytes;
        if (length > 2048) return 0;
        if (kind == 1) {
            frame_send(&out, data, length);
        } else {
            to_device(fake_, data, length);
            if (kind == 2) to_device(fake_, (const uint8_t *)"%", 1);
        }
        deliver();
        data += length;
        bytes -= length;
    }
    device_boot(&line_device, &fake_->hal);
    if (!device_confirmed(&line_device) && line_device.boot != BOOT_TRIAL) abort();
    if (!line_device.trusted || fake_->violations != 0 || fake_->gate_open) abort();
    return 0;
}
