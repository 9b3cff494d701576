#include "base/random.h"

#include <math.h>
#include <string.h>

#include "support.h"

/* Philox 4x32-10 once more, with its whole counter, written from the paper's description: the
 * published known answers check this one, and this one checks the library's for many inputs. */
static void reference_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    memcpy(words, counter, 4 * sizeof *words);
    for (int round = 0; round < 10; round++) {
        uint64_t low = (uint64_t)words[0] * 0xD2511F53u;
        uint64_t high = (uint64_t)words[2] * 0xCD9E8D57u;
        uint32_t next[4] = {(uint32_t)(high >> 32) ^ words[1] ^ k0, (uint32_t)high,
                            (uint32_t)(low >> 32) ^ words[3] ^ k1, (uint32_t)low};
        memcpy(words, next, sizeof next);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

START_TEST(known_answers)
{
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t words[4];
        reference_philox(cases[i].counter, cases[i].key, words);
        ck_assert_mem_eq(words, cases[i].words, sizeof words);
    }
    uint32_t words[4];
    hy_random_block(0, 0, words);
    ck_assert_mem_eq(words, cases[0].words, sizeof words);
}
END_TEST

START_TEST(block_is_philox)
{
    uint64_t key = 1, position = 2;
    for (int i = 0; i < 1000; i++) {
        uint32_t expected[4], words[4];
        const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
        const uint32_t key_words[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
        reference_philox(counter, key_words, expected);
        hy_random_block(key, position, words);
        ck_assert_mem_eq(words, expected, sizeof words);
        key = key * 6364136223846793005u + 1;
        position = position * 2862933555777941757u + 3037000493u;
    }
}
END_TEST

START_TEST(unit_is_uniform)
{
    enum { BINS = 64, DRAWS = 64000 };
    uint64_t key = hy_random_key(7, "uniform"), counter = 0;
    int bins[BINS] = {0};
    double sum = 0, product = 0, last = 0.5;
    for (int i = 0; i < DRAWS; i++) {
        double value = hy_random_unit(key, &counter);
        ck_assert(value >= 0 && value < 1);
        bins[(int)(value * BINS)]++;
        sum += value - 0.5;
        product += (value - 0.5) * (last - 0.5);
        last = value;
    }
    ck_assert_uint_eq(counter, DRAWS);
    double chi_square = 0;
    for (int i = 0; i < BINS; i++)
        chi_square += pow(bins[i] - DRAWS / BINS, 2) / (DRAWS / BINS);
    /* 63 degrees of freedom: mean 63, standard deviation 11.2; the seed is fixed. */
    ck_assert_double_gt(chi_square, 63 - 4 * 11.2);
    ck_assert_double_lt(chi_square, 63 + 4 * 11.2);
    ck_assert_double_lt(fabs(sum / DRAWS), 4 * 0.289 / sqrt(DRAWS));
    ck_assert_double_lt(fabs(product / DRAWS), 4 / 12.0 / sqrt(DRAWS));
}
END_TEST

START_TEST(unit_uses_the_counter)
{
    uint64_t first = 5, second = 5, wrap = UINT64_MAX;
    double value = hy_random_unit(3, &first);
    ck_assert(value == hy_random_unit(3, &second));
    ck_assert(value != hy_random_unit(3, &second));
    hy_random_unit(3, &wrap);
    ck_assert_uint_eq(wrap, 0);
}
END_TEST

START_TEST(keys_differ)
{
    static const char *const names[] = {"", "a", "b", "aa", "ab", "ba", "layer.1", "layer.11"};
    enum { NAMES = sizeof names / sizeof *names, SEEDS = 64 };
    uint64_t keys[NAMES * SEEDS];
    for (size_t i = 0; i < NAMES * SEEDS; i++)
        keys[i] = hy_random_key(i / NAMES, names[i % NAMES]);
    for (size_t i = 0; i < NAMES * SEEDS; i++) {
        ck_assert_uint_eq(keys[i], hy_random_key(i / NAMES, names[i % NAMES]));
        for (size_t j = 0; j < i; j++)
            ck_assert_uint_ne(keys[i], keys[j]);
    }
}
END_TEST

START_TEST(key_bits_spread)
{
    /* One bit of the seed changes half of the key's 64 bits, within 5 standard deviations (4). */
    double changed = 0;
    for (int bit = 0; bit < 64; bit++) {
        uint64_t difference =
            hy_random_key(42, "weights") ^ hy_random_key(42 ^ ((uint64_t)1 << bit), "weights");
        int count = __builtin_popcountll(difference);
        ck_assert_int_gt(count, 32 - 20);
        ck_assert_int_lt(count, 32 + 20);
        changed += count;
    }
    ck_assert_double_lt(fabs(changed / 64 - 32), 2.5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("random");
    TCase *tests = tcase_create("random");
    tcase_add_test(tests, known_answers);
    tcase_add_test(tests, block_is_philox);
    tcase_add_test(tests, unit_is_uniform);
    tcase_add_test(tests, unit_uses_the_counter);
    tcase_add_test(tests, keys_differ);
    tcase_add_test(tests, key_bits_spread);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
