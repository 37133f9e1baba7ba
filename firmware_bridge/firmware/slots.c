/* Two model slots and the log that says which of them runs; see slots.h.
 *
 * Record, 32 bytes, little-endian: sequence u32 | magic u16 | format u8 | active u8 | stage u8 |
 * permanent u8 | spare u8 | 0 u8 | upload bytes u32 | upload offset u32 | upload key 8 | CRC-32 of
 * the 28 bytes before.
 */
#include "slots.h"

#include <string.h>

#include "flash_map.h"
#include "image.h"

enum { RECORD_BYTES = 32, RECORD_MAGIC = 0x4C44, RECORD_FORMAT = 1 };

_Static_assert(RECORD_BYTES % FLASH_WORD_BYTES == 0, "a record is a whole number of words");

static void put_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void encode(uint8_t record[RECORD_BYTES], const slots_state *state) {
    put_u32(record, state->sequence);
    record[4] = RECORD_MAGIC & 0xFF;
    record[5] = RECORD_MAGIC >> 8;
    record[6] = RECORD_FORMAT;
    record[7] = state->active;
    record[8] = state->stage;
    record[9] = state->permanent;
    record[10] = state->spare;
    record[11] = 0;
    put_u32(record + 12, state->upload_bytes);
    put_u32(record + 16, state->upload_offset);
    memcpy(record + 20, state->upload_key, SLOTS_KEY_BYTES);
    put_u32(record + 28, rs_crc32(0, record, 28));
}

static bool decode(const uint8_t record[RECORD_BYTES], slots_state *state) {
    if (get_u32(record + 28) != rs_crc32(0, record, 28) || record[4] != (RECORD_MAGIC & 0xFF) ||
        record[5] != RECORD_MAGIC >> 8 || record[6] != RECORD_FORMAT) {
        return false;
    }
    state->sequence = get_u32(record);
    state->active = record[7];
    state->stage = record[8];
    state->permanent = record[9];
    state->spare = record[10];
    state->upload_bytes = get_u32(record + 12);
    state->upload_offset = get_u32(record + 16);
    memcpy(state->upload_key, record + 20, SLOTS_KEY_BYTES);
    return (state->active <= 1 || state->active == SLOT_NONE) && state->stage <= STAGE_TRYING &&
           state->spare <= SPARE_COMPLETE && state->upload_bytes <= FLASH_SLOT_BYTES &&
           state->upload_offset <= state->upload_bytes;
}

static uint32_t sector_start(uint8_t sector) {
    return FLASH_META + sector * FLASH_SECTOR_BYTES;
}

static bool is_blank(const uint8_t record[RECORD_BYTES]) {
    return record[0] == 0xFF && memcmp(record, record + 1, RECORD_BYTES - 1) == 0;
}

/* Programs whole words and reads them back: a bit that refuses is found here, not at the next boot. */
static bool program(const hal *hal, uint32_t address, const uint8_t *data, uint32_t bytes) {
    if (hal->flash_program(hal->context, address, data, bytes) != 0) {
        return false;
    }
    uint8_t back[FLASH_WORD_BYTES];
    for (uint32_t at = 0; at < bytes; at += FLASH_WORD_BYTES) {
        if (hal->flash_read(hal->context, address + at, back, FLASH_WORD_BYTES) != 0 ||
            memcmp(back, data + at, FLASH_WORD_BYTES) != 0) {
            return false;
        }
    }
    return true;
}

/* Writes the state as the newest record; until it is whole in flash the old one stays in force.
 * Cells that refuse are passed over. A sector is erased only while the other holds the state. */
