/* The stand-in for memory pools: what they hold, when they give it back, and misuse of them. */
#include "harness.h"
#include "portable.h"
#include "support.h"

enum { MEMORY = 10000 };

static cudaStream_t stream;

static void setup()
{
    harness_reset();
    struct harness_device_config config = harness_default_device();
    config.n_devices = 2;
    config.memory = MEMORY;
    harness_configure(&config);
    ck_assert_int_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
}

static void teardown()
{
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
    ck_assert_int_eq(cudaStreamDestroy(stream), cudaSuccess);
    ck_assert_uint_eq(harness_live_count(), 0);
    harness_reset();
}

static struct cudaMemPoolProps properties_of(int device)
{
    struct cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    return properties;
}

static cudaMemPool_t make_pool(uint64_t threshold)
{
    cudaMemPool_t pool;
    struct cudaMemPoolProps properties = properties_of(0);
    ck_assert_int_eq(cudaMemPoolCreate(&pool, &properties), cudaSuccess);
    ck_assert_int_eq(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold),
                     cudaSuccess);
    return pool;
}

static void *take(cudaMemPool_t pool, size_t bytes, cudaError_t expected = cudaSuccess)
{
    void *data = NULL;
    ck_assert_int_eq(cudaMallocFromPoolAsync(&data, bytes, pool, stream), expected);
    ck_assert((data != NULL) == (expected == cudaSuccess));
    cudaGetLastError();
    return data;
}

static void give(void *data)
{
    ck_assert_int_eq(cudaFreeAsync(data, stream), cudaSuccess);
}

static void wait()
{
    ck_assert_int_eq(cudaStreamSynchronize(stream), cudaSuccess);
}

static void check_pool(cudaMemPool_t pool, uint64_t held, uint64_t used)
{
    uint64_t value;
    ck_assert_int_eq(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &value),
                     cudaSuccess);
    ck_assert_uint_eq(value, held);
    ck_assert_int_eq(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &value),
                     cudaSuccess);
    ck_assert_uint_eq(value, used);
}

static size_t free_bytes()
{
    size_t bytes, total;
    ck_assert_int_eq(cudaMemGetInfo(&bytes, &total), cudaSuccess);
    ck_assert_uint_eq(total, MEMORY);
    return bytes;
}

START_TEST(a_pool_keeps_what_its_threshold_says)
{
    cudaMemPool_t pool = make_pool(1500);
    void *first = take(pool, 1000), *second = take(pool, 2000);
    check_pool(pool, 3000, 3000);
    ck_assert_uint_eq(free_bytes(), MEMORY - 3000);
    give(second);
    check_pool(pool, 3000, 3000); /* nobody has waited */
    wait();
    check_pool(pool, 1500, 1000);
    ck_assert_uint_eq(free_bytes(), MEMORY - 1500);
    give(first);
    first = take(pool, 700); /* more, as the block before is only queued to go */
    check_pool(pool, 1700, 1700);
    wait();
    give(first);
    wait();
    check_pool(pool, 1500, 0);
    uint64_t most;
    ck_assert_int_eq(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &most),
                     cudaSuccess);
    ck_assert_uint_eq(most, 3000);
    ck_assert_int_eq(cudaMemPoolDestroy(pool), cudaSuccess);
    ck_assert_uint_eq(free_bytes(), MEMORY);
}
END_TEST

START_TEST(a_pool_is_trimmed)
{
    cudaMemPool_t pool = make_pool(UINT64_MAX);
    void *first = take(pool, 1000), *second = take(pool, 2000);
    give(second);
    ck_assert_int_eq(cudaMemPoolTrimTo(pool, 0), cudaSuccess);
    check_pool(pool, 3000, 3000);
    wait();
    check_pool(pool, 3000, 1000);
    ck_assert_int_eq(cudaMemPoolTrimTo(pool, 2500), cudaSuccess);
    check_pool(pool, 2500, 1000);
    ck_assert_int_eq(cudaMemPoolTrimTo(pool, 9000), cudaSuccess);
    check_pool(pool, 2500, 1000);
    ck_assert_int_eq(cudaMemPoolTrimTo(pool, 0), cudaSuccess);
    check_pool(pool, 1000, 1000);
    give(first);
    wait();
    ck_assert_int_eq(cudaMemPoolDestroy(pool), cudaSuccess);
}
END_TEST

