/*
 * A program as it was written against the first release's hymba.h, which lies beside it: it calls
 * every function and uses every struct that header has. check_first_release.sh compiles it with
 * that header, links it with the library of today, and runs it:
 *
 *     every_function MODEL_DIRECTORY EMPTY_DIRECTORY
 *
 * It expects only what that header promises. Once 0.1.0 is released, neither file is changed.
 */
#include <hymba.h> /* not "hymba.h", which would be the one beside this file */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                         \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "line %d: %s does not hold (%s)\n", __LINE__, #condition,             \
                    error.message);                                                               \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)
#define OK(call) EXPECT((call) == HYMBA_OK)

enum { N_TOKENS = 6, N_BYTES = 1 << 16 };

static hymba_error error;
static hymba_host host;
static long n_allocated, n_logged, n_reported;
static int32_t tokens[N_TOKENS];
static char text[N_BYTES];

/* -------------------------------------------------------------------- hooks */

static void *host_alloc(void *user, size_t size, size_t alignment)
{
    void *pointer = NULL;
    EXPECT(user == &host && size > 0);
    if (posix_memalign(&pointer, alignment < sizeof pointer ? sizeof pointer : alignment, size))
        return NULL;
    __atomic_add_fetch(&n_allocated, 1, __ATOMIC_SEQ_CST);
    return pointer;
}

static void host_free(void *user, void *pointer, size_t size, size_t alignment)
{
    (void)size;
    (void)alignment;
    EXPECT(user == &host);
    __atomic_sub_fetch(&n_allocated, 1, __ATOMIC_SEQ_CST);
    free(pointer);
}

static void host_log(void *user, int32_t level, const char *message, size_t length)
{
    EXPECT(user == &host && level >= HYMBA_LOG_ERROR && strlen(message) == length);
    n_logged++;
}

static int32_t host_progress(void *user, int32_t phase, uint64_t done, uint64_t total)
{
    EXPECT(user == &host && phase >= HYMBA_PHASE_LOAD && (total == 0 || done <= total));
    n_reported++;
    return 0;
}

/* ---------------------------------------------------------- without a model */

static void use_names(void)
{
    int major, minor, patch;
    EXPECT(sscanf(hymba_version_string(), "%d.%d.%d", &major, &minor, &patch) == 3);
    EXPECT(hymba_version_number() == (uint32_t)(major * 1000000 + minor * 1000 + patch));
    EXPECT(hymba_version_number() >= HYMBA_VERSION_MAJOR * 1000000 + HYMBA_VERSION_MINOR * 1000 +
                                         HYMBA_VERSION_PATCH);
    EXPECT(hymba_abi_version() == HYMBA_ABI);
    EXPECT(strcmp(hymba_status_name(HYMBA_ERROR_FILE), "HYMBA_ERROR_FILE") == 0);
    EXPECT(hymba_status_description(HYMBA_ERROR_BUSY)[0] != '\0');
    EXPECT(strcmp(hymba_dtype_name(HYMBA_DTYPE_BF16), "bf16") == 0);
    EXPECT(hymba_dtype_from_name("f16") == HYMBA_DTYPE_F16);
    EXPECT(hymba_dtype_size(HYMBA_DTYPE_F32) == 4);
    EXPECT(strcmp(hymba_compute_name(HYMBA_COMPUTE_BF16), "bf16") == 0);
    EXPECT(hymba_compute_from_name("int8") == HYMBA_COMPUTE_INT8);
    EXPECT(strcmp(hymba_stop_name(HYMBA_STOP_LENGTH), "length") == 0);
}

