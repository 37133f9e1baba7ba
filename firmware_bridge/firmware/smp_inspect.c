/* SMP group 64: what the device is, one picture row by row, and the golden self-test. See PROTOCOL.md.
 *
 * Every command may be sent again when its reply was lost: rows that are in already are passed over,
 * a finished picture answers as before.
 */
#include <string.h>

#include "flash_map.h"
#include "smp.h"

enum { INFO = 0, BEGIN = 1, ROWS = 2, FINISH = 3, SELFTEST = 4, FACTS = 5 };
enum { INSPECT_VERSION = 1 };

static void put_model(const device *device, cbor_writer *out) {
    const rs_info *model = device_model(device);
    cbor_put_text(out, "model", model->name);
    cbor_put_bytes(out, "hash", model->digest, RS_DIGEST_BYTES);
    cbor_put_bytes(out, "bundle", model->bundle_digest, RS_DIGEST_BYTES);
    cbor_put_int(out, "version", model->model_version);
    cbor_put_int(out, "width", model->width_px);
    cbor_put_int(out, "height", model->height_px);
    cbor_put_int(out, "channels", model->channels);
    cbor_put_int(out, "heat_rows", model->heat_rows);
    cbor_put_int(out, "heat_columns", model->heat_columns);
    cbor_put_int(out, "threshold", model->threshold);
    cbor_put_int(out, "zero_point", model->output_zero_point);
    cbor_put_int(out, "macs", model->macs);
    cbor_put_int(out, "ram", model->ram_bytes);
    cbor_put_int(out, "arena", model->arena_bytes);
    cbor_put_int(out, "golden", model->golden_count);
}

static int info(const device *device, smp_request *request) {
    static const char *const boots[] = {"empty", "confirmed", "trial", "reverted", "failed trial"};
    const params *params = &device->params;
    cbor_writer *out = &request->out;
    cbor_put_int(out, "protocol", INSPECT_VERSION);
    cbor_put_text(out, "board", device->hal->board);
    cbor_put_text(out, "name", params->name);
    cbor_put_text(out, "boot", boots[device->boot]);
    cbor_put_bool(out, "trusted", device->trusted);
    cbor_put_bool(out, "confirmed", device_confirmed(device));
    cbor_put_bool(out, "gate", device->gate_open);
    cbor_put_bool(out, "signed", params->has_key);
    cbor_put_bool(out, "locked", params->damaged);
    cbor_put_int(out, "slot_bytes", FLASH_SLOT_BYTES);
    cbor_put_int(out, "arena_bytes", (int64_t)device->hal->arena_bytes);
    cbor_put_int(out, "row_bytes", DEVICE_ROW_BYTES);
    cbor_put_int(out, "camera_width", params->width_px);
    cbor_put_int(out, "camera_height", params->height_px);
    cbor_put_int(out, "camera_channels", params->channels);
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
        return smp_fail(request, INSPECT_NO_MODEL);
    }
    cbor_put_int(&request->out, "row", 0);
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
        return smp_fail(request, INSPECT_NO_MODEL);
    }
    if (!is_current(device, request)) {
        return smp_fail(request, INSPECT_NOT_BEGUN);
    }
    const rs_info *model = device_model(device);
    size_t row_bytes = (size_t)model->width_px * model->channels;
    if (bytes == 0 || bytes % row_bytes != 0 || first > model->height_px ||
        bytes / row_bytes > model->height_px - first) {
        return smp_fail(request, INSPECT_ROWS);
    }
    size_t count = bytes / row_bytes;
    for (size_t i = 0; i < count; i++) {
        if (first + i == device->picture.next_row && !device_push(device, data + i * row_bytes)) {
            return smp_fail(request, INSPECT_NOT_BEGUN);
        }
    }
    cbor_put_int(&request->out, "row", device->picture.next_row);
    return SMP_OK;
}

static int finish(device *device, smp_request *request) {
    static const char *const verdicts[] = {"NO_DECISION", "PASS", "REJECT"};
    const device_picture *picture = &device->picture;
    cbor_writer *out = &request->out;
    if (device_model(device) == NULL) {
        return smp_fail(request, INSPECT_NO_MODEL);
    }
    if (!is_current(device, request)) {
        return smp_fail(request, INSPECT_NOT_BEGUN);
    }
    if (!device_finish(device)) {
        return smp_fail(request, INSPECT_ROWS);
    }
    const rs_info *model = device_model(device);
    cbor_put_int(out, "pic", picture->picture);
    cbor_put_text(out, "verdict", verdicts[picture->verdict]);
    cbor_put_bool(out, "gate", device->gate_open);
    cbor_put_int(out, "logit", picture->outputs[model->judged]);
    cbor_put_bytes(out, "outputs", picture->outputs, model->outputs);
    cbor_put_int(out, "rows_us", (int64_t)picture->rows_us);
    cbor_put_int(out, "tail_us", (int64_t)picture->tail_us);
    const int8_t *heat = rs_heat(&device->net);
    size_t heat_bytes = (size_t)model->heat_rows * model->heat_columns;
    if (heat != NULL && heat_bytes + 64 <= out->capacity - out->bytes) { /* one that does not fit is left out */
        cbor_put_bytes(out, "heat", heat, heat_bytes);
    }
    return SMP_OK;
}

static int selftest(device *device, smp_request *request) {
    if (device_model(device) == NULL) {
        return smp_fail(request, INSPECT_NO_MODEL);
    }
    device_selftest(device);
    cbor_put_int(&request->out, "passed", device->golden_passed);
    cbor_put_int(&request->out, "golden", device_model(device)->golden_count);
    cbor_put_bool(&request->out, "trusted", device->trusted);
    return SMP_OK;
}

static int facts(const device *device, smp_request *request) {
    cbor_writer *out = &request->out;
    cbor_put_int(out, "uptime_us", (int64_t)device->hal->micros(device->hal->context));
    cbor_put_int(out, "passes", device->passes);
    cbor_put_int(out, "rejects", device->rejects);
    cbor_put_int(out, "dropped_frames", device->frame.dropped);
    cbor_put_int(out, "log_sequence", device->slots.state.sequence);
    cbor_put_int(out, "upload_bytes", device->slots.state.upload_bytes);
    cbor_put_int(out, "upload_offset", device->slots.received);
    return SMP_OK;
}

int smp_inspect(device *device, smp_request *request) {
    switch (request->command) {
        case INFO:
            return request->write ? SMP_ENOTSUP : info(device, request);
        case BEGIN:
            return request->write ? begin(device, request) : SMP_ENOTSUP;
        case ROWS:
            return request->write ? rows(device, request) : SMP_ENOTSUP;
        case FINISH:
            return request->write ? finish(device, request) : SMP_ENOTSUP;
        case SELFTEST:
            return request->write ? selftest(device, request) : SMP_ENOTSUP;
        case FACTS:
            return request->write ? SMP_ENOTSUP : facts(device, request);
        default:
            return SMP_ENOTSUP;
    }
}
