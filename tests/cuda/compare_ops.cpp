#include "compare_ops.h"

#include "compare_8bit.h"
#include "compare_parts.h"

static void compare_narrow(bench &b)
{
    const char *message = compare_8_bits(b.ops, b.device, (unsigned)b.below(1u << 30));
    if (message)
        b.fail("%s", message);
}

static const struct {
    const char *name;
    void (*compare)(bench &b);
} comparisons[] = {
    {"copy, fill", compare_copies},
    {"large copies", compare_large_copies},
    {"copy lists", compare_copy_list},
    {"convert", compare_convert},
    {"embed", compare_embed},
    {"rms_norm", compare_rms_norm},
    {"norm_parts", compare_norm_parts},
    {"round", compare_round},
    {"rope_store", compare_rope_store},
    {"fuse", compare_fuse},
    {"sums of squares", compare_square_sums},
    {"swiglu", compare_swiglu},
    {"matmul", compare_products},
    {"matmul, bits of rows", compare_neighbours},
    {"conv", compare_conv},
    {"scan", compare_scan},
    {"attention", compare_attention},
    {"attention, large tiles", compare_attention_tiles},
    {"sample", compare_sample},
    {"8 bits", compare_narrow},
    /* what takes long under the harness stands at the end */
    {"matmul, bits of rows, 1.5B", compare_neighbours_of_model},
};
enum { N_COMPARISONS = sizeof comparisons / sizeof comparisons[0], N_LONG_ONES = 1 };

size_t compare_count()
{
    return N_COMPARISONS - N_LONG_ONES;
}

size_t compare_count_of_device()
{
    return N_COMPARISONS;
}

const char *compare_name(size_t number)
{
    return comparisons[number].name;
}

const char *compare_op(size_t number, const struct hy_device_ops *ops, struct hy_device *device,
                       unsigned seed)
{
    static char message[512];
    bench b(ops, device, seed);
    comparisons[number].compare(b);
    b.finish();
    memcpy(message, b.message, sizeof message);
    return message[0] ? message : NULL;
}
