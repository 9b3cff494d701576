/*
 * A context on a device with memory of its own against one on the CPU, both with the generic
 * kernels: whatever is done to sessions, the same bits come out, in logits and in saved files. The
 * device is that of guarded_device.c: a stray access of the host ends the program.
 */
#define _GNU_SOURCE /* dlopen */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "golden.h"
#include "guarded_device.h"

enum { N_PAIRS = 4, MAX_TOKENS = 300, MAX_LENGTH = 700 };

static hymba_error error = {.struct_size = sizeof error};
static char plugin_path[4096];
static struct guarded_control *control;
static void *plugin;

static void setup(void)
{
    guarded_control_function function;
    ssize_t length = readlink("/proc/self/exe", plugin_path, sizeof plugin_path - 64);
    ck_assert_int_gt(length, 0);
    plugin_path[length] = '\0';
    strcpy(strrchr(plugin_path, '/') + 1, "libhymba-cuda.so");
    plugin = dlopen(plugin_path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(plugin != NULL, "%s", dlerror());
    void *symbol = dlsym(plugin, GUARDED_CONTROL);
    ck_assert_ptr_nonnull(symbol);
    memcpy(&function, &symbol, sizeof function);
    control = function();
    *control = (struct guarded_control){
        .interface_version = HY_DEVICE_INTERFACE,
        .n_devices = 2,
        .fail_allocation = -1,
        .fail_finish = -1,
        .finish_status = HYMBA_ERROR_DEVICE,
    };
    ck_assert_int_eq(unsetenv("HYMBA_CUDA_PLUGIN"), 0);
}

static void teardown(void)
{
    ck_assert_msg(control->n_faults == 0, "%ld faults: %s", control->n_faults, control->fault);
    ck_assert_int_eq(control->n_blocks, 0);
    ck_assert_int_eq(control->n_open, 0);
    dlclose(plugin);
}

static hymba_context *make_context(hymba_model *model, hymba_context_params params,
                                   const char *device)
{
    hymba_context *context;
    params.struct_size = sizeof params;
    params.device = device;
    params.cpu = "generic";
    params.n_threads = 1;
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

/* ------------------------------------------------------------- in lockstep */

/* The same session on both. */
struct pair {
    hymba_session *sessions[2];
};

struct world {
    hymba_context *contexts[2]; /* the CPU, the device */
    hymba_session_params params;
    struct pair pairs[N_PAIRS];
    size_t vocabulary;
};

static void create_pair(struct world *world, struct pair *pair)
{
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_create(world->contexts[i], &world->params, &pair->sessions[i],
                                         &error),
                    HYMBA_OK, error);
}

static void release_pair(struct pair *pair)
{
    for (int i = 0; i < 2; i++)
        hymba_session_release(pair->sessions[i]);
    *pair = (struct pair){{NULL, NULL}};
}

static size_t length_of(const struct pair *pair)
{
    size_t length = (size_t)hymba_session_length(pair->sessions[0]);
    ck_assert_uint_eq(length, hymba_session_length(pair->sessions[1]));
    if (length > 0) /* without tokens there may be no list */
        ck_assert_mem_eq(hymba_session_tokens(pair->sessions[0]),
                         hymba_session_tokens(pair->sessions[1]), length * sizeof(int32_t));
    return length;
}

static void compare_logits(const struct world *world, const struct pair *pair)
{
    const float *logits[2];
    size_t rows[2];
    hymba_status first = hymba_session_logits(pair->sessions[0], &logits[0], &rows[0], &error);
    ck_assert_int_eq(hymba_session_logits(pair->sessions[1], &logits[1], &rows[1], &error), first);
    ck_assert_uint_eq(rows[0], rows[1]);
    if (first == HYMBA_OK)
        ck_assert_msg(memcmp(logits[0], logits[1],
                             rows[0] * world->vocabulary * sizeof(float)) == 0,
                      "the logits differ");
}

static void decode(struct world *world)
{
    static int32_t tokens[N_PAIRS][MAX_TOKENS];
    hymba_batch_item items[2][N_PAIRS];
    size_t n = 0;
    for (int p = 0; p < N_PAIRS; p++) {
        struct pair *pair = &world->pairs[p];
        size_t count = test_random() < 0.5 ? 1 : 1 + test_random_below(test_random_below(40) + 1);
        if (test_random() < 0.05)
            count = 1 + test_random_below(MAX_TOKENS);
        if (!pair->sessions[0] || test_random() < 0.3 || length_of(pair) + count > MAX_LENGTH)
            continue;
        for (size_t i = 0; i < count; i++)
            tokens[p][i] = (int32_t)test_random_below(world->vocabulary);
        int32_t logits = (int32_t)test_random_below(3);
        for (int i = 0; i < 2; i++)
            items[i][n] = (hymba_batch_item){pair->sessions[i], tokens[p], count, logits, 0};
        n++;
    }
    for (int i = 0; n > 0 && i < 2; i++)
        test_status(hymba_context_decode(world->contexts[i], items[i], sizeof items[i][0], n,
                                         &error),
                    HYMBA_OK, error);
    for (int p = 0; p < N_PAIRS; p++)
        if (world->pairs[p].sessions[0])
            compare_logits(world, &world->pairs[p]);
}

static void fork_pair(struct world *world, struct pair *from)
{
    struct pair *to = &world->pairs[test_random_below(N_PAIRS)];
    if (to == from)
        return;
    release_pair(to);
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_fork(from->sessions[i], &to->sessions[i], NULL, &error),
                    HYMBA_OK, error);
    compare_logits(world, to);
}

