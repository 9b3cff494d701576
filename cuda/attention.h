/*
 * Attention over caches (docs/semantics.md, sections 4a and 6).
 *
 * A segment of up to HY_ATTENTION_DECODE_ROWS rows goes to attention_decode.cu, a longer one to the
 * tiles of attention_prefill.cu or, if q and weights are rounded to 16 bits, attention_mma.cu. So
 * the segment's own number of rows decides, and a row's bits depend on that, its position and what
 * stands before it: not on neighbours, on the cuts of its keys into spans, or on its place among
 * the rows of kernels of the same kind.
 *
 * Sizes: keys of up to 512 elements for more than five heads to a key head on devices whose blocks
 * have 99 KiB of shared memory at most (longer ones elsewhere); values of any.
 *
 * How a step's attention is launched:
 *   hy_cuda_attention_plan(args, &plan)   plan.list_bytes, plan.workspace_bytes
 *   hy_cuda_attention_lists(args, &plan, lists, device_lists)
 *   copy of plan.list_bytes bytes from lists to device_lists, on the stream
 *   hy_cuda_attention(stream, args, &plan, workspace)
 */
#ifndef HYMBA_CUDA_ATTENTION_H
#define HYMBA_CUDA_ATTENTION_H

#include "attention_lists.h"

/* What a step consists of; pointers are the device's, or count from the lists' first byte. */
struct hy_attention_plan {
    size_t list_bytes;      /* of the lists that the pointers lead into; a multiple of 16 */
    size_t spans_at;        /* bytes from their first to the first span */
    size_t workspace_bytes; /* of device memory that the launch needs: for each part of a decoded
                               row's keys, n_heads * (v_size up to a multiple of 4, + 2) * 4 */
    struct hy_attention_lists parts; /* of rows that are decoded */
    const struct hy_attention_merge *merges;
    size_t n_merges;
    struct hy_attention_lists tiles; /* of the others */
    unsigned tile_pairs;
};

/*
 * args: sequences and spans on the host, keys and values on the device. The plan's pointers are
 * left counting from the first byte of the lists, which are yet to be made. False if the call is
 * too large for a grid. rows, if not 0: of a step, whose sequences have a row each, as many as
 * there are sequences or more; where in the lists things lie, and everything in the plan but
 * list_bytes and spans_at, is then the same for steps that are alike in rows and roughly in their
 * sequences' mean length. tile_pairs, if not 0: HY_ATTENTION_TILE or twice as many for kernels that
 * take so many; results do not depend on it.
 */
bool hy_cuda_attention_plan(const struct hy_attention_args *args, struct hy_attention_plan *plan,
                            size_t rows = 0, unsigned tile_pairs = 0);

/* The lists of the plan just made of args. lists: plan->list_bytes of the host's at a multiple of
 * 16. device_lists: where they will lie, and the plan's pointers then lead. */
void hy_cuda_attention_lists(const struct hy_attention_args *args, struct hy_attention_plan *plan,
                             void *lists, const void *device_lists);

/*
 * args: as planned; its sequences are not read. workspace: at a multiple of 16, for this launch
 * alone. Every row sees a key, its own at least; rows that are in no segment are left alone.
 * Errors are cudaGetLastError's.
 */
void hy_cuda_attention(cudaStream_t stream, const struct hy_attention_args *args,
                       const struct hy_attention_plan *plan, void *workspace);

#endif
