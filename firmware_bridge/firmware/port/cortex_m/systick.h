/* The processor's 24-bit down counter, read often enough that it never goes round unseen. */
#ifndef DIAGLINE_SYSTICK_H
#define DIAGLINE_SYSTICK_H

#include <stdint.h>

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xe000e010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xe000e014u)
#define SYSTICK_COUNT (*(volatile uint32_t *)0xe000e018u)

static inline void systick_start(void) {
    SYSTICK_RELOAD = 0xffffffu;
    SYSTICK_COUNT = 0;
    SYSTICK_CONTROL = 5; /* on, the processor's clock, no interrupt */
}

/* An interrupt (startup.c's tick) every `ticks`. */
static inline void systick_start_rounds(uint32_t ticks) {
    SYSTICK_RELOAD = ticks - 1;
    SYSTICK_COUNT = 0;
    SYSTICK_CONTROL = 7;
}

static inline uint32_t systick_since(uint32_t before) {
    return (before - SYSTICK_COUNT) & 0xffffffu;
}

#endif
