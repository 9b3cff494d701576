/*
 * A roofline model of `hymba bench` on GPUs: what a step must read, write and compute, counted from
 * the layer plan of a preset, over what the vendor says a device can do. Prints the tables of
 * docs/roofline.md. Predictions, all of them: nothing here measures.
 *
 * Usage: roofline [PRESET]
 */
#include <hymba.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static hymba_error error = {.struct_size = sizeof error};

static void need(hymba_status status)
{
    if (status == HYMBA_OK)
        return;
    fprintf(stderr, "roofline: %s: %s\n", hymba_status_name(status), error.message);
    exit(1);
}

/* ------------------------------------------------------------------ devices */

/* Bytes and operations per second; the sources stand in docs/roofline.md. */
struct device {
    const char *name;
    double bandwidth, matrix_rate; /* of memory; of dense bf16 products with f32 sums */
    double memory, l2;             /* bytes */
    double processors, clock;      /* streaming multiprocessors */
    double lanes;                  /* f32 instructions a clock and multiprocessor */
};

/* Special functions a clock and multiprocessor, on all of them. */
static const double special_lanes = 16;

static const struct device devices[] = {
    {"A100 80 GB SXM", 2.039e12, 312e12, 80e9, 40e6, 108, 1.41e9, 64},
    {"H100 SXM", 3.35e12, 989.5e12, 80e9, 50e6, 132, 1.75e9, 128},
    {"H200 SXM", 4.8e12, 989.5e12, 141e9, 50e6, 132, 1.75e9, 128},
    {"H200 SXM, measured rates", 4.3e12, 790e12, 141e9, 50e6, 132, 1.75e9, 128},
    {"RTX 4090", 1.008e12, 165.2e12, 24e9, 72e6, 128, 2.52e9, 128},
    {"Jetson AGX Orin 64 GB", 0.2048e12, 42.5e12, 64e9, 4e6, 16, 1.3e9, 128},
};
enum { N_DEVICES = sizeof devices / sizeof devices[0], MEASURED_H200 = 3 };

/* -------------------------------------------------------------------- model */

enum { MOST_LAYERS = 256 };

struct model {
    hymba_model *handle;
    hymba_model_info info;
    hymba_layer_info layers[MOST_LAYERS];
};

static void open_preset(const char *name, struct model *model)
{
    static char config[1 << 16];
    hymba_memory_file file = {"config.json", config, 0};
    hymba_model_params params;
    need(hymba_preset_config(name, config, sizeof config, &file.size, &error));
    hymba_model_params_init(&params, sizeof params);
    params.flags = HYMBA_MODEL_NO_WEIGHTS | HYMBA_MODEL_NO_TOKENIZER;
    need(hymba_model_open_memory(&file, sizeof file, 1, &params, &model->handle, &error));
    model->info.struct_size = sizeof model->info;
    need(hymba_model_get_info(model->handle, &model->info, &error));
    if (model->info.n_layers > MOST_LAYERS) {
        fprintf(stderr, "roofline: %u layers are more than %d\n", model->info.n_layers,
                MOST_LAYERS);
        exit(1);
    }
    for (uint32_t i = 0; i < model->info.n_layers; i++) {
        model->layers[i].struct_size = sizeof model->layers[i];
        need(hymba_model_get_layer_info(model->handle, i, &model->layers[i], &error));
    }
}

/* Types of weights and caches: what a column of the tables stands for. */
struct types {
    hymba_dtype weights; /* BF16, INT8, INT4 */
    hymba_dtype caches;  /* BF16 or F16, INT8 or FP8 */
    hymba_dtype states;
};

/* Bytes of a weight of the large projections, with its share of a bf16 scale. */
static double projection_weight(const struct types *types)
{
    return types->weights == HYMBA_DTYPE_INT8   ? 1 + 2.0 / 64
           : types->weights == HYMBA_DTYPE_INT4 ? 0.5 + 2.0 / 32
                                                : 2;
}

/* The output head is int8 in int4 models, too; x_proj and dt_proj are never quantised. */
static double head_weight(const struct types *types)
{
    return types->weights == HYMBA_DTYPE_BF16 ? 2 : 1 + 2.0 / 64;
}

