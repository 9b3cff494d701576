/* The comparisons that compare_ops.cpp lists, by the files that they lie in. */
#ifndef HYMBA_TEST_COMPARE_PARTS_H
#define HYMBA_TEST_COMPARE_PARTS_H

#include "compare_bench.h"

/* Copies, fills and conversions: compare_copies.cpp. */
void compare_copies(bench &b);
void compare_large_copies(bench &b);
void compare_copy_list(bench &b);
void compare_convert(bench &b);

/* Ops that work on rows apart: compare_rows.cpp. */
void compare_embed(bench &b);
void compare_rms_norm(bench &b);
void compare_norm_parts(bench &b);
void compare_round(bench &b);
void compare_rope_store(bench &b);
void compare_fuse(bench &b);
void compare_square_sums(bench &b);
void compare_swiglu(bench &b);

/* Products, and that rows have the same bits alone and among others: compare_products.cpp. */
void compare_products(bench &b);
void compare_neighbours(bench &b);
void compare_neighbours_of_model(bench &b);

/* Convolutions and scans, with the states that they leave: compare_states.cpp. */
void compare_conv(bench &b);
void compare_scan(bench &b);

/* Attention: compare_attention.cpp. */
void compare_attention(bench &b);
void compare_attention_tiles(bench &b);

/* Choices of tokens: compare_sample.cpp. */
void compare_sample(bench &b);

#endif
