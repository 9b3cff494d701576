#include "backend/meeting_tcp.h"

#include <stdio.h>
#include <string.h>

#include "backend/meeting_socket.h"
#include "backend/meeting_words.h"

enum {
    SILENT_GUESTS = 64, /* who have come and not greeted: the first of more has to go */
    NEW_GUESTS = 16,    /* at a time; then those who are there are heard */
    NAME_BYTES = 64,
    LIST_BYTES = 160,
    REASON_BYTES = 160
};

/* Somebody at the other end of a connection. */
struct guest {
    int socket;    /* -1: has gone, and is swept away */
    uint32_t rank; /* 0: nobody yet */
    size_t n_read;
    unsigned char words[HY_GREETING_BYTES];
};

struct host {
    struct hy_memory *memory;
    const struct hy_meeting *meeting;
    struct hy_patience patience;
    int listeners[HY_MAX_LISTENERS];
    size_t n_listeners;
    struct guest *guests; /* in the order they came; [capacity] */
    size_t n_guests, capacity;
    struct pollfd *sockets; /* [HY_MAX_LISTENERS + capacity]: the listeners, then the guests */
    unsigned char present[HY_MAX_RANKS / 8];
    char refused[REASON_BYTES]; /* the last who was sent away; empty: nobody was */
};

/* ------------------------------------------------------------------ coming */

static void forget_guest(struct host *host, struct guest *guest)
{
    hy_socket_close(guest->socket);
    guest->socket = -1;
    if (guest->rank != 0) {
        host->present[guest->rank / 8] &= (unsigned char)~(1u << guest->rank % 8);
        host->patience.come--;
    }
    guest->rank = 0;
}

static void sweep_guests(struct host *host)
{
    size_t kept = 0;
    for (size_t i = 0; i < host->n_guests; i++)
        if (host->guests[i].socket >= 0)
            host->guests[kept++] = host->guests[i];
    host->n_guests = kept;
}

/* Those who did not greet are refused here, too: some may be ranks of another version. */
static void refuse_guest(struct host *host, struct guest *guest, const char *why)
{
    char name[NAME_BYTES];
    hy_socket_describe(guest->socket, name, sizeof name);
    snprintf(host->refused, sizeof host->refused, "somebody from %s was refused: %s", name, why);
    hy_log(host->memory, HYMBA_LOG_WARNING, "meeting at %s: %s", host->meeting->place,
           host->refused);
    forget_guest(host, guest);
}

/* There is always one: there is room for more than all ranks. */
static void refuse_first_silent_guest(struct host *host)
{
    size_t index = 0;
    while (index + 1 < host->n_guests && host->guests[index].rank != 0)
        index++;
    refuse_guest(host, &host->guests[index], "it said nothing, and others came");
    sweep_guests(host);
}

static void welcome_new_guests(struct host *host, int listener)
{
    for (int i = 0; i < NEW_GUESTS; i++) {
        int found = hy_socket_accept(listener);
        if (found < 0)
            return;
        if (host->n_guests == host->capacity)
            refuse_first_silent_guest(host);
        host->guests[host->n_guests++] = (struct guest){.socket = found};
    }
}

/* ---------------------------------------------------------------- greeting */

static void answer(struct host *host, const struct guest *guest, enum hy_verdict verdict,
                   const unsigned char *id)
{
    struct hy_answer words = {HY_MEETING_VERSION, verdict, host->meeting->world_size, {0}};
    unsigned char bytes[HY_ANSWER_BYTES];
    if (verdict == HY_OTHER_VERSION)
        words.number = HY_MEETING_VERSION;
    if (id)
        memcpy(words.id, id, sizeof words.id);
    hy_answer_write(&words, bytes);
    /* whoever does not take it has gone, which is noticed later */
    hy_socket_send(&host->patience, guest->socket, bytes, sizeof bytes);
}

static void refuse_greeting(struct host *host, struct guest *guest, enum hy_verdict verdict,
                            const struct hy_greeting *greeting)
{
    char why[REASON_BYTES];
    if (verdict == HY_OTHER_VERSION)
        snprintf(why, sizeof why, "it meets in version %u, expected %d",
                 (unsigned)greeting->version, HY_MEETING_VERSION);
    else if (verdict == HY_OTHER_SIZE)
        snprintf(why, sizeof why, "its world_size is %u, expected %u",
                 (unsigned)greeting->world_size, (unsigned)host->meeting->world_size);
    else
        snprintf(why, sizeof why, "it says it is rank %u, which %s", (unsigned)greeting->rank,
                 verdict == HY_RANK_TAKEN ? "has come already" : "cannot come");
    answer(host, guest, verdict, NULL);
    refuse_guest(host, guest, why);
}

/* Whether a rank that has come has gone again, or goes on talking, which is not yet known. */
static bool has_left(struct host *host, uint32_t rank)
{
    unsigned char more;
    for (size_t i = 0; i < host->n_guests; i++)
        if (host->guests[i].rank == rank && hy_socket_receive(host->guests[i].socket, &more, 1)) {
            forget_guest(host, &host->guests[i]);
            return true;
        }
    return false;
}

