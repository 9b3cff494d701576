/*
 * Model directories that somebody means ill with: those of tests/data/hostile, one for each flaw
 * that loaders are known to have, and every prefix and every bit flip of a tiny model. The answer
 * is an error that says which file and what, or a model that runs.
 */
#include "hostile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ flaws */

enum { MAX_WORDS = 6 };

/* A line of cases.tsv. */
struct flaw {
    char *name, *kind, *status;
    char *words[MAX_WORDS];
    size_t n_words;
};

static struct test_host host;
static hymba_error error;

static void setup(void)
{
    test_host_init(&host);
    hymba_error_init(&error, sizeof error);
}

static hymba_status status_of(const char *name)
{
    static const hymba_status known[] = {HYMBA_ERROR_FORMAT, HYMBA_ERROR_UNSUPPORTED};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(hymba_status_name(known[i]) + strlen("HYMBA_ERROR_"), name) == 0)
            return known[i];
    ck_abort_msg("cases.tsv names the status %s", name);
    return HYMBA_OK;
}

static void check_refusal(const struct flaw *flaw, hymba_status status)
{
    ck_assert_msg(status == status_of(flaw->status), "%s gave %s (%s), expected %s", flaw->name,
                  hymba_status_name(status), status == HYMBA_OK ? "" : error.message,
                  flaw->status);
    ck_assert_int_eq(error.status, status);
    for (size_t i = 0; i < flaw->n_words; i++)
        ck_assert_msg(strstr(error.message, flaw->words[i]) != NULL,
                      "%s: \"%s\" does not hold \"%s\"", flaw->name, error.message,
                      flaw->words[i]);
}

static const char *folder_of(const struct flaw *flaw)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", test_data("hostile"), flaw->name);
    return path;
}

/* The files of the flaw, and of the golden model what it has not. */
static void refuse_model(const struct flaw *flaw)
{
    static const char *const names[] = {"config.json", "model.safetensors",
                                        "model.safetensors.index.json"};
    struct hostile_files files = {.n = 0};
    bool is_index = strcmp(flaw->kind, "shards") == 0;
    hymba_model *model = (hymba_model *)&files;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (hostile_add_file(&files, folder_of(flaw), names[i]))
            continue;
        if (i == 0 || (i == 1 && !is_index))
            ck_assert(hostile_add_file(&files, test_data("variants/no_rope"), names[i]));
    }
    hymba_status status = hostile_open(&files, &host.host, &model, &error);
    check_refusal(flaw, status);
    ck_assert_ptr_null(model);
    hostile_free(&files);
}

static void refuse_tokenizer(const struct flaw *flaw)
{
    hymba_tokenizer *tokenizer = (hymba_tokenizer *)&host;
    hymba_status status =
        hymba_tokenizer_open(folder_of(flaw), &host.host, &tokenizer, &error);
    check_refusal(flaw, status);
    ck_assert_ptr_null(tokenizer);
}

static void refuse_chat(const struct flaw *flaw)
{
    static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}";
    hymba_tokenizer *tokenizer;
    size_t needed;
    test_status(hymba_tokenizer_open(folder_of(flaw), &host.host, &tokenizer, &error), HYMBA_OK,
                error);
    hymba_status status = hymba_tokenizer_render_chat(tokenizer, chat, sizeof chat - 1, NULL, 0,
                                                      &needed, &error);
    check_refusal(flaw, status);
    hymba_tokenizer_release(tokenizer);
}

/* The next part of a line, up to a tab; NULL at the end. */
static char *next_part(char **line)
{
    char *part = *line;
    if (!part)
        return NULL;
    *line = strchr(part, '\t');
    if (*line)
        *(*line)++ = '\0';
    return part;
}

static struct flaw read_flaw(char *line)
{
    struct flaw flaw = {.name = next_part(&line)};
    flaw.kind = next_part(&line);
    flaw.status = next_part(&line);
    ck_assert_ptr_nonnull(flaw.status);
    while (line) {
        ck_assert_uint_lt(flaw.n_words, MAX_WORDS);
        flaw.words[flaw.n_words++] = next_part(&line);
    }
    return flaw;
}

START_TEST(every_known_flaw_is_refused_by_name)
{
    char path[300];
    size_t count = 0;
    snprintf(path, sizeof path, "%s/cases.tsv", test_data("hostile"));
    char *cases = test_read_file(path, NULL);
    for (char *line = cases, *next; *line; line = next) {
        next = strchr(line, '\n');
        ck_assert_ptr_nonnull(next);
        *next++ = '\0';
        struct flaw flaw = read_flaw(line);
        if (strcmp(flaw.kind, "tokenizer") == 0)
            refuse_tokenizer(&flaw);
        else if (strcmp(flaw.kind, "chat") == 0)
            refuse_chat(&flaw);
        else
            refuse_model(&flaw);
        test_host_check(&host);
        count++;
    }
    ck_assert_uint_ge(count, 90);
    hostile_report("flaws refused by name", count);
    free(cases);
}
END_TEST

