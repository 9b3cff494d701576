#include "text/bpe.h"

#include <string.h>

#include "base/checked.h"
#include "text/ids.h"
#include "text/utf8.h"

enum { NONE = -1, REPLACEMENT_SIZE = 3 };
static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* A run of characters that is or may be one piece; the symbols form a list in text order. */
struct hy_bpe_symbol {
    uint32_t begin, length; /* in the text; length 0: merged into its left neighbour */
    int32_t previous, next; /* NONE at the ends */
    int32_t id;             /* NONE: no piece */
};

/* Two neighbours that could merge. It is out of date once either of them has changed. */
struct hy_bpe_candidate {
    uint32_t rank;
    int32_t left;
    uint32_t length; /* of both together */
    int32_t id;
};

void hy_bpe_begin(struct hy_bpe *bpe, struct hy_memory *memory,
                  const struct hy_vocabulary *vocabulary, const struct hy_merge_table *merges)
{
    memset(bpe, 0, sizeof *bpe);
    bpe->memory = memory;
    bpe->vocabulary = vocabulary;
    bpe->merges = merges;
}

void hy_bpe_end(struct hy_bpe *bpe)
{
    hy_free(bpe->memory, bpe->text);
    hy_free(bpe->memory, bpe->symbols);
    hy_free(bpe->memory, bpe->heap);
}

/* A space and a malformed byte take three bytes, and so does the prefix. */
static hymba_status reserve_text(struct hy_bpe *bpe, size_t length, hymba_error *error)
{
    size_t needed = HY_SPACE_MARK_SIZE + length * 3;
    if (needed <= bpe->text_capacity)
        return HYMBA_OK;
    char *text = hy_alloc(bpe->memory, needed);
    if (!text)
        return hy_no_memory(error, needed, "the text to encode");
    hy_free(bpe->memory, bpe->text);
    bpe->text = text;
    bpe->text_capacity = needed;
    return HYMBA_OK;
}

static hymba_status reserve_symbols(struct hy_bpe *bpe, size_t count, hymba_error *error)
{
    if (count <= bpe->symbol_capacity)
        return HYMBA_OK;
    size_t capacity = hy_max_size(count, 2 * bpe->symbol_capacity);
    hy_free(bpe->memory, bpe->symbols);
    hy_free(bpe->memory, bpe->heap);
    bpe->symbol_capacity = 0;
    bpe->symbols = hy_alloc_array(bpe->memory, capacity, sizeof *bpe->symbols);
    /* One candidate for each pair at the beginning, and each merge takes one and adds two. */
    bpe->heap = hy_alloc_array(bpe->memory, 2 * capacity, sizeof *bpe->heap);
    if (!bpe->symbols || !bpe->heap)
        return hy_no_memory(error, capacity * sizeof *bpe->symbols, "the text to encode");
    bpe->symbol_capacity = capacity;
    return HYMBA_OK;
}

static char *put_space(char *out)
{
    memcpy(out, HY_SPACE_MARK, HY_SPACE_MARK_SIZE);
    return out + HY_SPACE_MARK_SIZE;
}

/* Writes the prefix and the text with U+2581 for spaces and U+FFFD for each malformed byte. */
static void normalise(struct hy_bpe *bpe, const char *text, size_t length)
{
    char *out = put_space(bpe->text);
    for (size_t i = 0, size; i < length; i += size) {
        int32_t character;
        size = hy_utf8_decode(text + i, length - i, &character);
        if (character == ' ') {
            out = put_space(out);
        } else if (character >= 0) {
            memcpy(out, text + i, size);
            out += size;
        } else {
            for (size_t k = 0; k < size; k++, out += REPLACEMENT_SIZE)
                memcpy(out, replacement, REPLACEMENT_SIZE);
        }
    }
    bpe->length = (size_t)(out - bpe->text);
}

/*
 * The end of the word that begins at begin. If no piece has a space behind another character, no
 * merge goes across such a place: words can be merged one by one, in little memory.
 */
static size_t word_end(const struct hy_bpe *bpe, size_t begin, size_t *n_characters)
{
    bool is_behind_other = false;
    size_t end = begin;
    for (*n_characters = 0; end < bpe->length; ++*n_characters) {
        bool is_space = hy_is_space_mark(bpe->text + end, bpe->length - end);
        if (is_space && is_behind_other && !bpe->vocabulary->joins_words)
            break;
        is_behind_other = !is_space;
        end += hy_utf8_sequence_length((unsigned char)bpe->text[end]);
    }
    return end;
}

/* One symbol for each character of a word. */
static void split(struct hy_bpe *bpe, size_t begin, size_t end)
{
    size_t count = 0;
    for (size_t i = begin, size; i < end; i += size, count++) {
        size = hy_utf8_sequence_length((unsigned char)bpe->text[i]);
        bpe->symbols[count] = (struct hy_bpe_symbol){
            .begin = (uint32_t)i,
            .length = (uint32_t)size,
            .previous = (int32_t)count - 1,
            .next = (int32_t)count + 1,
            .id = hy_vocabulary_find_normal(bpe->vocabulary, bpe->text + i, size),
        };
    }
    bpe->symbols[count - 1].next = NONE;
    bpe->n_symbols = count;
}

