/* The inner loops for Helium (Cortex-M55): VMLADAV multiplies 16 bytes by 16 and adds all products to one sum.
 *
 * Four sums, of four pixels and one channel, make a vector, so that a channel's bias, multiplier and shifts
 * are scalars and four requantisations are one. VQRDMULH is TFLite's first rounding exactly; VRSHL rounds
 * ties upwards, so a negative value is lowered by one first. Bit-exact to kernels_generic.c. */
#include "kernels.h"

#if defined(RS_KERNELS_MVE)
#include <arm_mve.h>

enum { LANES = 16 };

/* What a step's outputs have in common, out of reach of the stores: a byte may alias anything. */
typedef struct {
    int32_t zero_point;
    int32x4_t least, most;
    uint32x4_t places; /* of four pixels' outputs */
} target;

static inline target target_of(const rs_step *step) {
    return (target){step->zero_point, vdupq_n_s32(step->least), vdupq_n_s32(step->most),
                    vmulq_n_u32(vidupq_n_u32(0, 1), step->out_channels)};
}

/* Whether no output below the zero point survives: then a negative value's tie may round either way. */
static inline int is_plain(const rs_step *step) {
    return step->least >= step->zero_point;
}

static inline __attribute__((always_inline)) int32x4_t requantised(int32x4_t sums, const rs_channel *channel,
                                                                   const target *to, int plain) {
    const int32_t right = -(int32_t)channel->right;
    int32x4_t value = vaddq_n_s32(sums, channel->bias);
    if (channel->left > 0) value = vshlq_r_s32(value, channel->left);
    value = vqrdmulhq_n_s32(value, channel->multiplier);
    if (!plain && right < 0) value = vaddq_s32(value, vshrq_n_s32(value, 31));
    value = vaddq_n_s32(vrshlq_n_s32(value, right), to->zero_point);
    return vminq_s32(vmaxq_s32(value, to->least), to->most);
}

/* Four sums as a vector: two instructions where GCC takes four. */
static inline int32x4_t gathered(int32_t s0, int32_t s1, int32_t s2, int32_t s3) {
    int32x4_t sums;
    __asm("vmov %q0[2], %q0[0], %1, %3\n\tvmov %q0[3], %q0[1], %2, %4"
          : "=&w"(sums)
          : "r"(s0), "r"(s1), "r"(s2), "r"(s3));
    return sums;
}

/* The sums of four pixels' inputs times one channel's weights. By hand: GCC adds up an address for each load,
 * where the load itself could move it on, and takes 17 instructions for 64 products where 10 do. */
static inline int32x4_t multiplied(const int8_t *weights, const int8_t *in0, const int8_t *in1, const int8_t *in2,
                                   const int8_t *in3, uint32_t blocks) {
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    __asm volatile(
        "dls lr, %[blocks]\n\t"
        "1:\n\t"
        "vldrb.8 q0, [%[weights]], #16\n\t"
        "vldrb.8 q1, [%[in0]], #16\n\t"
        "vmlava.s8 %[s0], q0, q1\n\t"
        "vldrb.8 q1, [%[in1]], #16\n\t"
        "vmlava.s8 %[s1], q0, q1\n\t"
        "vldrb.8 q1, [%[in2]], #16\n\t"
        "vmlava.s8 %[s2], q0, q1\n\t"
        "vldrb.8 q1, [%[in3]], #16\n\t"
        "vmlava.s8 %[s3], q0, q1\n\t"
        "le lr, 1b"
        : [s0] "+Te"(s0), [s1] "+Te"(s1), [s2] "+Te"(s2), [s3] "+Te"(s3), [weights] "+r"(weights), [in0] "+r"(in0),
          [in1] "+r"(in1), [in2] "+r"(in2), [in3] "+r"(in3)
        : [blocks] "r"(blocks)
        : "lr", "q0", "q1", "memory");
    return gathered(s0, s1, s2, s3);
}

static inline __attribute__((always_inline)) void four_pixels(const rs_step *step, const uint8_t *image,
                                                              const int8_t *in, uint32_t in_stride, uint32_t blocks,
                                                              uint32_t pixels, int8_t *out, int plain) {
    const target to = target_of(step);
    const uint32_t pitch = step->pitch;
    const int8_t *weights = (const int8_t *)image + step->weights;
    const int8_t *in1 = in + (pixels > 1 ? in_stride : 0), *in2 = in1 + (pixels > 2 ? in_stride : 0);
    const int8_t *in3 = in2 + (pixels > 3 ? in_stride : 0);
    const mve_pred16_t stored = vctp32q(pixels);
    const rs_channel *channel = rs_channels_of(step, image), *end = channel + step->out_channels;
    for (; channel < end; channel++, weights += pitch, out++) {
        const int32x4_t sums = multiplied(weights, in, in1, in2, in3, blocks);
        vstrbq_scatter_offset_p_s32(out, to.places, requantised(sums, channel, &to, plain), stored);
    }
}

