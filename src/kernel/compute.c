/* The kinds of arithmetic. */
#include "kernel/kernel.h"

static const char *const names[] = {
    [HYMBA_COMPUTE_F32] = "f32",
    [HYMBA_COMPUTE_BF16] = "bf16",
    [HYMBA_COMPUTE_INT8] = "int8",
    [HYMBA_COMPUTE_FP8] = "fp8",
};

enum { N_NAMES = sizeof names / sizeof names[0] };

hymba_dtype hy_rounded_type(int compute, hymba_dtype weights)
{
    if (hy_is_quantised(weights))
        return compute == HYMBA_COMPUTE_INT8 ? HYMBA_DTYPE_INT8 : HYMBA_DTYPE_F32;
    return compute != HYMBA_COMPUTE_F32 && weights == HYMBA_DTYPE_BF16 ? HYMBA_DTYPE_BF16
                                                                       : HYMBA_DTYPE_F32;
}

hymba_dtype hy_by_rows_type(int compute)
{
    return compute == HYMBA_COMPUTE_INT8  ? HYMBA_DTYPE_INT8
           : compute == HYMBA_COMPUTE_FP8 ? HYMBA_DTYPE_FP8
                                          : HYMBA_DTYPE_DEFAULT;
}

const char *hy_compute_name(int compute)
{
    return compute > 0 && compute < N_NAMES ? names[compute] : NULL;
}

int hy_compute_from_name(const char *name)
{
    for (int i = 1; name && i < N_NAMES; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return HYMBA_COMPUTE_DEFAULT;
}
