#include "base/random.h"

enum { PHILOX_ROUNDS = 10 };

static const uint32_t PHILOX_MULTIPLIER[2] = {0xD2511F53u, 0xCD9E8D57u};
static const uint32_t PHILOX_KEY_STEP[2] = {0x9E3779B9u, 0xBB67AE85u};

static void philox_round(uint32_t words[4], const uint32_t key[2])
{
    uint64_t first = (uint64_t)PHILOX_MULTIPLIER[0] * words[0];
    uint64_t second = (uint64_t)PHILOX_MULTIPLIER[1] * words[2];
    words[0] = (uint32_t)(second >> 32) ^ words[1] ^ key[0];
    words[1] = (uint32_t)second;
    words[2] = (uint32_t)(first >> 32) ^ words[3] ^ key[1];
    words[3] = (uint32_t)first;
}

void hy_random_block(uint64_t key, uint64_t counter, uint32_t words[4])
{
    uint32_t round_key[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    words[0] = (uint32_t)counter;
    words[1] = (uint32_t)(counter >> 32);
    words[2] = 0;
    words[3] = 0;
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        philox_round(words, round_key);
        round_key[0] += PHILOX_KEY_STEP[0];
        round_key[1] += PHILOX_KEY_STEP[1];
    }
}

/* A bijection on 64-bit numbers in which every input bit changes about half of the output
 * (the finaliser of SplitMix64). */
static uint64_t mix(uint64_t value)
{
    value += 0x9E3779B97F4A7C15u;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

uint64_t hy_random_key(uint64_t seed, const char *name)
{
    uint64_t key = mix(seed);
    for (; *name; name++)
        key = mix(key ^ (unsigned char)*name);
    /* Once more, so that a name and its extensions are no steps of one another. */
    return mix(key ^ 0xFF00u);
}

double hy_random_unit(uint64_t key, uint64_t *counter)
{
    uint32_t words[4];
    hy_random_block(key, *counter, words);
    *counter += 1;
    uint64_t bits = ((uint64_t)words[1] << 32) | words[0];
    return (double)(bits >> 11) * 0x1p-53;
}
