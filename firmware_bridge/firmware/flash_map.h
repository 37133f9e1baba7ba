/* Where what lies in flash: device parameters, two metadata sectors, two model slots.
 *
 * A port with other sectors defines the two macros on the compiler's command line. A word is what
 * flash programs at once and protects with ECC; it is written once between two erases. 32 bytes
 * suit the widest of the usual microcontrollers and every narrower one.
 */
#ifndef DIAGLINE_FLASH_MAP_H
#define DIAGLINE_FLASH_MAP_H

#include <stdint.h>

#ifndef FLASH_SECTOR_BYTES
#define FLASH_SECTOR_BYTES 4096u
#endif
#ifndef FLASH_SLOT_SECTORS
#define FLASH_SLOT_SECTORS 128u
#endif

#define FLASH_WORD_BYTES 32u
#define FLASH_SLOT_BYTES (FLASH_SLOT_SECTORS * FLASH_SECTOR_BYTES)

#define FLASH_PARAMS 0u                      /* one sector, written at the factory, never by the firmware */
#define FLASH_META (1u * FLASH_SECTOR_BYTES) /* two sectors: the log of slots.c */
#define FLASH_SLOTS (4u * FLASH_SECTOR_BYTES)
#define FLASH_BYTES (FLASH_SLOTS + 2u * FLASH_SLOT_BYTES)

static inline uint32_t flash_slot(uint8_t slot) {
    return FLASH_SLOTS + slot * FLASH_SLOT_BYTES;
}

_Static_assert(FLASH_SECTOR_BYTES % FLASH_WORD_BYTES == 0, "a sector is a whole number of words");
_Static_assert(FLASH_SECTOR_BYTES >= 4u * FLASH_WORD_BYTES, "a metadata sector holds several records");

#endif
