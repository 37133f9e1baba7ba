/* Rows ripple down the network: the deepest head that can make a row makes one, until none can.
 *
 * A head holds just the input rows that its kernel spans, so a row must be used before the next one is fed;
 * deepest first sees to that. Leaves out: the inner loops (kernels.h) and whether an image is one (image.c).
 */
#include "rowstream.h"

#include <string.h>

#include "kernels.h"

_Static_assert(sizeof(void *) != 4 || sizeof(rs_net) == 20, "as compile.py counts it");

static rs_kept *kept_of(const rs_net *net) {
    return (rs_kept *)(void *)net->arena;
}

static int8_t *outputs_of(const rs_net *net) {
    return (int8_t *)net->arena + rs_header_of(net->image)->step_count * sizeof(rs_kept);
}

static int8_t *heat_of(const rs_net *net) {
    return outputs_of(net) + RS_MAX_OUTPUTS;
}

static uint32_t across(const rs_step *head) {
    return (uint32_t)head->pad_left + head->in_width + head->pad_right;
}

rs_status rs_open(rs_net *net, const uint8_t *image, size_t size, void *arena, size_t arena_bytes) {
    const rs_status status = rs_check(image, size, NULL);
    if (status != RS_OK) return status;
    const rs_header *header = rs_header_of(image);
    if ((uintptr_t)arena % RS_ALIGNMENT != 0) return RS_ERR_ALIGN;
    if (arena_bytes < header->arena_bytes) return RS_ERR_RAM;
    net->image = image;
    net->arena = arena;
    net->begun = 0;
    uint32_t next = (uint32_t)(heat_of(net) - (int8_t *)net->arena);
    next += rs_aligned((uint32_t)header->heat_rows * header->heat_columns);
    const rs_step *steps = rs_steps_of(image);
    for (uint32_t i = 0; i < header->step_count; i++) {
        kept_of(net)[i].memory = next;
        next += rs_aligned((uint32_t)rs_kept_bytes(&steps[i]));
    }
    net->scratch = next;
    net->column = next + rs_aligned(header->scratch_bytes);
    return RS_OK;
}

rs_status rs_begin(rs_net *net) {
    const rs_header *header = rs_header_of(net->image);
    const rs_step *steps = rs_steps_of(net->image);
    for (uint32_t i = 0; i < header->step_count; i++) {
        const rs_step *step = &steps[i];
        rs_kept *kept = &kept_of(net)[i];
        kept->rows_in = kept->rows_out = 0;
        if (step->kind == RS_CONV || step->kind == RS_DEPTHWISE) {
            memset(net->arena + kept->memory, (uint8_t)step->pad_value, (size_t)rs_kept_bytes(step));
        } else if (step->kind == RS_POOL) {
            int32_t *sums = (int32_t *)(void *)(net->arena + kept->memory);
            for (uint32_t c = 0; c < step->in_channels; c++) sums[c] = step->method == RS_MAXIMUM ? INT8_MIN : 0;
        }
    }
    net->begun = 1;
    return RS_OK;
}

/* ---- heads ---- */

/* Input rows, padding below counted, that the head's next row takes. */
static uint32_t rows_needed(const rs_step *head, const rs_kept *kept) {
    if (head->kind == RS_CAMERA) return kept->rows_out + 1u;
    if (head->kind == RS_POOL) return head->in_height;
    return (uint32_t)kept->rows_out * head->stride_y + head->kernel_rows - head->pad_top;
}

static int ready(const rs_step *head, const rs_kept *kept) {
    if (kept->rows_out >= head->out_height) return 0;
    const uint32_t needed = rows_needed(head, kept);
    return kept->rows_in >= (needed < head->in_height ? needed : head->in_height);
}

/* Rows below the map: the input's zero point where a row would have been. */
static void pad_below(const rs_step *head, rs_kept *kept, int8_t *ring) {
    const uint32_t rows = head->kernel_rows, needed = rows_needed(head, kept);
    for (; kept->rows_in < needed; kept->rows_in++) {
        const uint32_t place = kept->rows_in % rows;
        if (head->kind == RS_CONV) {
            const uint32_t bytes = across(head) * head->in_channels;
            memset(ring + place * bytes, (uint8_t)head->pad_value, bytes);
        } else {
            const uint32_t cells = across(head) * head->in_channels;
            for (uint32_t i = 0; i < cells; i++) ring[i * rows + place] = head->pad_value;
        }
    }
}

/* The place in the ring of the next output row's top input row. */
static uint32_t top_place(const rs_step *head, const rs_kept *kept) {
    return rows_needed(head, kept) % head->kernel_rows;
}

