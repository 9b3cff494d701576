#include "pause.h"

static void observe(void *user, enum hy_probe_site site, int layer, const float *data, size_t rows,
                    size_t width, size_t stride)
{
    struct pause *pause = user;
    (void)data;
    (void)rows;
    (void)width;
    (void)stride;
    pthread_mutex_lock(&pause->mutex);
    if (pause->released) {
        pause->n_layers += site == HY_PROBE_HIDDEN;
        pause->n_later += layer != pause->layer;
    }
    if (pause->n_events++ == pause->pause_at) {
        pause->site = site;
        pause->layer = layer;
        pause->waiting = true;
        pthread_cond_broadcast(&pause->changed);
        while (!pause->released)
            pthread_cond_wait(&pause->changed, &pause->mutex);
    }
    pthread_mutex_unlock(&pause->mutex);
}

void pause_init(struct pause *pause, hymba_context *context)
{
    *pause = (struct pause){.context = context, .pause_at = -1};
    pthread_mutex_init(&pause->mutex, NULL);
    pthread_cond_init(&pause->changed, NULL);
    context->probe = (struct hy_probe){observe, pause};
}

void pause_free(struct pause *pause)
{
    pause->context->probe = (struct hy_probe){NULL, NULL};
    pthread_cond_destroy(&pause->changed);
    pthread_mutex_destroy(&pause->mutex);
}

void pause_at(struct pause *pause, long event)
{
    pthread_mutex_lock(&pause->mutex);
    pause->pause_at = event;
    pause->n_events = pause->n_layers = pause->n_later = 0;
    pause->waiting = pause->released = false;
    pthread_mutex_unlock(&pause->mutex);
}

bool pause_wait(struct pause *pause)
{
    pthread_mutex_lock(&pause->mutex);
    while (!pause->waiting && !pause->released)
        pthread_cond_wait(&pause->changed, &pause->mutex);
    bool waiting = pause->waiting;
    pthread_mutex_unlock(&pause->mutex);
    return waiting;
}

void pause_release(struct pause *pause)
{
    pthread_mutex_lock(&pause->mutex);
    pause->released = true;
    pthread_cond_broadcast(&pause->changed);
    pthread_mutex_unlock(&pause->mutex);
}
