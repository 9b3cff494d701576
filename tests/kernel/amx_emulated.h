/*
 * The tile instructions of amx_tiles.h in plain C, as Intel's manual (volume 2) describes them, so
 * that the kernels can be tested where no processor has them. What a processor refuses fails the
 * test: a tile of wrong or no shape, or shapes that do not fit one another.
 */
#ifndef AMX_EMULATED_H
#define AMX_EMULATED_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include <check.h>

#include "kernel/kernel.h"
#include "kernel/x86/amx_config.h"

static _Thread_local struct {
    struct tile_config config;
    unsigned char data[TILES][TILE_ROWS][TILE_BYTES];
} tiles;

static inline void emulate_configure(const struct tile_config *config)
{
    static const uint8_t zeros[16];
    ck_assert_uint_eq(config->palette, 1);
    ck_assert_uint_eq(config->start_row, 0);
    ck_assert_mem_eq(config->reserved, zeros, sizeof config->reserved);
    for (size_t i = 0; i < 16; i++) {
        ck_assert_uint_le(config->row_bytes[i], i < TILES ? TILE_BYTES : 0);
        ck_assert_uint_le(config->rows[i], i < TILES ? TILE_ROWS : 0);
        ck_assert_int_eq(config->rows[i] == 0, config->row_bytes[i] == 0);
    }
    memset(&tiles, 0, sizeof tiles);
    tiles.config = *config;
}

static inline void emulate_release(void)
{
    memset(&tiles, 0, sizeof tiles);
}

/* Whether this thread's tiles are as before the first configuration. */
static inline bool emulated_tiles_are_released(void)
{
    return tiles.config.palette == 0;
}

static inline void check_shape(size_t tile)
{
    ck_assert_msg(tiles.config.palette == 1 && tiles.config.rows[tile] > 0,
                  "tile %zu is used without a shape", tile);
}

static inline void emulate_zero(size_t tile)
{
    check_shape(tile);
    memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
}

static inline void emulate_load(size_t tile, const void *from, size_t stride)
{
    emulate_zero(tile);
    for (size_t row = 0; row < tiles.config.rows[tile]; row++)
        memcpy(tiles.data[tile][row], (const unsigned char *)from + row * stride,
               tiles.config.row_bytes[tile]);
}

static inline void emulate_store(size_t tile, void *to, size_t stride)
{
    check_shape(tile);
    for (size_t row = 0; row < tiles.config.rows[tile]; row++)
        memcpy((unsigned char *)to + row * stride, tiles.data[tile][row],
               tiles.config.row_bytes[tile]);
}

static inline void check_product(size_t sums, size_t a, size_t b)
{
    const struct tile_config *config = &tiles.config;
    check_shape(sums);
    check_shape(a);
    check_shape(b);
    ck_assert(sums != a && sums != b && a != b);
    ck_assert_uint_eq(config->rows[sums], config->rows[a]);
    ck_assert_uint_eq(config->row_bytes[sums], config->row_bytes[b]);
    ck_assert_uint_eq(config->row_bytes[a], 4 * config->rows[b]);
    ck_assert_uint_eq(config->row_bytes[sums] % 4, 0);
}

/* Numbers below the normal ones count as 0, as factors, terms and results. */
static inline float flush(float v)
{
    return fabsf(v) < FLT_MIN ? copysignf(0.0f, v) : v;
}

static inline float bf16_of(const unsigned char *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return flush(hy_bits_to_f32((uint32_t)half << 16));
}

/* Sums of elements with even and with odd indices, each rounded once per term; then both, then
 * what was there before. */
static inline void emulate_dot_bf16(size_t sums, size_t a, size_t b)
{
    check_product(sums, a, b);
    size_t n_columns = tiles.config.row_bytes[sums] / 4u, n_pairs = tiles.config.rows[b];
    float factors[TILE_ROWS][2][TILE_ROWS];
    for (size_t i = 0; i < n_pairs; i++)
        for (size_t column = 0; column < n_columns; column++)
            for (size_t odd = 0; odd < 2; odd++)
                factors[i][odd][column] = bf16_of(tiles.data[b][i] + 4 * column + 2 * odd);
    for (size_t row = 0; row < tiles.config.rows[sums]; row++) {
        float even_odd[2][TILE_ROWS] = {{0.0f}};
        for (size_t i = 0; i < n_pairs; i++)
            for (size_t odd = 0; odd < 2; odd++) {
                float v = bf16_of(tiles.data[a][row] + 4 * i + 2 * odd);
                for (size_t column = 0; column < n_columns; column++)
                    even_odd[odd][column] =
                        flush(fmaf(v, factors[i][odd][column], even_odd[odd][column]));
            }
        for (size_t column = 0; column < n_columns; column++) {
            float sum;
            memcpy(&sum, tiles.data[sums][row] + 4 * column, sizeof sum);
            sum = flush(flush(sum) + flush(even_odd[0][column] + even_odd[1][column]));
            memcpy(tiles.data[sums][row] + 4 * column, &sum, sizeof sum);
        }
    }
}

/* Unsigned bytes of a, signed ones of b; sums wrap around. */
static inline void emulate_dot_int8(size_t sums, size_t a, size_t b)
{
    check_product(sums, a, b);
    size_t n_columns = tiles.config.row_bytes[sums] / 4u, n_quads = tiles.config.rows[b];
    for (size_t row = 0; row < tiles.config.rows[sums]; row++) {
        for (size_t column = 0; column < n_columns; column++) {
            uint32_t sum;
            memcpy(&sum, tiles.data[sums][row] + 4 * column, sizeof sum);
            for (size_t i = 0; i < 4 * n_quads; i++) {
                int value = tiles.data[b][i / 4][4 * column + i % 4];
                value = value < 128 ? value : value - 256;
                sum += (uint32_t)(tiles.data[a][row][i] * value);
            }
            memcpy(tiles.data[sums][row] + 4 * column, &sum, sizeof sum);
        }
    }
}

#define HY_TILE_CONFIGURE(config) emulate_configure(config)
#define HY_TILE_RELEASE() emulate_release()
#define HY_TILE_ZERO(tile) emulate_zero(tile)
#define HY_TILE_LOAD(tile, from, stride) emulate_load(tile, from, stride)
#define HY_TILE_STORE(tile, to, stride) emulate_store(tile, to, stride)
#define HY_TILE_DOT_BF16(sums, a, b) emulate_dot_bf16(sums, a, b)
#define HY_TILE_DOT_INT8(sums, a, b) emulate_dot_int8(sums, a, b)

#endif
