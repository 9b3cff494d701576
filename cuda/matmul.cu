/*
 * y = x w^T (+ bias) (+ y), in panels of rows.
 *
 * cuBLASLt picks another kernel for another number of rows, and then a row's sums run in another
 * order. So all calls for a matrix have one shape: rows are multiplied in panels of a fixed number,
 * what the last panel lacks being room that nobody reads: that of the caller (hy_matmul_args), or
 * else a copy with room. For that shape an algorithm is chosen once (product.cu), which depends on
 * what the key of a product holds alone: shape and type of the matrix, how it lies in memory, and
 * how far apart the rows of activations and of results are, which is the same for all that a model
 * multiplies by it. tests/cuda/check_cuda compares bits on the device at hand.
 *
 * The panel is as wide as costs nothing beside reading the weights once: with m rows, 2 m
 * operations for each weight of two bytes, and devices make some 150 to 250 operations on 16-bit
 * numbers in the time in which they read a byte. In f32 they make a tenth of that. On 8-bit numbers
 * they make twice as many, for weights of one byte.
 *
 * Products of 8 bits end in a panel of sums, int32 or f32, from where a kernel scales those of the
 * rows that count: cuBLASLt has no epilogue for that on all devices.
 */
#include "matmul.h"

#include "copy_rows.h"
#include "matmul_quantised.h"
#include "product.h"
#include "scale_sums.h"
#include "widen.h"

extern "C" {
#include "kernel/by_rows.h"
}

enum { PANEL_ROWS_16 = HY_PANEL_ROWS, PANEL_ROWS_32 = 32 };

/* Columns that one call computes, at most, which bounds the panel of results; and bytes of weights
 * that are widened together. */
enum { MOST_COLUMNS = 16384, WIDENED_BYTES = 32 << 20 };

static size_t panel_rows(cudaDataType_t type)
{
    return type == CUDA_R_32F ? PANEL_ROWS_32 : PANEL_ROWS_16;
}

/* Elements from row to row of a panel, where they are `given` in the caller's memory, n of which
 * count: as there, if that will do. */
static size_t panel_stride(cudaDataType_t type, size_t given, size_t n)
{
    return hy_round_up(hy_max_size(given, n), HY_PRODUCT_ALIGNMENT / hy_product_element_bytes(type));
}

/* ------------------------------------------------------------------ panels */

/* Columns [first, first + n) of a product, whose weights lie at w. */
struct columns {
    const struct hy_matmul_args *args;
    cudaDataType_t type;
    const unsigned char *x; /* [m][x_stride] */
    size_t x_stride;
    const void *w;
    size_t w_stride;
    size_t first, n;
};

/* A panel's operands where cuBLASLt can take them, n_rows of them the caller's. */
struct panel {
    size_t row, n_rows;
    const void *x;
    void *y;
};

static bool is_aligned(const void *data)
{
    return (uintptr_t)data % HY_PRODUCT_ALIGNMENT == 0;
}

static bool copy_rows(struct hy_device *device, void *to, size_t to_stride, const void *from,
                      size_t from_stride, size_t width, size_t n_rows)
{
    struct hy_copy_rows_args args = {to, to_stride, from, from_stride, width, n_rows};
    hy_cuda_copy_rows(device->stream, &args);
    return hy_cuda_check_launch(device, "copying rows of a product");
}

/* Whether the caller's memory has a whole panel's rows there. */
static bool has_rows(const struct columns *columns, const struct panel *panel)
{
    const struct hy_matmul_args *args = columns->args;
    return args->m + args->room - panel->row >= panel_rows(columns->type);
}

static bool place_x(struct hy_device *device, const struct columns *columns, size_t stride,
                    struct panel *panel)
{
    size_t element = hy_product_element_bytes(columns->type), rows = panel_rows(columns->type);
    size_t from_bytes = columns->x_stride * element;
    const unsigned char *from = columns->x + panel->row * from_bytes;
    panel->x = from;
    if (has_rows(columns, panel) && columns->x_stride == stride && is_aligned(from))
        return true;
    panel->x = NULL;
    if (hy_cuda_reserve(device, &device->x_panel, rows * stride * element,
                        "taking memory for activations"))
        panel->x = device->x_panel.data;
    /* Whole words: a rounded row has room behind an odd number of elements. */
    size_t width = hy_is_product_of_8_bits(columns->type) ? hy_padded_row(columns->args->k)
                                            : hy_round_up(columns->args->k * element, 4);
    return panel->x
           && copy_rows(device, device->x_panel.data, stride * element, from, from_bytes, width,
                        panel->n_rows);
}

static float *result_of(const struct columns *columns, size_t row)
{
    return columns->args->y + row * columns->args->y_stride + columns->first;
}

