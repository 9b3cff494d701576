/* Convolution and scan kernels in the harness, against the generic ones in plain C. */
#include "device_test.h"

#include "conv.h"
#include "scan.h"

extern "C" {
#include "kernel/ref.h"
}

#include <memory>

typedef std::vector<float> floats;
typedef std::unique_ptr<device_array<float>> device_floats;

/* ------------------------------------------------------------------ batches */

/* Sequences of a call, each with a state of so many floats. */
struct batch {
    std::vector<hy_segment> segments;
    std::vector<floats> states;
    size_t n_rows, longest;
    /* On the device: the states' types, f32 for those beyond; and whether the states behind the
     * segments have places of their own. */
    std::vector<hymba_dtype> types;
    bool apart;
};

static hymba_dtype type_of(const struct batch &batch, size_t s)
{
    return s < batch.types.size() ? batch.types[s] : (hymba_dtype)HYMBA_DTYPE_F32;
}

static size_t random_length()
{
    static const size_t most[] = {1, 4, 40, 200};
    return test_random_below(most[test_random_below(4)] + 1);
}

/* The first sequence has a row at least; in one of three batches, single rows. */
static struct batch random_batch(size_t state_floats)
{
    struct batch batch = {};
    const size_t n = 1 + test_random_below(4);
    const bool single = test_random_below(3) == 0;
    for (size_t s = 0; s < n; s++) {
        size_t n_rows = single ? 1 : random_length();
        if (s == 0 && n_rows == 0)
            n_rows = 17;
        batch.segments.push_back({batch.n_rows, n_rows});
        batch.states.push_back(random_floats(state_floats, 1.0f));
        batch.n_rows += n_rows;
        batch.longest = n_rows > batch.longest ? n_rows : batch.longest;
    }
    return batch;
}

typedef std::vector<unsigned char> bytes;

static bytes narrow(const floats &values, hymba_dtype type)
{
    bytes narrowed(values.size() * hy_dtype_size(type));
    hy_row_from_f32(values.data(), type, narrowed.data(), values.size());
    return narrowed;
}

static floats widen(const bytes &values, hymba_dtype type)
{
    floats widened(values.size() / hy_dtype_size(type));
    hy_row_to_f32(values.data(), type, widened.data(), widened.size());
    return widened;
}

/* Where a state is to be written: what is there before has never been written. */
class unwritten {
public:
    explicit unwritten(size_t size_) : size(size_)
    {
        ck_assert_int_eq(cudaMalloc(reinterpret_cast<void **>(&data), size + 1), cudaSuccess);
    }
    unwritten(const unwritten &) = delete;
    unwritten &operator=(const unwritten &) = delete;
    ~unwritten()
    {
        cudaFree(data);
    }
    unsigned char *data;
    const size_t size;
};

/* Arguments of either op point into these. */
struct state_lists {
    std::vector<std::unique_ptr<device_array<unsigned char>>> before;
    std::vector<std::unique_ptr<unwritten>> after;
    std::unique_ptr<device_array<hy_state_sequence>> list;
};

/* Both kinds of state point to the same place: an op takes its own. */
static struct hy_state_sequence with_state(struct hy_segment segment, const void *before,
                                           void *after, hymba_dtype type)
{
    return {segment, before, after, before, after, type};
}

static struct state_lists upload(const struct batch &batch)
{
    struct state_lists lists;
    std::vector<hy_state_sequence> sequences;
    for (size_t s = 0; s < batch.segments.size(); s++) {
        const bytes state = narrow(batch.states[s], type_of(batch, s));
        lists.before.emplace_back(new device_array<unsigned char>(state));
        lists.after.emplace_back(new unwritten(state.size()));
        void *before = lists.before[s]->data;
        sequences.push_back(with_state(batch.segments[s], before,
                                       batch.apart ? lists.after[s]->data : before,
                                       type_of(batch, s)));
    }
    lists.list.reset(new device_array<hy_state_sequence>(sequences));
    return lists;
}

