/*
 * The tile instructions of AMX. Registers are named by literal numbers, as in the instructions.
 * tests/kernel/amx_emulated.h has the same operations in plain C.
 *
 * What the hardware allows (Intel's optimization manual, Sapphire Rapids):
 *   product of whole tiles   16 x 16 x 64 bytes in 16 cycles, latency 52: 512 multiply-adds a cycle
 *                            of bf16, 1,024 of int8
 *   load                     8 cycles from the nearest cache, two lines a cycle; 16 if every row
 *                            of the tile lies across two lines
 *   store                    16 cycles
 *
 * Own assembly in place of the compiler's intrinsics: those of gcc 12 do not tell the compiler that
 * a load reads memory, and of a configuration only 8 of its 64 bytes; stores before them could be
 * moved behind or dropped.
 */
#ifndef HY_KERNEL_X86_AMX_TILES_H
#define HY_KERNEL_X86_AMX_TILES_H

#include "kernel/x86/amx_config.h"

/* Sets the shapes of this thread's tiles and fills them with zeros. */
#define HY_TILE_CONFIGURE(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(config)) : "memory")

/* Back to the state before the first configuration: nothing is left to save for the thread. */
#define HY_TILE_RELEASE() __asm__ volatile("tilerelease" : : : "memory")

#define HY_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)

/* Rows of memory, stride bytes apart. */
#define HY_TILE_LOAD(tile, from, stride)                                                           \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile                                            \
                     :                                                                             \
                     : "r"((const void *)(from)), "r"((size_t)(stride))                            \
                     : "memory")

#define HY_TILE_STORE(tile, to, stride)                                                            \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)"                                        \
                     :                                                                             \
                     : "r"((void *)(to)), "r"((size_t)(stride))                                    \
                     : "memory")

/* sums[r][c] += sum of a[r][i] * b[i / 2][2 * c + i % 2] over bf16 elements i. */
#define HY_TILE_DOT_BF16(sums, a, b)                                                               \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sums : :)

/* sums[r][c] += sum of a[r][i] * b[i / 4][4 * c + i % 4], unsigned bytes of a, signed ones of b. */
#define HY_TILE_DOT_INT8(sums, a, b)                                                               \
    __asm__ volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #sums : :)

#endif
