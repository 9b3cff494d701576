/* The kernels for AMX: on the processor's tiles where it has them, and on tiles in plain C. */
#include "amx_kernels.h"
#include "rounded_product.h"

enum { SHAPES = 40, N_TILES = 3 };

static const hymba_dtype dtypes[3] = {HYMBA_DTYPE_BF16, HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4};

/* False where neither the tiles nor, for those in plain C, the vectors are there. */
static bool kernels_of(int index, struct hy_kernels *kernels)
{
    if (index == 0)
        return hy_kernels_init(kernels, "amx", NULL) == HYMBA_OK;
    return index == 1 ? amx_emulated_avx2(kernels) : amx_emulated_avx512(kernels);
}

static void round_for(const struct hy_kernels *kernels, struct product *product)
{
    const struct hy_matmul_args *args = &product->args;
    product->rounded =
        round_rows_by(kernels, product->x, args->m, args->k, args->dtype, args->group);
    use_rounded(product);
}

static struct product random_shape(void)
{
    static const size_t some_groups[6] = {32, 64, 96, 128, 160, 256};
    hymba_dtype dtype = dtypes[test_random_below(3)];
    size_t group = some_groups[test_random_below(6)];
    size_t k = group * (1 + test_random_below(test_random_below(4) ? 6 : 1 + 1600 / group));
    if (dtype == HYMBA_DTYPE_BF16)
        k = 1 + test_random_below(test_random_below(4) ? 200 : 1600);
    return random_product(1 + test_random_below(test_random_below(2) ? 20 : 70),
                          1 + test_random_below(80), k, dtype, group);
}

START_TEST(against_double)
{
    struct hy_kernels kernels;
    if (!kernels_of(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        round_for(&kernels, &product);
        kernels.matmul(&product.args, 0, product.args.n, product.scratch);
        check_product(&product);
        release_guarded();
    }
}
END_TEST

/* More rows than meet the weights at once, by number and by their length; blocks of k. */
START_TEST(great_sizes)
{
    static const struct {
        size_t m, n, k;
        hymba_dtype dtype;
        size_t group;
    } shapes[] = {
        {300, 40, 70, HYMBA_DTYPE_BF16, 0},     {40, 40, 1300, HYMBA_DTYPE_BF16, 0},
        {50, 33, 577, HYMBA_DTYPE_BF16, 0},     {40, 5, 25007, HYMBA_DTYPE_BF16, 0},
        {300, 40, 96, HYMBA_DTYPE_INT8, 32},    {40, 20, 2112, HYMBA_DTYPE_INT8, 64},
        {40, 5, 50176, HYMBA_DTYPE_INT8, 1024}, {300, 40, 96, HYMBA_DTYPE_INT4, 96},
        {40, 20, 2080, HYMBA_DTYPE_INT4, 32},   {33, 17, 6144, HYMBA_DTYPE_INT4, 3072},
    };
    struct hy_kernels kernels;
    if (!kernels_of(_i, &kernels))
        return;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct product product = random_product(shapes[i].m, shapes[i].n, shapes[i].k,
                                                shapes[i].dtype, shapes[i].group);
        round_for(&kernels, &product);
        kernels.matmul(&product.args, 0, product.args.n, product.scratch);
        check_product(&product);
        release_guarded();
    }
}
END_TEST

/* Rows [begin, end) alone, their columns in parts. */
static void check_rows(const struct hy_kernels *kernels, const struct product *product,
                       size_t begin, size_t end)
{
    struct product alone = *product;
    struct hy_matmul_args *args = &alone.args;
    size_t borders[MOST_PARTS + 1], n_parts = random_division(args->n, borders);
    alone.x += begin * args->k;
    args->m = end - begin;
    args->y = copy_floats(product->start + begin * args->n, args->m * args->n);
    round_for(kernels, &alone);
    for (size_t part = 0; part < n_parts; part++)
        kernels->matmul(args, borders[part], borders[part + 1], alone.scratch);
    check_same_bits(args->y, product->args.y + begin * args->n, args->m * args->n, "rows alone");
}

START_TEST(parts_and_rows_give_the_same_bits)
{
    struct hy_kernels kernels;
    if (!kernels_of(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        size_t m = product.args.m, borders[MOST_PARTS + 1], n_parts = random_division(m, borders);
        round_for(&kernels, &product);
        kernels.matmul(&product.args, 0, product.args.n, product.scratch);
        for (size_t part = 0; part < n_parts; part++)
            check_rows(&kernels, &product, borders[part], borders[part + 1]);
        for (int i = 0; i < 3; i++) {
            size_t row = test_random_below(m);
            check_rows(&kernels, &product, row, row + 1);
        }
        release_guarded();
    }
}
END_TEST

/* Integer sums are exact and what follows them is the same: so are the bits. */
START_TEST(int8_as_vectors)
{
    struct hy_kernels kernels, vectors;
    if (!kernels_of(_i, &kernels) || hy_kernels_init(&vectors, "avx2", NULL) != HYMBA_OK)
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        struct hy_matmul_args *args = &product.args;
        if (args->dtype == HYMBA_DTYPE_BF16)
            continue;
        use_rounded(&product);
        vectors.matmul(args, 0, args->n, product.scratch);
        float *expected = args->y;
        args->y = copy_floats(product.start, args->m * args->n);
        round_for(&kernels, &product);
        kernels.matmul(args, 0, args->n, product.scratch);
        check_same_bits(args->y, expected, args->m * args->n, "int8");
        release_guarded();
    }
}
END_TEST

