/* What the environment says of ranks, and what a context takes and refuses of them. */
#include "support.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hymba.h"

static hymba_error error = {.struct_size = sizeof error};

static const char *const names[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR",
                                    "MASTER_PORT", "HYMBA_MEETING"};

enum { N_NAMES = sizeof names / sizeof names[0] };

/* As torchrun would start rank 1 of 4. */
static void launch(void)
{
    static const char *const values[] = {"1", "4", "1", "node7", "29500", NULL};
    for (int i = 0; i < N_NAMES; i++) {
        if (values[i])
            setenv(names[i], values[i], 1);
        else
            unsetenv(names[i]);
    }
}

static char buffer[5000];
static size_t needed;

static hymba_status read_ranks(hymba_ranks *ranks)
{
    hymba_ranks_init(ranks, sizeof *ranks);
    return hymba_ranks_from_environment(ranks, buffer, sizeof buffer, &needed, &error);
}

/* ---------------------------------------------------------------- variables */

START_TEST(the_environment_is_read)
{
    hymba_ranks ranks;
    test_status(read_ranks(&ranks), HYMBA_OK, error);
    ck_assert_uint_eq(ranks.rank, 1);
    ck_assert_uint_eq(ranks.world_size, 4);
    ck_assert_uint_eq(ranks.local_rank, 1);
    ck_assert_uint_eq(ranks.timeout_ms, 0);
    ck_assert_ptr_eq(ranks.meeting, buffer);
    ck_assert_str_eq(buffer, "tcp://node7:29500");
    ck_assert_uint_eq(needed, strlen(buffer) + 1);
    ck_assert_ptr_null(ranks.unique_id);
}
END_TEST

static const struct {
    const char *name, *value; /* NULL: not set */
    const char *words;        /* of the failure; NULL: none */
} variables[] = {
    {"RANK", NULL, "RANK is not set"},
    {"WORLD_SIZE", NULL, "WORLD_SIZE is not set"},
    {"LOCAL_RANK", NULL, "LOCAL_RANK is not set"},
    {"MASTER_ADDR", NULL, "MASTER_ADDR is not set"},
    {"MASTER_PORT", NULL, "MASTER_PORT is not set"},
    {"RANK", "", "RANK is not set"},
    {"RANK", "0", NULL},
    {"RANK", "3", NULL},
    {"RANK", "4", "RANK: found \"4\", expected a number from 0 to 3"},
    {"RANK", "-1", "RANK"},
    {"RANK", "+1", "RANK"},
    {"RANK", " 1", "RANK"},
    {"RANK", "1 ", "RANK"},
    {"RANK", "1.0", "RANK"},
    {"RANK", "0x1", "RANK"},
    {"RANK", "one", "RANK"},
    {"RANK", "4294967297", "RANK"},
    {"RANK", "18446744073709551617", "RANK"},
    {"WORLD_SIZE", "0", "WORLD_SIZE"},
    {"WORLD_SIZE", "256", NULL},
    {"WORLD_SIZE", "257", "WORLD_SIZE"},
    {"WORLD_SIZE", "1", "RANK"},
    {"LOCAL_RANK", "255", NULL},
    {"LOCAL_RANK", "256", "LOCAL_RANK"},
    {"MASTER_ADDR", "10.0.0.1", NULL},
    {"MASTER_ADDR", "fe80::1", NULL},
    {"MASTER_ADDR", "host name", "MASTER_ADDR"},
    {"MASTER_ADDR", "host/", "MASTER_ADDR"},
    {"MASTER_ADDR", "\xff\xfe", "MASTER_ADDR"},
    {"MASTER_PORT", "0", "MASTER_PORT"},
    {"MASTER_PORT", "65535", NULL},
    {"MASTER_PORT", "65536", "MASTER_PORT"},
    {"MASTER_PORT", "http", "MASTER_PORT"},
    {"MASTER_PORT", "1:2", "MASTER_PORT"},
    {"HYMBA_MEETING", "file:/tmp/meeting", NULL},
    {"HYMBA_MEETING", "file:meeting", "HYMBA_MEETING"},
    {"HYMBA_MEETING", "", NULL},
};

START_TEST(a_variable_is_checked)
{
    hymba_ranks ranks;
    if (variables[_i].value)
        setenv(variables[_i].name, variables[_i].value, 1);
    else
        unsetenv(variables[_i].name);
    test_status(read_ranks(&ranks), variables[_i].words ? HYMBA_ERROR_ARGUMENT : HYMBA_OK, error);
    if (!variables[_i].words)
        return;
    ck_assert_msg(strstr(error.message, variables[_i].words), "%s", error.message);
    ck_assert_uint_eq(ranks.world_size, 0);
    ck_assert_ptr_null(ranks.meeting);
}
END_TEST

