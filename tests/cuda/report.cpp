/* What the harness found, for programs that open the plug-in and do not know C++ names. */
#include "report.h"

#include "harness.h"

extern "C" size_t harness_report(const char **first)
{
    size_t count = harness_error_count();
    *first = harness_first_error();
    return count;
}
