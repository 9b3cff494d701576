#include "compare_parts.h"

extern "C" {
#include "kernel/ref.h"
}

/* Segments that follow one another. */
static std::vector<struct hy_state_sequence> some_sequences(bench &b, size_t n_sequences,
                                                            size_t longest, size_t *rows)
{
    std::vector<struct hy_state_sequence> sequences(n_sequences);
    *rows = 0;
    for (struct hy_state_sequence &sequence : sequences) {
        sequence.segment.row = *rows;
        sequence.segment.n_rows = 1 + b.below(longest);
        *rows += sequence.segment.n_rows;
    }
    return sequences;
}

/* In place. */
static void place_states(struct hy_state_sequence &sequence, void *conv, void *ssm,
                         hymba_dtype dtype)
{
    sequence.conv_before = sequence.conv_after = conv;
    sequence.ssm_before = sequence.ssm_after = ssm;
    sequence.state_type = dtype;
}

static void compare_conv_of(bench &b, size_t n_sequences, size_t longest, bool rounds)
{
    size_t rows, n = 1 + b.below(40), width = 2 + b.below(4), old = (width - 1) * n;
    std::vector<struct hy_state_sequence> sequences =
        some_sequences(b, n_sequences, longest, &rows);
    size_t stride = n + b.below(5);
    floats x = b.some(rows * stride), weight = b.some(width * n), bias = b.some(n);
    floats y(rows * n), states = b.some(n_sequences * old);
    float *states_on_device = b.put(states);
    for (size_t i = 0; i < n_sequences; i++)
        place_states(sequences[i], &states[i * old], NULL, HYMBA_DTYPE_F32);
    struct hy_conv_args args = {x.data(), stride, weight.data(), bias.data(), n, width,
                                y.data(), n, sequences.data(), n_sequences, {}};
    struct rounded_rows rounded = some_rounded(b, rows, n);
    hy_ref_conv(&args, 0, n_sequences * n);
    for (size_t i = 0; i < n_sequences; i++)
        place_states(sequences[i], states_on_device + i * old, NULL, HYMBA_DTYPE_F32);
    args.x = b.put(x);
    args.weight = b.put(weight);
    args.bias = b.put(bias);
    args.y = (float *)b.take(y.size() * sizeof(float));
    if (rounds)
        args.rounded = rounded.on_device;
    b.ops->conv(b.device, &args);
    sequences.assign(n_sequences, {}); /* lists may change at once */
    b.agree("a convolution", b.get(args.y, y.size()), y, 1e-5f);
    if (rounds)
        agree_rounded(b, "a convolution", rounded, y, n, rows);
    b.agree("its state", b.get(states_on_device, states.size()), states, 0.0f);
}

void compare_conv(bench &b)
{
    compare_conv_of(b, 1 + b.below(4), 60, false);
    compare_conv_of(b, 1 + b.below(4), 60, true);
    compare_conv_of(b, 300, 2, true);
}

static void compare_scan_of(bench &b, size_t n_sequences, size_t longest, size_t state_size)
{
    size_t rows, n = 1 + b.below(40), size = state_size * n;
    std::vector<struct hy_state_sequence> sequences =
        some_sequences(b, n_sequences, longest, &rows);
    floats dt = b.some(rows * n, 3.0f), x = b.some(rows * n), z = b.some(rows * n, 3.0f);
    floats bc = b.some(rows * 2 * state_size), a = b.some(size, 0.5f), d = b.some(n);
    floats y(rows * n), states = b.some(n_sequences * size);
    for (float &value : a)
        value -= 0.6f;
    float *states_on_device = b.put(states);
    for (size_t i = 0; i < n_sequences; i++)
        place_states(sequences[i], NULL, &states[i * size], HYMBA_DTYPE_F32);
    struct hy_scan_args args = {dt.data(), n, x.data(), n, z.data(), n, bc.data(),
                                bc.data() + state_size, 2 * state_size, a.data(), d.data(), n,
                                state_size, y.data(), n, sequences.data(), n_sequences};
    hy_ref_scan(&args, 0, n_sequences * n);
    for (size_t i = 0; i < n_sequences; i++)
        place_states(sequences[i], NULL, states_on_device + i * size, HYMBA_DTYPE_F32);
    args.dt = b.put(dt);
    args.x = b.put(x);
    args.z = b.put(z);
    args.b = b.put(bc);
    args.c = args.b + state_size;
    args.a = b.put(a);
    args.d = b.put(d);
    args.y = (float *)b.take(y.size() * sizeof(float));
    b.ops->scan(b.device, &args);
    sequences.assign(n_sequences, {});
    b.agree("a scan", b.get(args.y, y.size()), y, 2e-5f);
    b.agree("its state", b.get(states_on_device, states.size()), states, 2e-5f);
}

void compare_scan(bench &b)
{
    compare_scan_of(b, 1 + b.below(3), 150, 16);
    compare_scan_of(b, 1 + b.below(4), 20, 1 + b.below(20));
    compare_scan_of(b, 200, 2, 16);
}
