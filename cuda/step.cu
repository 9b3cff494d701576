#include "step.h"

#include "device.h"
#include "ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_ALIGNMENT = 64, FIRST_LISTS = 256 << 10 };

/* In front of each op of a log, at a multiple of its own alignment. */
struct alignas(16) hy_op_header {
    void (*play)(struct hy_device *, const void *op);
    size_t bytes; /* to the next header */
};

static void refuse_memory(struct hy_device *device)
{
    hy_cuda_fail(device, HYMBA_ERROR_MEMORY, "no memory for the list of a step's work");
}

/* ----------------------------------------------------------------- recording */

/* Room for so many bytes more; NULL if there is none. */
static unsigned char *append(struct hy_bytes *bytes, size_t n)
{
    if (n > bytes->capacity - bytes->used) {
        size_t capacity = bytes->capacity ? bytes->capacity : 4096;
        while (capacity - bytes->used < n && capacity <= SIZE_MAX / 2)
            capacity *= 2;
        void *grown = capacity - bytes->used < n ? NULL : realloc(bytes->data, capacity);
        if (!grown)
            return NULL;
        bytes->data = (unsigned char *)grown;
        bytes->capacity = capacity;
    }
    unsigned char *data = bytes->data + bytes->used;
    bytes->used += n;
    return data;
}

void hy_cuda_record(struct hy_device *device, void (*play)(struct hy_device *, const void *op),
                    const void *op, size_t bytes)
{
    struct hy_op_header header = {play, hy_round_up(sizeof header + bytes, sizeof header)};
    unsigned char *data = append(&device->step.ops, header.bytes);
    if (!data) {
        refuse_memory(device);
        return;
    }
    memcpy(data, &header, sizeof header);
    memcpy(data + sizeof header, op, bytes);
}

void hy_cuda_record_key(struct hy_device *device, const void *data, size_t bytes)
{
    unsigned char *key = append(&device->step.key, bytes);
    if (key)
        memcpy(key, data, bytes);
    else
        refuse_memory(device);
}

static bool grow_lists(struct hy_device *device, size_t bytes)
{
    struct hy_bytes *lists = &device->step.lists;
    size_t capacity = hy_max_size(lists->capacity, FIRST_LISTS);
    while (capacity < bytes && capacity <= SIZE_MAX / 2)
        capacity *= 2;
    void *data = NULL;
    if (capacity < bytes) {
        refuse_memory(device);
        return false;
    }
    if (!hy_cuda_check(device, cudaHostAlloc(&data, capacity, cudaHostAllocPortable),
                       "taking pinned memory for lists"))
        return false;
    if (lists->data) {
        memcpy(data, lists->data, lists->used);
        cudaFreeHost(lists->data);
    }
    lists->data = (unsigned char *)data;
    lists->capacity = capacity;
    return true;
}

void *hy_cuda_record_list(struct hy_device *device, size_t bytes, uintptr_t *offset)
{
    struct hy_bytes *lists = &device->step.lists;
    size_t end;
    if (!hy_add_size(lists->used, bytes, &end) || end > SIZE_MAX / 2) {
        refuse_memory(device);
        return NULL;
    }
    if (end > lists->capacity && !grow_lists(device, end))
        return NULL;
    *offset = lists->used;
    lists->used = hy_min_size(hy_round_up(end, LIST_ALIGNMENT), lists->capacity);
    return lists->data + *offset;
}

const void *hy_cuda_recorded_list(const struct hy_device *device, uintptr_t offset)
{
    return (const unsigned char *)device->arena.data + offset;
}

/* The device may still be reading the lists of the step before. */
void hy_cuda_begin_step(struct hy_device *device, size_t rows)
{
    struct hy_step *step = &device->step;
    step->has_begun = rows > 0;
    step->agreed = false;
    step->ops.used = step->key.used = 0;
    if (rows == 0 || !hy_cuda_begin(device))
        return;
    if (step->lists_read
        && !hy_cuda_wait_event(device, step->lists_read, "waiting for a copy"))
        return;
    step->lists.used = LIST_ALIGNMENT; /* no list is at 0 */
    step->rows = rows;
    hy_cuda_record_key(device, &rows, sizeof rows);
}

/* ------------------------------------------------------------------- playing */

