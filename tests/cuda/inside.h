/* What the harness's own files share. */
#ifndef HYMBA_TEST_INSIDE_H
#define HYMBA_TEST_INSIDE_H

#include "harness.h"

#include <pthread.h>

#include <functional>
#include <mutex>
#include <string>
#include <vector>

/* One host thread at a time is within the played devices; where it waits for what another thread
 * must do, it lets go of them. */
extern std::recursive_mutex harness_mutex;

/* Counts a fault and keeps its words, with the kernel and thread that run now. */
void harness_report(enum harness_fault fault, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Runs a kernel to its end. */
void harness_run_kernel(const char *name, dim3 grid, unsigned threads, size_t shared_bytes,
                        const std::function<void()> &body);

/* Forgets the record of launches; the faults. */
void harness_forget_launches();
void harness_forget_faults();

/* cuBLASLt's objects that are not destroyed; destroys them. */
size_t harness_live_handles();
void harness_forget_handles();

/* Counts a call of that name; whether it is to fail now, and how. */
bool harness_call_fails(const char *name, cudaError_t *error);

/* Whether the device was lost; then with what error. */
cudaError_t harness_lost();

/*
 * A number of each thread's own, 0 at first. Not thread_local: in a library that is opened the leak
 * sanitizer takes such memory for something else where it begins 16 bytes into a page, and crashes.
 */
class harness_thread_number {
public:
    harness_thread_number();
    ~harness_thread_number();
    operator int() const;
    harness_thread_number &operator=(int number);

private:
    pthread_key_t key;
};

/* What the test wants the devices to be; and which of them the calling thread has chosen. */
extern struct harness_device_config harness_config;
extern harness_thread_number harness_current_device;

/* What each executable graph takes, as the test wants it. */
size_t harness_bytes_of_graph();

/* A call of the runtime begins: counts it; what fails in it before it has done anything. At its end
 * its error becomes the last one. */
cudaError_t harness_begin_call(const char *name);
cudaError_t harness_end_call(cudaError_t error);

/* ------------------------------------------------------------ streams.cpp */

/* Work of a stream; false if it has to wait for other streams: it is called again then. What it
 * keeps while it waits is its own: it is copied from what was queued or captured. */
typedef std::function<bool()> harness_work;

/* Queues work on a stream, after what stands there. */
void harness_queue(cudaStream_t stream, std::function<void()> work);
void harness_queue_work(cudaStream_t stream, harness_work work);

/* Runs all that is queued, on all streams, but what waits for another rank. */
void harness_drain();

/* The same, while somebody waits: streams with a priority that come late do nothing unasked. */
void harness_go_on();

/* Runs what is queued on the calling thread's device, or on a stream, and waits for it. */
void harness_drain_device();
void harness_drain_stream(cudaStream_t stream);

/* Queues that a stream waits until another one has done so much of what was ever queued there. */
void harness_queue_wait(cudaStream_t stream, cudaStream_t other, uint64_t ticket);

/* How much that is so far. */
uint64_t harness_queued(cudaStream_t stream);

/* Whether this is a stream now; of which device; and whether it has a priority. */
bool harness_is_stream(cudaStream_t stream);
int harness_stream_device(cudaStream_t stream);
bool harness_is_urgent(cudaStream_t stream);

/* A stream of the runtime's own, on which branches of that number of graphs run that the stream
 * launches; it goes with the stream. */
cudaStream_t harness_branch(cudaStream_t stream, size_t number, bool urgent);

/* Streams and events. */
size_t harness_live_streams();
void harness_forget_streams();

/* ------------------------------------------------------ device_memory.cpp */

/* The device on which the address is memory that was taken for itself, of no pool; -1: none. */
int harness_block_device(const void *address);

/* Bytes of the current device's memory that are nobody's. */
size_t harness_free_bytes();

bool harness_is_pinned(const void *data);

/* Of devices and of the host. */
size_t harness_live_blocks();
void harness_forget_blocks();

/* ------------------------------------------------------------- graphs.cpp */

/* Work of a stream that is being captured is kept, not queued; false if it is not captured. */
bool harness_capture(cudaStream_t stream, const harness_work &work);

/* Which capture of all there were the stream is in; 0: none. */
size_t harness_capture_number(cudaStream_t stream);

/* What an event knows that was recorded on a captured stream: the capture (0: on none), its branch,
 * and how much of each branch comes before the event. */
struct harness_mark {
    size_t capture, branch;
    std::vector<uint64_t> before;
};
struct harness_mark harness_mark_capture(cudaStream_t stream);

/* A stream waits for an event with such a mark, and becomes a branch of the capture if it is none
 * yet. What goes out of a capture, or into one, is a fault and spoils it. */
cudaError_t harness_capture_wait(cudaStream_t stream, const struct harness_mark &mark);

/* A call that a capture does not allow, on the captured stream, or with NULL by a thread that
 * captures in the mode that forbids it: ends the capture. Whether there was one. */
bool harness_spoil_capture(cudaStream_t stream, const char *call);

size_t harness_live_graphs();
void harness_forget_graphs();

/* Bytes of the device's memory that executable graphs take. */
size_t harness_graph_bytes(int device);

/* --------------------------------------------------------------- nccl.cpp */

size_t harness_live_communicators();
void harness_forget_communicators();

/* -------------------------------------------------------------- pools.cpp */

/* Bytes that the device's pools hold, in use or not. */
size_t harness_pooled_bytes(int device);

/* The pool that cudaMallocAsync takes memory of. */
cudaMemPool_t harness_default_pool(int device);

/* Whether it is a pool now, of that device. */
bool harness_is_pool(cudaMemPool_t pool, int device);

/* Takes bytes of what the pool holds, and as many as it lacks of free_bytes, the device's; false if
 * these are too few. */
bool harness_take_from_pool(cudaMemPool_t pool, size_t bytes, size_t free_bytes);
void harness_give_to_pool(cudaMemPool_t pool, size_t bytes);

/* The host has waited: pools give back what they hold beyond their thresholds. */
void harness_shrink_pools();

size_t harness_live_pools();
void harness_forget_pools();

#endif
