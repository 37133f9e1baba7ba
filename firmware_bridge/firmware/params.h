/* What the factory wrote into the device: its name, its key, the camera it looks through.
 *
 * The firmware only reads it. Blank flash is a development device: no key, any camera. A sector that
 * is neither blank nor whole is a damaged one: such a device accepts no image, lest a provisioned
 * device lose its key and take anybody's.
 */
#ifndef DIAGLINE_PARAMS_H
#define DIAGLINE_PARAMS_H

#include "hal.h"

enum { PARAMS_BYTES = 128, PARAMS_NAME_BYTES = 32, PARAMS_KEY_BYTES = 32 };

typedef struct {
    bool damaged;
    bool has_key;
    char name[PARAMS_NAME_BYTES]; /* ends with a zero byte; empty on a development device */
    uint8_t key[PARAMS_KEY_BYTES];
    uint16_t width_px, height_px; /* of the camera; 0: any */
    uint8_t channels;             /* 0: any */
} params;

void params_read(params *params, const hal *hal);

#endif