static void conv_tile(const rs_net *net, const rs_step *head, const rs_kept *kept, uint32_t x, uint32_t pixels,
                      int8_t *out) {
    const uint32_t row_bytes = across(head) * head->in_channels;
    const uint32_t span = (uint32_t)head->kernel_columns * head->in_channels;
    const uint32_t step_bytes = (uint32_t)head->stride_x * head->in_channels;
    const int8_t *ring = (const int8_t *)net->arena + kept->memory;
    int16_t *spread = (int16_t *)(void *)(net->arena + net->column);
    int8_t *column = (int8_t *)(spread + RS_COLUMN_PX * head->pitch);
    const uint32_t top = top_place(head, kept);
    while (pixels > 0) {
        const uint32_t count = pixels < RS_COLUMN_PX ? pixels : RS_COLUMN_PX;
        for (uint32_t p = 0; p < count; p++) {
            const int8_t *from = ring + (x + p) * step_bytes;
            int8_t *to = column + p * head->pitch;
            uint32_t place = top;
            for (uint32_t y = 0; y < head->kernel_rows; y++) {
                memcpy(to, from + place * row_bytes, span);
                to += span;
                place = place + 1 == head->kernel_rows ? 0 : place + 1;
            }
        }
        rs_matrix(head, net->image, column, head->pitch, span * head->kernel_rows, count, spread, out);
        x += count;
        pixels -= count;
        out += count * head->out_channels;
    }
}

static void camera_tile(const uint8_t *from, uint32_t bytes, int8_t *to) {
    uint32_t i = 0;
    for (; i + 4 <= bytes; i += 4) {
        uint32_t four;
        memcpy(&four, from + i, 4);
        four ^= 0x80808080u;
        memcpy(to + i, &four, 4);
    }
    for (; i < bytes; i++) to[i] = (int8_t)(from[i] ^ 0x80u);
}

static void pool_result(const rs_net *net, const rs_step *head, const rs_kept *kept, int8_t *out) {
    const int32_t *sums = (const int32_t *)(const void *)(net->arena + kept->memory);
    const int32_t cells = head->in_width * head->in_height;
    for (uint32_t c = 0; c < head->in_channels; c++) {
        if (head->method == RS_MEAN) {
            out[c] = rs_requantise((uint32_t)sums[c], rs_channels_of(head, net->image), head);
        } else if (head->method == RS_AVERAGE) {
            out[c] = rs_clamped((sums[c] > 0 ? sums[c] + cells / 2 : sums[c] - cells / 2) / cells, head);
        } else {
            out[c] = rs_clamped(sums[c], head);
        }
    }
}

static void head_tile(const rs_net *net, const rs_step *head, const rs_kept *kept, const uint8_t *row, uint32_t x,
                      uint32_t pixels, int8_t *out) {
    if (head->kind == RS_CAMERA) {
        camera_tile(row + x * head->out_channels, pixels * head->out_channels, out);
    } else if (head->kind == RS_CONV) {
        conv_tile(net, head, kept, x, pixels, out);
    } else if (head->kind == RS_POOL) {
        pool_result(net, head, kept, out);
    } else {
        const uint32_t rows = head->kernel_rows;
        const int8_t *ring = (const int8_t *)net->arena + kept->memory;
        rs_depthwise(head, net->image, ring + x * head->stride_x * rows, across(head) * rows, top_place(head, kept),
                     pixels, out);
    }
}

/* ---- what a tile passes through ---- */

static void add(const rs_step *step, const uint8_t *image, const int8_t *in, const int8_t *other, uint32_t count,
                int8_t *out) {
    enum { LEFT = 20 }; /* as TFLite's int8 ADD */
    const rs_channel *channels = rs_channels_of(step, image);
    for (uint32_t i = 0; i < count; i++) {
        const int32_t a = (in[i] + channels[0].bias) * (1 << LEFT), b = (other[i] + channels[1].bias) * (1 << LEFT);
        const uint32_t sum = (uint32_t)rs_rescale(a, channels[0].multiplier, 0, channels[0].right) +
                             (uint32_t)rs_rescale(b, channels[1].multiplier, 0, channels[1].right);
        out[i] = rs_requantise(sum, &channels[2], step);
    }
}

static void feed(const rs_net *net, const rs_step *target, const rs_kept *kept, const int8_t *in, uint32_t x,
                 uint32_t pixels) {
    int8_t *memory = (int8_t *)net->arena + kept->memory;
    const uint32_t channels = target->in_channels;
    if (target->kind == RS_POOL) {
        int32_t *sums = (int32_t *)(void *)memory;
        for (uint32_t p = 0; p < pixels; p++, in += channels) {
            if (target->method == RS_MAXIMUM) {
                for (uint32_t c = 0; c < channels; c++) sums[c] = in[c] > sums[c] ? in[c] : sums[c];
            } else {
                for (uint32_t c = 0; c < channels; c++) sums[c] += in[c];
            }
        }
        return;
    }
    const uint32_t place = kept->rows_in % target->kernel_rows;
    const uint32_t at = target->pad_left + x;
    if (target->kind == RS_CONV) {
        memcpy(memory + (place * across(target) + at) * channels, in, pixels * channels);
    } else {
        const uint32_t rows = target->kernel_rows;
        rs_spread(in, pixels, channels, memory + at * rows + place, across(target) * rows, rows);
    }
}

