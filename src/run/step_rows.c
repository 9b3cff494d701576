#include "run/step_rows.h"

#include "base/checked.h"

/*
 * Powers of two up to 64, then multiples of 32. A step of up to 128 rows takes the time of reading
 * the weights, and matrix products are made in panels of 128 rows (of 32 in f32) anyway; what a row
 * of nobody costs is its part of the small kernels: norms, rotation, gates read and write it, some
 * ten rows of activations a layer, and the convolution and the scan leave it out. No step beyond
 * 512 rows is rounded: launching it takes little of its time.
 */
enum { MOST_DOUBLED = 64, STEP = 32, MOST_ROWS = 512 };

static size_t round_rows_up(size_t n)
{
    size_t rows = 1;
    if (n > MOST_DOUBLED)
        return hy_round_up(n, STEP);
    while (rows < n)
        rows *= 2;
    return rows;
}

size_t hy_step_rows(const hymba_context *context, const struct hy_step_sequence *sequences,
                    size_t n)
{
    const struct hy_plugin *plugin = context->backend.plugin;
    if (!plugin || plugin->single_ops || context->backend.observer || n > MOST_ROWS)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (sequences[i].segment.n_rows != 1 || sequences[i].keep_begin < sequences[i].keep_end ||
            sequences[i].state->is_meta)
            return 0;
    return hy_min_size(round_rows_up(n), context->workspace.rows);
}
