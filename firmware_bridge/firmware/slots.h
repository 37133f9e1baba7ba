/* Two model slots and the log that says which of them runs.
 *
 * The log is a row of 32-byte records over two sectors; each record is the whole state, with a
 * sequence number and a CRC, and the newest whole record is in force. A full sector is left
 * untouched until the other one holds a newer record, so that power may go at any moment.
 * The slot in force is never erased; a model on trial that nobody confirmed is left at the next boot.
 *
 * Leaves out: what an image is and whether it may be accepted (device.c).
 */
#ifndef DIAGLINE_SLOTS_H
#define DIAGLINE_SLOTS_H

#include "hal.h"

enum { SLOT_NONE = 0xFF, SLOTS_KEY_BYTES = 8 };

typedef enum {
    SLOTS_OK = 0,
    SLOTS_ERR_FLASH = -1,  /* flash refused to erase or program, or reads back otherwise */
    SLOTS_ERR_STATE = -2,  /* not possible now: no upload begun, nothing to confirm, model on trial */
    SLOTS_ERR_OFFSET = -3, /* not where the upload stands; ask and go on from there */
    SLOTS_ERR_SIZE = -4,   /* larger than a slot, or more data than announced */
} slots_status;

typedef enum { STAGE_STEADY = 0, STAGE_REQUESTED = 1, STAGE_TRYING = 2 } slots_stage;
typedef enum { SPARE_EMPTY = 0, SPARE_UPLOADING = 1, SPARE_COMPLETE = 2 } slots_spare;

typedef struct {
    uint32_t sequence;
    uint8_t active;    /* the confirmed model's slot, or SLOT_NONE before the first */
    uint8_t stage;     /* slots_stage: of the model in the spare slot */
    uint8_t permanent; /* 1: on trial it is confirmed by the device itself, after its self-test */
    uint8_t spare;     /* slots_spare: what the spare slot holds */
    uint32_t upload_bytes;
    uint32_t upload_offset;              /* bytes that are surely in flash: whole sectors */
    uint8_t upload_key[SLOTS_KEY_BYTES]; /* the start of the upload's SHA-256: what may be resumed */
} slots_state;

typedef struct {
    const hal *hal;
    slots_state state;
    uint32_t next_sequence;
    uint32_t next_cell; /* address of the next record; may be the end of its sector */
    uint8_t sector;     /* 0 or 1: where the newest record lies */
    uint32_t received;  /* bytes of the upload programmed and read back */
    bool uploading;     /* an upload was begun or resumed since boot */
} slots;

/* Reads the log. A device without one has no model and two empty slots. */
void slots_open(slots *slots, const hal *hal);

/* The slot that is neither in force nor running before its confirmation. */
uint8_t slots_spare_slot(const slots *slots);

/* Chooses the slot of this boot. `may_try` says that the requested model is fit to be tried; only
 * then is the trial recorded, before it starts. Returns the slot to run, or SLOT_NONE. */
uint8_t slots_boot(slots *slots, bool may_try);

/* Asks for a trial of the spare slot's model at the next boot. */
slots_status slots_request(slots *slots, bool permanent);
/* The model on trial becomes the one in force. */
slots_status slots_confirm(slots *slots);
/* The model on trial is left; the one in force runs from now on. */
slots_status slots_revert(slots *slots);

/* Begins an upload of `bytes` into the spare slot; erases nothing yet. Takes a request back. */
slots_status slots_upload_begin(slots *slots, uint32_t bytes, const uint8_t key[SLOTS_KEY_BYTES]);
/* Goes on with an upload that a reset or a new host interrupted, at `slots->received`, if key and size are its own. */
bool slots_upload_resume(slots *slots, uint32_t bytes, const uint8_t key[SLOTS_KEY_BYTES]);
/* Programs data at `offset`, which must be `slots->received`; all but the last piece are whole words.
 * After SLOTS_ERR_FLASH `received` is back at the start of the sector. */
slots_status slots_upload_write(slots *slots, uint32_t offset, const uint8_t *data, uint32_t bytes);
/* All is there and was checked by the caller: the model may be requested. */
slots_status slots_upload_finish(slots *slots);
/* Forgets what the spare slot holds. */
slots_status slots_forget(slots *slots);

#endif