/* Row `y` as it lies with KEEP, or in the ring of a head. */
static void take(const rs_net *net, const rs_step *from, const rs_kept *kept, uint32_t y, uint32_t x, uint32_t pixels,
                 int8_t *out) {
    const int8_t *memory = (const int8_t *)net->arena + kept->memory;
    const uint32_t channels = from->in_channels, rows = from->kernel_rows, place = y % rows;
    if (from->kind != RS_DEPTHWISE) {
        memcpy(out, memory + (place * across(from) + from->pad_left + x) * channels, pixels * channels);
        return;
    }
    for (uint32_t c = 0; c < channels; c++) {
        const int8_t *at = memory + (c * across(from) + from->pad_left + x) * rows + place;
        for (uint32_t p = 0; p < pixels; p++) out[p * channels + c] = at[p * rows];
    }
}

static void pass_tile(const rs_net *net, const rs_step *step, const rs_kept *kept, uint32_t y, uint32_t x,
                      uint32_t pixels) {
    const rs_step *steps = rs_steps_of(net->image);
    int8_t *scratch = (int8_t *)net->arena + net->scratch;
    const int8_t *in = scratch + step->in;
    int8_t *out = scratch + step->out;
    switch (step->kind) {
        case RS_POINTWISE:
            rs_matrix(step, net->image, in, step->in_channels, step->in_channels, pixels,
                      (int16_t *)(void *)(net->arena + net->column), out);
            break;
        case RS_ADD:
            add(step, net->image, in, scratch + step->other, pixels * step->out_channels, out);
            break;
        case RS_FEED:
            feed(net, &steps[step->target], &kept_of(net)[step->target], in, x, pixels);
            break;
        case RS_KEEP: {
            int8_t *line = (int8_t *)net->arena + kept->memory;
            memcpy(line + (y % step->kernel_rows * step->in_width + x) * step->in_channels, in,
                   pixels * step->in_channels);
            break;
        }
        case RS_TAKE:
            take(net, &steps[step->target], &kept_of(net)[step->target], y, x, pixels, out);
            break;
        case RS_HEAT:
            memcpy(heat_of(net) + y * step->in_width + x, in, pixels);
            break;
        default: /* RS_OUTPUT */
            memcpy(outputs_of(net), in, step->in_channels);
            break;
    }
}

/* One row of the segment that begins with steps[first]; returns the last step that was fed, or `first`. */
static uint32_t make_row(const rs_net *net, uint32_t first, const uint8_t *row) {
    const rs_step *steps = rs_steps_of(net->image), *head = &steps[first];
    const uint32_t count = rs_header_of(net->image)->step_count;
    rs_kept *kept = kept_of(net);
    const uint32_t y = kept[first].rows_out;
    uint32_t fed = first;
    if (head->kind == RS_CONV || head->kind == RS_DEPTHWISE) {
        pad_below(head, &kept[first], (int8_t *)net->arena + kept[first].memory);
    }
    for (uint32_t x = 0; x < head->out_width; x += head->tile_px) {
        const uint32_t left = head->out_width - x, pixels = left < head->tile_px ? left : head->tile_px;
        head_tile(net, head, &kept[first], row, x, pixels, (int8_t *)net->arena + net->scratch + head->out);
        for (uint32_t i = first + 1; i < count && !rs_is_head(&steps[i]); i++) {
            pass_tile(net, &steps[i], &kept[i], y, x, pixels);
        }
    }
    kept[first].rows_out++;
    for (uint32_t i = first + 1; i < count && !rs_is_head(&steps[i]); i++) {
        if (steps[i].kind != RS_FEED) continue;
        kept[steps[i].target].rows_in++;
        if (steps[i].target > fed) fed = steps[i].target;
    }
    return fed;
}

rs_status rs_push_row(rs_net *net, const uint8_t *row) {
    const rs_step *steps = rs_steps_of(net->image);
    rs_kept *kept = kept_of(net);
    if (!net->begun || kept[0].rows_in >= rs_header_of(net->image)->height_px) return RS_ERR_STATE;
    kept[0].rows_in++;
    uint32_t at = 0;
    for (;;) {
        if (rs_is_head(&steps[at]) && ready(&steps[at], &kept[at])) {
            at = make_row(net, at, row); /* nothing deeper than what it fed has changed */
        } else if (at > 0) {
            at--;
        } else {
            return RS_OK;
        }
    }
}

rs_status rs_finish(rs_net *net, int8_t *outputs) {
    const rs_header *header = rs_header_of(net->image);
    if (!net->begun || kept_of(net)[0].rows_in < header->height_px) return RS_ERR_STATE;
    memcpy(outputs, outputs_of(net), header->outputs);
    return RS_OK;
}

const int8_t *rs_heat(const rs_net *net) {
    return rs_header_of(net->image)->heat_rows == 0 ? NULL : heat_of(net);
}
