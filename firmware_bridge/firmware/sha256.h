/* SHA-256 (FIPS 180-4) and HMAC-SHA256 (RFC 2104), for images and the protocol. */
#ifndef DIAGLINE_SHA256_H
#define DIAGLINE_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t state[8];
    uint64_t bytes; /* taken so far */
    uint8_t block[64];
} rs_sha256;

void rs_sha256_begin(rs_sha256 *hash);
void rs_sha256_add(rs_sha256 *hash, const void *data, size_t size);
void rs_sha256_end(rs_sha256 *hash, uint8_t digest[32]);

/* HMAC-SHA256 of `size` bytes; key of any length. */
void rs_hmac_sha256(const uint8_t *key, size_t key_bytes, const void *data, size_t size, uint8_t mac[32]);

#endif
