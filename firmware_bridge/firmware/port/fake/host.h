/* A host that updates a fake device over SMP frames, one request at a time, and a wire that may hurt them.
 *
 * It does what `diagline flash` does: ask what runs, upload, request a trial, reset, look, confirm;
 * a request without an answer is sent again. For fault campaigns.
 */
#ifndef DIAGLINE_FAKE_HOST_H
#define DIAGLINE_FAKE_HOST_H

#include "../../device.h"
#include "fake.h"

typedef struct {
    uint8_t *data;
    uint32_t bytes;
    uint8_t sha[RS_DIGEST_BYTES];    /* of the whole file */
    uint8_t digest[RS_DIGEST_BYTES]; /* that the image states */
} host_image;

typedef enum { HOST_ASK, HOST_UPLOAD, HOST_TRY, HOST_RESET, HOST_CONFIRM, HOST_DONE } host_stage;

typedef struct {
    const host_image *image;
    host_stage stage;
    uint32_t offset, piece_bytes;
    uint32_t refused; /* the last refusal's number, 0: none */
    uint32_t failures;
    uint8_t sequence;
} host;

/* Odds of one in N for every byte on the wire, 0: never. */
typedef struct {
    uint32_t flip, lose, repeat, swap, invent;
} host_wire;

typedef struct {
    fake fake;
    device device;
    host_wire wire;
    frame_reader reader;
    uint8_t received[2048];
    void (*booted)(void); /* after every boot: the campaign looks whether a whole model runs */
} host_link;

/* Boots the device, also after a power cut. */
void host_boot(host_link *link);
/* One request and its reply, or none. */
void host_step(host *host, host_link *link);
/* Steps until it is done or `steps` are spent. True: the image is in force. */
bool host_run(host *host, host_link *link, uint32_t steps);

#endif
