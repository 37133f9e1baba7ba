/* Whether some bytes are a model image: every offset, length and shape, before any is used.
 *
 * What passes here cannot make the engine read or write outside image and arena, whoever wrote it. Whether
 * its answers are right is the golden pictures' matter (golden.c).
 */
#include "image.h"

#include <string.h>

#include "format.h"
#include "sha256.h"

enum { TRAILER = 2 * RS_DIGEST_BYTES, MAX_DEPTH = 65535, MAX_CELLS = 1 << 23 };

/* `count` things of `bytes` each at `offset`, all before `end`. */
static int fits(uint64_t offset, uint64_t count, uint64_t bytes, uint64_t end) {
    return offset % 4 == 0 && offset <= end && count * bytes <= end - offset;
}

static int is_side(uint32_t side) {
    return side >= 1 && side <= RS_MAX_SIDE;
}

static int good_header(const rs_header *header, size_t size) {
    if (size < sizeof *header + TRAILER || header->magic != RS_MAGIC || header->version != RS_VERSION) return 0;
    if (header->header_bytes != sizeof *header || header->image_bytes > size || header->image_bytes % 4 != 0) return 0;
    if (header->image_bytes < sizeof *header + TRAILER) return 0;
    const uint32_t end = header->image_bytes - TRAILER;
    if (!is_side(header->width_px) || !is_side(header->height_px)) return 0;
    if (header->channels < 1 || header->channels > 4) return 0;
    if (header->outputs < 1 || header->outputs > RS_MAX_OUTPUTS || header->judged >= header->outputs) return 0;
    if ((header->heat_rows == 0) != (header->heat_columns == 0)) return 0;
    if (header->heat_rows > RS_MAX_SIDE || header->heat_columns > RS_MAX_SIDE) return 0;
    if (header->step_count < 2 || header->step_count > RS_MAX_STEPS) return 0;
    if (header->name[RS_NAME_BYTES - 1] != 0) return 0;
    return fits(header->steps_offset, header->step_count, sizeof(rs_step), end) &&
           fits(header->golden_offset, header->golden_count, sizeof(rs_golden), end);
}

/* One side of a window over a padded map. */
static int good_side(uint32_t in, uint32_t out, uint32_t kernel, uint32_t stride, uint32_t before, uint32_t after) {
    if (kernel < 1 || stride < 1 || before >= kernel || after >= kernel) return 0;
    return (uint64_t)(out - 1) * stride + kernel <= (uint64_t)before + in + after;
}

/* Weights and their channels: in the image, shifts that are shifts. */
static int good_filter(const rs_header *header, const rs_step *step, uint64_t depth) {
    const uint32_t end = header->image_bytes - TRAILER;
    if (step->kind == RS_CONV || step->kind == RS_POINTWISE) {
        if (step->pitch % RS_PITCH != 0 || depth > MAX_DEPTH) return 0;
        const uint64_t columns = step->kind == RS_CONV ? 3 : 2; /* spread (two bytes each), and gathered */
        if (columns * RS_COLUMN_PX * step->pitch > header->column_bytes) return 0;
    }
    return step->pitch >= depth && fits(step->weights, step->out_channels, step->pitch, end);
}

static int good_channels(const rs_header *header, const rs_step *step, uint32_t count) {
    if (!fits(step->params, count, sizeof(rs_channel), header->image_bytes - TRAILER)) return 0;
    const rs_channel *channels = (const rs_channel *)(const void *)((const uint8_t *)header + step->params);
    for (uint32_t i = 0; i < count; i++) {
        if (channels[i].left > 30 || channels[i].right > 31) return 0;
        if (step->kind == RS_ADD && (channels[i].bias < -128 || channels[i].bias > 128)) return 0;
    }
    return 1;
}

/* A (tile_px, channels) place in the scratch. */
static int good_place(const rs_header *header, const rs_step *step, uint32_t offset, uint32_t channels) {
    return fits(offset, step->tile_px, channels, header->scratch_bytes);
}

