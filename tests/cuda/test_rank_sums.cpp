/*
 * Sums over ranks that are under way while other work is done: their stream runs as early as it
 * may, and as late, so that a wait that is missing, in either direction, gives wrong numbers.
 */
#include "ranks_test.h"

#include <math.h>

#include <algorithm>

enum { BLOCK_ROWS = 3, BLOCKS = 3, BESIDE_ROWS = BLOCK_ROWS * BLOCKS };

/* What a rank works on while sums are under way. */
struct beside {
    struct scene scene; /* of BESIDE_ROWS */
    float *other;
};

static struct beside make_beside(struct rank *rank, const std::vector<float> &x)
{
    return {make_scene(rank, x), make_floats(rank, x)};
}

static void release_beside(struct rank *rank, const struct beside *beside)
{
    release_scene(rank, &beside->scene);
    ops->release(rank->device, beside->other);
}

/* normed[row...] = norm(x[row...]) */
static void norm_rows(struct rank *rank, const struct scene *scene, const float *x, float *y,
                      size_t row, size_t rows)
{
    struct scene part = *scene;
    part.normed = y + row * STEP_N;
    call_norm(rank, &part, x + row * STEP_N, rows);
}

static struct hy_all_sum_args rows_of(const struct scene *scene, size_t row)
{
    return {scene->normed + row * STEP_N, STEP_N, STEP_N, true, scene->y + row * STEP_N, STEP_N};
}

/* Sums of blocks of rows, each while the next block is computed and another norm besides, or each
 * by itself; then what reads all of them, and writes what they have read. */
static void call_blocks(struct rank *rank, const struct beside *beside, bool together)
{
    const struct scene *scene = &beside->scene;
    for (size_t row = 0; row < BESIDE_ROWS; row += BLOCK_ROWS) {
        struct hy_all_sum_args args = rows_of(scene, row);
        norm_rows(rank, scene, scene->x, scene->normed, row, BLOCK_ROWS);
        ops->begin_all_sum(rank->device, &args, BLOCK_ROWS);
        if (!together)
            ops->end_all_sum(rank->device);
        norm_rows(rank, scene, scene->x, beside->other, row, BLOCK_ROWS);
    }
    if (together)
        ops->end_all_sum(rank->device);
    norm_rows(rank, scene, scene->y, scene->normed, 0, BESIDE_ROWS);
}

/* From the same y each time. */
static std::vector<float> run_blocks(struct rank *rank, const struct beside *beside, bool together,
                                     bool whole)
{
    const size_t n = BESIDE_ROWS * STEP_N;
    std::vector<float> found(3 * n), part(n);
    struct hy_copy_args begin = {HY_COPY_WITHIN, beside->scene.y, 0, beside->scene.x, 0,
                                 n * sizeof(float), 1};
    ops->copy(rank->device, &begin);
    ops->fill(rank->device, beside->scene.normed, 0, n * sizeof(float));
    if (whole)
        ops->begin_step(rank->device, BESIDE_ROWS);
    call_blocks(rank, beside, together);
    if (whole)
        ops->end_step(rank->device, true);
    const float *const all[] = {beside->scene.y, beside->scene.normed, beside->other};
    for (size_t i = 0; i < 3; i++) {
        read_floats(rank, all[i], &part);
        std::copy(part.begin(), part.end(), found.begin() + (ptrdiff_t)(i * n));
    }
    return found;
}

static std::vector<std::vector<float>> random_parts(size_t n_ranks, size_t n)
{
    std::vector<std::vector<float>> x;
    for (size_t i = 0; i < n_ranks; i++)
        x.push_back(random_floats(n));
    return x;
}

/* As single ops and as steps: played, captured, launched. */
START_TEST(sums_beside_other_work_have_the_same_bits)
{
    for (size_t n = 1; n <= MOST_RANKS; n++) {
        struct world world;
        const auto x = random_parts(n, BESIDE_ROWS * STEP_N);
        open_world(&world, n, PATIENT);
        together_ok(&world, [&](struct rank *rank) {
            struct beside beside = make_beside(rank, x[rank->index]);
            std::vector<float> expected = run_blocks(rank, &beside, false, false);
            bool same = run_blocks(rank, &beside, true, false) == expected;
            for (int time = 0; time < 4; time++)
                same = run_blocks(rank, &beside, true, true) == expected && same;
            release_beside(rank, &beside);
            if (!same)
                rank->status = HYMBA_ERROR_INTERNAL;
        });
        for (const struct rank &rank : world.ranks)
            ck_assert_uint_eq(rank.graphs.size(), 1);
        close_world(&world);
    }
}
END_TEST

enum { WIDTH = 32, PRODUCT_ROWS = 2 * HY_PANEL_ROWS + 5, BUFFER_ROWS = 3 * HY_PANEL_ROWS };

/* A product's rows, in blocks of so many, added to y over ranks, each block while the next one is
 * multiplied. */
