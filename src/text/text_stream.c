#include "text/text_stream.h"

#include <string.h>

#include "text/piece_bytes.h"

enum { MAX_PENDING = HY_UTF8_MAX - 1 };

/* What one token can complete, if every byte of it were malformed and became U+FFFD. */
_Static_assert((MAX_PENDING + HY_PIECE_MAX_LENGTH) * 3 < HY_TEXT_STREAM_OUTPUT,
               "one token's text must fit the output");

struct hymba_text_stream {
    hymba_tokenizer *tokenizer;
    bool is_started; /* the byte that may be the leading space has come */
    size_t n_input;  /* bytes of input, at first those of a character that is not complete */
    size_t length;
    char input[MAX_PENDING + HY_PIECE_MAX_LENGTH];
    char output[HY_TEXT_STREAM_OUTPUT];
};

hymba_status hy_text_stream_create(hymba_tokenizer *tokenizer, hymba_text_stream **stream,
                                   hymba_error *error)
{
    *stream = hy_alloc_zero(hy_tokenizer_memory(tokenizer), 1, sizeof **stream);
    if (!*stream)
        return hy_no_memory(error, sizeof **stream, "a text stream");
    (*stream)->tokenizer = hy_tokenizer_retain(tokenizer);
    return HYMBA_OK;
}

void hy_text_stream_release(hymba_text_stream *stream)
{
    if (!stream)
        return;
    hymba_tokenizer *tokenizer = stream->tokenizer;
    hy_free(hy_tokenizer_memory(tokenizer), stream);
    hy_tokenizer_release(tokenizer);
}

void hy_text_stream_reset(hymba_text_stream *stream)
{
    if (!stream)
        return;
    stream->is_started = false;
    stream->n_input = 0;
}

/* Whether bytes, malformed to their end, are the beginning of a character. */
static bool is_incomplete(const char *bytes, size_t length, size_t malformed)
{
    return malformed == length && hy_utf8_sequence_length((unsigned char)bytes[0]) > length;
}

static void put_character(hymba_text_stream *stream, const char *bytes, size_t size,
                          int32_t character)
{
    char *out = stream->output + stream->length;
    if (character < 0)
        size = hy_utf8_encode(HY_UTF8_REPLACEMENT, out);
    else
        memcpy(out, bytes, size);
    stream->length += size;
}

/* Writes the characters of the input; an incomplete one at its end stays there, unless it is
 * the end of the text. */
static void convert(hymba_text_stream *stream, bool is_end)
{
    size_t begin = 0;
    stream->length = 0;
    while (begin < stream->n_input) {
        int32_t character;
        size_t left = stream->n_input - begin;
        size_t size = hy_utf8_decode(stream->input + begin, left, &character);
        if (character < 0 && !is_end && is_incomplete(stream->input + begin, left, size))
            break;
        put_character(stream, stream->input + begin, size, character);
        begin += size;
    }
    stream->n_input -= begin;
    memmove(stream->input, stream->input + begin, stream->n_input);
    stream->output[stream->length] = '\0';
}

hymba_status hy_text_stream_push(hymba_text_stream *stream, int32_t id, const char **text,
                                 size_t *length, hymba_error *error)
{
    if (id < 0 || (uint32_t)id >= hy_tokenizer_size(stream->tokenizer))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "id %d is outside the vocabulary of %u",
                       (int)id, (unsigned)hy_tokenizer_size(stream->tokenizer));
    stream->n_input += hy_piece_bytes(hy_tokenizer_piece(stream->tokenizer, id), false,
                                      &stream->is_started, stream->input + stream->n_input);
    convert(stream, false);
    *text = stream->output;
    *length = stream->length;
    return HYMBA_OK;
}

hymba_status hy_text_stream_finish(hymba_text_stream *stream, const char **text, size_t *length,
                                   hymba_error *error)
{
    (void)error;
    convert(stream, true);
    hy_text_stream_reset(stream);
    *text = stream->output;
    *length = stream->length;
    return HYMBA_OK;
}
