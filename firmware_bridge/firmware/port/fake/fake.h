/* A device of memory alone: flash that counts its operations and loses power in any of them.
 *
 * The counted operation is one word programmed or one sector erased, so that every moment at which
 * power may go has a number. Flash is strict: a word that is not blank may not be programmed, and
 * what a rule forbids is counted as a violation. The serial port is two buffers, time is a counter.
 * For tests and fault campaigns; one process may hold several.
 */
#ifndef DIAGLINE_FAKE_H
#define DIAGLINE_FAKE_H

#include <setjmp.h>

#include "../../flash_map.h"
#include "../../hal.h"

/* What the interrupted operation leaves behind. */
typedef enum {
    CUT_BEFORE = 0, /* nothing of it */
    CUT_HALF = 1,   /* its first half */
    CUT_RANDOM = 2, /* some of its bits */
    CUT_BIT = 3,    /* all of it but one bit */
    CUT_MODES = 4,
} fake_cut;

typedef struct {
    hal hal;
    uint8_t flash[FLASH_BYTES];
    uint32_t operations; /* words programmed and sectors erased so far */
    uint32_t cut_at;     /* power goes in the operation of this number; UINT32_MAX: never */
    fake_cut cut_mode;
    jmp_buf power_cut; /* where the cut jumps to; set by the one who arms it */
    uint32_t random;
    uint32_t forbidden; /* first byte of the slot that must not be touched, 0: none */
    uint32_t violations;
    uint32_t stuck_address; /* bits of this byte that do not go to 0; a mask of 0: none are stuck */
    uint8_t stuck_mask;

    uint8_t to_device[8192], from_device[8192];
    size_t to_device_at, to_device_bytes, from_device_bytes;
    uint64_t now_us;
    bool gate_open;
    uint32_t gate_openings;
    bool reset_asked;
} fake;

/* Blank flash, and a HAL that leads to it. The caller owns the memory, also the arena's. */
void fake_init(fake *fake, void *arena, size_t arena_bytes);

/* Arms a cut in the n-th operation from now on. */
void fake_arm(fake *fake, uint32_t operation, fake_cut mode);

#endif
