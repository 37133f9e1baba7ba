/* SMP group 64: what the device is, one picture row by row, and the golden self-test. See PROTOCOL.md.
 *
 * Every command may be sent again when its reply was lost: rows that are in already are passed over,
 * a finished picture answers as before.
 */
#include <string.h>

#include "flash_map.h"
#include "smp.h"

enum {
    INSPECT_INFO = 0,
    INSPECT_BEGIN = 1,
    INSPECT_ROWS_IN = 2,
    INSPECT_FINISH = 3,
    INSPECT_SELFTEST = 4,
    INSPECT_FACTS = 5
};
enum { INSPECT_VERSION = 1 };

static int fail(smp_request *request, uint16_t group_error) {
    request->group_error = group_error;
    return SMP_OK;
}

static void put_int(cbor_writer *out, const char *key, int64_t value) {
    cbor_put_key(out, key);
    cbor_put_int(out, value);
}

static void put_text(cbor_writer *out, const char *key, const char *text) {
    cbor_put_key(out, key);
    cbor_put_text(out, text);
}

static void put_flag(cbor_writer *out, const char *key, bool value) {
    cbor_put_key(out, key);
    cbor_put_bool(out, value);
}

static void put_blob(cbor_writer *out, const char *key, const void *data, size_t bytes) {
    cbor_put_key(out, key);
    cbor_put_bytes(out, data, bytes);
}

static void put_model(const device *device, cbor_writer *out) {
    const rs_info *model = device_model(device);
    put_text(out, "model", model->name);
    put_blob(out, "hash", model->digest, RS_DIGEST_BYTES);
    put_blob(out, "bundle", model->bundle_digest, RS_DIGEST_BYTES);
    put_int(out, "version", model->model_version);
    put_int(out, "width", model->width_px);
    put_int(out, "height", model->height_px);
    put_int(out, "channels", model->channels);
    put_int(out, "heat_rows", model->heat_rows);
    put_int(out, "heat_columns", model->heat_columns);
    put_int(out, "threshold", model->threshold);
    put_int(out, "zero_point", model->output_zero_point);
    put_int(out, "macs", model->macs);
    put_int(out, "ram", model->ram_bytes);
    put_int(out, "arena", model->arena_bytes);
    put_int(out, "golden", model->golden_count);
}

static int info(const device *device, smp_request *request) {
    static const char *const boots[] = {"empty", "confirmed", "trial", "reverted", "failed trial"};
    const params *params = &device->params;
    cbor_writer *out = &request->out;
    put_int(out, "protocol", INSPECT_VERSION);
    put_text(out, "board", device->hal->board);
    put_text(out, "name", params->name);
    put_text(out, "boot", boots[device->boot]);
    put_flag(out, "trusted", device->trusted);
    put_flag(out, "confirmed", device_confirmed(device));
    put_flag(out, "gate", device->gate_open);
    put_flag(out, "signed", params->has_key);
    put_flag(out, "locked", params->damaged);
    put_int(out, "slot_bytes", FLASH_SLOT_BYTES);
    put_int(out, "arena_bytes", (int64_t)device->hal->arena_bytes);
    put_int(out, "row_bytes", DEVICE_ROW_BYTES);
    put_int(out, "camera_width", params->width_px);
    put_int(out, "camera_height", params->height_px);
    put_int(out, "camera_channels", params->channels);
    if (device_model(device) != NULL) {
        put_model(device, out);
    }
    return SMP_OK;
}

static int begin(device *device, smp_request *request) {
    uint32_t picture;
    if (cbor_u32(&request->map, "pic", &picture) != 1) {
        return SMP_EINVAL;
    }
    if (!device_begin(device, picture)) {
        return fail(request, INSPECT_NO_MODEL);
    }
    put_int(&request->out, "row", 0);
    return SMP_OK;
}

static bool is_current(const device *device, const smp_request *request) {
    uint32_t picture;
    return cbor_u32(&request->map, "pic", &picture) == 1 && picture == device->picture.picture && device->picture.begun;
}

/* Rows `row`, `row + 1`, ... of the picture. The reply says which row is expected next; a sender
 * that reads another number than it thought goes on from there. */
