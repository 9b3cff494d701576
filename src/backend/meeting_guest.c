#include "backend/meeting_tcp.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/meeting_socket.h"
#include "backend/meeting_words.h"

enum {
    CONNECT_MS = 5000, /* for one address: a name may have several */
    LIST_BYTES = 160
};

struct visit {
    struct hy_memory *memory;
    const struct hy_meeting *meeting;
    struct hy_patience patience;
    unsigned char *id;
    bool over;          /* there was an answer; otherwise it is tried again */
    const char *hurdle; /* why the last attempt failed */
    int code;           /* errno, where that says more */
};

static hymba_status fall_short(struct visit *visit, const char *hurdle, int code)
{
    visit->hurdle = hurdle;
    visit->code = code;
    return HYMBA_OK;
}

/* -------------------------------------------------------------------- answer */

static hymba_status hear_of_missing(const struct visit *visit, const struct hy_answer *answer,
                                    hymba_error *error)
{
    char list[LIST_BYTES];
    hy_ranks_describe(answer->id, visit->meeting->world_size, list, sizeof list);
    return hy_fail(error, HYMBA_ERROR_TIMEOUT, "%s of %u did not come to %s while rank 0 waited",
                   list, (unsigned)visit->meeting->world_size, visit->meeting->place);
}

static hymba_status hear_answer(const struct visit *visit, const struct hy_answer *answer,
                                hymba_error *error)
{
    const struct hy_meeting *meeting = visit->meeting;
    char why[96];
    if (answer->verdict == HY_WELCOME && answer->version == HY_MEETING_VERSION &&
        answer->number == meeting->world_size) {
        memcpy(visit->id, answer->id, sizeof answer->id);
        return HYMBA_OK;
    }
    if (answer->verdict == HY_OTHERS_MISSING)
        return hear_of_missing(visit, answer, error);
    if (answer->verdict == HY_OTHER_VERSION)
        snprintf(why, sizeof why, "it meets in version %u, not %d", (unsigned)answer->number,
                 HY_MEETING_VERSION);
    else if (answer->verdict == HY_OTHER_SIZE)
        snprintf(why, sizeof why, "its world_size is %u", (unsigned)answer->number);
    else if (answer->verdict == HY_RANK_TAKEN)
        snprintf(why, sizeof why, "another one says that it is this rank");
    else
        snprintf(why, sizeof why, "its answer is %u", (unsigned)answer->verdict);
    return hy_fail(error, HYMBA_ERROR_ARGUMENT, "rank 0 at %s refused rank %u of %u: %s",
                   meeting->place, (unsigned)meeting->rank, (unsigned)meeting->world_size, why);
}

static hymba_status wait_for_answer(struct visit *visit, int socket, hymba_error *error)
{
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    unsigned char bytes[HY_ANSWER_BYTES];
    struct hy_answer answer;
    for (size_t n_read = 0; n_read < sizeof bytes;) {
        ptrdiff_t count = hy_socket_receive(socket, bytes + n_read, sizeof bytes - n_read);
        if (count < 0)
            return fall_short(visit, "whoever listens there hung up without an answer", 0);
        n_read += (size_t)count;
        if (count > 0)
            continue;
        if (hy_patience_left(&visit->patience) == 0)
            return fall_short(visit, "it was reached, but waits for others or is no rank", 0);
        hymba_status status = hy_socket_poll(&visit->patience, &wait, 1, error);
        if (status != HYMBA_OK)
            return status;
    }
    if (!hy_answer_read(bytes, &answer))
        return fall_short(visit, "whoever listens there is no rank", 0);
    visit->over = true;
    return hear_answer(visit, &answer, error);
}

/* ------------------------------------------------------------------- attempts */

/* Whoever tries a port of this machine again and again may be given that port, and meet itself. */
static bool is_own_end(int socket)
{
    struct sockaddr_storage here, there;
    socklen_t here_size = sizeof here, there_size = sizeof there;
    memset(&here, 0, sizeof here);
    memset(&there, 0, sizeof there);
    return getsockname(socket, (struct sockaddr *)&here, &here_size) == 0 &&
           getpeername(socket, (struct sockaddr *)&there, &there_size) == 0 &&
           here_size == there_size && memcmp(&here, &there, here_size) == 0;
}

