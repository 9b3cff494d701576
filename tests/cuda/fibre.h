/*
 * Fibres: stacks that take turns on one thread of the system. They are numbered from 0, made when
 * first needed and kept. A fibre runs entry again and again, which ends each of its turns by
 * fibre_yield or by resuming another.
 */
#ifndef HYMBA_TEST_FIBRE_H
#define HYMBA_TEST_FIBRE_H

#include <stddef.h>

enum { FIBRES_MAX = 1024 };

/* That many, at most FIBRES_MAX, are there. */
void fibre_prepare(size_t n, void (*entry)());

/* Fibre i goes on. Outside of fibres the call returns when one yields, in a fibre when that one is
 * resumed again. */
void fibre_resume(size_t i);

/* Called in a fibre: back outside. */
void fibre_yield();

/* Fibre i will begin entry anew; what stands on its stack is forgotten. */
void fibre_abandon(size_t i);

#endif
