/* The model image byte for byte, as it lies in flash; firmware_bridge/image.py writes the same.
 *
 *   header | steps | tensors and golden answers, each at a multiple of 4 | SHA-256 of all before | HMAC-SHA256
 *
 * All little-endian. A network is a table of steps in segments. A segment begins with a *head*, which makes
 * one row of a map, a tile of at most `tile_px` pixels at a time; the steps after it pass that tile on
 * through the scratch until it is fed to the heads of later segments, kept for an ADD, or stored. Whatever
 * spans rows lies with the step it belongs to. Leaves out: how it is run (rowstream.c).
 */
#ifndef DIAGLINE_FORMAT_H
#define DIAGLINE_FORMAT_H

#include <stdint.h>

#include "rowstream.h"

enum { RS_VERSION = 1, RS_PITCH = 16, RS_SLACK = 32, RS_COLUMN_PX = 4, RS_MAX_SIDE = 4096, RS_MAX_STEPS = 1024 };
#define RS_MAGIC 0x4d494c44u /* "DLIM" */

/* What a step does. Heads are the first four. */
enum {
    RS_CAMERA = 0,    /* a camera row, uint8 - 128 */
    RS_CONV = 1,      /* its ring: kernel_rows x (pad_left + in_width + pad_right) x in_channels */
    RS_DEPTHWISE = 2, /* its ring: in_channels x (pad_left + in_width + pad_right) x kernel_rows */
    RS_POOL = 3,      /* its sums (or maxima): in_channels x int32; one output row of one pixel */
    RS_POINTWISE = 4, /* in -> out */
    RS_ADD = 5,       /* in + other -> out; params: two rs_channel for in and other, one for their sum */
    RS_FEED = 6,      /* in -> the ring or sums of the head `target` */
    RS_KEEP = 7,      /* in -> its line of kernel_rows rows, width and channels of `in` */
    RS_TAKE = 8,      /* the same row of KEEP `target`, or of the ring of head `target` -> out */
    RS_HEAT = 9,      /* in -> the heat map; one channel */
    RS_OUTPUT = 10,   /* in -> the outputs; one pixel */
    RS_KINDS = 11
};

/* How POOL reduces a channel: TFLite's AVERAGE_POOL_2D, MEAN and maximum. */
enum { RS_AVERAGE = 0, RS_MEAN = 1, RS_MAXIMUM = 2 };

typedef struct {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint32_t image_bytes, model_version;
    uint16_t width_px, height_px;
    uint8_t channels, outputs, judged, zero;
    float output_scale, heat_scale;
    int8_t output_zero_point, heat_zero_point, threshold, zero2;
    uint16_t heat_rows, heat_columns;
    uint32_t arena_bytes, ram_bytes, macs;
    uint32_t steps_offset, golden_offset;
    uint16_t step_count, golden_count;
    uint32_t scratch_bytes, column_bytes;
    uint8_t bundle_digest[RS_DIGEST_BYTES];
    char name[RS_NAME_BYTES];
} rs_header;

/* Sizes are of the step's own map; fields that a kind does not use are 0. `in`, `other` and `out` are places
 * in the scratch, (tile_px, channels) int8 each. */
typedef struct {
    uint8_t kind, kernel_rows, kernel_columns, stride_y;
    uint8_t stride_x, pad_top, pad_left, pad_right;
    uint16_t in_width, in_height, in_channels;
    uint16_t out_width, out_height, out_channels;
    uint16_t tile_px;   /* the same for all steps of a segment */
    uint16_t target;    /* index of a step */
    int8_t pad_value;   /* the input's zero point */
    int8_t zero_point;  /* the output's */
    int8_t least, most; /* the output is clamped to */
    uint32_t pitch;     /* bytes from one output's weights to the next; a multiple of RS_PITCH in CONV, POINTWISE */
    uint32_t weights, params; /* offsets in the image */
    uint32_t in, other, out;
    uint8_t method, zero[3]; /* of POOL */
} rs_step;

/* Requantisation of one output: TFLite's multiplier and shift, shift split into its two directions. The
 * bias holds the input's zero point. The compiler makes sure that |accumulator| << left stays below 2^30. */
typedef struct {
    int32_t bias;
    int32_t multiplier;
    uint8_t left, right; /* 0 .. 30, 0 .. 31 */
    uint16_t zero;
} rs_channel;

typedef struct {
    uint32_t seed;
    uint32_t heat_crc; /* of the heat map; 0 without one */
    int8_t outputs[RS_MAX_OUTPUTS];
} rs_golden;

_Static_assert(sizeof(rs_header) == 136, "as image.py");
_Static_assert(sizeof(rs_step) == 56, "as image.py");
_Static_assert(sizeof(rs_channel) == 12, "as image.py");
_Static_assert(sizeof(rs_golden) == 24, "as image.py");

static inline const rs_header *rs_header_of(const uint8_t *image) {
    return (const rs_header *)(const void *)image;
}

static inline const rs_step *rs_steps_of(const uint8_t *image) {
    return (const rs_step *)(const void *)(image + rs_header_of(image)->steps_offset);
}

static inline int rs_is_head(const rs_step *step) {
    return step->kind <= RS_POOL;
}

/* All that rs_parse checks but the SHA-256; `info` may be NULL. */
rs_status rs_check(const uint8_t *image, size_t size, rs_info *info);

/* What a step holds from row to row. */
typedef struct {
    uint32_t memory; /* offset in the arena of its ring, sums or line */
    uint16_t rows_in, rows_out;
} rs_kept;

static inline uint32_t rs_aligned(uint32_t bytes) {
    return (bytes + 3u) & ~3u;
}

/* Bytes that a step holds from row to row; a checked image's fit. */
static inline uint64_t rs_kept_bytes(const rs_step *step) {
    const uint64_t across = (uint64_t)step->pad_left + step->in_width + step->pad_right;
    switch (step->kind) {
        case RS_CONV:
        case RS_DEPTHWISE:
            return across * step->in_channels * step->kernel_rows;
        case RS_POOL:
            return 4u * (uint64_t)step->in_channels;
        case RS_KEEP:
            return (uint64_t)step->kernel_rows * step->in_width * step->in_channels;
        default:
            return 0;
    }
}

#endif
