/* From reset to main on any Cortex-M: vectors, FPU and Helium, .data and .bss. The linker script names the places. */
#include <stdint.h>

#include "semihost.h"

extern uint32_t stack_top, data_from, data_start, data_end, bss_start, bss_end;
int main(void);
void reset(void);
__attribute__((weak)) void fault(void);
__attribute__((weak)) void tick(void);

#define CPACR (*(volatile uint32_t *)0xe000ed88u)

void fault(void) {
    semihost_exit(1);
}

/* SysTick has gone round: for programs that ask for its interrupt. */
void tick(void) {
}

void reset(void) {
    CPACR |= 0xfu << 20; /* coprocessors 10 and 11: floating point, Helium */
    __asm volatile("dsb\n isb" ::: "memory");
    const uint32_t *from = &data_from;
    for (uint32_t *to = &data_start; to < &data_end; to++) *to = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end; to++) *to = 0;
    semihost_exit(main());
}

typedef struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors;

__attribute__((section(".vectors"), used)) static const vectors table = {
    &stack_top,
    {reset, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, tick},
};
