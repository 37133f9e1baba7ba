/* MLPerf Tiny's serial protocol: commands of at most 80 characters that end with '%'.
 *
 * The same inference as everywhere, timed by the device: for benchmarks, never for verdicts, so the
 * gate stays closed. Needs memory for a whole picture (hal.frame). Leaves out: energy mode.
 */
#ifndef DIAGLINE_PERF_H
#define DIAGLINE_PERF_H

#include <stddef.h>
#include <stdint.h>

enum { PERF_COMMAND_BYTES = 80 };

typedef struct {
    char command[PERF_COMMAND_BYTES + 1];
    size_t characters; /* more than PERF_COMMAND_BYTES: too long, answered as unknown */
    uint32_t expected; /* bytes that `db load` announced */
    uint32_t loaded;
} perf;

struct device;

/* The lines a device says at boot. */
void perf_greet(struct device *device);
/* Takes one character; at '%' the command is carried out and answered. */
void perf_take(struct device *device, uint8_t character);

#endif
