/*
 * Streams and events. Work on a stream is queued and done as late as it may be: at the next call
 * that waits, so that a staging buffer which is filled anew too early, or a result that is read too
 * early, shows as wrong data. Work on the null stream is done at once, after all that is queued.
 *
 * A stream that was made with a priority works beside others, and may be faster or slower than they
 * are. It is played as one or the other (harness_device_config): as early as the events allow that
 * it waits for, as soon as work is queued; or as late as they allow, when another stream, or the
 * host, waits for it and for nothing less. So where it should wait and does not, the first way gives
 * wrong numbers, and where others should wait for it, the second one.
 */
#include "call.h"

#include <unistd.h>

#include <deque>
#include <set>

struct harness_stream {
    int device;
    bool urgent; /* made with a priority */
    bool own;    /* the runtime's: a branch of graphs */
    bool busy;   /* its first work is being done */
    std::deque<harness_work> queue;
    uint64_t queued, done;
    std::vector<cudaStream_t> branches; /* of graphs that it launches */
};

struct harness_event {
    cudaStream_t stream;
    uint64_t ticket; /* how many works of the stream stand before it */
    struct harness_mark mark;
};

namespace {

std::set<cudaStream_t> streams;
std::set<cudaEvent_t> events;

} // namespace

size_t harness_live_streams()
{
    size_t n = events.size();
    for (cudaStream_t stream : streams)
        n += !stream->own;
    return n;
}

void harness_forget_streams()
{
    for (cudaStream_t stream : streams)
        delete stream;
    for (cudaEvent_t event : events)
        delete event;
    streams.clear();
    events.clear();
}

/* ------------------------------------------------------------------ queues */

/* As far as nothing there has to wait; whether anything was done. */
static bool advance(cudaStream_t stream, uint64_t ticket)
{
    const uint64_t before = stream->done;
    while (stream->done < ticket && !stream->busy && !stream->queue.empty()) {
        harness_work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->busy = true;
        bool ended = harness_lost() || work();
        stream->busy = false;
        if (!ended) {
            stream->queue.push_front(std::move(work));
            break;
        }
        stream->done++;
    }
    return stream->done > before;
}

static void advance_all(bool late_ones_too)
{
    bool moves = true;
    while (moves) {
        moves = false;
        for (cudaStream_t stream : streams)
            if (late_ones_too || !stream->urgent || harness_config.urgent_first)
                moves = advance(stream, stream->queued) || moves;
    }
}

void harness_drain()
{
    advance_all(true);
}

void harness_go_on()
{
    advance_all(false);
}

/* A device that waits for another one lets its host's thread go on, and its own streams do. */
static void let_others_go_on()
{
    harness_go_on();
    harness_mutex.unlock();
    usleep(100);
    harness_mutex.lock();
}

static void drain_until(cudaStream_t stream, uint64_t ticket)
{
    while (streams.count(stream) > 0 && stream->done < ticket && !stream->busy) {
        advance(stream, ticket);
        if (stream->done < ticket)
            let_others_go_on();
    }
}

/* What is queued on the calling thread's device. */
void harness_drain_device()
{
    const std::set<cudaStream_t> all = streams;
    for (cudaStream_t stream : all)
        if (streams.count(stream) > 0 && stream->device == harness_current_device)
            drain_until(stream, stream->queued);
}

static bool is_null_stream(cudaStream_t stream)
{
    return stream == nullptr || stream == cudaStreamLegacy;
}

bool harness_is_stream(cudaStream_t stream)
{
    return is_null_stream(stream) || streams.count(stream) > 0;
}

int harness_stream_device(cudaStream_t stream)
{
    return is_null_stream(stream) ? harness_current_device : stream->device;
}

bool harness_is_urgent(cudaStream_t stream)
{
    return !is_null_stream(stream) && stream->urgent;
}

uint64_t harness_queued(cudaStream_t stream)
{
    return stream->queued;
}

cudaStream_t harness_branch(cudaStream_t stream, size_t number, bool urgent)
{
    while (stream->branches.size() <= number) {
        cudaStream_t branch = new harness_stream();
        branch->device = stream->device;
        branch->own = true;
        streams.insert(branch);
        stream->branches.push_back(branch);
    }
    stream->branches[number]->urgent = urgent;
    return stream->branches[number];
}

void harness_queue_work(cudaStream_t stream, harness_work work)
{
    if (is_null_stream(stream)) {
        harness_drain_device();
        while (!harness_lost() && !work())
            let_others_go_on();
        return;
    }
    if (harness_capture(stream, work))
        return;
    stream->queue.push_back(std::move(work));
    stream->queued++;
    if (stream->urgent && harness_config.urgent_first)
        advance(stream, stream->queued);
}

void harness_queue_wait(cudaStream_t stream, cudaStream_t other, uint64_t ticket)
{
    harness_queue_work(stream, [other, ticket]() {
        if (streams.count(other) > 0)
            advance(other, ticket);
        return streams.count(other) == 0 || other->done >= ticket;
    });
}

