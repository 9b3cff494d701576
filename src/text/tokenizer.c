#include "text/tokenizer.h"

#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"
#include "text/bpe.h"
#include "text/ids.h"
#include "text/piece_bytes.h"
#include "text/sentencepiece.h"
#include "text/special_tokens.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_json.h"

enum { MAX_FILE_SIZE = 64 << 20 };

/* Constant once it is created, but for the references and the account of its memory. */
struct hymba_tokenizer {
    struct hy_memory memory;
    struct hy_memory *account; /* &memory: what a constant tokenizer's users allocate from */
    atomic_size_t references;
    struct hy_vocabulary vocabulary;
    struct hy_merge_table merges; /* empty: merges go by the pieces' scores */
    struct hy_special_tokens specials;
    struct hy_tokenizer_settings settings;
};

/* ---------------------------------------------------------------- creation */

static void destroy(hymba_tokenizer *tokenizer)
{
    struct hy_memory memory;
    hy_free(tokenizer->account, tokenizer->settings.chat_template);
    hy_merge_table_clear(&tokenizer->merges);
    hy_vocabulary_clear(&tokenizer->vocabulary);
    hy_memory_inherit(&memory, &tokenizer->memory);
    hy_free(&memory, tokenizer);
}

static hymba_status allocate(const hymba_host *host, hymba_tokenizer **tokenizer,
                             hymba_error *error)
{
    struct hy_memory memory;
    hymba_status status = hy_memory_init(&memory, host, error);
    if (status != HYMBA_OK)
        return status;
    *tokenizer = hy_alloc_zero(&memory, 1, sizeof **tokenizer);
    if (!*tokenizer)
        return hy_no_memory(error, sizeof **tokenizer, "a tokenizer");
    hy_memory_inherit(&(*tokenizer)->memory, &memory);
    (*tokenizer)->account = &(*tokenizer)->memory;
    atomic_init(&(*tokenizer)->references, 1);
    return HYMBA_OK;
}

/* An empty hy_file means "not given"; a file of no bytes is given, and wrong. */
static bool is_given(const struct hy_file *file)
{
    return file && (file->size > 0 || file->kind != HY_FILE_NONE);
}

static hymba_status read_vocabulary(hymba_tokenizer *tokenizer,
                                    const struct hy_tokenizer_files *files, hymba_error *error)
{
    struct hy_tokenizer_settings *settings = &tokenizer->settings;
    if (is_given(files->model)) {
        hy_vocabulary_init(&tokenizer->vocabulary, tokenizer->account, "tokenizer.model");
        hymba_status status = hy_sentencepiece_read(files->model, &tokenizer->vocabulary,
                                                    &settings->bos, &settings->eos, error);
        settings->adds_bos = settings->bos >= 0;
        return status;
    }
    if (!is_given(files->json))
        return hy_fail(error, HYMBA_ERROR_FILE,
                       "neither tokenizer.model nor tokenizer.json is there");
    hy_vocabulary_init(&tokenizer->vocabulary, tokenizer->account, "tokenizer.json");
    return hy_tokenizer_json_read(files->json, &tokenizer->vocabulary, &tokenizer->merges,
                                  &settings->bos, &settings->eos, &settings->adds_bos, error);
}

hymba_status hy_tokenizer_create(const struct hymba_host *host,
                                 const struct hy_tokenizer_files *files,
                                 hymba_tokenizer **tokenizer, hymba_error *error)
{
    *tokenizer = NULL;
    hymba_tokenizer *created = NULL;
    hymba_status status = allocate(host, &created, error);
    if (status != HYMBA_OK)
        return status;
    status = read_vocabulary(created, files, error);
    if (status == HYMBA_OK && is_given(files->config))
        status = hy_tokenizer_config_read(files->config, &created->vocabulary, &created->settings,
                                          error);
    if (status != HYMBA_OK) {
        destroy(created);
        return status;
    }
    hy_special_tokens_collect(&created->specials, &created->vocabulary);
    *tokenizer = created;
    return HYMBA_OK;
}

/* Reads a file of the directory; *file stays empty if it is not there. */
static hymba_status read_if_there(struct hy_memory *memory, const char *directory,
                                  const char *name, struct hy_file *file, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    char *path = hy_path_join(memory, directory, name);
    if (!path)
        return hy_no_memory(error, strlen(directory) + strlen(name) + 2, "a path");
    if (hy_file_exists(path))
        status = hy_file_read(memory, path, MAX_FILE_SIZE, file, error);
    hy_free(memory, path);
    return status;
}

hymba_status hy_tokenizer_open_directory(const struct hymba_host *host, const char *directory,
                                         bool optional, hymba_tokenizer **tokenizer,
                                         hymba_error *error)
{
    struct hy_memory memory;
    struct hy_file model = {0}, json = {0}, config = {0};
    struct hy_tokenizer_files files = {.model = &model, .json = &json, .config = &config};
    *tokenizer = NULL;
    hymba_status status = hy_memory_init(&memory, host, error);
    if (status != HYMBA_OK)
        return status;
    status = read_if_there(&memory, directory, "tokenizer.model", &model, error);
    if (status == HYMBA_OK && !is_given(&model))
        status = read_if_there(&memory, directory, "tokenizer.json", &json, error);
    if (status == HYMBA_OK)
        status = read_if_there(&memory, directory, "tokenizer_config.json", &config, error);
    if (status == HYMBA_OK && (is_given(&model) || is_given(&json)))
        status = hy_tokenizer_create(host, &files, tokenizer, error);
    else if (status == HYMBA_OK && !optional)
        status = hy_fail(error, HYMBA_ERROR_FILE,
                         "%s holds neither tokenizer.model nor tokenizer.json", directory);
    hy_file_close(&model);
    hy_file_close(&json);
    hy_file_close(&config);
    return status;
}

