/* Convolution and scan of every instruction set against double precision, and their promises. */
#include "kernel_test.h"

enum { CASES = 60, MOST_SEQUENCES = 3 };

/* One case of either op: sequences with their states. */
struct batch {
    struct hy_state_sequence sequences[MOST_SEQUENCES];
    size_t n_sequences, n_rows, n;
    size_t conv_size, ssm_size; /* floats of a state */
};

struct conv_case {
    struct hy_conv_args args;
    struct batch batch;
    size_t y_size;
};

struct scan_case {
    struct hy_scan_args args;
    struct batch batch;
    size_t y_size;
};

/* A place for the state behind a segment: that of the state before it, or one of its own. */
static void *place_after(const void *before, size_t n, bool in_place)
{
    return in_place ? (void *)before : zero_floats(n);
}

static void random_batch(struct batch *batch, size_t n, size_t n_old_inputs, size_t state_size)
{
    *batch = (struct batch){.n_sequences = 1 + test_random_below(MOST_SEQUENCES), .n = n};
    batch->conv_size = n_old_inputs * n;
    batch->ssm_size = state_size * n;
    for (size_t s = 0; s < batch->n_sequences; s++) {
        struct hy_state_sequence *sequence = &batch->sequences[s];
        size_t n_rows = test_random_below(8); /* none is allowed, too */
        if (s == 0)
            n_rows++;
        sequence->segment = (struct hy_segment){batch->n_rows, n_rows};
        bool in_place = n_rows == 0 || test_random_below(2) == 0;
        sequence->conv_before = random_floats(batch->conv_size, 1.0f);
        sequence->conv_after = place_after(sequence->conv_before, batch->conv_size, in_place);
        sequence->ssm_before = random_floats(batch->ssm_size, 1.0f);
        sequence->ssm_after = place_after(sequence->ssm_before, batch->ssm_size, in_place);
        sequence->state_type = HYMBA_DTYPE_F32;
        batch->n_rows += n_rows;
    }
}

/* The same rows with copies of the states, in place. */
static struct batch copy_batch(const struct batch *batch)
{
    struct batch copy = *batch;
    for (size_t s = 0; s < batch->n_sequences; s++) {
        struct hy_state_sequence *sequence = &copy.sequences[s];
        sequence->conv_after = copy_floats(sequence->conv_before, batch->conv_size);
        sequence->conv_before = sequence->conv_after;
        sequence->ssm_after = copy_floats(sequence->ssm_before, batch->ssm_size);
        sequence->ssm_before = sequence->ssm_after;
    }
    return copy;
}

static void check_same_states(const struct batch *a, const struct batch *b)
{
    for (size_t s = 0; s < a->n_sequences; s++) {
        check_same_bits(a->sequences[s].conv_after, b->sequences[s].conv_after, a->conv_size,
                        "convolution state");
        check_same_bits(a->sequences[s].ssm_after, b->sequences[s].ssm_after, a->ssm_size,
                        "scan state");
    }
}

static void random_conv(struct conv_case *test)
{
    struct hy_conv_args *args = &test->args;
    memset(test, 0, sizeof *test);
    args->n = 1 + test_random_below(70);
    args->width = 1 + test_random_below(5);
    random_batch(&test->batch, args->n, args->width - 1, 0);
    size_t rows = test->batch.n_rows;
    args->x_stride = args->n + test_random_below(3);
    args->y_stride = args->n + test_random_below(3);
    args->x = random_floats((rows - 1) * args->x_stride + args->n, 1.0f);
    args->weight = random_floats(args->width * args->n, 1.0f);
    args->bias = random_floats(args->n, 1.0f);
    test->y_size = (rows - 1) * args->y_stride + args->n;
    args->y = zero_floats(test->y_size);
    args->sequences = test->batch.sequences;
    args->n_sequences = test->batch.n_sequences;
}

/* Input t of a sequence, negative for what came before its segment. */
static double conv_input(const struct hy_conv_args *args, const struct hy_state_sequence *before,
                         ptrdiff_t t, size_t channel)
{
    const float *old = before->conv_before;
    if (t < 0)
        return (double)old[(args->width - 1 - (size_t)-t) * args->n + channel];
    return (double)args->x[(before->segment.row + (size_t)t) * args->x_stride + channel];
}

