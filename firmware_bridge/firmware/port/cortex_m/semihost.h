/* What a program under a debugger or QEMU asks its host: to print, to end it. Both need -semihosting. */
#ifndef DIAGLINE_SEMIHOST_H
#define DIAGLINE_SEMIHOST_H

#include <stdint.h>

static inline int32_t semihost(int32_t operation, const void *argument) {
    register int32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = argument;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static inline void semihost_print(const char *text) {
    (void)semihost(0x04, text); /* SYS_WRITE0 */
}

__attribute__((noreturn)) static inline void semihost_exit(int status) {
    const uint32_t block[2] = {0x20026, (uint32_t)status}; /* ADP_Stopped_ApplicationExit */
    (void)semihost(0x20, block);                           /* SYS_EXIT_EXTENDED */
    for (;;) {
    }
}

#endif
