/*
 * The sampling options of hymba generate: each has its effect, and values that turn a stage off
 * have none. What the stages do in detail is for tests/text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

enum { N_IDS = 24, MAX_LINE = 400 };

struct ids {
    json_int_t at[N_IDS];
};

static struct ids generate(const char *options)
{
    struct ids ids;
    struct result result =
        run_well("", "generate -n %d --threads 1 --ignore-eos --seed 3 --json %s", N_IDS,
                 options);
    json_t *object = parse_json(result.out);
    const json_t *array = json_object_get(object, "ids");
    ck_assert_uint_eq(json_array_size(array), N_IDS);
    for (size_t i = 0; i < N_IDS; i++)
        ids.at[i] = json_integer_value(json_array_get(array, i));
    json_decref(object);
    free_result(&result);
    return ids;
}

static void check_same(const char *a, const char *b)
{
    struct ids first = generate(a), second = generate(b);
    ck_assert_msg(memcmp(&first, &second, sizeof first) == 0, "'%s' differs from '%s'", a, b);
}

static void check_different(const char *a, const char *b)
{
    struct ids first = generate(a), second = generate(b);
    ck_assert_msg(memcmp(&first, &second, sizeof first) != 0, "'%s' is like '%s'", a, b);
}

START_TEST(defaults_are_those_of_the_help)
{
    check_same("", "--temp 0.8 --top-k 40 --top-p 0.95 --min-p 0.05");
    check_same("", "--typical 1 --top-nsigma 0 --xtc-probability 0 --repeat-penalty 1");
    check_same("", "--presence-penalty 0 --frequency-penalty 0 --dry-multiplier 0 --mirostat 0");
    check_same("", "--samplers penalties;dry;top_n_sigma;top_k;typical_p;top_p;min_p;xtc;"
                   "temperature");
    check_same("--mirostat 2", "--mirostat 2 --mirostat-lr 0.1 --mirostat-ent 5");
    check_same("--dry-multiplier 2", "--dry-multiplier 2 --dry-base 1.75 --dry-allowed-length 2 "
                                     "--dry-penalty-last-n -1");
    check_same("--xtc-probability 1", "--xtc-probability 1 --xtc-threshold 0.1");
}
END_TEST

static const char *const greedy[] = {"--top-k 1", "--top-p 0.000001", "--min-p 1",
                                     "--top-nsigma 0.000001", "--temp 0"};

START_TEST(cuts_may_leave_the_best_alone)
{
    for (size_t i = 0; i < sizeof greedy / sizeof *greedy; i++)
        check_same("--temp 0", greedy[i]);
}
END_TEST

static const char *const effective[] = {
    "--temp 2",
    "--top-k 2",
    "--top-p 0.4",
    "--min-p 0.4",
    "--typical 0.3",
    "--top-nsigma 1",
    "--xtc-probability 1",
    "--repeat-penalty 1.5",
    "--presence-penalty 2",
    "--frequency-penalty 2",
    "--mirostat 2 --mirostat-ent 1",
    "--samplers top_k",
    "--logit-bias 357+12",
};

START_TEST(each_option_has_an_effect)
{
    check_different("--temp 1.5 --top-p 1 --min-p 0 --top-k 0", "");
    for (size_t i = 0; i < sizeof effective / sizeof *effective; i++)
        check_different("", effective[i]);
    check_different("--mirostat 2", "--mirostat 2 --mirostat-ent 1");
    check_different("--mirostat 2 --mirostat-ent 2",
                    "--mirostat 2 --mirostat-ent 2 --mirostat-lr 1");
    check_different("--xtc-probability 1", "--xtc-probability 1 --xtc-threshold 0.02");
}
END_TEST

static size_t count_of(const struct ids *ids, json_int_t id)
{
    size_t count = 0;
    for (size_t i = 0; i < N_IDS; i++)
        count += ids->at[i] == id;
    return count;
}

START_TEST(biases_and_penalties_by_hand)
{
    struct ids ids = generate("--temp 0 --logit-bias 30+1000");
    ck_assert_uint_eq(count_of(&ids, 30), N_IDS);
    ids = generate("--temp 0 --logit-bias 30+1000 --logit-bias 31+1e6 --logit-bias 31-1e6");
    ck_assert_uint_eq(count_of(&ids, 30), N_IDS);
    ids = generate("--temp 0 --logit-bias 30+1000 --logit-bias 30-inf");
    ck_assert_uint_eq(count_of(&ids, 30), 0);
    /* No token comes twice; or only if it left the window. */
    ids = generate("--temp 0 --frequency-penalty 1000");
    for (size_t i = 0; i < N_IDS; i++)
        ck_assert_uint_eq(count_of(&ids, ids.at[i]), 1);
    check_same("--temp 0", "--temp 0 --frequency-penalty 1000 --repeat-last-n 0");
    ids = generate("--temp 0 --logit-bias 30+100 --logit-bias 31+90 --presence-penalty 1000 "
                   "--repeat-last-n 1");
    ck_assert_uint_eq(count_of(&ids, 30), N_IDS / 2);
    ck_assert_uint_eq(count_of(&ids, 31), N_IDS / 2);
}
END_TEST

