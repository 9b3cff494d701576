/*
 * y = x w^T (+ bias) (+ y), in panels of rows.
 *
 * cuBLASLt picks another kernel for another number of rows, and then a row's sums run in another
 * order. So all calls for a matrix have one shape: rows are multiplied in panels of a fixed number,
 * what the last panel lacks being room that nobody reads: that of the caller (hy_matmul_args), or
 * else a copy with room. For that shape an algorithm is chosen once, among those that do not split
 * sums between blocks (CUBLASLT_REDUCTION_SCHEME_NONE): each result is then one block's sum over k
 * in the order of its loop, the same for every row and whatever stands in the other rows. Which
 * algorithm it is depends on what the key of a product holds alone: shape and type of the matrix,
 * how it lies in memory, and how far apart the rows of activations and of results are, which is the
 * same for all that a model multiplies by it. tests/cuda/check_cuda compares bits on the device
 * at hand.
 *
 * The panel is as wide as costs nothing beside reading the weights once: with m rows, 2 m
 * operations for each weight of two bytes, and devices make some 150 to 250 operations on 16-bit
 * numbers in the time in which they read a byte. In f32 they make a tenth of that.
 */
#include "matmul.h"

#include "copy_rows.h"
#include "matmul_quantised.h"
#include "widen.h"

#include <stdlib.h>
#include <string.h>

enum { PANEL_ROWS_16 = HY_PANEL_ROWS, PANEL_ROWS_32 = 32 };

/* Rows of activations and results begin at multiples of so many bytes; those that do not pass
 * through a panel whose rows do. */
enum { ALIGNMENT = 16 };

/* Columns that one call computes, at most, which bounds the panel of results; and bytes of weights
 * that are widened together. */
enum { MOST_COLUMNS = 16384, WIDENED_BYTES = 32 << 20 };

/* What an algorithm may want; most want nothing. */
static const size_t MOST_WORKSPACE = (size_t)32 << 20;

/* All that the choice of an algorithm hangs on. */
struct product_key {
    cudaDataType_t type;  /* of activations and weights */
    size_t n, k, w_stride;
    size_t x_stride, y_stride; /* of panels */
    size_t w_alignment;
    bool bias, accumulate;
};

struct hy_product {
    struct product_key key;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
};

static size_t panel_rows(cudaDataType_t type)
{
    return type == CUDA_R_32F ? PANEL_ROWS_32 : PANEL_ROWS_16;
}

static size_t element_bytes(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Elements from row to row of a panel, where they are `given` in the caller's memory, n of which
 * count: as there, if that will do. */
static size_t panel_stride(cudaDataType_t type, size_t given, size_t n)
{
    return round_up(hy_max_size(given, n), ALIGNMENT / element_bytes(type));
}

/* ---------------------------------------------------------------- products */

static void free_product(struct hy_product *product)
{
    if (product->operation)
        cublasLtMatmulDescDestroy(product->operation);
    if (product->w)
        cublasLtMatrixLayoutDestroy(product->w);
    if (product->x)
        cublasLtMatrixLayoutDestroy(product->x);
    if (product->y)
        cublasLtMatrixLayoutDestroy(product->y);
}

void hy_cuda_free_products(struct hy_device *device)
{
    for (size_t i = 0; i < device->n_products; i++)
        free_product(&device->products[i]);
    free(device->products);
    device->products = NULL;
    device->n_products = device->products_capacity = 0;
}

static cublasStatus_t describe_operation(struct hy_product *product)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue =
        product->key.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    cublasStatus_t code =
        cublasLtMatmulDescCreate(&product->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmulDescSetAttribute(product->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                              &transposed, sizeof transposed);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmulDescSetAttribute(product->operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                              &epilogue, sizeof epilogue);
    return code;
}

/* cuBLASLt's matrices lie column by column: y[rows][n] is to it a matrix of n rows, the product of
 * the transpose of w, which it sees as k rows of n columns, with k rows of `rows` columns. */
static cublasStatus_t describe_layouts(struct hy_product *product)
{
    const struct product_key *key = &product->key;
    size_t rows = panel_rows(key->type);
    cublasStatus_t code = cublasLtMatrixLayoutCreate(&product->w, key->type, key->k, key->n,
                                                     (int64_t)key->w_stride);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatrixLayoutCreate(&product->x, key->type, key->k, rows,
                                          (int64_t)key->x_stride);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatrixLayoutCreate(&product->y, CUDA_R_32F, key->n, rows,
                                          (int64_t)key->y_stride);
    return code;
}

static cublasStatus_t set_number(cublasLtMatmulPreference_t preference,
                                 cublasLtMatmulPreferenceAttributes_t attribute, uint32_t number)
{
    return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &number, sizeof number);
}