/* Weights rounded into a directory of their own, and while a model is opened. */
static void use_quantised(const char *directory)
{
    static char output[N_BYTES + 8];
    hymba_quantize_params quantize;
    hymba_model_params params;
    hymba_model_info info = {.struct_size = sizeof info};
    hymba_model *model;
    hymba_quantize_params_init(&quantize, sizeof quantize);
    quantize.type = HYMBA_DTYPE_INT4;
    quantize.group_size = 32;
    quantize.method = HYMBA_QUANTIZE_PLAIN;
    quantize.n_threads = 1;
    quantize.tokens = NULL;
    quantize.n_tokens = 0;
    quantize.host = &host;
    snprintf(output, sizeof output, "%s-int4", directory);
    OK(hymba_quantize(directory, output, &quantize, &error));
    hymba_model_params_init(&params, sizeof params);
    params.quantize = HYMBA_DTYPE_INT8;
    params.reserved2 = 0;
    EXPECT(hymba_model_open(output, &params, &model, &error) == HYMBA_ERROR_ARGUMENT);
    OK(hymba_model_open(directory, &params, &model, &error));
    OK(hymba_model_get_info(model, &info, &error));
    EXPECT(info.projection_dtype == HYMBA_DTYPE_INT8 && info.group_size >= 32);
    EXPECT(info.projection_parameters > 0 && info.pass_bytes <= info.weight_bytes);
    hymba_model_release(model);
}

static void use_presets(const char *directory)
{
    static char config[N_BYTES];
    hymba_init_params init;
    hymba_model_params params;
    hymba_memory_file file = {"config.json", config, 0};
    hymba_model *model;
    EXPECT(hymba_preset_count() >= 1);
    EXPECT(hymba_preset_name(0) != NULL && hymba_preset_name(hymba_preset_count()) == NULL);
    OK(hymba_preset_config(hymba_preset_name(0), config, sizeof config, &file.size, &error));
    hymba_model_params_init(&params, sizeof params);
    params.flags = HYMBA_MODEL_NO_WEIGHTS | HYMBA_MODEL_NO_TOKENIZER;
    params.host = &host;
    params.memory_limit = 1 << 24;
    OK(hymba_model_open_memory(&file, sizeof file, 1, &params, &model, &error));
    hymba_model_release(model);
    hymba_init_params_init(&init, sizeof init);
    init.seed = 3;
    init.dtype = HYMBA_DTYPE_BF16;
    init.host = &host;
    snprintf(text, sizeof text, "%s/model", directory);
    OK(hymba_model_init(text, config, file.size, &init, &error));
    OK(hymba_model_open(text, NULL, &model, &error));
    hymba_model_release(model);
    use_quantised(text);
}

/* ---------------------------------------------------------------- tokenizer */

static void use_text_stream(hymba_tokenizer *tokenizer, size_t n, const char *expected)
{
    hymba_text_stream *stream;
    const char *piece;
    size_t length;
    OK(hymba_text_stream_create(tokenizer, &stream, &error));
    OK(hymba_text_stream_push(stream, tokens[0], &piece, &length, &error));
    hymba_text_stream_reset(stream);
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        OK(hymba_text_stream_push(stream, tokens[i], &piece, &length, &error));
        EXPECT(strlen(piece) == length);
        strcat(text, piece);
    }
    OK(hymba_text_stream_finish(stream, &piece, &length, &error));
    strcat(text, piece);
    EXPECT(strcmp(text, expected) == 0);
    hymba_text_stream_release(stream);
}

