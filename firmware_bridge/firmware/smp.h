/* SMP (MCUmgr): echo, reset and parameters, the image group, and the device's own group 64.
 *
 * A message that is not well-formed gets an error or, where not even its header can be read, no
 * answer. Nothing in it is trusted: lengths, offsets and types are checked where they are used.
 * Leaves out: framing (frame.c).
 */
#ifndef DIAGLINE_SMP_H
#define DIAGLINE_SMP_H

#include "cbor.h"
#include "device.h"

enum { SMP_HEADER_BYTES = 8 };
enum { SMP_GROUP_OS = 0, SMP_GROUP_IMAGE = 1, SMP_GROUP_INSPECT = 64 };

/* Errors of every group, for what is wrong with the message itself. */
enum {
    SMP_OK = 0,
    SMP_EUNKNOWN = 1,
    SMP_ENOMEM = 2,
    SMP_EINVAL = 3,
    SMP_ENOENT = 5,
    SMP_EBADSTATE = 6,
    SMP_ENOTSUP = 8
};

/* Errors of group 64. */
enum {
    INSPECT_NO_MODEL = 1,  /* none runs */
    INSPECT_NOT_BEGUN = 2, /* no picture is being taken, or another one than this */
    INSPECT_ROWS = 3,      /* not a whole number of rows, more than the picture has, or rows are missing */
};

typedef struct {
    bool write;
    uint16_t group;
    uint8_t command;
    cbor_map map;
    cbor_writer out;      /* the map is open; the handler puts keys and values into it */
    uint16_t group_error; /* a number of the group's own errors, 0: none */
} smp_request;

/* Answers one message; the reply goes out at once. */
void smp_answer(device *device, const uint8_t *message, size_t bytes);

/* What a handler returns when its group refuses. */
int smp_fail(smp_request *request, uint16_t group_error);

/* Handlers of the groups. Return SMP_OK (also with group_error set) or an error of the message. */
int smp_image(device *device, smp_request *request);
int smp_inspect(device *device, smp_request *request);

#endif
