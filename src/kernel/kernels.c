#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/cpu.h"
#include "kernel/ref.h"

void hy_kernels_generic(struct hy_kernels *kernels)
{
    *kernels = (struct hy_kernels){
        .name = "generic",
        .embed = hy_ref_embed,
        .rms_norm = hy_ref_rms_norm,
        .matmul = hy_ref_matmul,
        .round = hy_ref_round,
        .rope = hy_ref_rope,
        .cache_rows = hy_ref_cache_rows,
        .attention = hy_ref_attention,
        .conv = hy_ref_conv,
        .scan = hy_ref_scan,
        .fuse = hy_ref_fuse,
        .square_sums = hy_ref_square_sums,
        .swiglu = hy_ref_swiglu,
    };
}

#ifndef __x86_64__
/* Not there, and never called, on processors of another kind. */
#define hy_kernels_avx2 NULL
#define hy_kernels_avx512 NULL
#define hy_kernels_amx NULL
#define hy_has_amx_kernels() false
#endif
#ifndef __aarch64__
#define hy_kernels_neon NULL
#endif

static bool runs_anywhere(const struct hy_cpu *cpu)
{
    (void)cpu;
    return true;
}

static bool has_avx2(const struct hy_cpu *cpu)
{
    return cpu->avx2;
}

static bool has_avx512(const struct hy_cpu *cpu)
{
    return cpu->avx512;
}

/* The permission is asked for where the answer matters: tiles make signal frames larger. */
static bool has_amx(const struct hy_cpu *cpu)
{
    return cpu->amx && hy_has_amx_kernels() && hy_cpu_ask_for_tiles();
}

static bool has_neon(const struct hy_cpu *cpu)
{
    return cpu->neon;
}

/* By name, from the lowest to the highest: each takes what it does not replace from those before
 * it that the processor runs. */
static const struct {
    const char *name;
    bool (*runs_on)(const struct hy_cpu *cpu);
    void (*fill)(struct hy_kernels *kernels);
} sets[] = {
    {"generic", runs_anywhere, hy_kernels_generic},
    {"avx2", has_avx2, hy_kernels_avx2},
    {"avx512", has_avx512, hy_kernels_avx512},
    {"amx", has_amx, hy_kernels_amx},
    {"neon", has_neon, hy_kernels_neon},
};

enum { N_SETS = sizeof sets / sizeof sets[0] };

static size_t best_set(const struct hy_cpu *cpu)
{
    size_t i = N_SETS - 1;
    while (!sets[i].runs_on(cpu))
        i--;
    return i;
}

/* N_SETS if there is none. */
static size_t set_named(const char *name)
{
    size_t i = 0;
    while (i < N_SETS && strcmp(sets[i].name, name) != 0)
        i++;
    return i;
}

static hymba_status fail_unknown(const char *source, const char *name, hymba_error *error)
{
    char names[128] = "best";
    for (size_t i = 0, used = strlen(names); i < N_SETS && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s",
                                 i + 1 < N_SETS ? ", " : " or ", sets[i].name);
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "%sinstruction set \"%s\" is unknown: expected %s", source, name, names);
}

hymba_status hy_kernels_init(struct hy_kernels *kernels, const char *instruction_set,
                             hymba_error *error)
{
    const char *wish = getenv("HYMBA_CPU");
    bool by_wish = !instruction_set && wish && *wish;
    const char *name = by_wish ? wish : instruction_set ? instruction_set : "best";
    const char *source = by_wish ? "HYMBA_CPU: " : "";
    struct hy_cpu cpu = hy_cpu_detect();
    size_t chosen = strcmp(name, "best") == 0 ? best_set(&cpu) : set_named(name);
    if (chosen == N_SETS)
        return fail_unknown(source, name, error);
    if (!sets[chosen].runs_on(&cpu))
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%sinstruction set %s: this processor or its operating system lacks it",
                       source, name);
    for (size_t i = 0; i <= chosen; i++)
        if (sets[i].runs_on(&cpu))
            sets[i].fill(kernels);
    return HYMBA_OK;
}
