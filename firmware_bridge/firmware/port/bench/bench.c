/* Runs an image's golden pictures on a bare processor: ticks, stack, and whether every bit was right.
 *
 * The image lies at IMAGE_AT, where QEMU's loader or a debugger has put it, so that one program serves all.
 * One line a picture: `picture SEED TICKS TAIL RIGHT`, ticks of the SysTick counter, TAIL those after the last
 * row was handed over; then `stack BYTES`. */
#include <string.h>

#include "../cortex_m/semihost.h"
#include "../cortex_m/systick.h"
#include "format.h"
#include "image.h"
#include "rowstream.h"

extern uint8_t stack_floor[], stack_top[]; /* of the linker script */

static uint32_t arena[384 * 1024 / 4];
static uint8_t row[RS_MAX_SIDE * 4];

enum { PAINT = 0x5a, IMAGE_BYTES_MOST = 16 << 20 };

static void print_number(uint32_t value) {
    char text[12];
    char *at = &text[sizeof text - 1];
    *at = 0;
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    semihost_print(at);
    semihost_print(" ");
}

__attribute__((noinline)) static void paint_stack(void) {
    uint8_t here;
    memset(stack_floor, PAINT, (size_t)((uintptr_t)&here - (uintptr_t)stack_floor) - 64);
}

static uint32_t stack_used(void) {
    const uint32_t all = (uint32_t)((uintptr_t)stack_top - (uintptr_t)stack_floor);
    uint32_t clean = 0;
    while (clean < all && stack_floor[clean] == PAINT) clean++;
    return all - clean;
}

static int run(rs_net *net, const rs_info *info, const rs_golden *golden) {
    int8_t outputs[RS_MAX_OUTPUTS];
    uint32_t ticks = 0, tail = 0, before = SYSTICK_COUNT;
    if (rs_begin(net) != RS_OK) return 0;
    ticks += systick_since(before);
    for (uint32_t y = 0; y < info->height_px; y++) {
        rs_golden_row(golden->seed, y, info->width_px, info->channels, row);
        before = SYSTICK_COUNT;
        if (rs_push_row(net, row) != RS_OK) return 0;
        tail = systick_since(before);
        ticks += tail;
    }
    before = SYSTICK_COUNT;
    if (rs_finish(net, outputs) != RS_OK) return 0;
    const uint32_t end = systick_since(before);
    int right = memcmp(outputs, golden->outputs, info->outputs) == 0;
    if (info->heat_rows > 0) {
        right &= rs_crc32(0, rs_heat(net), (size_t)info->heat_rows * info->heat_columns) == golden->heat_crc;
    }
    semihost_print("picture ");
    print_number(golden->seed);
    print_number(ticks + end);
    print_number(tail + end);
    print_number((uint32_t)right);
    semihost_print("\n");
    return right;
}

int main(void) {
    rs_net net;
    rs_info info;
    const uint8_t *image = (const uint8_t *)IMAGE_AT;
    systick_start();
    if (rs_parse(image, IMAGE_BYTES_MOST, &info) != RS_OK) return 2;
    if (rs_open(&net, image, IMAGE_BYTES_MOST, arena, sizeof arena) != RS_OK) return 3;
    const rs_golden *golden = (const rs_golden *)(const void *)(image + rs_header_of(image)->golden_offset);
    int right = 1;
    paint_stack();
    for (uint32_t i = 0; i < info.golden_count; i++) right &= run(&net, &info, &golden[i]);
    semihost_print("stack ");
    print_number(stack_used());
    semihost_print("\n");
    return right ? 0 : 1;
}