static void rewind_pair(struct world *world, struct pair *pair)
{
    size_t length = length_of(pair), back = test_random_below(test_random() < 0.6 ? 5 : length + 1);
    int32_t mode = test_random() < 0.5 ? HYMBA_REWIND_KEPT : HYMBA_REWIND_COMPUTE;
    hymba_status status[2];
    for (int i = 0; i < 2; i++)
        status[i] = hymba_session_rewind(pair->sessions[i], back > length ? 0 : length - back, mode,
                                         NULL, &error);
    ck_assert_int_eq(status[0], status[1]);
    compare_logits(world, pair);
}

struct saved {
    unsigned char *data;
    size_t size, capacity;
};

static int32_t take_piece(void *user, const void *data, size_t size)
{
    struct saved *saved = user;
    while (saved->size + size > saved->capacity) {
        saved->capacity = 2 * saved->capacity + 4096;
        saved->data = realloc(saved->data, saved->capacity);
    }
    memcpy(saved->data + saved->size, data, size);
    saved->size += size;
    return 0;
}

/* The files are the same to the byte; what was saved on one device goes on on the other. */
static void save_pair(struct world *world, struct pair *pair)
{
    struct saved saved[2] = {{0}, {0}};
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_save_to(pair->sessions[i], NULL, take_piece, &saved[i], NULL,
                                          &error),
                    HYMBA_OK, error);
    ck_assert_uint_eq(saved[0].size, saved[1].size);
    ck_assert_msg(memcmp(saved[0].data, saved[1].data, saved[0].size) == 0, "the files differ");
    release_pair(pair);
    for (int i = 0; i < 2; i++)
        test_status(hymba_session_load_memory(world->contexts[i], saved[1 - i].data,
                                              saved[1 - i].size, NULL, &pair->sessions[i], NULL,
                                              NULL, &error),
                    HYMBA_OK, error);
    for (int i = 0; i < 2; i++)
        free(saved[i].data);
    compare_logits(world, pair);
}

