/* Matrices rounded by rows on their way to a device: all of one or a part, from every type. */
#include "model/round_rows.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/by_rows.h"
#include "kernel/ref.h"
#include "support.h"

enum { ROWS = 37, COLUMNS = 192, GROUP = 64 };

static hymba_error error = {.struct_size = sizeof error};

static struct hy_memory memory_of_test(void)
{
    struct hy_memory memory;
    hymba_host host = {.struct_size = sizeof host};
    test_status(hy_memory_init(&memory, &host, &error), HYMBA_OK, error);
    return memory;
}

/* Random weights, and what they are as f32. */
struct weights {
    unsigned char data[ROWS * COLUMNS * 4];
    uint16_t scales[ROWS * COLUMNS / GROUP];
    float floats[ROWS * COLUMNS];
    struct hy_matrix matrix;
};

static void fill(struct weights *weights, hymba_dtype dtype)
{
    weights->matrix = (struct hy_matrix){
        .data = weights->data, .dtype = dtype, .rows = ROWS, .columns = COLUMNS};
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        weights->floats[i] = (float)(test_random() - 0.5) * 0.3f;
    if (!hy_is_quantised(dtype)) {
        hy_row_from_f32(weights->floats, dtype, weights->data, ROWS * COLUMNS);
        hy_row_to_f32(weights->data, dtype, weights->floats, ROWS * COLUMNS);
        return;
    }
    weights->matrix.scales = weights->scales;
    weights->matrix.group = GROUP;
    for (size_t i = 0; i < ROWS * hy_row_bytes(dtype, COLUMNS); i++)
        weights->data[i] = (unsigned char)test_random_below(256);
    for (size_t i = 0; i < ROWS * COLUMNS / GROUP; i++)
        weights->scales[i] = hy_f32_to_bf16((float)test_random() * 0.01f);
    for (size_t j = 0; j < ROWS; j++)
        hy_ref_dequantise_row(&weights->matrix, j, weights->floats + j * COLUMNS);
}

static const struct hy_cut cuts[] = {
    {.rows = {.list = {{0, ROWS}}, .n = 1}, .columns = {.list = {{0, COLUMNS}}, .n = 1}},
    {.rows = {.list = {{3, 7}, {20, 36}}, .n = 2}, .columns = {.list = {{0, COLUMNS}}, .n = 1}},
    {.rows = {.list = {{0, ROWS}}, .n = 1}, .columns = {.list = {{64, 128}}, .n = 1}},
};

/* Row number `row` of the part, as f32. */
static void cut_floats(const struct hy_cut *cut, const struct weights *weights, size_t row,
                       float *floats)
{
    struct hy_matrix wide = {
        .data = weights->floats, .dtype = HYMBA_DTYPE_F32, .rows = ROWS, .columns = COLUMNS};
    hy_cut_rows(cut, &wide, row, 1, floats);
}

START_TEST(rows_of_every_type)
{
    static const hymba_dtype types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                        HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4};
    static const hymba_dtype wanted[] = {HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8};
    struct hy_memory memory = memory_of_test();
    struct weights *weights = malloc(sizeof *weights);
    fill(weights, types[_i]);
    for (int k = 0; k < 6; k++) {
        const struct hy_cut *cut = &cuts[k / 2];
        struct hy_row_rounder rounder;
        float floats[COLUMNS];
        unsigned char expected[COLUMNS];
        test_status(hy_row_rounder_create(&rounder, &memory, cut, &weights->matrix, wanted[k % 2],
                                          "w", &error),
                    HYMBA_OK, error);
        const struct hy_matrix *rounded = &rounder.rounded;
        size_t n = hy_ranges_count(&cut->columns), rows = hy_ranges_count(&cut->rows);
        ck_assert(rounded->by_rows && rounded->rows == rows && rounded->columns == n);
        ck_assert(rounded->group == n && rounded->dtype == wanted[k % 2]);
        for (size_t row = 0, count = 1; row < hy_weight_rows(rows); row += count) {
            count = hy_weight_rows(rows) - row < 5 ? hy_weight_rows(rows) - row : 5;
            hy_round_rows(&rounder, row, count);
            for (size_t i = 0; i < count; i++) {
                float scale = 0.0f;
                memset(expected, 0, sizeof expected);
                if (row + i < rows) {
                    cut_floats(cut, weights, row + i, floats);
                    scale = hy_round_by_rows(floats, n, wanted[k % 2], expected);
                }
                ck_assert_float_eq(rounder.scales[i], scale);
                ck_assert_mem_eq(rounder.bytes + i * n, expected, n);
            }
        }
        hy_row_rounder_free(&rounder, &memory);
        ck_assert_uint_eq(memory.used, 0);
    }
    free(weights);
}
END_TEST

/* Sums of int8 that could be beyond 32 bits; those of fp8 are f32. */
START_TEST(rows_that_are_too_long)
{
    size_t columns = HY_MOST_INT8_COLUMNS + 1;
    struct hy_memory memory = memory_of_test();
    float *row = calloc(columns, sizeof *row);
    struct hy_matrix matrix = {
        .data = row, .dtype = HYMBA_DTYPE_F32, .rows = 1, .columns = columns};
    struct hy_cut cut = {.rows = {.list = {{0, 1}}, .n = 1},
                         .columns = {.list = {{0, columns}}, .n = 1}};
    struct hy_row_rounder rounder;
    test_status(hy_row_rounder_create(&rounder, &memory, &cut, &matrix, HYMBA_DTYPE_INT8,
                                      "a.long.weight", &error),
                HYMBA_ERROR_UNSUPPORTED, error);
    ck_assert_msg(strstr(error.message, "a.long.weight") != NULL, "%s", error.message);
    hy_row_rounder_free(&rounder, &memory);
    test_status(hy_row_rounder_create(&rounder, &memory, &cut, &matrix, HYMBA_DTYPE_FP8,
                                      "a.long.weight", &error),
                HYMBA_OK, error);
    hy_row_rounder_free(&rounder, &memory);
    cut.columns.list[0].end = columns - 1;
    test_status(hy_row_rounder_create(&rounder, &memory, &cut, &matrix, HYMBA_DTYPE_INT8,
                                      "a.long.weight", &error),
                HYMBA_OK, error);
    hy_row_rounder_free(&rounder, &memory);
    free(row);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rows of weights in 8 bits");
    TCase *rows = tcase_create("rows");
    tcase_add_loop_test(rows, rows_of_every_type, 0, 5);
    tcase_add_test(rows, rows_that_are_too_long);
    suite_add_tcase(suite, rows);
    return test_main(suite);
}
