/* The tokenizers that tests use, and the cases of a cases.jsonl that say what they must give. */
#ifndef TEST_TOKENIZER_CASES_H
#define TEST_TOKENIZER_CASES_H

#include <jansson.h>

#include "text/tokenizer.h"

enum { TEST_MAX_TOKENIZERS = 4 };

/* A tokenizer with its cases. */
struct test_tokenizer {
    char name[64];   /* "demo, tokenizer.model" */
    char cases[512]; /* path of its cases.jsonl */
    hymba_tokenizer *tokenizer;
};

/*
 * Opens the demo's tokenizer and, where it is here, the published one, each from tokenizer.model
 * and from tokenizer.json; returns how many. Close them with test_close_tokenizers.
 */
size_t test_open_tokenizers(struct test_tokenizer tokenizers[TEST_MAX_TOKENIZERS]);
void test_close_tokenizers(struct test_tokenizer *tokenizers, size_t count);

/* Opens a directory's tokenizer from one of its two forms. */
hymba_tokenizer *test_open_form(const char *directory, const char *form);

/* Calls run with every case and its line number; fails if there are fewer than 100. */
void test_each_case(const struct test_tokenizer *tokenizer,
                    void (*run)(const struct test_tokenizer *tokenizer, json_t *test_case,
                                unsigned line));

/* The ids in an array of a case, from malloc. */
int32_t *test_ids(const json_t *array, size_t *count);

/* The bytes that a string of hexadecimal digits stands for, from malloc. */
char *test_hexadecimal(const json_t *string, size_t *size);

/* Whole results, from malloc. */
int32_t *test_encode(const hymba_tokenizer *tokenizer, const char *text, size_t length,
                     uint32_t flags, size_t *count);
char *test_decode(const hymba_tokenizer *tokenizer, const int32_t *ids, size_t count,
                  uint32_t flags, size_t *size);

#endif
