#include "conv.h"

#include "row_output.h"
#include "sequence.h"

/*
 * A thread computes a chunk of one channel's rows, the window of inputs in registers. Only the
 * thread of a sequence's first chunk touches the state: it has read the old inputs when it writes
 * the new ones, so no other thread need be waited for. Hence the others must not reach back beyond
 * the segment: a chunk has at least width - 1 rows.
 *
 * Global memory of a launch for n channels and width W, C = ceil(n / 128) blocks of them, G chunks
 * for the longest sequence; a sequence has T rows in K = ceil(T / chunk) chunks:
 *   distinct bytes read: 4 n (W + 1), and for each sequence 36 and, if T > 0, 4 n T + E n (W - 1),
 *   E being the bytes of a state's element
 *   written: for each sequence with T > 0, 4 n T + E n (W - 1); where rounded rows are wanted, also
 *   2 * 32 ceil(n / 32) T
 *   loads for each sequence: 36 * 128 C G, and if T > 0, with E = 4,
 *     in the kernel for its width 4 n (T + K (W - 1) + K (W + 1)), if K > 1 also 4 n (W - 1)
 *     in the kernel for any width 4 n (2 T W + K + W - 1)
 *   with another E, where T = 1: less (4 - E) n for each time that an element of the state is
 *   loaded, W - 1 times and in the kernel for any width 2 W - 3
 */
enum { THREADS = 128, CHUNK_ROWS = 32, BATCH = 8 };

HY_DEVICE float row_input(const struct hy_conv_args &args, const struct hy_sequence &sequence,
                          size_t channel, size_t t)
{
    return hy_load(args.x + (sequence.row + t) * args.x_stride + channel);
}

/* Input number index of a channel: the state's width - 1 old ones, then the segment's. */
HY_DEVICE float any_input(const struct hy_conv_args &args, const struct hy_sequence &sequence,
                          size_t channel, size_t index)
{
    size_t n_old = args.width - 1;
    if (index >= n_old)
        return row_input(args, sequence, channel, index - n_old);
    float value[1];
    hy_load_state<1>(sequence.state_type, sequence.before, index * args.n + channel, 0, 1, value);
    return value[0];
}

/* Returns the output of a row. */
HY_DEVICE float store_output(const struct hy_conv_args &args, const struct hy_sequence &sequence,
                             size_t channel, size_t t, float sum)
{
    const float value = hy_silu(sum);
    hy_store(args.y + (sequence.row + t) * args.y_stride + channel, value);
    return value;
}

/* The outputs of rows t, t + 1, ... before row end, N at most, where rounded ones are wanted. */
template <int N>
HY_DEVICE void store_rounded(const struct hy_conv_args &args, const struct hy_sequence &sequence,
                             size_t channel, size_t t, size_t end, const float (&values)[N])
{
    if (!args.rounded.data)
        return;
    uint16_t *rounded = static_cast<uint16_t *>(args.rounded.data)
                        + (sequence.row + t) * args.rounded.stride + channel;
#pragma unroll
    for (int r = 0; r < N; r++)
        if (t + r < end)
            hy_store(rounded + r * args.rounded.stride, hy_to_bf16(values[r]));
}

/* A state's element is read before it is written, since it moves to a lower index. */
HY_DEVICE void move_state(const struct hy_conv_args &args, const struct hy_sequence &sequence,
                          size_t channel)
{
    for (size_t j = 0; j + 1 < args.width; j++) {
        const float value[1] = {any_input(args, sequence, channel, sequence.n_rows + j)};
        hy_store_state<1>(sequence.state_type, sequence.after, j * args.n + channel, 0, 1, value);
    }
}

/* Where a thread works: false for one beyond the channels or the sequence's rows. */
struct conv_place {
    size_t channel, begin, end; /* rows, counted from the segment's first */
};

HY_DEVICE bool find_place(const struct hy_conv_args &args, const struct hy_sequence &sequence,
                          size_t chunk_rows, struct conv_place &place)
{
    place.channel = (size_t)hy_block().x * THREADS + hy_thread();
    place.begin = (size_t)hy_block().y * chunk_rows;
    place.end = place.begin + chunk_rows < sequence.n_rows ? place.begin + chunk_rows
                                                           : sequence.n_rows;
    return place.channel < args.n && place.begin < sequence.n_rows;
}

/* Threads behind the last channel have the zeros that rounded rows end with. */
HY_DEVICE void end_rows(const struct hy_conv_args &args, const struct hy_sequence &sequence,
                        const struct conv_place &place)
{
    if (!args.rounded.data || place.channel < args.n
        || place.channel >= hy_rounded_width(args.n))
        return;
    for (size_t t = place.begin; t < place.end; t++)
        hy_store(static_cast<uint16_t *>(args.rounded.data)
                     + (sequence.row + t) * args.rounded.stride + place.channel,
                 (uint16_t)0);
}

template <int WIDTH> struct conv_window {
    float weight[WIDTH], bias;
    float old[WIDTH]; /* the WIDTH - 1 inputs before the row, oldest first */
};

