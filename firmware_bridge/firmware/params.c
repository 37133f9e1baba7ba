/* What the factory wrote into the device; see params.h.
 *
 * 128 bytes, little-endian: magic "DLDP" | format u16 = 1 | flags u16, bit 0: there is a key | camera width u16,
 * height u16, channels u8 | 3 zeros | name 32, zero-padded | key 32 | 44 zeros | CRC-32 of the 124 bytes before.
 */
#include "params.h"

#include <string.h>

#include "flash_map.h"
#include "image.h"

static uint16_t get_u16(const uint8_t *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

void params_read(params *params, const hal *hal) {
    uint8_t raw[PARAMS_BYTES];
    memset(params, 0, sizeof *params);
    if (hal->flash_read(hal->context, FLASH_PARAMS, raw, sizeof raw) != 0) {
        params->damaged = true;
        return;
    }
    if (raw[0] == 0xFF && memcmp(raw, raw + 1, sizeof raw - 1) == 0) {
        return;
    }
    uint32_t crc = (uint32_t)get_u16(raw + 124) | (uint32_t)get_u16(raw + 126) << 16;
    if (memcmp(raw, "DLDP", 4) != 0 || get_u16(raw + 4) != 1 || crc != rs_crc32(0, raw, 124) || raw[47] != 0) {
        params->damaged = true;
        return;
    }
    params->has_key = (get_u16(raw + 6) & 1) != 0;
    params->width_px = get_u16(raw + 8);
    params->height_px = get_u16(raw + 10);
    params->channels = raw[12];
    memcpy(params->name, raw + 16, PARAMS_NAME_BYTES);
    memcpy(params->key, raw + 48, PARAMS_KEY_BYTES);
}
