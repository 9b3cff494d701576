#include "fault_world.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------ sessions */

static void with_40_tokens(struct world *world)
{
    world_append(world->subject, 0, 20);
    world_append(world->subject, 20, 40);
}

static void with_a_fork(struct world *world)
{
    world_append(world->subject, 0, 5);
    test_status(hymba_session_fork(world->subject, &world->other, NULL, &fault_error), HYMBA_OK,
                fault_error);
    world->third = world_new_session(world, 4);
}

static void with_a_mark(struct world *world)
{
    world_append(world->subject, 0, 20);
    test_status(hymba_session_snapshot(world->subject, "mark", NULL, &fault_error), HYMBA_OK,
                fault_error);
    world_append(world->subject, 20, 40);
    /* a fork keeps blocks shared that going back would give up */
    test_status(hymba_session_fork(world->subject, &world->other, NULL, &fault_error), HYMBA_OK,
                fault_error);
}

/* The fork has no room for the logits that the snapshot brings. */
static void with_a_mark_and_no_logits(struct world *world)
{
    world_append(world->subject, 0, 20);
    test_status(hymba_session_snapshot(world->subject, "mark", NULL, &fault_error), HYMBA_OK,
                fault_error);
    test_status(hymba_session_append(world->subject, fault_tokens + 20, 20, HYMBA_LOGITS_NONE,
                                     &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_session_fork(world->subject, &world->other, NULL, &fault_error), HYMBA_OK,
                fault_error);
}

/* A second context on the model, with threads of its own. */
static hymba_status create_context(struct world *world)
{
    hymba_context_params context = {.struct_size = sizeof context,
                                    .n_threads = 4,
                                    .max_step_tokens = 8,
                                    .rewind_tokens = 2,
                                    .host = &world->host.host};
    hymba_session_params session = {
        .struct_size = sizeof session, .reserve_tokens = 300, .snapshot_interval = 1};
    hymba_status status =
        hymba_context_create(fault_model, &context, &world->new_context, &fault_error);
    if (status == HYMBA_OK)
        status = hymba_session_create(world->new_context, &session, &world->made, &fault_error);
    return status;
}

static hymba_status prefill(struct world *world)
{
    return hymba_session_append(world->subject, fault_tokens, 40, HYMBA_LOGITS_ALL, &fault_error);
}

/* Over rings that are full: a call that fails half-way must bring their content back. */
static hymba_status prefill_more(struct world *world)
{
    return hymba_session_append(world->subject, fault_tokens + 40, 24, HYMBA_LOGITS_LAST,
                                &fault_error);
}

static hymba_status decode_batch(struct world *world)
{
    static int32_t next;
    const hymba_batch_item items[] = {
        {world->subject, fault_tokens + 5, 1, HYMBA_LOGITS_LAST, 0, world->sampler, &next},
        {world->other, fault_tokens + 20, 20, HYMBA_LOGITS_NONE, 0, NULL, NULL},
        {world->third, fault_tokens, 7, HYMBA_LOGITS_ALL, 0, NULL, NULL},
    };
    return hymba_context_decode(world->context, items, sizeof items[0], 3, &fault_error);
}

static hymba_status fork_session(struct world *world)
{
    return hymba_session_fork(world->subject, &world->made, NULL, &fault_error);
}

static hymba_status snapshot(struct world *world)
{
    return hymba_session_snapshot(world->subject, "mark", NULL, &fault_error);
}

/* To the snapshot, and on from there. */
static hymba_session *back_at_the_mark(struct world *world, size_t number)
{
    if (number > 0)
        return NULL;
    world_append(world->subject, 40, 50);
    test_status(hymba_session_rewind(world->subject, world->length, HYMBA_REWIND_KEPT, NULL,
                                     &fault_error),
                HYMBA_OK, fault_error);
    return world->subject;
}

static hymba_status rewind_to_mark(struct world *world)
{
    return hymba_session_rewind(world->subject, 20, HYMBA_REWIND_KEPT, NULL, &fault_error);
}

static hymba_status rewind_fork_to_mark(struct world *world)
{
    return hymba_session_rewind(world->other, 20, HYMBA_REWIND_KEPT, NULL, &fault_error);
}

static hymba_status rewind_steps(struct world *world)
{
    return hymba_session_rewind(world->subject, 38, HYMBA_REWIND_KEPT, NULL, &fault_error);
}

static hymba_status rewind_computing(struct world *world)
{
    return hymba_session_rewind(world->subject, 30, HYMBA_REWIND_COMPUTE, NULL, &fault_error);
}

/* ------------------------------------------------------------ saving, loading */

static hymba_status save_session(struct world *world)
{
    return hymba_session_save(world->subject, world->sampler, world->path, NULL, &fault_error);
}

/* The old file is written anew for each fault, but by the library only once: syncing is slow. */
static void with_an_old_file(struct world *world)
{
    static char *old;
    static size_t size;
    world_append(world->subject, 0, 8);
    if (!old) {
        test_status(save_session(world), HYMBA_OK, fault_error);
        old = test_read_file(world->path, &size);
    }
    test_write_file(world->path, old, size);
    world_append(world->subject, 8, 40);
}

static void with_a_saved_file(struct world *world)
{
    static bool saved;
    with_a_mark(world);
    snprintf(world->path, sizeof world->path, "%s/saved", test_directory());
    if (!saved)
        test_status(save_session(world), HYMBA_OK, fault_error);
    saved = true;
}

static hymba_status load_session(struct world *world)
{
    return hymba_session_load(world->context, world->path, NULL, &world->made,
                              &world->made_sampler, NULL, &fault_error);
}

static hymba_session *saved_session(struct world *world, size_t number)
{
    if (number == 0)
        return world->subject;
    if (number > 1)
        return NULL;
    test_status(load_session(world), HYMBA_OK, fault_error);
    ck_assert_ptr_nonnull(world->made_sampler);
    return world->made;
}

/* Whatever became of saving, a whole session lies there: the new one only if all went well, or
 * if nothing but the directory could not be synced. */
static void check_saved(struct world *world, hymba_status status, const struct fault *fault)
{
    hymba_session *session;
    test_status(hymba_session_load(world->context, world->path, NULL, &session, NULL, NULL,
                                   &fault_error),
                HYMBA_OK, fault_error);
    bool directory = fault->call == FAULT_FSYNC && fault->at == 1;
    ck_assert_uint_eq(hymba_session_length(session), status == HYMBA_OK || directory ? 40 : 8);
    hymba_session_release(session);
    ck_assert_uint_eq(fault_count_entries(test_directory(), ".part"), 0);
}

static int32_t keep_bytes(void *user, const void *data, size_t size)
{
    struct world *world = user;
    if (fault_sink())
        return 1;
    unsigned char *grown = realloc(world->saved, world->saved_size + size);
    ck_assert_ptr_nonnull(grown);
    memcpy(grown + world->saved_size, data, size);
    world->saved = grown;
    world->saved_size += size;
    return 0;
}

static hymba_status save_and_load_in_memory(struct world *world)
{
    world->saved_size = 0;
    hymba_status status = hymba_session_save_to(world->subject, world->sampler, keep_bytes, world,
                                                NULL, &fault_error);
    if (status == HYMBA_OK)
        status = hymba_session_load_memory(world->context, world->saved, world->saved_size, NULL,
                                           &world->made, &world->made_sampler, NULL,
                                           &fault_error);
    return status;
}

/* ------------------------------------------------------------------- models */

/* The model alone: computing its meta tokens for each fault would take long. */
static hymba_status open_model(struct world *world)
{
    hymba_model_params params = {
        .struct_size = sizeof params,
        .host = &world->host.host,
        .flags = world->scenario->flags,
        .quantize = world->scenario->quantize,
    };
    return hymba_model_open(world->scenario->directory, &params, &world->model, &fault_error);
}

static hymba_status run_model(struct world *world)
{
    hymba_context_params context = {
        .struct_size = sizeof context, .n_threads = 1, .max_step_tokens = 8};
    hymba_status status =
        hymba_context_create(world->model, &context, &world->new_context, &fault_error);
    if (status == HYMBA_OK)
        status = hymba_session_create(world->new_context, NULL, &world->made, &fault_error);
    return status;
}

static hymba_status load_model(struct world *world)
{
    hymba_status status = open_model(world);
    return status == HYMBA_OK ? run_model(world) : status;
}

static hymba_session *made_session(struct world *world, size_t number)
{
    return number == 0 ? world->made : NULL;
}

static const char *const model_files[] = {"model.safetensors", "generation_config.json",
                                          "config.json"};
static char *model_config;
static size_t config_length;

static void with_no_model(struct world *world)
{
    char path[1024];
    if (!model_config) {
        snprintf(path, sizeof path, "%s/config.json", world->scenario->directory);
        model_config = test_read_file(path, &config_length);
    }
    snprintf(world->path, sizeof world->path, "%s/model", test_directory());
    for (size_t i = 0; i < sizeof model_files / sizeof model_files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", world->path, model_files[i]);
        unlink(path);
    }
    rmdir(world->path);
}

static hymba_status write_model(struct world *world)
{
    hymba_init_params params = {
        .struct_size = sizeof params, .seed = 5, .host = &world->host.host};
    return hymba_model_init(world->path, model_config, config_length, &params, &fault_error);
}

static hymba_status quantise_model(struct world *world)
{
    hymba_quantize_params params = {.struct_size = sizeof params,
                                    .type = HYMBA_DTYPE_INT4,
                                    .n_threads = 1,
                                    .host = &world->host.host};
    return hymba_quantize(world->scenario->directory, world->path, &params, &fault_error);
}

static hymba_session *session_of_written_model(struct world *world, size_t number)
{
    if (number > 0)
        return NULL;
    test_status(hymba_model_open(world->path, NULL, &world->model, &fault_error), HYMBA_OK,
                fault_error);
    test_status(run_model(world), HYMBA_OK, fault_error);
    return world->made;
}

static void check_written_model(struct world *world, hymba_status status,
                                const struct fault *fault)
{
    (void)fault;
    if (status != HYMBA_OK)
        ck_assert_uint_eq(fault_count_entries(world->path, "o"), 0); /* each file has one */
}

/* --------------------------------------------------------------------- text */

static bool is_kept(json_t *vocabulary, const char *piece)
{
    return json_object_get(vocabulary, piece) != NULL;
}

/*
 * The demo's tokenizer.json without all but its first merges: a fault for each of Jansson's
 * allocations is to be possible. Ids are given anew.
 */
static void cut_tokenizer(json_t *tokenizer)
{
    enum { BYTES_END = 259, N_MERGES = 40 };
    json_t *model = json_object_get(tokenizer, "model"), *vocabulary = json_object(), *id;
    json_t *merges = json_array(), *old = json_object_get(model, "merges");
    const char *piece;
    json_object_foreach (json_object_get(model, "vocab"), piece, id) {
        bool character = strlen(piece) == 1 || strcmp(piece, "\xe2\x96\x81") == 0;
        if (character || json_integer_value(id) < BYTES_END)
            json_object_set_new(vocabulary, piece,
                                json_integer((json_int_t)json_object_size(vocabulary)));
    }
    for (size_t i = 0; i < N_MERGES; i++) {
        const char *merge = json_string_value(json_array_get(old, i));
        const char *space = strchr(merge, ' ');
        char whole[64], left[64];
        snprintf(left, sizeof left, "%.*s", (int)(space - merge), merge);
        snprintf(whole, sizeof whole, "%s%s", left, space + 1);
        if (!is_kept(vocabulary, left) || !is_kept(vocabulary, space + 1))
            continue;
        json_array_append(merges, json_array_get(old, i));
        if (!is_kept(vocabulary, whole))
            json_object_set_new(vocabulary, whole,
                                json_integer((json_int_t)json_object_size(vocabulary)));
    }
    json_object_set_new(model, "vocab", vocabulary);
    json_object_set_new(model, "merges", merges);
}

/* One form of the demo's tokenizer. */
static void write_tokenizer(const char *form, const char *path)
{
    char from[64];
    size_t size;
    snprintf(from, sizeof from, "examples/demo/%s", form);
    char *data = test_read_file(from, &size);
    if (strcmp(form, "tokenizer.json") == 0) {
        json_t *tokenizer = json_loadb(data, size, 0, NULL);
        ck_assert_ptr_nonnull(tokenizer);
        cut_tokenizer(tokenizer);
        ck_assert_int_eq(json_dump_file(tokenizer, path, JSON_COMPACT), 0);
        json_decref(tokenizer);
    } else {
        test_write_file(path, data, size);
    }
    free(data);
}

/* A directory with that form and a chat template, in world->path. */
static void with_tokenizer(struct world *world)
{
    const char *form = world->scenario->directory;
    static const char config[] =
        "{\"add_bos_token\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\",\n"
        " \"chat_template\": \"{% for m in messages %}{{ m['role'] | upper }}: "
        "{{ m['content'] + ' ' }}{% endfor %}\"}";
    char path[1024];
    snprintf(world->path, sizeof world->path, "%s/only-%s", test_directory(), form);
    if (mkdir(world->path, 0777) != 0) {
        ck_assert_int_eq(errno, EEXIST);
        return;
    }
    snprintf(path, sizeof path, "%s/%s", world->path, form);
    write_tokenizer(form, path);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", world->path);
    test_write_file(path, config, sizeof config - 1);
}

static void add_text(struct world *world, const char *text, size_t length)
{
    ck_assert_uint_le(length, FAULT_MAX_TEXT - world->text_length);
    memcpy(world->texts + world->text_length, text, length);
    world->text_length += length;
}

static hymba_status stream_text(struct world *world)
{
    hymba_text_stream *stream;
    const char *part;
    size_t length;
    hymba_status status = hymba_text_stream_create(world->tokenizer, &stream, &fault_error);
    for (size_t i = 0; status == HYMBA_OK && i < world->n_ids; i++) {
        status = hymba_text_stream_push(stream, world->ids[i], &part, &length, &fault_error);
        if (status == HYMBA_OK)
            add_text(world, part, length);
    }
    hymba_text_stream_release(stream);
    return status;
}

static hymba_status tokenize(struct world *world)
{
    static const char text[] =
        "Once upon a time there was a little <s> fox.\nIt said: \xc3\xa9\xff!";
    static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}";
    size_t needed;
    world->text_length = 0;
    hymba_status status = hymba_tokenizer_open(world->path, &world->host.host, &world->tokenizer,
                                               &fault_error);
    if (status == HYMBA_OK)
        status = hymba_tokenizer_encode(world->tokenizer, text, sizeof text - 1,
                                        HYMBA_ENCODE_BOS | HYMBA_ENCODE_SPECIAL, world->ids,
                                        FAULT_MAX_IDS, &world->n_ids, &fault_error);
    if (status == HYMBA_OK)
        status = hymba_tokenizer_render_chat(world->tokenizer, chat, sizeof chat - 1, world->texts,
                                             sizeof world->texts / 2, &needed, &fault_error);
    if (status != HYMBA_OK)
        return status;
    world->text_length = needed;
    return stream_text(world);
}

