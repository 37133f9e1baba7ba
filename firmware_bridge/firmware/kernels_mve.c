/* The inner loops for Helium (Cortex-M55): VMLADAV multiplies 16 bytes by 16 and adds all products to one sum.
 *
 * Four sums, of four pixels and one channel, make a vector, so that a channel's bias, multiplier and shifts
 * are scalars and four requantisations are one. VQRDMULH is TFLite's first rounding exactly; VRSHL rounds
 * ties upwards, so a negative value is lowered by one first. Bit-exact to kernels_generic.c. */
#include "kernels.h"

#if defined(RS_KERNELS_MVE)
#include <arm_mve.h>

enum { LANES = 16 };

/* A channel's requantisation as scalars. */
typedef struct {
    int32_t bias, multiplier, left, right;
} scale;

static inline scale scale_of(const rs_channel *channel) {
    return (scale){channel->bias, channel->multiplier, channel->left, -(int32_t)channel->right};
}

/* As in kernels_dsp.c: whether a negative value's tie may round either way. Clamping to int8 is separate. */
static inline int is_plain(const rs_step *step) {
    return step->least >= step->zero_point;
}

static inline __attribute__((always_inline)) int32x4_t requantised(int32x4_t sums, scale by, const rs_step *step,
                                                                   int plain) {
    int32x4_t value = vaddq_n_s32(sums, by.bias);
    if (by.left > 0) value = vshlq_r_s32(value, by.left);
    value = vqrdmulhq_n_s32(value, by.multiplier);
    if (!plain && by.right < 0) value = vaddq_s32(value, vshrq_n_s32(value, 31));
    value = vaddq_n_s32(vrshlq_n_s32(value, by.right), step->zero_point);
    value = vmaxq_s32(value, vdupq_n_s32(step->least));
    return vminq_s32(value, vdupq_n_s32(step->most));
}

static inline int32x4_t gathered(int32_t s0, int32_t s1, int32_t s2, int32_t s3) {
    int32x4_t sums = vdupq_n_s32(s0);
    sums = vsetq_lane_s32(s1, sums, 1);
    sums = vsetq_lane_s32(s2, sums, 2);
    return vsetq_lane_s32(s3, sums, 3);
}

static inline __attribute__((always_inline)) void four_pixels(const rs_step *step, const uint8_t *image,
                                                              const int8_t *in, uint32_t in_stride, uint32_t blocks,
                                                              uint32_t pixels, int8_t *out, int plain) {
    const uint32_t outputs = step->out_channels;
    const rs_channel *channel = rs_channels_of(step, image);
    const int8_t *weights = (const int8_t *)image + step->weights;
    const int8_t *in1 = in + (pixels > 1 ? in_stride : 0), *in2 = in1 + (pixels > 2 ? in_stride : 0);
    const int8_t *in3 = in2 + (pixels > 3 ? in_stride : 0);
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), outputs);
    const mve_pred16_t stored = vctp32q(pixels);
    for (const rs_channel *end = channel + outputs; channel < end; channel++, weights += step->pitch, out++) {
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (uint32_t d = 0; d < LANES * blocks; d += LANES) {
            const int8x16_t w = vldrbq_s8(weights + d);
            s0 = vmladavaq_s8(s0, vldrbq_s8(in + d), w);
            s1 = vmladavaq_s8(s1, vldrbq_s8(in1 + d), w);
            s2 = vmladavaq_s8(s2, vldrbq_s8(in2 + d), w);
            s3 = vmladavaq_s8(s3, vldrbq_s8(in3 + d), w);
        }
        const int32x4_t values = requantised(gathered(s0, s1, s2, s3), scale_of(channel), step, plain);
        vstrbq_scatter_offset_p_s32(out, places, values, stored);
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
                                                                 int plain) {
    const uint32_t outputs = step->out_channels, across = 3u * step->stride_x;
    const rs_channel *channel = rs_channels_of(step, image);
    const int8_t *weights = (const int8_t *)image + step->weights;
    const uint8x16_t order = vldrbq_u8(turned[top]);
    const mve_pred16_t nine = vctp8q(9);
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), outputs);
    for (uint32_t c = 0; c < outputs; c++, weights += 9, channel++, window += channel_stride) {
        const int8x16_t w = vldrbq_gather_offset_z_s8(weights, order, nine);
        const scale by = scale_of(channel);
        const int8_t *at = window;
        int8_t *to = out + c;
        for (int32_t left = (int32_t)pixels; left > 0; left -= 4) {
            const int32_t s0 = vmladavq_s8(vldrbq_s8(at), w);
            const int32_t s1 = vmladavq_s8(vldrbq_s8(at + across), w);
            const int32_t s2 = vmladavq_s8(vldrbq_s8(at + 2 * across), w);
            const int32_t s3 = vmladavq_s8(vldrbq_s8(at + 3 * across), w);
            const int32x4_t values = requantised(gathered(s0, s1, s2, s3), by, step, plain);
            vstrbq_scatter_offset_p_s32(to, places, values, vctp32q((uint32_t)left));
            at += 4 * across;
            to += 4 * outputs;
        }
    }
}

void rs_depthwise_mve(const rs_step *step, const uint8_t *image, const int8_t *window, uint32_t channel_stride,
                      uint32_t top, uint32_t pixels, int8_t *out) {
    if (step->kernel_rows != 3 || step->kernel_columns != 3) {
        rs_depthwise_generic(step, image, window, channel_stride, top, pixels, out);
    } else if (is_plain(step)) {
        three_by_three(step, image, window, channel_stride, top, pixels, out, 1);
    } else {
        three_by_three(step, image, window, channel_stride, top, pixels, out, 0);
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
