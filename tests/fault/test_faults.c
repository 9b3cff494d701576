/*
 * Ten scenarios in which everything that can fail does, call by call: each allocation, each call
 * on a file, each thread. After each fault the status is the right one, the same call then
 * succeeds with the result it would have had, a session next to it has not changed by a bit, and
 * in the end nothing is left: no byte, no descriptor, no temporary file.
 */
#include "fault_injection.h"
#include "host.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VOCABULARY = 512, MAX_PROBES = 4, N_TOKENS = 64, MAX_IDS = 256 };

/* Where a scenario's faults lie too close for each to be tried, steps grow with the number. */
enum { ALL_BELOW = 48, STRIDE = 12 };

static hymba_error error = {.struct_size = sizeof error};
static hymba_model *shared_model;
static int32_t tokens[N_TOKENS];
static const int32_t next_token = 7;
static const char text[] = "Once upon a time there was a little <s> fox.\nIt said: \xc3\xa9\xff!";
static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}";

/* Everything a scenario works with. */
struct world {
    const struct scenario *scenario;
    struct test_host host;
    hymba_context *context;
    hymba_session *bystander, *subject, *other, *third;
    hymba_sampler *sampler;
    char path[512];
    uint64_t length; /* of the subject, before */
    /* what a scenario makes */
    hymba_model *model;
    hymba_context *new_context;
    hymba_session *made;
    hymba_sampler *made_sampler;
    hymba_tokenizer *tokenizer;
    int32_t ids[MAX_IDS];
    char texts[1024];
    size_t n_ids, text_length;
};

/* What a world looks like to a caller: logits after one more token, and a tokenizer's output. */
struct outcome {
    size_t n_probes;
    float probes[MAX_PROBES][MAX_VOCABULARY];
    float bystander[MAX_VOCABULARY];
    int32_t ids[MAX_IDS];
    char texts[1024];
    size_t n_ids, text_length;
};

struct scenario {
    const char *name;
    void (*prepare)(struct world *world);
    hymba_status (*run)(struct world *world);
    /* The session to look at afterwards, by number; NULL: no more. */
    hymba_session *(*probe)(struct world *world, size_t number);
    const char *directory; /* of load and tokenize */
    uint32_t flags;
    bool saves;
};

/* ------------------------------------------------------------------- worlds */

static hymba_session *new_session(hymba_context *context, uint64_t interval)
{
    hymba_session *session;
    hymba_session_params params = {.struct_size = sizeof params, .snapshot_interval = interval};
    test_status(hymba_session_create(context, &params, &session, &error), HYMBA_OK, error);
    return session;
}

static void append(hymba_session *session, size_t begin, size_t end)
{
    test_status(hymba_session_append(session, tokens + begin, end - begin, HYMBA_LOGITS_LAST,
                                     &error),
                HYMBA_OK, error);
}

static void open_world(struct world *world, const struct scenario *scenario)
{
    hymba_context_params params = {
        .struct_size = sizeof params,
        .n_threads = 2,
        .max_step_tokens = 16,
        .rewind_tokens = 4,
        .host = &world->host.host,
    };
    hymba_sampler_params sampling = {.struct_size = sizeof sampling, .seed = 3, .temperature = 1};
    memset(world, 0, sizeof *world);
    world->scenario = scenario;
    test_host_init(&world->host);
    snprintf(world->path, sizeof world->path, "%s/session", test_directory());
    test_status(hymba_context_create(shared_model, &params, &world->context, &error), HYMBA_OK,
                error);
    test_status(hymba_sampler_create(&sampling, &world->host.host, &world->sampler, &error),
                HYMBA_OK, error);
    world->bystander = new_session(world->context, 0);
    append(world->bystander, 10, 19);
    world->subject = new_session(world->context, 16);
    if (scenario->prepare)
        scenario->prepare(world);
    world->length = hymba_session_length(world->subject);
}

static void drop_made(struct world *world)
{
    hymba_session_release(world->made);
    hymba_context_release(world->new_context);
    hymba_model_release(world->model);
    hymba_sampler_release(world->made_sampler);
    hymba_tokenizer_release(world->tokenizer);
    world->made = NULL;
    world->new_context = NULL;
    world->model = NULL;
    world->made_sampler = NULL;
    world->tokenizer = NULL;
}