/* Bytes of a key and a value of all heads. */
static double key_bytes(const struct model *model, const struct types *types)
{
    double element = (double)hymba_dtype_size(types->caches);
    double scales = element == 1 ? 2 * sizeof(float) : 0;
    return model->info.n_kv_heads *
           ((model->info.qk_head_size + model->info.v_head_size) * element + scales);
}

/* --------------------------------------------------------------------- work */

enum { MOST_ARRAYS = 6, MOST_WORKS = 32 };

/* What the calls of one kind in a step have to do. Arrays are a call's activations, which come from
 * and go to the L2 cache where they fit it. */
struct work {
    const char *name;
    double calls;
    double bytes;      /* weights, caches, states: of all calls */
    double arrays[MOST_ARRAYS]; /* bytes, of one call */
    double products;   /* operations in matrix units, two a multiply-add: of all calls */
    double special;    /* special functions */
    double plain;      /* other f32 instructions */
    double first_caches; /* of bytes, what a layer reads that makes the keys itself */
};

/* A step: rows of tokens for each session at the same position. */
struct step {
    double sessions, rows, position, logits;
};

struct plan {
    struct work works[MOST_WORKS];
    int n;
    double parameters; /* that a step reads */
};

/* Adds a call; works of one name are one kind, whose calls are alike. */
static struct work *add(struct plan *plan, const char *name)
{
    for (int i = 0; i < plan->n; i++)
        if (strcmp(plan->works[i].name, name) == 0) {
            plan->works[i].calls++;
            return &plan->works[i];
        }
    struct work *work = &plan->works[plan->n++];
    *work = (struct work){.name = name, .calls = 1};
    return work;
}

static void arrays(struct work *work, double a, double b, double c, double d)
{
    const double given[] = {a, b, c, d};
    memset(work->arrays, 0, sizeof work->arrays);
    memcpy(work->arrays, given, sizeof given);
}

/* f32 weights of the small tensors. */
static void small_weights(struct plan *plan, struct work *work, double n)
{
    work->bytes += 4 * n;
    plan->parameters += n;
}

/* Activations enter products as bf16 and leave them as f32. */
static struct work *product(struct plan *plan, const char *name, double rows, double outputs,
                    double inputs, double weight)
{
    struct work *work = add(plan, name);
    work->bytes += outputs * inputs * weight;
    work->products += 2 * rows * outputs * inputs;
    arrays(work, 2 * rows * inputs, 4 * rows * outputs, 0, 0);
    plan->parameters += outputs * inputs;
    return work;
}

/* An f32 row in, a bf16 row out; weights of n. */
static void norm(struct plan *plan, double rows, double n)
{
    struct work *work = add(plan, "norm");
    small_weights(plan, work, n);
    work->plain += 4 * rows * n;
    arrays(work, 4 * rows * n, 2 * rows * n, 0, 0);
}

/* Sum over rows at positions p .. p + n - 1 of the keys each sees, at most most before it. */
static double visible_keys(double p, double n, double most)
{
    double below = p >= most ? 0 : most - p; /* rows that see everything before them */
    below = below < n ? below : n;
    return below * p + below * (below - 1) / 2 + (n - below) * most + n;
}

static void attention(struct plan *plan, const struct model *model, const struct types *types,
                      const struct step *step, uint32_t index)
{
    const hymba_model_info *info = &model->info;
    const hymba_layer_info *layer = &model->layers[index];
    bool window = layer->attention == HYMBA_ATTENTION_WINDOW;
    double most = window ? layer->window : 1e18, rows = step->sessions * step->rows;
    double before = step->position < most ? step->position : most;
    double scores = info->n_heads * (rows * info->n_meta_tokens +
                                     step->sessions * visible_keys(step->position, step->rows,
                                                                   most));
    struct work *work = add(plan, window ? "attention_window" : "attention_full");
    double bytes = key_bytes(model, types) *
                   (info->n_meta_tokens + step->sessions * (before + step->rows));
    work->bytes += bytes;
    work->first_caches += layer->kv_layer == (int32_t)index ? bytes : 0;
    work->products += 2 * scores * (info->qk_head_size + info->v_head_size);
    work->special += scores;
    work->plain += 3 * scores;
    arrays(work, 4 * rows * info->n_heads * info->qk_head_size,
           4 * rows * info->n_heads * info->v_head_size, 0, 0);
}

