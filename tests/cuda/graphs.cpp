/*
 * Streams that are captured, and graphs. A capture keeps the works that would have been queued,
 * with the arguments that they were given; a launch queues them all, and they meet the data that
 * there then is. Stricter than the runtime: what a capture does not allow, and what it would allow
 * but means something else than without one (memory taken and given back, pageable memory, events,
 * other streams that wait), is a fault and spoils it.
 */
#include "inside.h"

#include <map>
#include <set>
#include <thread>
#include <vector>

typedef std::vector<harness_work> works;

struct harness_graph {
    works nodes;
};

struct harness_graph_exec {
    works nodes;
    int device;
    size_t bytes;
};

namespace {

struct capture {
    works nodes;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool spoilt;
    size_t number;
};

std::map<cudaStream_t, capture> captures;
std::set<cudaGraph_t> graphs;
std::set<cudaGraphExec_t> execs;
size_t n_captures;

cudaError_t refuse(cudaError_t error, const char *name, const char *what)
{
    harness_report(HARNESS_CALL, "%s: %s", name, what);
    return harness_end_call(error);
}

} // namespace

size_t harness_live_graphs()
{
    return graphs.size() + execs.size() + captures.size();
}

size_t harness_graph_bytes(int device)
{
    size_t bytes = 0;
    for (cudaGraphExec_t exec : execs)
        bytes += exec->device == device ? exec->bytes : 0;
    return bytes;
}

void harness_forget_graphs()
{
    for (cudaGraph_t graph : graphs)
        delete graph;
    for (cudaGraphExec_t exec : execs)
        delete exec;
    graphs.clear();
    execs.clear();
    captures.clear();
}

bool harness_capture(cudaStream_t stream, const harness_work &work)
{
    auto found = captures.find(stream);
    if (found == captures.end())
        return false;
    found->second.nodes.push_back(work);
    return true;
}

size_t harness_capture_number(cudaStream_t stream)
{
    auto found = captures.find(stream);
    return found == captures.end() ? 0 : found->second.number;
}

static void spoil(struct capture &capture, const char *name)
{
    capture.spoilt = true;
    harness_report(HARNESS_CALL, "%s while a stream is captured", name);
}

bool harness_spoil_capture(cudaStream_t stream, const char *name)
{
    bool spoils = false;
    for (auto &entry : captures) {
        bool mine = entry.second.mode == cudaStreamCaptureModeGlobal
                    || (entry.second.mode == cudaStreamCaptureModeThreadLocal
                        && entry.second.thread == std::this_thread::get_id());
        if (stream ? entry.first != stream : !mine)
            continue;
        spoil(entry.second, name);
        spoils = true;
    }
    return spoils;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    const char *name = "cudaStreamBeginCapture";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (error)
        return harness_end_call(error);
    if (!stream || stream == cudaStreamLegacy || !harness_is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, name, "no stream that can be captured");
    if (captures.count(stream) > 0)
        return refuse(cudaErrorStreamCaptureUnsupported, name, "a stream that is being captured");
    captures[stream] = {{}, mode, std::this_thread::get_id(), false, ++n_captures};
    return cudaSuccess;
}

/* However it ends, the stream is no longer captured. */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    const char *name = "cudaStreamEndCapture";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    *graph = nullptr;
    auto found = captures.find(stream);
    if (found == captures.end())
        return error ? harness_end_call(error)
                     : refuse(cudaErrorStreamCaptureUnmatched, name, "a stream not captured");
    struct capture capture = std::move(found->second);
    captures.erase(found);
    if (error)
        return harness_end_call(error);
    if (capture.mode != cudaStreamCaptureModeRelaxed
        && capture.thread != std::this_thread::get_id())
        return refuse(cudaErrorStreamCaptureWrongThread, name, "another thread began it");
    if (capture.spoilt)
        return harness_end_call(cudaErrorStreamCaptureInvalidated);
    *graph = new harness_graph{std::move(capture.nodes)};
    graphs.insert(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n_nodes)
{
    const char *name = "cudaGraphGetNodes";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (error)
        return harness_end_call(error);
    if (graphs.count(graph) == 0)
        return refuse(cudaErrorInvalidValue, name, "no such graph");
    if (nodes)
        return refuse(cudaErrorNotSupported, name, "the stand-in only counts nodes");
    *n_nodes = graph->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags)
{
    const char *name = "cudaGraphInstantiate";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    *exec = nullptr;
    if (error)
        return harness_end_call(error);
    if (graphs.count(graph) == 0 || flags != 0)
        return refuse(cudaErrorInvalidValue, name, "no such graph, or flags");
    if (harness_bytes_of_graph() > harness_free_bytes())
        return harness_end_call(cudaErrorMemoryAllocation);
    *exec = new harness_graph_exec{graph->nodes, 0, harness_bytes_of_graph()};
    cudaGetDevice(&(*exec)->device);
    execs.insert(*exec);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    const char *name = "cudaGraphLaunch";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (error)
        return harness_end_call(error);
    if (execs.count(exec) == 0 || !harness_is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, name, "no such graph or stream");
    if (harness_spoil_capture(stream, name))
        return harness_end_call(cudaErrorStreamCaptureUnsupported);
    for (const harness_work &node : exec->nodes)
        harness_queue_work(stream, node);
    return cudaSuccess;
}

/* What releases does so although it fails: nobody calls it again. */
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    const char *name = "cudaGraphDestroy";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (graphs.erase(graph) == 0)
        return refuse(cudaErrorInvalidValue, name, "no such graph");
    delete graph;
    return harness_end_call(error);
}

/* Launches that wait have copies of its works. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    const char *name = "cudaGraphExecDestroy";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    if (execs.erase(exec) == 0)
        return refuse(cudaErrorInvalidValue, name, "no such graph");
    delete exec;
    return harness_end_call(error);
}
