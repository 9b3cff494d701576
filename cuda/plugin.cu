/* The plug-in's entry, its devices from the first call to the last, and their failures. */
#include "device.h"

#include "copy_rows.h"
#include "product.h"
#include "ranks.h"

#include <stdio.h>
#include <stdlib.h>

/* A pool keeps up to so large a part of the device's memory in reserve, which other contexts of the
 * process, and others, then lack. It takes what sessions give back that end about the same time. */
enum { UNUSED_PART = 32 };

/* ---------------------------------------------------------------- failures */

static void keep(struct hy_device *device, hymba_status status, const char *doing,
                 const char *reason)
{
    bool for_good = status != HYMBA_ERROR_MEMORY;
    if (device->step.capturing) { /* the same is then tried without */
        snprintf(device->step.capture_failure, sizeof device->step.capture_failure,
                 "%.60s%s%.80s", doing, reason ? " failed: " : "", reason ? reason : "");
        return;
    }
    if (!device->has_error || (for_good && !device->failed))
        hy_fail(&device->error, status, "CUDA device %d: %s%s%s", device->index, doing,
                reason ? " failed: " : "", reason ? reason : "");
    device->has_error = true;
    device->failed = device->failed || for_good;
}

void hy_cuda_fail(struct hy_device *device, hymba_status status, const char *sentence)
{
    keep(device, status, sentence, NULL);
}

bool hy_cuda_begin(struct hy_device *device)
{
    const struct hy_step *step = &device->step;
    return !device->has_error && !(step->capturing && step->capture_failure[0])
           && hy_cuda_check(device, cudaSetDevice(device->index), "choosing the device");
}

bool hy_cuda_check(struct hy_device *device, cudaError_t code, const char *doing)
{
    if (code == cudaSuccess)
        return true;
    keep(device, code == cudaErrorMemoryAllocation ? HYMBA_ERROR_MEMORY : HYMBA_ERROR_DEVICE,
         doing, cudaGetErrorString(code));
    cudaGetLastError(); /* so that the next launch does not tell it once more */
    return false;
}

bool hy_cuda_check_launch(struct hy_device *device, const char *doing)
{
    return hy_cuda_check(device, cudaGetLastError(), doing);
}

bool hy_cuda_check_blas(struct hy_device *device, cublasStatus_t code, const char *doing)
{
    if (code == CUBLAS_STATUS_SUCCESS)
        return true;
    keep(device, code == CUBLAS_STATUS_ALLOC_FAILED ? HYMBA_ERROR_MEMORY : HYMBA_ERROR_DEVICE,
         doing, cublasLtGetStatusString(code));
    cudaGetLastError();
    return false;
}

hymba_status hy_cuda_finish(struct hy_device *device, hymba_error *error)
{
    if (!device->failed
        && hy_cuda_check(device, cudaSetDevice(device->index), "choosing the device")
        && hy_cuda_drain(device))
        hy_cuda_trim_pool(device, device->most_unused);
    if (!device->has_error)
        return HYMBA_OK;
    if (device->failed)
        hy_cuda_break_off(device);
    device->has_error = device->failed; /* which is told every time */
    return hy_fail_again(error, &device->error);
}

/* ------------------------------------------------------------------ opening */

static hymba_status fail_open(hymba_error *error, int index, const char *doing, cudaError_t code)
{
    cudaGetLastError();
    return hy_fail(error, HYMBA_ERROR_DEVICE, "CUDA device %d: %s failed: %s", index, doing,
                   cudaGetErrorString(code));
}

/* Versions are 1000 * major + 10 * minor. A driver serves all runtimes of its major version. */
static hymba_status check_driver(hymba_error *error)
{
    int driver = 0, runtime = 0;
    cudaError_t code = cudaRuntimeGetVersion(&runtime);
    if (code == cudaSuccess)
        code = cudaDriverGetVersion(&driver);
    if (code != cudaSuccess || driver == 0) {
        cudaGetLastError();
        return hy_fail(error, HYMBA_ERROR_DEVICE, "this machine has no NVIDIA driver");
    }
    if (driver / 1000 < runtime / 1000)
        return hy_fail(error, HYMBA_ERROR_DEVICE,
                       "the NVIDIA driver is too old: it knows CUDA up to %d.%d, and the plug-in "
                       "needs %d.0 or later",
                       driver / 1000, driver % 1000 / 10, runtime / 1000);
    return HYMBA_OK;
}

