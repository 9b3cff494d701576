/* Products of the AVX-512 kernels with tiles in place of vectors. */
#include "kernel/kernel.h"

#ifdef __x86_64__

#if defined(__AMX_TILE__) || defined(__AMXTILE__) /* clang's name for it */

#include "kernel/x86/amx_tiles.h"
#include "kernel/x86/vec_avx512.h"

static void matmul_f32(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    hy_matmul_f32_avx512(args, begin, end);
}

#include "kernel/vector/matmul_body.h"
#include "kernel/vector/quantised_body.h"

#include "kernel/x86/amx_body.h"

bool hy_has_amx_kernels(void)
{
    return true;
}

void hy_kernels_amx(struct hy_kernels *kernels)
{
    hy_kernels_avx512_bf16(kernels);
    use_tiles(kernels);
}

#else

/* The compiler is older than the instructions. */
bool hy_has_amx_kernels(void)
{
    return false;
}

void hy_kernels_amx(struct hy_kernels *kernels)
{
    hy_kernels_avx512(kernels);
}

#endif

#endif