/* With the old results if they are added to. */
static bool place_y(struct hy_device *device, const struct columns *columns, size_t stride,
                    struct panel *panel)
{
    size_t rows = panel_rows(columns->type), from_stride = columns->args->y_stride;
    float *y = result_of(columns, panel->row);
    panel->y = y;
    if (has_rows(columns, panel) && from_stride == stride && is_aligned(y))
        return true;
    if (!hy_cuda_reserve(device, &device->y_panel, rows * stride * sizeof(float),
                         "taking memory for results"))
        return false;
    panel->y = device->y_panel.data;
    return !columns->args->accumulate
           || copy_rows(device, panel->y, stride * sizeof(float), y, from_stride * sizeof(float),
                        columns->n * sizeof(float), panel->n_rows);
}

/* For sums of 8-bit products, which are scaled from there. */
static bool place_sums(struct hy_device *device, const struct columns *columns, size_t stride,
                       struct panel *panel)
{
    static_assert(sizeof(int32_t) == sizeof(float), "sums of either type");
    bool placed = hy_cuda_reserve(device, &device->y_panel,
                                  panel_rows(columns->type) * stride * sizeof(float),
                                  "taking memory for sums");
    panel->y = device->y_panel.data;
    return placed;
}

/* The panel's sums as results. */
static bool scale(struct hy_device *device, const struct columns *columns, size_t stride,
                  const struct panel *panel)
{
    const struct hy_matmul_args *args = columns->args;
    struct hy_scale_sums_args scaled = {};
    scaled.sums = panel->y;
    scaled.sums_stride = stride;
    scaled.integers = columns->type == CUDA_R_8I;
    scaled.row_scales = args->rounded->scales + panel->row;
    scaled.column_scales = (const float *)args->w_scales + columns->first;
    scaled.bias = args->bias ? args->bias + columns->first : NULL;
    scaled.accumulate = args->accumulate;
    scaled.y = result_of(columns, panel->row);
    scaled.y_stride = args->y_stride;
    scaled.n = columns->n;
    scaled.n_rows = panel->n_rows;
    hy_cuda_scale_sums(device->stream, &scaled);
    return hy_cuda_check_launch(device, "scaling sums of a product");
}

static bool multiply_panel(struct hy_device *device, struct hy_product *product,
                           const struct hy_product_key *key, const struct columns *columns,
                           size_t row)
{
    struct panel panel = {};
    panel.row = row;
    panel.n_rows = hy_min_size(columns->args->m - row, panel_rows(columns->type));
    bool narrow = hy_is_product_of_8_bits(columns->type);
    const float *bias = columns->args->bias;
    size_t y_stride = key->y_stride;
    if (!place_x(device, columns, key->x_stride, &panel)
        || !(narrow ? place_sums : place_y)(device, columns, y_stride, &panel)
        || !hy_cuda_multiply(device, product, columns->w, panel.x,
                             bias ? bias + columns->first : NULL, panel.y))
        return false;
    if (narrow)
        return scale(device, columns, y_stride, &panel);
    float *y = result_of(columns, row);
    return panel.y == y
           || copy_rows(device, y, columns->args->y_stride * sizeof(float), panel.y,
                        y_stride * sizeof(float), columns->n * sizeof(float), panel.n_rows);
}

/* The greatest power of two, up to 256, that address and rows are multiples of. */
static size_t alignment_of(const void *data, size_t row_bytes)
{
    size_t all = (uintptr_t)data | row_bytes | 256;
    return all & (~all + 1);
}

/* How many from the first on cuBLASLt can take where they lie. */
static size_t count_direct_panels(const struct columns *columns, const struct hy_product_key *key)
{
    const struct hy_matmul_args *args = columns->args;
    if (hy_is_product_of_8_bits(key->type) || columns->x_stride != key->x_stride
        || !is_aligned(columns->x) || args->y_stride != key->y_stride
        || !is_aligned(result_of(columns, 0)))
        return 0;
    return hy_min_size((args->m + args->room) / key->m, (args->m + key->m - 1) / key->m);
}

static bool multiply_columns(struct hy_device *device, const struct columns *columns)
{
    const struct hy_matmul_args *args = columns->args;
    struct hy_product_key key = {};
    bool narrow = hy_is_product_of_8_bits(columns->type);
    key.type = columns->type;
    key.m = panel_rows(columns->type);
    key.n = narrow ? hy_weight_rows(columns->n) : columns->n;
    key.k = narrow ? hy_padded_row(args->k) : args->k;
    key.w_stride = columns->w_stride;
    key.x_stride = panel_stride(columns->type, columns->x_stride, key.k);
    key.y_stride = narrow ? key.n : panel_stride(CUDA_R_32F, args->y_stride, columns->n);
    key.w_alignment =
        alignment_of(columns->w, columns->w_stride * hy_product_element_bytes(columns->type));
    key.bias = !narrow && args->bias;
    key.accumulate = !narrow && args->accumulate;
    struct hy_product *product = hy_cuda_find_product(device, &key);
    if (!product)
        return false;
    size_t n_direct = count_direct_panels(columns, &key);
    if (n_direct > 0
        && !hy_cuda_multiply(device, product, columns->w, columns->x,
                             args->bias ? args->bias + columns->first : NULL,
                             result_of(columns, 0), n_direct))
        return false;
    for (size_t row = n_direct * key.m; row < args->m; row += key.m)
        if (!multiply_panel(device, product, &key, columns, row))
            return false;
    return true;
}