static int same_map(const rs_step *step) {
    return step->in_width == step->out_width && step->in_height == step->out_height;
}

static int good_head(const rs_header *header, const rs_step *step) {
    const uint64_t window = (uint64_t)step->kernel_rows * step->kernel_columns;
    if (!good_place(header, step, step->out, step->out_channels)) return 0;
    if (step->kind == RS_CAMERA) {
        return same_map(step) && step->in_width == header->width_px && step->in_height == header->height_px &&
               step->out_channels == header->channels;
    }
    if (step->kind == RS_POOL) {
        if (step->in_channels != step->out_channels || step->out_width != 1 || step->out_height != 1) return 0;
        if ((uint32_t)step->in_width * step->in_height > MAX_CELLS || step->method > RS_MAXIMUM) return 0;
        return step->method != RS_MEAN || good_channels(header, step, 1);
    }
    if (!good_side(step->in_width, step->out_width, step->kernel_columns, step->stride_x, step->pad_left,
                   step->pad_right) ||
        !good_side(step->in_height, step->out_height, step->kernel_rows, step->stride_y, step->pad_top,
                   step->kernel_rows - 1u)) {
        return 0;
    }
    if (step->kind == RS_DEPTHWISE && step->in_channels != step->out_channels) return 0;
    return good_filter(header, step, step->kind == RS_CONV ? window * step->in_channels : window) &&
           good_channels(header, step, step->out_channels);
}

/* A step after head `first`, which is of its segment. */
static int good_follower(const rs_header *header, const rs_step *steps, uint32_t first, uint32_t index) {
    const rs_step *step = &steps[index], *head = &steps[first], *target = &steps[step->target];
    if (!same_map(step) || step->in_width != head->out_width || step->in_height != head->out_height) return 0;
    if (step->tile_px != head->tile_px) return 0;
    if (step->kind != RS_TAKE && !good_place(header, step, step->in, step->in_channels)) return 0;
    const int out = good_place(header, step, step->out, step->out_channels);
    switch (step->kind) {
        case RS_POINTWISE:
            return out && good_filter(header, step, step->in_channels) &&
                   good_channels(header, step, step->out_channels);
        case RS_ADD:
            return out && good_place(header, step, step->other, step->in_channels) &&
                   step->in_channels == step->out_channels && good_channels(header, step, 3);
        case RS_FEED:
            return step->target < header->step_count && step->target > index && rs_is_head(target) &&
                   target->in_width == step->in_width && target->in_height == step->in_height &&
                   target->in_channels == step->in_channels;
        case RS_KEEP:
            return step->kernel_rows >= 1 && step->pad_left == 0 && step->pad_right == 0;
        case RS_TAKE:
            if (step->target >= header->step_count || target->in_width != step->in_width) return 0;
            if (target->kind != RS_KEEP && target->kind != RS_CONV && target->kind != RS_DEPTHWISE) return 0;
            return out && target->kernel_rows >= 1 && target->in_channels == step->out_channels;
        case RS_HEAT:
            return step->in_channels == 1 && step->in_width == header->heat_columns &&
                   step->in_height == header->heat_rows;
        case RS_OUTPUT:
            return step->in_width == 1 && step->in_height == 1 && step->in_channels == header->outputs;
        default:
            return 0;
    }
}

/* Exactly one step feeds a head, the camera apart. */
static int fed_once(const rs_header *header, const rs_step *steps, uint32_t head) {
    uint32_t feeds = 0;
    for (uint32_t i = 0; i < header->step_count; i++) feeds += steps[i].kind == RS_FEED && steps[i].target == head;
    return feeds == (head > 0);
}

