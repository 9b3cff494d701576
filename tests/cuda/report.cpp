/* What the harness found, for programs that open the plug-in and do not know C++ names. */
#include "report.h"

#include "harness.h"

extern "C" size_t harness_report(const char **first)
{
    size_t count = harness_error_count();
    *first = harness_first_error();
    return count;
}

extern "C" size_t harness_report_calls(const char *call)
{
    return harness_call_count(call);
}

extern "C" size_t harness_report_kernels(const char *name)
{
    return name ? harness_kernel_count(name) : harness_launch_count();
}

extern "C" void harness_report_fail(const char *call, unsigned nth, int memory)
{
    const cudaError_t code = memory ? cudaErrorMemoryAllocation : cudaErrorUnknown;
    harness_fail_no_more();
    if (nth > 0)
        harness_fail_next(call, nth, code);
    if (nth > 0 && memory)
        harness_fail_next(call, nth + 1, code);
}
