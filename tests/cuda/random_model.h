/* A model of random weights in the test's directory. */
#ifndef TESTS_CUDA_RANDOM_MODEL_H
#define TESTS_CUDA_RANDOM_MODEL_H

#include "hymba.h"

/* Of three layers, three key heads and three granules of feed-forward columns: three ranks share
 * it. */
extern const char random_model_for_ranks[];
enum { RANDOM_MODEL_VOCABULARY = 150 };

/* Made when it is first opened, by a configuration of its own for each program. */
hymba_model *random_model_open(const char *config);

#endif
