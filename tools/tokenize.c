#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ids.h"
#include "library.h"
#include "output.h"
#include "verbs.h"

struct tokenize_options {
    const char *model;
    bool no_bos, special, hex, jsonl;
    struct compute_options compute;
};

static int open_tokenizer(const char *directory, hymba_tokenizer **tokenizer)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    hymba_status status = hymba_tokenizer_open(directory, NULL, tokenizer, &error);
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

/* ---------------------------------------------------------------- tokenize */

struct encoding {
    hymba_tokenizer *tokenizer;
    uint32_t flags;
};

static void describe_tokenize(struct option_set *set, struct tokenize_options *options)
{
    options_begin(set, "tokenize", "-m DIR [options] < TEXT",
                  "Turns standard input, as one text, into token ids: one line, spaces between.\n"
                  "The BOS token comes first if the tokenizer asks for it. Text that looks like a\n"
                  "special token is plain text unless --special is given.");
    option_text(set, 'm', "model", "DIR", &options->model,
                "directory with the tokenizer; weights need not be there");
    option_is_required(set);
    option_flag(set, 0, "no-bos", &options->no_bos, "no BOS token");
    option_flag(set, 0, "special", &options->special,
                "the text of a special token becomes that token");
    option_flag(set, 0, "jsonl", &options->jsonl,
                "one JSON string a line in, one JSON array of ids a line out");
    add_threads_option(set, &options->compute);
}

static int tokenize_line(void *user, const struct json_line *line)
{
    const struct encoding *encoding = user;
    struct ids ids;
    if (!json_is_string(line->value))
        return fail("%s is not a JSON string", line->name);
    int status = ids_encode(encoding->tokenizer, json_string_value(line->value),
                            json_string_length(line->value), encoding->flags, line->name, &ids);
    if (status != STATUS_OK)
        return status;
    status = print_json_line(ids_to_json(&ids));
    ids_free(&ids);
    return status;
}

static int tokenize_text(const struct encoding *encoding)
{
    struct bytes text;
    struct ids ids;
    int status = read_bytes("-", &text);
    if (status != STATUS_OK)
        return status;
    status = ids_encode(encoding->tokenizer, text.data, text.size, encoding->flags, NULL, &ids);
    free(text.data);
    if (status != STATUS_OK)
        return status;
    for (size_t i = 0; i < ids.count; i++)
        printf("%s%d", i ? " " : "", (int)ids.items[i]);
    putchar('\n');
    ids_free(&ids);
    return STATUS_OK;
}

int verb_tokenize(int argc, char **argv)
{
    struct tokenize_options options = {0};
    struct option_set set;
    struct encoding encoding = {0};
    int status;
    describe_tokenize(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    status = open_tokenizer(options.model, &encoding.tokenizer);
    if (status != STATUS_OK)
        return status;
    if (!options.no_bos && hymba_tokenizer_adds_bos(encoding.tokenizer))
        encoding.flags |= HYMBA_ENCODE_BOS;
    if (options.special)
        encoding.flags |= HYMBA_ENCODE_SPECIAL;
    status = options.jsonl ? read_json_lines(tokenize_line, &encoding) : tokenize_text(&encoding);
    hymba_tokenizer_release(encoding.tokenizer);
    return status;
}

/* -------------------------------------------------------------- detokenize */

struct decoding {
    hymba_tokenizer *tokenizer;
    bool hex;
};

static void describe_detokenize(struct option_set *set, struct tokenize_options *options)
{
    options_begin(set, "detokenize", "-m DIR [options] < IDS",
                  "Turns token ids, whitespace between, into the bytes they stand for and prints\n"
                  "these and nothing else. Special tokens are dropped.");
    option_text(set, 'm', "model", "DIR", &options->model,
                "directory with the tokenizer; weights need not be there");
    option_is_required(set);
    option_flag(set, 0, "hex", &options->hex, "print the bytes in hexadecimal, and a newline");
    option_flag(set, 0, "jsonl", &options->jsonl,
                "one JSON array of ids a line in, one JSON string a line out\n"
                "(malformed UTF-8 becomes U+FFFD; with --hex hexadecimal digits)");
    add_threads_option(set, &options->compute);
}

/* The bytes in hexadecimal in place of themselves. */
static void turn_to_hex(struct bytes *bytes)
{
    static const char digits[] = "0123456789abcdef";
    char *hex = take_memory(bytes->size, 2);
    for (size_t i = 0; i < bytes->size; i++) {
        unsigned char byte = (unsigned char)bytes->data[i];
        hex[2 * i] = digits[byte >> 4];
        hex[2 * i + 1] = digits[byte & 15];
    }
    free(bytes->data);
    bytes->data = hex;
    bytes->size *= 2;
}

static int ids_of_json(const json_t *value, const char *name, struct ids *ids)
{
    memset(ids, 0, sizeof *ids);
    if (!json_is_array(value))
        return fail("%s is not a JSON array", name);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < INT32_MIN || id > INT32_MAX) {
            ids_free(ids);
            return fail("%s: element %zu is not a token id", name, i);
        }
        ids_add(ids, (int32_t)id);
    }
    return STATUS_OK;
}

static int decode(const struct decoding *decoding, const struct ids *ids, const char *about,
                  struct bytes *bytes)
{
    int status = ids_decode(decoding->tokenizer, ids, about, bytes);
    if (status == STATUS_OK && decoding->hex)
        turn_to_hex(bytes);
    return status;
}

static int detokenize_line(void *user, const struct json_line *line)
{
    const struct decoding *decoding = user;
    struct ids ids;
    struct bytes bytes;
    int status = ids_of_json(line->value, line->name, &ids);
    if (status != STATUS_OK)
        return status;
    status = decode(decoding, &ids, line->name, &bytes);
    ids_free(&ids);
    if (status != STATUS_OK)
        return status;
    status = print_json_line(json_text(bytes.data, bytes.size));
    free(bytes.data);
    return status;
}

static int detokenize_ids(const struct decoding *decoding)
{
    struct ids ids;
    struct bytes bytes;
    int status = ids_read("-", &ids);
    if (status != STATUS_OK)
        return status;
    status = decode(decoding, &ids, "standard input", &bytes);
    ids_free(&ids);
    if (status != STATUS_OK)
        return status;
    errno = 0;
    if (fwrite(bytes.data, 1, bytes.size, stdout) != bytes.size ||
        (decoding->hex && putchar('\n') == EOF))
        status = fail_output();
    free(bytes.data);
    return status;
}

int verb_detokenize(int argc, char **argv)
{
    struct tokenize_options options = {0};
    struct option_set set;
    struct decoding decoding = {0};
    int status;
    describe_detokenize(&set, &options);
    if (!options_parse(&set, argc, argv, &status))
        return status;
    status = open_tokenizer(options.model, &decoding.tokenizer);
    if (status != STATUS_OK)
        return status;
    decoding.hex = options.hex;
    status = options.jsonl ? read_json_lines(detokenize_line, &decoding)
                           : detokenize_ids(&decoding);
    hymba_tokenizer_release(decoding.tokenizer);
    return status;
}