static cublasStatus_t describe_preference(const struct hy_product *product,
                                          cublasLtMatmulPreference_t preference)
{
    uint64_t workspace = MOST_WORKSPACE;
    cublasStatus_t code = cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t number;
    } numbers[] = {
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_NONE},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)product->key.w_alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, ALIGNMENT},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, ALIGNMENT},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, ALIGNMENT},
    };
    for (const auto &entry : numbers)
        if (code == CUBLAS_STATUS_SUCCESS)
            code = set_number(preference, entry.attribute, entry.number);
    return code;
}

static cublasStatus_t choose_algorithm(struct hy_device *device, struct hy_product *product)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result = {};
    int n_results = 0;
    cublasStatus_t code = cublasLtMatmulPreferenceCreate(&preference);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = describe_preference(product, preference);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmulAlgoGetHeuristic(device->blas, product->operation, product->w,
                                              product->x, product->y, product->y, preference, 1,
                                              &result, &n_results);
    if (code == CUBLAS_STATUS_SUCCESS && n_results == 0)
        code = CUBLAS_STATUS_NOT_SUPPORTED;
    if (code == CUBLAS_STATUS_SUCCESS)
        code = result.state;
    product->algorithm = result.algo;
    product->workspace_bytes = result.workspaceSize;
    if (preference)
        cublasLtMatmulPreferenceDestroy(preference);
    return code;
}

static bool has_key(const struct hy_product *product, const struct product_key *key)
{
    const struct product_key *own = &product->key;
    return own->type == key->type && own->n == key->n && own->k == key->k
           && own->w_stride == key->w_stride && own->x_stride == key->x_stride
           && own->y_stride == key->y_stride && own->w_alignment == key->w_alignment
           && own->bias == key->bias && own->accumulate == key->accumulate;
}

static bool make_room_for_product(struct hy_device *device)
{
    if (device->n_products < device->products_capacity)
        return true;
    size_t capacity = device->products_capacity ? 2 * device->products_capacity : 32;
    void *products = realloc(device->products, capacity * sizeof(struct hy_product));
    if (!products) {
        hy_cuda_fail(device, HYMBA_ERROR_MEMORY, "no memory for a list of matrix products");
        return false;
    }
    device->products = (struct hy_product *)products;
    device->products_capacity = capacity;
    return true;
}

/* Made when it is first used: a device that only holds weights multiplies nothing. */
static bool open_blas(struct hy_device *device)
{
    return device->blas
           || hy_cuda_check_blas(device, cublasLtCreate(&device->blas), "starting cuBLASLt");
}

/* The product of a key, made when it is first asked for; NULL after a failure. */
static struct hy_product *find_product(struct hy_device *device, const struct product_key *key)
{
    for (size_t i = 0; i < device->n_products; i++)
        if (has_key(&device->products[i], key))
            return &device->products[i];
    if (!make_room_for_product(device) || !open_blas(device))
        return NULL;
    struct hy_product *product = &device->products[device->n_products];
    *product = {};
    product->key = *key;
    cublasStatus_t code = describe_operation(product);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = describe_layouts(product);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = choose_algorithm(device, product);
    if (!hy_cuda_check_blas(device, code, "preparing a matrix product")) {
        free_product(product);
        return NULL;
    }
    device->n_products++;
    return product;
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
    float *y;
};

static bool is_aligned(const void *data)
{
    return (uintptr_t)data % ALIGNMENT == 0;
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
    size_t element = element_bytes(columns->type), rows = panel_rows(columns->type);
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
    return panel->x
           && copy_rows(device, device->x_panel.data, stride * element, from, from_bytes,
                        round_up(columns->args->k * element, 4), panel->n_rows);
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
    panel->y = (float *)device->y_panel.data;
    return !columns->args->accumulate
           || copy_rows(device, panel->y, stride * sizeof(float), y, from_stride * sizeof(float),
                        columns->n * sizeof(float), panel->n_rows);
}

