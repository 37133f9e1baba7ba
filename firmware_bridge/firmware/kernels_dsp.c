/* The inner loops for Cortex-M4 and M7: SMLAD multiplies two pairs of 16 bits and adds both products.
 *
 * Bytes are spread to pairs with SXTB16, which takes every other byte; inputs and weights are spread alike,
 * so the order does not matter. Requantisation is SMMULR (a doubled product, rounded, high half), which is
 * TFLite's first rounding exactly. Bit-exact to kernels_generic.c. */
#include "kernels.h"

#if defined(RS_KERNELS_DSP)
#include <arm_acle.h>
#include <string.h>

static inline int32_t multiply_high_rounded(int32_t a, int32_t b) {
    int32_t high;
    __asm("smmulr %0, %1, %2" : "=r"(high) : "r"(a), "r"(b));
    return high;
}

static inline int8_t saturated(int32_t value) {
    int32_t byte;
    __asm("ssat %0, #8, %1" : "=r"(byte) : "r"(value));
    return (int8_t)byte;
}

static inline uint32_t four(const int8_t *from) {
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

static inline uint32_t even(uint32_t bytes) {
    return (uint32_t)__sxtb16((int8x4_t)bytes);
}

static inline uint32_t odd(uint32_t bytes) {
    uint32_t pair;
    __asm("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(bytes));
    return pair;
}

static inline int32_t multiply_add(uint32_t a, uint32_t b, int32_t sum) {
    return __smlad((int16x2_t)a, (int16x2_t)b, sum);
}

/* A channel's requantisation in registers. */
typedef struct {
    int32_t multiplier, left, right, half;
} scale;

static inline scale scale_of(const rs_channel *channel) {
    const int32_t half = (int32_t)((UINT32_C(1) << channel->right) >> 1);
    return (scale){channel->multiplier, channel->left + 1, channel->right, half};
}

/* Whether no output below the zero point survives and int8's own ends are the clamp: then a negative value's
 * tie may round either way, and SSAT is the whole clamp. */
static inline int is_plain(const rs_step *step) {
    return step->least == INT8_MIN && step->most == INT8_MAX && step->zero_point == INT8_MIN;
}

static inline __attribute__((always_inline)) int8_t requantised(int32_t sum, scale by, const rs_step *step, int plain) {
    int32_t high = multiply_high_rounded((int32_t)((uint32_t)sum << by.left), by.multiplier);
    if (plain) return saturated(((high + by.half) >> by.right) + INT8_MIN);
    if (by.right > 0) high += high >> 31; /* ties away from zero */
    const int32_t value = ((high + by.half) >> by.right) + step->zero_point;
    return (int8_t)(value < step->least ? step->least : value > step->most ? step->most : value);
}

/* Four pixels' inputs as pairs: column[group][pixel] holds the even, then the odd bytes of four inputs. */
static void spread(const int8_t *in, uint32_t in_stride, uint32_t groups, uint32_t pixels, uint32_t *column) {
    for (uint32_t p = 0; p < RS_COLUMN_PX; p++) {
        const int8_t *from = in + (p < pixels ? p : pixels - 1) * in_stride;
        uint32_t *to = column + 2 * p;
        for (uint32_t g = groups; g > 0; g--) {
            const uint32_t bytes = four(from);
            to[0] = even(bytes);
            to[1] = odd(bytes);
            to += 2 * RS_COLUMN_PX;
            from += 4;
        }
    }
}

/* sums[p] = bias + column[.][p] * weights. By hand: GCC loads the eight pairs of a group one by one, where two
 * LDM do, and takes 24 instructions for 16 products where 15 do. */
static inline __attribute__((always_inline)) void multiply(const uint32_t *column, const int8_t *weights,
                                                           uint32_t groups, int32_t bias, int32_t sums[RS_COLUMN_PX]) {
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias;
    uint32_t low, high;
    __asm volatile(
        "1:\n\t"
        "ldr %[high], [%[weights]], #4\n\t"
        "ldmia %[column]!, {r4, r5, r6, r8}\n\t"
        "sxtb16 %[low], %[high]\n\t"
        "sxtb16 %[high], %[high], ror #8\n\t"
        "smlad %[s0], r4, %[low], %[s0]\n\t"
        "smlad %[s1], r6, %[low], %[s1]\n\t"
        "smlad %[s0], r5, %[high], %[s0]\n\t"
        "smlad %[s1], r8, %[high], %[s1]\n\t"
        "ldmia %[column]!, {r4, r5, r6, r8}\n\t"
        "subs %[groups], %[groups], #1\n\t"
        "smlad %[s2], r4, %[low], %[s2]\n\t"
        "smlad %[s3], r6, %[low], %[s3]\n\t"
        "smlad %[s2], r5, %[high], %[s2]\n\t"
        "smlad %[s3], r8, %[high], %[s3]\n\t"
        "bne 1b"
        : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [column] "+r"(column), [weights] "+r"(weights),
          [groups] "+r"(groups), [low] "=&r"(low), [high] "=&r"(high)
        :
        : "r4", "r5", "r6", "r8", "cc", "memory");
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

static inline __attribute__((always_inline)) void four_pixels(const rs_step *step, const uint8_t *image,
                                                              const uint32_t *column, uint32_t groups, uint32_t pixels,
                                                              int8_t *out, int plain) {
    const uint32_t outputs = step->out_channels;
    const rs_channel *channel = rs_channels_of(step, image);
    const int8_t *row = (const int8_t *)image + step->weights;
    for (const rs_channel *end = channel + outputs; channel < end; channel++, row += step->pitch, out++) {
        int32_t sums[RS_COLUMN_PX];
        multiply(column, row, groups, channel->bias, sums);
        const scale by = scale_of(channel);
        out[0] = requantised(sums[0], by, step, plain);
        if (pixels > 1) out[outputs] = requantised(sums[1], by, step, plain);
        if (pixels > 2) out[2 * outputs] = requantised(sums[2], by, step, plain);
        if (pixels > 3) out[3 * outputs] = requantised(sums[3], by, step, plain);
    }
}

void rs_matrix_dsp(const rs_step *step, const uint8_t *image, const int8_t *in, uint32_t in_stride, uint32_t depth,
                   uint32_t pixels, int16_t *column, int8_t *out) {
    uint32_t *pairs = (uint32_t *)(void *)column;
    const uint32_t groups = (depth + 3) / 4;
    while (pixels > 0) {
        const uint32_t count = pixels < RS_COLUMN_PX ? pixels : RS_COLUMN_PX;
        spread(in, in_stride, groups, count, pairs);
        if (is_plain(step)) {
            four_pixels(step, image, pairs, groups, count, out, 1);
        } else {
            four_pixels(step, image, pairs, groups, count, out, 0);
        }
        in += count * in_stride;
        out += count * step->out_channels;
        pixels -= count;
    }
}

/* The nine weights of a 3x3 channel as the ring's bytes lie: rows turned so that the top one meets its place. */
typedef struct {
    uint32_t even0, odd0, even1, odd1;
    int32_t last;
} nine;

static inline __attribute__((always_inline)) nine turned(const int8_t *weights, uint32_t top) {
    int8_t at[12] = {0};
    for (uint32_t x = 0; x < 9; x += 3) {
        for (uint32_t place = 0; place < 3; place++) at[x + place] = weights[x + (place + 3 - top) % 3];
    }
    return (nine){even(four(at)), odd(four(at)), even(four(at + 4)), odd(four(at + 4)), at[8]};
}

static inline __attribute__((always_inline)) void three_by_three(const rs_step *step, const uint8_t *image,
                                                                 const int8_t *window, uint32_t channel_stride,
                                                                 uint32_t top, uint32_t pixels, int8_t *out,
                                                                 int plain) {
    const rs_channel *channel = rs_channels_of(step, image);
    const int8_t *weights = (const int8_t *)image + step->weights;
    const uint32_t outputs = step->out_channels, across = 3u * step->stride_x;
    for (uint32_t c = 0; c < outputs; c++, weights += 9, channel++, window += channel_stride) {
        const nine w = top == 0 ? turned(weights, 0) : top == 1 ? turned(weights, 1) : turned(weights, 2);
        const scale by = scale_of(channel);
        const int32_t bias = channel->bias;
        const int8_t *at = window;
        int8_t *to = out + c;
        for (uint32_t p = pixels; p > 0; p--, at += across, to += outputs) {
            const uint32_t first = four(at), second = four(at + 4);
            int32_t sum = multiply_add(even(first), w.even0, bias);
            sum = multiply_add(odd(first), w.odd0, sum);
            sum = multiply_add(even(second), w.even1, sum);
            sum = multiply_add(odd(second), w.odd1, sum);
            *to = requantised(sum + at[8] * w.last, by, step, plain);
        }
    }
}

void rs_depthwise_dsp(const rs_step *step, const uint8_t *image, const int8_t *window, uint32_t channel_stride,
                      uint32_t top, uint32_t pixels, int8_t *out) {
    if (step->kernel_rows != 3 || step->kernel_columns != 3) {
        rs_depthwise_generic(step, image, window, channel_stride, top, pixels, out);
    } else if (is_plain(step)) {
        three_by_three(step, image, window, channel_stride, top, pixels, out, 1);
    } else {
        three_by_three(step, image, window, channel_stride, top, pixels, out, 0);
    }
}
#endif
