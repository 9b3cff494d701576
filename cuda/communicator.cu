#include "communicator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<nccl.h>)
#include <nccl.h>

#ifndef HYMBA_HARNESS
#include <dlfcn.h>
#endif

/* Communicators that do not block are of that version. */
enum { OLDEST_NCCL = 21400 };

static const char library_name[] = "libnccl.so.2";

struct nccl {
    void *library;
    decltype(&ncclGetVersion) get_version;
    decltype(&ncclGetUniqueId) get_unique_id;
    decltype(&ncclCommInitRankConfig) init;
    decltype(&ncclCommGetAsyncError) get_async_error;
    decltype(&ncclAllGather) all_gather;
    decltype(&ncclCommFinalize) finalize;
    decltype(&ncclCommDestroy) destroy;
    decltype(&ncclCommAbort) abort;
    decltype(&ncclGetErrorString) get_error_string;
    decltype(&ncclGetLastError) get_last_error;
};

struct hy_communicator {
    struct nccl nccl;
    ncclComm_t handle; /* NULL before join */
    size_t rank;
    bool leaving, left;
    char reason[200];
};

/* --------------------------------------------------------------- the library */

#ifdef HYMBA_HARNESS

static void *open_library(void)
{
    return harness_open_nccl();
}

static void *find_function(void *library, const char *name)
{
    return harness_find_nccl(library, name);
}

static void close_library(void *library)
{
    (void)library;
}

static const char *tell_why(void)
{
    return "the harness says so";
}

#else