/* The states behind the segments; those before are as they were if they have places of their own,
 * and nothing is written for a sequence without rows. */
static void read_states(const struct state_lists &lists, struct batch &batch)
{
    for (size_t s = 0; s < batch.states.size(); s++) {
        const hymba_dtype type = type_of(batch, s);
        bytes state = lists.before[s]->read();
        if (batch.apart) {
            ck_assert(state == narrow(batch.states[s], type));
            if (batch.segments[s].n_rows > 0 && !state.empty())
                ck_assert_int_eq(cudaMemcpy(state.data(), lists.after[s]->data, state.size(),
                                            cudaMemcpyDeviceToHost),
                                 cudaSuccess);
        }
        batch.states[s] = widen(state, type);
    }
}

/* The same for an op on the host. */
static std::vector<hy_state_sequence> list_of(struct batch &batch)
{
    std::vector<hy_state_sequence> sequences;
    for (size_t s = 0; s < batch.segments.size(); s++)
        sequences.push_back(with_state(batch.segments[s], batch.states[s].data(),
                                       batch.states[s].data(), HYMBA_DTYPE_F32));
    return sequences;
}

/* With places of their own for the new states, and those of single rows in 16 bits where chance
 * says so. *f32: the same with all states in f32 and in place. */
static struct batch narrow_batch(const struct batch &batch, struct batch *f32)
{
    static const hymba_dtype types[] = {HYMBA_DTYPE_BF16, HYMBA_DTYPE_F16, HYMBA_DTYPE_F32};
    struct batch narrowed = batch;
    narrowed.apart = true;
    for (size_t s = 0; s < batch.segments.size(); s++) {
        const size_t choice = batch.segments[s].n_rows <= 1 ? test_random_below(3) : 2;
        narrowed.types.push_back(types[choice]);
        narrowed.states[s] = widen(narrow(batch.states[s], types[choice]), types[choice]);
    }
    *f32 = narrowed;
    f32->types.clear();
    f32->apart = false;
    return narrowed;
}

/* Both have the same states, but that those of a are rounded. */
static void check_rounded_states(const struct batch &a, const struct batch &b)
{
    for (size_t s = 0; s < a.states.size(); s++)
        check_same_bits(a.states[s], widen(narrow(b.states[s], type_of(a, s)), type_of(a, s)),
                        "rounded state");
}

/* The same rows and states, some of them. */
static struct batch one_sequence(const struct batch &batch, size_t s, size_t first, size_t count)
{
    struct batch one = {};
    one.segments.push_back({batch.segments[s].row + first, count});
    one.states.push_back(batch.states[s]);
    one.n_rows = batch.n_rows;
    one.longest = count;
    return one;
}

static void check_same_states(const struct batch &a, const struct batch &b)
{
    for (size_t s = 0; s < a.states.size(); s++)
        check_same_bits(a.states[s], b.states[s], "state");
}

/* Random parts of n rows. */
static std::vector<size_t> random_parts(size_t n)
{
    std::vector<size_t> parts;
    while (n > 0) {
        size_t part = 1 + test_random_below(test_random_below(2) ? n : 2);
        part = part < n ? part : n;
        parts.push_back(part);
        n -= part;
    }
    return parts;
}

/* -------------------------------------------------------------- convolution */

/* Inputs of a case on the host; args hold its numbers alone. */
struct conv_case {
    struct hy_conv_args args;
    floats x, weight, bias, y;
    struct batch batch;
};

static struct conv_case random_conv(size_t width)
{
    struct conv_case test = {};
    test.args.n = 1 + test_random_below(test_random_below(4) ? 70 : 300);
    test.args.width = width;
    test.batch = random_batch((width - 1) * test.args.n);
    test.args.x_stride = test.args.n + test_random_below(3);
    test.args.y_stride = test.args.n + test_random_below(3);
    test.x = random_floats(test.batch.n_rows * test.args.x_stride, 1.0f);
    test.weight = random_floats(width * test.args.n, 1.0f);
    test.bias = random_floats(test.args.n, 1.0f);
    test.y = random_floats(test.batch.n_rows * test.args.y_stride, 1.0f);
    return test;
}

