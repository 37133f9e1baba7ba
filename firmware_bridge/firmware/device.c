/* The line device; see device.h. The flow: device_boot, then device_poll for ever. */
#include "device.h"

#include <string.h>

#include "flash_map.h"
#include "format.h"
#include "smp.h"

static const uint8_t *slot_image(const device *device, uint8_t slot) {
    return device->hal->flash + flash_slot(slot);
}

const rs_info *device_model(const device *device) {
    return device->running <= 1 ? &device->models[device->running] : NULL;
}

bool device_confirmed(const device *device) {
    return device->running <= 1 && device->running == device->slots.state.active;
}

void device_close_gate(device *device) {
    device->gate_open = false;
    device->hal->set_gate(device->hal->context, false);
}

/* Whether this device can run such a model at all. */
static device_accept fits(const device *device, const rs_info *info) {
    const params *params = &device->params;
    if (info->image_bytes > FLASH_SLOT_BYTES) {
        return ACCEPT_TOO_LARGE;
    }
    if (info->arena_bytes > device->hal->arena_bytes || (uint32_t)info->width_px * info->channels > DEVICE_ROW_BYTES) {
        return ACCEPT_RAM;
    }
    if ((params->width_px != 0 && params->width_px != info->width_px) ||
        (params->height_px != 0 && params->height_px != info->height_px) ||
        (params->channels != 0 && params->channels != info->channels)) {
        return ACCEPT_CAMERA;
    }
    return ACCEPT_OK;
}

static bool is_older(const device *device, const rs_info *info) {
    uint8_t active = device->slots.state.active;
    return active <= 1 && device->accepted[active] && info->model_version < device->models[active].model_version;
}

/* Checks an image in flash from its first byte to its last. */
static device_accept accept_slot(device *device, uint8_t slot) {
    const params *params = &device->params;
    const uint8_t *image = slot_image(device, slot);
    rs_info *info = &device->models[slot];
    device->accepted[slot] = false;
    if (params->damaged) {
        return ACCEPT_LOCKED;
    }
    rs_status status = rs_parse(image, FLASH_SLOT_BYTES, info);
    if (status != RS_OK) {
        return status == RS_ERR_DIGEST ? ACCEPT_DIGEST : ACCEPT_STRUCTURE;
    }
    if (rs_check_mac(image, info->image_bytes, params->has_key ? params->key : NULL,
                     params->has_key ? PARAMS_KEY_BYTES : 0) != RS_OK) {
        return ACCEPT_MAC;
    }
    device_accept fit = fits(device, info);
    device->accepted[slot] = fit == ACCEPT_OK;
    return fit;
}

device_accept device_accept_header(const device *device, const uint8_t *start, size_t bytes, uint32_t announced) {
    if (device->params.damaged) {
        return ACCEPT_LOCKED;
    }
    if (announced > FLASH_SLOT_BYTES) {
        return ACCEPT_TOO_LARGE;
    }
    rs_header header;
    if (bytes < sizeof header) {
        return ACCEPT_SHORT;
    }
    memcpy(&header, start, sizeof header);
    if (header.magic != RS_MAGIC || header.version != RS_VERSION || header.image_bytes != announced) {
        return ACCEPT_STRUCTURE;
    }
    const rs_info info = {
        .image_bytes = header.image_bytes,
        .arena_bytes = header.arena_bytes,
        .model_version = header.model_version,
        .width_px = header.width_px,
        .height_px = header.height_px,
        .channels = header.channels,
    };
    device_accept accept = fits(device, &info);
    return accept == ACCEPT_OK && is_older(device, &info) ? ACCEPT_DOWNGRADE : accept;
}

device_accept device_accept_spare(device *device) {
    uint8_t slot = slots_spare_slot(&device->slots);
    device_accept accept = accept_slot(device, slot);
    if (accept == ACCEPT_OK && device->models[slot].image_bytes != device->slots.state.upload_bytes) {
        accept = ACCEPT_STRUCTURE; /* bytes behind the image that nobody signed */
    }
    if (accept == ACCEPT_OK && is_older(device, &device->models[slot])) {
        accept = ACCEPT_DOWNGRADE;
    }
    device->accepted[slot] = accept == ACCEPT_OK;
    return accept;
}

bool device_selftest(device *device) {
    device_close_gate(device);
    device->picture.begun = false;
    device->picture.finished = false;
    device->golden_passed = 0;
    device->trusted = device->running <= 1 && rs_selftest(&device->net, device->rx, &device->golden_passed) == RS_OK;
    return device->trusted;
}

