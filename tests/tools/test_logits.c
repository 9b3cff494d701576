/*
 * hymba logits and hymba perplexity.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* A safetensors file with one F32 matrix: checks the header, returns where the values begin. */
static const char *check_matrix(const char *file, size_t size, size_t rows, size_t columns)
{
    uint64_t length = 0;
    ck_assert_uint_gt(size, 8);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | (unsigned char)file[i];
    ck_assert_uint_eq(length % 8, 0);
    ck_assert_uint_eq(size, 8 + length + rows * columns * sizeof(float));
    json_t *header = json_loadb(file + 8, (size_t)length, 0, NULL);
    json_t *expected = json_pack("{s:{s:s, s:[I, I], s:[i, I]}}", "logits", "dtype", "F32",
                                 "shape", (json_int_t)rows, (json_int_t)columns, "data_offsets",
                                 0, (json_int_t)(rows * columns * sizeof(float)));
    ck_assert_ptr_nonnull(header);
    ck_assert(json_equal(header, expected));
    json_decref(header);
    json_decref(expected);
    return file + 8 + length;
}

/* Where a tensor of the goldens' file begins. */
static const char *golden_tensor(const char *file, const char *name)
{
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | (unsigned char)file[i];
    json_t *header = json_loadb(file + 8, (size_t)length, 0, NULL);
    json_t *tensor = json_object_get(header, name);
    ck_assert_msg(tensor != NULL, "no tensor %s", name);
    json_int_t begin = json_integer_value(
        json_array_get(json_object_get(tensor, "data_offsets"), 0));
    json_decref(header);
    return file + 8 + length + begin;
}

START_TEST(logits_equal_the_goldens_in_chunks_and_whole)
{
    enum { LENGTH = 64 };
    static const char *const chunks[] = {"", "--chunk 1", "--chunk 7 --threads 2",
                                         "--chunk=1000 --cpu generic"};
    json_t *manifest = load_json(test_data("goldens/a_all_features.json"));
    size_t vocabulary = (size_t)integer_of(json_object_get(manifest, "config"), "vocab_size");
    char *golden = test_read_file(test_data("goldens/a_all_features.safetensors"), NULL);
    const char *expected = golden_tensor(golden, "p64.logits");
    char ids[LENGTH * 12] = "";
    for (size_t i = 0; i < LENGTH; i++) {
        int32_t id;
        memcpy(&id, golden_tensor(golden, "p64.input_ids") + i * sizeof id, sizeof id);
        sprintf(ids + strlen(ids), "%d%s", (int)id, i % 10 == 9 ? "\n" : " \t");
    }
    char *whole = NULL;
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        size_t size = 0;
        const char *path = in_directory("logits.safetensors");
        struct result result = run_well(ids, "logits -m %s --tokens - --out %s --compute f32 %s",
                                        test_data("goldens/a_all_features"), path, chunks[i]);
        char *file = test_read_file(path, &size);
        const char *values = check_matrix(file, size, LENGTH, vocabulary);
        double worst = 0;
        for (size_t k = 0; k < LENGTH * vocabulary; k++) {
            float actual, wanted;
            memcpy(&actual, values + k * sizeof actual, sizeof actual);
            memcpy(&wanted, expected + k * sizeof wanted, sizeof wanted);
            double difference = fabs((double)actual - wanted);
            if (!(difference <= worst)) /* also if it is no number */
                worst = difference;
        }
        ck_assert_double_le(worst, 2e-4);
        if (i == 0)
            whole = file;
        else if (i < 3) /* other kernels round in another way */
            ck_assert_mem_eq(file, whole, size);
        if (i > 0)
            free(file);
        free_result(&result);
    }
    free(whole);
    free(golden);
    json_decref(manifest);
}
END_TEST

START_TEST(logits_leave_no_half_file)
{
    const char *path = in_directory("kept");
    char line[512];
    test_write_file(path, "kept", 4);
    snprintf(line, sizeof line, "logits -m %s --tokens - --out %s", demo, path);
    check_refused(1, "1 2 99999", "99999", line);
    char *kept = test_read_file(path, NULL);
    ck_assert_str_eq(kept, "kept");
    free(kept);
}
END_TEST

