/* Where the lanes of a warp meet: shuffles, votes, warp barriers, products, loads of matrices. */
#include "running.h"


namespace {

/* What a lane brings to where its warp meets. */
struct offer {
    enum harness_meeting kind;
    uint32_t value;
    uint32_t a[4], b[2];
    float d[4];
};

/* Offers of one meeting are read while those of the next one come in. */
struct warp {
    struct offer offers[2][WARP];
    unsigned turn, arrived;
};

struct warp warps[MAX_WARPS];

} // namespace

void meetings_begin()
{
    for (unsigned i = 0; i < running.threads / WARP; i++)
        warps[i].arrived = 0;
}

unsigned meetings_arrived(unsigned warp)
{
    return warps[warp].arrived;
}

static float from_bf16(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* All lanes' fragments to matrices, the product, and back; layout as in portable.h. */
static void multiply(struct offer *offers, bool is_bf16)
{
    float a[16][16], b[16][8], d[16][8];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const struct offer *o = &offers[lane];
        unsigned row = lane / 4, column = 2 * (lane % 4);
        for (unsigned i = 0; i < 2; i++) {
            unsigned shift = 16 * i;
            for (unsigned j = 0; j < 4; j++) {
                uint16_t bits = (uint16_t)(o->a[j] >> shift);
                a[row + j % 2 * 8][column + j / 2 * 8 + i] =
                    is_bf16 ? from_bf16(bits) : harness_from_f16(bits);
            }
            for (unsigned j = 0; j < 2; j++) {
                uint16_t bits = (uint16_t)(o->b[j] >> shift);
                b[column + 8 * j + i][row] = is_bf16 ? from_bf16(bits) : harness_from_f16(bits);
            }
            d[row][column + i] = o->d[i];
            d[row + 8][column + i] = o->d[2 + i];
        }
    }
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned j = 0; j < 8; j++)
                d[i][j] += a[i][k] * b[k][j];
    for (unsigned lane = 0; lane < WARP; lane++) {
        unsigned row = lane / 4, column = 2 * (lane % 4);
        for (unsigned i = 0; i < 2; i++) {
            offers[lane].d[i] = d[row][column + i];
            offers[lane].d[2 + i] = d[row + 8][column + i];
        }
    }
}

/* All lanes have come. */
static void hold_meeting(struct warp *warp, struct offer *offers)
{
    enum harness_meeting kind = offers[0].kind;
    for (unsigned lane = 1; lane < WARP; lane++)
        if (offers[lane].kind != kind) {
            harness_report(HARNESS_WARP, "lanes 0 and %u of its warp meet in different operations",
                           lane);
            break;
        }
    if (kind == HARNESS_SYNC_WARP)
        running.warp_epochs[harness_now.thread / WARP]++;
    else if (kind == HARNESS_MMA_BF16 || kind == HARNESS_MMA_F16)
        multiply(offers, kind == HARNESS_MMA_BF16);
    warp->arrived = 0;
    warp->turn ^= 1;
}

/* The offers of the warp's lanes, once all have come. */
static const struct offer *meet(const struct offer *mine)
{
    unsigned thread = harness_now.thread, first = thread / WARP * WARP;
    struct warp *warp = &warps[thread / WARP];
    struct offer *offers = warp->offers[warp->turn];
    offers[thread % WARP] = *mine;
    if (++warp->arrived < WARP) {
        running_wait(AT_MEETING);
        return offers;
    }
    hold_meeting(warp, offers);
    for (unsigned i = first; i < first + WARP; i++)
        running.states[i] = READY;
    return offers;
}

uint32_t harness_exchange(enum harness_meeting kind, uint32_t value, unsigned argument)
{
    struct offer mine;
    mine.kind = kind;
    mine.value = value;
    const struct offer *offers = meet(&mine);
    unsigned lane = harness_now.thread % WARP, from = lane;
    if (kind == HARNESS_BALLOT) {
        uint32_t votes = 0;
        for (unsigned i = 0; i < WARP; i++)
            votes |= (uint32_t)(offers[i].value != 0) << i;
        return votes;
    }
    if (kind == HARNESS_SHUFFLE_XOR)
        from = lane ^ argument;
    else if (kind == HARNESS_SHUFFLE_DOWN)
        from = argument < WARP ? lane + argument : lane;
    else if (kind == HARNESS_SHUFFLE)
        from = argument % WARP;
    return from < WARP ? offers[from].value : value;
}

void harness_mma(enum harness_meeting kind, float d[4], const uint32_t a[4], const uint32_t b[2])
{
    struct offer mine;
    mine.kind = kind;
    mine.value = 0;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    memcpy(mine.d, d, sizeof mine.d);
    const struct offer *offers = meet(&mine);
    memcpy(d, offers[harness_now.thread % WARP].d, sizeof mine.d);
}

/* Each lane reads the row that it names, then takes its numbers out of all. */
void harness_load_matrices(enum harness_meeting kind, size_t base, size_t count, size_t i,
                           uint32_t words[4])
{
    struct offer mine = {};
    mine.kind = kind;
    harness_shared_load(base, count, i, mine.a, sizeof mine.a);
    const struct offer *offers = meet(&mine);
    const unsigned lane = harness_now.thread % WARP, across = lane / 4, along = 2 * (lane % 4);
    for (unsigned m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; j++) {
            unsigned row = across, column = along + j;
            if (kind == HARNESS_MATRICES_TRANSPOSED)
                row = along + j, column = across;
            memcpy(&pair[j], (const unsigned char *)offers[8 * m + row].a + 2 * column, 2);
        }
        words[m] = pair[0] | (uint32_t)pair[1] << 16;
    }
}
