/* How fast a device multiplies and moves memory is measured, or why not is told. */
#include "golden.h"
#include "guarded_world.h"

static hymba_error error = {.struct_size = sizeof error};

static void check_speed(hymba_context *context)
{
    double products = 0.0, bandwidth = 0.0;
    test_status(hymba_context_measure_products(context, &products, &error), HYMBA_OK, error);
    ck_assert_double_gt(products, 0.0);
    test_status(hymba_context_measure_bandwidth(context, 100001, &bandwidth, &error), HYMBA_OK,
                error);
    ck_assert_double_gt(bandwidth, 0.0);
}

/* In f32, in bf16, with weights that the device expands first, and in 8 bits. */
START_TEST(speed_is_measured_on_the_device)
{
    static const struct {
        hymba_dtype quantize;
        int32_t compute;
    } kinds[] = {
        {HYMBA_DTYPE_DEFAULT, HYMBA_COMPUTE_F32},
        {HYMBA_DTYPE_DEFAULT, HYMBA_COMPUTE_BF16},
        {HYMBA_DTYPE_INT8, HYMBA_COMPUTE_BF16},
        {HYMBA_DTYPE_DEFAULT, HYMBA_COMPUTE_INT8},
        {HYMBA_DTYPE_INT4, HYMBA_COMPUTE_FP8},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        hymba_model *model;
        hymba_model_params params = {.struct_size = sizeof params, .quantize = kinds[i].quantize};
        test_status(hymba_model_open(test_data("goldens/f_official_like"), &params, &model, &error),
                    HYMBA_OK, error);
        hymba_context *context =
            guarded_context(model, (hymba_context_params){.compute = kinds[i].compute}, "cuda");
        check_speed(context);
        hymba_context_release(context);
        hymba_model_release(model);
    }
}
END_TEST

START_TEST(speed_without_memory_or_without_a_device)
{
    struct golden golden;
    double rate;
    golden_open(&golden, "goldens/a_all_features");
    hymba_context *cpu = guarded_context(golden.model, (hymba_context_params){0}, "cpu");
    hymba_context *context = guarded_context(golden.model, (hymba_context_params){0}, "cuda");
    test_status(hymba_context_measure_bandwidth(cpu, 1000, &rate, &error), HYMBA_ERROR_UNSUPPORTED,
                error);
    test_status(hymba_context_measure_bandwidth(context, 1, &rate, &error), HYMBA_ERROR_ARGUMENT,
                error);
    guarded->fail_allocation = guarded->n_allocations;
    test_status(hymba_context_measure_bandwidth(context, 1000, &rate, &error), HYMBA_ERROR_MEMORY,
                error);
    guarded->fail_allocation = guarded->n_allocations;
    test_status(hymba_context_measure_products(context, &rate, &error), HYMBA_ERROR_MEMORY, error);
    guarded->fail_allocation = guarded->n_allocations + 1; /* the second square is too large */
    test_status(hymba_context_measure_products(context, &rate, &error), HYMBA_OK, error);
    ck_assert_double_gt(rate, 0.0);
    guarded->fail_allocation = -1;
    check_speed(context);
    guarded->fail_finish = guarded->n_finishes + 1;
    test_status(hymba_context_measure_products(context, &rate, &error), HYMBA_ERROR_DEVICE, error);
    test_status(hymba_context_measure_bandwidth(context, 1000, &rate, &error), HYMBA_ERROR_DEVICE,
                error);
    hymba_context_release(context);
    hymba_context_release(cpu);
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_speed");
    TCase *tests = tcase_create("device_speed");
    tcase_set_timeout(tests, 600);
    tcase_add_checked_fixture(tests, guarded_begin, guarded_end);
    tcase_add_test(tests, speed_is_measured_on_the_device);
    tcase_add_test(tests, speed_without_memory_or_without_a_device);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
