#include "ranks.h"

#include "communicator.h"
#include "device.h"
#include "rank_sums.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Of a rank in one gather; more is gathered piece by piece. */
enum { GATHER_BYTES = 4 << 20, GATHER_FLOATS = GATHER_BYTES / 4 };

/* Of a rank in one exchange. */
enum { EXCHANGE_BYTES = 64 << 10 };

/* What gathers are multiples of. */
enum { GATHER_ALIGNMENT = 16 };

/* While others take leave, too. */
static const uint64_t MOST_FAREWELL_MS = 2000;

/* A wait asks without pause at first, then this often. */
enum { EAGER_MS = 10, PAUSE_NANOSECONDS = 50000 };

struct hy_world {
    struct hy_join_args args; /* without the id */
    struct hy_communicator *communicator; /* NULL: alone, or broken off */
    cudaStream_t side;      /* of all gathers, and of what they need; NULL: alone */
    cudaEvent_t begun, ended; /* behind what side waits for, and behind its own work */
    bool under_way;         /* something on side that the device's stream does not wait for yet */
    float *gathered;        /* [world_size][GATHER_FLOATS], on the device; NULL: alone */
    unsigned char *exchanged; /* [world_size][EXCHANGE_BYTES], pinned; NULL: alone */
};

/* ------------------------------------------------------------------ waiting */

struct patience {
    uint64_t begin, limit; /* milliseconds */
};

