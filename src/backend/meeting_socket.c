#define _GNU_SOURCE /* accept4 */

#include "backend/meeting_socket.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SLICE_MS = 100, /* between two looks to the progress hook */
    PAUSE_MS = 50,
    BACKLOG = 128
};

int64_t hy_clock_ms(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t hy_patience_left(const struct hy_patience *patience)
{
    int64_t left = patience->end - hy_clock_ms();
    return left > 0 ? left : 0;
}

hymba_status hy_socket_poll(const struct hy_patience *patience, struct pollfd *sockets, size_t n,
                            hymba_error *error)
{
    int64_t left = hy_patience_left(patience);
    int found = poll(sockets, (nfds_t)n, left < SLICE_MS ? (int)left : SLICE_MS);
    for (size_t i = 0; found < 0 && i < n; i++)
        sockets[i].revents = 0; /* a signal came, or memory is short: nothing is known */
    if (found < 0 && errno != EINTR)
        hy_socket_pause();
    return hy_progress(patience->memory, HYMBA_PHASE_MEETING, patience->come, patience->all,
                       error);
}

void hy_socket_pause(void)
{
    poll(NULL, 0, PAUSE_MS);
}

void hy_socket_close(int socket)
{
    if (socket >= 0)
        close(socket);
}

/* ---------------------------------------------------------------- listening */

/* With an IPv6 socket that took IPv4 as well, the IPv4 address of the same name would be taken. */
static int listen_at(const struct addrinfo *address)
{
    int on = 1;
    int found = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (found < 0)
        return -1;
    setsockopt(found, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* connections of earlier runs */
    if (address->ai_family == AF_INET6)
        setsockopt(found, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(found, address->ai_addr, address->ai_addrlen) == 0 && listen(found, BACKLOG) == 0)
        return found;
    int code = errno;
    close(found);
    errno = code;
    return -1;
}

/* A name may have an address that this machine does not have or cannot use. */
static bool is_elsewhere(int code)
{
    return code == EADDRNOTAVAIL || code == EAFNOSUPPORT;
}

static hymba_status listen_everywhere(const struct addrinfo *list, const char *text, int *sockets,
                                      size_t *n, hymba_error *error)
{
    int code = EADDRNOTAVAIL;
    for (const struct addrinfo *one = list; one && *n < HY_MAX_LISTENERS; one = one->ai_next) {
        int found = listen_at(one);
        if (found >= 0)
            sockets[(*n)++] = found;
        else
            code = errno;
        if (found < 0 && !is_elsewhere(code))
            return hy_fail_system(error, HYMBA_ERROR_FILE, code, "rank 0 cannot listen at %s",
                                  text);
    }
    return *n > 0 ? HYMBA_OK
                  : hy_fail_system(error, HYMBA_ERROR_FILE, code, "rank 0 cannot listen at %s",
                                   text);
}

hymba_status hy_socket_listen(const struct hy_place *place, const char *text, int *sockets,
                              size_t *n, hymba_error *error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    *n = 0;
    int code = getaddrinfo(place->host, place->port, &hints, &list);
    if (code != 0)
        return hy_fail(error, HYMBA_ERROR_FILE, "rank 0 cannot listen at %s: %s", text,
                       gai_strerror(code));
    hymba_status status = listen_everywhere(list, text, sockets, n, error);
    freeaddrinfo(list);
    for (size_t i = 0; status != HYMBA_OK && i < *n; i++)
        close(sockets[i]);
    return status;
}

int hy_socket_accept(int listener)
{
    int found = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (found < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS))
        hy_socket_pause(); /* it stays in the line, and would be seen again at once */
    return found;
}

/* ------------------------------------------------------------------ talking */

void hy_socket_describe(int socket, char *text, size_t capacity)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    snprintf(text, capacity, "somewhere");
    if (getpeername(socket, (struct sockaddr *)&address, &size) == 0)
        getnameinfo((struct sockaddr *)&address, size, text, (socklen_t)capacity, NULL, 0,
                    NI_NUMERICHOST);
}

ptrdiff_t hy_socket_receive(int socket, void *bytes, size_t size)
{
    ptrdiff_t count = recv(socket, bytes, size, 0);
    if (count > 0)
        return count;
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
}

bool hy_socket_send(const struct hy_patience *patience, int socket, const void *bytes,
                    size_t size)
{
    struct pollfd wait = {.fd = socket, .events = POLLOUT};
    const unsigned char *from = bytes;
    for (size_t sent = 0; sent < size;) {
        ptrdiff_t count = send(socket, from + sent, size - sent, MSG_NOSIGNAL);
        if (count > 0)
            sent += (size_t)count;
        else if (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return false;
        else if (hy_patience_left(patience) == 0 ||
                 hy_socket_poll(patience, &wait, 1, NULL) != HYMBA_OK)
            return false;
    }
    return true;
}
