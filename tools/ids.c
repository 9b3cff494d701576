#include "ids.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

void ids_add(struct ids *ids, int32_t id)
{
    if (ids->count == ids->capacity) {
        ids->capacity = ids->capacity ? 2 * ids->capacity : 256;
        ids->items = grow_memory(ids->items, ids->capacity, sizeof *ids->items);
    }
    ids->items[ids->count++] = id;
}

void ids_free(struct ids *ids)
{
    free(ids->items);
    memset(ids, 0, sizeof *ids);
}

/* ----------------------------------------------------------------- reading */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool read_id(const char *word, size_t length, int32_t *id)
{
    int64_t value = 0;
    for (size_t i = 0; i < length; i++) {
        if (word[i] < '0' || word[i] > '9')
            return false;
        value = 10 * value + (word[i] - '0');
        if (value > INT32_MAX)
            return false;
    }
    *id = (int32_t)value;
    return true;
}

static int split(const struct bytes *bytes, const char *name, struct ids *ids)
{
    for (size_t i = 0; i < bytes->size;) {
        size_t begin = i;
        int32_t id = 0;
        while (i < bytes->size && !is_space(bytes->data[i]))
            i++;
        size_t length = i - begin;
        if (length == 0) {
            i++;
            continue;
        }
        if (!read_id(bytes->data + begin, length, &id))
            return fail("%s: '%.*s' at byte %zu is not a token id", name,
                        length > 32 ? 32 : (int)length, bytes->data + begin, begin);
        ids_add(ids, id);
    }
    return STATUS_OK;
}

int ids_read(const char *path, struct ids *ids)
{
    struct bytes bytes;
    memset(ids, 0, sizeof *ids);
    int status = read_bytes(path, &bytes);
    if (status != STATUS_OK)
        return status;
    status = split(&bytes, strcmp(path, "-") == 0 ? "standard input" : path, ids);
    free(bytes.data);
    if (status != STATUS_OK)
        ids_free(ids);
    return status;
}

int ids_check(const struct ids *ids, uint32_t vocabulary_size, const char *path)
{
    if (ids->count == 0)
        return fail("%s: no tokens", path);
    for (size_t i = 0; i < ids->count; i++)
        if (ids->items[i] < 0 || (uint32_t)ids->items[i] >= vocabulary_size)
            return fail("%s: token %zu is %d, but the model has ids 0 to %u only", path, i,
                        (int)ids->items[i], (unsigned)vocabulary_size - 1);
    return STATUS_OK;
}

/* -------------------------------------------------------------------- text */

int ids_encode(const hymba_tokenizer *tokenizer, const char *text, size_t length, uint32_t flags,
               const char *about, struct ids *ids)
{
    hymba_error error;
    size_t needed = length < SIZE_MAX - 16 ? length + 16 : length; /* nearly always enough */
    hymba_status status;
    hymba_error_init(&error, sizeof error);
    memset(ids, 0, sizeof *ids);
    do {
        ids->capacity = needed;
        ids->items = grow_memory(ids->items, ids->capacity, sizeof *ids->items);
        status = hymba_tokenizer_encode(tokenizer, text, length, flags, ids->items, ids->capacity,
                                        &needed, &error);
    } while (status == HYMBA_ERROR_BUFFER && needed > ids->capacity);
    if (status != HYMBA_OK) {
        ids_free(ids);
        return fail_library(about, status, &error);
    }
    ids->count = needed;
    return STATUS_OK;
}

int ids_decode(const hymba_tokenizer *tokenizer, const struct ids *ids, const char *about,
               struct bytes *bytes)
{
    hymba_error error;
    size_t capacity = 0;
    size_t needed = 8 * ids->count + 16;
    hymba_status status;
    hymba_error_init(&error, sizeof error);
    bytes->data = NULL;
    do {
        capacity = needed;
        bytes->data = grow_memory(bytes->data, capacity, 1);
        status = hymba_tokenizer_decode(tokenizer, ids->items, ids->count, 0, bytes->data,
                                        capacity, &needed, &error);
    } while (status == HYMBA_ERROR_BUFFER && needed > capacity);
    bytes->size = needed;
    if (status == HYMBA_OK)
        return STATUS_OK;
    free(bytes->data);
    bytes->data = NULL;
    return fail_library(about, status, &error);
}

json_t *ids_to_json(const struct ids *ids)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < ids->count; i++)
        if (json_array_append_new(array, json_integer(ids->items[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}