/* Rotation, rows made for the step's caches, and their way from there into the session's. */
static void heads(struct plan *plan, const struct model *model, const struct types *types,
                  double rows, bool producer)
{
    const hymba_model_info *info = &model->info;
    double q = (double)info->n_heads * info->qk_head_size;
    double k = producer ? (double)info->n_kv_heads * info->qk_head_size : 0;
    struct work *work = add(plan, "rope_cache");
    work->plain += 3 * rows * (q + k);
    arrays(work, 4 * rows * q, 4 * rows * q, 0, 0);
    if (!producer)
        return;
    work->bytes += rows * key_bytes(model, types);
    work = add(plan, "append");
    work->bytes += 2 * rows * key_bytes(model, types);
}

/* Convolution, x_proj, three norms, dt_proj, scan (docs/semantics.md, section 4b). */
static void mamba(struct plan *plan, const struct model *model, const struct types *types,
                  const struct step *step)
{
    const hymba_model_info *info = &model->info;
    double n = info->inner_size, states = info->state_size, taps = info->conv_width;
    double rank = info->dt_rank, rows = step->sessions * step->rows;
    double element = (double)hymba_dtype_size(types->states);
    struct work *work = add(plan, "convolution");
    small_weights(plan, work, n * (taps + 1));
    work->bytes += 2 * element * step->sessions * (taps - 1) * n;
    work->plain += rows * n * (taps + 2);
    work->special += 2 * rows * n;
    arrays(work, 4 * rows * n, 4 * rows * n, 2 * rows * n, 0);
    product(plan, "x_proj", rows, rank + 2 * states, n, 2);
    norm(plan, rows, rank + 2 * states);
    small_weights(plan, product(plan, "dt_proj", rows, n, rank, 2), n);
    work = add(plan, "scan");
    small_weights(plan, work, n * (states + 1));
    work->bytes += 2 * element * step->sessions * states * n;
    /* a state: exp2; two multiplications, two multiply-adds. A channel: softplus and gate. */
    work->special += rows * n * (states + 3);
    work->plain += rows * n * (4 * states + 8);
    arrays(work, 4 * rows * n, 4 * rows * n, 4 * rows * n, 4 * rows * n);
}

static void layer(struct plan *plan, const struct model *model, const struct types *types,
                  const struct step *step, uint32_t index)
{
    const hymba_model_info *info = &model->info;
    const hymba_layer_info *own = &model->layers[index];
    double h = info->hidden_size, n = info->inner_size, f = info->intermediate_size;
    double rows = step->sessions * step->rows, weight = projection_weight(types);
    bool attends = own->attention != HYMBA_ATTENTION_NONE, recurs = own->ssm != HYMBA_SSM_NONE;
    bool producer = own->kv_layer == (int32_t)index;
    double q = attends ? (double)info->n_heads * info->qk_head_size : 0;
    double kv = producer
                    ? (double)info->n_kv_heads * (info->qk_head_size + info->v_head_size) : 0;
    if (attends || recurs) {
        norm(plan, rows, h);
        product(plan, "in_proj", rows, q + kv + (recurs ? 2 * n : 0), h, weight);
    }
    if (attends) {
        heads(plan, model, types, rows, producer);
        attention(plan, model, types, step, index);
    }
    if (recurs)
        mamba(plan, model, types, step);
    if (own->fusion != HYMBA_FUSION_NONE) {
        struct work *work = add(plan, "fusion");
        small_weights(plan, work, 2 * n);
        work->plain += 10 * rows * n;
        arrays(work, 4 * rows * n, 4 * rows * n, 2 * rows * n, 0);
    }
    if (attends || recurs)
        product(plan, "out_proj", rows, h,
                   own->fusion == HYMBA_FUSION_CONCAT ? 2 * n : n, weight);
    if (own->ffn == HYMBA_FFN_NONE)
        return;
    norm(plan, rows, h);
    product(plan, "gate_up", rows, f, h, weight);
    product(plan, "gate_up", rows, f, h, weight);
    struct work *work = add(plan, "swiglu");
    work->plain += 3 * rows * f;
    work->special += 2 * rows * f;
    arrays(work, 4 * rows * f, 4 * rows * f, 2 * rows * f, 0);
    product(plan, "down", rows, h, f, weight);
}