/* The best candidate has the lowest rank; among equals the leftmost. */
static bool is_before(const struct hy_bpe_candidate *a, const struct hy_bpe_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void push(struct hy_bpe *bpe, struct hy_bpe_candidate candidate)
{
    size_t place = bpe->n_candidates++;
    while (place > 0) {
        size_t parent = (place - 1) / 2;
        if (!is_before(&candidate, &bpe->heap[parent]))
            break;
        bpe->heap[place] = bpe->heap[parent];
        place = parent;
    }
    bpe->heap[place] = candidate;
}

static struct hy_bpe_candidate pop(struct hy_bpe *bpe)
{
    struct hy_bpe_candidate best = bpe->heap[0];
    struct hy_bpe_candidate last = bpe->heap[--bpe->n_candidates];
    size_t place = 0;
    while (true) {
        size_t child = 2 * place + 1;
        if (child >= bpe->n_candidates)
            break;
        if (child + 1 < bpe->n_candidates &&
            is_before(&bpe->heap[child + 1], &bpe->heap[child]))
            child++;
        if (!is_before(&bpe->heap[child], &last))
            break;
        bpe->heap[place] = bpe->heap[child];
        place = child;
    }
    bpe->heap[place] = last;
    return best;
}

/* Whether two neighbours merge, and into what. */
static bool find_merge(const struct hy_bpe *bpe, const struct hy_bpe_symbol *left,
                       const struct hy_bpe_symbol *right, struct hy_bpe_candidate *candidate)
{
    if (bpe->merges) {
        const struct hy_merge *merge = NULL;
        if (left->id != NONE && right->id != NONE)
            merge = hy_merge_table_find(bpe->merges, left->id, right->id);
        if (!merge)
            return false;
        candidate->rank = merge->rank;
        candidate->id = merge->id;
        return true;
    }
    int32_t id = hy_vocabulary_find_normal(bpe->vocabulary, bpe->text + left->begin,
                                           (size_t)left->length + right->length);
    if (id < 0)
        return false;
    candidate->rank = bpe->vocabulary->entries[id].rank;
    candidate->id = id;
    return true;
}

/* Adds the candidate of the symbol left and its right neighbour, if there is one. */
static void consider(struct hy_bpe *bpe, int32_t left)
{
    const struct hy_bpe_symbol *symbols = bpe->symbols;
    if (left == NONE || symbols[left].next == NONE)
        return;
    const struct hy_bpe_symbol *right = &symbols[symbols[left].next];
    struct hy_bpe_candidate candidate = {.left = left,
                                         .length = symbols[left].length + right->length};
    if (find_merge(bpe, &symbols[left], right, &candidate))
        push(bpe, candidate);
}

/* Symbols only grow or vanish, so the pair is unchanged exactly if its length is. */
static bool is_current(const struct hy_bpe *bpe, const struct hy_bpe_candidate *candidate)
{
    const struct hy_bpe_symbol *left = &bpe->symbols[candidate->left];
    return left->length > 0 && left->next != NONE &&
           left->length + bpe->symbols[left->next].length == candidate->length;
}

static void merge(struct hy_bpe *bpe, const struct hy_bpe_candidate *candidate)
{
    struct hy_bpe_symbol *left = &bpe->symbols[candidate->left];
    struct hy_bpe_symbol *right = &bpe->symbols[left->next];
    left->length = candidate->length;
    left->id = candidate->id;
    left->next = right->next;
    right->length = 0;
    if (left->next != NONE)
        bpe->symbols[left->next].previous = candidate->left;
    consider(bpe, left->previous);
    consider(bpe, candidate->left);
}

static hymba_status append_bytes(const struct hy_bpe *bpe, const struct hy_bpe_symbol *symbol,
                                 struct hy_ids *ids, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; i < symbol->length && status == HYMBA_OK; i++) {
        unsigned char byte = (unsigned char)bpe->text[symbol->begin + i];
        status = hy_ids_append(ids, bpe->vocabulary->bytes[byte], error);
    }
    return status;
}

static void merge_all(struct hy_bpe *bpe)
{
    bpe->n_candidates = 0;
    for (size_t i = 0; i < bpe->n_symbols; i++)
        consider(bpe, (int32_t)i);
    while (bpe->n_candidates > 0) {
        struct hy_bpe_candidate best = pop(bpe);
        if (is_current(bpe, &best))
            merge(bpe, &best);
    }
}

static hymba_status append_ids(const struct hy_bpe *bpe, struct hy_ids *ids, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (int32_t i = 0; i != NONE && status == HYMBA_OK; i = bpe->symbols[i].next) {
        const struct hy_bpe_symbol *symbol = &bpe->symbols[i];
        status = symbol->id != NONE ? hy_ids_append(ids, symbol->id, error)
                                    : append_bytes(bpe, symbol, ids, error);
    }
    return status;
}

hymba_status hy_bpe_encode(struct hy_bpe *bpe, const char *text, size_t length,
                           struct hy_ids *ids, hymba_error *error)
{
    if (length == 0)
        return HYMBA_OK;
    if (length > HY_BPE_MAX_TEXT)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "a text of %zu bytes, more than %d", length,
                       HY_BPE_MAX_TEXT);
    hymba_status status = reserve_text(bpe, length, error);
    if (status != HYMBA_OK)
        return status;
    normalise(bpe, text, length);
    for (size_t begin = 0, end; begin < bpe->length && status == HYMBA_OK; begin = end) {
        size_t n_characters;
        end = word_end(bpe, begin, &n_characters);
        status = reserve_symbols(bpe, n_characters, error);
        if (status != HYMBA_OK)
            break;
        split(bpe, begin, end);
        merge_all(bpe);
        status = append_ids(bpe, ids, error);
    }
    return status;
}