void harness_queue(cudaStream_t stream, std::function<void()> work)
{
    harness_queue_work(stream, [work]() {
        work();
        return true;
    });
}

void harness_drain_stream(cudaStream_t stream)
{
    if (is_null_stream(stream))
        harness_drain_device();
    else
        drain_until(stream, stream->queued);
}

/* ------------------------------------------------------- streams and events */

/* A new stream or event among those that are alive. */
template <typename T> static cudaError_t create(const call &c, std::set<T *> &alive, T **handle)
{
    *handle = nullptr;
    if (c.error)
        return c.end();
    *handle = new T();
    alive.insert(*handle);
    return c.end();
}

static cudaError_t create_stream(const call &c, cudaStream_t *stream)
{
    cudaError_t error = create(c, streams, stream);
    if (*stream)
        (*stream)->device = harness_current_device;
    return error;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    call c("cudaStreamCreate");
    return create_stream(c, stream);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    call c("cudaStreamCreateWithFlags");
    (void)flags;
    return create_stream(c, stream);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    call c("cudaDeviceGetStreamPriorityRange");
    *least = 0;
    *greatest = -2;
    return c.end();
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    call c("cudaStreamCreateWithPriority");
    (void)flags;
    cudaError_t error = create_stream(c, stream);
    if (*stream)
        (*stream)->urgent = priority < 0;
    return error;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    call c("cudaStreamDestroy", stream);
    if (is_null_stream(stream) || !harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    harness_drain_stream(stream);
    for (cudaStream_t branch : stream->branches) {
        harness_drain_stream(branch);
        streams.erase(branch);
        delete branch;
    }
    streams.erase(stream);
    for (cudaEvent_t event : events)
        if (event->stream == stream)
            event->stream = nullptr;
    delete stream;
    return c.end();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    call c("cudaStreamSynchronize", stream);
    if (c.error)
        return c.end();
    if (!harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    harness_drain_stream(stream);
    harness_shrink_pools();
    return c.end();
}

/* One piece of work is done at a time, so that who asks again and again sees the end. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    call c("cudaStreamQuery", stream);
    if (c.error || is_null_stream(stream))
        return c.end();
    if (!harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    if (!advance(stream, stream->done + 1))
        harness_go_on(); /* other devices do not wait for anybody's questions */
    if (!harness_lost() && stream->done < stream->queued)
        return c.end(cudaErrorNotReady);
    return c.end();
}

static void drain_event(cudaEvent_t event)
{
    if (event->stream)
        drain_until(event->stream, event->ticket);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    call c("cudaStreamWaitEvent");
    (void)flags;
    if (c.error)
        return c.end();
    if (!harness_is_stream(stream) || events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream or event");
    if (event->mark.capture || harness_capture_number(stream))
        return c.end(harness_capture_wait(stream, event->mark));
    if (event->stream && event->stream != stream)
        harness_queue_wait(stream, event->stream, event->ticket);
    return c.end();
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    call c("cudaEventCreate");
    return create(c, events, event);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    call c("cudaEventCreateWithFlags");
    (void)flags;
    return create(c, events, event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    call c("cudaEventDestroy");
    if (events.erase(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    delete event;
    return c.end();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    call c("cudaEventRecord");
    if (c.error)
        return c.end();
    if (!harness_is_stream(stream) || events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream or event");
    event->mark = harness_mark_capture(stream);
    if (event->mark.capture)
        return c.end();
    event->stream = is_null_stream(stream) ? nullptr : stream;
    event->ticket = event->stream ? stream->queued : 0;
    if (!event->stream)
        harness_drain_device();
    return c.end();
}

/* Whether the host may ask where an event is; else the call has ended with its error. */
static bool can_ask(call &c, cudaEvent_t event)
{
    if (c.error)
        c.end();
    else if (events.count(event) == 0)
        c.error = c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    else if (event->mark.capture)
        c.error = c.refuse(cudaErrorCapturedEvent, "an event of a capture");
    return !c.error;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    call c("cudaEventSynchronize");
    if (!can_ask(c, event))
        return c.error;
    drain_event(event);
    harness_shrink_pools();
    return c.end();
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    call c("cudaEventQuery");
    if (!can_ask(c, event))
        return c.error;
    if (!event->stream)
        return c.end();
    if (event->stream->done < event->ticket
        && !advance(event->stream, event->stream->done + 1))
        harness_go_on();
    if (!harness_lost() && event->stream->done < event->ticket)
        return c.end(cudaErrorNotReady);
    return c.end();
}

/* Time is not played. */
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    call c("cudaEventElapsedTime");
    *milliseconds = 0.0f;
    if (c.error)
        return c.end();
    if (events.count(start) == 0 || events.count(end) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    return c.end();
}