static void make_plan(struct plan *plan, const struct model *model, const struct types *types,
                      const struct step *step)
{
    double h = model->info.hidden_size, rows = step->sessions * step->rows;
    memset(plan, 0, sizeof *plan);
    add(plan, "embedding")->bytes += rows * h * (head_weight(types) + 4);
    for (uint32_t i = 0; i < model->info.n_layers; i++)
        layer(plan, model, types, step, i);
    if (step->logits > 0) {
        norm(plan, step->logits, h);
        product(plan, "head", step->logits, model->info.vocabulary_size, h, head_weight(types));
    }
}

/* --------------------------------------------------------------------- time */

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double memory_bytes(const struct device *device, const struct work *work)
{
    double bytes = work->bytes;
    for (int i = 0; i < MOST_ARRAYS; i++)
        bytes += work->arrays[i] > device->l2 ? work->calls * work->arrays[i] : 0;
    return bytes;
}

static double seconds_of(const struct device *device, const struct work *work)
{
    double clocks = device->processors * device->clock;
    double seconds = memory_bytes(device, work) / device->bandwidth;
    seconds = larger(seconds, work->products / device->matrix_rate);
    seconds = larger(seconds, work->special / (special_lanes * clocks));
    return larger(seconds, work->plain / (device->lanes * clocks));
}

static double seconds_of_plan(const struct device *device, const struct plan *plan)
{
    double seconds = 0;
    for (int i = 0; i < plan->n; i++)
        seconds += seconds_of(device, &plan->works[i]);
    return seconds;
}

static double step_seconds(const struct device *device, const struct model *model,
                           const struct types *types, struct step step)
{
    struct plan plan;
    make_plan(&plan, model, types, &step);
    return seconds_of_plan(device, &plan);
}

/* Prompts of so many tokens in steps of so many rows for each session. */
static double prompt_seconds(const struct device *device, const struct model *model,
                             const struct types *types, double sessions, double tokens,
                             double rows)
{
    double seconds = 0;
    for (double done = 0; done < tokens; done += rows) {
        double now = done + rows < tokens ? rows : tokens - done;
        struct step step = {sessions, now, done, done + now < tokens ? 0 : sessions};
        seconds += step_seconds(device, model, types, step);
    }
    return seconds;
}

/* Bytes of a session's caches and states, from the library. */
static hymba_memory_info session_memory(const struct model *model, const struct types *types,
                                        double tokens)
{
    hymba_context_params params;
    hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = (uint64_t)tokens};
    hymba_context_params_init(&params, sizeof params);
    params.cache_type = types->caches;
    params.state_type = types->states;
    need(hymba_model_get_memory_info(model->handle, &params, &memory, &error));
    return memory;
}

/* ------------------------------------------------------------------- checks */

static void expect(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "roofline: %s are not what the library counts\n", what);
    exit(1);
}

/* The counts of this program against the library's. */
static void check_counts(const struct model *model, const struct types *types)
{
    const double depth = 8192;
    const struct step step = {.sessions = 1, .rows = 1, .position = depth, .logits = 1};
    struct plan plan;
    double first = 0, states = 0;
    make_plan(&plan, model, types, &step);
    hymba_memory_info memory = session_memory(model, types, depth);
    double key = key_bytes(model, types), n = model->info.n_kv_layers;
    for (int i = 0; i < plan.n; i++) {
        const struct work *work = &plan.works[i];
        first += work->first_caches;
        if (strcmp(work->name, "convolution") == 0)
            states += work->bytes - work->calls * 4.0 * model->info.inner_size *
                                        (model->info.conv_width + 1);
        if (strcmp(work->name, "scan") == 0)
            states += work->bytes - work->calls * 4.0 * model->info.inner_size *
                                        (model->info.state_size + 1);
    }
    expect(plan.parameters + (double)model->info.n_meta_tokens * model->info.hidden_size ==
               (double)model->info.n_parameters, "weights");
    /* caches hold the tokens; a step reads its own row, too */
    expect(first == (double)memory.kv_bytes + n * key * (model->info.n_meta_tokens + 1), "caches");
    expect(states == 2.0 * (double)(memory.conv_bytes + memory.ssm_bytes), "states");
}

/* ------------------------------------------------------------------- tables */

