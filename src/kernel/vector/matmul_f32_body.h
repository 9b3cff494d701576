/* Matrix product with f32 activations, by the tiles of matmul_body.h. */
#include "kernel/kernel.h"

static void matmul_f32(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    if (args->dtype == HYMBA_DTYPE_F32)
        matmul_as(args, begin, end, (struct tile_kind){HYMBA_DTYPE_F32, false, 0});
    else if (args->dtype == HYMBA_DTYPE_F16)
        matmul_as(args, begin, end, (struct tile_kind){HYMBA_DTYPE_F16, false, 0});
    else
        matmul_as(args, begin, end, (struct tile_kind){HYMBA_DTYPE_BF16, false, 0});
}
