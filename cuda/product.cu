/*
 * For the shape of a product an algorithm is chosen once, among those that say that they do not
 * split sums between blocks, and if there is one that wants no workspace: each result is then one
 * block's sum over k in the order of its loop, the same for every row and whatever stands in the
 * other rows (cuda/README.md says how far that can be asked). Sums of int8 products are exact in
 * any order.
 */
#include "product.h"

#include <stdlib.h>

/* What an algorithm may want if there is none that wants nothing. */
static const uint64_t MOST_WORKSPACE = (uint64_t)32 << 20;

/* Algorithms that are looked at before a product is said to have none. */
enum { PROPOSALS = 32 };

/* Panels in one call at most. */
enum { MOST_PANELS = 4096 };

struct hy_product {
    struct hy_product_key key;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, y;
    bool has_algorithm; /* or else cuBLASLt chooses one in each call */
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
    bool takes_panels; /* several in one call */
    size_t n_panels;   /* that the layouts are set for */
};

static cudaDataType_t sum_type(cudaDataType_t type)
{
    return type == CUDA_R_8I ? CUDA_R_32I : CUDA_R_32F;
}

/* -------------------------------------------------------------------- making */

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
    cublasComputeType_t compute =
        product->key.type == CUDA_R_8I ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
    cublasStatus_t code =
        cublasLtMatmulDescCreate(&product->operation, compute, sum_type(product->key.type));
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
    const struct hy_product_key *key = &product->key;
    cublasStatus_t code = cublasLtMatrixLayoutCreate(&product->w, key->type, key->k, key->n,
                                                     (int64_t)key->w_stride);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatrixLayoutCreate(&product->x, key->type, key->k, key->m,
                                          (int64_t)key->x_stride);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatrixLayoutCreate(&product->y, sum_type(key->type), key->n, key->m,
                                          (int64_t)key->y_stride);
    return code;
}

/* Layouts of several panels: those of one, so far from each other; w is the same for all. */
static cublasStatus_t set_panels(struct hy_product *product, size_t n_panels)
{
    const struct hy_product_key *key = &product->key;
    const int32_t count = (int32_t)n_panels;
    const struct {
        cublasLtMatrixLayout_t layout;
        int64_t distance;
    } layouts[] = {{product->w, 0},
                   {product->x, (int64_t)(key->m * key->x_stride)},
                   {product->y, (int64_t)(key->m * key->y_stride)}};
    cublasStatus_t code = CUBLAS_STATUS_SUCCESS;
    if (product->n_panels == n_panels)
        return code;
    for (const auto &entry : layouts) {
        if (code == CUBLAS_STATUS_SUCCESS)
            code = cublasLtMatrixLayoutSetAttribute(
                entry.layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
        if (code == CUBLAS_STATUS_SUCCESS)
            code = cublasLtMatrixLayoutSetAttribute(
                entry.layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &entry.distance,
                sizeof entry.distance);
    }
    product->n_panels = code == CUBLAS_STATUS_SUCCESS ? n_panels : 0;
    return code;
}

static cublasStatus_t set_number(cublasLtMatmulPreference_t preference,
                                 cublasLtMatmulPreferenceAttributes_t attribute, uint32_t number)
{
    return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &number, sizeof number);
}

static cublasStatus_t describe_preference(const struct hy_product *product, uint64_t workspace,
                                          cublasLtMatmulPreference_t preference)
{
    cublasStatus_t code = cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t number;
    } numbers[] = {
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_NONE},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)product->key.w_alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, HY_PRODUCT_ALIGNMENT},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, HY_PRODUCT_ALIGNMENT},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, HY_PRODUCT_ALIGNMENT},
    };
    for (const auto &entry : numbers)
        if (code == CUBLAS_STATUS_SUCCESS)
            code = set_number(preference, entry.attribute, entry.number);
    return code;
}

/* Whether the algorithm says of itself that a result is a single sum over all of k. */
static bool sums_at_once(const cublasLtMatmulAlgo_t *algorithm)
{
    int32_t n_splits = 0;
    uint32_t scheme = 0;
    size_t written;
    cublasStatus_t code =
        cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                                             &n_splits, sizeof n_splits, &written);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmulAlgoConfigGetAttribute(
            algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, &written);
    return code == CUBLAS_STATUS_SUCCESS && n_splits <= 1
           && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* The first of the algorithms that cuBLASLt proposes, best ones first, that may be taken. */
static cublasStatus_t choose_among(struct hy_device *device, struct hy_product *product,
                                   cublasLtMatmulPreference_t preference)
{
    cublasLtMatmulHeuristicResult_t results[PROPOSALS] = {};
    int n_results = 0;
    cublasStatus_t code = cublasLtMatmulAlgoGetHeuristic(
        device->blas, product->operation, product->w, product->x, product->y, product->y,
        preference, PROPOSALS, results, &n_results);
    if (code != CUBLAS_STATUS_SUCCESS)
        return code;
    for (int i = 0; i < n_results; i++) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS || !sums_at_once(&results[i].algo))
            continue;
        product->algorithm = results[i].algo;
        product->workspace_bytes = results[i].workspaceSize;
        return CUBLAS_STATUS_SUCCESS;
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