START_TEST(ipv6_gets_its_brackets)
{
    hymba_ranks ranks;
    setenv("MASTER_ADDR", "fd00::12", 1);
    test_status(read_ranks(&ranks), HYMBA_OK, error);
    ck_assert_str_eq(ranks.meeting, "tcp://[fd00::12]:29500");
}
END_TEST

START_TEST(one_rank_needs_no_meeting)
{
    hymba_ranks ranks;
    setenv("RANK", "0", 1);
    setenv("WORLD_SIZE", "1", 1);
    unsetenv("MASTER_ADDR");
    unsetenv("MASTER_PORT");
    test_status(read_ranks(&ranks), HYMBA_OK, error);
    ck_assert_ptr_null(ranks.meeting);
    ck_assert_uint_eq(needed, 0);
    setenv("MASTER_PORT", "29500", 1); /* half a place is a mistake all the same */
    test_status(read_ranks(&ranks), HYMBA_ERROR_ARGUMENT, error);
}
END_TEST

/* The explicit place, then the variable made for us, then the launcher's. */
START_TEST(the_most_explicit_place_counts)
{
    static const char mine[] = "tcp://127.0.0.1:29999";
    hymba_ranks ranks;
    setenv("HYMBA_MEETING", "file:/tmp/hymba-meeting", 1);
    test_status(read_ranks(&ranks), HYMBA_OK, error);
    ck_assert_str_eq(ranks.meeting, "file:/tmp/hymba-meeting");
    unsetenv("MASTER_ADDR"); /* is not looked at */
    test_status(read_ranks(&ranks), HYMBA_OK, error);
    ranks.meeting = mine;
    setenv("HYMBA_MEETING", "nonsense", 1);
    test_status(hymba_ranks_from_environment(&ranks, NULL, 0, &needed, &error), HYMBA_OK, error);
    ck_assert_ptr_eq(ranks.meeting, mine);
    ck_assert_uint_eq(needed, 0);
}
END_TEST

START_TEST(the_buffer_follows_the_rule)
{
    hymba_ranks ranks, before;
    size_t full = strlen("tcp://node7:29500") + 1;
    hymba_ranks_init(&ranks, sizeof ranks);
    before = ranks;
    for (size_t capacity = 0; capacity < full; capacity++) {
        memset(buffer, 'x', sizeof buffer);
        test_status(hymba_ranks_from_environment(&ranks, buffer, capacity, &needed, &error),
                    HYMBA_ERROR_BUFFER, error);
        ck_assert_uint_eq(needed, full);
        ck_assert_mem_eq(&ranks, &before, sizeof ranks);
        ck_assert_int_eq(buffer[capacity], 'x');
    }
    test_status(hymba_ranks_from_environment(&ranks, NULL, 0, &needed, &error), HYMBA_OK, error);
    ck_assert_uint_eq(needed, full);
    ck_assert_mem_eq(&ranks, &before, sizeof ranks);
    test_status(hymba_ranks_from_environment(&ranks, buffer, full, &needed, &error), HYMBA_OK,
                error);
    ck_assert_str_eq(ranks.meeting, "tcp://node7:29500");
}
END_TEST