hymba_tokenizer *hy_tokenizer_retain(hymba_tokenizer *tokenizer)
{
    if (tokenizer)
        atomic_fetch_add_explicit(&tokenizer->references, 1, memory_order_relaxed);
    return tokenizer;
}

void hy_tokenizer_release(hymba_tokenizer *tokenizer)
{
    if (tokenizer &&
        atomic_fetch_sub_explicit(&tokenizer->references, 1, memory_order_acq_rel) == 1)
        destroy(tokenizer);
}

/* ----------------------------------------------------------------- queries */

uint32_t hy_tokenizer_size(const hymba_tokenizer *tokenizer)
{
    return tokenizer ? (uint32_t)tokenizer->vocabulary.count : 0;
}

int32_t hy_tokenizer_bos(const hymba_tokenizer *tokenizer)
{
    return tokenizer ? tokenizer->settings.bos : -1;
}

int32_t hy_tokenizer_eos(const hymba_tokenizer *tokenizer)
{
    return tokenizer ? tokenizer->settings.eos : -1;
}

bool hy_tokenizer_adds_bos(const hymba_tokenizer *tokenizer)
{
    return tokenizer && tokenizer->settings.adds_bos;
}

const char *hy_tokenizer_chat_template(const hymba_tokenizer *tokenizer)
{
    return tokenizer ? tokenizer->settings.chat_template : NULL;
}

struct hy_memory *hy_tokenizer_memory(const hymba_tokenizer *tokenizer)
{
    return tokenizer->account;
}

struct hy_piece hy_tokenizer_piece(const hymba_tokenizer *tokenizer, int32_t id)
{
    return hy_vocabulary_piece(&tokenizer->vocabulary, id);
}

/* ---------------------------------------------------------------- encoding */

/* Special tokens divide the text; each stretch between them is encoded on its own. */
static hymba_status encode_with_specials(const hymba_tokenizer *tokenizer, struct hy_bpe *bpe,
                                         const char *text, size_t length, struct hy_ids *ids,
                                         hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    while (length > 0 && status == HYMBA_OK) {
        size_t begin, size;
        int32_t id = hy_special_tokens_find(&tokenizer->specials, &tokenizer->vocabulary, text,
                                            length, &begin, &size);
        status = hy_bpe_encode(bpe, text, begin, ids, error);
        if (id < 0)
            break;
        if (status == HYMBA_OK)
            status = hy_ids_append(ids, id, error);
        text += begin + size;
        length -= begin + size;
    }
    return status;
}

hymba_status hy_tokenizer_encode(const hymba_tokenizer *tokenizer, const char *text, size_t length,
                                 uint32_t flags, struct hy_ids *ids, hymba_error *error)
{
    const uint32_t known = HYMBA_ENCODE_BOS | HYMBA_ENCODE_SPECIAL;
    size_t count = ids->count;
    hymba_status status = HYMBA_OK;
    struct hy_bpe bpe;
    if (flags & ~known)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "flags of encode: 0x%x has unknown bits",
                       (unsigned)flags);
    if ((flags & HYMBA_ENCODE_BOS) && tokenizer->settings.bos < 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "flags of encode: a BOS token is asked for, but the tokenizer has none");
    hy_bpe_begin(&bpe, tokenizer->account, &tokenizer->vocabulary,
                 tokenizer->merges.size > 0 ? &tokenizer->merges : NULL);
    if (flags & HYMBA_ENCODE_BOS)
        status = hy_ids_append(ids, tokenizer->settings.bos, error);
    if (status == HYMBA_OK && (flags & HYMBA_ENCODE_SPECIAL))
        status = encode_with_specials(tokenizer, &bpe, text, length, ids, error);
    else if (status == HYMBA_OK)
        status = hy_bpe_encode(&bpe, text, length, ids, error);
    hy_bpe_end(&bpe);
    if (status != HYMBA_OK)
        ids->count = count;
    return status;
}

/* ---------------------------------------------------------------- decoding */

hymba_status hy_tokenizer_decode(const hymba_tokenizer *tokenizer, const int32_t *ids, size_t n_ids,
                                 uint32_t flags, char *buffer, size_t capacity, size_t *needed,
                                 hymba_error *error)
{
    bool with_specials = (flags & HYMBA_DECODE_SPECIAL) != 0, is_started = false;
    char bytes[HY_PIECE_MAX_LENGTH];
    size_t count = 0;
    if (flags & ~(uint32_t)HYMBA_DECODE_SPECIAL)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "flags of decode: 0x%x has unknown bits",
                       (unsigned)flags);
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= tokenizer->vocabulary.count)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i,
                              "id %d at index %zu is outside the vocabulary of %zu", (int)ids[i],
                              i, tokenizer->vocabulary.count);
        struct hy_piece piece = hy_vocabulary_piece(&tokenizer->vocabulary, ids[i]);
        size_t size = hy_piece_bytes(piece, with_specials, &is_started, bytes);
        if (count < capacity)
            memcpy(buffer + count, bytes, hy_min_size(size, capacity - count));
        if (!hy_add_size(count, size, &count))
            return hy_fail(error, HYMBA_ERROR_ARGUMENT, "the text of %zu ids is too long", n_ids);
    }
    *needed = count;
    return HYMBA_OK;
}