template <int WIDTH>
HY_DEVICE void load_window(const struct hy_conv_args &args, const struct hy_sequence &sequence,
                           const struct conv_place &place, struct conv_window<WIDTH> &window)
{
    window.bias = hy_load(args.bias + place.channel);
#pragma unroll
    for (int j = 0; j < WIDTH; j++)
        window.weight[j] = hy_load(args.weight + j * args.n + place.channel);
    if (place.begin == 0) {
        hy_load_state<WIDTH>(sequence.state_type, sequence.before, place.channel, args.n,
                             WIDTH - 1, window.old);
        return;
    }
#pragma unroll
    for (int j = 0; j + 1 < WIDTH; j++)
        window.old[j] =
            row_input(args, sequence, place.channel, place.begin - (WIDTH - 1) + j);
}

/* The row's sum; the window moves on by it. */
template <int WIDTH> HY_DEVICE float take_input(struct conv_window<WIDTH> &window, float x)
{
    float sum = window.bias;
    window.old[WIDTH - 1] = x;
#pragma unroll
    for (int j = 0; j < WIDTH; j++)
        sum = hy_fma(window.weight[j], window.old[j], sum);
#pragma unroll
    for (int j = 0; j + 1 < WIDTH; j++)
        window.old[j] = window.old[j + 1];
    return sum;
}

template <int WIDTH>
static HY_KERNEL __launch_bounds__(THREADS) conv_width(struct hy_conv_args args)
{
    const struct hy_sequence sequence =
        hy_load_sequence<&hy_state_sequence::conv_before, &hy_state_sequence::conv_after>(
            args.sequences + hy_block().z);
    struct conv_place place;
    if (!find_place(args, sequence, CHUNK_ROWS, place)) {
        end_rows(args, sequence, place);
        return;
    }
    struct conv_window<WIDTH> window;
    load_window(args, sequence, place, window);
    for (size_t first = place.begin; first < place.end; first += BATCH) {
        float x[BATCH]; /* loaded together, before the first store could hold up a load */
#pragma unroll
        for (int r = 0; r < BATCH; r++)
            x[r] = first + r < place.end ? row_input(args, sequence, place.channel, first + r)
                                         : 0.0f;
#pragma unroll
        for (int r = 0; r < BATCH; r++)
            if (first + r < place.end)
                x[r] = store_output(args, sequence, place.channel, first + r,
                                    take_input(window, x[r]));
        store_rounded(args, sequence, place.channel, first, place.end, x);
    }
    if (place.begin > 0)
        return;
    if (place.end < sequence.n_rows) {
        move_state(args, sequence, place.channel);
        return;
    }
    hy_store_state<WIDTH>(sequence.state_type, sequence.after, place.channel, args.n, WIDTH - 1,
                          window.old);
}

/* Any width: reads each input for every row that it counts in. */
static HY_KERNEL __launch_bounds__(THREADS) conv_any(struct hy_conv_args args, size_t chunk_rows)
{
    const struct hy_sequence sequence =
        hy_load_sequence<&hy_state_sequence::conv_before, &hy_state_sequence::conv_after>(
            args.sequences + hy_block().z);
    struct conv_place place;
    if (!find_place(args, sequence, chunk_rows, place)) {
        end_rows(args, sequence, place);
        return;
    }
    const float bias = hy_load(args.bias + place.channel);
    for (size_t t = place.begin; t < place.end; t++) {
        float sum = bias;
        for (size_t j = 0; j < args.width; j++)
            sum = hy_fma(hy_load(args.weight + j * args.n + place.channel),
                         any_input(args, sequence, place.channel, t + j), sum);
        const float value[1] = {store_output(args, sequence, place.channel, t, sum)};
        store_rounded(args, sequence, place.channel, t, place.end, value);
    }
    if (place.begin == 0)
        move_state(args, sequence, place.channel);
}

/* ------------------------------------------------------------------ choice */

enum { MOST_BLOCKS = 65535 /* of a grid's second and third dimension */ };

static void launch(cudaStream_t stream, const struct hy_conv_args &args, size_t chunk_rows,
                   size_t longest)
{
    const dim3 grid((unsigned)((args.n + THREADS - 1) / THREADS),
                    (unsigned)((longest + chunk_rows - 1) / chunk_rows),
                    (unsigned)args.n_sequences);
    if (args.width == 1)
        hy_launch(stream, conv_width<1>, grid, THREADS, 0, args);
    else if (args.width == 2)
        hy_launch(stream, conv_width<2>, grid, THREADS, 0, args);
    else if (args.width == 3)
        hy_launch(stream, conv_width<3>, grid, THREADS, 0, args);
    else if (args.width == 4)
        hy_launch(stream, conv_width<4>, grid, THREADS, 0, args);
    else
        hy_launch(stream, conv_any, grid, THREADS, 0, args, chunk_rows);
}

void hy_cuda_conv(cudaStream_t stream, const struct hy_conv_args *args, size_t longest)
{
    if (longest == 0 || args->n == 0)
        return;
    const size_t least = CHUNK_ROWS, chunk_rows = args->width > least ? args->width : least;
    const size_t most = MOST_BLOCKS;
    struct hy_conv_args part = *args;
    for (size_t first = 0; first < args->n_sequences; first += most) {
        size_t n_left = args->n_sequences - first;
        part.sequences = args->sequences + first;
        part.n_sequences = n_left < most ? n_left : most;
        launch(stream, part, chunk_rows, longest);
    }
}
