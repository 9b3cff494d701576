/*
 * Ranks on devices 0, 1, ... of one process, a thread each, through the device's table alone: so
 * the same comparison runs under the harness and on a machine with several GPUs.
 */
#ifndef HYMBA_TEST_COMPARE_RANKS_H
#define HYMBA_TEST_COMPARE_RANKS_H

extern "C" {
#include "backend/device.h"
}

/* Sums against the host's in the order of ranks, bit by bit, single and in recorded steps, and an
 * exchange. NULL if all agree, or a sentence on what does not, valid until the next call. */
const char *compare_ranks(const struct hy_device_ops *ops, uint32_t n_ranks);

/* The last rank stops taking part, without graphs or after some: whether the others are told so
 * within the limit. NULL, or a sentence. */
const char *lose_a_rank(const struct hy_device_ops *ops, uint32_t n_ranks, uint32_t timeout_ms);

#endif