/* Runs the kernel on a batch of the case's rows, which the arguments have rounded, too, if these
 * have data: y and the states as they are then. */
static void run_conv(const struct conv_case &test, struct batch &batch, floats &y,
                     const struct hy_rounded &rounded = {})
{
    device_array<float> x(test.x), weight(test.weight), bias(test.bias), out(y);
    struct state_lists lists = upload(batch);
    struct hy_conv_args args = test.args;
    args.rounded = rounded;
    args.x = x.data;
    args.weight = weight.data;
    args.bias = bias.data;
    args.y = out.data;
    args.sequences = lists.list->data;
    args.n_sequences = batch.segments.size();
    hy_cuda_conv(NULL, &args, batch.longest);
    check_harness();
    y = out.read();
    read_states(lists, batch);
}

static void run_generic_conv(const struct conv_case &test, struct batch &batch, floats &y)
{
    struct hy_conv_args args = test.args;
    const std::vector<hy_state_sequence> sequences = list_of(batch);
    args.x = test.x.data();
    args.weight = test.weight.data();
    args.bias = test.bias.data();
    args.y = y.data();
    args.sequences = sequences.data();
    args.n_sequences = sequences.size();
    hy_ref_conv(&args, 0, sequences.size() * args.n);
}

/* The formulas of conv.cu. */
static void check_conv_traffic(const struct conv_case &test, bool rounds = false)
{
    const uint64_t n = test.args.n, width = test.args.width, chunk = 32;
    uint64_t distinct = 4 * n * (width + 1), loads = 0, written = 0;
    for (size_t s = 0; s < test.batch.segments.size(); s++) {
        const uint64_t rows = test.batch.segments[s].n_rows, chunks = ceil_div(rows, chunk);
        const uint64_t element = hy_dtype_size(type_of(test.batch, s));
        distinct += 36;
        loads += 36 * 128 * ceil_div(n, 128) * ceil_div(test.batch.longest, chunk);
        if (rows == 0)
            continue;
        distinct += n * (4 * rows + element * (width - 1));
        written += n * (4 * rows + element * (width - 1));
        if (rounds)
            written += 64 * ceil_div(n, 32) * rows;
        if (width > 4)
            loads += 4 * n * (2 * rows * width + chunks + width - 1);
        else
            loads += 4 * n * (rows + 2 * chunks * width + (chunks > 1 ? width - 1 : 0));
        loads -= (4 - element) * n * (width > 4 ? 2 * width - 3 : width - 1);
    }
    check_distinct_traffic(distinct, written);
    check_traffic(loads, written);
}

enum { CASES_OF_WIDTH = 4, MOST_WIDTH = 9 };

/* At most ten terms below 1: 2e-6. The state is a copy of inputs: exact. */
START_TEST(conv_against_generic)
{
    for (int number = 0; number < CASES_OF_WIDTH; number++) {
        const struct conv_case test = random_conv((size_t)_i);
        struct batch actual = test.batch, expected = test.batch;
        floats y = test.y, expected_y = test.y;
        run_conv(test, actual, y);
        check_conv_traffic(test);
        run_generic_conv(test, expected, expected_y);
        for (size_t i = 0; i < y.size(); i++)
            check_near((double)y[i], (double)expected_y[i], 2e-6, "convolution");
        check_same_states(actual, expected);
    }
}
END_TEST

START_TEST(conv_pieces_and_neighbours_give_the_same_bits)
{
    for (int number = 0; number < CASES_OF_WIDTH; number++) {
        const struct conv_case test = random_conv((size_t)_i);
        struct batch whole = test.batch;
        floats y = test.y, pieces_y = test.y;
        run_conv(test, whole, y);
        for (size_t s = 0; s < test.batch.segments.size(); s++) {
            struct batch alone = one_sequence(test.batch, s, 0, test.batch.segments[s].n_rows);
            floats alone_state = alone.states[0];
            size_t done = 0;
            for (size_t part : random_parts(alone.segments[0].n_rows)) {
                struct batch piece = one_sequence(test.batch, s, done, part);
                piece.states[0] = alone_state;
                run_conv(test, piece, pieces_y);
                alone_state = piece.states[0];
                done += part;
            }
            check_same_bits(alone_state, whole.states[s], "state after pieces");
        }
        check_same_bits(pieces_y, y, "convolution in pieces");
    }
}
END_TEST

