/* What the harness's own files share. */
#ifndef HYMBA_TEST_INSIDE_H
#define HYMBA_TEST_INSIDE_H

#include "harness.h"

#include <functional>
#include <mutex>
#include <string>

/* One host thread at a time is within the played device. */
extern std::recursive_mutex harness_mutex;

/* Counts a fault and keeps its words, with the kernel and thread that run now. */
void harness_report(enum harness_fault fault, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Runs a kernel to its end. */
void harness_run_kernel(const char *name, dim3 grid, unsigned threads, size_t shared_bytes,
                        const std::function<void()> &body);

/* The checks of kernel.cpp forget what was; so does the record of launches. */
void harness_forget_launches();
void harness_forget_faults();

/* Runs all that is queued, on all streams. */
void harness_drain();

/* cuBLASLt's objects that are not destroyed; destroys them. */
size_t harness_live_handles();
void harness_forget_handles();

/* Counts a call of that name; whether it is to fail now, and how. */
bool harness_call_fails(const char *name, cudaError_t *error);

/* Whether the device was lost; then with what error. */
cudaError_t harness_lost();

/* Queues work on a stream, after what stands there. */
void harness_queue(cudaStream_t stream, std::function<void()> work);

/* Whether this is a stream now. */
bool harness_is_stream(cudaStream_t stream);

/* A call of the runtime begins: counts it; what fails in it before it has done anything. At its end
 * its error becomes the last one. */
cudaError_t harness_begin_call(const char *name);
cudaError_t harness_end_call(cudaError_t error);

/* ------------------------------------------------------------- graphs.cpp */

/* Work of a stream that is being captured is kept, not queued; false if it is not captured. */
bool harness_capture(cudaStream_t stream, const std::function<void()> &work);

/* A call that a capture does not allow, on the captured stream, or with NULL by a thread that
 * captures in the mode that forbids it: ends the capture. Whether there was one. */
bool harness_spoil_capture(cudaStream_t stream, const char *call);

size_t harness_live_graphs();
void harness_forget_graphs();

#endif