static const struct types columns[] = {
    {HYMBA_DTYPE_BF16, HYMBA_DTYPE_BF16, HYMBA_DTYPE_F32},
    {HYMBA_DTYPE_INT8, HYMBA_DTYPE_BF16, HYMBA_DTYPE_F32},
    {HYMBA_DTYPE_INT4, HYMBA_DTYPE_BF16, HYMBA_DTYPE_F32},
    {HYMBA_DTYPE_BF16, HYMBA_DTYPE_INT8, HYMBA_DTYPE_F32},
    {HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT8, HYMBA_DTYPE_F32},
    {HYMBA_DTYPE_INT4, HYMBA_DTYPE_INT8, HYMBA_DTYPE_F32},
};
enum { N_COLUMNS = sizeof columns / sizeof columns[0] };

static const double depths[] = {0, 2048, 8192}, batches[] = {1, 8, 32, 128};
enum { N_DEPTHS = 3, N_BATCHES = 4 };

static double weight_bytes(const struct model *model, const struct types *types)
{
    const struct step step = {.sessions = 0, .rows = 0, .logits = 1e-9};
    struct plan plan;
    double bytes = 0;
    make_plan(&plan, model, types, &step);
    for (int i = 0; i < plan.n; i++)
        bytes += strncmp(plan.works[i].name, "attention", 9) == 0 ? 0 : plan.works[i].bytes;
    return bytes;
}

static void print_sums(const struct model *model)
{
    printf("| weights | bytes of weights a step | caches | a session of 8,192 tokens | read a "
           "step | states, read and written |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < N_COLUMNS; i++) {
        const struct types *types = &columns[i];
        const struct step step = {.sessions = 128, .rows = 1, .position = 8192, .logits = 128};
        hymba_memory_info memory = session_memory(model, types, 8192);
        struct plan plan;
        double caches = 0;
        make_plan(&plan, model, types, &step);
        for (int j = 0; j < plan.n; j++)
            if (strncmp(plan.works[j].name, "attention", 9) == 0)
                caches += plan.works[j].bytes / 128;
        printf("| %s | %.3f GB | %s | %.1f MB | %.1f MB | %.1f MB |\n",
               hymba_dtype_name(types->weights), weight_bytes(model, types) / 1e9,
               hymba_dtype_name(types->caches), (double)memory.kv_bytes / 1e6, caches / 1e6,
               2e-6 * (double)(memory.conv_bytes + memory.ssm_bytes));
    }
}

static bool fits(const struct device *device, const struct model *model,
                 const struct types *types, double sessions, double tokens)
{
    hymba_memory_info memory = session_memory(model, types, tokens);
    double session = (double)(memory.total_bytes - memory.meta_bytes);
    return weight_bytes(model, types) + (double)memory.meta_bytes + sessions * session <=
           device->memory;
}

/* 12345.6 as "12,346". */
static void print_rate(double rate)
{
    long value = (long)(rate + 0.5);
    if (value >= 1000000)
        printf(" %ld,%03ld,%03ld |", value / 1000000, value / 1000 % 1000, value % 1000);
    else if (value >= 1000)
        printf(" %ld,%03ld |", value / 1000, value % 1000);
    else
        printf(" %ld |", value);
}

static void print_prompt(const struct device *device, const struct model *model, double sessions,
                         double tokens, double rows)
{
    printf("| prefill, %.0f x %.0f in steps of %.0f |", sessions, tokens, sessions * rows);
    for (int i = 0; i < N_COLUMNS; i++)
        print_rate(sessions * tokens /
                   prompt_seconds(device, model, &columns[i], sessions, tokens, rows));
    printf(" |\n");
}

static void print_device(const struct device *device, const struct model *model)
{
    printf("\n### %s\n\n", device->name);
    printf("| PREDICTED tokens/s | bf16 | int8 | int4 | bf16, int8 caches | int8, int8 caches | "
           "int4, int8 caches | measured |\n|---|---|---|---|---|---|---|---|\n");
    print_prompt(device, model, 1, 512, 128);
    print_prompt(device, model, 1, 2048, 128);
    print_prompt(device, model, 1, 2048, 2048);
    print_prompt(device, model, 8, 8192, 1024);
    for (int d = 0; d < N_DEPTHS; d++)
        for (int b = 0; b < N_BATCHES; b++) {
            struct step step = {batches[b], 1, depths[d], batches[b]};
            printf("| decode, depth %.0f, %.0f session%s |", depths[d], batches[b],
                   batches[b] > 1 ? "s" : "");
            for (int i = 0; i < N_COLUMNS; i++)
                if (fits(device, model, &columns[i], batches[b], depths[d]))
                    print_rate(batches[b] / step_seconds(device, model, &columns[i], step));
                else
                    printf(" no room |");
            printf(" |\n");
        }
}

