#include "text/log_probabilities.h"

#include <math.h>
#include <stdbool.h>

#include "text/exponential.h"

hymba_status hy_check_logits(const float *logits, size_t n_logits, hymba_error *error)
{
    bool any = false;
    if (!logits || n_logits == 0 || n_logits > INT32_MAX)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "expected 1 to %d logits, got %zu", INT32_MAX,
                       logits ? n_logits : 0);
    for (size_t i = 0; i < n_logits; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i, "logit %zu is %s", i,
                              isnan(logits[i]) ? "not a number" : "positive infinity");
        any = any || logits[i] > -INFINITY;
    }
    if (!any)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "all %zu logits are negative infinity, there is nothing to choose",
                       n_logits);
    return HYMBA_OK;
}

/* Until the end, log_probability holds the logit. */
static bool is_worse(const hymba_token_probability *a, const hymba_token_probability *b)
{
    return a->log_probability < b->log_probability ||
           (a->log_probability == b->log_probability && a->token > b->token);
}

/* A heap with the worst on top. */
static void sift_down(hymba_token_probability *heap, size_t count, size_t parent)
{
    hymba_token_probability moving = heap[parent];
    for (size_t child = 2 * parent + 1; child < count; child = 2 * parent + 1) {
        if (child + 1 < count && is_worse(&heap[child + 1], &heap[child]))
            child++;
        if (!is_worse(&heap[child], &moving))
            break;
        heap[parent] = heap[child];
        parent = child;
    }
    heap[parent] = moving;
}

/* The n_top greatest logits, the greatest first. */
static void find_top(const float *logits, size_t n_logits, hymba_token_probability *top,
                     size_t n_top)
{
    for (size_t i = 0; i < n_top; i++)
        top[i] = (hymba_token_probability){(int32_t)i, logits[i]};
    for (size_t parent = n_top / 2; parent-- > 0;)
        sift_down(top, n_top, parent);
    for (size_t i = n_top; i < n_logits; i++) {
        hymba_token_probability found = {(int32_t)i, logits[i]};
        if (is_worse(&found, &top[0]))
            continue;
        top[0] = found;
        sift_down(top, n_top, 0);
    }
    for (size_t count = n_top; count-- > 1;) {
        hymba_token_probability worst = top[0];
        top[0] = top[count];
        sift_down(top, count, 0);
        top[count] = worst;
    }
}

hymba_status hy_log_probabilities(const float *logits, size_t n_logits, int32_t token,
                                  float *log_probability, hymba_token_probability *top,
                                  size_t n_top, hymba_error *error)
{
    hymba_status status = hy_check_logits(logits, n_logits, error);
    if (status != HYMBA_OK)
        return status;
    if (log_probability && (token < 0 || (size_t)token >= n_logits))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "token: found %d, expected 0 to %zu",
                       (int)token, n_logits - 1);
    if (n_top > n_logits)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "n_top: found %zu, expected at most %zu", n_top,
                       n_logits);
    double best = -INFINITY, total = 0;
    for (size_t i = 0; i < n_logits; i++)
        best = logits[i] > best ? logits[i] : best;
    for (size_t i = 0; i < n_logits; i++)
        total += hy_exponential(logits[i] - best);
    double log_total = hy_logarithm(total);
    if (log_probability)
        *log_probability = (float)((logits[token] - best) - log_total);
    if (n_top > 0)
        find_top(logits, n_logits, top, n_top);
    for (size_t i = 0; i < n_top; i++)
        top[i].log_probability = (float)((top[i].log_probability - best) - log_total);
    return HYMBA_OK;
}
