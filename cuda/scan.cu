#include "scan.h"

#include "element.h"
#include "sequence.h"

/*
 * Both kernels compute the same expressions in the same order. Of a channel's states, the LANES
 * numbers s with the same s % LANES make a partial sum of h[s] c[s], s rising; the partial sums are
 * added in pairs LANES / 2, LANES / 4, ... 1 apart.
 */
enum { LANES = 16 };

/* Above 20, log(1 + e^v) is v to f32 precision. */
HY_DEVICE float softplus(float v)
{
    return v > 20.0f ? v : log1pf(hy_exp(v));
}

/* For 2^x instead of e^x. */
HY_DEVICE float decay_rate(float a)
{
    return a * 1.44269504f;
}

/* One step of one state; dt_x = dt * x. */
HY_DEVICE float next_state(float h, float dt, float dt_x, float rate, float b)
{
    return hy_fma(hy_exp2(dt * rate), h, dt_x * b);
}

HY_DEVICE float output(float sum, float d, float x, float z)
{
    return hy_fma(d, x, sum) * hy_silu(z);
}

/* ------------------------------------------------------- chunks of 16 rows */

/*
 * A chunk of ROWS rows at a time, LANES threads a channel. A chunk's rows are worked on together in
 * all but the recurrence itself, which is one multiply-add a row: softplus and gate have a thread
 * for each row and channel; decays and inputs of a state do not wait for one another; the sums over
 * states are made for all rows at once and end with row r in lane r. So a single long sequence
 * keeps n * LANES threads busy. Chunks in different blocks would need every exponential twice,
 * most of the work, and would make results depend on where a sequence was cut.
 *
 * Global memory of a launch for n channels of N states, C = ceil(n / 16) blocks of them, a sequence
 * having T rows:
 *   distinct bytes read: 4 (N n + n), and for each sequence 36 and, if T > 0,
 *   4 (3 T n + 2 T N) + E N n, E being the bytes of a state's element
 *   written: for each sequence with T > 0, 4 T n + E N n
 *   loads for each sequence: 36 * 256 C, and if T > 0, 4 (3 T n + 2 T N C + N n + n) + E N n: what
 *   the channels share, every block reads
 */
enum { ROWS = 16, CHANNELS = 16, CHUNK_THREADS = LANES * CHANNELS };

/* What a thread brings in for a chunk: of its row and channel, and of its row's states. */
template <int STATES> struct scan_input {
    float dt, x, z;
    float b[STATES], c[STATES];
};

/* row counts from the segment's first. Zeros for what does not exist. */
template <int STATES>
HY_DEVICE void load_input(const struct hy_scan_args &args, const struct hy_sequence &sequence,
                          size_t row, size_t channel, struct scan_input<STATES> &input)
{
    bool has_row = row < sequence.n_rows, has_value = has_row && channel < args.n;
    size_t t = sequence.row + row;
    input.dt = has_value ? hy_load(args.dt + t * args.dt_stride + channel) : 0.0f;
    input.x = has_value ? hy_load(args.x + t * args.x_stride + channel) : 0.0f;
    input.z = has_value ? hy_load(args.z + t * args.z_stride + channel) : 0.0f;
#pragma unroll
    for (int j = 0; j < STATES; j++) {
        size_t s = hy_thread() % LANES + j * LANES;
        bool has_state = has_row && s < args.state_size;
        input.b[j] = has_state ? hy_load(args.b + t * args.bc_stride + s) : 0.0f;
        input.c[j] = has_state ? hy_load(args.c + t * args.bc_stride + s) : 0.0f;
    }
}

/* States that a lane lacks stay 0, whatever dt and x are. */
template <int STATES, bool FULL> struct scan_lane {
    float h[STATES], rate[STATES];
    bool has[STATES];
};

/* How many states the thread's lane has. */
template <int STATES, bool FULL>
HY_DEVICE size_t states_of_lane(const struct hy_scan_args &args, size_t channel)
{
    if (channel >= args.n)
        return 0;
    return FULL ? (size_t)STATES
                : (args.state_size + LANES - 1 - hy_thread() % LANES) / LANES;
}

