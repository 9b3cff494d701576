/*
 * exp and log from nothing but exactly rounded operations. The C library's differ in their last
 * bit from one system to the next, which would now and then draw another token for the same seed.
 */
#ifndef HY_TEXT_EXPONENTIAL_H
#define HY_TEXT_EXPONENTIAL_H

/* e to the power of x <= 0. Relative error below 1e-15; 0 below the smallest normal number. */
double hy_exponential(double x);

/* The natural logarithm of a finite x > 0, to within 1e-15 of the greater of it and 1. */
double hy_logarithm(double x);

#endif
