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

/* How many calls of that name the plug-in has made of the runtime or of cuBLASLt. */
size_t harness_report_calls(const char *call);
typedef size_t (*harness_report_calls_function)(const char *call);
#define HARNESS_REPORT_CALLS "harness_report_calls"

/* How many kernels it has run, and how many of that name, without template arguments. */
size_t harness_report_kernels(const char *name); /* NULL: all */
typedef size_t (*harness_report_kernels_function)(const char *name);
#define HARNESS_REPORT_KERNELS "harness_report_kernels"

/* The nth call of that name from now on fails for another reason than lack of memory, or, as memory
 * is asked for twice, for that and the next one, too; and nothing else that was to fail does. n of
 * 0: none. */
void harness_report_fail(const char *call, unsigned nth, int memory);
typedef void (*harness_report_fail_function)(const char *call, unsigned nth, int memory);
#define HARNESS_REPORT_FAIL "harness_report_fail"

#ifdef __cplusplus
}
#endif

#endif