/* ------------------------------------------------------- a whole tiny model */

static const char config_text[] =
    "{\"model_type\": \"hymba\", \"vocab_size\": 12, \"hidden_size\": 8,\n"
    "\"intermediate_size\": 6, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,\n"
    "\"num_key_value_heads\": 1, \"num_memory_tokens\": 2, \"sliding_window\": 3,\n"
    "\"global_attn_idx\": [1], \"kv_reuse_group\": null, \"rms_norm_eps\": 1e-06,\n"
    "\"tie_word_embeddings\": true, \"mamba_d_state\": 2, \"mamba_d_conv\": 2,\n"
    "\"mamba_dt_rank\": 1, \"max_position_embeddings\": 640, \"bos_token_id\": 1}\n";

enum { N_TOKENS = 5, VOCABULARY = 12, CONFIG = 0, WEIGHTS = 1 };

/* The tiny model's two files, in blocks of just their size. */
static struct hostile_files tiny;
static float expected[VOCABULARY];
static char directory[300];

/* Some tokens through the model; the last one's logits. */
static void run(hymba_model *model, float *logits)
{
    static const int32_t tokens[N_TOKENS] = {1, 7, 3, 11, 2};
    hymba_model_info info = {.struct_size = sizeof info};
    hymba_context_params params = {
        .struct_size = sizeof params, .n_threads = 1, .max_step_tokens = 4};
    hymba_context *context;
    hymba_session *session;
    const float *found;
    size_t rows;
    test_status(hymba_model_get_info(model, &info, &error), HYMBA_OK, error);
    ck_assert_uint_eq(info.vocabulary_size, VOCABULARY);
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_create(context, NULL, &session, &error), HYMBA_OK, error);
    test_status(hymba_session_append(session, tokens, N_TOKENS, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
    test_status(hymba_session_logits(session, &found, &rows, &error), HYMBA_OK, error);
    memcpy(logits, found, sizeof expected);
    hymba_session_release(session);
    hymba_context_release(context);
}

static void set_up_tiny(void)
{
    hymba_init_params init = {.struct_size = sizeof init, .seed = 3, .dtype = HYMBA_DTYPE_F32};
    hymba_model *model;
    setup();
    snprintf(directory, sizeof directory, "%s/tiny", test_directory());
    hymba_status status =
        hymba_model_init(directory, config_text, sizeof config_text - 1, &init, &error);
    ck_assert(status == HYMBA_OK || status == HYMBA_ERROR_FILE); /* another test's is there */
    tiny.n = 0;
    ck_assert(hostile_add_file(&tiny, directory, "config.json"));
    ck_assert(hostile_add_file(&tiny, directory, "model.safetensors"));
    test_status(hostile_open(&tiny, &host.host, &model, &error), HYMBA_OK, error);
    run(model, expected);
    hymba_model_release(model);
    test_host_check(&host);
}

static void tear_down_tiny(void)
{
    hostile_free(&tiny);
    test_host_check(&host);
}

static size_t header_size(void)
{
    const unsigned char *bytes = tiny.files[WEIGHTS].data;
    return 8 + (bytes[0] | (size_t)bytes[1] << 8);
}

/* Opens what stands in tiny: an error that describes itself, or true and the model's logits. */
static bool opens(float *logits, const char *file)
{
    hymba_model *model = (hymba_model *)&host;
    hymba_status status = hostile_open(&tiny, &host.host, &model, &error);
    if (status == HYMBA_OK) {
        run(model, logits);
        hymba_model_release(model);
        return true;
    }
    ck_assert_ptr_null(model);
    ck_assert_msg(status == HYMBA_ERROR_FORMAT || status == HYMBA_ERROR_UNSUPPORTED, "%s: %s",
                  hymba_status_name(status), error.message);
    ck_assert_msg(strstr(error.message, file) != NULL, "%s", error.message);
    return false;
}

/* With a file cut to its first size bytes, in a block of its own that ends there. */
static bool prefix_opens(int which, size_t size, float *logits, const char *file)
{
    hymba_memory_file *cut = &tiny.files[which], whole = *cut;
    void *block = malloc(size ? size : 1);
    ck_assert_ptr_nonnull(block);
    memcpy(block, whole.data, size);
    cut->data = block;
    cut->size = size;
    bool result = opens(logits, file);
    free(block);
    *cut = whole;
    return result;
}

START_TEST(every_prefix_of_the_weights_is_refused)
{
    size_t whole = tiny.files[WEIGHTS].size, header = header_size(), count = 0;
    size_t stride = hostile_is_long() ? 1 : 7, data_stride = hostile_is_long() ? 1 : 37;
    float logits[VOCABULARY];
    for (size_t size = 0; size < whole; size += size < header ? stride : data_stride) {
        ck_assert(!prefix_opens(WEIGHTS, size, logits, "model.safetensors"));
        count++;
    }
    for (size_t size = header - 9; size < header + 9; size++)
        ck_assert(!prefix_opens(WEIGHTS, size, logits, "model.safetensors"));
    ck_assert(!prefix_opens(WEIGHTS, whole - 1, logits, "model.safetensors"));
    ck_assert(prefix_opens(WEIGHTS, whole, logits, "model.safetensors"));
    ck_assert_mem_eq(logits, expected, sizeof expected);
    hostile_report("prefixes of the weights refused", count + 19);
}
END_TEST

START_TEST(every_prefix_of_the_configuration_is_refused)
{
    size_t whole = tiny.files[CONFIG].size, last = whole;
    const char *text = tiny.files[CONFIG].data;
    float logits[VOCABULARY];
    while (text[last - 1] != '}')
        last--;
    for (size_t size = 0; size <= whole; size++) {
        ck_assert_int_eq(prefix_opens(CONFIG, size, logits, "config.json"), size >= last);
        if (size >= last)
            ck_assert_mem_eq(logits, expected, sizeof expected);
    }
    hostile_report("prefixes of the configuration refused", last);
}
END_TEST

/* Truncated files that are mapped, as models usually are. */
START_TEST(truncated_files_in_a_directory_are_refused)
{
    char path[400];
    size_t whole = tiny.files[WEIGHTS].size, stride = hostile_is_long() ? 1 : 211;
    hymba_model_params params = {
        .struct_size = sizeof params, .host = &host.host, .flags = HYMBA_MODEL_NO_TOKENIZER};
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    for (size_t size = 0; size < whole; size += stride) {
        hymba_model *model = (hymba_model *)path;
        params.flags ^= HYMBA_MODEL_NO_MAP;
        test_write_file(path, tiny.files[WEIGHTS].data, size);
        test_status(hymba_model_open(directory, &params, &model, &error), HYMBA_ERROR_FORMAT,
                    error);
        ck_assert_ptr_null(model);
        ck_assert_ptr_nonnull(strstr(error.message, "model.safetensors"));
    }
    test_write_file(path, tiny.files[WEIGHTS].data, whole);
    hostile_report("truncated files refused", (whole + stride - 1) / stride);
}
END_TEST

/* Flips bits of a file in turn; how many of the files so made open. */
static size_t flip(int which, size_t size, size_t stride, bool same, const char *file)
{
    unsigned char *bytes = hostile_bytes(&tiny, which);
    float logits[VOCABULARY];
    size_t opened = 0, count = 0;
    for (size_t bit = 0; bit < size * 8; bit += stride) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        if (opens(logits, file)) {
            opened++;
            if (same)
                ck_assert_msg(memcmp(logits, expected, sizeof expected) == 0,
                              "with bit %zu flipped the logits are others", bit);
        }
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        count++;
    }
    hostile_report(which == WEIGHTS ? "bits of the weights' header flipped"
                                    : "bits of the configuration flipped",
                   count);
    hostile_report("files that opened in spite of it", opened);
    return opened;
}