template <int STATES, bool FULL>
HY_DEVICE void load_lane(const struct hy_scan_args &args, const struct hy_sequence &sequence,
                         size_t channel, struct scan_lane<STATES, FULL> &lane)
{
    const size_t first = hy_thread() % LANES * args.n + channel, stride = LANES * args.n;
    const size_t count = states_of_lane<STATES, FULL>(args, channel);
    hy_load_state<STATES>(sequence.state_type, sequence.before, first, stride, count, lane.h);
#pragma unroll
    for (int j = 0; j < STATES; j++) {
        lane.has[j] = (size_t)j < count;
        lane.rate[j] = lane.has[j] ? decay_rate(hy_load(args.a + first + j * stride)) : 0.0f;
    }
}

/* Steps through a chunk's rows; sums[r] is the lane's part of row r's sum. steps holds {dt, dt x}
 * of rows and channels, bc {b, c} of rows and states. */
template <int STATES, bool FULL, bool WHOLE>
HY_DEVICE void step_lane(struct scan_lane<STATES, FULL> &lane, const hy_shared<float2> &steps,
                         const hy_shared<float2> &bc, size_t count, float sums[ROWS])
{
    unsigned channel = hy_thread() / LANES, number = hy_thread() % LANES;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        sums[r] = 0.0f;
        if (!WHOLE && (size_t)r >= count)
            continue;
        float2 step = steps[r * CHANNELS + channel];
#pragma unroll
        for (int j = 0; j < STATES; j++) {
            float2 factors = bc[(r * STATES + j) * LANES + number];
            float h = next_state(lane.h[j], step.x, step.y, lane.rate[j], factors.x);
            lane.h[j] = FULL || lane.has[j] ? h : 0.0f;
            sums[r] = hy_fma(lane.h[j], factors.y, sums[r]);
        }
    }
}

/* Each lane gives half of its rows to the lane APART from it and takes the other half from it. */
template <int APART> HY_DEVICE void halve_rows(float sums[ROWS])
{
    bool upper = (hy_thread() & APART) != 0;
#pragma unroll
    for (int r = 0; r < APART; r++) {
        float kept = upper ? sums[r + APART] : sums[r];
        float given = upper ? sums[r] : sums[r + APART];
        sums[r] = kept + hy_shuffle_xor(given, APART);
    }
}

/* Sums over the lanes of a channel; lane r has row r's. */
HY_DEVICE float sum_of_lanes(float sums[ROWS])
{
    halve_rows<8>(sums);
    halve_rows<4>(sums);
    halve_rows<2>(sums);
    halve_rows<1>(sums);
    return sums[0];
}

/* Bytes of shared memory: steps, {b, c}, sums (rows one float further apart, for the banks), d. */
static inline size_t chunk_shared_bytes(size_t states)
{
    return sizeof(float2) * ROWS * (CHANNELS + LANES * states)
           + sizeof(float) * (ROWS * (CHANNELS + 1) + CHANNELS);
}

/* FULL: there are STATES * LANES states. */
template <int STATES, bool FULL>
static HY_KERNEL __launch_bounds__(CHUNK_THREADS) scan_chunks(struct hy_scan_args args)
{
    const size_t first_sum = sizeof(float2) * ROWS * (CHANNELS + LANES * STATES);
    hy_shared<float2> steps(0, ROWS * CHANNELS);
    hy_shared<float2> bc(sizeof(float2) * ROWS * CHANNELS, ROWS * LANES * STATES);
    hy_shared<float> sums(first_sum, ROWS * (CHANNELS + 1));
    hy_shared<float> d(first_sum + sizeof(float) * ROWS * (CHANNELS + 1), CHANNELS);
    struct hy_sequence sequence =
        hy_load_sequence<&hy_state_sequence::ssm_before, &hy_state_sequence::ssm_after>(
            args.sequences + hy_block().y);
    if (sequence.n_rows == 0)
        return;

    /* A thread has a row and a channel of inputs and outputs, a channel and a lane of states. */
    const unsigned thread = hy_thread(), row = thread / CHANNELS, column = thread % CHANNELS;
    const size_t first_channel = (size_t)hy_block().x * CHANNELS;
    const size_t channel = first_channel + column, own = first_channel + thread / LANES;
    struct scan_lane<STATES, FULL> lane;
    load_lane(args, sequence, own, lane);
    if (thread < CHANNELS)
        d[thread] = channel < args.n ? hy_load(args.d + channel) : 0.0f;
    struct scan_input<STATES> input;
    load_input(args, sequence, row, channel, input);

    for (size_t first = 0; first < sequence.n_rows; first += ROWS) {
        const float x = input.x, z = input.z, dt = softplus(input.dt);
        steps[thread] = make_float2(dt, dt * x);
#pragma unroll
        for (int j = 0; j < STATES; j++)
            bc[(row * STATES + j) * LANES + column] = make_float2(input.b[j], input.c[j]);
        hy_sync();

        load_input(args, sequence, first + ROWS + row, channel, input);
        float own_sums[ROWS];
        if (first + ROWS <= sequence.n_rows)
            step_lane<STATES, FULL, true>(lane, steps, bc, ROWS, own_sums);
        else
            step_lane<STATES, FULL, false>(lane, steps, bc, sequence.n_rows - first, own_sums);
        sums[thread % LANES * (CHANNELS + 1) + thread / LANES] = sum_of_lanes(own_sums);
        hy_sync();

        if (first + row < sequence.n_rows && channel < args.n) {
            float sum = sums[row * (CHANNELS + 1) + column], skip = d[column];
            hy_store(args.y + (sequence.row + first + row) * args.y_stride + channel,
                     output(sum, skip, x, z));
        }
    }
    hy_store_state<STATES>(sequence.state_type, sequence.after, thread % LANES * args.n + own,
                           LANES * args.n, states_of_lane<STATES, FULL>(args, own), lane.h);
}

