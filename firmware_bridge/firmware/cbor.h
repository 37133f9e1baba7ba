/* The part of CBOR (RFC 8949) that SMP needs: maps with text keys, read in place; a bounded writer.
 *
 * The reader trusts no length: every head and string is checked against the bytes that are there.
 * Leaves out: floats, strings of indefinite length, nesting deeper than CBOR_DEPTH.
 */
#ifndef DIAGLINE_CBOR_H
#define DIAGLINE_CBOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CBOR_DEPTH = 6 };

typedef struct {
    const uint8_t *data;
    size_t bytes;
} cbor_map;

/* True when the bytes are one well-formed map and nothing else. Ask it before the getters. */
bool cbor_is_map(const cbor_map *map);

/* The value of a key of the outermost map. Returns 1 found, 0 absent, -1 there but of another type or too large. */
int cbor_u32(const cbor_map *map, const char *key, uint32_t *value);
int cbor_bool(const cbor_map *map, const char *key, bool *value);
/* Point into the map's own bytes. */
int cbor_bytes(const cbor_map *map, const char *key, const uint8_t **data, size_t *bytes);
int cbor_text(const cbor_map *map, const char *key, const uint8_t **data, size_t *bytes);

typedef struct {
    uint8_t *data;
    size_t capacity;
    size_t bytes;
    bool overflow; /* something did not fit; nothing after it was written */
} cbor_writer;

/* Maps and arrays are of indefinite length: opened, filled, closed. Keys and texts end with a zero byte. */
void cbor_open_map(cbor_writer *writer);
void cbor_open_array(cbor_writer *writer);
void cbor_close(cbor_writer *writer);
/* A key, for the map or array that is opened next; and a key with its value. */
void cbor_put_key(cbor_writer *writer, const char *key);
void cbor_put_text(cbor_writer *writer, const char *key, const char *text);
void cbor_put_string(cbor_writer *writer, const char *key, const uint8_t *text, size_t bytes);
void cbor_put_bytes(cbor_writer *writer, const char *key, const void *data, size_t bytes);
void cbor_put_int(cbor_writer *writer, const char *key, int64_t value);
void cbor_put_bool(cbor_writer *writer, const char *key, bool value);

#endif
