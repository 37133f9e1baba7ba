/* SMP frames on a serial line; see frame.h. */
#include "frame.h"

enum { TEXT, START, CONTINUE, DATA, SKIP }; /* states of the reader */
enum {
    START_1 = 0x06,
    START_2 = 0x09,
    CONTINUE_1 = 0x04,
    CONTINUE_2 = 0x14,
    LENGTH_BYTES = 2,
    CRC_BYTES = 2,
    LINE_BYTES = 90, /* decoded: 2 + 120 characters + newline on the wire */
};

/* CRC16-XMODEM. */
static uint16_t crc16(const uint8_t *data, size_t bytes) {
    uint32_t crc = 0;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= (uint32_t)data[i] << 8;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc << 1 ^ (0x1021u & (0u - (crc >> 15 & 1u)))) & 0xFFFFu;
        }
    }
    return (uint16_t)crc;
}

void frame_init(frame_reader *reader, uint8_t *buffer, size_t capacity) {
    *reader = (frame_reader){.buffer = buffer, .capacity = capacity, .state = TEXT};
}

static size_t announced(const frame_reader *reader) {
    return (size_t)reader->buffer[0] << 8 | reader->buffer[1];
}

size_t frame_message_bytes(const frame_reader *reader) {
    return announced(reader) - CRC_BYTES;
}

static void drop(frame_reader *reader) {
    reader->dropped += reader->open;
    reader->open = false;
    reader->state = SKIP;
}

static int base64_value(uint8_t character) {
    if (character >= 'A' && character <= 'Z') {
        return character - 'A';
    }
    if (character >= 'a' && character <= 'z') {
        return character - 'a' + 26;
    }
    if (character >= '0' && character <= '9') {
        return character - '0' + 52;
    }
    return character == '+' ? 62 : character == '/' ? 63 : -1;
}

static void take_character(frame_reader *reader, uint8_t character) {
    int value = base64_value(character);
    if (character == '=' && reader->characters >= 2) {
        reader->padding++;
        value = 0;
    } else if (value < 0 || reader->padding > 0) {
        drop(reader);
        return;
    }
    reader->bits = reader->bits << 6 | (uint32_t)value;
    if (++reader->characters < 4) {
        return;
    }
    size_t bytes = 3u - reader->padding;
    if (bytes > reader->capacity - reader->bytes) {
        drop(reader);
        return;
    }
    for (size_t i = 0; i < bytes; i++) {
        reader->buffer[reader->bytes++] = (uint8_t)(reader->bits >> (16 - 8 * i));
    }
    reader->characters = 0;
    reader->bits = 0;
}

static frame_event end_line(frame_reader *reader) {
    reader->state = TEXT;
    if (reader->characters != 0 || reader->bytes < LENGTH_BYTES) {
        drop(reader);
        reader->state = TEXT;
        return FRAME_NONE;
    }
    size_t length = announced(reader);
    if (length > CRC_BYTES && reader->bytes < LENGTH_BYTES + length) {
        return FRAME_NONE; /* goes on in the next line */
    }
    if (length <= CRC_BYTES || reader->bytes > LENGTH_BYTES + length ||
        crc16(reader->buffer + LENGTH_BYTES, length) != 0) { /* the CRC of data and its CRC is 0 */
        drop(reader);
        reader->state = TEXT;
        return FRAME_NONE;
    }
    reader->open = false;
    return FRAME_MESSAGE;
}

static void begin_line(frame_reader *reader) {
    reader->state = DATA;
    reader->characters = 0;
    reader->padding = 0;
    reader->bits = 0;
}

frame_event frame_take(frame_reader *reader, uint8_t byte) {
    if (byte == START_1 || byte == CONTINUE_1) { /* in no base64 and no text: a line begins, whatever was before */
        reader->state = byte == START_1 ? START : CONTINUE;
        return FRAME_NONE;
    }
    switch (reader->state) {
        case START:
            if (byte != START_2) {
                reader->state = SKIP;
                return FRAME_NONE;
            }
            reader->dropped += reader->open;
            reader->open = true;
            reader->bytes = 0;
            begin_line(reader);
            return FRAME_NONE;
        case CONTINUE:
            if (byte != CONTINUE_2 || !reader->open) {
                drop(reader);
                return FRAME_NONE;
            }
            begin_line(reader);
            return FRAME_NONE;
        case DATA:
            if (byte == '\n') {
                return end_line(reader);
            }
            if (byte != '\r') {
                take_character(reader, byte);
            }
            return FRAME_NONE;
        case SKIP:
            reader->state = byte == '\n' ? TEXT : SKIP;
            return FRAME_NONE;
        default:
            return FRAME_TEXT;
    }
}

typedef struct {
    const hal *hal;
    uint8_t line[2 + LINE_BYTES / 3 * 4 + 1];
    size_t characters; /* in the line, the two marks included */
    uint32_t bits;
    size_t pending; /* bytes in `bits` */
} sender;

static void end_sent_line(sender *out) {
    out->line[out->characters] = '\n';
    out->hal->uart_write(out->hal->context, out->line, out->characters + 1);
    out->line[0] = CONTINUE_1;
    out->line[1] = CONTINUE_2;
    out->characters = 2;
}

static void send_group(sender *out) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (out->characters == sizeof out->line - 1) {
        end_sent_line(out);
    }
    uint32_t bits = out->bits << (8 * (3 - out->pending));
    for (size_t i = 0; i < 4; i++) {
        out->line[out->characters++] = i <= out->pending ? (uint8_t)alphabet[bits >> (18 - 6 * i) & 63] : '=';
    }
    out->bits = 0;
    out->pending = 0;
}

static void send_bytes(sender *out, const uint8_t *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        out->bits = out->bits << 8 | data[i];
        if (++out->pending == 3) {
            send_group(out);
        }
    }
}

void frame_send(const hal *hal, const uint8_t *message, size_t bytes) {
    size_t length = bytes + CRC_BYTES;
    const uint16_t crc = crc16(message, bytes);
    uint8_t head[LENGTH_BYTES] = {(uint8_t)(length >> 8), (uint8_t)length};
    uint8_t tail[CRC_BYTES] = {(uint8_t)(crc >> 8), (uint8_t)crc};
    sender out = {.hal = hal, .line = {START_1, START_2}, .characters = 2};
    send_bytes(&out, head, sizeof head);
    send_bytes(&out, message, bytes);
    send_bytes(&out, tail, sizeof tail);
    if (out.pending > 0) {
        send_group(&out);
    }
    end_sent_line(&out);
}
