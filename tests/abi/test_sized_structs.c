/*
 * Sized structs of callers that were compiled against an older or a newer hymba.h, with every
 * function that takes one. They stand at the end of a page that nothing can be read or written
 * behind.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include "support.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hymba.h"
#include "layout.h"

static hymba_error error = {.struct_size = sizeof error};

/* ------------------------------------------------------------------ objects */

enum { N_PROMPT = 5, N_GENERATED = 4 };

static const int32_t prompt[N_PROMPT] = {1, 2, 3, 4, 5};

static struct {
    hymba_model *model;
    hymba_context *context;
    hymba_session *session; /* the prompt and its logits, a snapshot named "mark" */
    hymba_sampler *sampler;
    hymba_generation *generation; /* of another session; at its end */
    char config[8192];
    size_t config_length;
    unsigned char saved[1 << 20], sampler_state[4096];
    size_t saved_size, sampler_state_size;
    char path[512];
} world;

static int32_t keep_saved(void *user, const void *data, size_t size)
{
    (void)user;
    if (size > sizeof world.saved - world.saved_size)
        return 1;
    memcpy(world.saved + world.saved_size, data, size);
    world.saved_size += size;
    return 0;
}

static int32_t drop_saved(void *user, const void *data, size_t size)
{
    (void)user;
    (void)data;
    (void)size;
    return 0;
}

