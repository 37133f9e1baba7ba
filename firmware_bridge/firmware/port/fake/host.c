/* A host that updates a fake device; see host.h. */
#include "host.h"

#include <string.h>

#include "../../cbor.h"
#include "../../smp.h"

enum { SILENCE = 4, GIVE_UP = 6 };

static bool chance(fake *fake, uint32_t one_in) {
    fake->random ^= fake->random << 13;
    fake->random ^= fake->random >> 17;
    fake->random ^= fake->random << 5;
    return one_in != 0 && fake->random % one_in == 0;
}

/* What the wire makes of `bytes` bytes; returns how many arrive. */
static size_t hurt(host_link *link, uint8_t *data, size_t bytes, size_t capacity) {
    static uint8_t sent[sizeof link->fake.to_device];
    const host_wire *wire = &link->wire;
    memcpy(sent, data, bytes);
    size_t out = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = sent[i];
        if (chance(&link->fake, wire->swap) && i + 1 < bytes) {
            byte = sent[i + 1];
            sent[i + 1] = sent[i];
        }
        if (chance(&link->fake, wire->flip)) {
            byte ^= (uint8_t)(1u << link->fake.random % 8);
        }
        int copies = chance(&link->fake, wire->lose) ? 0 : chance(&link->fake, wire->repeat) ? 2 : 1;
        for (int copy = 0; copy < copies && out < capacity; copy++) {
            data[out++] = byte;
        }
        if (chance(&link->fake, wire->invent) && out < capacity) {
            data[out++] = (uint8_t)link->fake.random;
        }
    }
    return out;
}

static void send_to_device(void *context, const uint8_t *data, size_t bytes) {
    fake *fake = context;
    size_t room = sizeof fake->to_device - fake->to_device_bytes;
    size_t count = bytes < room ? bytes : room;
    memcpy(fake->to_device + fake->to_device_bytes, data, count);
    fake->to_device_bytes += count;
}

static void guard_slot(host_link *link) {
    uint8_t active = link->device.slots.state.active;
    link->fake.forbidden = active <= 1 ? flash_slot(active) : 0;
}

void host_boot(host_link *link) {
    link->fake.to_device_at = 0;
    link->fake.to_device_bytes = 0;
    link->fake.from_device_bytes = 0;
    frame_init(&link->reader, link->received, sizeof link->received);
    device_boot(&link->device, &link->fake.hal);
    guard_slot(link);
    link->booted();
}

/* Sends one request and waits for its reply; what does not belong to it is passed over. */
static bool exchange(host *host, host_link *link, uint8_t op, uint16_t group, uint8_t command, const cbor_writer *body,
                     cbor_map *reply) {
    fake *fake = &link->fake;
    const hal out = {.context = fake, .uart_write = send_to_device};
    uint8_t message[1024] = {(uint8_t)(op | 1 << 3),
                             0,
                             (uint8_t)(body->bytes >> 8),
                             (uint8_t)body->bytes,
                             (uint8_t)(group >> 8),
                             (uint8_t)group,
                             ++host->sequence,
                             command};
    memcpy(message + SMP_HEADER_BYTES, body->data, body->bytes);
    fake->to_device_at = 0;
    fake->to_device_bytes = 0;
    fake->from_device_bytes = 0;
    frame_send(&out, message, SMP_HEADER_BYTES + body->bytes);
    fake->to_device_bytes = hurt(link, fake->to_device, fake->to_device_bytes, sizeof fake->to_device);
    for (int silence = 0; silence < SILENCE; silence++) {
        do {
            device_poll(&link->device);
            guard_slot(link);
        } while (fake->to_device_at < fake->to_device_bytes && !fake->reset_asked);
    }
    size_t arrived = hurt(link, fake->from_device, fake->from_device_bytes, sizeof fake->from_device);
    bool answered = false;
    for (size_t i = 0; i < arrived && !answered; i++) {
        const uint8_t *got = link->received + 2;
        if (frame_take(&link->reader, fake->from_device[i]) == FRAME_MESSAGE &&
            frame_message_bytes(&link->reader) >= 8 && got[6] == host->sequence && got[7] == command) {
            *reply = (cbor_map){got + SMP_HEADER_BYTES, frame_message_bytes(&link->reader) - SMP_HEADER_BYTES};
            answered = cbor_is_map(reply);
        }
    }
    if (fake->reset_asked) {
        fake->reset_asked = false;
        host_boot(link);
    }
    return answered;
}

