/* SMP's image group: the state of the two slots, the upload into the spare one, its erasure.
 *
 * Stock MCUmgr tools speak this. An image's hash is the digest inside it; a slot's number is its
 * place in flash, and "active" says which of the two runs.
 */
#include <string.h>

#include "flash_map.h"
#include "format.h"
#include "sha256.h"
#include "smp.h"

_Static_assert(DEVICE_UPLOAD_HEAD_BYTES >= sizeof(rs_header) && DEVICE_UPLOAD_HEAD_BYTES % FLASH_WORD_BYTES == 0,
               "holds a header, and is written as it is");

enum { STATE = 0, UPLOAD = 1, ERASE = 5 };

/* MCUmgr's image errors that have no device_accept of the same number. */
enum {
    IMAGE_HASH_NOT_FOUND = 8,
    IMAGE_FLASH_WRITE_FAILED = 12,
    IMAGE_INVALID_SLOT = 14,
    IMAGE_INVALID_OFFSET = 20,
    IMAGE_INVALID_LENGTH = 21,
    IMAGE_ALREADY_PENDING = 28, /* a model is on trial: confirm it or reset first */
    IMAGE_DATA_OVERRUN = 31,
    IMAGE_CONFIRMATION_DENIED = 32,
    IMAGE_TEST_OF_ACTIVE_DENIED = 33,
};

static uint16_t slots_error(slots_status status) {
    switch (status) {
        case SLOTS_OK:
            return 0;
        case SLOTS_ERR_STATE:
            return IMAGE_ALREADY_PENDING;
        case SLOTS_ERR_OFFSET:
            return IMAGE_INVALID_OFFSET;
        case SLOTS_ERR_SIZE:
            return IMAGE_DATA_OVERRUN;
        case SLOTS_ERR_FLASH:
            break;
    }
    return IMAGE_FLASH_WRITE_FAILED;
}

static bool holds_model(const device *device, uint8_t slot) {
    const slots_state *state = &device->slots.state;
    return device->accepted[slot] &&
           (slot == state->active || (slot == slots_spare_slot(&device->slots) && state->spare == SPARE_COMPLETE));
}

static void put_version(cbor_writer *out, uint32_t version) {
    uint8_t digits[10];
    size_t count = 0;
    do {
        digits[sizeof digits - ++count] = (uint8_t)('0' + version % 10);
        version /= 10;
    } while (version != 0);
    cbor_put_string(out, "version", digits + sizeof digits - count, count);
}

static int put_state(const device *device, smp_request *request) {
    const slots_state *state = &device->slots.state;
    cbor_writer *out = &request->out;
    cbor_put_key(out, "images");
    cbor_open_array(out);
    for (uint8_t slot = 0; slot < 2; slot++) {
        if (!holds_model(device, slot)) {
            continue;
        }
        bool requested = slot != state->active && state->stage == STAGE_REQUESTED;
        cbor_open_map(out);
        cbor_put_int(out, "slot", slot);
        put_version(out, device->models[slot].model_version);
        cbor_put_bytes(out, "hash", device->models[slot].digest, RS_DIGEST_BYTES);
        cbor_put_bool(out, "bootable", true);
        cbor_put_bool(out, "pending", requested);
        cbor_put_bool(out, "confirmed", slot == state->active);
        cbor_put_bool(out, "active", slot == device->running);
        cbor_put_bool(out, "permanent", requested && state->permanent != 0);
        cbor_close(out);
    }
    cbor_close(out);
    return SMP_OK;
}

static int confirm_running(device *device, smp_request *request) {
    if (device->running > 1 || !device->trusted) {
        return smp_fail(request, IMAGE_CONFIRMATION_DENIED);
    }
    uint16_t error = slots_error(device_confirm(device));
    return error != 0 ? smp_fail(request, error) : put_state(device, request);
}