static bool upload_lists(struct hy_device *device)
{
    struct hy_step *step = &device->step;
    if (step->lists.used == LIST_ALIGNMENT)
        return true;
    if (!hy_cuda_reserve(device, &device->arena, step->lists.used, "taking memory for lists"))
        return false;
    if (!step->lists_read
        && !hy_cuda_check(device,
                          cudaEventCreateWithFlags(&step->lists_read, cudaEventDisableTiming),
                          "making an event"))
        return false;
    return hy_cuda_check(device,
                         cudaMemcpyAsync(device->arena.data, step->lists.data, step->lists.used,
                                         cudaMemcpyHostToDevice, device->stream),
                         "copying lists")
           && hy_cuda_check(device, cudaEventRecord(step->lists_read, device->stream),
                            "marking a copy");
}

static void play(struct hy_device *device)
{
    const struct hy_bytes *ops = &device->step.ops;
    struct hy_op_header header;
    for (size_t at = 0; at < ops->used; at += header.bytes) {
        memcpy(&header, ops->data + at, sizeof header);
        header.play(device, ops->data + at + sizeof header);
    }
    hy_cuda_end_all_sum(device); /* if something failed that was to do it */
}

/* ------------------------------------------------------------------ the logs */

/* FNV-1a, but of words: a key is long. */
static uint64_t hash_of(const struct hy_bytes *key)
{
    uint64_t hash = 0xcbf29ce484222325u, word;
    size_t n = key->used / sizeof word * sizeof word;
    for (size_t i = 0; i < n; i += sizeof word) {
        memcpy(&word, key->data + i, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
    }
    for (size_t i = n; i < key->used; i++)
        hash = (hash ^ key->data[i]) * 0x100000001b3u;
    return hash;
}

/* One that is still running goes when it has ended. What fails is no launch's failure. */
static void drop_graph(struct hy_remembered_log *log)
{
    if (log->graph && cudaGraphExecDestroy(log->graph) != cudaSuccess)
        cudaGetLastError();
    log->graph = NULL;
}

static void forget(struct hy_remembered_log *log)
{
    drop_graph(log);
    free(log->key);
    *log = {};
}

static void forget_all(struct hy_step *step)
{
    for (struct hy_remembered_log &log : step->logs)
        forget(&log);
    step->n_forgotten++;
}

size_t hy_cuda_forget_graphs(struct hy_device *device)
{
    size_t n = 0;
    for (const struct hy_remembered_log &log : device->step.logs)
        n += log.graph != NULL;
    forget_all(&device->step);
    return n;
}

static struct hy_remembered_log *find_log(struct hy_step *step, uint64_t hash, uint64_t world)
{
    for (struct hy_remembered_log &log : step->logs)
        if (log.key && log.hash == hash && log.world == world && log.key_bytes == step->key.used
            && memcmp(log.key, step->key.data, log.key_bytes) == 0)
            return &log;
    return NULL;
}

/* In the place of the one not seen for longest. Without memory for it the log stays unknown. */
static bool remember(struct hy_step *step, uint64_t hash, uint64_t world)
{
    struct hy_remembered_log *place = &step->logs[0];
    for (struct hy_remembered_log &log : step->logs)
        if (log.seen < place->seen)
            place = &log;
    forget(place);
    place->key = (unsigned char *)malloc(step->key.used);
    if (!place->key)
        return false;
    memcpy(place->key, step->key.data, step->key.used);
    place->key_bytes = step->key.used;
    place->hash = hash;
    place->world = world;
    place->seen = step->n_steps;
    return true;
}

/* -------------------------------------------------------------------- graphs */

static void tell(struct hy_device *device, int level, const char *line)
{
    if (device->log)
        device->log(device->log_user, level, line);
}

static void tell_graph(struct hy_device *device, size_t n_nodes)
{
    char line[160];
    snprintf(line, sizeof line,
             "CUDA device %d: a step of %zu rows is from now on a graph of %zu launches",
             device->index, device->step.rows, n_nodes);
    tell(device, HYMBA_LOG_INFO, line);
}

/* Whether nothing that was queued has failed so far. A call may tell the failure of what came long
 * before it: that is the device's then, not the call's. */
static bool is_sound(struct hy_device *device)
{
    cudaGetLastError();
    cudaError_t code = cudaStreamQuery(device->home);
    if (code == cudaErrorNotReady)
        cudaGetLastError();
    return code == cudaErrorNotReady
           || hy_cuda_check(device, code, "what was queued before a step");
}

/* From now on the log's steps are launches one by one. The first time, the reason is told. */
static void refuse_graph(struct hy_device *device, struct hy_remembered_log *log,
                         const char *reason)
{
    char line[320];
    drop_graph(log);
    log->refused = true;
    if (!is_sound(device) || device->step.told_failure)
        return;
    device->step.told_failure = true;
    snprintf(line, sizeof line,
             "CUDA device %d: a step cannot be one graph and is queued launch by launch: %s",
             device->index, reason);
    tell(device, HYMBA_LOG_WARNING, line);
}

/* The ops' launches as a graph; NULL after a failure, which stands in step->capture_failure or is
 * returned. On a stream of its own, since memory is released in the order of the device's stream at
 * any time, which must not become part of the graph. */
static cudaError_t capture(struct hy_device *device, cudaGraph_t *graph)
{
    struct hy_step *step = &device->step;
    cudaStream_t stream = device->stream;
    cudaError_t code = cudaSuccess;
    *graph = NULL;
    step->capture_failure[0] = '\0';
    if (!step->capture_stream)
        code = cudaStreamCreateWithFlags(&step->capture_stream, cudaStreamNonBlocking);
    if (code == cudaSuccess)
        code = cudaStreamBeginCapture(step->capture_stream, cudaStreamCaptureModeThreadLocal);
    if (code != cudaSuccess)
        return code;
    step->capturing = true;
    device->stream = step->capture_stream;
    play(device);
    device->stream = stream;
    step->capturing = false;
    return cudaStreamEndCapture(step->capture_stream, graph);
}

/* A graph takes memory of the driver's, which may lie in the pool's reserve. */
static cudaError_t instantiate(struct hy_device *device, cudaGraph_t graph, cudaGraphExec_t *exec)
{
    cudaError_t code = cudaGraphInstantiate(exec, graph, 0);
    if (code != cudaErrorMemoryAllocation || hy_cuda_trim_pool(device, 0) == 0)
        return code;
    cudaGetLastError();
    return cudaGraphInstantiate(exec, graph, 0);
}

/* The log's graph, if it can be made. */
static void make_graph(struct hy_device *device, struct hy_remembered_log *log)
{
    struct hy_step *step = &device->step;
    const uint64_t generation = device->generation;
    cudaGraph_t graph;
    size_t n_nodes = 0;
    cudaError_t code = capture(device, &graph);
    if (code == cudaSuccess)
        code = cudaGraphGetNodes(graph, NULL, &n_nodes);
    bool complete = code == cudaSuccess && step->capture_failure[0] == '\0';
    if (complete && device->generation == generation)
        code = instantiate(device, graph, &log->graph);
    if (graph && cudaGraphDestroy(graph) != cudaSuccess)
        cudaGetLastError();
    if (step->capture_failure[0] != '\0')
        refuse_graph(device, log, step->capture_failure);
    else if (code != cudaSuccess)
        refuse_graph(device, log, cudaGetErrorString(code));
    else if (log->graph)
        tell_graph(device, n_nodes);
}

/* Whether the log's graph was launched. */
static bool launch_graph(struct hy_device *device, struct hy_remembered_log *log)
{
    if (!log->graph)
        return false;
    cudaError_t code = cudaGraphLaunch(log->graph, device->stream);
    if (code != cudaSuccess)
        refuse_graph(device, log, cudaGetErrorString(code));
    return code == cudaSuccess;
}

/* Graphs know where the kernels' memory was. */
static void forget_moved(struct hy_device *device)
{
    struct hy_step *step = &device->step;
    if (step->generation != device->generation)
        forget_all(step);
    step->generation = device->generation;
}

/* Of a log that is not known yet. */
static void play_new(struct hy_device *device, uint64_t hash, uint64_t world)
{
    play(device);
    forget_moved(device);
    bool is_known = !device->has_error && remember(&device->step, hash, world);
    if (!is_known && hy_cuda_has_others(device))
        forget_all(&device->step); /* the others, which may remember it, hear of that */
}

/* ------------------------------------------------------------- among ranks */

/* What all ranks know of a step. */
struct step_meeting {
    uint64_t world; /* a hash of all ranks' logs, and of how often they have forgotten theirs */
    bool is_able;   /* each of them */
};

/* Waits for all ranks; false after a failure. */
static bool meet(struct hy_device *device, uint64_t hash, bool is_able,
                 struct step_meeting *meeting)
{
    const uint32_t mine[HY_MEETING_WORDS] = {(uint32_t)hash, (uint32_t)(hash >> 32),
                                             device->step.n_forgotten, is_able};
    size_t n_words;
    device->step.agreed = true;
    const uint32_t *all = hy_cuda_meet(device, mine, &n_words);
    *meeting = {0xcbf29ce484222325u, true};
    for (size_t i = 0; all && i < n_words; i++)
        meeting->world = (meeting->world ^ all[i]) * 0x100000001b3u;
    for (size_t i = HY_MEETING_WORDS - 1; all && i < n_words; i += HY_MEETING_WORDS)
        meeting->is_able = meeting->is_able && all[i];
    return all != NULL;
}

/* All ranks do it, and none launches what one of them could not capture. */
static void capture_together(struct hy_device *device, struct hy_remembered_log *log)
{
    struct step_meeting meeting;
    make_graph(device, log);
    if (meet(device, 0, log->graph != NULL, &meeting) && meeting.is_able)
        return;
    drop_graph(log);
    log->refused = true;
}

/* What others launch now must be launched. */
static void launch_together(struct hy_device *device, const struct hy_remembered_log *log)
{
    cudaError_t code = hy_cuda_begin(device) ? cudaGraphLaunch(log->graph, device->stream)
                                             : cudaSuccess;
    if (!hy_cuda_check(device, code, "launching a step's graph") && !device->failed)
        hy_cuda_fail(device, HYMBA_ERROR_DEVICE,
                     "no memory to launch a step's graph, which other ranks have launched");
}

/* One that cannot even play its own ops makes all others play theirs. */
static void queue_together(struct hy_device *device, uint64_t hash)
{
    struct hy_step *step = &device->step;
    struct step_meeting meeting;
    if (!meet(device, hash, true, &meeting) || !meeting.is_able) {
        play(device);
        return;
    }
    struct hy_remembered_log *log = find_log(step, hash, meeting.world);
    if (!log) {
        play_new(device, hash, meeting.world);
        return;
    }
    log->seen = step->n_steps;
    if (!log->graph && !log->refused)
        capture_together(device, log);
    if (log->graph)
        launch_together(device, log);
    else
        play(device);
}

void hy_cuda_play_gathers(struct hy_device *device)
{
    struct hy_step *step = &device->step;
    struct step_meeting meeting;
    if (hy_cuda_has_others(device) && !step->agreed)
        meet(device, 0, false, &meeting);
    if (hy_cuda_has_others(device) && !device->failed)
        play(device); /* other ops do nothing after a failure */
    step->ops.used = 0;
}

/* ------------------------------------------------------------------ its end */

static void queue_step(struct hy_device *device)
{
    struct hy_step *step = &device->step;
    const uint64_t hash = hash_of(&step->key);
    forget_moved(device);
    step->n_steps++;
    if (hy_cuda_has_others(device)) {
        queue_together(device, hash);
        return;
    }
    struct hy_remembered_log *log = find_log(step, hash, 0);
    if (!log) {
        play_new(device, hash, 0);
        return;
    }
    log->seen = step->n_steps;
    if (!log->graph && !log->refused)
        make_graph(device, log);
    if (!launch_graph(device, log))
        play(device);
}

void hy_cuda_end_step(struct hy_device *device, bool run)
{
    struct hy_step *step = &device->step;
    if (hy_cuda_is_recording(step) && run && hy_cuda_begin(device) && upload_lists(device))
        queue_step(device);
    else if (step->has_begun && run && device->has_error)
        hy_cuda_play_gathers(device);
    step->has_begun = false;
    step->rows = 0;
}

void hy_cuda_close_step(struct hy_device *device)
{
    struct hy_step *step = &device->step;
    forget_all(step);
    free(step->ops.data);
    free(step->key.data);
    if (step->lists.data)
        cudaFreeHost(step->lists.data);
    if (step->lists_read)
        cudaEventDestroy(step->lists_read);
    if (step->capture_stream)
        cudaStreamDestroy(step->capture_stream);
}