static void hear_greeting(struct host *host, struct guest *guest)
{
    struct hy_greeting greeting;
    if (!hy_greeting_read(guest->words, &greeting)) {
        refuse_guest(host, guest, "it is no rank");
        return;
    }
    enum hy_verdict verdict =
        hy_greeting_judge(&greeting, host->meeting->world_size, host->present);
    if (verdict == HY_RANK_TAKEN && has_left(host, greeting.rank))
        verdict = HY_WELCOME;
    if (verdict != HY_WELCOME) {
        refuse_greeting(host, guest, verdict, &greeting);
        return;
    }
    guest->rank = greeting.rank;
    host->present[guest->rank / 8] |= (unsigned char)(1u << guest->rank % 8);
    host->patience.come++;
}

/* Of somebody who has said something or has gone. A rank that has greeted says nothing more. */
static void hear_guest(struct host *host, struct guest *guest)
{
    unsigned char more;
    bool greeted = guest->rank != 0;
    ptrdiff_t count =
        greeted ? hy_socket_receive(guest->socket, &more, 1)
                : hy_socket_receive(guest->socket, guest->words + guest->n_read,
                                    sizeof guest->words - guest->n_read);
    if (count < 0)
        forget_guest(host, guest);
    else if (greeted && count > 0)
        refuse_guest(host, guest, "it goes on talking");
    else if (!greeted && (guest->n_read += (size_t)count) == sizeof guest->words)
        hear_greeting(host, guest);
}

/* ------------------------------------------------------------------ waiting */

static hymba_status wait_for_guests(struct host *host, hymba_error *error)
{
    size_t first = host->n_listeners, n = first + host->n_guests;
    for (size_t i = 0; i < n; i++)
        host->sockets[i] = (struct pollfd){
            .fd = i < first ? host->listeners[i] : host->guests[i - first].socket,
            .events = POLLIN,
        };
    hymba_status status = hy_socket_poll(&host->patience, host->sockets, n, error);
    if (status != HYMBA_OK)
        return status;
    for (size_t i = first; i < n; i++)
        if (host->sockets[i].revents != 0 && host->guests[i - first].socket >= 0)
            hear_guest(host, &host->guests[i - first]);
    sweep_guests(host);
    for (size_t i = 0; i < first; i++)
        if (host->sockets[i].revents != 0)
            welcome_new_guests(host, host->listeners[i]);
    return HYMBA_OK;
}

/* Those who have come are told who has not. */
static hymba_status give_up(struct host *host, hymba_error *error)
{
    unsigned char missing[HY_UNIQUE_ID_BYTES] = {0};
    uint32_t world_size = host->meeting->world_size;
    char list[LIST_BYTES];
    for (uint32_t rank = 1; rank < world_size; rank++)
        if (!hy_rank_is_in(host->present, rank))
            missing[rank / 8] |= (unsigned char)(1u << rank % 8);
    for (size_t i = 0; i < host->n_guests; i++)
        if (host->guests[i].rank != 0)
            answer(host, &host->guests[i], HY_OTHERS_MISSING, missing);
    hy_ranks_describe(missing, world_size, list, sizeof list);
    return hy_fail(error, HYMBA_ERROR_TIMEOUT, "%s of %u did not come to %s within %u ms%s%s",
                   list, (unsigned)world_size, host->meeting->place,
                   (unsigned)host->meeting->timeout_ms, host->refused[0] ? "; " : "",
                   host->refused);
}

/* Some may have left while others came. */
static bool are_all_there(struct host *host)
{
    if (host->patience.come < host->patience.all)
        return false;
    for (uint32_t rank = 1; rank < host->meeting->world_size; rank++)
        has_left(host, rank);
    sweep_guests(host);
    return host->patience.come == host->patience.all;
}

static hymba_status receive_all(struct host *host, const unsigned char *id, hymba_error *error)
{
    while (!are_all_there(host)) {
        if (hy_patience_left(&host->patience) == 0)
            return give_up(host, error);
        hymba_status status = wait_for_guests(host, error);
        if (status != HYMBA_OK)
            return status;
    }
    for (size_t i = 0; i < host->n_guests; i++)
        if (host->guests[i].rank != 0)
            answer(host, &host->guests[i], HY_WELCOME, id);
    return HYMBA_OK;
}

static hymba_status create_host(struct host *host, const struct hy_place *place,
                                hymba_error *error)
{
    host->capacity = host->meeting->world_size - 1 + SILENT_GUESTS;
    host->guests = hy_alloc_array(host->memory, host->capacity, sizeof *host->guests);
    host->sockets = hy_alloc_array(host->memory, HY_MAX_LISTENERS + host->capacity,
                                   sizeof *host->sockets);
    if (!host->guests || !host->sockets)
        return hy_no_memory(error, host->capacity * sizeof *host->guests, "the ranks that come");
    return hy_socket_listen(place, host->meeting->place, host->listeners, &host->n_listeners,
                            error);
}

hymba_status hy_meeting_receive_guests(struct hy_memory *memory, const struct hy_meeting *meeting,
                                       const struct hy_place *place, const unsigned char *id,
                                       hymba_error *error)
{
    struct host host = {
        .memory = memory,
        .meeting = meeting,
        .patience = {memory, hy_clock_ms() + meeting->timeout_ms, 1, meeting->world_size},
    };
    hymba_status status = create_host(&host, place, error);
    if (status == HYMBA_OK)
        status = receive_all(&host, id, error);
    for (size_t i = 0; i < host.n_guests; i++)
        hy_socket_close(host.guests[i].socket);
    for (size_t i = 0; i < host.n_listeners; i++)
        hy_socket_close(host.listeners[i]);
    hy_free(memory, host.sockets);
    hy_free(memory, host.guests);
    return status;
}