/* At most six terms below 1: 1e-6. The state is a copy of inputs: exact. */
static void check_conv(const struct conv_case *test, const struct batch *before)
{
    const struct hy_conv_args *args = &test->args;
    for (size_t s = 0; s < before->n_sequences; s++) {
        const struct hy_state_sequence *old = &before->sequences[s];
        const float *state = test->batch.sequences[s].conv_after;
        ptrdiff_t n_rows = (ptrdiff_t)old->segment.n_rows, width = (ptrdiff_t)args->width;
        for (size_t i = 0; i < args->n; i++) {
            for (ptrdiff_t t = 0; t < n_rows; t++) {
                double sum = (double)args->bias[i];
                for (ptrdiff_t j = 0; j < width; j++)
                    sum += (double)args->weight[(size_t)j * args->n + i]
                           * conv_input(args, old, t - width + 1 + j, i);
                size_t row = old->segment.row + (size_t)t;
                check_near((double)args->y[row * args->y_stride + i], exact_silu(sum), 1e-6,
                           "convolution");
            }
            for (ptrdiff_t j = 0; j + 1 < width; j++)
                ck_assert_double_eq((double)state[(size_t)j * args->n + i],
                                    conv_input(args, old, n_rows - width + 1 + j, i));
        }
    }
}

START_TEST(conv_against_double)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        struct conv_case test;
        random_conv(&test);
        struct batch before = copy_batch(&test.batch);
        kernels.conv(&test.args, 0, test.batch.n_sequences * test.args.n);
        check_conv(&test, &before);
        release_guarded();
    }
}
END_TEST

/* Row by row, each call with its own division of the channels. */
START_TEST(conv_pieces_give_the_same_bits)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        struct conv_case test;
        random_conv(&test);
        struct batch pieces = copy_batch(&test.batch);
        kernels.conv(&test.args, 0, test.batch.n_sequences * test.args.n);

        struct hy_conv_args args = test.args;
        args.y = zero_floats(test.y_size);
        args.n_sequences = 1;
        for (size_t s = 0; s < pieces.n_sequences; s++) {
            struct hy_state_sequence one = pieces.sequences[s];
            args.sequences = &one;
            for (size_t t = 0; t < pieces.sequences[s].segment.n_rows; t++) {
                size_t borders[MOST_PARTS + 1], n_parts = random_division(args.n, borders);
                one.segment = (struct hy_segment){pieces.sequences[s].segment.row + t, 1};
                for (size_t part = 0; part < n_parts; part++)
                    kernels.conv(&args, borders[part], borders[part + 1]);
            }
        }
        check_same_bits(test.args.y, args.y, test.y_size, "convolution in pieces");
        check_same_states(&test.batch, &pieces);
        release_guarded();
    }
}
END_TEST

static void random_scan(struct scan_case *test)
{
    static const size_t state_sizes[] = {1, 3, 16, 64, 70};
    struct hy_scan_args *args = &test->args;
    memset(test, 0, sizeof *test);
    args->n = 1 + test_random_below(50);
    args->state_size = state_sizes[test_random_below(5)];
    random_batch(&test->batch, args->n, 0, args->state_size);
    size_t rows = test->batch.n_rows;
    args->dt_stride = args->n + test_random_below(3);
    args->x_stride = args->n + test_random_below(3);
    args->z_stride = args->n + test_random_below(3);
    args->y_stride = args->n + test_random_below(3);
    args->bc_stride = args->state_size + test_random_below(3);
    args->dt = random_floats((rows - 1) * args->dt_stride + args->n, 6.0f);
    args->x = random_floats((rows - 1) * args->x_stride + args->n, 1.0f);
    args->z = random_floats((rows - 1) * args->z_stride + args->n, 6.0f);
    args->b = random_floats((rows - 1) * args->bc_stride + args->state_size, 1.0f);
    args->c = random_floats((rows - 1) * args->bc_stride + args->state_size, 1.0f);
    float *a = random_floats(args->n * args->state_size, 3.0f);
    for (size_t i = 0; i < args->n * args->state_size; i++)
        a[i] = -fabsf(a[i]);
    args->a = a;
    args->d = random_floats(args->n, 1.0f);
    test->y_size = (rows - 1) * args->y_stride + args->n;
    args->y = zero_floats(test->y_size);
    args->sequences = test->batch.sequences;
    args->n_sequences = test->batch.n_sequences;
}

