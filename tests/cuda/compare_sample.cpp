#include "compare_parts.h"

extern "C" {
#include "text/candidates.h"
}

static std::vector<struct hy_sample_change> some_changes(bench &b, size_t n_logits)
{
    std::vector<struct hy_sample_change> changes;
    for (size_t token = b.below(3); token < n_logits; token += 1 + b.below(40))
        changes.push_back({(int32_t)token, b.coin() ? (float)b.below(5) - 2 : 0,
                           b.coin() ? (uint32_t)b.below(4) : 0});
    return changes;
}

static struct hy_sample_row some_row(bench &b,
                                     const std::vector<struct hy_sample_change> &changes)
{
    static const float shares[] = {0.1f, 0.6f, 0.95f, 0.9999f};
    struct hy_sample_row row = {};
    row.changes = changes.data();
    row.n_changes = changes.size();
    row.draw = (double)b.below(1 << 20) / (1 << 20);
    row.greedy = b.below(6) == 0;
    row.top_k = 1 + (int32_t)b.below(b.coin() ? 60 : 3000);
    row.top_p = shares[b.below(4)];
    row.min_p = shares[b.below(4)] * 0.1f;
    row.temperature = 0.3f + (float)b.below(20) * 0.1f;
    row.repeat_penalty = b.coin() ? 1.3f : 0;
    row.presence_penalty = (float)b.below(3) * 0.25f;
    row.frequency_penalty = (float)b.below(3) * 0.125f;
    for (int32_t stage = HY_SAMPLE_TOP_K; stage <= HY_SAMPLE_TEMPERATURE; stage++)
        if (b.coin())
            row.stages[row.n_stages++] = stage;
    return row;
}

/* The very same tokens. */
static void compare_sample_of(bench &b, size_t n_logits, size_t n_rows, float scale)
{
    const size_t stride = n_logits + b.below(3);
    floats logits = b.some(n_rows * stride, scale);
    std::vector<std::vector<struct hy_sample_change>> changes;
    std::vector<struct hy_sample_row> rows;
    std::vector<struct hy_candidate> items(n_logits);
    std::vector<int32_t> expected(n_rows);
    for (float &logit : logits)
        logit = b.below(50) == 0 ? -INFINITY : b.coin() ? logit : floorf(logit);
    logits[(n_rows - 1) * stride] = NAN;
    for (size_t i = 0; i < n_rows; i++) {
        changes.push_back(some_changes(b, n_logits));
        rows.push_back(some_row(b, changes.back()));
        rows.back().row = n_rows - 1 - i;
        expected[i] = hy_sample_row_plainly(&rows[i], logits.data() + rows[i].row * stride,
                                            n_logits, items.data());
    }
    int32_t *tokens = b.put(std::vector<int32_t>(n_rows, -7));
    struct hy_sample_args args = {b.put(logits), stride, n_logits, rows.data(), n_rows, tokens};
    b.ops->sample(b.device, &args);
    rows.assign(rows.size(), {}); /* lists may be gone when the call has returned */
    for (auto &list : changes)
        list.assign(list.size(), {});
    const std::vector<int32_t> actual = b.get(tokens, n_rows);
    for (size_t i = 0; i < n_rows; i++)
        if (actual[i] != expected[i])
            b.fail("sample: row %zu of %zu logits has token %d, generic C has %d", i, n_logits,
                   (int)actual[i], (int)expected[i]);
}

void compare_sample(bench &b)
{
    compare_sample_of(b, 1 + b.below(600), 40, 8);
    compare_sample_of(b, 5000, 20, 12);
    compare_sample_of(b, 32001, 4, 4);
}
