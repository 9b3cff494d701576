#include "interrupt.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

/* A signal handler gets no argument, so what it works on must be static. */
static volatile sig_atomic_t seen;
static _Atomic(hymba_context *) context_to_cancel;
static _Atomic(hymba_generation *) generation_to_cancel;

static void on_interrupt(int number)
{
    (void)number;
    seen = 1;
    hymba_generation *generation = atomic_load(&generation_to_cancel);
    hymba_context *context = atomic_load(&context_to_cancel);
    if (generation)
        hymba_generation_cancel(generation);
    if (context)
        hymba_context_cancel(context);
}

static void install(int flags)
{
    struct sigaction action;
    struct sigaction before;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    /* No SA_RESTART: waiting for input ends with a Ctrl-C. */
    action.sa_flags = flags;
    sigemptyset(&action.sa_mask);
    /* A command that a shell runs in the background is meant to ignore Ctrl-C. */
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(SIGINT, &action, NULL);
}

void interrupt_install(void)
{
    install((int)SA_RESETHAND); /* the second one has no mercy */
}

void interrupt_stay_mild(void)
{
    install(0);
}

bool interrupted(void)
{
    return seen != 0;
}

bool interrupt_take(void)
{
    bool result = seen != 0;
    seen = 0;
    return result;
}

void interrupt_cancels_context(hymba_context *context)
{
    atomic_store(&context_to_cancel, context);
}

void interrupt_cancels_generation(hymba_generation *generation)
{
    atomic_store(&generation_to_cancel, generation);
}