static const char *limit_of(const struct device *device, const struct work *work)
{
    double seconds = seconds_of(device, work), clocks = device->processors * device->clock;
    if (seconds == memory_bytes(device, work) / device->bandwidth)
        return "memory";
    if (seconds == work->products / device->matrix_rate)
        return "products";
    return seconds == work->special / (special_lanes * clocks) ? "special functions"
                                                               : "f32 instructions";
}

static void print_kernels(const struct device *device, const struct model *model,
                          const struct step *step, const char *title)
{
    struct plan plan;
    double calls = 0, bytes = 0, products = 0;
    make_plan(&plan, model, &columns[0], step);
    double total = seconds_of_plan(device, &plan);
    printf("\n| %s | calls | MB | Gop of products | us | share | limit |\n"
           "|---|---|---|---|---|---|---|\n", title);
    for (int i = 0; i < plan.n; i++) {
        const struct work *work = &plan.works[i];
        double seconds = seconds_of(device, work);
        printf("| %s | %.0f | %.1f | %.1f | %.1f | %.1f %% | %s |\n", work->name, work->calls,
               memory_bytes(device, work) / 1e6, work->products / 1e9, 1e6 * seconds,
               100 * seconds / total, seconds > 0 ? limit_of(device, work) : "L2");
        calls += work->calls;
        bytes += memory_bytes(device, work);
        products += work->products;
    }
    printf("| all | %.0f | %.1f | %.1f | %.1f | %.0f %% of bandwidth, %.0f %% of products | |\n",
           calls, bytes / 1e6, products / 1e9, 1e6 * total,
           100 * bytes / device->bandwidth / total, 100 * products / device->matrix_rate / total);
}