static int rows(device *device, smp_request *request) {
    uint32_t first;
    const uint8_t *data;
    size_t bytes;
    if (cbor_u32(&request->map, "row", &first) != 1 || cbor_bytes(&request->map, "data", &data, &bytes) != 1) {
        return SMP_EINVAL;
    }
    if (device_model(device) == NULL) {
        return fail(request, INSPECT_NO_MODEL);
    }
    if (!is_current(device, request)) {
        return fail(request, INSPECT_NOT_BEGUN);
    }
    const rs_info *model = device_model(device);
    size_t row_bytes = (size_t)model->width_px * model->channels;
    if (bytes == 0 || bytes % row_bytes != 0 || first > model->height_px ||
        bytes / row_bytes > model->height_px - first) {
        return fail(request, INSPECT_ROWS);
    }
    size_t count = bytes / row_bytes;
    for (size_t i = 0; i < count; i++) {
        if (first + i == device->picture.next_row && !device_push(device, data + i * row_bytes)) {
            return fail(request, INSPECT_NOT_BEGUN);
        }
    }
    put_int(&request->out, "row", device->picture.next_row);
    return SMP_OK;
}

static int finish(device *device, smp_request *request) {
    static const char *const verdicts[] = {"NO_DECISION", "PASS", "REJECT"};
    const device_picture *picture = &device->picture;
    cbor_writer *out = &request->out;
    if (device_model(device) == NULL) {
        return fail(request, INSPECT_NO_MODEL);
    }
    if (!is_current(device, request)) {
        return fail(request, INSPECT_NOT_BEGUN);
    }
    if (!device_finish(device)) {
        return fail(request, INSPECT_ROWS);
    }
    const rs_info *model = device_model(device);
    put_int(out, "pic", picture->picture);
    put_text(out, "verdict", verdicts[picture->verdict]);
    put_flag(out, "gate", device->gate_open);
    put_int(out, "logit", picture->outputs[model->judged]);
    put_blob(out, "outputs", picture->outputs, model->outputs);
    put_int(out, "rows_us", (int64_t)picture->rows_us);
    put_int(out, "tail_us", (int64_t)picture->tail_us);
    const int8_t *heat = rs_heat(&device->net);
    size_t heat_bytes = (size_t)model->heat_rows * model->heat_columns;
    if (heat != NULL && heat_bytes + 64 <= out->capacity - out->bytes) { /* one that does not fit is left out */
        put_blob(out, "heat", heat, heat_bytes);
    }
    return SMP_OK;
}

static int selftest(device *device, smp_request *request) {
    if (device_model(device) == NULL) {
        return fail(request, INSPECT_NO_MODEL);
    }
    device_selftest(device);
    put_int(&request->out, "passed", device->golden_passed);
    put_int(&request->out, "golden", device_model(device)->golden_count);
    put_flag(&request->out, "trusted", device->trusted);
    return SMP_OK;
}

static int facts(const device *device, smp_request *request) {
    cbor_writer *out = &request->out;
    put_int(out, "uptime_us", (int64_t)device->hal->micros(device->hal->context));
    put_int(out, "passes", device->passes);
    put_int(out, "rejects", device->rejects);
    put_int(out, "dropped_frames", device->frame.dropped);
    put_int(out, "log_sequence", device->slots.state.sequence);
    put_int(out, "upload_bytes", device->slots.state.upload_bytes);
    put_int(out, "upload_offset", device->slots.received);
    return SMP_OK;
}

int smp_inspect(device *device, smp_request *request) {
    switch (request->command) {
        case INSPECT_INFO:
            return request->write ? SMP_ENOTSUP : info(device, request);
        case INSPECT_BEGIN:
            return request->write ? begin(device, request) : SMP_ENOTSUP;
        case INSPECT_ROWS_IN:
            return request->write ? rows(device, request) : SMP_ENOTSUP;
        case INSPECT_FINISH:
            return request->write ? finish(device, request) : SMP_ENOTSUP;
        case INSPECT_SELFTEST:
            return request->write ? selftest(device, request) : SMP_ENOTSUP;
        case INSPECT_FACTS:
            return request->write ? SMP_ENOTSUP : facts(device, request);
        default:
            return SMP_ENOTSUP;
    }
}
