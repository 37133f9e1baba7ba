/* SMP frames on a serial line: base64 lines in and out, length and CRC16 around the message.
 *
 * A line begins with 06 09 (first) or 04 14 (continuation) and ends with a newline; anything else
 * on the wire is text, for perf.c. A frame that is damaged in any way is dropped without an answer:
 * the sender asks again. Leaves out: what a message says (smp.c).
 */
#ifndef DIAGLINE_FRAME_H
#define DIAGLINE_FRAME_H

#include "hal.h"

typedef enum { FRAME_NONE = 0, FRAME_TEXT = 1, FRAME_MESSAGE = 2 } frame_event;

typedef struct {
    uint8_t *buffer; /* length u16 | message | CRC16, decoded */
    size_t capacity;
    size_t bytes;
    uint32_t dropped; /* frames begun and not understood */
    uint32_t bits;    /* up to three base64 characters that wait for the fourth */
    uint8_t state, characters, padding;
    bool open; /* a first line was seen and nothing was wrong since */
} frame_reader;

void frame_init(frame_reader *reader, uint8_t *buffer, size_t capacity);

/* Takes one byte off the wire. FRAME_TEXT: it is not part of a frame. FRAME_MESSAGE: a whole message
 * lies at `buffer + 2`, `frame_message_bytes` long, until the next byte is taken. */
frame_event frame_take(frame_reader *reader, uint8_t byte);
size_t frame_message_bytes(const frame_reader *reader);

/* Sends a message in lines of at most 127 bytes. */
void frame_send(const hal *hal, const uint8_t *message, size_t bytes);

#endif
