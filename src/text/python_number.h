/* Numbers as Python writes them. */
#ifndef HY_TEXT_PYTHON_NUMBER_H
#define HY_TEXT_PYTHON_NUMBER_H

#include <stddef.h>
#include <stdint.h>

enum { HY_PYTHON_NUMBER_SIZE = 32 };

/* repr of a finite float: the shortest digits that read back as the same number. Does not depend
 * on the locale. Writes a NUL too; returns the length without it. */
size_t hy_python_write_real(double value, char text[HY_PYTHON_NUMBER_SIZE]);

size_t hy_python_write_integer(int64_t value, char text[HY_PYTHON_NUMBER_SIZE]);

#endif