static hymba_status check_index(int index, hymba_error *error)
{
    int n_devices = 0;
    cudaError_t code = cudaGetDeviceCount(&n_devices);
    if (code == cudaErrorNoDevice || (code == cudaSuccess && n_devices == 0)) {
        cudaGetLastError();
        return hy_fail(error, HYMBA_ERROR_DEVICE, "this machine has no CUDA device");
    }
    if (code == cudaErrorInsufficientDriver) {
        cudaGetLastError();
        return hy_fail(error, HYMBA_ERROR_DEVICE,
                       "the NVIDIA driver is too old for the plug-in: %s",
                       cudaGetErrorString(code));
    }
    if (code != cudaSuccess)
        return fail_open(error, index, "counting the devices", code);
    if (index < 0 || index >= n_devices)
        return hy_fail(error, HYMBA_ERROR_DEVICE,
                       "there is no CUDA device %d: this machine has %d, counted from 0", index,
                       n_devices);
    return HYMBA_OK;
}

/* What the device is called and can do. */
static hymba_status check_capability(struct hy_device *device, hymba_error *error)
{
    int major = 0, minor = 0, pools = 0, pitch = 0;
    struct cudaDeviceProp properties;
    cudaError_t code = cudaGetDeviceProperties(&properties, device->index);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device->index);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device->index);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, device->index);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&pitch, cudaDevAttrMaxPitch, device->index);
    if (code != cudaSuccess)
        return fail_open(error, device->index, "asking for its properties", code);
    snprintf(device->name, sizeof device->name, "%.100s, sm_%d%d", properties.name, major, minor);
    device->has_pools = pools != 0;
    device->most_unused = properties.totalGlobalMem / UNUSED_PART;
    device->greatest_pitch = (size_t)pitch;
    if (major < 8)
        return hy_fail(error, HYMBA_ERROR_DEVICE,
                       "CUDA device %d (%s) is too old: it has compute capability %d.%d, and 8.0 "
                       "or later is needed",
                       device->index, device->name, major, minor);
    if (device->compute == HYMBA_COMPUTE_FP8 && 10 * major + minor < 89)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "compute: CUDA device %d (%s) has no units that multiply fp8: it has "
                       "compute capability %d.%d, and 8.9 or later is needed",
                       device->index, device->name, major, minor);
    return HYMBA_OK;
}

/* Everything that lives as long as the device. */
static cudaError_t acquire(struct hy_device *device)
{
    cudaError_t code = cudaSetDevice(device->index);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithFlags(&device->home, cudaStreamNonBlocking);
    device->stream = device->home;
    if (code == cudaSuccess)
        code = hy_cuda_open_pool(device);
    if (code == cudaSuccess)
        code = hy_cuda_open_staging(device);
    return code;
}

/* A launch, which tells whether the plug-in has code for the device. */
static hymba_status try_launch(struct hy_device *device, hymba_error *error)
{
    if (!hy_cuda_reserve(device, &device->lists, 1, "taking memory for lists"))
        return hy_fail_again(error, &device->error);
    unsigned char *data = (unsigned char *)device->lists.data;
    struct hy_copy_rows_args args = {data + 16, 16, data, 16, 16, 1};
    hy_cuda_copy_rows(device->stream, &args);
    cudaError_t code = cudaGetLastError();
    if (code == cudaSuccess)
        code = cudaStreamSynchronize(device->stream);
    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorUnsupportedPtxVersion)
        return hy_fail(error, HYMBA_ERROR_DEVICE,
                       "the plug-in was built without code for CUDA device %d (%s): %s",
                       device->index, device->name, cudaGetErrorString(code));
    return code == cudaSuccess ? HYMBA_OK
                               : fail_open(error, device->index, "the first launch", code);
}

