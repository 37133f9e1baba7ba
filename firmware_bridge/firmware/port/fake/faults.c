/* Fault campaigns on a whole fake device: protocol, slots, engine and self-test, all but the hardware.
 *
 *     faults cuts  OLD NEW            power cut in every flash operation, and in every one of the recovery
 *     faults wire  OLD NEW RUNS       noise, lost, repeated, swapped and invented bytes
 *     faults stuck OLD NEW            every word of an update in which a bit refuses
 *     faults hosts OLD NEW RUNS OTHER two hosts with different images at once
 *     faults baud  OLD NEW RUNS       a host at another baud rate, then one at the right one
 *     faults refuse OLD BAD CODE [PARAMETERS] an image that must be refused with this number before anything
 *                                    is erased, perhaps by a device with parameters of its own
 *
 * Images are files. Whatever happens, after every boot the model that runs must be one of the images,
 * whole and trusted, the slot in force untouched, the gate closed; and a last attempt without faults
 * must succeed. Prints: faults tried, violations.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../sha256.h"
#include "host.h"

enum { STEPS = 4000, ARENA_BYTES = 1 << 16 };

static host_link link_;
static uint8_t start_flash[FLASH_BYTES];
static uint8_t arena[ARENA_BYTES];
static host_image images[3];
static int image_count;
static unsigned long tried, violations;
static uint32_t seed;

static void violation(const char *what) {
    if (violations++ < 5) {
        fprintf(stderr, "violation: %s (fault %lu)\n", what, tried);
    }
}

static void look(void) {
    const device *device = &link_.device;
    bool whole = false;
    for (int i = 0; i < image_count && device->running <= 1; i++) {
        whole = whole || memcmp(link_.fake.flash + flash_slot(device->running), images[i].data, images[i].bytes) == 0;
    }
    if (!whole || !device->trusted) {
        violation("after a boot no whole and trusted model runs");
    }
    if (link_.fake.gate_open) {
        violation("the gate is open without a picture");
    }
}

static void load(const char *path) {
    host_image *image = &images[image_count++];
    FILE *file = fopen(path, "rb");
    image->data = malloc(2 * FLASH_SLOT_BYTES);
    if (file == NULL || image->data == NULL) {
        perror(path);
        exit(2);
    }
    image->bytes = (uint32_t)fread(image->data, 1, 2 * FLASH_SLOT_BYTES, file);
    fclose(file);
    rs_sha256 hash;
    rs_sha256_begin(&hash);
    rs_sha256_add(&hash, image->data, image->bytes);
    rs_sha256_end(&hash, image->sha);
    rs_info info;
    if (rs_parse(image->data, image->bytes, &info) == RS_OK) {
        memcpy(image->digest, info.digest, RS_DIGEST_BYTES);
    }
}

static host host_of(int image) {
    return (host){.image = &images[image], .piece_bytes = 480, .sequence = (uint8_t)seed++};
}

static void no_check(void) {
}

/* Powers a device that holds `start_flash`. */
static void power_on(void) {
    uint32_t random = link_.fake.random;
    fake_init(&link_.fake, arena, sizeof arena);
    memcpy(link_.fake.flash, start_flash, sizeof start_flash);
    link_.fake.random = random != 0 ? random : 1;
    link_.wire = (host_wire){0};
}

/* One attempt to bring `image` into force; false when power was cut. */
static bool attempt(int image, uint32_t cut_at, fake_cut mode, uint32_t steps, bool *in_force) {
    host host = host_of(image);
    fake_arm(&link_.fake, cut_at, mode);
    if (setjmp(link_.fake.power_cut) != 0) {
        return false;
    }
    host_boot(&link_);
    *in_force = host_run(&host, &link_, steps);
    if (*in_force) { /* what the host was told must hold after the next power-up too */
        host_boot(&link_);
        const device *device = &link_.device;
        if (!device_confirmed(device) ||
            memcmp(device_model(device)->digest, images[image].digest, RS_DIGEST_BYTES) != 0) {
            violation("a confirmed model was not in force after the next boot");
        }
    }
    return true;
}

static void last_attempt(int image) {
    bool in_force = false;
    link_.wire = (host_wire){0};
    link_.fake.stuck_mask = 0;
    attempt(image, UINT32_MAX, CUT_BEFORE, STEPS, &in_force);
    if (!in_force) {
        violation("the next attempt did not succeed");
    }
    if (link_.fake.violations != 0) {
        violation("flash was used against its rules, or the slot in force was touched");
    }
}

