/* SHA-256 as FIPS 180-4 section 6.2 states it, and HMAC as RFC 2104 does. */
#include "sha256.h"

#include <string.h>

static const uint32_t rounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t turned(uint32_t value, unsigned bits) {
    return (value >> bits) | (value << (32u - bits));
}

static void take_block(uint32_t state[8], const uint8_t block[64]) {
    uint32_t w[64], s[8];
    for (unsigned i = 0; i < 16; i++) {
        const uint8_t *at = block + 4 * i;
        w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    for (unsigned i = 16; i < 64; i++) {
        const uint32_t a = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ (w[i - 15] >> 3);
        const uint32_t b = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ (w[i - 2] >> 10);
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(s, state, sizeof s);
    for (unsigned i = 0; i < 64; i++) {
        const uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]);
        const uint32_t majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        const uint32_t a = s[7] + (turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25)) + choice + rounds[i] + w[i];
        const uint32_t b = (turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22)) + majority;
        memmove(s + 1, s, 7 * sizeof s[0]);
        s[4] += a;
        s[0] = a + b;
    }
    for (unsigned i = 0; i < 8; i++) state[i] += s[i];
}

void rs_sha256_begin(rs_sha256 *hash) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(hash->state, start, sizeof start);
    hash->bytes = 0;
}

void rs_sha256_add(rs_sha256 *hash, const void *data, size_t size) {
    const uint8_t *from = data;
    while (size > 0) {
        const size_t filled = hash->bytes % sizeof hash->block, room = sizeof hash->block - filled;
        const size_t count = size < room ? size : room;
        memcpy(hash->block + filled, from, count);
        hash->bytes += count;
        from += count;
        size -= count;
        if (count == room) take_block(hash->state, hash->block);
    }
}

void rs_sha256_end(rs_sha256 *hash, uint8_t digest[32]) {
    const uint64_t bits = hash->bytes * 8;
    static const uint8_t one = 0x80, zero = 0;
    rs_sha256_add(hash, &one, 1);
    while (hash->bytes % sizeof hash->block != 56) rs_sha256_add(hash, &zero, 1);
    uint8_t length[8];
    for (unsigned i = 0; i < 8; i++) length[i] = (uint8_t)(bits >> (56 - 8 * i));
    rs_sha256_add(hash, length, sizeof length);
    for (unsigned i = 0; i < 32; i++) digest[i] = (uint8_t)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
}

void rs_hmac_sha256(const uint8_t *key, size_t key_bytes, const void *data, size_t size, uint8_t mac[32]) {
    uint8_t block[64] = {0};
    rs_sha256 hash;
    if (key_bytes > sizeof block) {
        rs_sha256_begin(&hash);
        rs_sha256_add(&hash, key, key_bytes);
        rs_sha256_end(&hash, block);
    } else if (key_bytes > 0) {
        memcpy(block, key, key_bytes);
    }
    for (size_t i = 0; i < sizeof block; i++) block[i] ^= 0x36;
    rs_sha256_begin(&hash);
    rs_sha256_add(&hash, block, sizeof block);
    rs_sha256_add(&hash, data, size);
    rs_sha256_end(&hash, mac);
    for (size_t i = 0; i < sizeof block; i++) block[i] ^= 0x36 ^ 0x5c;
    rs_sha256_begin(&hash);
    rs_sha256_add(&hash, block, sizeof block);
    rs_sha256_add(&hash, mac, 32);
    rs_sha256_end(&hash, mac);
}
