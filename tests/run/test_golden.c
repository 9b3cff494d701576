/* Whole models against the reference's tensors: logits under every cut and instruction set, and
 * every stream, key, value and state of the detailed prompts. */
#include "golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double LOGITS_BOUND = 2e-4, STREAM_BOUND = 1e-4;

static const char *const instruction_sets[] = {"generic", "avx2", "avx512", "amx", "neon"};
enum { N_SETS = sizeof instruction_sets / sizeof instruction_sets[0] };

/* Whether this machine has the instruction set. */
static bool can_run(const char *cpu)
{
    struct hy_kernels kernels;
    return hy_kernels_init(&kernels, cpu, NULL) == HYMBA_OK;
}

static void append_in_chunks(hymba_session *session, const int32_t *ids, size_t n, size_t chunk,
                             size_t vocabulary, float *logits)
{
    hymba_error error = {.struct_size = sizeof error};
    for (size_t done = 0; done < n; done += chunk) {
        size_t count = n - done < chunk ? n - done : chunk, rows;
        const float *row;
        test_status(hymba_session_append(session, ids + done, count, HYMBA_LOGITS_ALL, &error),
                    HYMBA_OK, error);
        test_status(hymba_session_logits(session, &row, &rows, &error), HYMBA_OK, error);
        ck_assert_uint_eq(rows, count);
        memcpy(logits + done * vocabulary, row, count * vocabulary * sizeof *row);
    }
}

static size_t vocabulary_of(const struct golden *golden)
{
    return golden->model->plan.config.vocabulary_size;
}

/* Returns the largest difference. */
static double check_logits(const struct golden *golden, hymba_context *context, const char *what)
{
    double worst = 0.0;
    static const size_t chunks[] = {1, 7, 64, SIZE_MAX};
    hymba_error error = {.struct_size = sizeof error};
    size_t vocabulary = vocabulary_of(golden);
    for (size_t p = 0; p < golden->n_prompts; p++) {
        size_t n;
        int32_t *ids = golden_ids(golden, golden->lengths[p], "input_ids", &n);
        const struct hy_tensor *expected = golden_find(golden, golden->lengths[p], "logits");
        float *logits = malloc(n * vocabulary * sizeof *logits);
        for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
            hymba_session *session;
            if (test_is_slow() && c != p % (sizeof chunks / sizeof chunks[0]))
                continue;
            test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
            append_in_chunks(session, ids, n, chunks[c] < n ? chunks[c] : n, vocabulary, logits);
            double difference = golden_difference(logits, expected->data, n * vocabulary);
            ck_assert_msg(difference <= LOGITS_BOUND, "%s, %s, prompt %zu, chunk %zu: %g",
                          golden->name, what, golden->lengths[p], chunks[c], difference);
            worst = difference > worst ? difference : worst;
            hymba_session_release(session);
        }
        free(logits);
        free(ids);
    }
    return worst;
}

START_TEST(logits_equal_for_every_cut_and_instruction_set)
{
    /* Steps of 5 tokens are smaller than the prompts and than the meta tokens. */
    static const struct {
        const char *cpu;
        uint32_t threads, step;
    } ways[] = {{"generic", 2, 0}, {"avx2", 1, 0},   {"avx2", 2, 5},
                {"avx512", 1, 0},  {"avx512", 2, 0}, {"avx512", 2, 5},
                {"amx", 2, 0},     {"amx", 2, 5},    {"neon", 1, 0},
                {"neon", 2, 0},    {"neon", 2, 5}};
    struct golden golden;
    double worst = 0.0;
    golden_open(&golden, golden_names[_i]);
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
        if (!can_run(ways[w].cpu) || (test_looks_for_races() && ways[w].step == 0)
            || (test_is_slow() && w > 0 && ways[w].step == 0))
            continue;
        hymba_context *context =
            golden_context(&golden, ways[w].cpu, ways[w].threads, ways[w].step);
        double difference = check_logits(&golden, context, ways[w].cpu);
        worst = difference > worst ? difference : worst;
        hymba_context_release(context);
    }
    printf("%s: worst difference of a logit %.2g\n", golden.name, worst);
    golden_close(&golden);
}
END_TEST

