/* SMP: the header, the reply, and the OS group; see smp.h. */
#include "smp.h"

#include <string.h>

enum { OP_READ = 0, OP_WRITE = 2 };
enum { OS_ECHO = 0, OS_RESET = 5, OS_PARAMS = 6 };
enum { ECHO_BYTES = 512 };

int smp_fail(smp_request *request, uint16_t group_error) {
    request->group_error = group_error;
    return SMP_OK;
}

static int os_echo(smp_request *request) {
    const uint8_t *text;
    size_t bytes;
    if (cbor_text(&request->map, "d", &text, &bytes) != 1 || bytes > ECHO_BYTES) {
        return SMP_EINVAL;
    }
    cbor_put_string(&request->out, "r", text, bytes);
    return SMP_OK;
}

static int os_group(device *device, smp_request *request) {
    switch (request->command) {
        case OS_ECHO:
            return os_echo(request);
        case OS_RESET:
            if (!request->write) {
                return SMP_ENOTSUP;
            }
            device->reset_asked = true;
            return SMP_OK;
        case OS_PARAMS:
            cbor_put_int(&request->out, "buf_size", DEVICE_RX_BYTES);
            cbor_put_int(&request->out, "buf_count", 1);
            return SMP_OK;
        default:
            return SMP_ENOTSUP;
    }
}

static int carry_out(device *device, smp_request *request) {
    if (!cbor_is_map(&request->map)) {
        return SMP_EINVAL;
    }
    switch (request->group) {
        case SMP_GROUP_OS:
            return os_group(device, request);
        case SMP_GROUP_IMAGE:
            return smp_image(device, request);
        case SMP_GROUP_INSPECT:
            return smp_inspect(device, request);
        default:
            return SMP_ENOTSUP;
    }
}

/* The reply's map when something was wrong: {"rc"} for the message, {"err": {"group", "rc"}} for the
 * group; protocol version 0 knows the first alone. */
static void put_error(smp_request *request, int error, bool version_2) {
    cbor_open_map(&request->out);
    if (error == SMP_OK && version_2) {
        cbor_put_key(&request->out, "err");
        cbor_open_map(&request->out);
        cbor_put_int(&request->out, "group", request->group);
        cbor_put_int(&request->out, "rc", request->group_error);
        cbor_close(&request->out);
    } else {
        cbor_put_int(&request->out, "rc", error == SMP_OK ? SMP_EUNKNOWN : error);
    }
}

void smp_answer(device *device, const uint8_t *message, size_t bytes) {
    if (bytes < SMP_HEADER_BYTES) {
        return;
    }
    uint8_t op = message[0] & 7;
    bool version_2 = (message[0] >> 3 & 3) != 0;
    size_t length = (size_t)message[2] << 8 | message[3];
    if ((op != OP_READ && op != OP_WRITE) || length != bytes - SMP_HEADER_BYTES) {
        return;
    }
    uint8_t *reply = device->tx;
    smp_request request = {
        .write = op == OP_WRITE,
        .group = (uint16_t)(message[4] << 8 | message[5]),
        .command = message[7],
        .map = {message + SMP_HEADER_BYTES, length},
        .out = {.data = reply + SMP_HEADER_BYTES, .capacity = sizeof device->tx - SMP_HEADER_BYTES},
    };
    reply[0] = (uint8_t)((message[0] & ~7) | (op + 1));
    reply[1] = 0;
    memcpy(reply + 4, message + 4, 4); /* group, sequence, command: the receive buffer may be used for rows now */
    cbor_open_map(&request.out);
    int error = carry_out(device, &request);
    if (error == SMP_OK && request.out.overflow) {
        error = SMP_ENOMEM;
    }
    if (error != SMP_OK || request.group_error != 0) {
        request.out.bytes = 0;
        request.out.overflow = false;
        put_error(&request, error, version_2);
    }
    cbor_close(&request.out);
    reply[2] = (uint8_t)(request.out.bytes >> 8);
    reply[3] = (uint8_t)request.out.bytes;
    frame_send(device->hal, reply, SMP_HEADER_BYTES + request.out.bytes);
}