/* The number of a refusal, from the map {"err": {"group": G, "rc": N}}, or {"rc": N}. */
static uint32_t refusal(const cbor_map *reply) {
    uint32_t code = 0;
    if (cbor_u32(reply, "rc", &code) == 1) {
        return 1000 + code;
    }
    uint32_t found = 0;
    cbor_map inner = {reply->data + 5, reply->bytes - 5}; /* after the outer map's head and the key "err" */
    if (reply->bytes > 6 && memcmp(reply->data + 1, "cerr", 4) == 0 && cbor_u32(&inner, "rc", &found) == 1) {
        return found;
    }
    return 0;
}

static void asked(host *host, const cbor_map *reply) {
    const uint8_t *hash, *boot;
    size_t hash_bytes, boot_bytes;
    bool confirmed;
    bool mine = cbor_bytes(reply, "hash", &hash, &hash_bytes) == 1 && hash_bytes == RS_DIGEST_BYTES &&
                memcmp(hash, host->image->digest, RS_DIGEST_BYTES) == 0;
    bool trial = cbor_text(reply, "boot", &boot, &boot_bytes) == 1 && boot_bytes == 5 && memcmp(boot, "trial", 5) == 0;
    if (cbor_bool(reply, "confirmed", &confirmed) != 1) {
        return;
    }
    host->offset = 0;
    host->stage = mine && confirmed     ? HOST_DONE
                  : mine && trial       ? HOST_CONFIRM
                  : trial && !confirmed ? HOST_RESET /* somebody else's: let it be left */
                                        : HOST_UPLOAD;
}

static void put_piece(const host *host, cbor_writer *body) {
    uint32_t left = host->image->bytes - host->offset;
    cbor_put_int(body, "off", host->offset);
    cbor_put_bytes(body, "data", host->image->data + host->offset, left < host->piece_bytes ? left : host->piece_bytes);
    if (host->offset == 0) {
        cbor_put_int(body, "len", host->image->bytes);
        cbor_put_bytes(body, "sha", host->image->sha, RS_DIGEST_BYTES);
    }
}

static void answered(host *host, const cbor_map *reply) {
    uint32_t offset;
    host->refused = refusal(reply);
    if (host->refused != 0) {
        host->failures++;
        host->stage = HOST_ASK;
        return;
    }
    switch (host->stage) {
        case HOST_ASK:
            asked(host, reply);
            break;
        case HOST_UPLOAD:
            if (cbor_u32(reply, "off", &offset) == 1 && offset <= host->image->bytes) {
                host->offset = offset;
                host->stage = offset == host->image->bytes ? HOST_TRY : HOST_UPLOAD;
            }
            break;
        case HOST_TRY:
            host->stage = HOST_RESET;
            break;
        default: /* after a reset or a confirmation: look what runs */
            host->stage = HOST_ASK;
    }
}

void host_step(host *host, host_link *link) {
    static uint8_t data[1000];
    cbor_writer body = {.data = data, .capacity = sizeof data};
    uint8_t op = 2, command = 0;
    uint16_t group = SMP_GROUP_IMAGE;
    cbor_open_map(&body);
    switch (host->stage) {
        case HOST_ASK:
            op = 0;
            group = SMP_GROUP_INSPECT;
            break;
        case HOST_UPLOAD:
            command = 1;
            put_piece(host, &body);
            break;
        case HOST_TRY:
            cbor_put_bytes(&body, "hash", host->image->digest, RS_DIGEST_BYTES);
            break;
        case HOST_RESET:
            group = SMP_GROUP_OS;
            command = 5;
            break;
        case HOST_CONFIRM:
            cbor_put_bool(&body, "confirm", true);
            break;
        case HOST_DONE:
            return;
    }
    cbor_close(&body);
    cbor_map reply;
    if (exchange(host, link, op, group, command, &body, &reply)) {
        answered(host, &reply);
    } else if (++host->failures % GIVE_UP == 0 || host->stage == HOST_RESET) {
        host->stage = HOST_ASK;
    }
}

bool host_run(host *host, host_link *link, uint32_t steps) {
    while (host->stage != HOST_DONE && steps-- > 0) {
        host_step(host, link);
    }
    return host->stage == HOST_DONE;
}