static int write_state(device *device, smp_request *request) {
    const uint8_t *hash = NULL;
    size_t bytes = 0;
    bool confirm = false;
    int has_hash = cbor_bytes(&request->map, "hash", &hash, &bytes);
    if (has_hash < 0 || (has_hash == 1 && bytes != RS_DIGEST_BYTES) ||
        cbor_bool(&request->map, "confirm", &confirm) < 0 || (has_hash == 0 && !confirm)) {
        return SMP_EINVAL;
    }
    if (has_hash == 0) {
        return confirm_running(device, request);
    }
    uint8_t slot = 0;
    while (slot < 2 && !(holds_model(device, slot) && memcmp(device->models[slot].digest, hash, bytes) == 0)) {
        slot++;
    }
    if (slot == 2) {
        return smp_fail(request, IMAGE_HASH_NOT_FOUND);
    }
    if (slot == device->running) {
        return confirm ? confirm_running(device, request) : smp_fail(request, IMAGE_TEST_OF_ACTIVE_DENIED);
    }
    if (slot != slots_spare_slot(&device->slots)) {
        return smp_fail(request, IMAGE_ALREADY_PENDING); /* the model in force, while another is on trial */
    }
    uint16_t error = slots_error(slots_request(&device->slots, confirm));
    return error != 0 ? smp_fail(request, error) : put_state(device, request);
}

static bool matches_announced(const device *device) {
    if (!device->upload_has_sha) return true;
    uint8_t digest[RS_DIGEST_BYTES];
    rs_sha256 hash;
    rs_sha256_begin(&hash);
    rs_sha256_add(&hash, device->hal->flash + flash_slot(slots_spare_slot(&device->slots)),
                  device->slots.state.upload_bytes);
    rs_sha256_end(&hash, digest);
    return memcmp(digest, device->upload_sha, sizeof digest) == 0;
}

static int put_offset(device *device, smp_request *request, bool complete) {
    cbor_put_int(&request->out, "off", complete ? device->slots.state.upload_bytes : device->slots.received);
    if (complete && device->upload_has_sha) {
        cbor_put_bool(&request->out, "match", true);
    }
    return SMP_OK;
}

/* The last byte is in: what was read back from flash is checked, all of it, before it counts. */
static int finish_upload(device *device, smp_request *request) {
    device_accept accept = matches_announced(device) ? device_accept_spare(device) : ACCEPT_DIGEST;
    if (accept != ACCEPT_OK) {
        slots_forget(&device->slots);
        return smp_fail(request, (uint16_t)accept);
    }
    slots_status status = slots_upload_finish(&device->slots);
    return status != SLOTS_OK ? smp_fail(request, slots_error(status)) : put_offset(device, request, true);
}

/* What the piece at 0 says of the whole. */
static int announce(device *device, smp_request *request) {
    const uint8_t *sha = NULL;
    size_t sha_bytes = 0;
    uint32_t number = 0;
    int has_sha = cbor_bytes(&request->map, "sha", &sha, &sha_bytes);
    if (cbor_u32(&request->map, "len", &device->upload_announced) != 1 || has_sha < 0 ||
        (has_sha == 1 && sha_bytes != RS_DIGEST_BYTES)) {
        return smp_fail(request, IMAGE_INVALID_LENGTH);
    }
    if (cbor_u32(&request->map, "image", &number) < 0 || number != 0) {
        return smp_fail(request, IMAGE_INVALID_SLOT);
    }
    if (device->slots.state.stage == STAGE_TRYING) {
        return smp_fail(request, IMAGE_ALREADY_PENDING);
    }
    device->upload_has_sha = has_sha == 1;
    memset(device->upload_sha, 0, RS_DIGEST_BYTES);
    if (has_sha == 1) memcpy(device->upload_sha, sha, RS_DIGEST_BYTES);
    device->gathering = true;
    device->head_bytes = 0;
    return SMP_OK;
}

/* Decides by the header alone whether anything is erased, and where to go on. */
static int begin_upload(device *device, smp_request *request, const uint8_t *data, size_t bytes, bool *write) {
    slots *slots = &device->slots;
    const uint32_t announced = device->upload_announced;
    const uint8_t *sha = device->upload_sha;
    device_accept accept = device_accept_header(device, data, bytes, announced);
    if (accept != ACCEPT_OK) {
        return smp_fail(request, (uint16_t)accept);
    }
    if (device->upload_has_sha) {
        if (slots->state.spare == SPARE_COMPLETE && slots->state.upload_bytes == announced &&
            device->accepted[slots_spare_slot(slots)] && memcmp(slots->state.upload_key, sha, SLOTS_KEY_BYTES) == 0 &&
            matches_announced(device)) {
            return put_offset(device, request, true); /* it is all there already */
        }
        if (slots_upload_resume(slots, announced, sha)) {
            *write = slots->received == 0;
            return SMP_OK;
        }
    }
    device->accepted[slots_spare_slot(slots)] = false;
    *write = true;
    slots_status status = slots_upload_begin(slots, announced, sha);
    return status != SLOTS_OK ? smp_fail(request, slots_error(status)) : SMP_OK;
}