/* Rounded rows are those of rounding apart, and nothing else changes; what lies behind them stays. */
START_TEST(conv_with_rounded_rows)
{
    for (int number = 0; number < CASES_OF_WIDTH; number++) {
        const struct conv_case test = random_conv((size_t)_i);
        const size_t rows = test.batch.n_rows, n = test.args.n;
        struct batch alone = test.batch, both = test.batch;
        floats y = test.y, both_y = test.y;
        struct hy_rounded rounded = {};
        rounded.dtype = HYMBA_DTYPE_BF16;
        rounded.stride = hy_padded_row(n) + test_random_below(3);
        std::vector<uint16_t> expected(rows * rounded.stride, 0x5555);
        device_array<uint16_t> data(expected);
        rounded.data = data.data;
        run_conv(test, alone, y);
        run_conv(test, both, both_y, rounded);
        check_conv_traffic(test, true);
        check_same_bits(both_y, y, "convolution with rounding");
        check_same_states(both, alone);
        struct hy_round_args args = {y.data(), test.args.y_stride, n, rounded};
        args.y.data = expected.data();
        hy_ref_round(&args, 0, rows);
        ck_assert(data.read() == expected);
    }
}
END_TEST

/* What is f32 inside is the same, whatever the states' types are and wherever the new ones go. */
START_TEST(conv_of_narrow_states_elsewhere)
{
    for (int number = 0; number < CASES_OF_WIDTH; number++) {
        struct conv_case test = random_conv((size_t)_i);
        struct batch expected, actual = narrow_batch(test.batch, &expected);
        floats y = test.y, expected_y = test.y;
        run_conv(test, expected, expected_y);
        test.batch = actual;
        run_conv(test, actual, y);
        check_conv_traffic(test);
        check_same_bits(y, expected_y, "convolution of narrow states");
        check_rounded_states(actual, expected);
    }
}
END_TEST

/* --------------------------------------------------------------------- scan */

struct scan_case {
    struct hy_scan_args args;
    floats dt, x, z, bc, a, d, y;
    struct batch batch;
};

/* b and c share an array, c behind b. */
static struct scan_case random_scan(size_t state_size)
{
    struct scan_case test = {};
    struct hy_scan_args *args = &test.args;
    args->n = 1 + test_random_below(test_random_below(4) ? 40 : 150);
    args->state_size = state_size;
    test.batch = random_batch(state_size * args->n);
    const size_t rows = test.batch.n_rows;
    args->dt_stride = args->n + test_random_below(3);
    args->x_stride = args->n + test_random_below(3);
    args->z_stride = args->n + test_random_below(3);
    args->y_stride = args->n + test_random_below(3);
    args->bc_stride = 2 * state_size + test_random_below(3);
    test.dt = random_floats(rows * args->dt_stride, 6.0f);
    test.x = random_floats(rows * args->x_stride, 1.0f);
    test.z = random_floats(rows * args->z_stride, 6.0f);
    test.bc = random_floats(rows * args->bc_stride, 1.0f);
    test.a = random_floats(args->n * state_size, 3.0f);
    for (float &a : test.a)
        a = -fabsf(a);
    test.d = random_floats(args->n, 1.0f);
    test.y = random_floats(rows * args->y_stride, 1.0f);
    return test;
}