/*
 * A step adds a few roundings to the state, and the old ones decay with it: the error stays below a
 * few 2^-24 a step of what the state would be if all its terms had one sign (size).
 */
static void check_scan_channel(const struct scan_case *test, const struct batch *before, size_t s,
                               size_t channel)
{
    const struct hy_scan_args *args = &test->args;
    const struct hy_state_sequence *old = &before->sequences[s];
    const float *state = old->ssm_before, *after = test->batch.sequences[s].ssm_after;
    double h[70], sizes[70], unit = 1e-6;
    for (size_t j = 0; j < args->state_size; j++) {
        h[j] = (double)state[j * args->n + channel];
        sizes[j] = fabs(h[j]);
    }
    for (size_t t = old->segment.row; t < old->segment.row + old->segment.n_rows; t++) {
        double dt = exact_softplus((double)args->dt[t * args->dt_stride + channel]);
        double x = (double)args->x[t * args->x_stride + channel];
        double gate = exact_silu((double)args->z[t * args->z_stride + channel]);
        double sum = (double)args->d[channel] * x, size = fabs(sum);
        for (size_t j = 0; j < args->state_size; j++) {
            double decay = exp(dt * (double)args->a[j * args->n + channel]);
            double c = (double)args->c[t * args->bc_stride + j];
            double input = dt * x * (double)args->b[t * args->bc_stride + j];
            h[j] = decay * h[j] + input;
            sizes[j] = decay * sizes[j] + fabs(input) + 1e-3;
            sum += h[j] * c;
            size += sizes[j] * fabs(c);
        }
        check_near((double)args->y[t * args->y_stride + channel], sum * gate,
                   unit * (size + 1e-3) * fabs(gate), "scan");
        unit += 1e-6;
    }
    for (size_t j = 0; j < args->state_size; j++)
        check_near((double)after[j * args->n + channel], h[j], unit * (sizes[j] + 1e-3),
                   "scan state");
}

START_TEST(scan_against_double)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        struct scan_case test;
        random_scan(&test);
        struct batch before = copy_batch(&test.batch);
        kernels.scan(&test.args, 0, test.batch.n_sequences * test.args.n);
        for (size_t s = 0; s < before.n_sequences; s++)
            for (size_t channel = 0; channel < test.args.n; channel++)
                check_scan_channel(&test, &before, s, channel);
        release_guarded();
    }
}
END_TEST

START_TEST(scan_pieces_give_the_same_bits)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        struct scan_case test;
        random_scan(&test);
        struct batch pieces = copy_batch(&test.batch);
        kernels.scan(&test.args, 0, test.batch.n_sequences * test.args.n);

        struct hy_scan_args args = test.args;
        args.y = zero_floats(test.y_size);
        args.n_sequences = 1;
        for (size_t s = 0; s < pieces.n_sequences; s++) {
            struct hy_state_sequence one = pieces.sequences[s];
            args.sequences = &one;
            for (size_t t = 0; t < pieces.sequences[s].segment.n_rows; t++) {
                size_t borders[MOST_PARTS + 1], n_parts = random_division(args.n, borders);
                one.segment = (struct hy_segment){pieces.sequences[s].segment.row + t, 1};
                for (size_t part = 0; part < n_parts; part++)
                    kernels.scan(&args, borders[part], borders[part + 1]);
            }
        }
        check_same_bits(test.args.y, args.y, test.y_size, "scan in pieces");
        check_same_states(&test.batch, &pieces);
        release_guarded();
    }
}
END_TEST

/* Units that end in one sequence and begin in another. */
START_TEST(divisions_across_sequences_give_the_same_bits)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (int number = 0; number < CASES; number++) {
        struct scan_case test;
        random_scan(&test);
        struct batch parts = copy_batch(&test.batch);
        size_t n_units = test.batch.n_sequences * test.args.n;
        kernels.scan(&test.args, 0, n_units);
        struct hy_scan_args args = test.args;
        args.y = zero_floats(test.y_size);
        args.sequences = parts.sequences;
        size_t borders[MOST_PARTS + 1], n_parts = random_division(n_units, borders);
        for (size_t part = 0; part < n_parts; part++)
            kernels.scan(&args, borders[part], borders[part + 1]);
        check_same_bits(test.args.y, args.y, test.y_size, "scan in parts");
        check_same_states(&test.batch, &parts);
        release_guarded();
    }
}
END_TEST