static slots_status commit(slots *slots, slots_state state) {
    uint8_t sector = slots->sector;
    for (int other = 0; other <= 1; other++) {
        while (slots->next_cell + RECORD_BYTES <= sector_start(sector) + FLASH_SECTOR_BYTES) {
            uint8_t record[RECORD_BYTES];
            uint32_t cell = slots->next_cell;
            state.sequence = slots->next_sequence++; /* never used twice, not even by a failed attempt */
            encode(record, &state);
            slots->next_cell += RECORD_BYTES;
            if (program(slots->hal, cell, record, RECORD_BYTES)) {
                slots->state = state;
                slots->sector = sector;
                return SLOTS_OK;
            }
        }
        if (other == 0) {
            sector = slots->sector ^ 1u;
            if (slots->hal->flash_erase(slots->hal->context, sector_start(sector)) != 0) {
                break;
            }
            slots->next_cell = sector_start(sector);
        }
    }
    slots->next_cell = sector_start(slots->sector) + FLASH_SECTOR_BYTES; /* next time, try the other again */
    return SLOTS_ERR_FLASH;
}

void slots_open(slots *slots, const hal *hal) {
    memset(slots, 0, sizeof *slots);
    slots->hal = hal;
    slots->state.active = SLOT_NONE;
    slots->next_sequence = 1;
    slots->next_cell = sector_start(0) + FLASH_SECTOR_BYTES; /* nothing known: begin by erasing sector 1 */
    for (uint8_t sector = 0; sector < 2; sector++) {
        uint32_t end = sector_start(sector) + FLASH_SECTOR_BYTES;
        uint32_t used = sector_start(sector); /* the end of what was ever written, whole or not */
        bool newest = false;
        for (uint32_t cell = used; cell < end; cell += RECORD_BYTES) {
            uint8_t record[RECORD_BYTES];
            slots_state state;
            bool readable = hal->flash_read(hal->context, cell, record, RECORD_BYTES) == 0;
            if (readable && is_blank(record)) {
                continue;
            }
            used = cell + RECORD_BYTES;
            if (readable && decode(record, &state) && state.sequence >= slots->next_sequence) {
                slots->state = state;
                slots->next_sequence = state.sequence + 1;
                newest = true;
            }
        }
        if (newest) {
            slots->sector = sector;
            slots->next_cell = used;
        }
    }
    slots->received = slots->state.upload_offset;
}

uint8_t slots_spare_slot(const slots *slots) {
    return slots->state.active == 0 ? 1 : 0;
}

static slots_status set_stage(slots *slots, slots_stage stage, bool permanent) {
    slots_state state = slots->state;
    state.stage = (uint8_t)stage;
    state.permanent = permanent;
    return commit(slots, state);
}

uint8_t slots_boot(slots *slots, bool may_try) {
    if (slots->state.stage == STAGE_REQUESTED && may_try &&
        set_stage(slots, STAGE_TRYING, slots->state.permanent != 0) == SLOTS_OK) {
        return slots_spare_slot(slots);
    }
    if (slots->state.stage != STAGE_STEADY) {
        (void)set_stage(slots, STAGE_STEADY, false); /* if flash refuses, the next boot comes here again */
        slots->state.stage = STAGE_STEADY;
    }
    return slots->state.active;
}

slots_status slots_request(slots *slots, bool permanent) {
    if (slots->state.stage == STAGE_TRYING || slots->state.spare != SPARE_COMPLETE) {
        return SLOTS_ERR_STATE;
    }
    return set_stage(slots, STAGE_REQUESTED, permanent);
}

slots_status slots_confirm(slots *slots) {
    if (slots->state.stage != STAGE_TRYING) {
        return SLOTS_ERR_STATE;
    }
    slots_state state = slots->state;
    state.spare = state.active == SLOT_NONE ? SPARE_EMPTY : SPARE_COMPLETE; /* the old model stays, to go back to */
    state.active = slots_spare_slot(slots);
    state.stage = STAGE_STEADY;
    state.permanent = 0;
    state.upload_bytes = 0;
    state.upload_offset = 0;
    memset(state.upload_key, 0, SLOTS_KEY_BYTES);
    return commit(slots, state);
}

slots_status slots_revert(slots *slots) {
    return slots->state.stage == STAGE_TRYING ? set_stage(slots, STAGE_STEADY, false) : SLOTS_ERR_STATE;
}