/* What opens in spite of it has no weight in another place. */
START_TEST(every_flipped_bit_of_the_header_is_refused_or_harmless)
{
    size_t header = header_size();
    size_t opened =
        flip(WEIGHTS, header, hostile_is_long() ? 1 : 5, true, "model.safetensors");
    ck_assert_uint_lt(opened, header);
}
END_TEST

START_TEST(every_flipped_bit_of_the_configuration_is_refused_or_runs)
{
    size_t size = tiny.files[CONFIG].size;
    size_t opened = flip(CONFIG, size, hostile_is_long() ? 1 : 3, false, "");
    ck_assert_uint_gt(opened, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hostile");
    TCase *flaws = tcase_create("flaws");
    TCase *whole = tcase_create("whole");
    tcase_set_timeout(flaws, 600);
    tcase_set_timeout(whole, 1800);
    tcase_add_checked_fixture(flaws, setup, NULL);
    tcase_add_checked_fixture(whole, set_up_tiny, tear_down_tiny);
    tcase_add_test(flaws, every_known_flaw_is_refused_by_name);
    tcase_add_test(whole, every_prefix_of_the_weights_is_refused);
    tcase_add_test(whole, every_prefix_of_the_configuration_is_refused);
    tcase_add_test(whole, truncated_files_in_a_directory_are_refused);
    tcase_add_test(whole, every_flipped_bit_of_the_header_is_refused_or_harmless);
    tcase_add_test(whole, every_flipped_bit_of_the_configuration_is_refused_or_runs);
    suite_add_tcase(suite, flaws);
    suite_add_tcase(suite, whole);
    return test_main(suite);
}