/* --------------------------------------------------------------- row by row */

/*
 * A thread a channel, so that states are read and written in whole rows: for single rows, and for
 * more states than the kernel above has room for.
 *
 * Global memory of a launch: distinct bytes as above; a new state with a place of its own is read
 * there, too, if T > 1: E N n; with C = ceil(n / 128),
 *   loads for each sequence: 36 * 128 C, and if T > 0, 4 (3 T n + 2 T N C + T N n + n) + E T N n
 *   stores for each sequence: 4 T n + E T N n
 */
enum { ROW_THREADS = 128, ROW_BLOCKS = 4 /* of a multiprocessor: the registers are theirs */ };

template <int APART> HY_DEVICE void halve_lanes(float sums[LANES])
{
#pragma unroll
    for (int lane = 0; lane < APART; lane++)
        sums[lane] += sums[lane + APART];
}

HY_DEVICE float sum_of_sums(float sums[LANES])
{
    halve_lanes<8>(sums);
    halve_lanes<4>(sums);
    halve_lanes<2>(sums);
    halve_lanes<1>(sums);
    return sums[0];
}

/* States first .. first + LANES - 1 of a channel take a step; adds to the sums of their lanes. All
 * is loaded before anything is stored: the compiler keeps loads behind stores. */
template <typename ELEMENT>
HY_DEVICE void step_states(const struct hy_scan_args &args, const void *before, void *after,
                           size_t channel, size_t first, float2 step,
                           const hy_shared<float2> &bc, float sums[LANES])
{
    const size_t place = first * args.n + channel, count = args.state_size - first;
    float h[LANES], rate[LANES];
    hy_load_elements<ELEMENT, LANES>(before, place, args.n, count, h);
#pragma unroll
    for (int lane = 0; lane < LANES; lane++)
        rate[lane] = (size_t)lane < count ? decay_rate(hy_load(args.a + place + lane * args.n))
                                          : 0.0f;
#pragma unroll
    for (int lane = 0; lane < LANES; lane++)
        if ((size_t)lane < count) {
            float2 factors = bc[first + lane];
            h[lane] = next_state(h[lane], step.x, step.y, rate[lane], factors.x);
            sums[lane] = hy_fma(h[lane], factors.y, sums[lane]);
        }
    hy_store_elements<ELEMENT, LANES>(after, place, args.n, count, h);
}

/* All states of a channel take a step: the sum of h c. */
template <typename ELEMENT>
HY_DEVICE float step_channel(const struct hy_scan_args &args, const void *before, void *after,
                             size_t channel, float2 step, const hy_shared<float2> &bc)
{
    float sums[LANES] = {0.0f};
    for (size_t first = 0; first < args.state_size; first += LANES)
        step_states<ELEMENT>(args, before, after, channel, first, step, bc, sums);
    return sum_of_sums(sums);
}

/* One branch for all that a row loads of the states, which a thread loads together. */
HY_DEVICE float step_channel_of(hymba_dtype dtype, const struct hy_scan_args &args,
                                const void *before, void *after, size_t channel, float2 step,
                                const hy_shared<float2> &bc)
{
    if (dtype == HYMBA_DTYPE_BF16)
        return step_channel<hy_element_bf16>(args, before, after, channel, step, bc);
    if (dtype == HYMBA_DTYPE_F16)
        return step_channel<hy_element_f16>(args, before, after, channel, step, bc);
    return step_channel<hy_element_f32>(args, before, after, channel, step, bc);
}

