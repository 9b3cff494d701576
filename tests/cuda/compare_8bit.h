/* Rows and products of 8 bits of a device against generic C: what compare_ops.h does for others. */
#ifndef HYMBA_TEST_COMPARE_8BIT_H
#define HYMBA_TEST_COMPARE_8BIT_H

extern "C" {
#include "backend/device.h"
}

/* NULL if the device agrees, or a sentence on where it does not, valid until the next call. Where
 * the device's name says that it is older than sm_89, products of fp8 are left out. */
const char *compare_8_bits(const struct hy_device_ops *ops, struct hy_device *device,
                           unsigned seed);

#endif