/* A uniform check by other means: the mean over the chunks' logits, computed here. */
static double expected_nll(const char *ids_text, size_t vocabulary)
{
    int32_t ids[64];
    size_t count = 0, used = 0, size = 0;
    int step = 0;
    double sum = 0;
    while (sscanf(ids_text + used, "%d%n", &ids[count], &step) == 1) {
        used += (size_t)step;
        count++;
    }
    for (size_t begin = 0; begin < count; begin += 4) {
        size_t length = count - begin < 4 ? count - begin : 4;
        char input[256] = "1";
        const char *path = in_directory("chunk.safetensors");
        for (size_t i = 0; i + 1 < length; i++)
            sprintf(input + strlen(input), " %d", (int)ids[begin + i]);
        struct result result = run_well(input, "logits -m %s --tokens - --out %s", demo, path);
        char *file = test_read_file(path, &size);
        const char *values = check_matrix(file, size, length, vocabulary);
        for (size_t i = 0; i < length; i++) {
            double total = 0;
            float target = 0;
            for (size_t k = 0; k < vocabulary; k++) {
                float logit;
                memcpy(&logit, values + (i * vocabulary + k) * sizeof logit, sizeof logit);
                total += exp((double)logit);
                if ((int32_t)k == ids[begin + i])
                    target = logit;
            }
            sum += log(total) - (double)target;
        }
        free(file);
        free_result(&result);
    }
    return sum / (double)count;
}

START_TEST(perplexity_of_ids)
{
    static const char ids[] = "1 421 437 261 391 4059 393 282 261 385\n";
    const char *path = in_directory("ids.txt");
    test_write_file(path, ids, strlen(ids));
    struct result chunked = run_well("", "perplexity -m %s --tokens %s --chunk 4 --json", demo,
                                     path);
    struct result text = run_well("", "perplexity -m %s --tokens %s --chunk 4", demo, path);
    json_t *object = parse_json(chunked.out);
    ck_assert_uint_eq(json_object_size(object), 4);
    ck_assert_int_eq(integer_of(object, "tokens"), 10);
    ck_assert_double_gt(number_of(object, "tok_per_s"), 0);
    ck_assert_double_eq_tol(number_of(object, "nll"), expected_nll(ids, 4096), 1e-5);
    ck_assert_double_eq_tol(number_of(object, "ppl"), exp(number_of(object, "nll")), 1e-9);
    ck_assert_int_eq(strncmp(text.out, "perplexity ", 11), 0);
    json_decref(object);
    free_result(&chunked);
    free_result(&text);
}
END_TEST

/* The first chunk of the held-out stories against the sum that the published code gave. */
START_TEST(perplexity_of_the_first_chunk)
{
    const char *tokens = test_shared("corpus/heldout_ids.txt");
    if (!tokens)
        return;
    json_t *expected = load_json(test_data("demo/eval.json"));
    double sum = json_number_value(
        json_array_get(json_object_get(expected, "first_chunks_nll_sum"), 0));
    char *text = test_read_file(tokens, NULL);
    char *end = text;
    for (int i = 0; i < 512; i++) {
        end += strspn(end, " \n");
        end += strcspn(end, " \n");
    }
    *end = '\0';
    struct result result = run_well(text, "perplexity -m %s --tokens - --compute f32 --json", demo);
    json_t *object = parse_json(result.out);
    ck_assert_int_eq(integer_of(object, "tokens"), 512);
    ck_assert_double_eq_tol(number_of(object, "nll") * 512 / sum, 1, 1e-5);
    json_decref(object);
    free_result(&result);
    free(text);
    json_decref(expected);
}
END_TEST

START_TEST(perplexity_of_text)
{
    const char *path = in_directory("story.txt");
    static const char story[] = "Once upon a time, there was a little girl.";
    test_write_file(path, story, strlen(story));
    struct result ids = run_well(story, "tokenize -m %s --no-bos", demo);
    struct result from_text = run_well("", "perplexity -m %s -f %s --json --chunk 5", demo, path);
    struct result from_ids = run_well(ids.out, "perplexity -m %s --tokens - --json --chunk 5",
                                      demo);
    json_t *a = parse_json(from_text.out);
    json_t *b = parse_json(from_ids.out);
    ck_assert_int_eq(integer_of(a, "tokens"), integer_of(b, "tokens"));
    ck_assert_double_eq(number_of(a, "nll"), number_of(b, "nll"));
    json_decref(a);
    json_decref(b);
    free_result(&ids);
    free_result(&from_text);
    free_result(&from_ids);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        logits_equal_the_goldens_in_chunks_and_whole, logits_leave_no_half_file,
        perplexity_of_ids, perplexity_of_the_first_chunk, perplexity_of_text,
    };
    return run_command_tests("logits and perplexity", tests, sizeof tests / sizeof tests[0]);
}
