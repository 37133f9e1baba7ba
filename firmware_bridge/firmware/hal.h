/* The hardware as a few function pointers: all that a port has to supply.
 *
 * Leaves out: where things lie in flash (flash_map.h) and the size of the arena, which the port
 * states because only it knows its RAM.
 */
#ifndef DIAGLINE_HAL_H
#define DIAGLINE_HAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct hal {
    void *context; /* the port's own; given back as the first argument of every call */
    const char *board;

    /* Flash, addressed from the start of the region of flash_map.h; 0 or a negative error. */
    const uint8_t *flash; /* the same region, memory-mapped: weights are read in place */
    int (*flash_read)(void *context, uint32_t address, void *data, uint32_t bytes);
    /* Address and bytes are multiples of FLASH_WORD_BYTES; the words were erased before. */
    int (*flash_program)(void *context, uint32_t address, const void *data, uint32_t bytes);
    /* Address is the start of a sector; afterwards all of it reads 0xFF. */
    int (*flash_erase)(void *context, uint32_t address);

    /* Serial port: at most `bytes` that have arrived, 0 when none; write waits until all are out. */
    size_t (*uart_read)(void *context, uint8_t *data, size_t bytes);
    void (*uart_write)(void *context, const uint8_t *data, size_t bytes);
    /* Called when nothing is to be done; may sleep until a byte arrives, at most some milliseconds. */
    void (*idle)(void *context);

    uint64_t (*micros)(void *context); /* never runs backwards */
    void (*reset)(void *context);      /* boots again; does not return */
    /* The reject output. Not open, the part is rejected: a dead processor must read as not open. */
    void (*set_gate)(void *context, bool open);

    void *arena; /* RAM of the network: 16-byte aligned */
    size_t arena_bytes;
    uint8_t *frame; /* where one whole picture fits, for MLPerf Tiny's `db`; NULL when there is none */
    size_t frame_bytes;
} hal;

#endif