static void run_slot(device *device, uint8_t slot) {
    device->running = SLOT_NONE;
    if (slot <= 1 && device->accepted[slot] &&
        rs_open(&device->net, slot_image(device, slot), device->models[slot].image_bytes, device->hal->arena,
                device->hal->arena_bytes) == RS_OK) {
        device->running = slot;
    }
    device_selftest(device);
}

static void choose_model(device *device) {
    slots *slots = &device->slots;
    slots_stage stage = (slots_stage)slots->state.stage;
    bool permanent = slots->state.permanent != 0;
    uint8_t spare = slots_spare_slot(slots);
    if (slots->state.active <= 1) {
        accept_slot(device, slots->state.active);
    }
    if (slots->state.spare == SPARE_COMPLETE) {
        accept_slot(device, spare);
    }
    run_slot(device, slots_boot(slots, device->accepted[spare]));
    if (slots->state.stage != STAGE_TRYING) {
        device->boot = stage != STAGE_STEADY          ? BOOT_REVERTED
                       : device->running == SLOT_NONE ? BOOT_EMPTY
                                                      : BOOT_CONFIRMED;
    } else if (!device->trusted) {
        slots_revert(slots); /* should flash refuse, the next boot reverts */
        run_slot(device, slots->state.active);
        device->boot = BOOT_FAILED_TRIAL;
    } else {
        device->boot = BOOT_TRIAL;
        if (permanent) {
            device_confirm(device);
        }
    }
}

void device_boot(device *device, const hal *hal) {
    memset(device, 0, sizeof *device);
    device->hal = hal;
    device_close_gate(device);
    frame_init(&device->frame, device->rx, sizeof device->rx);
    params_read(&device->params, hal);
    slots_open(&device->slots, hal);
    choose_model(device);
    perf_greet(device);
}

slots_status device_confirm(device *device) {
    if (device_confirmed(device)) {
        return SLOTS_OK;
    }
    if (!device->trusted || device->running != slots_spare_slot(&device->slots)) {
        return SLOTS_ERR_STATE;
    }
    return slots_confirm(&device->slots);
}

bool device_begin(device *device, uint32_t picture) {
    device_close_gate(device);
    memset(&device->picture, 0, sizeof device->picture);
    device->picture.picture = picture;
    device->picture.begun = device->running <= 1 && rs_begin(&device->net) == RS_OK;
    return device->picture.begun;
}

bool device_push(device *device, const uint8_t *row) {
    device_picture *picture = &device->picture;
    device_close_gate(device);
    uint64_t start = device->hal->micros(device->hal->context);
    if (!picture->begun || picture->finished || rs_push_row(&device->net, row) != RS_OK) {
        picture->begun = false;
        return false;
    }
    picture->rows_us += device->hal->micros(device->hal->context) - start;
    picture->next_row++;
    return true;
}

static void judge(device *device) {
    device_picture *picture = &device->picture;
    const rs_info *model = device_model(device);
    if (!device->trusted) {
        return; /* VERDICT_NONE: a network that fails its golden pictures has no say */
    }
    bool pass = picture->outputs[model->judged] < model->threshold;
    picture->verdict = pass ? VERDICT_PASS : VERDICT_REJECT;
    device->passes += pass;
    device->rejects += !pass;
    if (pass && device_confirmed(device)) {
        device->gate_until_us = device->hal->micros(device->hal->context) + DEVICE_GATE_US;
        device->gate_open = true;
        device->hal->set_gate(device->hal->context, true);
    }
}

bool device_finish(device *device) {
    device_picture *picture = &device->picture;
    if (picture->finished) {
        return true; /* the reply was lost and is asked for again: nothing changes */
    }
    device_close_gate(device);
    uint64_t start = device->hal->micros(device->hal->context);
    if (!picture->begun || rs_finish(&device->net, picture->outputs) != RS_OK) {
        return false;
    }
    picture->tail_us = device->hal->micros(device->hal->context) - start;
    picture->finished = true;
    judge(device);
    return true;
}

void device_poll(device *device) {
    const hal *hal = device->hal;
    uint8_t bytes[64];
    size_t count = hal->uart_read(hal->context, bytes, sizeof bytes);
    for (size_t i = 0; i < count; i++) {
        switch (frame_take(&device->frame, bytes[i])) {
            case FRAME_MESSAGE:
                smp_answer(device, device->rx + 2, frame_message_bytes(&device->frame));
                break;
            case FRAME_TEXT:
                perf_take(device, bytes[i]);
                break;
            case FRAME_NONE:
                break;
        }
    }
    if (device->gate_open && hal->micros(hal->context) >= device->gate_until_us) {
        device_close_gate(device);
    }
    if (device->reset_asked) {
        device->reset_asked = false;
        device_close_gate(device);
        hal->reset(hal->context);
    }
    if (count == 0) {
        hal->idle(hal->context);
    }
}
