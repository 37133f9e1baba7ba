/* The row-streaming engine: camera rows in, logit and heat map out, with the bits of TensorFlow Lite Micro.
 *
 * A model is read in place from its image in (memory-mapped) flash; every row ripples down the network as
 * far as it reaches, so no picture and no whole feature map is ever held. No heap, no globals: the caller
 * owns the image, the net and the arena. Leaves out: what is done with the answer, and where an image
 * comes from (image.h reads one; the device decides whether to trust it).
 */
#ifndef DIAGLINE_ROWSTREAM_H
#define DIAGLINE_ROWSTREAM_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    RS_OK = 0,
    RS_ERR_IMAGE = -1,   /* not an image of this version, or one of its offsets, lengths or shapes is wrong */
    RS_ERR_DIGEST = -2,  /* the image's SHA-256 does not match its bytes */
    RS_ERR_MAC = -3,     /* not signed with this key */
    RS_ERR_RAM = -4,     /* the arena is smaller than rs_info.arena_bytes */
    RS_ERR_ALIGN = -5,   /* the image or the arena is not at a multiple of RS_ALIGNMENT */
    RS_ERR_STATE = -6,   /* rows pushed without rs_begin, too many of them, or rs_finish before the last */
    RS_ERR_SELFTEST = -7 /* a golden picture gave other bits than the compiler promised */
} rs_status;

enum {
    RS_ALIGNMENT = 4, /* bytes, of image and arena */
    RS_DIGEST_BYTES = 32,
    RS_NAME_BYTES = 32,
    RS_MAX_OUTPUTS = 16
};

/* What an image says of itself. Pointers point into the image. */
typedef struct {
    const uint8_t *digest;        /* RS_DIGEST_BYTES, SHA-256 of all before it in the image */
    const uint8_t *bundle_digest; /* RS_DIGEST_BYTES, SHA-256 of the bundle's manifest; zeros where there was none */
    const char *name;             /* RS_NAME_BYTES, padded with zeros, always ends with one */
    uint32_t image_bytes;         /* digest and MAC included */
    uint32_t arena_bytes;         /* for rs_open */
    uint32_t ram_bytes;           /* arena and net: all but stack */
    uint32_t model_version;       /* of the model, for refusing a downgrade */
    uint32_t macs;                /* multiply-accumulates of one picture */
    float output_scale;           /* logit = output_scale * (logit_i8 - output_zero_point) */
    float heat_scale;             /* of a cell of the heat map, likewise */
    uint16_t width_px, height_px; /* 1 .. 4096 */
    uint16_t heat_rows, heat_columns; /* 0: no heat map */
    uint16_t golden_count;            /* pictures of the self-test */
    uint8_t channels;                 /* 1 .. 4 */
    uint8_t outputs;                  /* 1 .. RS_MAX_OUTPUTS values of rs_finish */
    uint8_t judged;                   /* which of them is the logit that the threshold judges */
    int8_t output_zero_point, heat_zero_point;
    int8_t threshold; /* REJECT where the judged logit_i8 >= threshold */
} rs_info;

/* A running network; 4-byte aligned as any struct is. Its fields belong to the engine. */
typedef struct {
    const uint8_t *image;
    uint8_t *arena;
    uint32_t scratch, column; /* offsets in the arena */
    uint32_t begun;
} rs_net;

/* Check structure, every offset, length and shape, and the SHA-256, and say what the image is.
 *   image  at a multiple of RS_ALIGNMENT, `size` bytes readable; may be longer than the image
 *   info   filled in only on RS_OK
 * Returns RS_OK, RS_ERR_IMAGE, RS_ERR_DIGEST or RS_ERR_ALIGN. Nothing of an image is used before. Takes one
 * hash over the image: do it when an image arrives and at boot, not per picture. */
rs_status rs_parse(const uint8_t *image, size_t size, rs_info *info);

/* Make ready to run an image that rs_parse has accepted (it is checked again, all but the SHA-256).
 *   arena  at a multiple of RS_ALIGNMENT, at least rs_info.arena_bytes; the engine's until the net is dropped
 * Returns RS_OK, RS_ERR_IMAGE, RS_ERR_RAM or RS_ERR_ALIGN. */
rs_status rs_open(rs_net *net, const uint8_t *image, size_t size, void *arena, size_t arena_bytes);

/* Begin a new picture; one that was not finished is dropped. */
rs_status rs_begin(rs_net *net);

/* Take the next camera row, from the top: (width_px, channels) uint8. Needed only during the call.
 * Returns RS_OK, or RS_ERR_STATE where height_px rows were pushed already. */
rs_status rs_push_row(rs_net *net, const uint8_t *row);

/* After the last row: the network's outputs, (rs_info.outputs,) int8.
 * Returns RS_OK, or RS_ERR_STATE where rows are missing. May be asked again until rs_begin. */
rs_status rs_finish(rs_net *net, int8_t *outputs);

/* The heat map, (heat_rows, heat_columns) int8 in row order, complete after rs_finish; NULL where the
 * network has none. It stays until rs_begin. */
const int8_t *rs_heat(const rs_net *net);

#endif
