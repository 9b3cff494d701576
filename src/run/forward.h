/* The forward pass: one loop over the layer plan for a ragged step of sequences. */
#ifndef HY_RUN_FORWARD_H
#define HY_RUN_FORWARD_H

#include "run/context.h"

/* One sequence's part of a step. */
struct hy_step_sequence {
    size_t item;         /* the caller's number for it */
    struct hy_state *state;
    /* An f32 working copy of its recurrent states; or NULL: its single row goes straight from the
     * states that it has to spare, a place for them in the same layout. */
    float *recurrent;
    unsigned char *spare;
    const int32_t *ids;  /* tokens; for the meta sequence NULL */
    struct hy_segment segment;
    /* Rows of the segment behind which the recurrent state is kept, for going back later: from
     * keep_begin to before keep_end, each into its own working copy in kept. */
    size_t keep_begin, keep_end;
    float *kept;
};

/*
 * Runs the n sequences, whose segments cover the step's rows in order. Afterwards workspace.x
 * holds the residual stream, workspace.step_kv the new keys and values, and the working copies or
 * spare places the new recurrent states; nothing else has changed. CANCELLED is found between
 * layers.
 */
hymba_status hy_forward(hymba_context *context, const struct hy_step_sequence *sequences, size_t n,
                        hymba_error *error);

/* Final norm and logits of n <= workspace.logits_rows rows of workspace.x, into
 * workspace.logits. On a plug-in's device they are only queued. */
void hy_forward_logits(hymba_context *context, const size_t *rows, size_t n);

#endif