/* in_place: y is dt, and has its stride. */
static void run_scan(const struct scan_case &test, struct batch &batch, floats &y,
                     bool in_place = false)
{
    device_array<float> dt(test.dt), x(test.x), z(test.z), bc(test.bc), a(test.a), d(test.d);
    device_array<float> out(y);
    struct state_lists lists = upload(batch);
    struct hy_scan_args args = test.args;
    args.dt = dt.data;
    args.x = x.data;
    args.z = z.data;
    args.b = bc.data;
    args.c = bc.data + args.state_size;
    args.a = a.data;
    args.d = d.data;
    args.y = in_place ? dt.data : out.data;
    args.sequences = lists.list->data;
    args.n_sequences = batch.segments.size();
    hy_cuda_scan(NULL, &args, batch.longest);
    check_harness();
    y = in_place ? dt.read() : out.read();
    read_states(lists, batch);
}

static void run_generic_scan(const struct scan_case &test, struct batch &batch, floats &y)
{
    struct hy_scan_args args = test.args;
    const std::vector<hy_state_sequence> sequences = list_of(batch);
    args.dt = test.dt.data();
    args.x = test.x.data();
    args.z = test.z.data();
    args.b = test.bc.data();
    args.c = test.bc.data() + args.state_size;
    args.a = test.a.data();
    args.d = test.d.data();
    args.y = y.data();
    args.sequences = sequences.data();
    args.n_sequences = sequences.size();
    hy_ref_scan(&args, 0, sequences.size() * args.n);
}

static double exact_softplus(double v)
{
    return v > 0.0 ? v + log1p(exp(-v)) : log1p(exp(v));
}

/*
 * What the results would be if all terms of a sum had one sign: a step adds a few roundings to a
 * state, and the old ones decay with it, so both sides stay within a few 2^-24 a step of that.
 */
static void scan_sizes(const struct scan_case &test, struct batch &sizes, floats &y_sizes)
{
    const struct hy_scan_args &args = test.args;
    for (size_t s = 0; s < sizes.segments.size(); s++) {
        const struct hy_segment segment = sizes.segments[s];
        for (float &h : sizes.states[s])
            h = fabsf(h) + 1e-3f;
        for (size_t t = segment.row; t < segment.row + segment.n_rows; t++) {
            const double unit = 1e-6 * (double)(t - segment.row + 2);
            for (size_t i = 0; i < args.n; i++) {
                const double dt = exact_softplus((double)test.dt[t * args.dt_stride + i]);
                const double x = (double)test.x[t * args.x_stride + i];
                const double z = (double)test.z[t * args.z_stride + i];
                double size = fabs((double)test.d[i] * x) + 1e-3;
                for (size_t j = 0; j < args.state_size; j++) {
                    float *h = &sizes.states[s][j * args.n + i];
                    const float *b = &test.bc[t * args.bc_stride + j];
                    *h = (float)(exp(dt * (double)test.a[j * args.n + i]) * (double)*h
                                 + fabs(dt * x * (double)*b) + 1e-3);
                    size += (double)*h * fabs((double)b[args.state_size]);
                }
                y_sizes[t * args.y_stride + i] = (float)(unit * size * fabs(z / (1 + exp(-z))));
            }
        }
        for (float &h : sizes.states[s])
            h *= 1e-6f * (float)(segment.n_rows + 2);
    }
}

/* The formulas of scan.cu. */
static void check_scan_traffic(const struct scan_case &test)
{
    const uint64_t n = test.args.n, states = test.args.state_size;
    const bool by_row = test.batch.longest == 1 || states > 256;
    const uint64_t blocks = ceil_div(n, by_row ? 128 : 16);
    uint64_t distinct = 4 * (states * n + n), loads = 0, distinct_written = 0, stores = 0;
    for (size_t s = 0; s < test.batch.segments.size(); s++) {
        const uint64_t rows = test.batch.segments[s].n_rows;
        const uint64_t element = hy_dtype_size(type_of(test.batch, s));
        distinct += 36;
        loads += 36 * (by_row ? 128 : 256) * blocks;
        if (rows == 0)
            continue;
        distinct += 4 * (3 * rows * n + 2 * rows * states) + element * states * n;
        if (by_row && rows > 1 && test.batch.apart)
            distinct += element * states * n;
        distinct_written += 4 * rows * n + element * states * n;
        loads += 4 * (3 * rows * n + 2 * rows * states * blocks + n);
        loads += (4 + element) * states * n * (by_row ? rows : 1);
        stores += 4 * rows * n + element * states * n * (by_row ? rows : 1);
    }
    check_distinct_traffic(distinct, distinct_written);
    check_traffic(loads, stores);
}

