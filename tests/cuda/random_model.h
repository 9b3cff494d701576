/* A model of random weights in the test's directory. */
#ifndef TESTS_CUDA_RANDOM_MODEL_H
#define TESTS_CUDA_RANDOM_MODEL_H

#include "hymba.h"

/* Made when it is first opened, by a configuration of its own for each program. */
hymba_model *random_model_open(const char *config);

#endif