/* A row of all kinds of groups: common, zero, tiny, huge. */
static float mixed(size_t i)
{
    static const float scales[6] = {1.0f, 0.0f, 1e-40f, 0x1p-118f, 1e30f, 3e38f};
    return random_float(1.0f) * scales[i % 6];
}

/* Rows in parts, each that of some blocks, as generic C rounds them; rows that there are not as
 * zeros. */
START_TEST(rounding_as_generic)
{
    struct hy_kernels kernels;
    if (!kernels_of(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        hymba_dtype dtype = dtypes[shape % 3];
        bool bf16 = dtype == HYMBA_DTYPE_BF16;
        size_t m = 1 + test_random_below(40), group = 32 * (1 + test_random_below(4));
        size_t k = bf16 ? 1 + test_random_below(100) : group * (1 + test_random_below(5));
        size_t size = bf16 ? 2 : 1, n_groups = bf16 ? 0 : k / group;
        float *x = random_floats(m * k, 1.0f);
        for (size_t i = 0; i < m * k; i++)
            x[i] = mixed(i % k / 32 + i / k);
        if (shape % 5 == 0)
            x[test_random_below(m * k)] = shape % 2 ? NAN : INFINITY;
        struct hy_rounded expected = round_rows(x, m, k, dtype, group);
        struct hy_rounded y = round_rows_by(&kernels, x, m, k, dtype, group);
        size_t rows = (m + y.block - 1) / y.block * y.block;
        for (size_t t = 0; t < rows; t++) {
            for (size_t i = 0; i < y.stride; i++) {
                const char *value = (char *)y.data + place_of(&y, t, i, y.stride, size) * size;
                const char *wanted = (char *)expected.data + (t * y.stride + i) * size;
                ck_assert_mem_eq(value, t < m ? wanted : "\0", size);
            }
            for (size_t g = 0; g < n_groups; g++) {
                size_t place = place_of(&y, t, g, n_groups, 4), wanted = t * n_groups + g;
                float scale = t < m ? expected.scales[wanted] : 0.0f;
                ck_assert_int_eq(y.sums[place], t < m ? expected.sums[wanted] : 0);
                check_same_bits(&y.scales[place], &scale, 1, "scale");
            }
        }
        release_guarded();
    }
}
END_TEST

/* What is not finite does not vanish, and stays in its row or column. */
START_TEST(special_values)
{
    struct hy_kernels kernels;
    if (!kernels_of(_i, &kernels))
        return;
    const float specials[] = {INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 27; i++) {
        hymba_dtype dtype = dtypes[i % 3];
        size_t m = i % 2 ? 3 : 35, n = 40, k = 96;
        size_t row = test_random_below(m), column = test_random_below(n + 1);
        struct product product = random_product(m, n, k, dtype, 32);
        product.x[row * k + test_random_below(k)] = specials[i / 3 % 3];
        if (dtype == HYMBA_DTYPE_BF16 && column < n) {
            unsigned char *weight = (unsigned char *)product.args.w;
            hy_row_from_f32(&specials[i / 9], dtype,
                            weight + (column * k + test_random_below(k)) * 2, 1);
        }
        round_for(&kernels, &product);
        kernels.matmul(&product.args, 0, n, product.scratch);
        for (size_t t = 0; t < m; t++)
            for (size_t j = 0; j < n; j++) {
                bool special = t == row || (dtype == HYMBA_DTYPE_BF16 && j == column);
                ck_assert_msg(!isfinite(product.args.y[t * n + j]) == special,
                              "row %zu, column %zu: %g", t, j,
                              (double)product.args.y[t * n + j]);
            }
        release_guarded();
    }
}
END_TEST

/* Activations that are not interleaved, and those that are not rounded. */
START_TEST(other_products)
{
    struct hy_kernels kernels;
    if (!kernels_of(_i, &kernels))
        return;
    for (int shape = 0; shape < SHAPES; shape++) {
        struct product product = random_shape();
        if (shape % 2)
            use_rounded(&product);
        kernels.matmul(&product.args, 0, product.args.n, product.scratch);
        check_product(&product);
        release_guarded();
    }
}
END_TEST

START_TEST(forced)
{
    struct hy_kernels kernels;
    hymba_error error = {.struct_size = sizeof error};
    hymba_status status = hy_kernels_init(&kernels, "amx", &error);
    if (status == HYMBA_OK) {
        ck_assert_str_eq(kernels.name, "amx");
        ck_assert_uint_eq(kernels.row_block, HY_ROW_BLOCK);
        return;
    }
    test_status(status, HYMBA_ERROR_UNSUPPORTED, error);
    ck_assert_ptr_nonnull(strstr(error.message, "amx"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("amx");
    TCase *tcase = tcase_create("amx");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, forced);
    tcase_add_loop_test(tcase, against_double, 0, N_TILES);
    tcase_add_loop_test(tcase, great_sizes, 0, N_TILES);
    tcase_add_loop_test(tcase, parts_and_rows_give_the_same_bits, 0, N_TILES);
    tcase_add_loop_test(tcase, int8_as_vectors, 0, N_TILES);
    tcase_add_loop_test(tcase, rounding_as_generic, 0, N_TILES);
    tcase_add_loop_test(tcase, special_values, 0, N_TILES);
    tcase_add_loop_test(tcase, other_products, 0, N_TILES);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
