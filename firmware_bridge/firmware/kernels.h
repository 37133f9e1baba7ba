/* The inner loops, in plain C, for the DSP extension (Cortex-M4, M7) and for Helium (Cortex-M55).
 *
 * The compiler's target chooses; RS_KERNELS_GENERIC asks for plain C on any. All give the same bits: those
 * of TFLite's double rounding, `rs_requantise` below. A fast file that has no loop of its own for a shape
 * calls the plain one. Leaves out: where rows lie (rowstream.c).
 */
#ifndef DIAGLINE_KERNELS_H
#define DIAGLINE_KERNELS_H

#include "format.h"

#if !defined(RS_KERNELS_GENERIC) && defined(__ARM_FEATURE_MVE)
#define RS_KERNELS_MVE 1
#elif !defined(RS_KERNELS_GENERIC) && defined(__ARM_FEATURE_DSP)
#define RS_KERNELS_DSP 1
#endif

/* out[p][n] = requantised sum over d of in[p][d] * weights[n][d], for `pixels` p and the step's channels n.
 *   in       (pixels, depth) int8, rows `in_stride` bytes apart; up to RS_SLACK bytes after the last are read
 *   weights  of the step: zeros from depth to pitch
 *   column   4 * pitch * 2 bytes, 4-byte aligned, to spread pixels in
 *   out      (pixels, out_channels) int8 */
typedef void rs_matrix_kernel(const rs_step *step, const uint8_t *image, const int8_t *in, uint32_t in_stride,
                              uint32_t depth, uint32_t pixels, int16_t *column, int8_t *out);

/* One output row's tile of a depthwise convolution.
 *   window  the first window of channel 0: its kernel_columns * kernel_rows bytes, column after column;
 *           the next pixel's lies stride_x * kernel_rows further, the next channel's channel_stride
 *   top     which place of each column holds the window's top row
 *   out     (pixels, out_channels) int8 */
typedef void rs_depthwise_kernel(const rs_step *step, const uint8_t *image, const int8_t *window,
                                 uint32_t channel_stride, uint32_t top, uint32_t pixels, int8_t *out);

/* ring[c * channel_stride + p * rows] = in[p][c]: a row spread over the columns of a depthwise's ring. */
typedef void rs_spread_kernel(const int8_t *in, uint32_t pixels, uint32_t channels, int8_t *ring,
                              uint32_t channel_stride, uint32_t rows);

rs_matrix_kernel rs_matrix_generic, rs_matrix_dsp, rs_matrix_mve;
rs_depthwise_kernel rs_depthwise_generic, rs_depthwise_dsp, rs_depthwise_mve;
rs_spread_kernel rs_spread_generic, rs_spread_mve;

#if defined(RS_KERNELS_MVE)
#define rs_matrix rs_matrix_mve
#define rs_depthwise rs_depthwise_mve
#define rs_spread rs_spread_mve
#elif defined(RS_KERNELS_DSP)
#define rs_matrix rs_matrix_dsp
#define rs_depthwise rs_depthwise_dsp
#define rs_spread rs_spread_generic
#else
#define rs_matrix rs_matrix_generic
#define rs_depthwise rs_depthwise_generic
#define rs_spread rs_spread_generic
#endif

static inline const rs_channel *rs_channels_of(const rs_step *step, const uint8_t *image) {
    return (const rs_channel *)(const void *)(image + step->params);
}

/* Multiply by multiplier / 2^31 * 2^(left - right) as TFLite Micro does, rounding twice: to nearest with ties
 * upwards after the multiplication, to nearest with ties away from zero after the shift. */
static inline int32_t rs_rescale(int32_t value, int32_t multiplier, uint32_t left, uint32_t right) {
    const int64_t shifted = (int32_t)((uint32_t)value << left);
    const int32_t high = (int32_t)((shifted * multiplier + (INT64_C(1) << 30)) >> 31);
    const int32_t mask = (int32_t)((UINT32_C(1) << right) - 1u);
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0));
}

static inline int8_t rs_clamped(int64_t value, const rs_step *step) {
    return (int8_t)(value < step->least ? step->least : value > step->most ? step->most : value);
}

/* An accumulator without its bias to the step's int8. */
static inline int8_t rs_requantise(uint32_t sum, const rs_channel *channel, const rs_step *step) {
    const int32_t value = (int32_t)(sum + (uint32_t)channel->bias);
    return rs_clamped((int64_t)rs_rescale(value, channel->multiplier, channel->left, channel->right) + step->zero_point,
                      step);
}

#endif
