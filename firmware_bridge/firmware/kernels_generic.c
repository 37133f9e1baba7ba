/* The inner loops in plain C: what the fast ones are held against. */
#include "kernels.h"

void rs_matrix_generic(const rs_step *step, const uint8_t *image, const int8_t *in, uint32_t in_stride, uint32_t depth,
                       uint32_t pixels, int16_t *column, int8_t *out) {
    const rs_channel *channels = rs_channels_of(step, image);
    (void)column;
    for (uint32_t p = 0; p < pixels; p++) {
        const int8_t *pixel = in + p * in_stride;
        for (uint32_t n = 0; n < step->out_channels; n++) {
            const int8_t *weights = (const int8_t *)image + step->weights + n * step->pitch;
            int32_t sum = 0;
            for (uint32_t d = 0; d < depth; d++) sum += pixel[d] * weights[d];
            *out++ = rs_requantise((uint32_t)sum, &channels[n], step);
        }
    }
}

void rs_depthwise_generic(const rs_step *step, const uint8_t *image, const int8_t *window, uint32_t channel_stride,
                          uint32_t top, uint32_t pixels, int8_t *out) {
    const rs_channel *channels = rs_channels_of(step, image);
    const uint32_t rows = step->kernel_rows, columns = step->kernel_columns;
    for (uint32_t c = 0; c < step->out_channels; c++) {
        const int8_t *weights = (const int8_t *)image + step->weights + c * step->pitch;
        for (uint32_t p = 0; p < pixels; p++) {
            const int8_t *at = window + c * channel_stride + p * step->stride_x * rows;
            int32_t sum = 0;
            for (uint32_t x = 0; x < columns; x++) {
                for (uint32_t y = 0, place = top; y < rows; y++) {
                    sum += at[x * rows + place] * weights[x * rows + y];
                    place = place + 1 == rows ? 0 : place + 1;
                }
            }
            out[p * step->out_channels + c] = rs_requantise((uint32_t)sum, &channels[c], step);
        }
    }
}

void rs_spread_generic(const int8_t *in, uint32_t pixels, uint32_t channels, int8_t *ring, uint32_t channel_stride,
                       uint32_t rows) {
    for (uint32_t c = 0; c < channels; c++) {
        const int8_t *from = in + c;
        int8_t *to = ring + c * channel_stride;
        for (uint32_t p = 0; p < pixels; p++) {
            *to = *from;
            to += rows;
            from += channels;
        }
    }
}