static void use_tokenizer(const char *directory, hymba_tokenizer *of_model)
{
    static const char words[] = "a dog and";
    static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}";
    static char decoded[N_BYTES];
    hymba_tokenizer *tokenizer;
    const char *piece;
    size_t n, length;
    OK(hymba_tokenizer_open(directory, &host, &tokenizer, &error));
    EXPECT(hymba_tokenizer_retain(tokenizer) == tokenizer);
    hymba_tokenizer_release(tokenizer);
    EXPECT(hymba_tokenizer_vocabulary_size(tokenizer) ==
           hymba_tokenizer_vocabulary_size(of_model));
    EXPECT(hymba_tokenizer_bos(tokenizer) >= -1 && hymba_tokenizer_eos(tokenizer) >= -1);
    EXPECT(hymba_tokenizer_adds_bos(tokenizer) == 0 || hymba_tokenizer_adds_bos(tokenizer) == 1);
    OK(hymba_tokenizer_encode(tokenizer, words, HYMBA_NUL_TERMINATED, 0, NULL, 0, &n, &error));
    EXPECT(n >= 1 && n <= N_TOKENS);
    OK(hymba_tokenizer_encode(tokenizer, words, strlen(words), 0, tokens, N_TOKENS, &n, &error));
    OK(hymba_tokenizer_decode(tokenizer, tokens, n, HYMBA_DECODE_SPECIAL, decoded, sizeof decoded,
                              &length, &error));
    decoded[length] = '\0';
    EXPECT(strcmp(decoded, words) == 0);
    use_text_stream(tokenizer, n, decoded);
    OK(hymba_tokenizer_piece(tokenizer, tokens[0], &piece, &length, &error));
    EXPECT(length > 0 && piece != NULL);
    hymba_status status = hymba_tokenizer_render_chat(tokenizer, chat, strlen(chat), text,
                                                      sizeof text, &length, &error);
    EXPECT(status == (hymba_tokenizer_has_chat_template(tokenizer) ? HYMBA_OK
                                                                   : HYMBA_ERROR_MISSING));
    hymba_tokenizer_release(tokenizer);
}

/* -------------------------------------------------------- model and context */

static hymba_model *use_model(const char *directory, hymba_model_info *info)
{
    hymba_model_params params;
    hymba_layer_info layer = {.struct_size = sizeof layer};
    hymba_model *model;
    hymba_model_params_init(&params, sizeof params);
    params.host = &host;
    EXPECT(hymba_model_open("no/such/model", &params, &model, &error) == HYMBA_ERROR_FILE);
    EXPECT(model == NULL && error.status == HYMBA_ERROR_FILE && error.message[0] != '\0');
    EXPECT(error.system_code != 0 && error.position >= -1);
    OK(hymba_model_open(directory, &params, &model, &error));
    EXPECT(hymba_model_retain(model) == model);
    hymba_model_release(model);
    info->struct_size = sizeof *info;
    OK(hymba_model_get_info(model, info, &error));
    EXPECT(info->vocabulary_size > 0 && info->n_layers > 0 && info->hidden_size > 0);
    EXPECT(info->n_parameters > 0 && info->weight_bytes > 0 && info->rms_norm_epsilon > 0);
    EXPECT(hymba_dtype_name(info->weight_dtype) != NULL);
    for (uint32_t i = 0; i < info->n_layers; i++) {
        OK(hymba_model_get_layer_info(model, i, &layer, &error));
        EXPECT(layer.attention >= HYMBA_ATTENTION_NONE && layer.ssm >= HYMBA_SSM_NONE);
        EXPECT(layer.fusion >= HYMBA_FUSION_NONE && layer.ffn >= HYMBA_FFN_NONE);
        EXPECT(layer.kv_layer < (int32_t)info->n_layers);
        EXPECT((layer.window > 0) == (layer.attention == HYMBA_ATTENTION_WINDOW));
    }
    EXPECT(hymba_model_fingerprint(model) != 0 && hymba_model_fingerprint(NULL) == 0);
    return model;
}

/* An executor of the program's own: one part after another. */
static void run_parts(void *user, void (*part)(void *argument, uint32_t index), void *argument,
                      uint32_t n_parts)
{
    EXPECT(user == &host && n_parts >= 2);
    for (uint32_t i = 0; i < n_parts; i++)
        part(argument, i);
}

static void use_executor(hymba_model *model)
{
    hymba_context_params params = {.struct_size = sizeof params};
    hymba_executor executor;
    hymba_context *context;
    hymba_executor_init(&executor, sizeof executor);
    executor.user = &host;
    executor.n_threads = 2;
    executor.reserved = 0;
    executor.run = run_parts;
    params.executor = &executor;
    OK(hymba_context_create(model, &params, &context, &error));
    hymba_context_release(context);
}

