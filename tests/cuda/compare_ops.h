/*
 * Every op of a device against generic C, on random data, through the device's table alone: so the
 * same comparisons run under the harness and on a GPU.
 */
#ifndef HYMBA_TEST_COMPARE_OPS_H
#define HYMBA_TEST_COMPARE_OPS_H

extern "C" {
#include "backend/device.h"
}

#include <stddef.h>

/* Comparisons, and with those behind them that are for a real device: they take long elsewhere. */
size_t compare_count();
size_t compare_count_of_device();
const char *compare_name(size_t number);

/* NULL if the device agrees, or a sentence on where it does not, valid until the next call. */
const char *compare_op(size_t number, const struct hy_device_ops *ops, struct hy_device *device,
                       unsigned seed);

#endif
