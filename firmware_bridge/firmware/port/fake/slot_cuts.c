/* Power cut in every flash operation of an update of the slots, and in every one of the recovery.
 *
 *     slot_cuts IMAGE_BYTES LOG_PREFILL
 *
 * The log alone, without protocol or images: old and new are patterns. After each cut the device
 * boots; what it runs must be the old or the new pattern, whole. Then the update is tried again and
 * cut again in each of its operations, and the third attempt must end with the new pattern in force.
 * LOG_PREFILL records are written before, so that a run covers the change of the log's sector.
 * Prints: cuts, violations.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../slots.h"
#include "fake.h"

static uint8_t old_image[FLASH_SLOT_BYTES], new_image[FLASH_SLOT_BYTES];
static uint32_t image_bytes;
static const uint8_t key[SLOTS_KEY_BYTES] = "newmodel";
static fake start, device; /* flash before the update; the device under test */
static unsigned long cuts, violations;

static bool holds(uint8_t slot, const uint8_t *image) {
    return slot <= 1 && memcmp(device.flash + flash_slot(slot), image, image_bytes) == 0;
}

static void boot(slots *slots) {
    slots_open(slots, &device.hal);
    device.forbidden = slots->state.active <= 1 ? flash_slot(slots->state.active) : 0;
    uint8_t spare = slots_spare_slot(slots);
    if (slots->state.spare == SPARE_COMPLETE) {
        violations += !holds(spare, old_image) && !holds(spare, new_image);
    }
    uint8_t slot = slots_boot(slots, slots->state.spare == SPARE_COMPLETE && holds(spare, new_image));
    violations += !holds(slot, old_image) && !holds(slot, new_image);
}

/* A host's whole attempt: upload what is missing, request, boot, confirm. True when new is in force. */
static bool update(void) {
    slots slots;
    boot(&slots);
    if (slots.state.stage == STAGE_TRYING) {
        boot(&slots); /* an earlier host left it on trial */
    }
    if (holds(slots.state.active, new_image)) {
        return true;
    }
    if (!slots_upload_resume(&slots, image_bytes, key) && slots_upload_begin(&slots, image_bytes, key) != SLOTS_OK) {
        return false;
    }
    while (slots.received < image_bytes) {
        uint32_t left = image_bytes - slots.received;
        uint32_t piece = left < 224 ? left : 224; /* crosses sectors */
        if (slots_upload_write(&slots, slots.received, new_image + slots.received, piece) != SLOTS_OK) {
            return false;
        }
    }
    if (slots_upload_finish(&slots) != SLOTS_OK || slots_request(&slots, false) != SLOTS_OK) {
        return false;
    }
    boot(&slots);
    return slots_confirm(&slots) == SLOTS_OK && holds(slots.state.active, new_image);
}

/* True when the attempt ran to its end without a cut. */
static bool attempt(uint32_t cut_at, fake_cut mode) {
    fake_arm(&device, cut_at, mode);
    if (setjmp(device.power_cut) != 0) {
        cuts++;
        return false;
    }
    violations += !update();
    return true;
}

static void last_attempt(void) {
    attempt(UINT32_MAX, CUT_BEFORE);
    slots slots;
    boot(&slots);
    violations += !holds(slots.state.active, new_image);
    violations += device.violations;
    device.violations = 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    image_bytes = (uint32_t)strtoul(argv[1], NULL, 10);
    unsigned long prefill = strtoul(argv[2], NULL, 10);
    for (uint32_t i = 0; i < image_bytes; i++) {
        old_image[i] = (uint8_t)(i * 7 + 1);
        new_image[i] = (uint8_t)(i * 13 + 5);
    }
    fake_init(&start, NULL, 0);
    slots slots;
    slots_open(&slots, &start.hal);
    slots_upload_begin(&slots, image_bytes, key);
    slots_upload_write(&slots, 0, old_image, image_bytes);
    slots_upload_finish(&slots);
    slots_request(&slots, false);
    slots_boot(&slots, true);
    violations += slots_confirm(&slots) != SLOTS_OK || start.violations != 0;
    for (unsigned long i = 0; i < prefill; i++) {
        slots_forget(&slots);
    }

    for (int mode = 0; mode < CUT_MODES; mode++) {
        bool ended = false;
        for (uint32_t first = 0; !ended; first++) {
            for (uint32_t second = 0;; second++) {
                device = start;
                fake_init(&device, NULL, 0);
                memcpy(device.flash, start.flash, sizeof device.flash);
                device.random += first * 131u + second;
                ended = attempt(first, (fake_cut)mode);
                bool recovered = attempt(second, (fake_cut)((mode + (int)second) % CUT_MODES));
                last_attempt();
                if (ended || recovered) {
                    break;
                }
            }
        }
    }
    printf("%lu %lu\n", cuts, violations);
    return violations == 0 ? 0 : 1;
}