START_TEST(arguments_are_checked)
{
    unsigned char id[HYMBA_UNIQUE_ID_BYTES];
    hymba_ranks ranks;
    hymba_ranks_init(&ranks, sizeof ranks);
    test_status(hymba_ranks_from_environment(NULL, NULL, 0, &needed, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_ranks_from_environment(&ranks, NULL, 0, NULL, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_ranks_from_environment(&ranks, NULL, 1, &needed, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_ranks_from_environment(&ranks, buffer, SIZE_MAX, &needed, &error),
                HYMBA_ERROR_ARGUMENT, error);
    test_status(hymba_unique_id(NULL, &error), HYMBA_ERROR_ARGUMENT, error);
    setenv("HYMBA_CUDA_PLUGIN", "/nowhere/libhymba-cuda.so", 1);
    test_status(hymba_unique_id(id, &error), HYMBA_ERROR_DEVICE, error);
}
END_TEST

/* ------------------------------------------------------------------ contexts */

static hymba_model *model;

static void open_model(void)
{
    test_status(hymba_model_open(test_data("goldens/f_official_like"), NULL, &model, &error),
                HYMBA_OK, error);
    unsetenv("HYMBA_CUDA_PLUGIN");
}

static void close_model(void)
{
    hymba_model_release(model);
}

static const struct {
    const char *device;
    hymba_ranks ranks;
    hymba_status status;
    const char *words;
} contexts[] = {
    {NULL, {.world_size = 0}, HYMBA_OK, NULL},
    {"cpu", {.world_size = 1}, HYMBA_OK, NULL},
    {"cpu", {.world_size = 1, .meeting = "tcp://127.0.0.1:29500"}, HYMBA_OK, NULL},
    {"cpu", {.world_size = 1, .local_rank = 3, .timeout_ms = 1}, HYMBA_OK, NULL},
    {"cpu", {.rank = 1}, HYMBA_ERROR_ARGUMENT, "ranks.rank"},
    {"cpu", {.rank = 1, .world_size = 1}, HYMBA_ERROR_ARGUMENT, "ranks.rank"},
    {"cuda", {.rank = 2, .world_size = 2, .meeting = "tcp://127.0.0.1:29500"},
     HYMBA_ERROR_ARGUMENT, "found 2, expected less than the world_size, 2"},
    {"cuda", {.world_size = 257, .meeting = "tcp://127.0.0.1:29500"}, HYMBA_ERROR_ARGUMENT,
     "ranks.world_size: found 257, at most 256"},
    {"cuda", {.world_size = UINT32_MAX, .rank = 1, .meeting = "file:/x"}, HYMBA_ERROR_ARGUMENT,
     "at most 256"},
    {"cuda", {.world_size = 2, .local_rank = 256, .meeting = "tcp://127.0.0.1:29500"},
     HYMBA_ERROR_ARGUMENT, "ranks.local_rank"},
    {"cuda", {.world_size = 2}, HYMBA_ERROR_ARGUMENT, "neither meeting nor unique_id"},
    {"cuda", {.world_size = 2, .meeting = "somewhere"}, HYMBA_ERROR_ARGUMENT,
     "ranks.meeting: found \"somewhere\""},
    {NULL, {.world_size = 2, .meeting = "tcp://127.0.0.1:29500"}, HYMBA_ERROR_UNSUPPORTED,
     "the CPU cannot be one of several ranks"},
    {"cpu", {.world_size = 2, .meeting = "tcp://127.0.0.1:29500"}, HYMBA_ERROR_UNSUPPORTED,
     "the CPU cannot be one of several ranks"},
};

START_TEST(a_context_checks_its_ranks)
{
    hymba_ranks ranks = contexts[_i].ranks;
    hymba_context_params params = {.struct_size = sizeof params, .device = contexts[_i].device,
                                   .n_threads = 1, .ranks = &ranks};
    hymba_context_info info = {.struct_size = sizeof info, .world_size = 7};
    hymba_context *context;
    ranks.struct_size = sizeof ranks;
    test_status(hymba_context_create(model, &params, &context, &error), contexts[_i].status,
                error);
    if (contexts[_i].status != HYMBA_OK) {
        ck_assert_ptr_null(context);
        ck_assert_msg(strstr(error.message, contexts[_i].words), "%s", error.message);
        return;
    }
    test_status(hymba_context_get_info(context, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.rank, 0);
    ck_assert_uint_eq(info.world_size, 1);
    hymba_context_release(context);
}
END_TEST

START_TEST(without_ranks_there_is_one)
{
    hymba_context_info info = {.struct_size = sizeof info, .rank = 7};
    hymba_context *context;
    test_status(hymba_context_create(model, NULL, &context, &error), HYMBA_OK, error);
    test_status(hymba_context_get_info(context, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.rank, 0);
    ck_assert_uint_eq(info.world_size, 1);
    hymba_context_release(context);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ranks");
    TCase *tests = tcase_create("environment");
    tcase_add_checked_fixture(tests, launch, NULL);
    tcase_add_test(tests, the_environment_is_read);
    tcase_add_loop_test(tests, a_variable_is_checked, 0,
                        (int)(sizeof variables / sizeof variables[0]));
    tcase_add_test(tests, ipv6_gets_its_brackets);
    tcase_add_test(tests, one_rank_needs_no_meeting);
    tcase_add_test(tests, the_most_explicit_place_counts);
    tcase_add_test(tests, the_buffer_follows_the_rule);
    tcase_add_test(tests, arguments_are_checked);
    suite_add_tcase(suite, tests);
    TCase *parameters = tcase_create("context");
    tcase_add_checked_fixture(parameters, open_model, close_model);
    tcase_add_loop_test(parameters, a_context_checks_its_ranks, 0,
                        (int)(sizeof contexts / sizeof contexts[0]));
    tcase_add_test(parameters, without_ranks_there_is_one);
    suite_add_tcase(suite, parameters);
    return test_main(suite);
}