void rs_matrix_mve(const rs_step *step, const uint8_t *image, const int8_t *in, uint32_t in_stride, uint32_t depth,
                   uint32_t pixels, int16_t *column, int8_t *out) {
    const uint32_t blocks = (depth + LANES - 1) / LANES;
    (void)column;
    while (pixels > 0) {
        const uint32_t count = pixels < RS_COLUMN_PX ? pixels : RS_COLUMN_PX;
        if (is_plain(step)) {
            four_pixels(step, image, in, in_stride, blocks, count, out, 1);
        } else {
            four_pixels(step, image, in, in_stride, blocks, count, out, 0);
        }
        in += count * in_stride;
        out += count * step->out_channels;
        pixels -= count;
    }
}

/* Where the weight for each byte of a 3x3 window lies, by the place of the window's top row. */
static const uint8_t turned[3][LANES] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8},
    {2, 0, 1, 5, 3, 4, 8, 6, 7},
    {1, 2, 0, 4, 5, 3, 7, 8, 6},
};

static inline __attribute__((always_inline)) void three_by_three(const rs_step *step, const uint8_t *image,
                                                                 const int8_t *window, uint32_t channel_stride,
                                                                 uint32_t top, uint32_t pixels, int8_t *out,
                                                                 uint32_t across, int plain) {
    const target to = target_of(step);
    const uint32_t outputs = step->out_channels;
    const int8_t *weights = (const int8_t *)image + step->weights;
    const uint8x16_t order = vldrbq_u8(turned[top]);
    const mve_pred16_t nine = vctp8q(9);
    const rs_channel *channel = rs_channels_of(step, image), *end = channel + outputs;
    for (; channel < end; weights += 9, channel++, window += channel_stride, out++) {
        const int8x16_t w = vldrbq_gather_offset_z_s8(weights, order, nine);
        const int8_t *at = window;
        int8_t *pixel = out;
        for (int32_t left = (int32_t)pixels; left > 0; left -= 4) {
            const int32_t s0 = vmladavq_s8(vldrbq_s8(at), w);
            const int32_t s1 = vmladavq_s8(vldrbq_s8(at + across), w);
            const int32_t s2 = vmladavq_s8(vldrbq_s8(at + 2 * across), w);
            const int32_t s3 = vmladavq_s8(vldrbq_s8(at + 3 * across), w);
            const int32x4_t values = requantised(gathered(s0, s1, s2, s3), channel, &to, plain);
            vstrbq_scatter_offset_p_s32(pixel, to.places, values, vctp32q((uint32_t)left));
            at += 4 * across;
            pixel += 4 * outputs;
        }
    }
}

void rs_depthwise_mve(const rs_step *step, const uint8_t *image, const int8_t *window, uint32_t channel_stride,
                      uint32_t top, uint32_t pixels, int8_t *out) {
    const uint32_t stride = step->stride_x;
    if (step->kernel_rows != 3 || step->kernel_columns != 3 || stride > 2) {
        rs_depthwise_generic(step, image, window, channel_stride, top, pixels, out);
    } else if (is_plain(step) && stride == 1) {
        three_by_three(step, image, window, channel_stride, top, pixels, out, 3, 1);
    } else if (is_plain(step)) {
        three_by_three(step, image, window, channel_stride, top, pixels, out, 6, 1);
    } else {
        three_by_three(step, image, window, channel_stride, top, pixels, out, 3 * stride, 0);
    }
}

void rs_spread_mve(const int8_t *in, uint32_t pixels, uint32_t channels, int8_t *ring, uint32_t channel_stride,
                   uint32_t rows) {
    const uint16x8_t places = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)channel_stride);
    if (channel_stride > UINT16_MAX / 8) {
        rs_spread_generic(in, pixels, channels, ring, channel_stride, rows);
        return;
    }
    for (uint32_t c = 0; c < channels; c += 8, in += 8, ring += 8 * channel_stride) {
        const mve_pred16_t there = vctp16q(channels - c);
        const int8_t *from = in;
        int8_t *to = ring;
        for (uint32_t p = pixels; p > 0; p--, from += channels, to += rows) {
            vstrbq_scatter_offset_p_s16(to, places, vldrbq_z_s16(from, there), there);
        }
    }
}
#endif
