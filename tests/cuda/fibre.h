/*
 * Fibres: stacks that take turns on one thread of the system. They are numbered from 0, made when
 * first needed and kept. A fibre runs entry again and again: when entry returns the fibre yields,
 * and its next turn begins entry anew.
 */
#ifndef HYMBA_TEST_FIBRE_H
#define HYMBA_TEST_FIBRE_H

#include <stddef.h>

enum { FIBRES_MAX = 1024 };

/* That many, at most FIBRES_MAX, are there. */
void fibre_prepare(size_t n, void (*entry)());

/* Runs fibre i until it yields; called outside of fibres. */
void fibre_resume(size_t i);

/* Called in a fibre: back to where it was resumed. */
void fibre_yield();

/* Fibre i will begin entry anew; what stands on its stack is forgotten. */
void fibre_abandon(size_t i);

#endif