/* One rank, as a launcher of processes would start it; and, where there are devices, an id. */
static void use_ranks(hymba_model *model)
{
    hymba_context_params params = {.struct_size = sizeof params};
    hymba_context_info info = {.struct_size = sizeof info};
    hymba_ranks ranks;
    hymba_context *context;
    unsigned char id[HYMBA_UNIQUE_ID_BYTES];
    char meeting[64];
    size_t needed = 0;
    setenv("RANK", "0", 1);
    setenv("WORLD_SIZE", "1", 1);
    setenv("LOCAL_RANK", "0", 1);
    setenv("HYMBA_MEETING", "tcp://127.0.0.1:29511", 1);
    hymba_ranks_init(&ranks, sizeof ranks);
    ranks.timeout_ms = 1000;
    OK(hymba_ranks_from_environment(&ranks, meeting, sizeof meeting, &needed, &error));
    EXPECT(needed == strlen(meeting) + 1 && ranks.meeting == meeting);
    EXPECT(ranks.rank == 0 && ranks.world_size == 1 && ranks.local_rank == 0);
    ranks.unique_id = id;
    params.ranks = &ranks;
    OK(hymba_context_create(model, &params, &context, &error));
    OK(hymba_context_get_info(context, &info, &error));
    EXPECT(info.rank == 0 && info.world_size == 1);
    hymba_context_release(context);
    hymba_status status = hymba_unique_id(id, &error);
    EXPECT(status == HYMBA_OK || status == HYMBA_ERROR_DEVICE ||
           status == HYMBA_ERROR_UNSUPPORTED);
}

static hymba_context *use_context(hymba_model *model)
{
    hymba_context_params params;
    hymba_context_info info = {.struct_size = sizeof info};
    hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = 100};
    hymba_context *context;
    hymba_context_params_init(&params, sizeof params);
    params.device = "cpu";
    params.cpu = "generic";
    params.n_threads = 2;
    params.max_step_tokens = 4;
    params.cache_type = HYMBA_DTYPE_F16;
    params.state_type = HYMBA_DTYPE_F32;
    params.compute = HYMBA_COMPUTE_F32;
    params.rewind_tokens = 2;
    params.memory_limit = 1 << 30;
    params.host = &host;
    OK(hymba_model_get_memory_info(model, &params, &memory, &error));
    EXPECT(memory.n_tokens == 100 && memory.weight_bytes > 0 && memory.workspace_bytes > 0);
    EXPECT(memory.total_bytes ==
           memory.meta_bytes + memory.kv_bytes + memory.conv_bytes + memory.ssm_bytes);
    OK(hymba_context_create(model, &params, &context, &error));
    EXPECT(hymba_context_retain(context) == context);
    hymba_context_release(context);
    OK(hymba_context_get_info(context, &info, &error));
    EXPECT(strcmp(info.device, "cpu") == 0 && strcmp(info.cpu, "generic") == 0);
    EXPECT(info.n_threads >= 1 && info.max_step_tokens == 4 && info.workspace_bytes > 0);
    EXPECT(info.cache_type == HYMBA_DTYPE_F16 && info.state_type == HYMBA_DTYPE_F32);
    EXPECT(info.compute == HYMBA_COMPUTE_F32);
    double rate = 0;
    use_executor(model);
    use_ranks(model);
    OK(hymba_context_measure_products(context, &rate, &error));
    EXPECT(rate > 0);
    EXPECT(hymba_context_measure_bandwidth(context, 1 << 20, &rate, &error)
           == HYMBA_ERROR_UNSUPPORTED);
    hymba_context_cancel(context); /* nothing runs */
    return context;
}

/* ----------------------------------------------------------------- sessions */