/* One channel, one state, one row: y = (exp(softplus(dt) a) h + softplus(dt) x) silu(z). */
static double tiny_scan(const struct hy_kernels *kernels, float dt, float a, float h, float x,
                        float z)
{
    float one = 1.0f, zero = 0.0f, y;
    struct hy_state_sequence sequence = {
        .segment = {0, 1}, .ssm_before = &h, .ssm_after = &h, .state_type = HYMBA_DTYPE_F32};
    struct hy_scan_args args = {
        .dt = &dt, .dt_stride = 1, .x = &x, .x_stride = 1, .z = &z, .z_stride = 1,
        .b = &one, .c = &one, .bc_stride = 1, .a = &a, .d = &zero, .n = 1, .state_size = 1,
        .y = &y, .y_stride = 1, .sequences = &sequence, .n_sequences = 1,
    };
    kernels->scan(&args, 0, 1);
    return (double)y;
}

/*
 * silu(32) = 32 and softplus(32) = 32 in f32, so exp and softplus can be seen through the scan with
 * one or two roundings more. The bounds are those that the vectorised functions promise.
 */
START_TEST(exponential_and_softplus)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    for (double v = -87.0; v < 80.0; v += 0.0371) {
        float a = (float)(v / 32.0);
        double expected = 32.0 * exp(32.0 * (double)a);
        check_near(tiny_scan(&kernels, 32.0f, a, 1.0f, 0.0f, 32.0f), expected, 2.7e-7 * expected,
                   "exponential");
        float dt = (float)v;
        expected = 32.0 * exact_softplus((double)dt);
        check_near(tiny_scan(&kernels, dt, 0.0f, 0.0f, 1.0f, 32.0f), expected, 6e-7 * expected,
                   "softplus");
    }
}
END_TEST

START_TEST(special_values)
{
    struct hy_kernels kernels;
    if (!kernels_of_set(_i, &kernels))
        return;
    ck_assert_double_eq(tiny_scan(&kernels, 32.0f, -INFINITY, 1.0f, 0.0f, 32.0f), 0.0);
    ck_assert_double_eq(tiny_scan(&kernels, 32.0f, -4.0f, 1.0f, 0.0f, 32.0f), 0.0);
    ck_assert(isinf(tiny_scan(&kernels, 32.0f, 3.0f, 1.0f, 0.0f, 32.0f)));
    ck_assert(isinf(tiny_scan(&kernels, INFINITY, -1.0f, 0.5f, 1.0f, 32.0f)));
    ck_assert(isnan(tiny_scan(&kernels, INFINITY, 0.0f, 0.5f, 1.0f, 32.0f))); /* infinity times 0 */
    ck_assert_double_eq(tiny_scan(&kernels, -INFINITY, -1.0f, 0.5f, 1.0f, 32.0f), 16.0);
    ck_assert_double_eq(tiny_scan(&kernels, -200.0f, -1.0f, 0.5f, 1.0f, 32.0f), 16.0);
    ck_assert(isnan(tiny_scan(&kernels, NAN, -1.0f, 0.5f, 1.0f, 32.0f)));
    ck_assert(isnan(tiny_scan(&kernels, 1.0f, NAN, 0.5f, 1.0f, 32.0f)));
    ck_assert(isnan(tiny_scan(&kernels, 1.0f, -1.0f, 0.5f, 1.0f, NAN)));
    ck_assert_double_eq(tiny_scan(&kernels, 1.0f, -1.0f, 0.5f, 1.0f, -200.0f), 0.0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("conv_scan");
    TCase *tcase = tcase_create("conv_scan");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, conv_against_double, 0, N_SETS);
    tcase_add_loop_test(tcase, conv_pieces_give_the_same_bits, 0, N_SETS);
    tcase_add_loop_test(tcase, scan_against_double, 0, N_SETS);
    tcase_add_loop_test(tcase, scan_pieces_give_the_same_bits, 0, N_SETS);
    tcase_add_loop_test(tcase, divisions_across_sequences_give_the_same_bits, 0, N_SETS);
    tcase_add_loop_test(tcase, exponential_and_softplus, 0, N_SETS);
    tcase_add_loop_test(tcase, special_values, 0, N_SETS);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