static void cuts(void) {
    for (int mode = 0; mode < CUT_MODES; mode++) {
        bool ended = false;
        for (uint32_t first = 0; !ended; first++) {
            bool recovered = false;
            for (uint32_t second = 0; !recovered; second++) {
                bool in_force = false;
                power_on();
                ended = attempt(1, first, (fake_cut)mode, STEPS, &in_force);
                recovered = attempt(1, second, (fake_cut)((mode + (int)second) % CUT_MODES), STEPS, &in_force);
                tried += !ended;
                tried += !recovered;
                last_attempt(1);
                if (ended) {
                    break;
                }
            }
        }
    }
}

static void wire(unsigned long runs, bool baud) {
    for (; tried < runs; tried++) {
        power_on();
        uint32_t odds = baud ? 2 : 200u << tried % 7;
        link_.wire =
            (host_wire){.flip = odds, .lose = odds * 2, .repeat = odds * 2, .swap = odds * 2, .invent = odds * 2};
        bool in_force;
        attempt(1, UINT32_MAX, CUT_BEFORE, 150, &in_force);
        last_attempt(1);
    }
}

static void stuck(void) {
    power_on();
    host_boot(&link_);
    uint32_t spare = flash_slot(slots_spare_slot(&link_.device.slots));
    uint32_t words = (images[1].bytes + FLASH_WORD_BYTES - 1) / FLASH_WORD_BYTES;
    uint32_t log_words = 2 * FLASH_SECTOR_BYTES / FLASH_WORD_BYTES;
    for (uint32_t word = 0; word < words + log_words; word++) {
        for (uint32_t byte = 0; byte < FLASH_WORD_BYTES; byte += 5) {
            power_on();
            uint32_t at =
                word < words ? spare + word * FLASH_WORD_BYTES : FLASH_META + (word - words) * FLASH_WORD_BYTES;
            link_.fake.stuck_address = at + byte;
            link_.fake.stuck_mask = (uint8_t)(1u << (word + byte) % 8);
            bool in_force;
            attempt(1, UINT32_MAX, CUT_BEFORE, 60, &in_force);
            tried++;
            last_attempt(1);
        }
    }
}

static void hosts(unsigned long runs) {
    for (; tried < runs; tried++) {
        power_on();
        host first = host_of(1), second = host_of(2);
        first.piece_bytes = 200 + (uint32_t)tried * 7 % 280;
        host_boot(&link_);
        for (int step = 0; step < 120; step++) {
            link_.fake.random += (uint32_t)tried;
            host_step(link_.fake.random / 7 % 3 == 0 ? &first : &second, &link_);
            link_.fake.random ^= (uint32_t)step * 2654435761u;
        }
        last_attempt(tried % 2 == 0 ? 1 : 2);
    }
}

static void refuse(uint32_t code, const char *parameters) {
    power_on();
    FILE *file = parameters == NULL ? NULL : fopen(parameters, "rb");
    if (file != NULL) {
        if (fread(link_.fake.flash + FLASH_PARAMS, 1, FLASH_SECTOR_BYTES, file) == 0) violation("no parameters");
        fclose(file);
    }
    host host = host_of(1);
    host_boot(&link_);
    uint32_t before = link_.fake.operations;
    host_step(&host, &link_);
    host_step(&host, &link_);
    tried++;
    if (host.refused != code) {
        fprintf(stderr, "refused with %u\n", host.refused);
        violation("not refused with the number expected");
    }
    if (link_.fake.operations != before) {
        violation("flash was changed before the refusal");
    }
    host_boot(&link_);
    image_count = 1; /* the old one still runs */
    look();
}

int main(int argc, char **argv) {
    if (argc < 4) {
        return 2;
    }
    for (int i = 2; i < 4; i++) {
        load(argv[i]);
    }
    unsigned long number = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
    const bool refusal = argv[1][0] == 'r';
    if (argc > 5 && !refusal) load(argv[5]);
    memset(start_flash, 0xFF, sizeof start_flash);
    link_.fake.random = 2463534242u;
    link_.booted = no_check;
    power_on();
    last_attempt(0);
    memcpy(start_flash, link_.fake.flash, sizeof start_flash);
    link_.booted = look;
    switch (argv[1][0]) {
        case 'c':
            cuts();
            break;
        case 'w':
            wire(number, false);
            break;
        case 'b':
            wire(number, true);
            break;
        case 's':
            stuck();
            break;
        case 'h':
            hosts(number);
            break;
        default:
            refuse((uint32_t)number, argc > 5 ? argv[5] : NULL);
    }
    printf("%lu %lu\n", tried, violations);
    return violations == 0 ? 0 : 1;
}