static void use_batch(hymba_context *context, hymba_session *session, uint32_t vocabulary)
{
    hymba_reuse_info reuse = {.struct_size = sizeof reuse};
    hymba_batch_item items[2] = {
        {.tokens = tokens, .n_tokens = 2, .logits = HYMBA_LOGITS_LAST},
        {.tokens = tokens, .n_tokens = 1, .logits = HYMBA_LOGITS_ALL},
    };
    const float *logits;
    float scores[2];
    size_t rows;
    int32_t token = -1;
    OK(hymba_session_fork(session, &items[0].session, &reuse, &error));
    EXPECT(reuse.reused_tokens == hymba_session_length(session) && reuse.computed_tokens == 0);
    OK(hymba_session_fork(session, &items[1].session, NULL, &error));
    hymba_kernel_time times[64];
    OK(hymba_context_measure_kernels(context, 1, &error));
    OK(hymba_sampler_create(NULL, NULL, &items[0].sampler, &error));
    items[0].token = &token;
    OK(hymba_context_decode(context, items, sizeof items[0], 2, &error));
    EXPECT(token >= 0 && (uint32_t)token < vocabulary);
    hymba_sampler_release(items[0].sampler);
    OK(hymba_context_kernel_times(context, times, sizeof times[0], 64, &rows, &error));
    EXPECT(rows >= 1 && strcmp(times[0].name, "step") == 0 && times[0].calls == 1);
    EXPECT(times[0].seconds > 0 && times[0].bytes > 0 && times[0].operations > 0);
    OK(hymba_context_measure_kernels(context, 0, &error));
    OK(hymba_session_logits(items[1].session, &logits, &rows, &error));
    EXPECT(rows == 1 && isfinite(logits[0]) && isfinite(logits[vocabulary - 1]));
    OK(hymba_session_score(items[0].session, tokens, 2, scores, &error));
    EXPECT(scores[0] <= 0 && scores[1] <= 0);
    EXPECT(hymba_session_length(items[0].session) == hymba_session_length(session) + 4);
    hymba_session_release(items[0].session);
    hymba_session_release(items[1].session);
}

static void use_snapshots(hymba_session *session)
{
    hymba_reuse_info reuse = {.struct_size = sizeof reuse};
    hymba_snapshot_info found = {.struct_size = sizeof found}, listed = found;
    hymba_session_info info = {.struct_size = sizeof info};
    uint64_t length = hymba_session_length(session);
    OK(hymba_session_snapshot(session, "mark", &reuse, &error));
    EXPECT(hymba_session_snapshot_count(session) == 1);
    OK(hymba_session_get_snapshot(session, 0, &listed, &error));
    OK(hymba_session_find_snapshot(session, "mark", &found, &error));
    EXPECT(memcmp(&listed, &found, sizeof found) == 0 && strcmp(found.name, "mark") == 0);
    EXPECT(found.length == length && found.bytes > 0 && !found.automatic && found.has_logits);
    OK(hymba_session_append(session, tokens, 3, HYMBA_LOGITS_NONE, &error));
    OK(hymba_session_rewind(session, length, HYMBA_REWIND_KEPT, &reuse, &error));
    EXPECT(reuse.computed_tokens == 0);
    OK(hymba_session_rewind(session, length, HYMBA_REWIND_COMPUTE, &reuse, &error));
    EXPECT(hymba_session_length(session) == length);
    OK(hymba_session_get_info(session, &info, &error));
    EXPECT(info.length == length && info.max_tokens == 1000 && info.n_snapshots == 1);
    EXPECT(info.first_visible == 0 && info.rewind_length <= length && info.memory_bytes > 0);
    EXPECT(info.snapshot_bytes > 0 && info.shared_bytes <= info.memory_bytes);
    EXPECT(info.limit_policy == HYMBA_LIMIT_ERROR && info.capabilities & HYMBA_CAN_FORK);
    EXPECT(!(info.capabilities & HYMBA_CAN_REMOVE_TOKENS));
    OK(hymba_session_drop_snapshot(session, length, &error));
    EXPECT(hymba_session_snapshot_count(session) == 0);
}

static struct {
    char bytes[1 << 24];
    size_t size;
} saved;

static int32_t keep(void *user, const void *data, size_t size)
{
    EXPECT(user == &saved);
    if (size > sizeof saved.bytes - saved.size)
        return 1;
    memcpy(saved.bytes + saved.size, data, size);
    saved.size += size;
    return 0;
}