/* Takes what comes next of the first bytes; ends when they hold the header, or the whole file. */
static void gather(device *device, uint32_t offset, const uint8_t *data, size_t bytes) {
    const size_t room = sizeof device->head - device->head_bytes;
    const size_t take = offset != device->head_bytes ? 0 : bytes < room ? bytes : room;
    memcpy(device->head + device->head_bytes, data, take);
    device->head_bytes += (uint32_t)take;
    device->gathering = device->head_bytes < sizeof device->head && device->head_bytes < device->upload_announced;
}

static int upload(device *device, smp_request *request) {
    slots *slots = &device->slots;
    const uint8_t *data = NULL;
    size_t bytes = 0;
    uint32_t offset = 0;
    if (cbor_u32(&request->map, "off", &offset) != 1) {
        return smp_fail(request, IMAGE_INVALID_OFFSET);
    }
    if (cbor_bytes(&request->map, "data", &data, &bytes) != 1) {
        return SMP_EINVAL;
    }
    bool write = true;
    const size_t before = request->out.bytes;
    if (offset == 0) {
        int error = announce(device, request);
        if (error != SMP_OK || request->group_error != 0) return error;
    }
    if (device->gathering) {
        if (bytes == 0) return smp_fail(request, IMAGE_INVALID_LENGTH);
        if (bytes < sizeof device->head || offset != 0) { /* a sender of small pieces: stock tools with a short line */
            gather(device, offset, data, bytes);
            if (device->gathering) {
                cbor_put_int(&request->out, "off", device->head_bytes);
                return SMP_OK;
            }
            data = device->head;
            bytes = device->head_bytes;
            offset = 0;
        }
        device->gathering = false;
        int error = begin_upload(device, request, data, bytes, &write);
        if (error != SMP_OK || request->group_error != 0 || request->out.bytes != before) {
            return error;
        }
    } else if (slots->state.spare == SPARE_COMPLETE && offset + bytes == slots->state.upload_bytes) {
        return put_offset(device, request, true); /* the last piece again: its reply was lost */
    } else if (!slots->uploading) {
        return smp_fail(request, IMAGE_INVALID_OFFSET); /* begun before a reset: begin again, it goes on where it was */
    }
    if (write && offset == slots->received) {
        /* Whole words, or all that is left; the sender goes on at the offset in the reply. */
        bool last = bytes == slots->state.upload_bytes - offset;
        uint32_t take = (uint32_t)(last ? bytes : bytes - bytes % FLASH_WORD_BYTES);
        if (take == 0) {
            return smp_fail(request, IMAGE_INVALID_LENGTH);
        }
        slots_status status = slots_upload_write(slots, offset, data, take);
        if (status != SLOTS_OK) {
            return smp_fail(request, slots_error(status));
        }
    }
    return slots->received == slots->state.upload_bytes ? finish_upload(device, request)
                                                        : put_offset(device, request, false);
}

static int erase(device *device, smp_request *request) {
    uint32_t slot = slots_spare_slot(&device->slots);
    if (cbor_u32(&request->map, "slot", &slot) < 0 || slot > 1) {
        return smp_fail(request, IMAGE_INVALID_SLOT);
    }
    slots_status status = slots_forget(&device->slots); /* whatever number was named: never the model in force */
    if (status == SLOTS_OK) {
        device->accepted[slots_spare_slot(&device->slots)] = false;
    }
    return status != SLOTS_OK ? smp_fail(request, slots_error(status)) : SMP_OK;
}

int smp_image(device *device, smp_request *request) {
    device_close_gate(device);
    switch (request->command) {
        case STATE:
            return request->write ? write_state(device, request) : put_state(device, request);
        case UPLOAD:
            return request->write ? upload(device, request) : SMP_ENOTSUP;
        case ERASE:
            return request->write ? erase(device, request) : SMP_ENOTSUP;
        default:
            return SMP_ENOTSUP;
    }
}
