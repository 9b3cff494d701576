/*
 * Streams and events. Work on a stream is queued and done as late as it may be: at the next call
 * that waits, so that a staging buffer which is filled anew too early, or a result that is read too
 * early, shows as wrong data. Work on the null stream is done at once, after all that is queued.
 */
#include "call.h"

#include <unistd.h>

#include <deque>
#include <set>

struct harness_stream {
    int device;
    bool busy; /* its first work is being done */
    std::deque<harness_work> queue;
    uint64_t queued, done;
};

struct harness_event {
    cudaStream_t stream;
    uint64_t ticket; /* how many works of the stream stand before it */
};

namespace {

std::set<cudaStream_t> streams;
std::set<cudaEvent_t> events;

} // namespace

size_t harness_live_streams()
{
    return streams.size() + events.size();
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

void harness_drain()
{
    bool moves = true;
    while (moves) {
        moves = false;
        for (cudaStream_t stream : streams)
            moves = advance(stream, stream->queued) || moves;
    }
}

/* A device that waits for another one lets its host's thread go on, and its own streams do. */
static void let_others_go_on()
{
    harness_drain();
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

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    call c("cudaStreamDestroy", stream);
    if (is_null_stream(stream) || !harness_is_stream(stream))
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream");
    harness_drain_stream(stream);
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
        harness_drain(); /* other devices do not wait for anybody's questions */
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
    call c("cudaStreamWaitEvent", stream);
    (void)flags;
    if (c.error)
        return c.end();
    if (!harness_is_stream(stream) || events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream or event");
    cudaStream_t other = event->stream;
    uint64_t ticket = event->ticket;
    if (other && other != stream)
        harness_queue_work(stream, [other, ticket]() {
            if (streams.count(other) > 0)
                advance(other, ticket);
            return streams.count(other) == 0 || other->done >= ticket;
        });
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
    call c("cudaEventRecord", stream);
    if (c.error)
        return c.end();
    if (!harness_is_stream(stream) || events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such stream or event");
    event->stream = is_null_stream(stream) ? nullptr : stream;
    event->ticket = event->stream ? stream->queued : 0;
    if (!event->stream)
        harness_drain_device();
    return c.end();
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    call c("cudaEventSynchronize");
    if (c.error)
        return c.end();
    if (events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    drain_event(event);
    harness_shrink_pools();
    return c.end();
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    call c("cudaEventQuery");
    if (c.error)
        return c.end();
    if (events.count(event) == 0)
        return c.refuse(cudaErrorInvalidResourceHandle, "no such event");
    if (!event->stream)
        return c.end();
    if (event->stream->done < event->ticket
        && !advance(event->stream, event->stream->done + 1))
        harness_drain();
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