/* A step of 128 sessions: what the plainest limit leaves out, one after the other. */
static void print_target(const struct device *device, const struct model *model)
{
    struct types types = columns[0];
    const struct step step = {.sessions = 128, .rows = 1, .position = 8192, .logits = 128};
    hymba_memory_info memory = session_memory(model, &types, 8192);
    double caches = (double)(memory.kv_bytes + memory.meta_bytes) * 128;
    double states = 2.0 * 128 * (double)(memory.conv_bytes + memory.ssm_bytes);
    double bytes = weight_bytes(model, &types) + caches;
    printf("| 128 sessions of 8,192 tokens, bf16 weights | GB a step | tokens/s |\n"
           "|---|---|---|\n");
    printf("| weights and each cache once | %.2f |", bytes / 1e9);
    print_rate(128 * device->bandwidth / bytes);
    bytes += states;
    printf("\n| and f32 states read and written | %.2f |", bytes / 1e9);
    print_rate(128 * device->bandwidth / bytes);
    struct plan plan;
    static const struct {
        const char *name;
        hymba_dtype caches, states;
        bool forks;
    } rows[] = {
        {"and caches as often as layers read them: the tables below", HYMBA_DTYPE_BF16,
         HYMBA_DTYPE_F32, false},
        {"the same, bf16 or f16 states", HYMBA_DTYPE_BF16, HYMBA_DTYPE_BF16, false},
        {"the same, int8 caches, f32 states", HYMBA_DTYPE_INT8, HYMBA_DTYPE_F32, false},
        {"the same, int8 caches, bf16 or f16 states", HYMBA_DTYPE_INT8, HYMBA_DTYPE_BF16, false},
        {"bf16 caches, f32 states, forks of one session (`bench` without `--separate`)",
         HYMBA_DTYPE_BF16, HYMBA_DTYPE_F32, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        types.caches = rows[i].caches;
        types.states = rows[i].states;
        make_plan(&plan, model, &types, &step);
        bytes = 0;
        for (int j = 0; j < plan.n; j++) {
            struct work *work = &plan.works[j];
            if (rows[i].forks && strcmp(work->name, "attention_full") == 0)
                work->bytes /= 128;
            bytes += memory_bytes(device, work);
        }
        printf("\n| %s | %.2f |", rows[i].name, bytes / 1e9);
        print_rate(128 / seconds_of_plan(device, &plan));
    }
    printf("\n");
}

/* Two devices: each has half of the channels and weights, and one of them the larger part of the
 * key heads. */
static void print_two_devices(const struct device *device, const struct model *model)
{
    const double collectives = 4.0 * model->info.n_layers, link = 450e9;
    double groups = (double)((model->info.n_kv_heads + 1) / 2) / model->info.n_kv_heads;
    printf("| sessions, depth 8,192 | one device, ms | two, ms, without collectives | bytes of "
           "collectives, us | worth it below, us a collective |\n|---|---|---|---|---|\n");
    for (int b = 0; b < N_BATCHES; b++) {
        const struct step step = {batches[b], 1, 8192, batches[b]};
        struct plan plan;
        double one = 0, two = 0;
        make_plan(&plan, model, &columns[0], &step);
        for (int i = 0; i < plan.n; i++) {
            const struct work *work = &plan.works[i];
            bool by_heads = strncmp(work->name, "attention", 9) == 0;
            one += seconds_of(device, work);
            two += seconds_of(device, work) * (by_heads ? groups : 0.5);
        }
        /* f32 sums of out_proj and down; of x_proj; of squares for both norms */
        double row = 4.0 * (2.0 * model->info.hidden_size + model->info.dt_rank +
                            2.0 * model->info.state_size + 2);
        double sent = model->info.n_layers * batches[b] * row / link;
        printf("| %.0f | %.2f | %.2f | %.1f | %.1f |\n", batches[b], 1e3 * one, 1e3 * two,
               1e6 * sent, 1e6 * (one - two - sent) / collectives);
    }
}

/* Rows of one sequence through the scan: as it is, in blocks of 16 channels that keep their place,
 * and divided over time, where every state's exponential is computed twice. */
static void print_scan(const struct device *device, double channels, double states)
{
    double blocks = (channels + 15) / 16 - (double)((long)(channels + 15) % 16) / 16;
    double rounds = blocks / device->processors;
    long most = (long)rounds + (rounds > (double)(long)rounds);
    double block = 16 * (states + 3) / special_lanes;     /* clocks a row on one multiprocessor */
    double whole = channels * (states + 3) / special_lanes; /* of all multiprocessors together */
    double twice = channels * (2 * states + 3) / special_lanes / device->processors;
    double bytes = 4 * (4 * channels + 2 * states) / device->bandwidth;
    printf("| %.0f x %.0f | %.0f on %.0f | %.1f | %.1f | %.1f | %.1f |\n", channels, states,
           blocks, device->processors, 1e9 * (double)most * block / device->clock,
           1e9 * whole / device->processors / device->clock, 1e9 * twice / device->clock,
           1e9 * bytes);
}

static void print_scans(const struct device *device)
{
    printf("| channels x states | blocks on multiprocessors | blocks as they are | spread evenly | "
           "divided over time | bytes |\n|---|---|---|---|---|---|\n");
    print_scan(device, 3200, 16);
    print_scan(device, 2112, 16);
    print_scan(device, 1024, 16);
    print_scan(device, 256, 16);
}

int main(int argc, char **argv)
{
    static struct model model;
    const struct device *h200 = &devices[MEASURED_H200];
    if (argc > 2) {
        fprintf(stderr, "usage: roofline [PRESET]\n");
        return 2;
    }
    open_preset(argc == 2 ? argv[1] : "1.5b", &model);
    for (int i = 0; i < N_COLUMNS; i++)
        check_counts(&model, &columns[i]);
    print_sums(&model);
    printf("\n");
    print_target(h200, &model);
    for (int i = 0; i < N_DEVICES; i++)
        print_device(&devices[i], &model);
    print_kernels(h200, &model, &(struct step){1, 1, 8192, 1}, "decode, depth 8,192, 1 session");
    print_kernels(h200, &model, &(struct step){128, 1, 8192, 128},
                  "decode, depth 8,192, 128 sessions");
    print_kernels(h200, &model, &(struct step){8, 1024, 4096, 0},
                  "prefill, 8 x 1,024 rows from 4,096 on");
    printf("\n");
    print_two_devices(h200, &model);
    printf("\n");
    print_scans(h200);
    hymba_model_release(model.handle);
    return 0;
}