static const size_t state_sizes[] = {1, 3, 15, 16, 17, 33, 64, 70, 130, 257};
enum { N_STATE_SIZES = sizeof state_sizes / sizeof state_sizes[0], CASES_OF_SIZE = 3 };

START_TEST(scan_against_generic)
{
    for (int number = 0; number < CASES_OF_SIZE; number++) {
        const struct scan_case test = random_scan(state_sizes[_i]);
        struct batch actual = test.batch, expected = test.batch, sizes = test.batch;
        floats y = test.y, expected_y = test.y, y_sizes(test.y.size());
        run_scan(test, actual, y);
        check_scan_traffic(test);
        run_generic_scan(test, expected, expected_y);
        scan_sizes(test, sizes, y_sizes);
        for (size_t i = 0; i < y.size(); i++)
            check_near((double)y[i], (double)expected_y[i], (double)y_sizes[i], "scan");
        for (size_t s = 0; s < actual.states.size(); s++)
            for (size_t i = 0; i < actual.states[s].size(); i++)
                check_near((double)actual.states[s][i], (double)expected.states[s][i],
                           (double)sizes.states[s][i], "scan state");
    }
}
END_TEST

/* Pieces of one row run in another kernel than longer ones. */
START_TEST(scan_pieces_and_neighbours_give_the_same_bits)
{
    for (int number = 0; number < CASES_OF_SIZE; number++) {
        const struct scan_case test = random_scan(state_sizes[_i]);
        struct batch whole = test.batch;
        floats y = test.y, pieces_y = test.y;
        run_scan(test, whole, y);
        for (size_t s = 0; s < test.batch.segments.size(); s++) {
            floats state = test.batch.states[s];
            size_t done = 0;
            for (size_t part : random_parts(test.batch.segments[s].n_rows)) {
                struct batch piece = one_sequence(test.batch, s, done, part);
                piece.states[0] = state;
                run_scan(test, piece, pieces_y);
                state = piece.states[0];
                done += part;
            }
            check_same_bits(state, whole.states[s], "state after pieces");
        }
        check_same_bits(pieces_y, y, "scan in pieces");
    }
}
END_TEST

START_TEST(scan_of_narrow_states_elsewhere)
{
    for (int number = 0; number < CASES_OF_SIZE; number++) {
        struct scan_case test = random_scan(state_sizes[_i]);
        struct batch expected, actual = narrow_batch(test.batch, &expected);
        floats y = test.y, expected_y = test.y;
        run_scan(test, expected, expected_y);
        test.batch = actual;
        run_scan(test, actual, y);
        check_scan_traffic(test);
        check_same_bits(y, expected_y, "scan of narrow states");
        check_rounded_states(actual, expected);
    }
}
END_TEST

START_TEST(scan_in_place)
{
    for (int number = 0; number < CASES_OF_SIZE; number++) {
        struct scan_case test = random_scan(state_sizes[_i]);
        test.args.dt_stride = test.args.y_stride = test.args.n;
        test.dt.resize(test.batch.n_rows * test.args.n);
        test.y = test.dt;
        struct batch apart = test.batch, together = test.batch;
        floats y = test.y, y_in_place;
        run_scan(test, apart, y);
        run_scan(test, together, y_in_place, true);
        check_same_bits(y_in_place, y, "in place");
        check_same_states(together, apart);
    }
}
END_TEST

/* The first of equal rows of one channel with one state:
 * y = (exp(softplus(dt) a) h + softplus(dt) x) silu(z). */
