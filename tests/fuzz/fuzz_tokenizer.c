#include "fuzz_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

static void stream(hymba_tokenizer *tokenizer, const int32_t *ids, size_t n)
{
    hymba_text_stream *out;
    hymba_error error = {.struct_size = sizeof error};
    const char *text;
    size_t length;
    hymba_status status = hymba_text_stream_create(tokenizer, &out, &error);
    fuzz_check(status, &error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++)
        status = hymba_text_stream_push(out, ids[i], &text, &length, &error);
    fuzz_check(status, &error);
    if (out)
        fuzz_check(hymba_text_stream_finish(out, &text, &length, &error), &error);
    hymba_text_stream_release(out);
}

static void decode(hymba_tokenizer *tokenizer, const int32_t *ids, size_t n)
{
    hymba_error error = {.struct_size = sizeof error};
    size_t needed = 0, written = 0;
    hymba_status status = hymba_tokenizer_decode(tokenizer, ids, n, HYMBA_DECODE_SPECIAL, NULL, 0,
                                                 &needed, &error);
    fuzz_check(status, &error);
    fuzz_require(status == HYMBA_OK, "ids of an encoding cannot be decoded");
    char *text = malloc(needed + 1);
    status = hymba_tokenizer_decode(tokenizer, ids, n, HYMBA_DECODE_SPECIAL, text, needed,
                                    &written, &error);
    fuzz_require(status == HYMBA_OK && written == needed, "a decoding of two lengths");
    free(text);
    stream(tokenizer, ids, n);
}

static void encode(hymba_tokenizer *tokenizer, const char *text, size_t length, uint32_t flags)
{
    hymba_error error = {.struct_size = sizeof error};
    size_t needed = 0, written = 0;
    hymba_status status =
        hymba_tokenizer_encode(tokenizer, text, length, flags, NULL, 0, &needed, &error);
    fuzz_check(status, &error);
    if (status != HYMBA_OK)
        return;
    int32_t *ids = malloc((needed + 1) * sizeof *ids);
    status =
        hymba_tokenizer_encode(tokenizer, text, length, flags, ids, needed, &written, &error);
    fuzz_require(status == HYMBA_OK && written == needed, "an encoding of two lengths");
    for (size_t i = 0; i < needed; i++)
        fuzz_require(ids[i] >= 0 &&
                         (uint32_t)ids[i] < hymba_tokenizer_vocabulary_size(tokenizer),
                     "an id outside the vocabulary");
    decode(tokenizer, ids, needed);
    free(ids);
}

static void use(hymba_tokenizer *tokenizer, const uint8_t *data, size_t size)
{
    static const char text[] =
        "Once upon <s>a time</s>\n \xE2\x96\x81\xF0\x9F\x98\x80\xFF ab <unk>";
    static const char chat[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}";
    hymba_error error = {.struct_size = sizeof error};
    uint32_t n = hymba_tokenizer_vocabulary_size(tokenizer);
    size_t needed;
    int32_t ids[] = {hymba_tokenizer_bos(tokenizer), hymba_tokenizer_eos(tokenizer)};
    fuzz_require(n > 0 && ids[0] < (int32_t)n && ids[1] < (int32_t)n && ids[0] >= -1 &&
                     ids[1] >= -1,
                 "a special token outside the vocabulary");
    encode(tokenizer, text, sizeof text - 1, 0);
    encode(tokenizer, text, sizeof text - 1, HYMBA_ENCODE_BOS | HYMBA_ENCODE_SPECIAL);
    encode(tokenizer, (const char *)data, size < 512 ? size : 512, HYMBA_ENCODE_SPECIAL);
    for (uint32_t i = 0; i < n; i += 1 + n / 64) {
        const char *piece;
        size_t length;
        fuzz_require(hymba_tokenizer_piece(tokenizer, (int32_t)i, &piece, &length, &error) ==
                         HYMBA_OK,
                     "a piece that is not there");
    }
    if (hymba_tokenizer_has_chat_template(tokenizer))
        fuzz_check(hymba_tokenizer_render_chat(tokenizer, chat, sizeof chat - 1, NULL, 0, &needed,
                                               &error),
                   &error);
}

static void borrow(const uint8_t *data, size_t size, struct hy_file *file)
{
    memset(file, 0, sizeof *file);
    if (data)
        hy_file_borrow(data, size, file);
}

void fuzz_tokenizer(const uint8_t *model, size_t model_size, const uint8_t *json,
                    size_t json_size, const uint8_t *config, size_t config_size)
{
    struct fuzz_host host;
    struct hy_file contents[3];
    struct hy_tokenizer_files files = {&contents[0], &contents[1], &contents[2]};
    hymba_error error = {.struct_size = sizeof error};
    hymba_tokenizer *tokenizer;
    fuzz_host_init(&host);
    borrow(model, model_size, &contents[0]);
    borrow(json, json_size, &contents[1]);
    borrow(config, config_size, &contents[2]);
    hymba_status status = hy_tokenizer_create(&host.host, &files, &tokenizer, &error);
    fuzz_check(status, &error);
    if (status == HYMBA_OK)
        use(tokenizer, model ? model : json, model ? model_size : json_size);
    hymba_tokenizer_release(tokenizer);
    fuzz_require(host.live == 0, "memory that did not come back");
}
