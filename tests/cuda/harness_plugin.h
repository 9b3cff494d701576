/* The harness as a plug-in: contexts of the test's own process compute on its device. */
#ifndef TESTS_CUDA_HARNESS_PLUGIN_H
#define TESTS_CUDA_HARNESS_PLUGIN_H

#include "report.h"

/* Opens it where a context looks for it: beside this program. */
void harness_plugin_open(void);

/* *function becomes what it has under that name. */
void harness_plugin_find(void *function, const char *name);

/* Fails the test if the harness has found a fault, and closes it. */
void harness_plugin_close(void);

#endif