static void check_loaded(hymba_session *loaded, hymba_sampler *with, const hymba_session *session)
{
    uint64_t length = hymba_session_length(session);
    EXPECT(hymba_session_length(loaded) == length && with != NULL);
    EXPECT(memcmp(hymba_session_tokens(loaded), hymba_session_tokens(session),
                  length * sizeof(int32_t)) == 0);
    hymba_sampler_release(with);
    hymba_session_release(loaded);
}

static void use_files(hymba_context *context, hymba_session *session, hymba_sampler *sampler,
                      const char *directory)
{
    hymba_reuse_info reuse = {.struct_size = sizeof reuse};
    hymba_session_params params;
    hymba_session *loaded;
    hymba_sampler *with;
    hymba_session_params_init(&params, sizeof params);
    snprintf(text, sizeof text, "%s/session", directory);
    OK(hymba_session_save(session, sampler, text, &reuse, &error));
    EXPECT(reuse.copied_bytes > 0);
    OK(hymba_session_load(context, text, &params, &loaded, &with, &reuse, &error));
    EXPECT(reuse.computed_tokens == 0);
    check_loaded(loaded, with, session);
    OK(hymba_session_save_to(session, sampler, keep, &saved, &reuse, &error));
    OK(hymba_session_load_memory(context, saved.bytes, saved.size, NULL, &loaded, &with, &reuse,
                                 &error));
    check_loaded(loaded, with, session);
}

static hymba_session *use_session(hymba_context *context, uint32_t vocabulary)
{
    hymba_session_params params;
    hymba_session *session;
    const float *logits;
    size_t rows;
    hymba_session_params_init(&params, sizeof params);
    params.max_tokens = 1000;
    params.reserve_tokens = 10;
    params.limit_policy = HYMBA_LIMIT_ERROR;
    params.snapshot_interval = 500;
    params.snapshot_budget = 1 << 24;
    params.memory_limit = 1 << 28;
    OK(hymba_session_create(context, &params, &session, &error));
    EXPECT(hymba_session_retain(session) == session);
    hymba_session_release(session);
    OK(hymba_session_append(session, tokens, 2, HYMBA_LOGITS_NONE, &error));
    OK(hymba_session_reset(session, &error));
    OK(hymba_session_reserve(session, 100, &error));
    EXPECT(hymba_session_length(session) == 0);
    OK(hymba_session_append(session, tokens, 3, HYMBA_LOGITS_ALL, &error));
    OK(hymba_session_logits(session, &logits, &rows, &error));
    EXPECT(rows == 3 && isfinite(logits[3 * vocabulary - 1]));
    EXPECT(hymba_session_length(session) == 3);
    EXPECT(memcmp(hymba_session_tokens(session), tokens, 3 * sizeof tokens[0]) == 0);
    return session;
}

/* --------------------------------------------------- sampler and generation */

static int32_t process(void *user, const int32_t *candidates, float *logits, size_t n)
{
    EXPECT(user == &host && candidates != NULL && n > 0);
    logits[0] += 1;
    return 0;
}

static void use_custom_stage(const float *logits, size_t n)
{
    static const int32_t breakers[] = {1};
    hymba_logit_bias bias = {.token = 2, .bias = -INFINITY};
    hymba_sampler_params params;
    hymba_sampler *sampler;
    int32_t token;
    hymba_sampler_params_init(&params, sizeof params);
    params.seed = 9;
    params.temperature = 0.7f;
    params.top_k = 30;
    params.top_p = 0.95f;
    params.min_p = 0.01f;
    params.repeat_penalty = 1.1f;
    params.repeat_last_n = -1;
    params.presence_penalty = 0.1f;
    params.frequency_penalty = 0.1f;
    params.typical_p = 0.9f;
    params.top_n_sigma = 5;
    params.xtc_probability = 0.5f;
    params.xtc_threshold = 0.2f;
    params.dry_multiplier = 0.8f;
    params.dry_base = 1.75f;
    params.dry_allowed_length = 2;
    params.dry_penalty_last_n = -1;
    params.dry_breakers = breakers;
    params.n_dry_breakers = 1;
    params.mirostat = 2;
    params.mirostat_tau = 4;
    params.mirostat_eta = 0.2f;
    params.logit_bias = &bias;
    params.n_logit_bias = 1;
    params.order = "custom;penalties;dry;temperature";
    params.process = process;
    params.process_user = &host;
    OK(hymba_sampler_create(&params, &host, &sampler, &error));
    OK(hymba_sampler_sample(sampler, logits, n, &token, &error));
    EXPECT(token >= 0 && (size_t)token < n && token != 2);
    hymba_sampler_release(sampler);
}

