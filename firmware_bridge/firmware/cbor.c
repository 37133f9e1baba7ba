/* The part of CBOR that SMP needs; see cbor.h. */
#include "cbor.h"

#include <string.h>

enum { UINT = 0, NEGATIVE = 1, BYTES = 2, TEXT = 3, ARRAY = 4, MAP = 5, TAG = 6, SIMPLE = 7 };
enum { FALSE = 20, TRUE = 21, INDEFINITE = 31, BREAK = 0xFF };

#define UNTIL_BREAK UINT64_MAX

typedef struct {
    const uint8_t *at, *end;
} reader;

typedef struct {
    uint8_t major;
    uint8_t info;        /* the low five bits of the head */
    uint64_t argument;   /* length, count or value; UNTIL_BREAK for indefinite maps and arrays */
    const uint8_t *data; /* of strings */
} item;

/* The head of an item, and the bytes of a string; what a map or array holds follows. */
static bool read_item(reader *in, item *item) {
    if (in->at >= in->end) {
        return false;
    }
    uint8_t head = *in->at++;
    item->major = head >> 5;
    item->info = head & 31;
    item->argument = item->info;
    item->data = NULL;
    if (item->info >= 24 && item->info <= 27) {
        size_t bytes = (size_t)1 << (item->info - 24);
        if ((size_t)(in->end - in->at) < bytes) {
            return false;
        }
        item->argument = 0;
        for (size_t i = 0; i < bytes; i++) {
            item->argument = item->argument << 8 | *in->at++;
        }
    } else if (item->info == INDEFINITE) {
        item->argument = UNTIL_BREAK;
        return item->major == ARRAY || item->major == MAP || head == BREAK;
    } else if (item->info > 27) {
        return false;
    }
    if (item->major == BYTES || item->major == TEXT) {
        if (item->argument > (uint64_t)(in->end - in->at)) {
            return false;
        }
        item->data = in->at;
        in->at += (size_t)item->argument;
    } else if ((item->major == ARRAY || item->major == MAP) && item->argument > (uint64_t)(in->end - in->at)) {
        return false; /* every element takes a byte at least; so twice the count cannot overflow either */
    }
    return true;
}

static bool is_break(const item *item) {
    return item->major == SIMPLE && item->info == INDEFINITE;
}

/* What an item holds: nothing for most, `left[depth]` items for maps and arrays. */
static bool skip_rest(reader *in, const item *first) {
    uint64_t left[CBOR_DEPTH];
    int depth = -1;
    item item = *first;
    for (;;) {
        if (is_break(&item)) {
            if (depth < 0 || left[depth] != UNTIL_BREAK) {
                return false;
            }
            left[depth] = 0;
        } else if (item.major == ARRAY || item.major == MAP) {
            if (++depth == CBOR_DEPTH) {
                return false;
            }
            bool until_break = item.argument == UNTIL_BREAK;
            left[depth] = until_break ? UNTIL_BREAK : item.argument * (item.major == MAP ? 2u : 1u);
        } else if (item.major == TAG) {
            if (depth >= 0 && left[depth] != UNTIL_BREAK) {
                left[depth]++;
            } else if (depth < 0) {
                return false; /* nothing here is tagged */
            }
        }
        while (depth >= 0 && left[depth] == 0) {
            depth--;
        }
        if (depth < 0) {
            return true;
        }
        if (left[depth] != UNTIL_BREAK) {
            left[depth]--;
        }
        if (!read_item(in, &item)) {
            return false;
        }
    }
}

bool cbor_is_map(const cbor_map *map) {
    reader in = {map->data, map->data + map->bytes};
    item item;
    return read_item(&in, &item) && item.major == MAP && skip_rest(&in, &item) && in.at == in.end;
}

static bool find(const cbor_map *map, const char *key, item *value) {
    reader in = {map->data, map->data + map->bytes};
    item outer, name;
    if (!read_item(&in, &outer) || outer.major != MAP) {
        return false;
    }
    size_t key_bytes = strlen(key);
    for (uint64_t i = 0; i < outer.argument; i++) {
        if (!read_item(&in, &name) || is_break(&name) || !skip_rest(&in, &name) || !read_item(&in, value)) {
            return false;
        }
        if (name.major == TEXT && name.argument == key_bytes && memcmp(name.data, key, key_bytes) == 0) {
            return true;
        }
        if (!skip_rest(&in, value)) {
            return false;
        }
    }
    return false;
}

