/* Calls of the runtime, as the stand-in's files make them. */
#ifndef HYMBA_TEST_CALL_H
#define HYMBA_TEST_CALL_H

#include "inside.h"

/* Every call of the runtime begins with one of these: it takes the lock and finds what fails. */
class call {
public:
    explicit call(const char *name_) : error(cudaSuccess), name(name_), lock(harness_mutex)
    {
        error = harness_begin_call(name);
    }
    /* A call that a thread may not make that captures a stream. */
    call(const char *name_, cudaStream_t captured) : call(name_)
    {
        if (!error && harness_spoil_capture(captured, name))
            error = cudaErrorStreamCaptureUnsupported;
    }
    cudaError_t end(cudaError_t result) const
    {
        return harness_end_call(result);
    }
    cudaError_t end() const
    {
        return end(error ? error : harness_lost());
    }
    /* A caller's mistake. */
    cudaError_t refuse(cudaError_t result, const char *what) const
    {
        harness_report(HARNESS_CALL, "%s: %s", name, what);
        return end(result);
    }
    cudaError_t error;

private:
    const char *name;
    std::lock_guard<std::recursive_mutex> lock;
};

#endif