static uint64_t clock_ms(void)
{
    struct timespec now = {};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static struct patience begin_wait(const struct hy_device *device)
{
    return {clock_ms(), device->world->args.timeout_ms};
}

static void rest(uint64_t waited_ms)
{
    const struct timespec nap = {0, PAUSE_NANOSECONDS};
    if (waited_ms < EAGER_MS)
        sched_yield();
    else
        nanosleep(&nap, NULL);
}

/* Keeps the failure of a rank, in one sentence, and takes part no longer. */
static void lose(struct hy_device *device, hymba_status status, const char *doing,
                 const char *reason)
{
    const struct hy_join_args *args = &device->world->args;
    const bool capturing = device->step.capturing;
    char sentence[400];
    snprintf(sentence, sizeof sentence, "rank %u of %u: %s%s%s", (unsigned)args->rank,
             (unsigned)args->world_size, doing, reason[0] ? " " : "", reason);
    device->step.capturing = false; /* it is the device that has failed, not the capture */
    hy_cuda_fail(device, status, sentence);
    device->step.capturing = capturing;
    if (capturing)
        snprintf(device->step.capture_failure, sizeof device->step.capture_failure, "a rank fails");
    else
        hy_cuda_break_off(device);
}

static bool fail_broken(struct hy_device *device, const char *doing)
{
    char reason[256];
    snprintf(reason, sizeof reason, "failed: %s",
             hy_communicator_reason(device->world->communicator));
    lose(device, HYMBA_ERROR_DEVICE, doing, reason);
    return false;
}

static bool fail_late(struct hy_device *device, const char *doing, uint64_t limit)
{
    char reason[160];
    snprintf(reason, sizeof reason,
             "took longer than %u.%03u seconds: another rank is missing or has failed",
             (unsigned)(limit / 1000), (unsigned)(limit % 1000));
    lose(device, HYMBA_ERROR_TIMEOUT, doing, reason);
    return false;
}

static bool is_abandoned(const struct hy_join_args *args)
{
    return args->is_abandoned && args->is_abandoned(args->abandoned_user);
}

/* Between two questions whether a wait is over: false once asking on is of no use. */
static bool wait_more(struct hy_device *device, const struct patience *patience, const char *doing)
{
    const struct hy_world *world = device->world;
    const uint64_t waited = clock_ms() - patience->begin;
    if (waited >= patience->limit)
        return fail_late(device, doing, patience->limit);
    if (is_abandoned(&world->args)) {
        lose(device, HYMBA_ERROR_TIMEOUT, doing, "was given up: another rank has failed");
        return false;
    }
    rest(waited);
    return true;
}

/* Until the communicator has done what it began. */
static bool settle(struct hy_device *device, enum hy_progress progress, const char *doing)
{
    const struct patience patience = begin_wait(device);
    struct hy_communicator *communicator = device->world->communicator;
    while (progress == HY_UNDER_WAY) {
        if (!wait_more(device, &patience, doing))
            return false;
        progress = hy_communicator_ask(communicator);
    }
    return progress == HY_DONE || fail_broken(device, doing);
}

bool hy_cuda_has_others(const struct hy_device *device)
{
    return device->world && device->world->communicator;
}

/* Until the stream, or the event, is done, or never will be. */
template <typename Handle>
static bool wait_for(struct hy_device *device, cudaError_t (*query)(Handle), Handle handle,
                     const char *doing)
{
    const struct patience patience = begin_wait(device);
    cudaError_t code = query(handle);
    while (code == cudaErrorNotReady) {
        cudaGetLastError(); /* that it is not ready is no failure */
        if (hy_communicator_ask(device->world->communicator) == HY_BROKEN)
            return fail_broken(device, doing);
        if (!wait_more(device, &patience, doing))
            return false;
        code = query(handle);
    }
    return hy_cuda_check(device, code, doing);
}

bool hy_cuda_wait_stream(struct hy_device *device, const char *doing)
{
    if (!hy_cuda_has_others(device))
        return hy_cuda_check(device, cudaStreamSynchronize(device->stream), doing);
    hy_cuda_end_all_sum(device);
    return !device->failed && wait_for(device, cudaStreamQuery, device->stream, doing);
}

bool hy_cuda_wait_event(struct hy_device *device, cudaEvent_t event, const char *doing)
{
    return hy_cuda_has_others(device) ? wait_for(device, cudaEventQuery, event, doing)
                              : hy_cuda_check(device, cudaEventSynchronize(event), doing);
}

/* ------------------------------------------------------------- the second stream */

/*
 * Gathers run beside other work, on a stream of their own, one after another: so there is one order
 * of them on every rank, and memory for one at a time is enough. It goes first where both streams
 * have blocks to run, for others wait for it. What is captured reaches it through the event, and
 * has to come back by the other one.
 */
static cudaError_t open_side(struct hy_world *world)
{
    int least = 0, greatest = 0;
    cudaError_t code = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithPriority(&world->side, cudaStreamNonBlocking, greatest);
    for (cudaEvent_t *event : {&world->begun, &world->ended})
        if (code == cudaSuccess)
            code = cudaEventCreateWithFlags(event, cudaEventDisableTiming);
    return code;
}

static void close_side(struct hy_world *world)
{
    for (cudaEvent_t event : {world->begun, world->ended})
        if (event)
            cudaEventDestroy(event);
    if (world->side)
        cudaStreamDestroy(world->side);
}

/* What is queued on one stream from now on waits for what stands on another. There is no going on
 * without. */
static bool queue_wait(struct hy_device *device, cudaStream_t stream, cudaEvent_t event,
                       cudaStream_t other)
{
    static const char doing[] = "ordering two streams";
    if (hy_cuda_check(device, cudaEventRecord(event, other), doing)
        && hy_cuda_check(device, cudaStreamWaitEvent(stream, event, 0), doing))
        return true;
    if (!device->failed)
        hy_cuda_fail(device, HYMBA_ERROR_DEVICE, "no memory to order two streams");
    return false;
}

/* Behind all that is queued so far. */
static bool begin_side(struct hy_device *device)
{
    struct hy_world *world = device->world;
    if (!queue_wait(device, world->side, world->begun, device->stream))
        return false;
    world->under_way = true;
    return true;
}

/* A capture that has failed comes back, too. */
void hy_cuda_end_all_sum(struct hy_device *device)
{
    struct hy_world *world = device->world;
    if (world && world->under_way
        && hy_cuda_check(device, cudaSetDevice(device->index), "choosing the device")
        && queue_wait(device, device->stream, world->ended, world->side))
        world->under_way = false;
}

/* --------------------------------------------------------------- joining */

hymba_status hy_cuda_make_id(unsigned char *id, hymba_error *error)
{
    return hy_communicator_make_id(id, error);
}

/* That ranks have agreed on where they are, before anything hangs on it. */
struct greeting {
    uint32_t rank, world_size;
};

static bool greet(struct hy_device *device)
{
    const struct hy_join_args *args = &device->world->args;
    const struct greeting mine = {args->rank, args->world_size};
    size_t bytes = args->world_size * sizeof mine;
    hymba_error ignored = {}; /* the device keeps it */
    struct greeting *all = (struct greeting *)malloc(bytes);
    if (!all) {
        hy_cuda_fail(device, HYMBA_ERROR_MEMORY, "no memory for the greetings of ranks");
        return false;
    }
    ignored.struct_size = sizeof ignored;
    bool good = hy_cuda_exchange(device, &mine, all, sizeof mine, &ignored) == HYMBA_OK;
    for (uint32_t i = 0; good && i < args->world_size; i++) {
        good = all[i].rank == i && all[i].world_size == args->world_size;
        if (!good)
            lose(device, HYMBA_ERROR_DEVICE, "joining the others failed:",
                 "ranks do not agree on who they are");
    }
    free(all);
    return good;
}

/* Memory that other devices of the process can reach, which that of pools is not. */
static bool take_memory(struct hy_device *device)
{
    struct hy_world *world = device->world;
    const size_t n = world->args.world_size;
    void *gathered = NULL, *exchanged = NULL;
    cudaError_t code = cudaMalloc(&gathered, n * GATHER_BYTES);
    world->gathered = (float *)gathered;
    if (code == cudaSuccess)
        code = open_side(world);
    if (code == cudaSuccess)
        code = cudaMemsetAsync(gathered, 0, n * GATHER_BYTES, world->side);
    if (code == cudaSuccess)
        code = cudaHostAlloc(&exchanged, n * EXCHANGE_BYTES, cudaHostAllocPortable);
    world->exchanged = (unsigned char *)exchanged;
    return hy_cuda_check(device, code, "taking memory for the parts of ranks");
}

static bool join_others(struct hy_device *device, const unsigned char *id)
{
    static const char doing[] = "joining the others";
    struct hy_world *world = device->world;
    hymba_error error = {};
    error.struct_size = sizeof error;
    if (!take_memory(device))
        return false;
    hymba_status status = hy_communicator_open(&world->communicator, &error);
    if (status != HYMBA_OK) {
        hy_cuda_fail(device, status, error.message);
        return false;
    }
    return settle(device,
                  hy_communicator_join(world->communicator, world->args.rank,
                                       world->args.world_size, id),
                  doing)
           && greet(device);
}

static hymba_status refuse_join(const struct hy_device *device, const struct hy_join_args *args,
                                hymba_error *error)
{
    if (device->world)
        return hy_fail(error, HYMBA_ERROR_STATE, "CUDA device %d has joined others already",
                       device->index);
    if (args->world_size == 0 || args->rank >= args->world_size || args->world_size > INT32_MAX
        || !args->id || args->timeout_ms == 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "CUDA device %d: it cannot join as rank %u of %u within %u milliseconds",
                       device->index, (unsigned)args->rank, (unsigned)args->world_size,
                       (unsigned)args->timeout_ms);
    if (!device->has_pools) /* releasing memory would wait, for others, without end */
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "CUDA device %d (%s) has no memory pools, so it cannot be one of several "
                       "ranks", device->index, device->name);
    return HYMBA_OK;
}