static void release_all(struct world *world)
{
    drop_made(world);
    hymba_session_release(world->third);
    hymba_session_release(world->other);
    hymba_session_release(world->subject);
    hymba_session_release(world->bystander);
    hymba_sampler_release(world->sampler);
    hymba_context_release(world->context);
    world->third = world->other = world->subject = world->bystander = NULL;
    world->sampler = NULL;
    world->context = NULL;
}

/* Entries of a directory that name what a test must not leave or lose. */
static size_t count_entries(const char *path, const char *part)
{
    size_t count = 0;
    DIR *directory = opendir(path);
    ck_assert_ptr_nonnull(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += strstr(entry->d_name, part) != NULL;
    closedir(directory);
    return count;
}

static size_t count_descriptors(void)
{
    return count_entries("/proc/self/fd", "");
}

static void close_world(struct world *world, size_t descriptors)
{
    release_all(world);
    test_host_check(&world->host);
    pthread_mutex_destroy(&world->host.mutex);
    ck_assert_uint_eq(count_descriptors(), descriptors);
    ck_assert_uint_eq(count_entries(test_directory(), ".part"), 0);
}

/* ---------------------------------------------------------------- scenarios */

static void with_40_tokens(struct world *world)
{
    append(world->subject, 0, 20);
    append(world->subject, 20, 40);
}

static void with_a_fork(struct world *world)
{
    append(world->subject, 0, 5);
    test_status(hymba_session_fork(world->subject, &world->other, NULL, &error), HYMBA_OK, error);
    world->third = new_session(world->context, 4);
}

static void with_a_mark(struct world *world)
{
    append(world->subject, 0, 20);
    test_status(hymba_session_snapshot(world->subject, "mark", NULL, &error), HYMBA_OK, error);
    append(world->subject, 20, 40);
    /* a fork keeps blocks shared that going back would give up */
    test_status(hymba_session_fork(world->subject, &world->other, NULL, &error), HYMBA_OK, error);
}

static void save(struct world *world)
{
    test_status(hymba_session_save(world->subject, world->sampler, world->path, NULL, &error),
                HYMBA_OK, error);
}

/* The old file is written anew for each fault, but by the library only once: syncing is slow. */
static void with_an_old_file(struct world *world)
{
    static char *old;
    static size_t size;
    append(world->subject, 0, 8);
    if (!old) {
        save(world);
        old = test_read_file(world->path, &size);
    }
    test_write_file(world->path, old, size);
    append(world->subject, 8, 40);
}

static void with_a_saved_file(struct world *world)
{
    static bool saved;
    with_a_mark(world);
    if (!saved)
        save(world);
    saved = true;
}

/* The model alone: computing its meta tokens for each fault would take long. */
static hymba_status open_model(struct world *world)
{
    hymba_model_params params = {
        .struct_size = sizeof params,
        .host = &world->host.host,
        .flags = world->scenario->flags,
    };
    return hymba_model_open(world->scenario->directory, &params, &world->model, &error);
}

static hymba_status load_model(struct world *world)
{
    hymba_context_params context = {
        .struct_size = sizeof context, .n_threads = 3, .max_step_tokens = 8};
    hymba_status status = open_model(world);
    if (status == HYMBA_OK)
        status = hymba_context_create(world->model, &context, &world->new_context, &error);
    if (status == HYMBA_OK)
        status = hymba_session_create(world->new_context, NULL, &world->made, &error);
    return status;
}

static hymba_status stream_text(struct world *world)
{
    hymba_text_stream *stream;
    const char *part;
    size_t length;
    hymba_status status = hymba_text_stream_create(world->tokenizer, &stream, &error);
    for (size_t i = 0; status == HYMBA_OK && i < world->n_ids; i++) {
        status = hymba_text_stream_push(stream, world->ids[i], &part, &length, &error);
        if (status != HYMBA_OK)
            break;
        memcpy(world->texts + world->text_length, part, length);
        world->text_length += length;
    }
    hymba_text_stream_release(stream);
    return status;
}

static hymba_status tokenize(struct world *world)
{
    size_t needed;
    world->text_length = 0;
    hymba_status status = hymba_tokenizer_open(world->scenario->directory, &world->host.host,
                                               &world->tokenizer, &error);
    if (status == HYMBA_OK)
        status = hymba_tokenizer_encode(world->tokenizer, text, sizeof text - 1,
                                        HYMBA_ENCODE_BOS | HYMBA_ENCODE_SPECIAL, world->ids,
                                        MAX_IDS, &world->n_ids, &error);
    if (status == HYMBA_OK)
        status = hymba_tokenizer_render_chat(world->tokenizer, chat, sizeof chat - 1, world->texts,
                                             sizeof world->texts / 2, &needed, &error);
    if (status != HYMBA_OK)
        return status;
    world->text_length = needed;
    return stream_text(world);
}

static hymba_status prefill(struct world *world)
{
    return hymba_session_append(world->subject, tokens, 40, HYMBA_LOGITS_ALL, &error);
}

static hymba_status decode_batch(struct world *world)
{
    const hymba_batch_item items[] = {
        {world->subject, tokens + 5, 1, HYMBA_LOGITS_LAST, 0},
        {world->other, tokens + 20, 20, HYMBA_LOGITS_NONE, 0},
        {world->third, tokens, 7, HYMBA_LOGITS_ALL, 0},
    };
    return hymba_context_decode(world->context, items, sizeof items[0], 3, &error);
}

static hymba_status fork_session(struct world *world)
{
    return hymba_session_fork(world->subject, &world->made, NULL, &error);
}

static hymba_status snapshot(struct world *world)
{
    return hymba_session_snapshot(world->subject, "mark", NULL, &error);
}

/* To the snapshot, and on from there. */
static hymba_session *back_at_the_mark(struct world *world, size_t number)
{
    if (number > 0)
        return NULL;
    append(world->subject, 40, 50);
    test_status(hymba_session_rewind(world->subject, world->length, HYMBA_REWIND_KEPT, NULL,
                                     &error),
                HYMBA_OK, error);
    return world->subject;
}

static hymba_status rewind_to_mark(struct world *world)
{
    return hymba_session_rewind(world->subject, 20, HYMBA_REWIND_KEPT, NULL, &error);
}

static hymba_status rewind_steps(struct world *world)
{
    return hymba_session_rewind(world->subject, 38, HYMBA_REWIND_KEPT, NULL, &error);
}

static hymba_status rewind_computing(struct world *world)
{
    return hymba_session_rewind(world->subject, 30, HYMBA_REWIND_COMPUTE, NULL, &error);
}

static hymba_status save_session(struct world *world)
{
    return hymba_session_save(world->subject, world->sampler, world->path, NULL, &error);
}

static hymba_status load_session(struct world *world)
{
    return hymba_session_load(world->context, world->path, NULL, &world->made,
                              &world->made_sampler, NULL, &error);
}

static hymba_session *saved_session(struct world *world, size_t number)
{
    if (number == 0)
        return world->subject;
    if (number > 1)
        return NULL;
    test_status(load_session(world), HYMBA_OK, error);
    ck_assert_ptr_nonnull(world->made_sampler);
    return world->made;
}

static hymba_session *made_session(struct world *world, size_t number)
{
    return number == 0 ? world->made : NULL;
}

static hymba_session *all_sessions(struct world *world, size_t number)
{
    hymba_session *const sessions[] = {world->subject, world->other, world->third, world->made};
    for (size_t i = 0; i < sizeof sessions / sizeof sessions[0]; i++)
        if (sessions[i] && number-- == 0)
            return sessions[i];
    return NULL;
}

/* Everything there can be, for a scenario that releases it all. */
static void with_everything(struct world *world)
{
    with_a_saved_file(world);
    test_status(load_session(world), HYMBA_OK, error);
    world->third = world->made;
    test_status(load_model(world), HYMBA_OK, error);
}

static hymba_status release_everything(struct world *world)
{
    release_all(world);
    return HYMBA_OK;
}

static const struct scenario scenarios[] = {
    {"load, mapped", NULL, load_model, made_session, "tests/data/variants/mixed_plan", 0, false},
    {"load, read", NULL, load_model, made_session, "tests/data/variants/no_rope",
     HYMBA_MODEL_NO_MAP, false},
    {"load, in shards", NULL, open_model, made_session, "tests/data/goldens/f_official_like", 0,
     false},
    {"tokenize, tokenizer.model", NULL, tokenize, all_sessions, "tokenizer.model", 0, false},
    {"tokenize, tokenizer.json", NULL, tokenize, all_sessions, "tokenizer.json", 0, false},
    {"prefill", NULL, prefill, all_sessions, NULL, 0, false},
    {"batch decode", with_a_fork, decode_batch, all_sessions, NULL, 0, false},
    {"fork", with_40_tokens, fork_session, all_sessions, NULL, 0, false},
    {"snapshot", with_40_tokens, snapshot, back_at_the_mark, NULL, 0, false},
    {"rewind to a snapshot", with_a_mark, rewind_to_mark, all_sessions, NULL, 0, false},
    {"rewind by steps", with_40_tokens, rewind_steps, all_sessions, NULL, 0, false},
    {"rewind, computing", with_a_mark, rewind_computing, all_sessions, NULL, 0, false},
    {"save", with_an_old_file, save_session, saved_session, NULL, 0, true},
    {"load session", with_a_saved_file, load_session, all_sessions, NULL, 0, false},
};
enum { N_SCENARIOS = sizeof scenarios / sizeof scenarios[0] };

/* ------------------------------------------------------------------- faults */

/* What fails how, and what the call must say. tolerated: it may also do without. */
static const struct {
    struct fault fault;
    hymba_status status;
    bool tolerated;
} kinds[] = {
    {{FAULT_HOST, FAULT_ONCE, 0, 0}, HYMBA_ERROR_MEMORY, false},
    {{FAULT_HOST, FAULT_EVER_AFTER, 0, 0}, HYMBA_ERROR_MEMORY, false},
    {{FAULT_JSON, FAULT_ONCE, 0, 0}, HYMBA_ERROR_MEMORY, false},
    {{FAULT_JSON, FAULT_EVER_AFTER, 0, 0}, HYMBA_ERROR_MEMORY, false},
    {{FAULT_ACCESS, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, true},
    {{FAULT_ACCESS, FAULT_EVER_AFTER, EACCES, 0}, HYMBA_ERROR_FILE, true},
    {{FAULT_OPEN, FAULT_ONCE, EMFILE, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_OPEN, FAULT_EVER_AFTER, EACCES, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_OPEN, FAULT_EVERY_OTHER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_FSTAT, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_READ, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_READ, FAULT_EVER_AFTER, EISDIR, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_READ, FAULT_EVERY_OTHER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_READ, FAULT_SHORT, 0, 0}, HYMBA_OK, false},
    {{FAULT_READ, FAULT_NOTHING, 0, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_MMAP, FAULT_ONCE, ENOMEM, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_MMAP, FAULT_EVER_AFTER, ENODEV, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_WRITE, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_WRITE, FAULT_EVER_AFTER, ENOSPC, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_WRITE, FAULT_EVERY_OTHER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_WRITE, FAULT_SHORT, 0, 0}, HYMBA_OK, false},
    {{FAULT_WRITE, FAULT_NOTHING, 0, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_FSYNC, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_FSYNC, FAULT_EVER_AFTER, ENOSPC, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_FSYNC, FAULT_EVERY_OTHER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_RENAME, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_CLOSE, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, true},
    {{FAULT_CLOSE, FAULT_EVER_AFTER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_FOPEN, FAULT_ONCE, EMFILE, 0}, HYMBA_OK, false},
    {{FAULT_THREAD, FAULT_ONCE, EAGAIN, 0}, HYMBA_ERROR_THREAD, false},
    {{FAULT_THREAD, FAULT_EVER_AFTER, EAGAIN, 0}, HYMBA_ERROR_THREAD, false},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static void arm(struct world *world, const struct fault *fault)
{
    if (fault->call == FAULT_HOST)
        test_host_fail_at(&world->host, fault->at, fault->manner == FAULT_EVER_AFTER);
    else
        fault_arm(fault);
}

/* How often the fault struck. */
static long disarm(struct world *world, const struct fault *fault)
{
    if (fault->call != FAULT_HOST)
        return fault_disarm();
    long calls = world->host.n_allocations;
    test_host_fail_at(&world->host, -1, false);
    if (calls <= fault->at)
        return 0;
    return fault->manner == FAULT_ONCE ? 1 : calls - fault->at;
}

static size_t occurrences(const char *long_text, const char *part)
{
    size_t count = 0;
    for (; (long_text = strstr(long_text, part)) != NULL; long_text++)
        count++;
    return count;
}

/* Faults that a call may get over, besides those of its kind. */
static bool gets_over(const struct scenario *scenario, size_t kind)
{
    enum fault_call call = kinds[kind].fault.call;
    if (kinds[kind].tolerated)
        return true;
    /* What cannot be compressed is stored as it is; a directory that cannot be opened is not
     * synced. */
    return scenario->saves && (call == FAULT_HOST || call == FAULT_OPEN);
}

static void check_status(const struct scenario *scenario, size_t kind, const struct fault *fault,
                         hymba_status status, long hits)
{
    hymba_status expected = hits > 0 ? kinds[kind].status : HYMBA_OK;
    if (status == HYMBA_OK && (expected == HYMBA_OK || gets_over(scenario, kind)))
        return;
    ck_assert_msg(status == expected, "%s, %s %ld, manner %d, errno %d: got %s (%s), expected %s",
                  scenario->name, fault_call_name(fault->call), fault->at, (int)fault->manner,
                  fault->code, hymba_status_name(status), error.message,
                  hymba_status_name(expected));
    ck_assert_int_eq(error.status, status);
    ck_assert_uint_gt(strlen(error.message), 0);
    if (fault->code && fault->call != FAULT_ACCESS) {
        ck_assert_int_eq(error.system_code, fault->code);
        ck_assert_msg(occurrences(error.message, strerror(fault->code)) == 1, "%s",
                      error.message);
    }
}

/* --------------------------------------------------------------- comparison */

static void probe(const hymba_model *model, hymba_session *session, float *logits)
{
    const float *found;
    size_t rows;
    hymba_model_info info = {.struct_size = sizeof info};
    test_status(hymba_session_append(session, &next_token, 1, HYMBA_LOGITS_LAST, &error), HYMBA_OK,
                error);
    test_status(hymba_session_logits(session, &found, &rows, &error), HYMBA_OK, error);
    test_status(hymba_model_get_info(model, &info, &error), HYMBA_OK, error);
    memcpy(logits, found, info.vocabulary_size * sizeof *logits);
}

static void look(struct world *world, struct outcome *outcome)
{
    hymba_session *session;
    memset(outcome, 0, sizeof *outcome);
    while ((session = world->scenario->probe(world, outcome->n_probes)) != NULL) {
        ck_assert_uint_lt(outcome->n_probes, MAX_PROBES);
        probe(world->model ? world->model : shared_model, session,
              outcome->probes[outcome->n_probes++]);
    }
    probe(shared_model, world->bystander, outcome->bystander);
    memcpy(outcome->ids, world->ids, sizeof outcome->ids);
    memcpy(outcome->texts, world->texts, world->text_length);
    outcome->n_ids = world->n_ids;
    outcome->text_length = world->text_length;
}

/* Whatever became of saving, a whole session lies there. */
static void check_file(struct world *world, hymba_status status)
{
    hymba_session *session;
    test_status(hymba_session_load(world->context, world->path, NULL, &session, NULL, NULL,
                                   &error),
                HYMBA_OK, error);
    uint64_t length = hymba_session_length(session);
    if (status == HYMBA_OK)
        ck_assert_uint_eq(length, 40);
    else
        ck_assert(length == 8 || length == 40);
    hymba_session_release(session);
    ck_assert_uint_eq(count_entries(test_directory(), ".part"), 0);
}

/* One fault; returns how often it struck. */
static long inject(const struct scenario *scenario, size_t kind, long at,
                   const struct outcome *expected, size_t descriptors)
{
    struct world world;
    struct outcome outcome;
    struct fault fault = kinds[kind].fault;
    fault.at = at;
    open_world(&world, scenario);
    arm(&world, &fault);
    hymba_status status = scenario->run(&world);
    long hits = disarm(&world, &fault);
    check_status(scenario, kind, &fault, status, hits);
    if (scenario->saves)
        check_file(&world, status);
    if (status != HYMBA_OK) {
        ck_assert_ptr_null(world.made);
        ck_assert_ptr_null(world.made_sampler);
        ck_assert_uint_eq(hymba_session_length(world.subject), world.length);
        drop_made(&world);
        test_status(scenario->run(&world), HYMBA_OK, error);
    }
    look(&world, &outcome);
    ck_assert_msg(memcmp(&outcome, expected, sizeof outcome) == 0,
                  "%s, %s %ld: what came of it is not what comes without a fault", scenario->name,
                  fault_call_name(fault.call), at);
    close_world(&world, descriptors);
    return hits;
}

static long following(long at)
{
    return at < ALL_BELOW ? at + 1 : at + at / STRIDE;
}

/* Every call of a kind in turn; returns the number of faults that struck. */
static long inject_all(const struct scenario *scenario, size_t kind,
                       const struct outcome *expected, size_t descriptors)
{
    long total = 0, hits = 1;
    for (long at = 0; hits > 0; at = following(at)) {
        hits = inject(scenario, kind, at, expected, descriptors);
        total += hits > 0;
    }
    return total;
}

static void expect(const struct scenario *scenario, struct outcome *expected)
{
    struct world world;
    open_world(&world, scenario);
    test_status(scenario->run(&world), HYMBA_OK, error);
    look(&world, expected);
    close_world(&world, count_descriptors());
}

/* -------------------------------------------------------------------- tests */

static void open_shared_model(void)
{
    for (size_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)(i * 13 % 71);
    test_status(hymba_model_open(test_data("variants/mixed_plan"), NULL, &shared_model, &error),
                HYMBA_OK, error);
    fault_install();
}

static void release_shared_model(void)
{
    hymba_model_release(shared_model);
}

/* A directory with one form of the demo's tokenizer and a chat template. */
static const char *tokenizer_directory(const char *form)
{
    static char path[256];
    char from[512], to[512];
    static const char config[] =
        "{\"add_bos_token\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\",\n"
        " \"chat_template\": \"{% for m in messages %}{{ m['role'] | upper }}: "
        "{{ m['content'] + ' ' }}{% endfor %}\"}";
    size_t size;
    snprintf(path, sizeof path, "%s", test_directory());
    snprintf(from, sizeof from, "examples/demo/%s", form);
    snprintf(to, sizeof to, "%s/%s", path, form);
    char *data = test_read_file(from, &size);
    test_write_file(to, data, size);
    free(data);
    snprintf(to, sizeof to, "%s/tokenizer_config.json", path);
    test_write_file(to, config, sizeof config - 1);
    return path;
}

/* _i: number of the scenario. */
START_TEST(everything_fails_in_turn)
{
    struct scenario scenario = scenarios[_i];
    static struct outcome expected;
    size_t descriptors = count_descriptors();
    long by_call[FAULT_CALLS] = {0}, total = 0;
    if (scenario.run == tokenize)
        scenario.directory = tokenizer_directory(scenario.directory);
    expect(&scenario, &expected);
    for (size_t kind = 0; kind < N_KINDS; kind++)
        by_call[kinds[kind].fault.call] += inject_all(&scenario, kind, &expected, descriptors);
    printf("faults: %s:", scenario.name);
    for (size_t call = 0; call < FAULT_CALLS; call++) {
        total += by_call[call];
        if (by_call[call] > 0)
            printf(" %s %ld,", fault_call_name((enum fault_call)call), by_call[call]);
    }
    printf(" together %ld\n", total);
    /* going back to what is kept asks for nothing */
    ck_assert(total > 0 || scenario.run == rewind_to_mark || scenario.run == rewind_steps);
    if (scenario.run == tokenize) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", scenario.directory, scenarios[_i].directory);
        remove(path);
    }
}
END_TEST

/* Giving back asks for nothing, so that nothing can fail. */
START_TEST(releasing_needs_nothing)
{
    static const struct scenario scenario = {"free", with_everything, release_everything, NULL,
                                             "tests/data/variants/no_rope", HYMBA_MODEL_NO_MAP,
                                             false};
    size_t descriptors = count_descriptors();
    for (size_t kind = 0; kind < N_KINDS; kind++) {
        struct world world;
        struct fault fault = kinds[kind].fault;
        if (fault.manner != FAULT_EVER_AFTER)
            continue;
        open_world(&world, &scenario);
        arm(&world, &fault);
        test_status(scenario.run(&world), HYMBA_OK, error);
        long seen = fault.call == FAULT_HOST ? world.host.n_allocations : fault_seen();
        disarm(&world, &fault);
        ck_assert_msg(seen == 0, "releasing calls %s", fault_call_name(fault.call));
        close_world(&world, descriptors);
    }
    printf("faults: free: nothing to fail: no allocation, file or thread is asked for\n");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("faults");
    TCase *tests = tcase_create("faults");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, open_shared_model, release_shared_model);
    tcase_add_loop_test(tests, everything_fails_in_turn, 0, N_SCENARIOS);
    tcase_add_test(tests, releasing_needs_nothing);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
