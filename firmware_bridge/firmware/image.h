/* The model image around the network: who signed it, and the golden pictures it must answer right.
 *
 * rs_parse (rowstream.h) checks structure and SHA-256. Leaves out: where keys and slots are kept.
 */
#ifndef DIAGLINE_IMAGE_H
#define DIAGLINE_IMAGE_H

#include "rowstream.h"

/* Whether an image that rs_parse accepted was signed with `key` (HMAC-SHA256 over all before the MAC).
 *   key  key_bytes long; NULL and 0 on a device without a provisioned key, which takes an image with a MAC of
 *        zeros alone
 * Returns RS_OK or RS_ERR_MAC, in a time that does not depend on the MAC's bytes. */
rs_status rs_check_mac(const uint8_t *image, size_t size, const uint8_t *key, size_t key_bytes);

/* Run every golden picture and compare logits and heat map with what the compiler promised.
 *   net  opened; its picture is lost
 *   row  width_px * channels bytes, which the pictures are made in
 *   passed  how many pictures agreed before the first that did not; may be NULL
 * Returns RS_OK or RS_ERR_SELFTEST. */
rs_status rs_selftest(rs_net *net, uint8_t *row, uint32_t *passed);

/* Row `y` of the golden picture of a seed: width_px * channels bytes. Pictures are stated in PROTOCOL.md and
 * made alike by firmware_bridge/compiler/golden.py:
 *   seed 0, 1, 2  flat 0, 128, 255;  seed 3  (x + y + channel) mod 256
 *   else          xorshift32 (13, 17, 5), byte = its top 8 bits; begun at every row with
 *                 seed ^ ((y >> shift) * 0x9E3779B9), or 1 where that is 0, and one value for each run of
 *                 1 << shift pixels of a channel order; shift = seed & 7 */
void rs_golden_row(uint32_t seed, uint32_t y, uint32_t width_px, uint32_t channels, uint8_t *row);

/* CRC-32 (IEEE 802.3, as zlib's) of `size` bytes, begun with crc 0. */
uint32_t rs_crc32(uint32_t crc, const void *data, size_t size);

#endif