/* What was kept, which is forgotten if the device goes on. */
static hymba_status tell(struct hy_device *device, hymba_error *error)
{
    device->has_error = device->failed;
    return hy_fail_again(error, &device->error);
}

hymba_status hy_cuda_join(struct hy_device *device, const struct hy_join_args *args,
                          hymba_error *error)
{
    if (device->has_error)
        return tell(device, error);
    hymba_status status = refuse_join(device, args, error);
    if (status != HYMBA_OK)
        return status;
    device->world = (struct hy_world *)calloc(1, sizeof *device->world);
    if (!device->world)
        return hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for a world of ranks");
    device->world->args = *args;
    device->world->args.id = NULL;
    if (args->world_size == 1
        || (hy_cuda_check(device, cudaSetDevice(device->index), "choosing the device")
            && join_others(device, args->id)))
        return HYMBA_OK;
    hy_cuda_break_off(device); /* the others wait for more than it can do */
    if (!device->failed)
        hy_cuda_close_world(device);
    return tell(device, error);
}

/* --------------------------------------------------------------- leaving */

/* Graphs know the communicator, so they go first. What is queued no longer waits for others then,
 * and comes to its end: memory that it uses may be released through another object next. */
void hy_cuda_break_off(struct hy_device *device)
{
    if (!hy_cuda_has_others(device))
        return;
    hy_cuda_forget_graphs(device);
    hy_communicator_close(device->world->communicator);
    device->world->communicator = NULL;
    device->world->under_way = false;
    for (cudaStream_t stream : {device->world->side, device->stream})
        if (cudaStreamSynchronize(stream) != cudaSuccess)
            cudaGetLastError();
}