/* One token is far the best; DRY lets it come again until a repetition is too long. */
START_TEST(dry_ends_repetitions)
{
    struct ids ids = generate("--temp 0 --logit-bias 30+40 --dry-multiplier 1000");
    ck_assert_int_eq(ids.at[0], 30);
    ck_assert_int_eq(ids.at[1], 30);
    ck_assert_int_eq(ids.at[2], 30);
    ck_assert_int_ne(ids.at[3], 30); /* would repeat "30 30" */
    ids = generate("--temp 0 --logit-bias 30+40 --dry-multiplier 1000 --dry-allowed-length 5");
    ck_assert_int_eq(ids.at[5], 30);
    ck_assert_int_ne(ids.at[6], 30);
    ids = generate("--temp 0 --logit-bias 30+40 --dry-multiplier 1000 --dry-penalty-last-n 0");
    ck_assert_uint_eq(count_of(&ids, 30), N_IDS);
    ids = generate("--temp 0 --logit-bias 30+40 --dry-multiplier 1000 --dry-penalty-last-n 2");
    ck_assert_uint_eq(count_of(&ids, 30), N_IDS); /* a repetition of 2 needs 3 tokens */
}
END_TEST

/* The token of the breaker's text is never held back. */
START_TEST(a_breaker_may_repeat)
{
    struct result piece = run_input("30\n", "detokenize -m examples/demo");
    ck_assert_int_eq(piece.status, 0);
    piece.out[strcspn(piece.out, "\n")] = '\0';
    const char *text = piece.out + strspn(piece.out, " ");
    char line[MAX_LINE];
    snprintf(line, sizeof line,
             "--temp 0 --logit-bias 30+40 --dry-multiplier 1000 --dry-sequence-breaker %s", text);
    struct ids ids = generate(line);
    ck_assert_uint_eq(count_of(&ids, 30), N_IDS);
    free_result(&piece);
    check_different("--temp 0 --logit-bias 30+40 --dry-multiplier 1000 --dry-sequence-breaker none",
                    line);
}
END_TEST

START_TEST(wrong_values_are_refused)
{
    static const struct {
        const char *options, *text;
    } cases[] = {
        {"--mirostat 1", "0|2"},
        {"--typical 1.5", "--typical"},
        {"--xtc-probability -1", "--xtc-probability"},
        {"--dry-base 0.5", "--dry-base"},
        {"--repeat-last-n -2", "--repeat-last-n"},
        {"--dry-penalty-last-n x", "--dry-penalty-last-n"},
        {"--logit-bias 30", "--logit-bias"},
        {"--logit-bias +1", "--logit-bias"},
        {"--logit-bias 30+", "--logit-bias"},
        {"--logit-bias 30+inf", "--logit-bias"},
        {"--logit-bias 30-1x", "--logit-bias"},
        {"--logit-bias 99999999999+1", "--logit-bias"},
    };
    char line[MAX_LINE];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(line, sizeof line, "generate %s", cases[i].options);
        check_refused(2, "", cases[i].text, line);
    }
    check_refused(1, "", "order", "generate --samplers top_k;heat");
    check_refused(1, "", "twice", "generate --samplers top_k;min_p;top_k");
    check_refused(1, "", "custom", "generate --samplers custom");
    check_refused(1, "", "breaker",
                  "generate --dry-multiplier 1 --dry-sequence-breaker no-token-has-this-text");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        defaults_are_those_of_the_help, cuts_may_leave_the_best_alone, each_option_has_an_effect,
        biases_and_penalties_by_hand,   dry_ends_repetitions,          a_breaker_may_repeat,
        wrong_values_are_refused,
    };
    return run_command_tests("sampling", tests, sizeof tests / sizeof tests[0]);
}