int cbor_u32(const cbor_map *map, const char *key, uint32_t *value) {
    item item;
    if (!find(map, key, &item)) {
        return 0;
    }
    if (item.major != UINT || item.argument > UINT32_MAX) {
        return -1;
    }
    *value = (uint32_t)item.argument;
    return 1;
}

int cbor_bool(const cbor_map *map, const char *key, bool *value) {
    item item;
    if (!find(map, key, &item)) {
        return 0;
    }
    if (item.major != SIMPLE || (item.info != FALSE && item.info != TRUE)) {
        return -1;
    }
    *value = item.info == TRUE;
    return 1;
}

static int find_string(const cbor_map *map, const char *key, uint8_t major, const uint8_t **data, size_t *bytes) {
    item item;
    if (!find(map, key, &item)) {
        return 0;
    }
    if (item.major != major) {
        return -1;
    }
    *data = item.data;
    *bytes = (size_t)item.argument;
    return 1;
}

int cbor_bytes(const cbor_map *map, const char *key, const uint8_t **data, size_t *bytes) {
    return find_string(map, key, BYTES, data, bytes);
}

int cbor_text(const cbor_map *map, const char *key, const uint8_t **data, size_t *bytes) {
    return find_string(map, key, TEXT, data, bytes);
}

static void put(cbor_writer *writer, const uint8_t *data, size_t bytes) {
    if (writer->overflow || bytes > writer->capacity - writer->bytes) {
        writer->overflow = true;
        return;
    }
    memcpy(writer->data + writer->bytes, data, bytes);
    writer->bytes += bytes;
}

static void put_head(cbor_writer *writer, uint8_t major, uint64_t argument) {
    uint8_t head[9];
    size_t bytes = argument < 24            ? 0
                   : argument <= UINT8_MAX  ? 1
                   : argument <= UINT16_MAX ? 2
                   : argument <= UINT32_MAX ? 4
                                            : 8;
    uint8_t info = bytes == 0 ? (uint8_t)argument : bytes == 1 ? 24 : bytes == 2 ? 25 : bytes == 4 ? 26 : 27;
    head[0] = (uint8_t)(major << 5 | info);
    for (size_t i = 0; i < bytes; i++) {
        head[1 + i] = (uint8_t)(argument >> (8 * (bytes - 1 - i)));
    }
    put(writer, head, 1 + bytes);
}

static void put_byte(cbor_writer *writer, uint8_t byte) {
    put(writer, &byte, 1);
}

void cbor_open_map(cbor_writer *writer) {
    put_byte(writer, MAP << 5 | INDEFINITE);
}

void cbor_open_array(cbor_writer *writer) {
    put_byte(writer, ARRAY << 5 | INDEFINITE);
}

void cbor_close(cbor_writer *writer) {
    put_byte(writer, BREAK);
}

void cbor_put_key(cbor_writer *writer, const char *key) {
    const size_t bytes = strlen(key);
    put_head(writer, TEXT, bytes);
    put(writer, (const uint8_t *)key, bytes);
}

void cbor_put_text(cbor_writer *writer, const char *key, const char *text) {
    cbor_put_key(writer, key);
    cbor_put_key(writer, text);
}

void cbor_put_string(cbor_writer *writer, const char *key, const uint8_t *text, size_t bytes) {
    cbor_put_key(writer, key);
    put_head(writer, TEXT, bytes);
    put(writer, text, bytes);
}

void cbor_put_bytes(cbor_writer *writer, const char *key, const void *data, size_t bytes) {
    cbor_put_key(writer, key);
    put_head(writer, BYTES, bytes);
    put(writer, data, bytes);
}

void cbor_put_int(cbor_writer *writer, const char *key, int64_t value) {
    cbor_put_key(writer, key);
    if (value >= 0) {
        put_head(writer, UINT, (uint64_t)value);
    } else {
        put_head(writer, NEGATIVE, (uint64_t)(-1 - value));
    }
}

void cbor_put_bool(cbor_writer *writer, const char *key, bool value) {
    cbor_put_key(writer, key);
    put_byte(writer, (uint8_t)(SIMPLE << 5 | (value ? TRUE : FALSE)));
}