/* Whether all others have left, too. */
static bool say_farewell(struct hy_device *device)
{
    struct hy_communicator *communicator = device->world->communicator;
    struct patience patience = begin_wait(device);
    patience.limit = patience.limit < MOST_FAREWELL_MS ? patience.limit : MOST_FAREWELL_MS;
    enum hy_progress progress = hy_communicator_leave(communicator);
    while (progress == HY_UNDER_WAY && clock_ms() - patience.begin < patience.limit
           && !is_abandoned(&device->world->args)) {
        rest(clock_ms() - patience.begin);
        progress = hy_communicator_ask(communicator);
    }
    return progress == HY_DONE;
}

void hy_cuda_close_world(struct hy_device *device)
{
    struct hy_world *world = device->world;
    if (!world)
        return;
    if (hy_cuda_has_others(device) && !device->failed) {
        hy_cuda_forget_graphs(device);
        if (hy_cuda_wait_stream(device, "waiting for what was queued"))
            say_farewell(device);
    }
    hy_cuda_break_off(device);
    close_side(world);
    if (world->gathered)
        cudaFree(world->gathered);
    if (world->exchanged)
        cudaFreeHost(world->exchanged);
    cudaGetLastError();
    free(world);
    device->world = NULL;
}

/* ------------------------------------------------------------------ sums */

static bool gather(struct hy_device *device, size_t bytes, const char *doing)
{
    const struct hy_world *world = device->world;
    return settle(device,
                  hy_communicator_gather(world->communicator, world->gathered, bytes,
                                         world->side),
                  doing);
}

static void queue_sums(struct hy_device *device, cudaStream_t stream,
                       const struct hy_rank_sums_args *sums)
{
    if (!hy_cuda_begin(device))
        return;
    hy_cuda_rank_sums(stream, sums);
    hy_cuda_check_launch(device, "the sum over ranks");
}

/* A part of the rows, and of their columns, which fits into the memory of gathers. */
static void sum_piece(struct hy_device *device, const struct hy_all_sum_args *args, size_t row,
                      size_t n_rows, size_t column, size_t n_columns)
{
    const struct hy_world *world = device->world;
    size_t part = hy_round_up(n_rows * n_columns, GATHER_ALIGNMENT / sizeof(float));
    struct hy_pack_rows_args pack = {args->x + row * args->x_stride + column, args->x_stride,
                                     n_columns, n_rows, world->gathered + world->args.rank * part};
    struct hy_rank_sums_args sums = {world->gathered,
                                     part,
                                     n_columns,
                                     world->args.world_size,
                                     n_columns,
                                     n_rows,
                                     args->accumulate,
                                     args->y + row * args->y_stride + column,
                                     args->y_stride};
    if (device->step.capturing && device->step.capture_failure[0])
        return;
    if (hy_cuda_begin(device)) {
        hy_cuda_pack_rows(world->side, &pack);
        hy_cuda_check_launch(device, "moving a rank's part of a sum");
    }
    if (!device->failed && gather(device, part * sizeof(float), "a sum over ranks"))
        queue_sums(device, world->side, &sums);
}

static void sum_pieces(struct hy_device *device, const struct hy_all_sum_args *args, size_t rows)
{
    size_t n_columns = hy_min_size(args->n, GATHER_FLOATS);
    size_t n_rows = GATHER_FLOATS / n_columns;
    if ((device->step.capturing && device->step.capture_failure[0]) || !begin_side(device))
        return;
    for (size_t row = 0; row < rows; row += n_rows)
        for (size_t column = 0; column < args->n; column += n_columns)
            sum_piece(device, args, row, hy_min_size(n_rows, rows - row), column,
                      hy_min_size(n_columns, args->n - column));
}

/* Of one rank: what it has, some rows at a time. */
static void sum_own(struct hy_device *device, const struct hy_all_sum_args *args, size_t rows)
{
    const size_t most = hy_max_size(1, INT32_MAX / args->n);
    for (size_t row = 0; row < rows; row += most) {
        struct hy_rank_sums_args sums = {args->x + row * args->x_stride,
                                         0,
                                         args->x_stride,
                                         1,
                                         args->n,
                                         hy_min_size(most, rows - row),
                                         args->accumulate,
                                         args->y + row * args->y_stride,
                                         args->y_stride};
        queue_sums(device, device->stream, &sums);
    }
}