static std::vector<float> run_product(struct rank *rank, const std::vector<float> &values,
                                      size_t block)
{
    std::vector<float> found(PRODUCT_ROWS * WIDTH);
    float *x = make_floats(rank, values), *y = make_floats(rank, values);
    float *u = make_floats(rank, std::vector<float>(values.size(), NAN));
    for (size_t row = 0; row < PRODUCT_ROWS; row += block) {
        struct hy_matmul_args product = {};
        product.x = x + row * WIDTH;
        product.w = x;
        product.dtype = HYMBA_DTYPE_F32;
        product.m = std::min<size_t>(block, PRODUCT_ROWS - row);
        product.n = product.k = product.x_stride = product.w_stride = product.y_stride = WIDTH;
        product.y = u + row * WIDTH;
        product.room = row + product.m == PRODUCT_ROWS ? BUFFER_ROWS - PRODUCT_ROWS : 0;
        struct hy_all_sum_args sum = {product.y, WIDTH, WIDTH, true, y + row * WIDTH, WIDTH};
        ops->matmul(rank->device, &product);
        ops->begin_all_sum(rank->device, &sum, product.m);
    }
    ops->end_all_sum(rank->device);
    read_floats(rank, y, &found);
    for (float *data : {x, y, u})
        ops->release(rank->device, data);
    return found;
}

START_TEST(products_in_blocks_have_the_bits_of_whole_ones)
{
    struct world world;
    const auto x = random_parts(2, BUFFER_ROWS * WIDTH);
    open_world(&world, 2, PATIENT);
    together_ok(&world, [&](struct rank *rank) {
        const std::vector<float> &own = x[rank->index];
        if (run_product(rank, own, HY_PANEL_ROWS) != run_product(rank, own, PRODUCT_ROWS))
            rank->status = HYMBA_ERROR_INTERNAL;
    });
    close_world(&world);
}
END_TEST

/* Which end them. */
START_TEST(finishes_and_exchanges_with_sums_under_way)
{
    struct world world;
    open_world(&world, 3, PATIENT);
    together_ok(&world, [](struct rank *rank) {
        const std::vector<float> one(64, 1.0f), three(64, 3.0f), nine(64, 9.0f);
        std::vector<float> found(64);
        float *x = make_floats(rank, one), *y = make_floats(rank, one);
        struct hy_all_sum_args first = {x, 64, 64, false, y, 64}, second = {y, 64, 64, false, x, 64};
        ops->begin_all_sum(rank->device, &first, 1);
        read_floats(rank, x, &found); /* what the sum reads has not changed */
        bool right = found == one;
        read_floats(rank, y, &found); /* behind that finish */
        right = right && found == three;
        ops->begin_all_sum(rank->device, &second, 1);
        check_exchange(rank, 100, 3);
        ops->end_all_sum(rank->device); /* of nothing any more */
        right = right && rank->status == HYMBA_OK;
        read_floats(rank, x, &found);
        if (!right || found != nine)
            rank->status = HYMBA_ERROR_INTERNAL;
        ops->release(rank->device, x);
        ops->release(rank->device, y);
    });
    close_world(&world);
}
END_TEST

/* One wait between the two streams that fails, in whatever place: a graph that cannot be made is
 * none, and every other failure is told. A capture is left whole all the same. */
START_TEST(streams_that_cannot_be_ordered)
{
    const auto x = random_parts(2, BESIDE_ROWS * STEP_N);
    for (unsigned nth = 2; nth <= 26; nth += 6) {
        struct world world;
        open_world(&world, 2, SHORT);
        together(&world, [&](struct rank *rank) {
            struct beside beside = make_beside(rank, x[rank->index]);
            std::vector<float> expected = run_blocks(rank, &beside, false, false);
            hymba_status status = rank->status;
            if (rank->index == 0)
                harness_fail_next(_i ? "cudaEventRecord" : "cudaStreamWaitEvent", nth, cudaErrorUnknown);
            for (int time = 0; time < 3 && status == HYMBA_OK; time++) {
                bool same = run_blocks(rank, &beside, true, true) == expected;
                status = rank->status == HYMBA_OK && !same ? HYMBA_ERROR_INTERNAL : rank->status;
            }
            release_beside(rank, &beside);
            rank->status = status;
        });
        for (const struct rank &rank : world.ranks)
            if (rank.status != HYMBA_ERROR_TIMEOUT && rank.status != HYMBA_ERROR_DEVICE)
                assert_ok(&rank);
        harness_fail_no_more();
        close_world(&world);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sums beside other work");
    for (bool early : {false, true}) {
        TCase *tests = tcase_create(early ? "as early as may be" : "as late as may be");
        tcase_add_checked_fixture(tests, early ? set_up_early : setup, teardown);
        tcase_set_timeout(tests, 120);
        tcase_add_test(tests, sums_beside_other_work_have_the_same_bits);
        tcase_add_test(tests, products_in_blocks_have_the_bits_of_whole_ones);
        tcase_add_test(tests, finishes_and_exchanges_with_sums_under_way);
        tcase_add_loop_test(tests, streams_that_cannot_be_ordered, 0, 2);
        suite_add_tcase(suite, tests);
    }
    return test_main(suite);
}