slots_status slots_upload_begin(slots *slots, uint32_t bytes, const uint8_t key[SLOTS_KEY_BYTES]) {
    if (slots->state.stage == STAGE_TRYING) {
        return SLOTS_ERR_STATE; /* both slots are needed until it is confirmed or left */
    }
    if (bytes == 0 || bytes > FLASH_SLOT_BYTES) {
        return SLOTS_ERR_SIZE;
    }
    slots_state state = slots->state;
    state.stage = STAGE_STEADY;
    state.permanent = 0;
    state.spare = SPARE_UPLOADING;
    state.upload_bytes = bytes;
    state.upload_offset = 0;
    memcpy(state.upload_key, key, SLOTS_KEY_BYTES);
    slots->uploading = false;
    slots_status status = commit(slots, state);
    slots->uploading = status == SLOTS_OK;
    slots->received = 0;
    return status;
}

bool slots_upload_resume(slots *slots, uint32_t bytes, const uint8_t key[SLOTS_KEY_BYTES]) {
    const slots_state *state = &slots->state;
    if (state->spare != SPARE_UPLOADING || state->upload_bytes != bytes ||
        memcmp(state->upload_key, key, SLOTS_KEY_BYTES) != 0) {
        return false;
    }
    slots->uploading = true;
    return true;
}

/* One piece within one sector. */
static slots_status write_piece(slots *slots, const uint8_t *data, uint32_t bytes) {
    const hal *hal = slots->hal;
    uint32_t address = flash_slot(slots_spare_slot(slots)) + slots->received;
    if (slots->received % FLASH_SECTOR_BYTES == 0 && hal->flash_erase(hal->context, address) != 0) {
        return SLOTS_ERR_FLASH;
    }
    uint32_t whole = bytes - bytes % FLASH_WORD_BYTES;
    if (whole > 0 && !program(hal, address, data, whole)) {
        return SLOTS_ERR_FLASH;
    }
    if (whole < bytes) {
        uint8_t last[FLASH_WORD_BYTES];
        memset(last, 0xFF, sizeof last);
        memcpy(last, data + whole, bytes - whole);
        if (!program(hal, address + whole, last, sizeof last)) {
            return SLOTS_ERR_FLASH;
        }
    }
    slots->received += bytes;
    if (slots->received % FLASH_SECTOR_BYTES == 0) {
        slots_state state = slots->state;
        state.upload_offset = slots->received;
        return commit(slots, state);
    }
    return SLOTS_OK;
}

slots_status slots_upload_write(slots *slots, uint32_t offset, const uint8_t *data, uint32_t bytes) {
    if (!slots->uploading || slots->state.spare != SPARE_UPLOADING) {
        return SLOTS_ERR_STATE;
    }
    if (offset != slots->received) {
        return SLOTS_ERR_OFFSET;
    }
    uint32_t left = slots->state.upload_bytes - offset;
    if (bytes > left) {
        return SLOTS_ERR_SIZE;
    }
    if (bytes % FLASH_WORD_BYTES != 0 && bytes != left) {
        return SLOTS_ERR_OFFSET;
    }
    while (bytes > 0) {
        uint32_t piece = FLASH_SECTOR_BYTES - slots->received % FLASH_SECTOR_BYTES;
        piece = piece < bytes ? piece : bytes;
        slots_status status = write_piece(slots, data, piece);
        if (status != SLOTS_OK) {
            slots->received = slots->state.upload_offset;
            return status;
        }
        data += piece;
        bytes -= piece;
    }
    return SLOTS_OK;
}

slots_status slots_upload_finish(slots *slots) {
    if (!slots->uploading || slots->state.spare != SPARE_UPLOADING || slots->received != slots->state.upload_bytes) {
        return SLOTS_ERR_STATE;
    }
    slots_state state = slots->state;
    state.spare = SPARE_COMPLETE;
    slots_status status = commit(slots, state);
    slots->uploading = status != SLOTS_OK;
    return status;
}

slots_status slots_forget(slots *slots) {
    if (slots->state.stage == STAGE_TRYING) {
        return SLOTS_ERR_STATE;
    }
    slots_state state = slots->state;
    state.stage = STAGE_STEADY;
    state.permanent = 0;
    state.spare = SPARE_EMPTY;
    state.upload_bytes = 0;
    state.upload_offset = 0;
    slots->uploading = false;
    slots->received = 0;
    return commit(slots, state);
}