void hy_cuda_begin_all_sum(struct hy_device *device, const struct hy_all_sum_args *args,
                           size_t rows)
{
    if (device->failed || rows == 0 || args->n == 0
        || !hy_cuda_check(device, cudaSetDevice(device->index), "choosing the device"))
        return;
    if (!device->world)
        hy_cuda_fail(device, HYMBA_ERROR_INTERNAL,
                     "it was asked for a sum over ranks and has joined none");
    else if (device->world->communicator)
        sum_pieces(device, args, rows);
    else
        sum_own(device, args, rows);
}

/* ------------------------------------------------------------------ exchange */

/* all may be NULL: it is where ranks' parts are gathered, then. */
static bool exchange_piece(struct hy_device *device, const unsigned char *mine, unsigned char *all,
                           size_t stride, size_t bytes)
{
    static const char doing[] = "an exchange between ranks";
    struct hy_world *world = device->world;
    const size_t part = hy_round_up(hy_max_size(bytes, 1), GATHER_ALIGNMENT);
    const size_t n = world->args.world_size, own = world->args.rank * part;
    unsigned char *there = (unsigned char *)world->gathered;
    memset(world->exchanged + own, 0, part);
    if (bytes > 0)
        memcpy(world->exchanged + own, mine, bytes);
    bool good = begin_side(device)
                && hy_cuda_check(device,
                                 cudaMemcpyAsync(there + own, world->exchanged + own, part,
                                                 cudaMemcpyHostToDevice, world->side),
                                 doing)
                && gather(device, part, doing)
                && hy_cuda_check(device,
                                 cudaMemcpyAsync(world->exchanged, there, n * part,
                                                 cudaMemcpyDeviceToHost, world->side),
                                 doing)
                && hy_cuda_drain(device);
    for (size_t i = 0; good && all && bytes > 0 && i < n; i++)
        memcpy(all + i * stride, world->exchanged + i * part, bytes);
    return good;
}

/* At least once, for those that only meet. */
static bool exchange_pieces(struct hy_device *device, const unsigned char *mine,
                            unsigned char *all, size_t bytes)
{
    size_t at = 0;
    do {
        size_t piece = hy_min_size(bytes - at, EXCHANGE_BYTES);
        if (!exchange_piece(device, mine + at, all ? all + at : NULL, bytes, piece))
            return false;
        at += piece;
    } while (at < bytes);
    return true;
}

static void exchange(struct hy_device *device, const void *mine, void *all, size_t bytes)
{
    if (!hy_cuda_check(device, cudaSetDevice(device->index), "choosing the device"))
        return;
    if (!device->world) {
        hy_cuda_fail(device, HYMBA_ERROR_INTERNAL,
                     "it was asked for an exchange between ranks and has joined none");
    } else if (!device->world->communicator) {
        if (hy_cuda_drain(device) && bytes > 0)
            memcpy(all, mine, bytes);
    } else if (!exchange_pieces(device, (const unsigned char *)mine, (unsigned char *)all, bytes)
               && !device->failed) {
        /* The others wait for the rest of it. */
        hy_cuda_fail(device, HYMBA_ERROR_DEVICE, "no memory to exchange something between ranks");
    }
}

hymba_status hy_cuda_exchange(struct hy_device *device, const void *mine, void *all, size_t bytes,
                              hymba_error *error)
{
    if (!device->failed)
        exchange(device, mine, all, bytes);
    if (!device->failed)
        return HYMBA_OK;
    hy_cuda_break_off(device);
    return hy_fail_again(error, &device->error);
}

const uint32_t *hy_cuda_meet(struct hy_device *device, const uint32_t mine[HY_MEETING_WORDS],
                             size_t *n_words)
{
    const size_t bytes = HY_MEETING_WORDS * sizeof *mine;
    static_assert(bytes % GATHER_ALIGNMENT == 0, "ranks' words lie close together");
    if (!device->failed)
        exchange(device, mine, NULL, bytes);
    if (device->failed)
        return NULL;
    *n_words = HY_MEETING_WORDS * device->world->args.world_size;
    return (const uint32_t *)device->world->exchanged;
}