static void change(struct world *world)
{
    struct pair *pair = &world->pairs[test_random_below(N_PAIRS)];
    if (!pair->sessions[0]) {
        create_pair(world, pair);
        return;
    }
    switch (test_random_below(8)) {
    case 0:
        fork_pair(world, pair);
        break;
    case 1:
        for (int i = 0; i < 2; i++)
            test_status(hymba_session_snapshot(pair->sessions[i], NULL, NULL, &error), HYMBA_OK,
                        error);
        break;
    case 2:
    case 3:
        rewind_pair(world, pair);
        break;
    case 4:
        save_pair(world, pair);
        break;
    case 5:
        for (int i = 0; i < 2; i++)
            test_status(hymba_session_reset(pair->sessions[i], &error), HYMBA_OK, error);
        break;
    case 6:
        release_pair(pair);
        break;
    default:
        break;
    }
}

static const struct variant {
    const char *model;
    hymba_context_params params;
    hymba_session_params session;
} variants[] = {
    {"goldens/a_all_features", {.rewind_tokens = 3}, {.snapshot_interval = 20}},
    {"goldens/a_all_features",
     {.max_step_tokens = 5, .cache_type = HYMBA_DTYPE_BF16, .state_type = HYMBA_DTYPE_BF16},
     {.snapshot_interval = 64}},
    {"goldens/a_all_features",
     {.compute = HYMBA_COMPUTE_BF16, .cache_type = HYMBA_DTYPE_INT8},
     {0}},
    {"goldens/b_no_meta", {.max_step_tokens = 7, .rewind_tokens = 8}, {0}},
    {"goldens/c_all_sliding", {.state_type = HYMBA_DTYPE_F16, .rewind_tokens = 2}, {0}},
    {"goldens/d_all_full",
     {.cache_type = HYMBA_DTYPE_F16},
     {.max_tokens = 40, .limit_policy = HYMBA_LIMIT_SLIDE}},
    {"goldens/e_gqa1_odd_untied", {.max_step_tokens = 3}, {0}},
    {"goldens/f_official_like", {.rewind_tokens = 4, .max_step_tokens = 16}, {0}},
    {"variants/attention_only", {.rewind_tokens = 1}, {0}},
    {"variants/mamba_only", {.rewind_tokens = 3, .state_type = HYMBA_DTYPE_BF16}, {0}},
    {"variants/mixed_plan", {0}, {0}},
    {"variants/no_rope", {.max_step_tokens = 9}, {0}},
    {"variants/window_one", {.rewind_tokens = 2}, {0}},
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

START_TEST(sessions_are_the_same_to_the_bit)
{
    const struct variant *variant = &variants[_i];
    struct golden golden;
    golden_open(&golden, variant->model);
    test_random_seed((unsigned)_i + 1);
    struct world world = {
        .contexts = {make_context(golden.model, variant->params, "cpu"),
                     make_context(golden.model, variant->params, "cuda:1")},
        .params = variant->session,
        .vocabulary = golden.model->plan.config.vocabulary_size,
    };
    world.params.struct_size = sizeof world.params;
    for (int i = 0; i < 16; i++) {
        decode(&world);
        change(&world);
    }
    for (int i = 0; i < 2; i++) /* sessions may outlive their context's handle */
        hymba_context_release(world.contexts[i]);
    for (int p = 0; p < N_PAIRS; p++)
        release_pair(&world.pairs[p]);
    golden_close(&golden);
}
END_TEST

START_TEST(logits_are_the_reference_s)
{
    struct golden golden;
    golden_open(&golden, golden_names[_i]);
    size_t vocabulary = golden.model->plan.config.vocabulary_size;
    hymba_context_params params = {.compute = HYMBA_COMPUTE_F32, .max_step_tokens = 11};
    hymba_context *context = make_context(golden.model, params, "cuda");
    for (size_t p = 0; p < golden.n_prompts; p++) {
        const struct hy_tensor *expected = golden_find(&golden, golden.lengths[p], "logits");
        hymba_session *session;
        const float *logits;
        size_t n, rows;
        int32_t *ids = golden_ids(&golden, golden.lengths[p], "input_ids", &n);
        test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
        test_status(hymba_session_append(session, ids, n, HYMBA_LOGITS_ALL, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_logits(session, &logits, &rows, &error), HYMBA_OK, error);
        ck_assert_double_le(golden_difference(logits, expected->data, n * vocabulary), 2e-4);
        hymba_session_release(session);
        free(ids);
    }
    hymba_context_release(context);
    golden_close(&golden);
}
END_TEST

START_TEST(a_device_is_described_and_its_weights_are_shared)
{
    struct golden golden;
    golden_open(&golden, "goldens/a_all_features");
    hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = 10};
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda:1"};
    hymba_context_info info = {.struct_size = sizeof info};
    hymba_context *contexts[3];
    double rate;
    contexts[0] = make_context(golden.model, (hymba_context_params){0}, "cuda:1");
    long uploaded = control->n_uploaded;
    test_status(hymba_context_get_info(contexts[0], &info, &error), HYMBA_OK, error);
    ck_assert_str_eq(info.device, "cuda:1");
    ck_assert_str_eq(info.cpu, "guarded memory");
    ck_assert_int_eq(info.compute, HYMBA_COMPUTE_F32);
    uint64_t stored = golden.model->weights.bytes;
    test_status(hymba_model_get_memory_info(golden.model, &params, &memory, &error), HYMBA_OK,
                error);
    ck_assert_uint_ge(memory.weight_bytes, stored + (uint64_t)uploaded);
    contexts[1] = make_context(golden.model, (hymba_context_params){0}, "cuda:1");
    ck_assert_int_eq(control->n_uploaded, uploaded);
    contexts[2] = make_context(golden.model, (hymba_context_params){0}, "cuda:0");
    ck_assert_int_eq(control->n_uploaded, 2 * uploaded);
    test_status(hymba_context_measure_products(contexts[0], &rate, &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    for (int i = 0; i < 3; i++)
        hymba_context_release(contexts[i]);
    golden_close(&golden);
}
END_TEST

/* ---------------------------------------------------------------- failures */

static const int32_t prompt[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
enum { N_PROMPT = sizeof prompt / sizeof prompt[0] };

static void touch_file(const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", test_directory(), name);
    test_write_file(path, "not a library", 13);
}

START_TEST(what_cannot_be_opened_is_told_in_one_sentence)
{
    struct golden golden;
    Dl_info library;
    char text[4200], absent[4200];
    golden_open(&golden, "goldens/a_all_features");
    touch_file("text.so", text, sizeof text);
    snprintf(absent, sizeof absent, "%s/absent.so", test_directory());
    ck_assert_int_ne(dladdr(dlsym(RTLD_DEFAULT, "json_object"), &library), 0);
    const struct {
        const char *device, *variable;
        uint32_t interface_version;
        int n_devices;
        const char *sentence;
    } cases[] = {
        {"tpu", NULL, 1, 2, "\"tpu\""},
        {"cuda:", NULL, 1, 2, "\"cuda:\""},
        {"cuda:1x", NULL, 1, 2, "\"cuda:1x\""},
        {"cuda:99999999999", NULL, 1, 2, "cuda:N"},
        {"cuda:2", NULL, 1, 2, "there are 2"},
        {"cuda", NULL, 1, 0, "there are 0"},
        {"cuda", NULL, 0, 2, "does not have interface version"},
        {"cuda", NULL, 7, 2, "interface version 7"},
        {"cuda", "libhymba-cuda.so", 1, 2, "absolute path"},
        {"cuda", "./libhymba-cuda.so", 1, 2, "absolute path"},
        {"cuda", absent, 1, 2, "absent.so"},
        {"cuda", text, 1, 2, "cannot be opened"},
        {"cuda", library.dli_fname, 1, 2, HY_DEVICE_ENTRY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hymba_context_params params = {.struct_size = sizeof params, .device = cases[i].device};
        hymba_context *context;
        control->interface_version = cases[i].interface_version;
        control->n_devices = cases[i].n_devices;
        if (cases[i].variable)
            setenv("HYMBA_CUDA_PLUGIN", cases[i].variable, 1);
        test_status(hymba_context_create(golden.model, &params, &context, &error),
                    HYMBA_ERROR_DEVICE, error);
        ck_assert_ptr_null(context);
        ck_assert_msg(strstr(error.message, cases[i].sentence) != NULL, "case %zu: %s", i,
                      error.message);
        ck_assert_ptr_null(strchr(error.message, '\n'));
        unsetenv("HYMBA_CUDA_PLUGIN");
    }
    control->interface_version = HY_DEVICE_INTERFACE;
    control->n_devices = 2;
    setenv("HYMBA_CUDA_PLUGIN", plugin_path, 1);
    hymba_context_release(make_context(golden.model, (hymba_context_params){0}, "cuda"));
    unsetenv("HYMBA_CUDA_PLUGIN");
    golden_close(&golden);
}
END_TEST

START_TEST(what_a_device_cannot_do_is_refused)
{
    struct golden golden;
    hymba_model *quantised;
    hymba_context *context;
    hymba_model_params model_params = {.struct_size = sizeof model_params,
                                       .quantize = HYMBA_DTYPE_INT8};
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda"};
    golden_open(&golden, "goldens/a_all_features");
    test_status(hymba_model_open(test_data("goldens/f_official_like"), &model_params, &quantised,
                                 &error),
                HYMBA_OK, error);
    test_status(hymba_context_create(quantised, &params, &context, &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    params.compute = HYMBA_COMPUTE_INT8;
    test_status(hymba_context_create(golden.model, &params, &context, &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    hymba_model_release(quantised);
    golden_close(&golden);
}
END_TEST

/* What a short life of a context does, up to the first failure. */
struct life {
    hymba_context *context;
    hymba_session *session, *fork;
    struct saved saved;
    int stage;
};

static hymba_status live(hymba_model *model, struct life *life)
{
    hymba_context_params params = {.struct_size = sizeof params, .device = "cuda",
                                   .rewind_tokens = 2, .max_step_tokens = 6,
                                   .cache_type = HYMBA_DTYPE_F16};
    hymba_session_params session = {.struct_size = sizeof session, .snapshot_interval = 8};
    hymba_status status = hymba_context_create(model, &params, &life->context, &error);
    if (status == HYMBA_OK)
        status = hymba_session_create(life->context, &session, &life->session, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(life->session, prompt, 5, HYMBA_LOGITS_LAST, &error);
    if (status == HYMBA_OK)
        life->stage = 1;
    if (status == HYMBA_OK)
        status = hymba_session_append(life->session, prompt, N_PROMPT, HYMBA_LOGITS_LAST, &error);
    if (status == HYMBA_OK)
        life->stage = 2;
    if (status == HYMBA_OK)
        status = hymba_session_fork(life->session, &life->fork, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_append(life->fork, prompt, 3, HYMBA_LOGITS_ALL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_rewind(life->fork, 11, HYMBA_REWIND_COMPUTE, NULL, &error);
    if (status == HYMBA_OK)
        status = hymba_session_save_to(life->fork, NULL, take_piece, &life->saved, NULL, &error);
    return status;
}

/* The life went as far as its stage; on a sound device the session can go on, as on the CPU. */
static void end_life(hymba_model *model, struct life *life, bool sound)
{
    static const size_t lengths[] = {0, 5, 5 + N_PROMPT};
    hymba_session_release(life->fork);
    if (life->session) {
        ck_assert_uint_eq(hymba_session_length(life->session), lengths[life->stage]);
        ck_assert_int_eq(hymba_session_append(life->session, prompt, 4, HYMBA_LOGITS_LAST, &error),
                         sound ? HYMBA_OK : HYMBA_ERROR_DEVICE);
    }
    if (life->session && sound) {
        hymba_context_params params = {.cache_type = HYMBA_DTYPE_F16};
        hymba_context *cpu = make_context(model, params, "cpu");
        hymba_session *session;
        const float *logits[2];
        test_status(hymba_session_create(cpu, NULL, &session, &error), HYMBA_OK, error);
        if (life->stage > 0)
            test_status(hymba_session_append(session, prompt, 5, 0, &error), HYMBA_OK, error);
        if (life->stage > 1)
            test_status(hymba_session_append(session, prompt, N_PROMPT, 0, &error), HYMBA_OK,
                        error);
        test_status(hymba_session_append(session, prompt, 4, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
        test_status(hymba_session_logits(session, &logits[0], NULL, &error), HYMBA_OK, error);
        test_status(hymba_session_logits(life->session, &logits[1], NULL, &error), HYMBA_OK,
                    error);
        ck_assert_mem_eq(logits[0], logits[1],
                         model->plan.config.vocabulary_size * sizeof(float));
        hymba_session_release(session);
        hymba_context_release(cpu);
    }
    hymba_session_release(life->session);
    hymba_context_release(life->context);
    free(life->saved.data);
}

/* Lets each allocation or finish of a life fail in turn, and looks at what is left. */
static void fail_each(hymba_model *model, long *number, const long *count, hymba_status status,
                      bool sound)
{
    hymba_context *bystander = make_context(model, (hymba_context_params){0}, "cuda:1");
    hymba_session *other;
    test_status(hymba_session_create(bystander, NULL, &other, &error), HYMBA_OK, error);
    long failures = 0;
    for (bool failed = true; failed; failures++) {
        struct life life = {.stage = 0};
        *number = *count + failures;
        hymba_status found = live(model, &life);
        failed = *count > *number;
        *number = -1;
        ck_assert_msg(found == (failed ? status : HYMBA_OK), "failure %ld: %s", failures,
                      error.message);
        end_life(model, &life, sound || !failed);
        test_status(hymba_session_append(other, prompt, 1, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                    error);
    }
    ck_assert_int_gt(failures, 8);
    hymba_session_release(other);
    hymba_context_release(bystander);
}

START_TEST(a_failure_leaves_sessions_in_their_last_good_state)
{
    struct golden golden;
    golden_open(&golden, "goldens/a_all_features");
    switch (_i) {
    case 0:
        fail_each(golden.model, &control->fail_allocation, &control->n_allocations,
                  HYMBA_ERROR_MEMORY, true);
        break;
    case 1: /* a workspace that could not grow */
        control->finish_status = HYMBA_ERROR_MEMORY;
        fail_each(golden.model, &control->fail_finish, &control->n_finishes, HYMBA_ERROR_MEMORY,
                  true);
        break;
    default: /* a lost device */
        fail_each(golden.model, &control->fail_finish, &control->n_finishes, HYMBA_ERROR_DEVICE,
                  false);
        break;
    }
    golden_close(&golden);
}
END_TEST

int main(void)
{
    int n_goldens = 0;
    while (golden_names[n_goldens])
        n_goldens++;
    Suite *suite = suite_create("device");
    TCase *sessions = tcase_create("sessions"), *goldens = tcase_create("goldens");
    TCase *failures = tcase_create("failures");
    TCase *cases[] = {sessions, goldens, failures};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tcase_set_timeout(cases[i], 600);
        tcase_add_checked_fixture(cases[i], setup, teardown);
        suite_add_tcase(suite, cases[i]);
    }
    tcase_add_loop_test(sessions, sessions_are_the_same_to_the_bit, 0, N_VARIANTS);
    tcase_add_loop_test(goldens, logits_are_the_reference_s, 0, n_goldens);
    tcase_add_test(failures, a_device_is_described_and_its_weights_are_shared);
    tcase_add_test(failures, what_cannot_be_opened_is_told_in_one_sentence);
    tcase_add_test(failures, what_a_device_cannot_do_is_refused);
    tcase_add_loop_test(failures, a_failure_leaves_sessions_in_their_last_good_state, 0, 3);
    return test_main(suite);
}
