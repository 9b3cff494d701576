/* Streaming decode: tokens in, whole UTF-8 characters out. */
#ifndef HY_TEXT_TEXT_STREAM_H
#define HY_TEXT_TEXT_STREAM_H

#include "text/tokenizer.h"
#include "text/utf8.h"
#include "text/vocabulary.h"

/* More bytes than one call gives. */
enum { HY_TEXT_STREAM_OUTPUT = 3 * (HY_PIECE_MAX_LENGTH + HY_UTF8_MAX) };

/* The stream holds the tokenizer. */
hymba_status hy_text_stream_create(hymba_tokenizer *tokenizer, hymba_text_stream **stream,
                                   hymba_error *error);
void hy_text_stream_release(hymba_text_stream *stream);
void hy_text_stream_reset(hymba_text_stream *stream);

/* *text is NUL-terminated, *length bytes long, and lives until the next call. */
hymba_status hy_text_stream_push(hymba_text_stream *stream, int32_t id, const char **text,
                                 size_t *length, hymba_error *error);
hymba_status hy_text_stream_finish(hymba_text_stream *stream, const char **text, size_t *length,
                                   hymba_error *error);

#endif
