/* The AMX kernels on tiles in plain C, for processors without AMX: the table of the vector kernels
 * with the products and the rounding of AMX. False if the processor lacks the vectors, too. */
#ifndef AMX_KERNELS_H
#define AMX_KERNELS_H

#include "kernel/cpu.h"
#include "kernel/kernel.h"

bool amx_emulated_avx2(struct hy_kernels *kernels);
bool amx_emulated_avx512(struct hy_kernels *kernels);

#endif