static double tiny_scan(float dt, float a, float h, float x, float z, size_t rows)
{
    struct scan_case test = {};
    test.args.n = test.args.state_size = 1;
    test.args.dt_stride = test.args.x_stride = test.args.z_stride = test.args.y_stride = 1;
    test.args.bc_stride = 2;
    test.dt = floats(rows, dt);
    test.x = floats(rows, x);
    test.z = floats(rows, z);
    test.bc = floats(2 * rows, 1.0f);
    test.a = floats(1, a);
    test.d = floats(1, 0.0f);
    floats y(rows, 0.0f);
    struct batch batch = {{{0, rows}}, {floats(1, h)}, rows, rows, {}, false};
    run_scan(test, batch, y);
    return (double)y[0];
}

/* Lanes without a state of their own must not make infinity NaN. */
START_TEST(special_values)
{
    for (size_t rows = 1; rows <= 2; rows++) {
        ck_assert(isinf(tiny_scan(INFINITY, -1.0f, 0.5f, 1.0f, 32.0f, rows)));
        ck_assert(isnan(tiny_scan(INFINITY, 0.0f, 0.5f, 1.0f, 32.0f, rows)));
        ck_assert_double_eq(tiny_scan(-INFINITY, -1.0f, 0.5f, 1.0f, 32.0f, rows), 16.0);
        ck_assert_double_eq(tiny_scan(-200.0f, -1.0f, 0.5f, 1.0f, 32.0f, rows), 16.0);
        ck_assert_double_eq(tiny_scan(32.0f, -INFINITY, 1.0f, 0.0f, 32.0f, rows), 0.0);
        ck_assert(isinf(tiny_scan(32.0f, 5.0f, 1.0f, 0.0f, 32.0f, rows)));
        ck_assert(isnan(tiny_scan(NAN, -1.0f, 0.5f, 1.0f, 32.0f, rows)));
        ck_assert(isnan(tiny_scan(1.0f, NAN, 0.5f, 1.0f, 32.0f, rows)));
        ck_assert(isnan(tiny_scan(1.0f, -1.0f, 0.5f, 1.0f, NAN, rows)));
        ck_assert_double_eq(tiny_scan(1.0f, -1.0f, 0.5f, 1.0f, -200.0f, rows), 0.0);
    }
}
END_TEST

/* Nothing to do: no launch. */
START_TEST(nothing)
{
    struct hy_conv_args conv = {};
    struct hy_scan_args scan = {};
    const size_t before = harness_launch_count();
    conv.n = scan.n = scan.state_size = conv.width = 4;
    hy_cuda_conv(NULL, &conv, 0);
    hy_cuda_scan(NULL, &scan, 0);
    hy_cuda_conv(NULL, &conv, 3);
    hy_cuda_scan(NULL, &scan, 3);
    check_harness();
    ck_assert_uint_eq(harness_launch_count(), before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda conv_scan");
    TCase *tcase = tcase_create("cuda conv_scan");
    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, harness_reset, NULL);
    tcase_add_loop_test(tcase, conv_against_generic, 1, MOST_WIDTH + 1);
    tcase_add_loop_test(tcase, conv_pieces_and_neighbours_give_the_same_bits, 1, MOST_WIDTH + 1);
    tcase_add_loop_test(tcase, conv_with_rounded_rows, 1, MOST_WIDTH + 1);
    tcase_add_loop_test(tcase, conv_of_narrow_states_elsewhere, 1, MOST_WIDTH + 1);
    tcase_add_loop_test(tcase, scan_against_generic, 0, N_STATE_SIZES);
    tcase_add_loop_test(tcase, scan_pieces_and_neighbours_give_the_same_bits, 0, N_STATE_SIZES);
    tcase_add_loop_test(tcase, scan_of_narrow_states_elsewhere, 0, N_STATE_SIZES);
    tcase_add_loop_test(tcase, scan_in_place, 0, N_STATE_SIZES);
    tcase_add_test(tcase, special_values);
    tcase_add_test(tcase, nothing);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
