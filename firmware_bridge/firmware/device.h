/* The line device: its one context, and what it does with a picture, a model and the gate.
 *
 * Fail-closed: the gate opens only for a PASS of a confirmed model whose golden pictures came out
 * right, for DEVICE_GATE_US (looked at between two messages), and closes at anything else that happens.
 * Leaves out: the wire (frame.c, smp.c, perf.c) and how slots survive a power cut (slots.c).
 */
#ifndef DIAGLINE_DEVICE_H
#define DIAGLINE_DEVICE_H

#include "frame.h"
#include "hal.h"
#include "image.h"
#include "params.h"
#include "perf.h"
#include "rowstream.h"
#include "slots.h"

enum {
    DEVICE_RX_BYTES = 4096,                  /* one decoded SMP frame: two rows of 632 x 3 */
    DEVICE_TX_BYTES = 1536,                  /* one reply: the heat map, or the state of two slots */
    DEVICE_ROW_BYTES = DEVICE_RX_BYTES - 96, /* the widest row that fits one request */
    DEVICE_GATE_US = 500000,
    DEVICE_UPLOAD_HEAD_BYTES = 160, /* an image's header in whole words of flash */
};

typedef enum { VERDICT_NONE = 0, VERDICT_PASS = 1, VERDICT_REJECT = 2 } device_verdict;

/* Why an image is not accepted; the numbers are those of MCUmgr's image group where it has one. */
typedef enum {
    ACCEPT_OK = 0,
    ACCEPT_SHORT = 22,     /* the whole is shorter than a header */
    ACCEPT_STRUCTURE = 23, /* not a model image, or a damaged one */
    ACCEPT_DIGEST = 24,
    ACCEPT_DOWNGRADE = 27,
    ACCEPT_TOO_LARGE = 30, /* for the slot */
    ACCEPT_RAM = 15,       /* for the arena, or a row for the receive buffer */
    ACCEPT_MAC = 64,       /* not signed with this device's key */
    ACCEPT_CAMERA = 65,    /* for another picture size or channel count than the device's camera */
    ACCEPT_LOCKED = 66,    /* the device's parameters are damaged */
} device_accept;

/* How the last boot chose its model. */
typedef enum {
    BOOT_EMPTY = 0,
    BOOT_CONFIRMED = 1,
    BOOT_TRIAL = 2,
    BOOT_REVERTED = 3,
    BOOT_FAILED_TRIAL = 4
} device_boot_kind;

typedef struct {
    uint32_t picture; /* the host's number of it */
    uint32_t next_row;
    uint64_t rows_us; /* spent in the network before the last row was in */
    uint64_t tail_us; /* after it */
    int8_t outputs[RS_MAX_OUTPUTS];
    device_verdict verdict;
    bool begun, finished;
} device_picture;

typedef struct device {
    const hal *hal;
    params params;
    slots slots;
    rs_info models[2]; /* of the slots that hold an accepted image */
    bool accepted[2];
    uint8_t running; /* slot, or SLOT_NONE */
    bool trusted;    /* the running model's golden pictures came out right */
    uint32_t golden_passed;
    device_boot_kind boot;
    rs_net net;
    device_picture picture;
    bool gate_open;
    uint64_t gate_until_us;
    uint32_t passes, rejects;
    uint8_t upload_sha[RS_DIGEST_BYTES]; /* of the whole file, as its sender announced it */
    bool upload_has_sha;
    uint32_t upload_announced;              /* bytes of the whole file */
    uint32_t head_bytes;                    /* of `head`, while it is gathered */
    bool gathering;                         /* an upload was announced whose header is not whole yet */
    uint8_t head[DEVICE_UPLOAD_HEAD_BYTES]; /* its first bytes, from pieces that are too small to hold them */
    bool reset_asked;                       /* after the reply is out */
    frame_reader frame;
    perf perf;
    _Alignas(4) uint8_t rx[DEVICE_RX_BYTES];
    uint8_t tx[DEVICE_TX_BYTES];
} device;

/* Closes the gate, reads the slots, chooses the model of this boot and tests it. */
void device_boot(device *device, const hal *hal);
/* Takes what has arrived on the wire, answers it, and closes the gate when its time is over. */
void device_poll(device *device);

const rs_info *device_model(const device *device); /* NULL when none runs */
bool device_confirmed(const device *device);       /* the running model is the one in force */

void device_close_gate(device *device);
/* Runs the golden pictures; a picture in progress is lost. The receive buffer is used for rows. */
bool device_selftest(device *device);
/* One picture. A picture number guards against another host's rows. False: not possible now. */
bool device_begin(device *device, uint32_t picture);
bool device_push(device *device, const uint8_t *row);
bool device_finish(device *device);

/* Whether the image that begins with these bytes may be uploaded: what its header alone can tell. */
device_accept device_accept_header(const device *device, const uint8_t *start, size_t bytes, uint32_t announced);
/* Checks all of the spare slot's image; on success it may be requested. */
device_accept device_accept_spare(device *device);
/* The model on trial becomes the one in force; refused when its golden pictures failed. */
slots_status device_confirm(device *device);

#endif
