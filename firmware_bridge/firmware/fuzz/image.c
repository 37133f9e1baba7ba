/* libFuzzer: whatever bytes pose as a model image, checked, opened and run.
 *
 * The digest is put right first, or no damaged image would get further than it; the arena is exactly
 * as large as the image asks for, so that the sanitizer sees any byte beyond. Pictures and arenas that
 * take long are parsed alone.
 */
#include "../image.h"

#include <stdlib.h>
#include <string.h>

#include "../format.h"
#include "../sha256.h"

enum { LARGEST_ARENA = 1 << 18, MOST_PIXELS = 2048, MOST_MACS = 1 << 22 };

/* An upper bound of the multiply-accumulates; what the header says of them is anybody's word. */
static uint64_t work(const uint8_t *image, uint64_t most) {
    const rs_header *header = rs_header_of(image);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < header->step_count && sum <= most; i++) {
        const rs_step *step = &rs_steps_of(image)[i];
        sum += (uint64_t)step->out_width * step->out_height * step->out_channels *
               ((uint64_t)step->pitch + (uint64_t)step->kernel_rows * step->kernel_columns + 1u);
    }
    return sum;
}

static void run(const uint8_t *image, size_t bytes, const rs_info *info) {
    if (info->arena_bytes > LARGEST_ARENA || (uint32_t)info->width_px * info->height_px > MOST_PIXELS ||
        work(image, MOST_MACS) > MOST_MACS || info->golden_count > 4) {
        return;
    }
    void *arena = malloc(info->arena_bytes);
    uint8_t *row = malloc((size_t)info->width_px * info->channels);
    rs_net net;
    int8_t outputs[RS_MAX_OUTPUTS];
    if (rs_open(&net, image, bytes, arena, info->arena_bytes) == RS_OK) {
        (void)rs_selftest(&net, row, NULL);
        (void)rs_begin(&net);
        for (uint32_t y = 0; y <= info->height_px; y++) {
            rs_golden_row(5, y, info->width_px, info->channels, row);
            (void)rs_push_row(&net, row);
        }
        (void)rs_finish(&net, outputs);
        const int8_t *heat = rs_heat(&net);
        if (heat != NULL) (void)rs_crc32(0, heat, (size_t)info->heat_rows * info->heat_columns);
    }
    free(row);
    free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t *image = malloc(bytes + 1);
    rs_info info;
    memcpy(image, data, bytes);
    rs_header header;
    if (bytes >= sizeof header + 2 * RS_DIGEST_BYTES) {
        memcpy(&header, image, sizeof header);
        if (header.image_bytes <= bytes && header.image_bytes >= sizeof header + 2 * RS_DIGEST_BYTES) {
            rs_sha256 hash;
            rs_sha256_begin(&hash);
            rs_sha256_add(&hash, image, header.image_bytes - 2 * RS_DIGEST_BYTES);
            rs_sha256_end(&hash, image + header.image_bytes - 2 * RS_DIGEST_BYTES);
        }
    }
    (void)rs_check_mac(image, bytes, image, bytes < 32 ? bytes : 32);
    if (rs_parse(image, bytes, &info) == RS_OK) run(image, bytes, &info);
    free(image);
    return 0;
}