static HY_KERNEL __launch_bounds__(ROW_THREADS, ROW_BLOCKS) scan_rows(struct hy_scan_args args)
{
    hy_shared<float2> bc(0, args.state_size);
    struct hy_sequence sequence =
        hy_load_sequence<&hy_state_sequence::ssm_before, &hy_state_sequence::ssm_after>(
            args.sequences + hy_block().y);
    const size_t channel = (size_t)hy_block().x * ROW_THREADS + hy_thread();
    const bool has_channel = channel < args.n;
    const float d = has_channel && sequence.n_rows > 0 ? hy_load(args.d + channel) : 0.0f;
    const void *before = sequence.before;
    for (size_t t = sequence.row; t < sequence.row + sequence.n_rows; t++) {
        for (size_t s = hy_thread(); s < args.state_size; s += ROW_THREADS)
            bc[s] = make_float2(hy_load(args.b + t * args.bc_stride + s),
                                hy_load(args.c + t * args.bc_stride + s));
        hy_sync();
        if (has_channel) {
            float dt = softplus(hy_load(args.dt + t * args.dt_stride + channel));
            float x = hy_load(args.x + t * args.x_stride + channel);
            float z = hy_load(args.z + t * args.z_stride + channel);
            float2 step = make_float2(dt, dt * x);
            float sum = step_channel_of(sequence.state_type, args, before, sequence.after, channel,
                                        step, bc);
            hy_store(args.y + t * args.y_stride + channel, output(sum, d, x, z));
        }
        before = sequence.after;
        hy_sync(); /* the next row's b and c stand where this one's do */
    }
}

/* ------------------------------------------------------------------ choice */

enum { MOST_STATES_OF_LANE = 16, MOST_SEQUENCES = 65535 /* of a grid's second dimension */ };

static void launch_chunks(cudaStream_t stream, const struct hy_scan_args &args)
{
    const size_t n_blocks = (args.n + CHANNELS - 1) / CHANNELS;
    const dim3 grid((unsigned)n_blocks, (unsigned)args.n_sequences);
    const size_t states = (args.state_size + LANES - 1) / LANES;
    if (args.state_size == LANES)
        hy_launch(stream, scan_chunks<1, true>, grid, CHUNK_THREADS, chunk_shared_bytes(1), args);
    else if (states <= 1)
        hy_launch(stream, scan_chunks<1, false>, grid, CHUNK_THREADS, chunk_shared_bytes(1), args);
    else if (states <= 2)
        hy_launch(stream, scan_chunks<2, false>, grid, CHUNK_THREADS, chunk_shared_bytes(2), args);
    else if (states <= 4)
        hy_launch(stream, scan_chunks<4, false>, grid, CHUNK_THREADS, chunk_shared_bytes(4), args);
    else if (states <= 8)
        hy_launch(stream, scan_chunks<8, false>, grid, CHUNK_THREADS, chunk_shared_bytes(8), args);
    else
        hy_launch(stream, scan_chunks<16, false>, grid, CHUNK_THREADS, chunk_shared_bytes(16),
                  args);
}

static void launch_rows(cudaStream_t stream, const struct hy_scan_args &args)
{
    const size_t n_blocks = (args.n + ROW_THREADS - 1) / ROW_THREADS;
    const dim3 grid((unsigned)n_blocks, (unsigned)args.n_sequences);
    hy_launch(stream, scan_rows, grid, ROW_THREADS, sizeof(float2) * args.state_size, args);
}

void hy_cuda_scan(cudaStream_t stream, const struct hy_scan_args *args, size_t longest)
{
    if (longest == 0 || args->n == 0)
        return;
    const size_t most = MOST_SEQUENCES;
    struct hy_scan_args part = *args;
    for (size_t first = 0; first < args->n_sequences; first += most) {
        size_t n_left = args->n_sequences - first;
        part.sequences = args->sequences + first;
        part.n_sequences = n_left < most ? n_left : most;
        if (longest == 1 || args->state_size > MOST_STATES_OF_LANE * LANES)
            launch_rows(stream, part);
        else
            launch_chunks(stream, part);
    }
}
