/*
 * Streams that are captured, and graphs. A capture keeps the works that would have been queued,
 * with the arguments that they were given; a launch queues them all, and they meet the data that
 * there then is. A stream that waits for an event of a captured one becomes a branch of the capture,
 * which the first stream has to wait for before its end; a launch plays branches on streams of their
 * own, in no other order than these waits. Stricter than the runtime: what a capture does not allow,
 * and what it would allow but means something else than without one (memory taken and given back,
 * pageable memory), is a fault and spoils it.
 */
#include "inside.h"

#include <algorithm>
#include <map>
#include <set>
#include <thread>
#include <vector>

namespace {

/* A work of a branch; or none: there it waits until another branch has come so far. */
struct node {
    size_t branch;
    harness_work work;
    size_t other;
    uint64_t ticket;
};

struct recording {
    std::vector<node> nodes;
    std::vector<bool> urgent; /* each branch, the first being the stream's that launches it */
};

} // namespace

struct harness_graph {
    recording recorded;
};

struct harness_graph_exec {
    recording recorded;
    int device;
    size_t bytes;
};

namespace {

struct capture {
    recording recorded;
    std::vector<cudaStream_t> streams; /* of each branch */
    /* by branches: how many nodes of each one come before what is captured there next */
    std::vector<std::vector<uint64_t>> before;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool spoilt;
    size_t number;
};

/* By their numbers. */
std::map<size_t, capture> captures;
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

/* The capture that the stream is in, and as which branch; NULL: none. */
static capture *find_capture(cudaStream_t stream, size_t *branch)
{
    for (auto &entry : captures)
        for (*branch = 0; *branch < entry.second.streams.size(); ++*branch)
            if (entry.second.streams[*branch] == stream)
                return &entry.second;
    return nullptr;
}

static void add_node(capture &capture, const node &node)
{
    capture.recorded.nodes.push_back(node);
    capture.before[node.branch][node.branch]++;
}

bool harness_capture(cudaStream_t stream, const harness_work &work)
{
    size_t branch;
    capture *capture = find_capture(stream, &branch);
    if (capture)
        add_node(*capture, {branch, work, 0, 0});
    return capture != nullptr;
}

size_t harness_capture_number(cudaStream_t stream)
{
    size_t branch;
    const capture *capture = find_capture(stream, &branch);
    return capture ? capture->number : 0;
}

static size_t add_branch(capture &capture, cudaStream_t stream)
{
    capture.streams.push_back(stream);
    capture.recorded.urgent.push_back(harness_is_urgent(stream));
    const size_t n = capture.streams.size();
    capture.before.resize(n);
    for (std::vector<uint64_t> &before : capture.before)
        before.resize(n);
    return n - 1;
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
        bool captured = false;
        for (cudaStream_t branch : entry.second.streams)
            captured = captured || branch == stream;
        if (stream ? !captured : !mine)
            continue;
        spoil(entry.second, name);
        spoils = true;
    }
    return spoils;
}

struct harness_mark harness_mark_capture(cudaStream_t stream)
{
    size_t branch;
    const capture *capture = find_capture(stream, &branch);
    if (!capture)
        return {};
    return {capture->number, branch, capture->before[branch]};
}

cudaError_t harness_capture_wait(cudaStream_t stream, const struct harness_mark &mark)
{
    const char *name = "cudaStreamWaitEvent";
    size_t branch;
    capture *own = find_capture(stream, &branch);
    auto found = captures.find(mark.capture);
    if (found == captures.end()) {
        if (own)
            own->spoilt = true;
        return refuse(own ? cudaErrorStreamCaptureIsolation : cudaErrorCapturedEvent, name,
                      own ? "a captured stream and an event of no stream of that capture"
                          : "an event of a capture that has ended");
    }
    capture &capture = found->second;
    if (own && own != &capture) {
        own->spoilt = capture.spoilt = true;
        return refuse(cudaErrorStreamCaptureMerge, name, "two captures");
    }
    if (!own)
        branch = add_branch(capture, stream);
    if (branch != mark.branch)
        add_node(capture, {branch, nullptr, mark.branch, mark.before[mark.branch]});
    for (size_t i = 0; i < mark.before.size(); i++)
        if (i != branch)
            capture.before[branch][i] = std::max(capture.before[branch][i], mark.before[i]);
    return cudaSuccess;
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
    if (harness_capture_number(stream))
        return refuse(cudaErrorStreamCaptureUnsupported, name, "a stream that is being captured");
    capture &capture = captures[++n_captures];
    capture.mode = mode;
    capture.thread = std::this_thread::get_id();
    capture.number = n_captures;
    add_branch(capture, stream);
    return cudaSuccess;
}

/* Whether the first branch has waited for all that the others did. */
static bool is_joined(const capture &capture)
{
    for (size_t i = 1; i < capture.before.size(); i++)
        if (capture.before[0][i] < capture.before[i][i])
            return false;
    return true;
}

/* However it ends, its streams are no longer captured. */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    const char *name = "cudaStreamEndCapture";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cudaError_t error = harness_begin_call(name);
    *graph = nullptr;
    size_t branch;
    const struct capture *found = find_capture(stream, &branch);
    if (!found || branch > 0)
        return error ? harness_end_call(error)
                     : refuse(cudaErrorStreamCaptureUnmatched, name, "a stream not captured, or "
                              "one that did not begin it");
    struct capture capture = std::move(captures[found->number]);
    captures.erase(capture.number);
    if (error)
        return harness_end_call(error);
    if (capture.mode != cudaStreamCaptureModeRelaxed
        && capture.thread != std::this_thread::get_id())
        return refuse(cudaErrorStreamCaptureWrongThread, name, "another thread began it");
    if (capture.spoilt)
        return harness_end_call(cudaErrorStreamCaptureInvalidated);
    if (!is_joined(capture))
        return refuse(cudaErrorStreamCaptureUnjoined, name, "a branch that is not waited for");
    *graph = new harness_graph{std::move(capture.recorded)};
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
    *n_nodes = 0;
    for (const node &node : graph->recorded.nodes)
        *n_nodes += node.work != nullptr;
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
    *exec = new harness_graph_exec{graph->recorded, 0, harness_bytes_of_graph()};
    cudaGetDevice(&(*exec)->device);
    execs.insert(*exec);
    return cudaSuccess;
}

/* Branches but the first begin with a wait for another one. */
static void queue_nodes(const recording &recorded, cudaStream_t stream)
{
    std::vector<cudaStream_t> branches = {stream};
    std::vector<uint64_t> begins;
    for (size_t i = 1; i < recorded.urgent.size(); i++)
        branches.push_back(harness_branch(stream, i - 1, recorded.urgent[i]));
    for (cudaStream_t branch : branches)
        begins.push_back(harness_queued(branch));
    for (const node &node : recorded.nodes)
        if (node.work)
            harness_queue_work(branches[node.branch], node.work);
        else
            harness_queue_wait(branches[node.branch], branches[node.other],
                               begins[node.other] + node.ticket);
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
    if (stream == nullptr || stream == cudaStreamLegacy)
        return refuse(cudaErrorNotSupported, name, "the stand-in launches on streams alone");
    queue_nodes(exec->recorded, stream);
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