static cublasStatus_t multiply(struct hy_device *device, struct hy_product *product,
                               const struct columns *columns, const struct panel *panel)
{
    const struct hy_matmul_args *args = columns->args;
    const float one = 1.0f, factor = args->accumulate ? 1.0f : 0.0f;
    cublasStatus_t code = CUBLAS_STATUS_SUCCESS;
    if (args->bias) {
        const void *bias = args->bias + columns->first;
        code = cublasLtMatmulDescSetAttribute(product->operation,
                                              CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                              sizeof bias);
    }
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmul(device->blas, product->operation, &one, columns->w, product->w,
                              panel->x, product->x, &factor, panel->y, product->y, panel->y,
                              product->y, &product->algorithm, device->blas_workspace.data,
                              product->workspace_bytes, device->stream);
    return code;
}

static bool multiply_panel(struct hy_device *device, struct hy_product *product,
                           const struct columns *columns, size_t row)
{
    struct panel panel = {};
    panel.row = row;
    panel.n_rows = hy_min_size(columns->args->m - row, panel_rows(columns->type));
    if (!place_x(device, columns, product->key.x_stride, &panel)
        || !place_y(device, columns, product->key.y_stride, &panel)
        || !hy_cuda_check_blas(device, multiply(device, product, columns, &panel),
                               "a matrix product"))
        return false;
    float *y = result_of(columns, row);
    return panel.y == y
           || copy_rows(device, y, columns->args->y_stride * sizeof(float), panel.y,
                        product->key.y_stride * sizeof(float), columns->n * sizeof(float),
                        panel.n_rows);
}

/* The greatest power of two, up to 256, that address and rows are multiples of. */
static size_t alignment_of(const void *data, size_t row_bytes)
{
    size_t all = (uintptr_t)data | row_bytes | 256;
    return all & (~all + 1);
}

static bool multiply_columns(struct hy_device *device, const struct columns *columns)
{
    const struct hy_matmul_args *args = columns->args;
    struct product_key key = {};
    key.type = columns->type;
    key.n = columns->n;
    key.k = args->k;
    key.w_stride = columns->w_stride;
    key.x_stride = panel_stride(columns->type, columns->x_stride, args->k);
    key.y_stride = panel_stride(CUDA_R_32F, args->y_stride, columns->n);
    key.w_alignment =
        alignment_of(columns->w, columns->w_stride * element_bytes(columns->type));
    key.bias = args->bias != NULL;
    key.accumulate = args->accumulate;
    struct hy_product *product = find_product(device, &key);
    if (!product
        || !hy_cuda_reserve(device, &device->blas_workspace, product->workspace_bytes,
                            "taking memory for matrix products"))
        return false;
    for (size_t row = 0; row < args->m; row += panel_rows(columns->type))
        if (!multiply_panel(device, product, columns, row))
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
                         columns->n * stride * element_bytes(columns->type),
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
        columns = hy_min_size(columns, WIDENED_BYTES / element_bytes(type) / args->k / 128 * 128);
    return hy_max_size(columns, 128);
}

/* What x is and how it is multiplied; false if there is no such product. */
static bool describe_x(const struct hy_matmul_args *args, struct columns *columns)
{
    columns->args = args;
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
    if (columns.type != CUDA_R_32F && hy_is_quantised(args->dtype)) {
        multiply_quantised(device, args);
        return;
    }
    bool widened = columns.type == CUDA_R_32F && args->dtype != HYMBA_DTYPE_F32;
    size_t together = columns_together(args, columns.type, widened);
    size_t row_bytes = args->w_stride * element_bytes(columns.type);
    for (columns.first = 0; columns.first < args->n; columns.first += together) {
        columns.n = hy_min_size(args->n - columns.first, together);
        columns.w = (const unsigned char *)args->w + columns.first * row_bytes;
        columns.w_stride = args->w_stride;
        if ((widened && !widen(device, &columns)) || !multiply_columns(device, &columns))
            return;
    }
}
