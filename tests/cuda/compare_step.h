/*
 * The ops of a small layer, one by one and as steps that are recorded: launched, made a graph, and
 * replayed with other sessions. The bits must be the same, and there must be a graph. Through the
 * device's table and its log alone, so under the harness and on a GPU.
 */
#ifndef HYMBA_TEST_COMPARE_STEP_H
#define HYMBA_TEST_COMPARE_STEP_H

extern "C" {
#include "backend/device.h"
}

/* NULL if all is well, or what is not, valid until the next call. graph_line, of 256 bytes, gets
 * what the log said of the graph. */
const char *compare_step(const struct hy_device_ops *ops, int index, unsigned seed,
                         char *graph_line);

#endif