static hymba_session *prompted_session(void)
{
    hymba_session *session;
    test_status(hymba_session_create(world.context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, prompt, N_PROMPT, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    return session;
}

static hymba_generation *new_generation(void)
{
    hymba_generation_params params = {.struct_size = sizeof params, .max_tokens = N_GENERATED,
                                      .flags = HYMBA_GENERATION_IGNORE_EOS};
    hymba_generation *generation;
    hymba_session *session = prompted_session();
    test_status(hymba_generation_create(session, world.sampler, NULL, &params, &generation,
                                        &error),
                HYMBA_OK, error);
    hymba_session_release(session); /* the generation holds it */
    return generation;
}

static void create_world(void)
{
    const char *directory = test_data("goldens/f_official_like");
    hymba_context_params params = {.struct_size = sizeof params, .n_threads = 1};
    hymba_event event = {.struct_size = sizeof event};
    size_t size;
    test_status(hymba_model_open(directory, NULL, &world.model, &error), HYMBA_OK, error);
    test_status(hymba_context_create(world.model, &params, &world.context, &error), HYMBA_OK,
                error);
    world.session = prompted_session();
    test_status(hymba_session_snapshot(world.session, "mark", NULL, &error), HYMBA_OK, error);
    test_status(hymba_sampler_create(NULL, NULL, &world.sampler, &error), HYMBA_OK, error);
    test_status(hymba_sampler_state(world.sampler, world.sampler_state,
                                    sizeof world.sampler_state, &world.sampler_state_size,
                                    &error),
                HYMBA_OK, error);
    test_status(hymba_session_save_to(world.session, NULL, keep_saved, NULL, NULL, &error),
                HYMBA_OK, error);
    snprintf(world.path, sizeof world.path, "%s/session", test_directory());
    test_write_file(world.path, world.saved, world.saved_size);
    world.generation = new_generation();
    do
        test_status(hymba_generation_next(world.generation, &event, &error), HYMBA_OK, error);
    while (event.kind != HYMBA_EVENT_END);
    char *config = test_read_file(test_data("goldens/b_no_meta/config.json"), &size);
    ck_assert_uint_lt(size, sizeof world.config);
    memcpy(world.config, config, size);
    world.config_length = size;
    free(config);
}

static void release_world(void)
{
    hymba_generation_release(world.generation);
    hymba_sampler_release(world.sampler);
    hymba_session_release(world.session);
    hymba_context_release(world.context);
    hymba_model_release(world.model);
    memset(&world, 0, sizeof world);
}

/* -------------------------------------------------------------------- calls */

/* Each makes one call with the sized struct, and gives back what it made. */

static hymba_status open_model(void *sized)
{
    hymba_model *model;
    hymba_status status =
        hymba_model_open(test_data("goldens/f_official_like"), sized, &model, &error);
    hymba_model_release(model);
    return status;
}

static hymba_status open_model_host(void *sized)
{
    hymba_model_params params = {.struct_size = sizeof params, .host = sized};
    return open_model(&params);
}

/* Without weights, which the flags of a struct cut short cannot ask for, nothing can be opened
 * from one block: MISSING or FILE is what comes after the parameters were accepted. */
static hymba_status open_memory(void *sized)
{
    hymba_memory_file file = {"config.json", world.config, world.config_length};
    hymba_model *model;
    hymba_status status = hymba_model_open_memory(&file, sizeof file, 1, sized, &model, &error);
    hymba_model_release(model);
    return status == HYMBA_ERROR_FILE || status == HYMBA_ERROR_MISSING ? HYMBA_OK : status;
}

static hymba_status init_model(void *sized)
{
    static int number;
    char directory[512], file[600];
    snprintf(directory, sizeof directory, "%s/model%d", test_directory(), number++);
    hymba_status status =
        hymba_model_init(directory, world.config, world.config_length, sized, &error);
    snprintf(file, sizeof file, "%s/model.safetensors", directory);
    ck_assert_int_eq(access(file, F_OK), status == HYMBA_OK ? 0 : -1);
    return status;
}

static hymba_status init_model_host(void *sized)
{
    hymba_init_params params = {.struct_size = sizeof params, .host = sized};
    return init_model(&params);
}

static hymba_status quantize_model(void *sized)
{
    static int number;
    char input[512], output[512];
    snprintf(input, sizeof input, "%s/wide", test_directory());
    if (number == 0)
        test_status(hymba_model_init(input, world.config, world.config_length, NULL, &error),
                    HYMBA_OK, error);
    snprintf(output, sizeof output, "%s/narrow%d", test_directory(), number++);
    return hymba_quantize(input, output, sized, &error);
}

static hymba_status open_tokenizer(void *sized)
{
    hymba_tokenizer *tokenizer;
    hymba_status status = hymba_tokenizer_open("examples/demo", sized, &tokenizer, &error);
    hymba_tokenizer_release(tokenizer);
    return status;
}

static hymba_status create_context(void *sized)
{
    hymba_context *context;
    hymba_status status = hymba_context_create(world.model, sized, &context, &error);
    hymba_context_release(context);
    return status;
}

static hymba_status create_context_host(void *sized)
{
    hymba_context_params params = {.struct_size = sizeof params, .host = sized};
    return create_context(&params);
}

/* All zeros are one rank. */
static hymba_status create_context_ranks(void *sized)
{
    hymba_context_params params = {.struct_size = sizeof params, .ranks = sized};
    return create_context(&params);
}

static hymba_status read_ranks(void *sized)
{
    size_t needed;
    return hymba_ranks_from_environment(sized, NULL, 0, &needed, &error);
}

static hymba_status estimate_params(void *sized)
{
    hymba_memory_info info = {.struct_size = sizeof info};
    return hymba_model_get_memory_info(world.model, sized, &info, &error);
}

static hymba_status create_session(void *sized)
{
    hymba_session *session;
    hymba_status status = hymba_session_create(world.context, sized, &session, &error);
    hymba_session_release(session);
    return status;
}

static hymba_status load(const hymba_session_params *params, hymba_reuse_info *info)
{
    hymba_session *session;
    hymba_status status =
        hymba_session_load(world.context, world.path, params, &session, NULL, info, &error);
    hymba_session_release(session);
    return status;
}

static hymba_status load_memory(const hymba_session_params *params, hymba_reuse_info *info)
{
    hymba_session *session;
    hymba_status status = hymba_session_load_memory(world.context, world.saved, world.saved_size,
                                                    params, &session, NULL, info, &error);
    hymba_session_release(session);
    return status;
}

static hymba_status load_params(void *sized)
{
    return load(sized, NULL);
}

static hymba_status load_info(void *sized)
{
    return load(NULL, sized);
}

static hymba_status load_memory_params(void *sized)
{
    return load_memory(sized, NULL);
}

static hymba_status load_memory_info(void *sized)
{
    return load_memory(NULL, sized);
}

static hymba_status create_sampler(void *sized)
{
    hymba_sampler *sampler;
    hymba_status status = hymba_sampler_create(sized, NULL, &sampler, &error);
    hymba_sampler_release(sampler);
    return status;
}

static hymba_status create_sampler_host(void *sized)
{
    hymba_sampler *sampler;
    hymba_status status = hymba_sampler_create(NULL, sized, &sampler, &error);
    hymba_sampler_release(sampler);
    return status;
}

static hymba_status restore_sampler(void *sized)
{
    hymba_sampler *sampler;
    hymba_status status = hymba_sampler_restore(world.sampler_state, world.sampler_state_size,
                                                sized, &sampler, &error);
    hymba_sampler_release(sampler);
    return status;
}

static hymba_status create_generation(void *sized)
{
    hymba_generation *generation;
    hymba_status status = hymba_generation_create(world.session, world.sampler, NULL, sized,
                                                  &generation, &error);
    hymba_generation_release(generation);
    return status;
}

static hymba_status create_scheduler(void *sized)
{
    hymba_scheduler *scheduler;
    hymba_status status =
        hymba_scheduler_create(world.context, 8, sized, &scheduler, &error);
    hymba_scheduler_release(scheduler);
    return status;
}

static hymba_status add_request(void *sized)
{
    hymba_scheduler *scheduler;
    uint64_t request;
    test_status(hymba_scheduler_create(world.context, 8, NULL, &scheduler, &error), HYMBA_OK,
                error);
    hymba_status status = hymba_scheduler_add(scheduler, world.session, world.sampler, prompt,
                                              N_PROMPT, sized, &request, &error);
    hymba_scheduler_release(scheduler);
    return status;
}

static hymba_status add_request_generation(void *sized)
{
    hymba_request_params params = {.struct_size = sizeof params, .generation = sized};
    return add_request(&params);
}

static hymba_status model_info(void *sized)
{
    return hymba_model_get_info(world.model, sized, &error);
}

static hymba_status layer_info(void *sized)
{
    return hymba_model_get_layer_info(world.model, 1, sized, &error);
}

static hymba_status context_info(void *sized)
{
    return hymba_context_get_info(world.context, sized, &error);
}

static hymba_status estimate(void *sized)
{
    return hymba_model_get_memory_info(world.model, NULL, sized, &error);
}

static hymba_status fork_session(void *sized)
{
    hymba_session *fork;
    hymba_status status = hymba_session_fork(world.session, &fork, sized, &error);
    hymba_session_release(fork);
    return status;
}

static hymba_status take_snapshot(void *sized)
{
    return hymba_session_snapshot(world.session, "mark", sized, &error);
}

static hymba_status get_snapshot(void *sized)
{
    return hymba_session_get_snapshot(world.session, 0, sized, &error);
}

static hymba_status find_snapshot(void *sized)
{
    return hymba_session_find_snapshot(world.session, "mark", sized, &error);
}

static hymba_status rewind_session(void *sized)
{
    return hymba_session_rewind(world.session, N_PROMPT, HYMBA_REWIND_KEPT, sized, &error);
}

static hymba_status session_info(void *sized)
{
    return hymba_session_get_info(world.session, sized, &error);
}

static hymba_status save(void *sized)
{
    return hymba_session_save(world.session, NULL, world.path, sized, &error);
}

static hymba_status save_to(void *sized)
{
    return hymba_session_save_to(world.session, NULL, drop_saved, NULL, sized, &error);
}

static hymba_status next_event(void *sized)
{
    return hymba_generation_next(world.generation, sized, &error);
}

enum { IN = 1, OUT = 2 };

static const struct sized_call {
    const char *name, *structure;
    int way;
    hymba_status (*call)(void *sized);
} calls[] = {
    {"hymba_model_open", "hymba_model_params", IN, open_model},
    {"hymba_model_open, host", "hymba_host", IN, open_model_host},
    {"hymba_model_open_memory", "hymba_model_params", IN, open_memory},
    {"hymba_model_init", "hymba_init_params", IN, init_model},
    {"hymba_model_init, host", "hymba_host", IN, init_model_host},
    {"hymba_quantize", "hymba_quantize_params", IN, quantize_model},
    {"hymba_tokenizer_open", "hymba_host", IN, open_tokenizer},
    {"hymba_context_create", "hymba_context_params", IN, create_context},
    {"hymba_context_create, host", "hymba_host", IN, create_context_host},
    {"hymba_context_create, ranks", "hymba_ranks", IN, create_context_ranks},
    {"hymba_ranks_from_environment", "hymba_ranks", IN | OUT, read_ranks},
    {"hymba_model_get_memory_info", "hymba_context_params", IN, estimate_params},
    {"hymba_model_get_memory_info", "hymba_memory_info", IN | OUT, estimate},
    {"hymba_session_create", "hymba_session_params", IN, create_session},
    {"hymba_session_load", "hymba_session_params", IN, load_params},
    {"hymba_session_load_memory", "hymba_session_params", IN, load_memory_params},
    {"hymba_sampler_create", "hymba_sampler_params", IN, create_sampler},
    {"hymba_sampler_create, host", "hymba_host", IN, create_sampler_host},
    {"hymba_sampler_restore", "hymba_host", IN, restore_sampler},
    {"hymba_generation_create", "hymba_generation_params", IN, create_generation},
    {"hymba_scheduler_create", "hymba_scheduler_params", IN, create_scheduler},
    {"hymba_scheduler_add", "hymba_request_params", IN, add_request},
    {"hymba_scheduler_add, generation", "hymba_generation_params", IN, add_request_generation},
    {"hymba_model_get_info", "hymba_model_info", OUT, model_info},
    {"hymba_model_get_layer_info", "hymba_layer_info", OUT, layer_info},
    {"hymba_context_get_info", "hymba_context_info", OUT, context_info},
    {"hymba_session_fork", "hymba_reuse_info", OUT, fork_session},
    {"hymba_session_snapshot", "hymba_reuse_info", OUT, take_snapshot},
    {"hymba_session_get_snapshot", "hymba_snapshot_info", OUT, get_snapshot},
    {"hymba_session_find_snapshot", "hymba_snapshot_info", OUT, find_snapshot},
    {"hymba_session_rewind", "hymba_reuse_info", OUT, rewind_session},
    {"hymba_session_get_info", "hymba_session_info", OUT, session_info},
    {"hymba_session_save", "hymba_reuse_info", OUT, save},
    {"hymba_session_save_to", "hymba_reuse_info", OUT, save_to},
    {"hymba_session_load", "hymba_reuse_info", OUT, load_info},
    {"hymba_session_load_memory", "hymba_reuse_info", OUT, load_memory_info},
    {"hymba_generation_next", "hymba_event", OUT, next_event},
};

enum { N_CALLS = sizeof calls / sizeof calls[0] };

/* ------------------------------------------------------------------- layout */

static const struct layout *layout_of(const char *structure)
{
    for (size_t i = 0; i < n_layouts; i++)
        if (!layouts[i].name && strcmp(layouts[i].structure, structure) == 0)
            return &layouts[i];
    ck_abort_msg("%s is not in layout.c", structure);
    return NULL;
}

/* Where a struct may have ended in an older header: behind field number i. False past the last. */
static bool field_end(const struct layout *head, size_t i, size_t *end)
{
    const struct layout *field = head + 1 + i;
    if (field >= layouts + n_layouts || !field->name)
        return false;
    *end = field->actual_offset + field->actual_size;
    return true;
}

/* -------------------------------------------------------------------- guard */

enum { LATER = 24 }; /* bytes of fields that only a newer header knows */

static unsigned char *page;
static size_t page_size;

static void create_page(void)
{
    page_size = (size_t)sysconf(_SC_PAGESIZE);
    page = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(page, MAP_FAILED);
    ck_assert_int_eq(mprotect(page + page_size, page_size, PROT_NONE), 0);
}

static void remove_page(void)
{
    munmap(page, 2 * page_size);
}

static size_t whole_words(size_t size)
{
    return (size + sizeof(uint64_t) - 1) / sizeof(uint64_t) * sizeof(uint64_t);
}

/* A struct of that size, aligned, at the end of the page: its struct_size, then what fields are
 * filled with; between it and the end, less than a word of 0xff. */
static unsigned char *place_struct(size_t size, int fields)
{
    unsigned char *place = page + page_size - whole_words(size);
    memset(place, 0xff, whole_words(size));
    memset(place, fields, size);
    memcpy(place, &size, size < sizeof size ? size : sizeof size);
    return place;
}

static void assert_filled(const unsigned char *bytes, size_t from, size_t to, int value,
                          const char *name)
{
    for (size_t i = from; i < to; i++)
        ck_assert_msg(bytes[i] == value, "%s: byte %zu is 0x%x, expected 0x%x", name, i, bytes[i],
                      (unsigned)value);
}

static void create_all(void)
{
    setenv("RANK", "0", 1);
    setenv("WORLD_SIZE", "1", 1);
    setenv("LOCAL_RANK", "0", 1);
    unsetenv("MASTER_ADDR");
    unsetenv("MASTER_PORT");
    unsetenv("HYMBA_MEETING");
    create_page();
    create_world();
}

static void release_all(void)
{
    release_world();
    remove_page();
}

/* -------------------------------------------------------------------- tests */

/* What a call's fields are filled with before it: a result is seen not to rely on zeros. */
static int filling_of(const struct sized_call *call)
{
    return call->way & IN ? 0 : 0xee;
}

/* Results of a call with the whole struct: pieces of it are what older callers get. */
static void get_whole(const struct sized_call *call, size_t size, unsigned char *whole)
{
    unsigned char *place = place_struct(size, filling_of(call));
    test_status(call->call(place), HYMBA_OK, error);
    memcpy(whole, place, size);
}

START_TEST(an_older_callers_struct_is_enough)
{
    const struct sized_call *call = &calls[_i];
    const struct layout *head = layout_of(call->structure);
    unsigned char whole[1024];
    size_t end;
    get_whole(call, head->actual_size, whole);
    for (size_t i = 0; field_end(head, i, &end); i++) {
        unsigned char *place = place_struct(end, filling_of(call));
        ck_assert_msg(call->call(place) == HYMBA_OK, "%s: %s of %zu bytes: %s", call->name,
                      call->structure, end, error.message);
        ck_assert_mem_eq(place, &end, sizeof end);
        if (call->way & OUT)
            ck_assert_msg(memcmp(place + sizeof end, whole + sizeof end, end - sizeof end) == 0,
                          "%s: %s of %zu bytes has another beginning", call->name,
                          call->structure, end);
        else
            assert_filled(place, sizeof end, end, 0, call->name);
        assert_filled(place, end, whole_words(end), 0xff, call->name);
    }
    ck_assert_uint_eq(end, head->actual_size);
}
END_TEST

START_TEST(a_newer_callers_struct_is_accepted)
{
    const struct sized_call *call = &calls[_i];
    size_t known = layout_of(call->structure)->actual_size, size = known + LATER;
    unsigned char whole[1024];
    get_whole(call, known, whole);
    unsigned char *place = place_struct(size, filling_of(call));
    test_status(call->call(place), HYMBA_OK, error);
    ck_assert_mem_eq(place, &size, sizeof size);
    if (call->way & OUT)
        ck_assert_mem_eq(place + sizeof size, whole + sizeof size, known - sizeof size);
    assert_filled(place, known, size, 0, call->name);
}
END_TEST

START_TEST(what_only_a_newer_header_knows_is_refused)
{
    const struct sized_call *call = &calls[_i];
    size_t known = layout_of(call->structure)->actual_size, size = known + LATER;
    if (!(call->way & IN))
        return;
    for (size_t later = known; later < size; later++) {
        unsigned char *place = place_struct(size, 0);
        place[later] = 0x80;
        test_status(call->call(place), HYMBA_ERROR_UNSUPPORTED, error);
        ck_assert_int_eq(error.position, (int64_t)later);
    }
}
END_TEST

START_TEST(a_size_that_cannot_be_is_refused)
{
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX / 2, 1u << 20, 4097};
    const struct sized_call *call = &calls[_i];
    size_t known = layout_of(call->structure)->actual_size;
    for (size_t size = 0; size < sizeof size; size++) {
        unsigned char *place = place_struct(known, 0xee);
        memcpy(place, &size, sizeof size);
        test_status(call->call(place), HYMBA_ERROR_ARGUMENT, error);
        ck_assert_ptr_nonnull(strstr(error.message, "struct_size"));
        assert_filled(place, sizeof size, known, 0xee, call->name);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *place = place_struct(known, 0);
        memcpy(place, &sizes[i], sizeof sizes[i]);
        test_status(call->call(place), HYMBA_ERROR_ARGUMENT, error);
        ck_assert_ptr_nonnull(strstr(error.message, "struct_size"));
        assert_filled(place, sizeof sizes[i], known, 0, call->name);
    }
}
END_TEST

START_TEST(every_sized_struct_has_a_call)
{
    for (size_t i = 0; i < n_layouts; i++) {
        /* Below; and in tests/threads/test_executor.c, since no field of it has a default. */
        bool found = strcmp(layouts[i].structure, "hymba_error") == 0 ||
                     strcmp(layouts[i].structure, "hymba_executor") == 0;
        if (!layouts[i].name || strcmp(layouts[i].name, "struct_size") != 0)
            continue;
        ck_assert_uint_eq(layouts[i].actual_offset, 0);
        for (size_t k = 0; k < N_CALLS; k++)
            found = found || strcmp(calls[k].structure, layouts[i].structure) == 0;
        ck_assert_msg(found, "%s has no call here", layouts[i].structure);
    }
}
END_TEST

/* A call that is refused for its struct has done nothing: no token is lost. */
START_TEST(a_refused_event_loses_no_token)
{
    hymba_generation *undisturbed = new_generation(), *disturbed = new_generation();
    for (int i = 0; i < N_GENERATED; i++) {
        hymba_event expected = {.struct_size = sizeof expected};
        hymba_event event = {.struct_size = 0};
        test_status(hymba_generation_next(undisturbed, &expected, &error), HYMBA_OK, error);
        test_status(hymba_generation_next(disturbed, &event, &error), HYMBA_ERROR_ARGUMENT,
                    error);
        event.struct_size = sizeof event;
        test_status(hymba_generation_next(disturbed, &event, &error), HYMBA_OK, error);
        ck_assert_int_eq(event.kind, HYMBA_EVENT_TOKEN);
        ck_assert_int_eq(event.token, expected.token);
    }
    hymba_generation_release(undisturbed);
    hymba_generation_release(disturbed);
}
END_TEST

/* ----------------------------------------------------------- error and init */

START_TEST(an_error_record_is_written_up_to_its_size)
{
    const struct layout *head = layout_of("hymba_error");
    size_t room = offsetof(hymba_error, message), end;
    hymba_session_reset(NULL, &error);
    /* There was never one without message: such a size is a mistake, and nothing is written. */
    for (size_t i = 0; field_end(head, i, &end) && end <= room; i++) {
        unsigned char *place = place_struct(end, 0xee);
        ck_assert_int_eq(hymba_session_reset(NULL, (hymba_error *)(void *)place),
                         HYMBA_ERROR_ARGUMENT);
        assert_filled(place, sizeof end, end, 0xee, "hymba_error");
    }
    for (size_t size = room + 1; size <= sizeof error + LATER; size++) {
        unsigned char *place = place_struct(size, 0xee);
        hymba_error *record = (hymba_error *)(void *)place;
        ck_assert_int_eq(hymba_session_reset(NULL, record), HYMBA_ERROR_ARGUMENT);
        ck_assert_uint_eq(record->struct_size, size);
        ck_assert_int_eq(record->status, HYMBA_ERROR_ARGUMENT);
        ck_assert_int_eq(record->position, -1);
        ck_assert_uint_lt(strlen(record->message), size - room);
        ck_assert_int_eq(strncmp(record->message, error.message, strlen(record->message)), 0);
        assert_filled(place, size, whole_words(size), 0xff, "hymba_error");
        if (size > sizeof error)
            assert_filled(place, sizeof error, size, 0xee, "hymba_error");
    }
}
END_TEST

#define INIT(structure)                                                                           \
    static void structure##_begin(void *place, size_t size)                                       \
    {                                                                                             \
        structure##_init(place, size);                                                            \
    }
INIT(hymba_error)
INIT(hymba_host)
INIT(hymba_model_params)
INIT(hymba_init_params)
INIT(hymba_quantize_params)
INIT(hymba_executor)
INIT(hymba_ranks)
INIT(hymba_context_params)
INIT(hymba_session_params)
INIT(hymba_sampler_params)
INIT(hymba_generation_params)
INIT(hymba_scheduler_params)
INIT(hymba_request_params)

static const struct {
    const char *structure;
    void (*begin)(void *place, size_t size);
} inits[] = {
    {"hymba_error", hymba_error_begin},
    {"hymba_host", hymba_host_begin},
    {"hymba_model_params", hymba_model_params_begin},
    {"hymba_init_params", hymba_init_params_begin},
    {"hymba_quantize_params", hymba_quantize_params_begin},
    {"hymba_executor", hymba_executor_begin},
    {"hymba_ranks", hymba_ranks_begin},
    {"hymba_context_params", hymba_context_params_begin},
    {"hymba_session_params", hymba_session_params_begin},
    {"hymba_sampler_params", hymba_sampler_params_begin},
    {"hymba_generation_params", hymba_generation_params_begin},
    {"hymba_scheduler_params", hymba_scheduler_params_begin},
    {"hymba_request_params", hymba_request_params_begin},
};

enum { N_INITS = sizeof inits / sizeof inits[0] };

START_TEST(init_clears_the_callers_size)
{
    const struct layout *head = layout_of(inits[_i].structure);
    for (size_t size = 0; size <= head->actual_size + LATER; size++) {
        unsigned char *place = page + page_size - whole_words(size);
        memset(place, 0xee, whole_words(size));
        inits[_i].begin(place, size);
        if (size < sizeof size) {
            assert_filled(place, 0, whole_words(size), 0xee, inits[_i].structure);
            continue;
        }
        ck_assert_mem_eq(place, &size, sizeof size);
        assert_filled(place, sizeof size, size, 0, inits[_i].structure);
        assert_filled(place, size, whole_words(size), 0xee, inits[_i].structure);
    }
    inits[_i].begin(NULL, head->actual_size);
}
END_TEST

/* ----------------------------------------------------------- arrays, reserved */

enum { FIRST_ITEM = 32 }; /* bytes that an item had first */

struct newer_item {
    hymba_batch_item known;
    uint64_t later;
};

START_TEST(batch_items_of_a_newer_caller)
{
    hymba_session *first = prompted_session(), *second = prompted_session();
    struct newer_item items[2] = {
        {.known = {.session = first, .tokens = prompt, .n_tokens = 2}},
        {.known = {.session = second, .tokens = prompt, .n_tokens = 1}},
    };
    test_status(hymba_context_decode(world.context, &items[0].known, sizeof items[0], 2, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(hymba_session_length(first), N_PROMPT + 2);
    ck_assert_uint_eq(hymba_session_length(second), N_PROMPT + 1);
    items[1].later = 1;
    test_status(hymba_context_decode(world.context, &items[0].known, sizeof items[0], 2, &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    ck_assert_int_eq(error.position, 1);
    ck_assert_uint_eq(hymba_session_length(first), N_PROMPT + 2);
    items[1].later = 0;
    items[1].known.reserved = 1;
    test_status(hymba_context_decode(world.context, &items[0].known, sizeof items[0], 2, &error),
                HYMBA_ERROR_ARGUMENT, error);
    ck_assert_int_eq(error.position, 1);
    for (size_t size = 0; size < FIRST_ITEM; size++)
        test_status(hymba_context_decode(world.context, &items[0].known, size, 2, &error),
                    HYMBA_ERROR_ARGUMENT, error);
    hymba_session_release(first);
    hymba_session_release(second);
}
END_TEST

struct newer_file {
    hymba_memory_file known;
    uint64_t later;
};

START_TEST(memory_files_of_a_newer_caller)
{
    struct newer_file files[2] = {
        {.known = {"something.else", "", 0}},
        {.known = {"config.json", world.config, world.config_length}},
    };
    hymba_model_params params = {.struct_size = sizeof params, .flags = HYMBA_MODEL_NO_WEIGHTS};
    hymba_model *model;
    test_status(hymba_model_open_memory(&files[0].known, sizeof files[0], 2, &params, &model,
                                        &error),
                HYMBA_OK, error);
    hymba_model_release(model);
    files[1].later = 1;
    test_status(hymba_model_open_memory(&files[0].known, sizeof files[0], 2, &params, &model,
                                        &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    ck_assert_int_eq(error.position, 1);
    ck_assert_ptr_null(model);
}
END_TEST

/* Reserved fields get a meaning later: until then they must be found empty. */
START_TEST(reserved_fields_must_be_zero)
{
    hymba_model_params model = {.struct_size = sizeof model, .reserved = 1};
    hymba_init_params init = {.struct_size = sizeof init, .reserved = 1};
    hymba_session_params session = {.struct_size = sizeof session, .reserved = 1};
    hymba_sampler_params sampler = {.struct_size = sizeof sampler, .reserved = 1};
    hymba_scheduler_params scheduler = {.struct_size = sizeof scheduler, .reserved = 1};
    struct {
        hymba_status (*call)(void *sized);
        void *sized;
    } cases[] = {
        {open_model, &model},       {open_memory, &model}, {init_model, &init},
        {create_session, &session}, {load_params, &session}, {load_memory_params, &session},
        {create_sampler, &sampler}, {create_scheduler, &scheduler},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_status(cases[i].call(cases[i].sized), HYMBA_ERROR_ARGUMENT, error);
        ck_assert_msg(strstr(error.message, "reserved") != NULL, "%s", error.message);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sized structs");
    TCase *tests = tcase_create("sized structs");
    tcase_add_checked_fixture(tests, create_all, release_all);
    tcase_add_test(tests, every_sized_struct_has_a_call);
    tcase_add_loop_test(tests, an_older_callers_struct_is_enough, 0, N_CALLS);
    tcase_add_loop_test(tests, a_newer_callers_struct_is_accepted, 0, N_CALLS);
    tcase_add_loop_test(tests, what_only_a_newer_header_knows_is_refused, 0, N_CALLS);
    tcase_add_loop_test(tests, a_size_that_cannot_be_is_refused, 0, N_CALLS);
    tcase_add_test(tests, a_refused_event_loses_no_token);
    tcase_add_test(tests, an_error_record_is_written_up_to_its_size);
    tcase_add_loop_test(tests, init_clears_the_callers_size, 0, N_INITS);
    tcase_add_test(tests, batch_items_of_a_newer_caller);
    tcase_add_test(tests, memory_files_of_a_newer_caller);
    tcase_add_test(tests, reserved_fields_must_be_zero);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