static void use_log_probabilities(const float *logits, size_t n)
{
    hymba_token_probability top[3];
    float best;
    OK(hymba_log_probabilities(logits, n, 0, NULL, top, 3, &error));
    OK(hymba_log_probabilities(logits, n, top[0].token, &best, NULL, 0, &error));
    EXPECT(best == top[0].log_probability && top[1].log_probability <= best && best <= 0);
}

static hymba_sampler *use_sampler(const float *logits, size_t n)
{
    hymba_sampler_params params;
    hymba_sampler *sampler, *restored;
    int32_t token, again;
    size_t size;
    hymba_sampler_params_init(&params, sizeof params);
    params.seed = 5;
    params.temperature = 0.9f;
    OK(hymba_sampler_create(&params, NULL, &sampler, &error));
    EXPECT(hymba_sampler_retain(sampler) == sampler);
    hymba_sampler_release(sampler);
    OK(hymba_sampler_accept(sampler, 3, &error));
    hymba_sampler_reset(sampler);
    OK(hymba_sampler_state(sampler, text, sizeof text, &size, &error));
    OK(hymba_sampler_restore(text, size, &host, &restored, &error));
    OK(hymba_sampler_sample(sampler, logits, n, &token, &error));
    OK(hymba_sampler_sample(restored, logits, n, &again, &error));
    EXPECT(token == again);
    hymba_sampler_release(restored);
    return sampler;
}

static void check_token(const hymba_event *event, uint64_t n_tokens)
{
    EXPECT(event->kind == HYMBA_EVENT_TOKEN && event->stop == HYMBA_STOP_NONE);
    EXPECT(event->token >= 0 && event->n_top == 2 && event->log_probability <= 0);
    EXPECT(event->top[0].log_probability >= event->top[1].log_probability);
    EXPECT(strlen(event->text) == event->length && n_tokens < 4);
}

static void use_generation(hymba_session *session, hymba_sampler *sampler,
                           hymba_tokenizer *tokenizer)
{
    static const char *const stops[] = {"never to be seen"};
    hymba_generation_params params;
    hymba_generation *generation;
    hymba_event event = {.struct_size = sizeof event};
    uint64_t n_tokens = 0;
    hymba_generation_params_init(&params, sizeof params);
    params.max_tokens = 4;
    params.stop_strings = stops;
    params.n_stop_strings = 1;
    params.flags = HYMBA_GENERATION_IGNORE_EOS | HYMBA_GENERATION_LOG_PROBABILITIES;
    params.n_top = 2;
    OK(hymba_generation_create(session, sampler, tokenizer, &params, &generation, &error));
    for (;; n_tokens++) {
        OK(hymba_generation_next(generation, &event, &error));
        if (event.kind == HYMBA_EVENT_END)
            break;
        check_token(&event, n_tokens);
    }
    EXPECT(n_tokens == 4 && event.stop == HYMBA_STOP_LENGTH && event.token == -1);
    hymba_generation_release(generation);
    OK(hymba_session_append(session, tokens, 1, HYMBA_LOGITS_LAST, &error));
    OK(hymba_generation_create(session, sampler, tokenizer, &params, &generation, &error));
    hymba_generation_cancel(generation);
    OK(hymba_generation_next(generation, &event, &error));
    EXPECT(event.kind == HYMBA_EVENT_END && event.stop == HYMBA_STOP_CANCELLED);
    hymba_generation_release(generation);
}