/* The sampler draws nothing but the two bytes of an e with an acute accent, in any order. */
static void with_a_prompt(struct world *world)
{
    static const hymba_logit_bias biases[] = {{3 + 0xc3, 200}, {3 + 0xa9, 200}};
    static const int32_t prompt[] = {1, 300, 270, 3 + 0xc3};
    hymba_sampler_params sampling = {.struct_size = sizeof sampling,
                                     .seed = 4,
                                     .temperature = 20,
                                     .logit_bias = biases,
                                     .n_logit_bias = 2};
    hymba_context_params params = {
        .struct_size = sizeof params, .n_threads = 1, .host = &world->host.host};
    test_status(hymba_context_create(fault_text_model, &params, &world->text_context,
                                     &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_session_create(world->text_context, NULL, &world->text_session,
                                     &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_session_append(world->text_session, prompt, 4, HYMBA_LOGITS_LAST,
                                     &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_sampler_create(&sampling, &world->host.host, &world->text_sampler,
                                     &fault_error),
                HYMBA_OK, fault_error);
}

static hymba_status generate(struct world *world)
{
    static const char *const stops[] = {"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", "never"};
    hymba_generation_params params = {
        .struct_size = sizeof params,
        .max_tokens = 24,
        .stop_strings = stops,
        .n_stop_strings = 2,
        .n_top = 3,
    };
    hymba_event event = {.struct_size = sizeof event};
    hymba_status status = HYMBA_OK;
    if (!world->generation)
        status = hymba_generation_create(world->text_session, world->text_sampler,
                                         fault_text_tokenizer, &params, &world->generation,
                                         &fault_error);
    while (status == HYMBA_OK && event.kind != HYMBA_EVENT_END) {
        status = hymba_generation_next(world->generation, &event, &fault_error);
        if (status != HYMBA_OK)
            break;
        add_text(world, event.text, event.length);
        world->ids[world->n_ids++] = event.token;
    }
    return status;
}

/* -------------------------------------------------------------------- freeing */

/* Everything there can be, for a scenario that releases it all. */
static void with_everything(struct world *world)
{
    with_a_saved_file(world);
    test_status(load_session(world), HYMBA_OK, fault_error);
    world->third = world->made;
    test_status(open_model(world), HYMBA_OK, fault_error);
    test_status(create_context(world), HYMBA_OK, fault_error);
    with_a_prompt(world);
    test_status(generate(world), HYMBA_OK, fault_error);
    test_status(hymba_tokenizer_open("examples/demo", &world->host.host, &world->tokenizer,
                                     &fault_error),
                HYMBA_OK, fault_error);
}

static hymba_status release_everything(struct world *world)
{
    world_release_all(world);
    return HYMBA_OK;
}

/* -------------------------------------------------------------------- table */

const struct scenario fault_scenarios[] = {
    {.name = "load, mapped",
     .run = load_model,
     .probe = made_session,
     .directory = "tests/data/variants/mixed_plan"},
    {.name = "load, read",
     .run = load_model,
     .probe = made_session,
     .directory = "tests/data/variants/no_rope",
     .flags = HYMBA_MODEL_NO_MAP},
    {.name = "load, in shards",
     .run = open_model,
     .probe = made_session,
     .directory = "tests/data/goldens/f_official_like"},
    {.name = "load, quantised on the way",
     .run = open_model,
     .probe = made_session,
     .directory = "tests/data/goldens/d_all_full",
     .quantize = HYMBA_DTYPE_INT8},
    {.name = "tokenize, tokenizer.model",
     .prepare = with_tokenizer,
     .run = tokenize,
     .probe = world_sessions,
     .directory = "tokenizer.model"},
    {.name = "tokenize, tokenizer.json",
     .prepare = with_tokenizer,
     .run = tokenize,
     .probe = world_sessions,
     .directory = "tokenizer.json"},
    {.name = "create", .run = create_context, .probe = world_sessions},
    {.name = "prefill", .run = prefill, .probe = world_sessions},
    {.name = "prefill, going on",
     .prepare = with_40_tokens,
     .run = prefill_more,
     .probe = world_sessions},
    {.name = "batch decode",
     .prepare = with_a_fork,
     .run = decode_batch,
     .probe = world_sessions},
    {.name = "generate",
     .prepare = with_a_prompt,
     .run = generate,
     .probe = world_sessions,
     .resumes = true},
    {.name = "fork", .prepare = with_40_tokens, .run = fork_session, .probe = world_sessions},
    {.name = "snapshot", .prepare = with_40_tokens, .run = snapshot, .probe = back_at_the_mark},
    {.name = "rewind to a snapshot",
     .prepare = with_a_mark,
     .run = rewind_to_mark,
     .probe = world_sessions},
    {.name = "rewind of a fork",
     .prepare = with_a_mark_and_no_logits,
     .run = rewind_fork_to_mark,
     .probe = world_sessions},
    {.name = "rewind by steps",
     .prepare = with_40_tokens,
     .run = rewind_steps,
     .probe = world_sessions},
    {.name = "rewind, computing",
     .prepare = with_a_mark,
     .run = rewind_computing,
     .probe = world_sessions},
    {.name = "save",
     .prepare = with_an_old_file,
     .run = save_session,
     .probe = saved_session,
     .saves = true,
     .check = check_saved},
    {.name = "load session",
     .prepare = with_a_saved_file,
     .run = load_session,
     .probe = world_sessions},
    {.name = "save and load in memory",
     .prepare = with_a_mark,
     .run = save_and_load_in_memory,
     .probe = world_sessions,
     .saves = true},
    {.name = "write a model",
     .prepare = with_no_model,
     .run = write_model,
     .probe = session_of_written_model,
     .directory = "tests/data/variants/mixed_plan",
     .check = check_written_model},
    {.name = "quantise a model",
     .prepare = with_no_model,
     .run = quantise_model,
     .probe = session_of_written_model,
     .directory = "tests/data/goldens/d_all_full",
     .check = check_written_model},
};
const size_t n_fault_scenarios = sizeof fault_scenarios / sizeof fault_scenarios[0];

const struct scenario fault_release_scenario = {
    .name = "free",
    .prepare = with_everything,
    .run = release_everything,
    .directory = "tests/data/variants/no_rope",
    .flags = HYMBA_MODEL_NO_MAP,
};
