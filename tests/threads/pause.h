/* Holds a running call at one of its probes while another thread does something. */
#ifndef TEST_PAUSE_H
#define TEST_PAUSE_H

#include <pthread.h>
#include <stdbool.h>

#include "run/context.h"

struct pause {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    hymba_context *context;
    long pause_at;       /* number of the probe event that waits, from 0; negative: none */
    long n_events;       /* that came so far */
    bool waiting, released;
    enum hy_probe_site site; /* of the event that waited */
    int layer;
    /* Since the release: */
    long n_layers;       /* whose end came */
    long n_later;        /* events of other layers than that of the pause */
};

/* Makes the context's calls run through it; not while a call runs. */
void pause_init(struct pause *pause, hymba_context *context);
void pause_free(struct pause *pause);

/* Waits at the event of this number in the next call; the counts begin anew. */
void pause_at(struct pause *pause, long event);

/* Blocks until the call waits; false if it was released first. */
bool pause_wait(struct pause *pause);

/* Lets the call go on; the thread that called says so too, when the call has returned. */
void pause_release(struct pause *pause);

#endif