/* A request that generates, one that is cancelled. */
static void use_scheduler(hymba_context *context, hymba_session *session, hymba_sampler *sampler)
{
    hymba_scheduler_params params;
    hymba_request_params request;
    hymba_generation_params limits = {.struct_size = sizeof limits, .max_tokens = 2,
                                      .flags = HYMBA_GENERATION_IGNORE_EOS};
    hymba_scheduler *scheduler;
    hymba_session *other;
    hymba_request_event events[2];
    uint64_t numbers[2], n_tokens = 0;
    size_t n;
    hymba_scheduler_params_init(&params, sizeof params);
    hymba_request_params_init(&request, sizeof request);
    params.max_requests = 2;
    request.generation = &limits;
    request.user = events;
    EXPECT(hymba_scheduler_create(context, 0, &params, &scheduler, &error) ==
           HYMBA_ERROR_ARGUMENT);
    OK(hymba_scheduler_create(context, 8, &params, &scheduler, &error));
    EXPECT(hymba_scheduler_retain(scheduler) == scheduler);
    hymba_scheduler_release(scheduler);
    OK(hymba_session_create(context, NULL, &other, &error));
    OK(hymba_scheduler_add(scheduler, session, sampler, tokens, 2, &request, &numbers[0],
                           &error));
    OK(hymba_scheduler_add(scheduler, other, NULL, tokens, 2, NULL, &numbers[1], &error));
    hymba_session_release(other);
    hymba_scheduler_cancel(scheduler, numbers[1]);
    while (hymba_scheduler_count(scheduler) > 0) {
        OK(hymba_scheduler_step(scheduler, events, sizeof events[0], 2, &n, &error));
        for (size_t i = 0; i < n; i++) {
            int cancelled = events[i].request == numbers[1];
            n_tokens += events[i].kind == HYMBA_EVENT_TOKEN;
            EXPECT(events[i].kind != HYMBA_EVENT_FAILED && events[i].status == HYMBA_OK);
            EXPECT(cancelled || (events[i].request == numbers[0] && events[i].user == events));
            EXPECT(events[i].kind != HYMBA_EVENT_END ||
                   events[i].stop == (cancelled ? HYMBA_STOP_CANCELLED : HYMBA_STOP_LENGTH));
        }
    }
    EXPECT(n_tokens == 2);
    hymba_scheduler_release(scheduler);
}

/* --------------------------------------------------------------------- main */

static void use_everything(const char *model_directory, const char *directory)
{
    hymba_model_info info;
    hymba_model *model = use_model(model_directory, &info);
    hymba_tokenizer *tokenizer = hymba_model_tokenizer(model);
    const float *logits;
    size_t rows;
    use_tokenizer(model_directory, tokenizer);
    hymba_context *context = use_context(model);
    hymba_session *session = use_session(context, info.vocabulary_size);
    use_batch(context, session, info.vocabulary_size);
    use_snapshots(session);
    OK(hymba_session_append(session, tokens, 1, HYMBA_LOGITS_LAST, &error));
    OK(hymba_session_logits(session, &logits, &rows, &error));
    hymba_sampler *sampler = use_sampler(logits, info.vocabulary_size);
    use_custom_stage(logits, info.vocabulary_size);
    use_log_probabilities(logits, info.vocabulary_size);
    use_files(context, session, sampler, directory);
    use_generation(session, sampler, tokenizer);
    use_scheduler(context, session, sampler);
    hymba_model_release(model);
    hymba_context_release(context);
    hymba_sampler_release(sampler);
    hymba_session_release(session);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    hymba_error_init(&error, sizeof error);
    hymba_host_init(&host, sizeof host);
    host.user = &host;
    host.alloc = host_alloc;
    host.free = host_free;
    host.log = host_log;
    host.progress = host_progress;
    use_names();
    use_presets(argv[2]);
    use_everything(argv[1], argv[2]);
    EXPECT(n_allocated == 0 && n_logged > 0 && n_reported > 0);
    puts("every function of the first release works");
    return 0;
}
