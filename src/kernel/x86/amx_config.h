/* The configuration of the tile registers, as the instruction that loads it wants it. */
#ifndef HY_KERNEL_X86_AMX_CONFIG_H
#define HY_KERNEL_X86_AMX_CONFIG_H

#include <stddef.h>
#include <stdint.h>

enum {
    TILES = 8,
    TILE_ROWS = 16,    /* of a tile, at most */
    TILE_BYTES = 64,   /* of a tile's row, at most */
    TILE_FLOATS = 256, /* of a whole tile */
};

struct tile_config {
    uint8_t palette;   /* 1: tiles; anything else is not used here */
    uint8_t start_row; /* where an interrupted load goes on */
    uint8_t reserved[14];
    uint16_t row_bytes[16]; /* of each tile, here and below */
    uint8_t rows[16];
};

_Static_assert(sizeof(struct tile_config) == 64, "the processor's layout");

#endif
