#include "meeting_world.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/meeting_words.h"
#include "support.h"

enum { PATIENCE_MS = 60000 };

/* ------------------------------------------------------------------- ranks */

static void *hold(void *argument)
{
    struct meeting_rank *one = argument;
    struct hy_memory memory;
    one->status = hy_memory_init(&memory, one->host, &one->error);
    if (one->status == HYMBA_OK)
        one->status = hy_meeting_hold(&memory, &one->meeting, one->id, &one->error);
    one->done = true;
    return NULL;
}

static void fill_id(unsigned char *id)
{
    for (int i = 0; i < HY_UNIQUE_ID_BYTES; i++)
        id[i] = (unsigned char)(i + 1);
}

void meeting_start(struct meeting_rank *one, const char *place, uint32_t rank,
                   uint32_t world_size, uint32_t timeout_ms)
{
    one->meeting = (struct hy_meeting){place, rank, world_size, timeout_ms};
    one->error = (hymba_error){.struct_size = sizeof one->error};
    memset(one->id, 0, sizeof one->id);
    one->done = false;
    if (rank == 0)
        fill_id(one->id);
    ck_assert_int_eq(pthread_create(&one->thread, NULL, hold, one), 0);
}

void meeting_join(struct meeting_rank *one, hymba_status expected)
{
    ck_assert_int_eq(pthread_join(one->thread, NULL), 0);
    ck_assert_msg(one->status == expected, "rank %u: %d (%s), expected %d",
                  (unsigned)one->meeting.rank, (int)one->status, one->error.message,
                  (int)expected);
}

bool meeting_has_id(const struct meeting_rank *one)
{
    unsigned char expected[HY_UNIQUE_ID_BYTES];
    fill_id(expected);
    return memcmp(one->id, expected, sizeof expected) == 0;
}

/* ----------------------------------------------------------------- sockets */

static socklen_t address_of(int family, uint16_t port, struct sockaddr_storage *address)
{
    struct sockaddr_in *four = (struct sockaddr_in *)address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof *address);
    if (family == AF_INET6) {
        *six = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port),
                                     .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        return sizeof *six;
    }
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof *four;
}

static socklen_t address_in(const char *place, struct sockaddr_storage *address)
{
    return address_of(strchr(place, '[') ? AF_INET6 : AF_INET,
                      (uint16_t)strtoul(strrchr(place, ':') + 1, NULL, 10), address);
}

bool meeting_free_place(int family, char *text, size_t size)
{
    struct sockaddr_storage address;
    socklen_t length = address_of(family, 0, &address);
    int found = socket(family, SOCK_STREAM, 0);
    bool good = found >= 0 && bind(found, (struct sockaddr *)&address, length) == 0 &&
                getsockname(found, (struct sockaddr *)&address, &length) == 0;
    if (found >= 0)
        close(found);
    unsigned port = ntohs(family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                             : ((struct sockaddr_in *)&address)->sin_port);
    snprintf(text, size, "tcp://%s:%u", family == AF_INET6 ? "[::1]" : "127.0.0.1", port);
    return good;
}

int meeting_call(const char *place)
{
    struct sockaddr_storage address;
    socklen_t length = address_in(place, &address);
    for (int waited = 0; waited < PATIENCE_MS; waited += 10) {
        int found = socket(address.ss_family, SOCK_STREAM, 0);
        ck_assert_int_ge(found, 0);
        if (connect(found, (struct sockaddr *)&address, length) == 0)
            return found;
        close(found);
        poll(NULL, 0, 10);
    }
    ck_abort_msg("nobody listens at %s", place);
    return -1;
}

void meeting_say(int socket, const void *bytes, size_t size)
{
    const char *from = bytes;
    while (size > 0) {
        ssize_t count = send(socket, from, size, MSG_NOSIGNAL);
        if (count <= 0)
            return;
        from += count;
        size -= (size_t)count;
    }
}

/* What comes, or -1 when nothing comes within a minute or ever. */
static ssize_t receive(int socket, void *bytes, size_t size)
{
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    return poll(&wait, 1, PATIENCE_MS) == 1 ? recv(socket, bytes, size, 0) : -1;
}

bool meeting_hangs_up(int socket, void *answer, size_t size)
{
    unsigned char more[256], *to = answer;
    while (answer && size > 0) {
        ssize_t count = receive(socket, to, size);
        if (count <= 0)
            return false;
        to += count;
        size -= (size_t)count;
    }
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    while (poll(&wait, 1, PATIENCE_MS) == 1)
        if (recv(socket, more, sizeof more, 0) <= 0)
            return true;
    return false;
}

int meeting_listen(const char *place)
{
    struct sockaddr_storage address;
    socklen_t length = address_in(place, &address);
    int on = 1, found = socket(address.ss_family, SOCK_STREAM, 0);
    ck_assert_int_ge(found, 0);
    setsockopt(found, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    ck_assert_int_eq(bind(found, (struct sockaddr *)&address, length), 0);
    ck_assert_int_eq(listen(found, 16), 0);
    return found;
}

int meeting_take_guest(int listener)
{
    unsigned char greeting[HY_GREETING_BYTES];
    size_t done = 0;
    int found = accept(listener, NULL, NULL);
    ck_assert_int_ge(found, 0);
    while (done < sizeof greeting) {
        ssize_t count = receive(found, greeting + done, sizeof greeting - done);
        ck_assert_int_gt(count, 0);
        done += (size_t)count;
    }
    return found;
}

int meeting_open_files(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        return -1;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}
