/* What the harness inside the plug-in found, looked up by name in the opened plug-in. */
#ifndef TESTS_CUDA_REPORT_H
#define TESTS_CUDA_REPORT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How many faults so far, and the first one in words. */
size_t harness_report(const char **first);
typedef size_t (*harness_report_function)(const char **first);
#define HARNESS_REPORT "harness_report"

#ifdef __cplusplus
}
#endif

#endif
