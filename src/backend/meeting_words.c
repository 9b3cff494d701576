#include "backend/meeting_words.h"

#include <stdio.h>
#include <string.h>

enum {
    MARK_BYTES = 8,
    LONGEST_PIECE = 24 /* " and 255" and the dots, with room to spare */
};

_Static_assert(HY_MAX_RANKS <= HY_UNIQUE_ID_BYTES * 8, "an answer has a bit for each rank");

static const unsigned char greeting_mark[MARK_BYTES] = {'h', 'y', 'm', 'b', 'a', ' ', 'g', 'o'};
static const unsigned char answer_mark[MARK_BYTES] = {'h', 'y', 'm', 'b', 'a', ' ', 'i', 'd'};

static uint32_t read_u32(const unsigned char *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static void write_u32(unsigned char *bytes, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (unsigned char)(number >> 8 * i);
}

/* A mark, three numbers and a zero: the beginning of all words. */
static bool read_head(const unsigned char *bytes, const unsigned char *mark, uint32_t *numbers)
{
    for (int i = 0; i < 3; i++)
        numbers[i] = read_u32(bytes + MARK_BYTES + 4 * i);
    return memcmp(bytes, mark, MARK_BYTES) == 0 && read_u32(bytes + MARK_BYTES + 12) == 0;
}

static void write_head(unsigned char *bytes, const unsigned char *mark, const uint32_t *numbers)
{
    memcpy(bytes, mark, MARK_BYTES);
    for (int i = 0; i < 3; i++)
        write_u32(bytes + MARK_BYTES + 4 * i, numbers[i]);
    write_u32(bytes + MARK_BYTES + 12, 0);
}

bool hy_greeting_read(const unsigned char *bytes, struct hy_greeting *greeting)
{
    uint32_t numbers[3];
    bool known = read_head(bytes, greeting_mark, numbers);
    *greeting = (struct hy_greeting){numbers[0], numbers[1], numbers[2]};
    return known;
}

void hy_greeting_write(const struct hy_greeting *greeting, unsigned char *bytes)
{
    const uint32_t numbers[3] = {greeting->version, greeting->rank, greeting->world_size};
    write_head(bytes, greeting_mark, numbers);
}

bool hy_answer_read(const unsigned char *bytes, struct hy_answer *answer)
{
    uint32_t numbers[3];
    bool known = read_head(bytes, answer_mark, numbers);
    *answer = (struct hy_answer){.version = numbers[0], .verdict = numbers[1],
                                 .number = numbers[2]};
    memcpy(answer->id, bytes + HY_GREETING_BYTES, sizeof answer->id);
    return known;
}

void hy_answer_write(const struct hy_answer *answer, unsigned char *bytes)
{
    const uint32_t numbers[3] = {answer->version, answer->verdict, answer->number};
    write_head(bytes, answer_mark, numbers);
    memcpy(bytes + HY_GREETING_BYTES, answer->id, sizeof answer->id);
}

enum hy_verdict hy_greeting_judge(const struct hy_greeting *greeting, uint32_t world_size,
                                  const unsigned char *present)
{
    if (greeting->version != HY_MEETING_VERSION)
        return HY_OTHER_VERSION;
    if (greeting->world_size != world_size)
        return HY_OTHER_SIZE;
    if (greeting->rank == 0 || greeting->rank >= world_size)
        return HY_NO_SUCH_RANK;
    return hy_rank_is_in(present, greeting->rank) ? HY_RANK_TAKEN : HY_WELCOME;
}

bool hy_rank_is_in(const unsigned char *ranks, uint32_t rank)
{
    return ranks[rank / 8] >> rank % 8 & 1;
}

void hy_ranks_describe(const unsigned char *ranks, uint32_t world_size, char *text,
                       size_t capacity)
{
    uint32_t n = 0, done = 0;
    for (uint32_t rank = 0; rank < world_size; rank++)
        n += hy_rank_is_in(ranks, rank);
    size_t used = (size_t)snprintf(text, capacity, n == 1 ? "rank " : "ranks ");
    for (uint32_t rank = 0; rank < world_size && used + LONGEST_PIECE < capacity; rank++)
        if (hy_rank_is_in(ranks, rank)) {
            const char *before = done == 0 ? "" : done + 1 == n ? " and " : ", ";
            used += (size_t)snprintf(text + used, capacity - used, "%s%u", before,
                                     (unsigned)rank);
            done++;
        }
    if (done < n)
        snprintf(text + used, capacity - used, ", ...");
}