static int good_steps(const rs_header *header) {
    const rs_step *steps = rs_steps_of((const uint8_t *)header);
    uint64_t arena = (uint64_t)header->step_count * sizeof(rs_kept) + RS_MAX_OUTPUTS;
    arena += rs_aligned((uint32_t)header->heat_rows * header->heat_columns);
    uint32_t first = 0;
    for (uint32_t i = 0; i < header->step_count; i++) {
        const rs_step *step = &steps[i];
        if (rs_is_head(step)) first = i;
        if ((step->kind == RS_CAMERA) != (i == 0)) return 0;
        if (!is_side(step->in_width) || !is_side(step->in_height) || !is_side(step->out_width)) return 0;
        if (!is_side(step->out_height) || step->tile_px < 1 || step->least > step->most) return 0;
        if (step->in_channels < 1 || step->out_channels < 1) return 0;
        if (rs_is_head(step) && !fed_once(header, steps, i)) return 0;
        if (rs_is_head(step) ? !good_head(header, step) : !good_follower(header, steps, first, i)) return 0;
        arena += (rs_kept_bytes(step) + 3u) & ~UINT64_C(3);
    }
    arena += (uint64_t)rs_aligned(header->scratch_bytes) + rs_aligned(header->column_bytes) + RS_SLACK;
    return header->scratch_bytes < INT32_MAX && header->column_bytes < INT32_MAX && arena == header->arena_bytes;
}

rs_status rs_check(const uint8_t *image, size_t size, rs_info *info) {
    if ((uintptr_t)image % RS_ALIGNMENT != 0) return RS_ERR_ALIGN;
    if (size < sizeof(rs_header)) return RS_ERR_IMAGE;
    const rs_header *header = rs_header_of(image);
    if (!good_header(header, size) || !good_steps(header)) return RS_ERR_IMAGE;
    if (info == NULL) return RS_OK;
    *info = (rs_info){
        .digest = image + header->image_bytes - TRAILER,
        .bundle_digest = header->bundle_digest,
        .name = header->name,
        .image_bytes = header->image_bytes,
        .arena_bytes = header->arena_bytes,
        .ram_bytes = header->ram_bytes,
        .model_version = header->model_version,
        .macs = header->macs,
        .output_scale = header->output_scale,
        .heat_scale = header->heat_scale,
        .width_px = header->width_px,
        .height_px = header->height_px,
        .heat_rows = header->heat_rows,
        .heat_columns = header->heat_columns,
        .golden_count = header->golden_count,
        .channels = header->channels,
        .outputs = header->outputs,
        .judged = header->judged,
        .output_zero_point = header->output_zero_point,
        .heat_zero_point = header->heat_zero_point,
        .threshold = header->threshold,
    };
    return RS_OK;
}

rs_status rs_parse(const uint8_t *image, size_t size, rs_info *info) {
    rs_info found;
    const rs_status status = rs_check(image, size, &found);
    if (status != RS_OK) return status;
    uint8_t digest[RS_DIGEST_BYTES];
    rs_sha256 hash;
    rs_sha256_begin(&hash);
    rs_sha256_add(&hash, image, found.image_bytes - TRAILER);
    rs_sha256_end(&hash, digest);
    if (memcmp(digest, found.digest, sizeof digest) != 0) return RS_ERR_DIGEST;
    *info = found;
    return RS_OK;
}

rs_status rs_check_mac(const uint8_t *image, size_t size, const uint8_t *key, size_t key_bytes) {
    if (size < sizeof(rs_header) + TRAILER || (uintptr_t)image % RS_ALIGNMENT != 0) return RS_ERR_MAC;
    const uint32_t image_bytes = rs_header_of(image)->image_bytes;
    if (image_bytes > size || image_bytes < sizeof(rs_header) + TRAILER) return RS_ERR_MAC;
    const uint32_t signed_bytes = image_bytes - RS_DIGEST_BYTES;
    uint8_t mac[RS_DIGEST_BYTES] = {0}, apart = 0;
    if (key_bytes > 0) rs_hmac_sha256(key, key_bytes, image, signed_bytes, mac);
    for (uint32_t i = 0; i < sizeof mac; i++) apart |= (uint8_t)(mac[i] ^ image[signed_bytes + i]);
    return apart == 0 ? RS_OK : RS_ERR_MAC;
}
