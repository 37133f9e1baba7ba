/* libFuzzer: whatever bytes arrive as frames, and whatever bytes a frame holds as CBOR. */
#include "../frame.h"

#include <stdlib.h>
#include <string.h>

#include "../cbor.h"

static uint8_t sent[4096];
static size_t sent_bytes;

static void capture(void *context, const uint8_t *data, size_t bytes) {
    (void)context;
    if (bytes > sizeof sent - sent_bytes) abort();
    memcpy(sent + sent_bytes, data, bytes);
    sent_bytes += bytes;
}

static void read_map(const uint8_t *data, size_t bytes) {
    const cbor_map map = {data, bytes};
    static const char *const keys[] = {"off", "data", "len", "sha", "hash", "confirm", "d", ""};
    bool whole = cbor_is_map(&map);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t number;
        bool flag;
        const uint8_t *at;
        size_t count;
        (void)cbor_u32(&map, keys[i], &number);
        (void)cbor_bool(&map, keys[i], &flag);
        if (cbor_bytes(&map, keys[i], &at, &count) == 1 && (at < data || count > (size_t)(data + bytes - at))) abort();
        if (cbor_text(&map, keys[i], &at, &count) == 1 && (at < data || count > (size_t)(data + bytes - at))) abort();
    }
    (void)whole;
}

/* What we send, we understand. */
static void round_trip(const uint8_t *data, size_t bytes) {
    static uint8_t buffer[1100];
    if (bytes == 0 || bytes > 1000) return;
    const hal out = {.uart_write = capture};
    sent_bytes = 0;
    frame_send(&out, data, bytes);
    frame_reader reader;
    frame_init(&reader, buffer, sizeof buffer);
    for (size_t i = 0; i < sent_bytes; i++) {
        const frame_event event = frame_take(&reader, sent[i]);
        if ((event == FRAME_MESSAGE) != (i + 1 == sent_bytes)) abort();
    }
    if (frame_message_bytes(&reader) != bytes || memcmp(buffer + 2, data, bytes) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t *buffer = malloc(256); /* small, so that it is overrun if it can be */
    frame_reader reader;
    frame_init(&reader, buffer, 256);
    for (size_t i = 0; i < bytes; i++) {
        if (frame_take(&reader, data[i]) == FRAME_MESSAGE) read_map(buffer + 2, frame_message_bytes(&reader));
    }
    free(buffer);
    read_map(data, bytes);
    round_trip(data, bytes);
    return 0;
}