/* It stays in memory: it has threads of its own. */
static void *open_library(void)
{
    return dlopen(library_name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

static void *find_function(void *library, const char *name)
{
    return dlsym(library, name);
}

static void close_library(void *library)
{
    dlclose(library);
}

static const char *tell_why(void)
{
    const char *why = dlerror();
    return why ? why : "no reason is given";
}

#endif

template <typename Function>
static bool find(const struct nccl *nccl, const char *name, Function *function,
                 hymba_error *error)
{
    *function = (Function)find_function(nccl->library, name);
    if (!*function)
        hy_fail(error, HYMBA_ERROR_DEVICE, "%s lacks the function %s", library_name, name);
    return *function != NULL;
}

static bool find_all(struct nccl *nccl, hymba_error *error)
{
    return find(nccl, "ncclGetVersion", &nccl->get_version, error)
           && find(nccl, "ncclGetUniqueId", &nccl->get_unique_id, error)
           && find(nccl, "ncclCommInitRankConfig", &nccl->init, error)
           && find(nccl, "ncclCommGetAsyncError", &nccl->get_async_error, error)
           && find(nccl, "ncclAllGather", &nccl->all_gather, error)
           && find(nccl, "ncclCommFinalize", &nccl->finalize, error)
           && find(nccl, "ncclCommDestroy", &nccl->destroy, error)
           && find(nccl, "ncclCommAbort", &nccl->abort, error)
           && find(nccl, "ncclGetErrorString", &nccl->get_error_string, error)
           && find(nccl, "ncclGetLastError", &nccl->get_last_error, error);
}

static hymba_status open_nccl(struct nccl *nccl, hymba_error *error)
{
    int version = 0;
    *nccl = {};
    nccl->library = open_library();
    if (!nccl->library)
        return hy_fail(error, HYMBA_ERROR_DEVICE, "%s, which joins devices, cannot be opened: %s",
                       library_name, tell_why());
    hymba_status status = find_all(nccl, error) ? HYMBA_OK : HYMBA_ERROR_DEVICE;
    if (status == HYMBA_OK && (nccl->get_version(&version) != ncclSuccess || version < OLDEST_NCCL))
        status = hy_fail(error, HYMBA_ERROR_DEVICE,
                         "%s is too old: it has version %d, and 2.14 or later is needed",
                         library_name, version);
    if (status != HYMBA_OK)
        close_library(nccl->library);
    return status;
}

hymba_status hy_communicator_make_id(unsigned char *id, hymba_error *error)
{
    static_assert(sizeof(ncclUniqueId) == HY_UNIQUE_ID_BYTES, "an id is one of NCCL's");
    struct nccl nccl;
    ncclUniqueId made = {};
    hymba_status status = open_nccl(&nccl, error);
    if (status != HYMBA_OK)
        return status;
    ncclResult_t result = nccl.get_unique_id(&made);
    if (result == ncclSuccess)
        memcpy(id, &made, sizeof made);
    else
        status = hy_fail(error, HYMBA_ERROR_DEVICE, "making an id for ranks failed: %s",
                         nccl.get_error_string(result));
    close_library(nccl.library);
    return status;
}

/* ----------------------------------------------------------------- one of them */

hymba_status hy_communicator_open(struct hy_communicator **communicator, hymba_error *error)
{
    *communicator = NULL;
    struct hy_communicator *opened = (struct hy_communicator *)calloc(1, sizeof *opened);
    if (!opened)
        return hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for a communicator");
    hymba_status status = open_nccl(&opened->nccl, error);
    if (status == HYMBA_OK)
        *communicator = opened;
    else
        free(opened);
    return status;
}

static enum hy_progress progress_of(struct hy_communicator *communicator, ncclResult_t result)
{
    const struct nccl *nccl = &communicator->nccl;
    if (result == ncclSuccess || result == ncclInProgress)
        return result == ncclSuccess ? HY_DONE : HY_UNDER_WAY;
    const char *detail = nccl->get_last_error(communicator->handle);
    bool has_detail = detail && detail[0] != '\0';
    snprintf(communicator->reason, sizeof communicator->reason, "%.60s%s%.120s",
             nccl->get_error_string(result), has_detail ? ": " : "", has_detail ? detail : "");
    cudaGetLastError(); /* it may have left one of the runtime's */
    return HY_BROKEN;
}

enum hy_progress hy_communicator_join(struct hy_communicator *communicator, uint32_t rank,
                                      uint32_t world_size, const unsigned char *id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId unique_id;
    memcpy(&unique_id, id, sizeof unique_id);
    config.blocking = 0;
    communicator->rank = rank;
    return progress_of(communicator,
                       communicator->nccl.init(&communicator->handle, (int)world_size, unique_id,
                                               (int)rank, &config));
}

enum hy_progress hy_communicator_gather(struct hy_communicator *communicator, void *all,
                                        size_t bytes, cudaStream_t stream)
{
    const unsigned char *own = (const unsigned char *)all + communicator->rank * bytes;
    return progress_of(communicator,
                       communicator->nccl.all_gather(own, all, bytes, ncclInt8,
                                                     communicator->handle, stream));
}

enum hy_progress hy_communicator_ask(struct hy_communicator *communicator)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t result = communicator->nccl.get_async_error(communicator->handle, &state);
    enum hy_progress progress =
        progress_of(communicator, result == ncclSuccess ? state : result);
    communicator->left = communicator->leaving && progress == HY_DONE;
    return progress;
}

const char *hy_communicator_reason(const struct hy_communicator *communicator)
{
    return communicator->reason;
}

enum hy_progress hy_communicator_leave(struct hy_communicator *communicator)
{
    enum hy_progress progress =
        progress_of(communicator, communicator->nccl.finalize(communicator->handle));
    communicator->leaving = progress != HY_BROKEN;
    communicator->left = progress == HY_DONE;
    return progress;
}

void hy_communicator_close(struct hy_communicator *communicator)
{
    if (!communicator)
        return;
    if (communicator->handle && communicator->left)
        communicator->nccl.destroy(communicator->handle);
    else if (communicator->handle)
        communicator->nccl.abort(communicator->handle);
    cudaGetLastError();
    close_library(communicator->nccl.library);
    free(communicator);
}

#else

static hymba_status refuse(hymba_error *error)
{
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                   "the plug-in was built without NCCL, which joins devices");
}

hymba_status hy_communicator_make_id(unsigned char *id, hymba_error *error)
{
    (void)id;
    return refuse(error);
}

hymba_status hy_communicator_open(struct hy_communicator **communicator, hymba_error *error)
{
    *communicator = NULL;
    return refuse(error);
}

/* There is none to call these with. */
enum hy_progress hy_communicator_join(struct hy_communicator *, uint32_t, uint32_t,
                                      const unsigned char *)
{
    return HY_BROKEN;
}

enum hy_progress hy_communicator_gather(struct hy_communicator *, void *, size_t, cudaStream_t)
{
    return HY_BROKEN;
}

enum hy_progress hy_communicator_ask(struct hy_communicator *)
{
    return HY_BROKEN;
}

const char *hy_communicator_reason(const struct hy_communicator *)
{
    return "";
}

enum hy_progress hy_communicator_leave(struct hy_communicator *)
{
    return HY_BROKEN;
}

void hy_communicator_close(struct hy_communicator *)
{
}

#endif
