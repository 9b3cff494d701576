#include "backend/meeting.h"

#include <errno.h>
#include <string.h>

#include "backend/meeting_socket.h"
#include "backend/meeting_tcp.h"
#include "backend/meeting_words.h"
#include "base/file.h"

/* -------------------------------------------------------------------- place */

enum { LONGEST_PATH = 4095 };

static bool has_only(const char *text, size_t length, const char *allowed)
{
    return length > 0 && strspn(text, allowed) >= length;
}

#define DIGITS "0123456789"
#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* 1 to 65535, without zeros in front. */
static bool read_port(const char *text, char *port, size_t size)
{
    size_t length = strlen(text);
    if (!has_only(text, length, DIGITS) || length > 5 || text[0] == '0' ||
        (length == 5 && strcmp(text, "65535") > 0) || length >= size)
        return false;
    memcpy(port, text, length + 1);
    return true;
}

/* HOST:PORT or [ADDRESS]:PORT. */
static bool read_address(const char *text, struct hy_place *place)
{
    bool bracket = text[0] == '[';
    const char *host = text + bracket;
    const char *end = strrchr(host, bracket ? ']' : ':');
    if (!end || (size_t)(end - host) >= sizeof place->host)
        return false;
    size_t length = (size_t)(end - host);
    if (!has_only(host, length, bracket ? LETTERS DIGITS ":.%-_" : LETTERS DIGITS ".-_") ||
        (bracket && end[1] != ':'))
        return false;
    memcpy(place->host, host, length);
    place->host[length] = '\0';
    return read_port(end + 1 + bracket, place->port, sizeof place->port);
}

static bool read_place(const char *text, struct hy_place *place)
{
    memset(place, 0, sizeof *place);
    if (strncmp(text, "tcp://", 6) == 0)
        return read_address(text + 6, place);
    place->is_file = strncmp(text, "file:/", 6) == 0;
    if (!place->is_file)
        return false;
    place->path = text + 5;
    return place->path[1] != '\0' && strlen(place->path) <= LONGEST_PATH;
}

hymba_status hy_place_read(const char *text, const char *what, struct hy_place *place,
                           hymba_error *error)
{
    if (read_place(text, place))
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                   "%s: found \"%.300s\", expected \"tcp://HOST:PORT\", or \"file:/PATH\" with an "
                   "absolute path", what, text);
}

/* --------------------------------------------------------------------- file */

static hymba_status write_id(struct hy_memory *memory, const struct hy_meeting *meeting,
                             const char *path, const unsigned char *id, hymba_error *error)
{
    struct hy_answer words = {HY_MEETING_VERSION, HY_WELCOME, meeting->world_size, {0}};
    unsigned char bytes[HY_ANSWER_BYTES];
    struct hy_writer writer;
    memcpy(words.id, id, sizeof words.id);
    hy_answer_write(&words, bytes);
    hymba_status status = hy_writer_open(memory, path, &writer, error);
    if (status != HYMBA_OK)
        return status;
    status = hy_writer_write(&writer, bytes, sizeof bytes, error);
    if (status == HYMBA_OK)
        return hy_writer_finish(&writer, error);
    hy_writer_abandon(&writer);
    return status;
}

/* The path is taken first, by an empty file, so that no two runs can have it. */
static hymba_status lay_down(struct hy_memory *memory, const struct hy_meeting *meeting,
                             const char *path, const unsigned char *id, hymba_error *error)
{
    hymba_error failure = {.struct_size = sizeof failure};
    hymba_status status = hy_file_claim(path, &failure);
    if (status != HYMBA_OK && failure.system_code == EEXIST)
        return hy_fail_system(error, status, EEXIST,
                              "rank 0 cannot meet at %s, which belongs to another run, or is left "
                              "of one and may be removed", meeting->place);
    if (status != HYMBA_OK)
        return hy_fail_again(error, &failure);
    status = write_id(memory, meeting, path, id, error);
    if (status != HYMBA_OK)
        hy_file_remove(path);
    return status;
}

static hymba_status read_id(const struct hy_meeting *meeting, const struct hy_file *file,
                            unsigned char *id, hymba_error *error)
{
    struct hy_answer words;
    if (file->size != HY_ANSWER_BYTES || !hy_answer_read(file->data, &words) ||
        words.version != HY_MEETING_VERSION || words.verdict != HY_WELCOME)
        return hy_fail(error, HYMBA_ERROR_FORMAT, "%s holds no id of this version's",
                       meeting->place);
    if (words.number != meeting->world_size)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "%s: rank 0 has a world_size of %u, rank %u one of %u", meeting->place,
                       (unsigned)words.number, (unsigned)meeting->rank,
                       (unsigned)meeting->world_size);
    memcpy(id, words.id, sizeof words.id);
    return HYMBA_OK;
}

/* An empty file is one that will be replaced in a moment. */
static hymba_status look_for_id(struct hy_memory *memory, const struct hy_meeting *meeting,
                                const char *path, unsigned char *id, bool *found,
                                hymba_error *error)
{
    hymba_error failure = {.struct_size = sizeof failure};
    struct hy_file file;
    hymba_status status = hy_file_read(memory, path, HY_ANSWER_BYTES, &file, &failure);
    if (status != HYMBA_OK)
        return failure.system_code == ENOENT ? HYMBA_OK : hy_fail_again(error, &failure);
    *found = file.size > 0;
    if (*found)
        status = read_id(meeting, &file, id, error);
    hy_file_close(&file);
    return status;
}

static hymba_status pick_up(struct hy_memory *memory, const struct hy_meeting *meeting,
                            const char *path, unsigned char *id, hymba_error *error)
{
    struct hy_patience patience = {memory, hy_clock_ms() + meeting->timeout_ms, 1,
                                   meeting->world_size};
    bool found = false;
    for (;;) {
        hymba_status status = look_for_id(memory, meeting, path, id, &found, error);
        if (status != HYMBA_OK || found)
            return status;
        if (hy_patience_left(&patience) == 0)
            return hy_fail(error, HYMBA_ERROR_TIMEOUT,
                           "rank 0 of %u did not write %s within %u ms, for which rank %u waited",
                           (unsigned)meeting->world_size, path, (unsigned)meeting->timeout_ms,
                           (unsigned)meeting->rank);
        status = hy_socket_poll(&patience, NULL, 0, error);
        if (status != HYMBA_OK)
            return status;
    }
}

/* ------------------------------------------------------------------ meeting */

hymba_status hy_meeting_hold(struct hy_memory *memory, const struct hy_meeting *meeting,
                             unsigned char *id, hymba_error *error)
{
    struct hy_place place;
    hymba_status status = hy_place_read(meeting->place, "meeting", &place, error);
    if (status != HYMBA_OK)
        return status;
    if (place.is_file)
        return meeting->rank == 0 ? lay_down(memory, meeting, place.path, id, error)
                                  : pick_up(memory, meeting, place.path, id, error);
    return meeting->rank == 0 ? hy_meeting_receive_guests(memory, meeting, &place, id, error)
                              : hy_meeting_visit(memory, meeting, &place, id, error);
}

void hy_meeting_end(const struct hy_meeting *meeting)
{
    struct hy_place place;
    if (meeting->rank == 0 &&
        hy_place_read(meeting->place, "meeting", &place, NULL) == HYMBA_OK && place.is_file)
        hy_file_remove(place.path);
}