/* -------------------------------------------------------------- the operand */

/* The columns' weights in f32, as which f32 activations are multiplied. */
static bool widen(struct hy_device *device, struct columns *columns)
{
    const struct hy_matmul_args *args = columns->args;
    size_t stride = panel_stride(columns->type, args->k, args->k);
    if (!hy_cuda_reserve(device, &device->widened,
                         columns->n * stride * hy_product_element_bytes(columns->type),
                         "taking memory for weights"))
        return false;
    struct hy_widen_args widen = {};
    widen.w.data = args->w;
    widen.w.dtype = args->dtype;
    widen.w.rows = args->n;
    widen.w.columns = args->k;
    widen.w.scales = args->w_scales;
    widen.w.group = args->group;
    widen.stride = args->w_stride;
    widen.first = columns->first;
    widen.n_rows = columns->n;
    widen.y = (float *)device->widened.data;
    widen.y_stride = stride;
    hy_cuda_widen(device->stream, &widen);
    columns->w = device->widened.data;
    columns->w_stride = stride;
    return hy_cuda_check_launch(device, "widening weights");
}

/* Columns that are computed together; of k and the types alone, like all that decides the order of
 * sums. */
static size_t columns_together(const struct hy_matmul_args *args, cudaDataType_t type,
                               bool widened)
{
    size_t columns = MOST_COLUMNS;
    if (widened)
        columns = hy_min_size(columns, WIDENED_BYTES / hy_product_element_bytes(type) / args->k
                                           / 128 * 128);
    return hy_max_size(columns, 128);
}

/* The same with weights by rows. */
static bool describe_narrow_x(const struct hy_matmul_args *args, struct columns *columns)
{
    const struct hy_rounded *x = args->rounded;
    if (!x || x->dtype != args->dtype || x->sums || x->group != args->k || x->block > 1)
        return false;
    columns->type = args->dtype == HYMBA_DTYPE_FP8 ? CUDA_R_8F_E4M3 : CUDA_R_8I;
    columns->x = (const unsigned char *)x->data;
    columns->x_stride = x->stride;
    return columns->type == CUDA_R_8F_E4M3 || args->k <= HY_MOST_INT8_COLUMNS;
}

/* What x is and how it is multiplied; false if there is no such product. */
static bool describe_x(const struct hy_matmul_args *args, struct columns *columns)
{
    columns->args = args;
    if (args->by_rows)
        return describe_narrow_x(args, columns);
    if (!args->rounded) {
        columns->type = CUDA_R_32F;
        columns->x = (const unsigned char *)args->x;
        columns->x_stride = args->x_stride;
        return true;
    }
    columns->type = args->dtype == HYMBA_DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
    columns->x = (const unsigned char *)args->rounded->data;
    columns->x_stride = args->rounded->stride;
    hymba_dtype w = hy_is_quantised(args->dtype) ? HYMBA_DTYPE_BF16 : args->dtype;
    return args->rounded->dtype == w && args->rounded->block <= 1
           && (w == HYMBA_DTYPE_BF16 || w == HYMBA_DTYPE_F16);
}

static void multiply_quantised(struct hy_device *device, const struct hy_matmul_args *args)
{
    size_t scratch = hy_cuda_matmul_quantised_scratch(args);
    if (scratch > 0
        && !hy_cuda_reserve(device, &device->scratch, scratch, "taking memory for sums"))
        return;
    hy_cuda_matmul_quantised(device->stream, args, device->scratch.data);
    hy_cuda_check_launch(device, "a product with quantised weights");
}

void hy_cuda_matmul(struct hy_device *device, const struct hy_matmul_args *args)
{
    struct columns columns = {};
    if (args->m == 0 || args->n == 0 || args->k == 0 || !hy_cuda_begin(device))
        return;
    if (!describe_x(args, &columns)) {
        hy_cuda_fail(device, HYMBA_ERROR_INTERNAL,
                     "a matrix product was asked for with activations of a type that the CUDA "
                     "device does not multiply");
        return;
    }
    if (columns.type != CUDA_R_32F && !args->by_rows && hy_is_quantised(args->dtype)) {
        multiply_quantised(device, args);
        return;
    }
    bool widened = columns.type == CUDA_R_32F && args->dtype != HYMBA_DTYPE_F32;
    size_t together = columns_together(args, columns.type, widened);
    size_t row_bytes = args->w_stride * hy_product_element_bytes(columns.type);
    for (columns.first = 0; columns.first < args->n; columns.first += together) {
        columns.n = hy_min_size(args->n - columns.first, together);
        columns.w = (const unsigned char *)args->w + columns.first * row_bytes;
        columns.w_stride = args->w_stride;
        if ((widened && !widen(device, &columns)) || !multiply_columns(device, &columns))
            return;
    }
}