static int32_t best_token(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

START_TEST(greedy_continuations_are_identical)
{
    struct golden golden;
    hymba_error error = {.struct_size = sizeof error};
    golden_open(&golden, golden_names[_i]);
    hymba_context *context = golden_context(&golden, NULL, 2, 0);
    for (size_t p = 0; p < golden.n_prompts; p++) {
        size_t n, n_greedy, rows;
        if (test_is_slow() && p != (size_t)_i % golden.n_prompts)
            continue;
        int32_t *ids = golden_ids(&golden, golden.lengths[p], "input_ids", &n);
        int32_t *greedy = golden_ids(&golden, golden.lengths[p], "greedy_ids", &n_greedy);
        hymba_session *session;
        const float *logits;
        test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
        test_status(hymba_session_append(session, ids, n, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        for (size_t i = 0; i < n_greedy; i++) {
            test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
            int32_t token = best_token(logits, vocabulary_of(&golden));
            ck_assert_msg(token == greedy[i], "%s, prompt %zu, token %zu: %d, expected %d",
                          golden.name, golden.lengths[p], i, token, greedy[i]);
            test_status(hymba_session_append(session, &token, 1, HYMBA_LOGITS_LAST, &error),
                        HYMBA_OK, error);
        }
        hymba_session_release(session);
        free(greedy);
        free(ids);
    }
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

/* Compares the rows a probe reports with the golden's, in the order they come: meta tokens first,
 * then the prompt, however it is cut into steps. */
struct observer {
    const struct golden *golden;
    size_t rows_seen[6][64]; /* by site and layer */
    size_t n_compared;
};

static const char *const site_names[] = {
    [HY_PROBE_HIDDEN] = "hidden",     [HY_PROBE_ATTENTION_NORM] = "attn_norm",
    [HY_PROBE_SSM_NORM] = "ssm_norm", [HY_PROBE_K] = "k_rope",
    [HY_PROBE_V] = "v",               [HY_PROBE_FINAL_NORM] = "final_norm",
};

enum { N_SITES = sizeof site_names / sizeof site_names[0] };

static void observe(void *user, enum hy_probe_site site, int layer, const float *data, size_t rows,
                    size_t width, size_t stride)
{
    struct observer *observer = user;
    const struct golden *golden = observer->golden;
    char name[64];
    if ((int)site >= N_SITES) /* the goldens have no inputs of matrices */
        return;
    if (site == HY_PROBE_FINAL_NORM)
        snprintf(name, sizeof name, "final_norm");
    else
        snprintf(name, sizeof name, "layer%d.%s", layer, site_names[site]);
    const struct hy_tensor *tensor = golden_find(golden, golden->detail, name);
    if (!tensor)
        return;
    size_t *seen = &observer->rows_seen[site][layer + 1];
    const float *expected = tensor->data;
    size_t first = *seen;
    if (site == HY_PROBE_FINAL_NORM) /* computed for the prompt only */
        first += golden->model->plan.config.n_meta_tokens;
    ck_assert_uint_le((first + rows) * width * sizeof(float), tensor->size);
    for (size_t t = 0; t < rows; t++) {
        double difference =
            golden_difference(data + t * stride, expected + (first + t) * width, width);
        ck_assert_msg(difference <= STREAM_BOUND, "%s: %s, row %zu: %g", golden->name, name,
                      first + t, difference);
    }
    *seen += rows;
    observer->n_compared++;
}

/* The states behind the prompt; the session keeps them transposed, and one column fewer of the
 * convolution's (its oldest is never read again). */
static void check_states(const struct golden *golden, const hymba_session *session)
{
    const struct hy_plan *plan = &golden->model->plan;
    size_t inner = plan->config.inner_size, n_state = plan->config.state_size;
    size_t width = plan->config.conv_width, floats = hy_layout_recurrent_floats(
                                                session->state.layout);
    float *working = malloc((floats + 1) * sizeof *working);
    hy_state_load_recurrent(&session->state, working);
    for (uint32_t i = 0; i < plan->config.n_layers; i++) {
        char name[64];
        const struct hy_layer_plan *layer = &plan->layers[i];
        if (layer->ssm == HYMBA_SSM_NONE)
            continue;
        const float *conv = working + layer->ssm_index * (width - 1) * inner;
        const float *ssm = working + plan->n_ssm_layers * (width - 1) * inner +
                           layer->ssm_index * n_state * inner;
        snprintf(name, sizeof name, "layer%u.conv_state", i);
        const float *expected_conv = golden_find(golden, golden->detail, name)->data;
        snprintf(name, sizeof name, "layer%u.ssm_state", i);
        const float *expected_ssm = golden_find(golden, golden->detail, name)->data;
        for (size_t c = 0; c < inner; c++) {
            for (size_t j = 0; j + 1 < width; j++)
                ck_assert_double_le(golden_difference(&conv[j * inner + c],
                                                      &expected_conv[c * width + j + 1], 1),
                                    STREAM_BOUND);
            for (size_t j = 0; j < n_state; j++)
                ck_assert_double_le(golden_difference(&ssm[j * inner + c],
                                                      &expected_ssm[c * n_state + j], 1),
                                    STREAM_BOUND);
        }
    }
    free(working);
}

START_TEST(every_stream_and_state_is_the_reference_s)
{
    static const uint32_t steps[] = {0, 7};
    hymba_error error = {.struct_size = sizeof error};
    struct golden golden;
    golden_open(&golden, golden_names[_i]);
    ck_assert_uint_gt(golden.detail, 0);
    for (int s = 0; s < N_SETS * 2; s++) {
        struct observer observer = {.golden = &golden};
        hymba_session *session;
        size_t n;
        if (!can_run(instruction_sets[s / 2]) || (test_is_slow() && steps[s % 2] == 0))
            continue;
        hymba_context *context = golden_context(&golden, instruction_sets[s / 2], 1, steps[s % 2]);
        context->probe = (struct hy_probe){observe, &observer};
        int32_t *ids = golden_ids(&golden, golden.detail, "input_ids", &n);
        test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
        test_status(hymba_session_append(session, ids, n, HYMBA_LOGITS_ALL, &error), HYMBA_OK,
                    error);
        /* at least the residual stream of every layer and the final norm were seen */
        ck_assert_uint_ge(observer.n_compared, golden.model->plan.config.n_layers + 1);
        check_states(&golden, session);
        free(ids);
        hymba_session_release(session);
        hymba_context_release(context);
    }
    golden_close(&golden);
}
END_TEST

int main(void)
{
    int n = golden_count();
    Suite *suite = suite_create("golden");
    TCase *tests = tcase_create("golden");
    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, logits_equal_for_every_cut_and_instruction_set, 0, n);
    tcase_add_loop_test(tests, greedy_continuations_are_identical, 0, n);
    if (!test_looks_for_races()) /* one thread */
        tcase_add_loop_test(tests, every_stream_and_state_is_the_reference_s, 0, n);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
