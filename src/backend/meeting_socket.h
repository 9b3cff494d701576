/*
 * Sockets of a meeting: none ever blocks, none lives on in another program, none raises a signal.
 * All waiting has one end, and looks to the host's progress hook meanwhile.
 */
#ifndef HY_BACKEND_MEETING_SOCKET_H
#define HY_BACKEND_MEETING_SOCKET_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/meeting.h"

/* How long is waited, and whom is told meanwhile. */
struct hy_patience {
    const struct hy_memory *memory;
    int64_t end;         /* in milliseconds of hy_clock_ms */
    uint32_t come, all;  /* of the progress hook */
};

int64_t hy_clock_ms(void);

/* Milliseconds left; 0 when the time is over. */
int64_t hy_patience_left(const struct hy_patience *patience);

/*
 * Waits for an event on n sockets for some tenths of a second at most, and never past the end: the
 * caller asks again. Their revents are 0 where there was none. CANCELLED by the hook.
 */
hymba_status hy_socket_poll(const struct hy_patience *patience, struct pollfd *sockets, size_t n,
                            hymba_error *error);

/* For some milliseconds. */
void hy_socket_pause(void);

enum { HY_MAX_LISTENERS = 8 };

/* Sockets that listen at all addresses of a place; FILE if not even one does, or one is taken. */
hymba_status hy_socket_listen(const struct hy_place *place, const char *text, int *sockets,
                              size_t *n, hymba_error *error);

/* The next one who came; -1: nobody, or nobody can be taken now. */
int hy_socket_accept(int listener);

/* Whoever is at the other end, as "127.0.0.1"; for sentences. */
void hy_socket_describe(int socket, char *text, size_t capacity);

/* What came, at most size bytes: 0 if nothing has yet, -1 if nothing ever will. */
ptrdiff_t hy_socket_receive(int socket, void *bytes, size_t size);

/* All of it, or false: the other end has gone or takes nothing until the end. CANCELLED counts as
 * false; the next wait tells it. */
bool hy_socket_send(const struct hy_patience *patience, int socket, const void *bytes,
                    size_t size);

void hy_socket_close(int socket);

#endif