/* What one pool holds in reserve is not another one's, nor cudaMalloc's. */
START_TEST(pools_share_the_memory)
{
    cudaMemPool_t pool = make_pool(UINT64_MAX), other = make_pool(0);
    void *data = take(pool, 8000), *more;
    take(other, 3000, cudaErrorMemoryAllocation);
    give(data);
    wait();
    take(other, 3000, cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaMalloc(&more, 3000), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaMallocAsync(&more, 3000, stream), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaSetDevice(1), cudaSuccess);
    ck_assert_uint_eq(free_bytes(), MEMORY);
    ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
    ck_assert_int_eq(cudaMemPoolTrimTo(pool, 0), cudaSuccess);
    give(take(other, 3000));
    wait();
    ck_assert_uint_eq(free_bytes(), MEMORY); /* its threshold is 0 */
    ck_assert_int_eq(cudaMallocAsync(&more, 3000, stream), cudaSuccess);
    give(more);
    wait();
    ck_assert_uint_eq(free_bytes(), MEMORY);
    for (cudaMemPool_t one : {pool, other})
        ck_assert_int_eq(cudaMemPoolDestroy(one), cudaSuccess);
    cudaGetLastError();
}
END_TEST

START_TEST(misuse_is_a_fault)
{
    cudaMemPool_t pool = make_pool(0), none;
    struct cudaMemPoolProps wrong[] = {properties_of(2), properties_of(0), properties_of(0)};
    uint64_t value = 0;
    void *data = take(pool, 100);
    wrong[1].maxSize = 5;
    wrong[2].allocType = cudaMemAllocationTypeInvalid;
    for (const struct cudaMemPoolProps &properties : wrong)
        ck_assert_int_eq(cudaMemPoolCreate(&none, &properties), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &value),
                     cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemPoolGetAttribute(pool, cudaMemPoolReuseAllowOpportunistic, &value),
                     cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemPoolDestroy(pool), cudaErrorInvalidValue); /* it is in use */
    give(data);
    ck_assert_int_eq(cudaMemPoolDestroy(pool), cudaErrorInvalidValue); /* and still is */
    wait();
    ck_assert_int_eq(cudaSetDevice(1), cudaSuccess);
    take(pool, 100, cudaErrorInvalidValue); /* of another device */
    ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
    ck_assert_int_eq(cudaMemPoolDestroy(pool), cudaSuccess);
    take(pool, 100, cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemPoolTrimTo(pool, 0), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemPoolDestroy(pool), cudaErrorInvalidValue);
    ck_assert_uint_eq(harness_fault_count(HARNESS_CALL), 11);
    harness_clear_errors();
    cudaGetLastError();
}
END_TEST

/* Executable graphs take memory if a test says so. */
START_TEST(graphs_take_memory)
{
    struct harness_device_config config = harness_default_device();
    cudaGraph_t graph;
    cudaGraphExec_t first, second;
    config.memory = MEMORY;
    config.graph_bytes = 6000;
    harness_configure(&config);
    ck_assert_int_eq(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                     cudaSuccess);
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ck_assert_int_eq(cudaGraphInstantiate(&first, graph, 0), cudaSuccess);
    ck_assert_uint_eq(free_bytes(), MEMORY - 6000);
    ck_assert_int_eq(cudaGraphInstantiate(&second, graph, 0), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGraphExecDestroy(first), cudaSuccess);
    ck_assert_uint_eq(free_bytes(), MEMORY);
    ck_assert_int_eq(cudaGraphDestroy(graph), cudaSuccess);
    cudaGetLastError();
}
END_TEST

int main()
{
    Suite *suite = suite_create("memory pools of the CUDA harness");
    TCase *tests = tcase_create("pools");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, a_pool_keeps_what_its_threshold_says);
    tcase_add_test(tests, a_pool_is_trimmed);
    tcase_add_test(tests, pools_share_the_memory);
    tcase_add_test(tests, misuse_is_a_fault);
    tcase_add_test(tests, graphs_take_memory);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
