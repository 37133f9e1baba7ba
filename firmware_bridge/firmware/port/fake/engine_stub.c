/* Temporary, goes when the engine comes: takes anything that begins with "DLIM" (image bytes u16 at 68, version at 70).
 */
#include "image.h"
#include "sha256.h"
#include <string.h>
rs_status rs_check_mac(const uint8_t *i, size_t s, const uint8_t *k, size_t n)
{
    (void)i;
    (void)s;
    (void)k;
    (void)n;
    return RS_OK;
}
rs_status rs_selftest(rs_net *n, uint8_t *r, uint32_t *p)
{
    (void)n;
    (void)r;
    *p = 1;
    return RS_OK;
}
uint32_t rs_crc32(uint32_t crc, const void *d, size_t n)
{
    const uint8_t *p = d;
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int b = 0; b < 8; b++)
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1)));
    }
    return ~crc;
}
rs_status rs_parse(const uint8_t *i, size_t s, rs_info *f)
{
    (void)s;
    memset(f, 0, sizeof *f);
    if (memcmp(i, "DLIM", 4))
        return RS_ERR_IMAGE;
    f->digest = i + 4;
    f->bundle_digest = i + 36;
    f->name = "stub";
    f->image_bytes = (uint32_t)i[68] | (uint32_t)i[69] << 8;
    f->width_px = 4;
    f->height_px = 4;
    f->channels = 1;
    f->golden_count = 1;
    f->outputs = 1;
    f->model_version = i[70];
    return RS_OK;
}
rs_status rs_open(rs_net *n, const uint8_t *i, size_t s, void *a, size_t b)
{
    (void)n;
    (void)i;
    (void)s;
    (void)a;
    (void)b;
    return RS_OK;
}
rs_status rs_begin(rs_net *n)
{
    (void)n;
    return RS_OK;
}
rs_status rs_push_row(rs_net *n, const uint8_t *r)
{
    (void)n;
    (void)r;
    return RS_OK;
}
rs_status rs_finish(rs_net *n, int8_t *o)
{
    (void)n;
    o[0] = -3;
    return RS_OK;
}
const int8_t *rs_heat(const rs_net *n)
{
    (void)n;
    return 0;
}
static const uint32_t K[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};
static const uint32_t H[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                              0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
static uint32_t rr(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}
static void blk(rs_sha256 *h)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++) {
        const uint8_t *b = h->block + 4 * i;
        w[i] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + (rr(w[i - 15], 7) ^ rr(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (rr(w[i - 2], 17) ^ rr(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, h->state, 32);
    for (int i = 0; i < 64; i++) {
        uint32_t t1 =
            s[7] + (rr(s[4], 6) ^ rr(s[4], 11) ^ rr(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
        uint32_t t2 = (rr(s[0], 2) ^ rr(s[0], 13) ^ rr(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 28);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h->state[i] += s[i];
}
void rs_sha256_begin(rs_sha256 *h)
{
    memcpy(h->state, H, 32);
    h->bytes = 0;
}
void rs_sha256_add(rs_sha256 *h, const void *d, size_t n)
{
    const uint8_t *p = d;
    while (n--) {
        h->block[h->bytes++ % 64] = *p++;
        if (h->bytes % 64 == 0)
            blk(h);
    }
}
void rs_sha256_end(rs_sha256 *h, uint8_t d[32])
{
    uint64_t b = h->bytes * 8;
    uint8_t x = 0x80;
    rs_sha256_add(h, &x, 1);
    x = 0;
    while (h->bytes % 64 != 56)
        rs_sha256_add(h, &x, 1);
    for (int i = 7; i >= 0; i--) {
        x = (uint8_t)(b >> (8 * i));
        rs_sha256_add(h, &x, 1);
    }
    for (int i = 0; i < 32; i++)
        d[i] = (uint8_t)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}
