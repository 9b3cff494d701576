#include "run/gptq.h"

#include <string.h>

#include "base/checked.h"
#include "tensor/dtype.h"

/* Columns that are eliminated together, before the rest is updated by one product. */
enum { BLOCK = 64, LANES = 8 };

/* Of the mean of the diagonal: added to it, since the text does not show all that may come. */
static const float damping = 0.01f;

/* ---------------------------------------------------------------- factoring */

/* Returns what was added: no pivot can be less, but for rounding. */
static float damp(float *gram, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += gram[i * n + i];
    float added = damping * (float)(sum / (double)n);
    if (added < 0x1p-60f) /* inputs that are always 0 */
        added = 1;
    for (size_t i = 0; i < n; i++)
        gram[i * n + i] += added;
    return added;
}

/* Eliminates rows begin to end among themselves; they become rows of M. */
static void eliminate(float *gram, size_t n, size_t begin, size_t end, float least, float *d)
{
    for (size_t j = begin; j < end; j++) {
        float *row = gram + j * n;
        d[j] = row[j] > least ? row[j] : least;
        float inverse = 1.0f / d[j];
        for (size_t k = j + 1; k < end; k++) {
            float factor = row[k] * inverse, *target = gram + k * n;
            for (size_t i = k; i < n; i++)
                target[i] -= factor * row[i];
        }
        for (size_t i = j + 1; i < n; i++)
            row[i] *= inverse;
    }
}

/* The rows below end: minus the eliminated ones' M^T D M, as a product of two [rest][BLOCK]. */
static void update_rest(struct hy_backend *backend, float *gram, size_t n, size_t begin,
                        size_t end, const float *d, float *left, float *right)
{
    size_t rest = n - end, block = end - begin;
    for (size_t j = begin; j < end; j++) {
        const float *row = gram + j * n + end;
        for (size_t i = 0; i < rest; i++) {
            left[i * block + j - begin] = -d[j] * row[i];
            right[i * block + j - begin] = row[i];
        }
    }
    struct hy_matmul_args args = {
        .x = left,
        .x_stride = block,
        .m = rest,
        .n = rest,
        .k = block,
        .w = right,
        .dtype = HYMBA_DTYPE_F32,
        .w_stride = block,
        .accumulate = true,
        .y = gram + end * n + end,
        .y_stride = n,
    };
    if (rest > 0)
        hy_backend_matmul(backend, &args);
}

hymba_status hy_factor_gram(struct hy_memory *memory, struct hy_backend *backend, float *gram,
                            size_t n, float *d, hymba_error *error)
{
    float *left = hy_alloc_array(memory, n, BLOCK * sizeof(float));
    float *right = hy_alloc_array(memory, n, BLOCK * sizeof(float));
    hymba_status status = HYMBA_OK;
    if (!left || !right)
        status = hy_no_memory(error, n * BLOCK * sizeof(float), "factoring a Gram matrix");
    float least = status == HYMBA_OK ? damp(gram, n) / 2 : 0;
    for (size_t begin = 0; begin < n && status == HYMBA_OK; begin += BLOCK) {
        size_t end = hy_min_size(begin + BLOCK, n);
        eliminate(gram, n, begin, end, least, d);
        update_rest(backend, gram, n, begin, end, d, left, right);
    }
    hy_free(memory, left);
    hy_free(memory, right);
    return status;
}

/* ------------------------------------------------------------------ rounding */

static float dot(const float *a, const float *b, size_t n)
{
    float lanes[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (int j = 0; j < LANES; j++)
        sum += lanes[j];
    return sum;
}

/*
 * One group of a row: wanted holds the values with the errors of all later groups made up for.
 * In row, weights become errors, original minus rounded.
 */
static void encode_group(const struct hy_factor *factor, const struct hy_scheme *scheme,
                         size_t begin, const float *wanted, float *row, unsigned char *bytes,
                         uint16_t *scale)
{
    size_t group = scheme->group, end = begin + group;
    int integers[HY_LARGEST_MADE_GROUP];
    *scale = hy_find_scale(wanted, factor->d + begin, group, scheme->dtype);
    float step = hy_bf16_to_f32(*scale);
    for (size_t i = group; i-- > 0;) {
        size_t column = begin + i;
        float value = wanted[i] + dot(factor->m + column * factor->n + column + 1,
                                      row + column + 1, end - column - 1);
        integers[i] = hy_round_to_scale(value, *scale, scheme->dtype);
        row[column] -= step * (float)integers[i];
    }
    hy_pack_integers(integers, group, scheme->dtype, bytes);
}

void hy_encode_with_feedback(void *user, float *values, size_t n, size_t columns,
                             const struct hy_scheme *scheme, unsigned char *bytes,
                             uint16_t *scales)
{
    const struct hy_factor *factor = user;
    size_t group = scheme->group, groups = columns / group;
    float wanted[HY_ENCODED_ROWS][HY_LARGEST_MADE_GROUP];
    for (size_t g = groups; g-- > 0;) {
        size_t begin = g * group, end = begin + group;
        for (size_t i = 0; i < group; i++) { /* a row of M serves all rows of the matrix */
            const float *m = factor->m + (begin + i) * factor->n + end;
            for (size_t r = 0; r < n; r++)
                wanted[r][i] = values[r * columns + begin + i] +
                               dot(m, values + r * columns + end, columns - end);
        }
        for (size_t r = 0; r < n; r++)
            encode_group(factor, scheme, begin, wanted[r], values + r * columns,
                         bytes + r * hy_row_bytes(scheme->dtype, columns) +
                             hy_row_bytes(scheme->dtype, begin),
                         scales + r * groups + g);
    }
}