static hymba_status finish_connecting(struct visit *visit, int socket, bool *connected,
                                      hymba_error *error)
{
    struct pollfd wait = {.fd = socket, .events = POLLOUT};
    struct hy_patience patience = visit->patience;
    int64_t end = hy_clock_ms() + CONNECT_MS;
    int code = 0;
    socklen_t size = sizeof code;
    if (patience.end > end)
        patience.end = end;
    do {
        hymba_status status = hy_socket_poll(&patience, &wait, 1, error);
        if (status != HYMBA_OK)
            return status;
    } while (wait.revents == 0 && hy_patience_left(&patience) > 0);
    if (wait.revents == 0)
        return fall_short(visit, "nobody answers", 0);
    if (getsockopt(socket, SOL_SOCKET, SO_ERROR, &code, &size) != 0)
        code = errno;
    *connected = code == 0 && !is_own_end(socket);
    return *connected ? HYMBA_OK : fall_short(visit, "it cannot be reached", code);
}

static hymba_status greet(struct visit *visit, int socket, hymba_error *error)
{
    struct hy_greeting greeting = {HY_MEETING_VERSION, visit->meeting->rank,
                                   visit->meeting->world_size};
    unsigned char bytes[HY_GREETING_BYTES];
    hy_greeting_write(&greeting, bytes);
    if (!hy_socket_send(&visit->patience, socket, bytes, sizeof bytes))
        return fall_short(visit, "whoever listens there hung up", 0);
    return wait_for_answer(visit, socket, error);
}

static hymba_status try_address(struct visit *visit, const struct addrinfo *address,
                                hymba_error *error)
{
    bool connected = false;
    hymba_status status = HYMBA_OK;
    int found = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (found < 0)
        return fall_short(visit, "no socket can be had", errno);
    if (connect(found, address->ai_addr, address->ai_addrlen) != 0 && errno != EINPROGRESS &&
        errno != EINTR)
        status = fall_short(visit, "it cannot be reached", errno);
    else
        status = finish_connecting(visit, found, &connected, error);
    if (connected)
        status = greet(visit, found, error);
    hy_socket_close(found);
    return status;
}

/* A name may become known only when its machine is there. */
static hymba_status try_addresses(struct visit *visit, const struct hy_place *place,
                                  hymba_error *error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    hymba_status status = HYMBA_OK;
    int code = getaddrinfo(place->host, place->port, &hints, &list);
    if (code != 0)
        return fall_short(visit, gai_strerror(code), 0);
    for (const struct addrinfo *one = list; one && status == HYMBA_OK && !visit->over;
         one = one->ai_next)
        status = try_address(visit, one, error);
    freeaddrinfo(list);
    return status;
}

static hymba_status give_up(const struct visit *visit, hymba_error *error)
{
    const struct hy_meeting *meeting = visit->meeting;
    return hy_fail_system(error, HYMBA_ERROR_TIMEOUT, visit->code,
                          "rank %u of %u had no id from rank 0 at %s within %u ms: %s",
                          (unsigned)meeting->rank, (unsigned)meeting->world_size, meeting->place,
                          (unsigned)meeting->timeout_ms, visit->hurdle);
}

hymba_status hy_meeting_visit(struct hy_memory *memory, const struct hy_meeting *meeting,
                              const struct hy_place *place, unsigned char *id,
                              hymba_error *error)
{
    struct visit visit = {
        .memory = memory,
        .meeting = meeting,
        .patience = {memory, hy_clock_ms() + meeting->timeout_ms, 1, meeting->world_size},
        .id = id,
    };
    for (;;) {
        hymba_status status = try_addresses(&visit, place, error);
        if (status != HYMBA_OK || visit.over)
            return status;
        if (hy_patience_left(&visit.patience) == 0)
            return give_up(&visit, error);
        status = hy_progress(memory, HYMBA_PHASE_MEETING, 1, meeting->world_size, error);
        if (status != HYMBA_OK)
            return status;
        hy_socket_pause();
    }
}
