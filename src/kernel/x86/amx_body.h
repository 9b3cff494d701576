/* Products and rounding by the tiles of whatever defines HY_TILE_..., over a vector layer. */
#include "kernel/x86/amx_layout.h"

#include "kernel/x86/amx_bf16.h"
#include "kernel/x86/amx_int8.h"

/* Tiles take interleaved activations. One row of int8 waits for the memory alone, and vectors give
 * the same bits. */
static void matmul_tiles(const struct hy_matmul_args *args, size_t begin, size_t end, void *scratch)
{
    const struct hy_rounded *rounded = args->rounded;
    if (!rounded || rounded->block == 0 || begin == end)
        matmul(args, begin, end, scratch);
    else if (rounded->dtype == HYMBA_DTYPE_BF16)
        matmul_tiles_bf16(args, begin, end);
    else if (rounded->block > 1)
        matmul_tiles_int8(args, begin, end, scratch);
    else
        matmul(args, begin, end, scratch);
}

static void use_tiles(struct hy_kernels *kernels)
{
    kernels->name = "amx";
    kernels->has_bf16 = true;
    kernels->has_int8 = true;
    kernels->row_block = HY_ROW_BLOCK;
    kernels->matmul = matmul_tiles;
    kernels->round = round_blocks;
}