static hymba_status open_device(struct hy_device *device, hymba_error *error)
{
    hymba_status status = check_capability(device, error);
    if (status != HYMBA_OK)
        return status;
    cudaError_t code = acquire(device);
    if (code == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return hy_fail(error, HYMBA_ERROR_MEMORY,
                       "CUDA device %d: no memory for a stream and pinned buffers",
                       device->index);
    }
    if (code != cudaSuccess)
        return fail_open(error, device->index, "opening it", code);
    return try_launch(device, error);
}

static void log_device(const struct hy_device_params *params, struct hy_device *device)
{
    char line[256];
    struct hy_device_info info = {};
    info.struct_size = sizeof info;
    if (!params->log)
        return;
    hy_cuda_get_info(device, &info);
    snprintf(line, sizeof line, "CUDA device %d: %s, %llu of %llu MiB free", device->index,
             info.name, (unsigned long long)(info.free_bytes >> 20),
             (unsigned long long)(info.total_bytes >> 20));
    params->log(params->log_user, HYMBA_LOG_INFO, line);
}

hymba_status hy_cuda_open(const struct hy_device_params *params, struct hy_device **device,
                          hymba_error *error)
{
    *device = NULL;
    hymba_status status = check_driver(error);
    if (status == HYMBA_OK)
        status = check_index(params->index, error);
    if (status != HYMBA_OK)
        return status;
    struct hy_device *opened = (struct hy_device *)calloc(1, sizeof *opened);
    if (!opened)
        return hy_fail(error, HYMBA_ERROR_MEMORY, "no memory for a CUDA device");
    opened->index = params->index;
    opened->compute = params->compute;
    opened->log = params->log;
    opened->log_user = params->log_user;
    opened->error.struct_size = sizeof opened->error;
    status = open_device(opened, error);
    if (status != HYMBA_OK) {
        hy_cuda_close(opened);
        return status;
    }
    log_device(params, opened);
    *device = opened;
    return HYMBA_OK;
}

/* Of a lost device what can be released is, and what cannot be ends with the process. */
void hy_cuda_close(struct hy_device *device)
{
    if (!device)
        return;
    cudaSetDevice(device->index);
    hy_cuda_close_world(device);
    if (device->stream)
        cudaStreamSynchronize(device->stream);
    hy_cuda_close_step(device);
    struct hy_room *rooms[] = {&device->lists,    &device->arena,   &device->pieces,
                               &device->scratch,  &device->sampling, &device->widened,
                               &device->x_panel,  &device->y_panel, &device->blas_workspace};
    for (struct hy_room *room : rooms)
        hy_cuda_free_room(device, room);
    hy_cuda_free_products(device);
    if (device->blas)
        cublasLtDestroy(device->blas);
    if (device->stream)
        cudaStreamSynchronize(device->stream);
    hy_cuda_close_staging(device);
    hy_cuda_close_pool(device);
    if (device->stream)
        cudaStreamDestroy(device->stream);
    cudaGetLastError();
    free(device);
}

void hy_cuda_get_info(struct hy_device *device, struct hy_device_info *info)
{
    size_t free_bytes = 0, total_bytes = 0;
    if (cudaSetDevice(device->index) != cudaSuccess
        || cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess)
        cudaGetLastError();
    snprintf(info->name, sizeof info->name, "%s", device->name);
    info->free_bytes = free_bytes + hy_cuda_unused_bytes(device);
    info->total_bytes = total_bytes;
    info->has_bf16 = 1;
}

/* -------------------------------------------------------------------- entry */

extern "C" __attribute__((visibility("default"))) const struct hy_device_ops *
hymba_device_plugin(uint32_t interface_version)
{
    return interface_version == HY_DEVICE_INTERFACE ? &hy_cuda_ops : NULL;
}