/* Without a workspace, if there is such an algorithm: partial sums of tiles, as of those that
 * divide the whole product's work evenly among blocks and cut k where that falls, need a place to
 * lie in, and of these there is no attribute to ask. */
static cublasStatus_t choose_algorithm(struct hy_device *device, struct hy_product *product)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasStatus_t code = cublasLtMatmulPreferenceCreate(&preference);
    if (code != CUBLAS_STATUS_SUCCESS)
        return code;
    for (uint64_t workspace : {(uint64_t)0, MOST_WORKSPACE}) {
        code = describe_preference(product, workspace, preference);
        if (code == CUBLAS_STATUS_SUCCESS)
            code = choose_among(device, product, preference);
        if (code != CUBLAS_STATUS_NOT_SUPPORTED)
            break;
    }
    cublasLtMatmulPreferenceDestroy(preference);
    product->has_algorithm = code == CUBLAS_STATUS_SUCCESS;
    bool any_will_do = product->key.type == CUDA_R_8I;
    return code == CUBLAS_STATUS_NOT_SUPPORTED && any_will_do ? CUBLAS_STATUS_SUCCESS : code;
}

/*
 * Whether the algorithm that was chosen for a panel takes several of them, as matrices of one call:
 * as many blocks as for one alone, again for each, of the same kernel with the same tiles. Nothing
 * else would keep a row's bits, so where it does not, panels are multiplied one by one.
 */
static cublasStatus_t ask_for_panels(struct hy_device *device, struct hy_product *product)
{
    cublasLtMatmulHeuristicResult_t result = {};
    if (!product->has_algorithm || hy_is_product_of_8_bits(product->key.type))
        return CUBLAS_STATUS_SUCCESS;
    cublasStatus_t code = set_panels(product, 2);
    if (code != CUBLAS_STATUS_SUCCESS)
        return code;
    code = cublasLtMatmulAlgoCheck(device->blas, product->operation, product->w, product->x,
                                   product->y, product->y, &product->algorithm, &result);
    product->takes_panels = code == CUBLAS_STATUS_SUCCESS
                            && result.workspaceSize <= product->workspace_bytes;
    return set_panels(product, 1);
}

static bool has_key(const struct hy_product *product, const struct hy_product_key *key)
{
    const struct hy_product_key *own = &product->key;
    return own->type == key->type && own->m == key->m && own->n == key->n && own->k == key->k
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
struct hy_product *hy_cuda_find_product(struct hy_device *device, const struct hy_product_key *key)
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
    if (code == CUBLAS_STATUS_SUCCESS)
        code = ask_for_panels(device, product);
    if (!hy_cuda_check_blas(device, code, "preparing a matrix product")) {
        free_product(product);
        return NULL;
    }
    device->n_products++;
    return product;
}

/* ----------------------------------------------------------------- computing */

static cublasStatus_t set_bias(struct hy_product *product, const void *bias)
{
    if (!product->key.bias)
        return CUBLAS_STATUS_SUCCESS;
    return cublasLtMatmulDescSetAttribute(product->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                          &bias, sizeof bias);
}

static bool multiply(struct hy_device *device, struct hy_product *product, const void *w,
                     const void *x, void *y, size_t n_panels)
{
    const float one = 1.0f, factor = product->key.accumulate ? 1.0f : 0.0f;
    const int32_t integer_one = 1, integer_zero = 0;
    bool integers = product->key.type == CUDA_R_8I;
    const void *alpha = integers ? (const void *)&integer_one : &one;
    const void *beta = integers ? (const void *)&integer_zero : &factor;
    cublasStatus_t code = set_panels(product, n_panels);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmul(device->blas, product->operation, alpha, w, product->w, x,
                              product->x, beta, y, product->y, y, product->y,
                              product->has_algorithm ? &product->algorithm : NULL,
                              device->blas_workspace.data, product->workspace_bytes,
                              device->stream);
    return hy_cuda_check_blas(device, code, "a matrix product");
}

bool hy_cuda_multiply(struct hy_device *device, struct hy_product *product, const void *w,
                      const void *x, const float *bias, void *y, size_t n_panels)
{
    const struct hy_product_key *key = &product->key;
    if (!hy_cuda_reserve(device, &device->blas_workspace, product->workspace_bytes,
                         "taking memory for matrix products")
        || !hy_cuda_check_blas(device, set_bias(product, bias), "a matrix product"))
        return false;
    const size_t together = product->takes_panels ? hy_min_size(n_panels, MOST_PANELS) : 1;
    const size_t x_bytes = key->m * key->x_stride * hy_product_element_bytes(key->type);
    const size_t y_bytes = key->m * key->y_stride * sizeof(float); /* or int32_t */
    for (size_t panel = 0; panel < n_panels; panel += together)
        if (!multiply(device, product, w, (const unsigned char *)x + panel * x_bytes,
                      (unsigned char *)y + panel * y_bytes,
                      hy_min_size(n_panels - panel, together)))
            return false;
    return true;
}
