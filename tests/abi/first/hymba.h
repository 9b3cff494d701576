/*
 * hymba.h - the public interface of libhymba
 *
 * libhymba runs Hymba, the hybrid-head small language model, inside other programs. Three objects
 * carry everything:
 *
 *   hymba_model    configuration, layer plan, weights, tokenizer. Immutable after it was opened;
 *                  any number of threads and contexts may use one model at once.
 *   hymba_context  one execution device with its working memory and threads, and the state after
 *                  the meta tokens, computed once. One call at a time: a second call that arrives
 *                  while one runs returns HYMBA_ERROR_BUSY and changes nothing.
 *   hymba_session  one token sequence: its KV caches, SSM and convolution state. Belongs to a
 *                  context and follows the context's rule for threads.
 *
 * Rules for every function
 *   Status     A function that can fail returns hymba_status: HYMBA_OK, or a negative error. Its
 *              last argument is an optional caller-owned hymba_error, written on failure only.
 *              After a failure every object is as it was before the call, unless its comment says
 *              otherwise; output arguments that are handles are set to NULL.
 *   Structs    A parameter struct begins with struct_size. Set it to sizeof the struct, or call
 *              the matching ..._init function; every other field may then be zero, which means
 *              the default. A struct larger than the library knows is accepted if the unknown
 *              tail is zero, and refused with HYMBA_ERROR_UNSUPPORTED if not; the same holds for
 *              the elements of arrays whose element size is given. A struct_size below 8 or above
 *              4096 is an error. A NULL pointer to parameters means all defaults.
 *   Handles    ..._create and ..._open give one reference; ..._release gives it back and accepts
 *              NULL. Children hold their parents, so handles may be released in any order.
 *   Text       is UTF-8, given as pointer and length; a length of HYMBA_NUL_TERMINATED means that
 *              the text ends at its first NUL byte.
 *   Buffers    are pointer, capacity and size_t *needed. The function writes at most capacity
 *              elements and stores the full count in *needed; if that is larger than capacity it
 *              returns HYMBA_ERROR_BUFFER and the buffer's content is unspecified. NULL with
 *              capacity 0 asks for the size (and returns HYMBA_OK).
 *   Threads    Functions on different contexts may run at the same time. Functions that take a
 *              const handle of a model or a tokenizer may run at the same time on one handle.
 *   Callbacks  run on the thread that called the library, and must not call back into the object
 *              they were called for. They must not unwind (longjmp, exceptions) through it.
 *
 * The library never exits, aborts, prints, or changes signals, locale or floating-point mode.
 */
#ifndef HYMBA_H
#define HYMBA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define HYMBA_API
#elif defined(__GNUC__)
#define HYMBA_API __attribute__((visibility("default")))
#else
#define HYMBA_API
#endif

/* ---------------------------------------------------------------- version */

#define HYMBA_VERSION_MAJOR 0
#define HYMBA_VERSION_MINOR 1
#define HYMBA_VERSION_PATCH 0

/* The number of the binary interface; equal to the number in the shared library's soname. */
#define HYMBA_ABI 0

/* Version of the library that is linked, "MAJOR.MINOR.PATCH". Static storage. Any thread. */
HYMBA_API const char *hymba_version_string(void);

/* The same as one number: major * 1000000 + minor * 1000 + patch. Any thread. */
HYMBA_API uint32_t hymba_version_number(void);

/* HYMBA_ABI of the library that is linked. Any thread. */
HYMBA_API uint32_t hymba_abi_version(void);

/* ----------------------------------------------------------------- status */

typedef int32_t hymba_status;

enum {
    HYMBA_OK = 0,
    HYMBA_ERROR_ARGUMENT = -1,    /* an argument is wrong: NULL, out of range, of another context */
    HYMBA_ERROR_BUFFER = -2,      /* the caller's buffer is too small; *needed tells the size */
    HYMBA_ERROR_MEMORY = -10,     /* an allocation failed */
    HYMBA_ERROR_LIMIT = -11,      /* a limit set by the caller would be exceeded */
    HYMBA_ERROR_THREAD = -12,     /* a thread or a lock could not be created */
    HYMBA_ERROR_FILE = -20,       /* a file cannot be opened, read, written or mapped */
    HYMBA_ERROR_FORMAT = -21,     /* a file's content contradicts its format or another file */
    HYMBA_ERROR_UNSUPPORTED = -22,/* well-formed, but nothing this library (version) can do */
    HYMBA_ERROR_MISSING = -23,    /* the model lacks what the call needs: weights, tokenizer, ... */
    HYMBA_ERROR_DEVICE = -30,     /* the device or its plug-in cannot be had, or failed */
    HYMBA_ERROR_TIMEOUT = -31,    /* another rank (hymba_ranks) did not come or answer in time */
    HYMBA_ERROR_BUSY = -40,       /* another call is running on this context */
    HYMBA_ERROR_STATE = -41,      /* the object cannot do this now, e.g. logits before any token */
    HYMBA_ERROR_CANCELLED = -42,  /* stopped by hymba_context_cancel or a progress callback */
    HYMBA_ERROR_INTERNAL = -90    /* a fault in the library */
};

/* The constant's name, e.g. "HYMBA_ERROR_FILE"; "unknown status" for any other number. Static
 * storage. Any thread. */
HYMBA_API const char *hymba_status_name(hymba_status status);

/* A sentence on what the status means in general. Static storage. Any thread. */
HYMBA_API const char *hymba_status_description(hymba_status status);

/* What went wrong. Owned by the caller, who sets struct_size (hymba_error_init does). */
typedef struct hymba_error {
    size_t struct_size;
    hymba_status status;   /* the status the call returned */
    int32_t system_code;   /* errno of the operating system's call that failed, or 0 */
    int64_t position;      /* byte offset in a file or text, index in an array; -1: none */
    char message[488];     /* one sentence, NUL-terminated: what was found, what was expected */
} hymba_error;

/* Clears *error and sets its struct_size to size (the caller's sizeof). NULL is ignored. */
HYMBA_API void hymba_error_init(hymba_error *error, size_t size);

/* Length argument for text that ends with a NUL byte. */
#define HYMBA_NUL_TERMINATED ((size_t)-1)

/* ------------------------------------------------------------ host hooks */

enum {
    HYMBA_LOG_ERROR = 1,
    HYMBA_LOG_WARNING = 2,
    HYMBA_LOG_INFO = 3,
    HYMBA_LOG_DEBUG = 4
};

enum {
    HYMBA_PHASE_LOAD = 1,     /* unit: weight files */
    HYMBA_PHASE_META = 2,     /* unit: meta tokens; the meta tokens' state, once per context */
    HYMBA_PHASE_PREFILL = 3,  /* unit: tokens; calls with more tokens than one step takes */
    HYMBA_PHASE_WRITE = 4,    /* unit: bytes */
    HYMBA_PHASE_QUANTIZE = 5, /* unit: bytes of the weights that are quantised */
    HYMBA_PHASE_MEETING = 6   /* unit: ranks that have come; while a context waits for them */
};

/*
 * The embedding program's services. Copied when an object is created; children inherit the
 * parent's. Members that are NULL have the defaults: the C library's allocator, no log, no
 * progress. alloc and free may be called from any thread that uses the object or its children.
 */
typedef struct hymba_host {
    size_t struct_size;
    void *user; /* first argument of every hook */
    /* Returns size bytes aligned to alignment (a power of two), or NULL. size is never 0. */
    void *(*alloc)(void *user, size_t size, size_t alignment);
    /* Takes back what alloc gave, with the same size and alignment. */
    void (*free)(void *user, void *pointer, size_t size, size_t alignment);
    /* message is NUL-terminated and length bytes long; valid during the call. */
    void (*log)(void *user, int32_t level, const char *message, size_t length);
    /* total is 0 where it is not known. A non-zero return value cancels the call in progress,
     * which then returns HYMBA_ERROR_CANCELLED. */
    int32_t (*progress)(void *user, int32_t phase, uint64_t done, uint64_t total);
} hymba_host;

/* Clears *host and sets its struct_size. NULL is ignored. */
HYMBA_API void hymba_host_init(hymba_host *host, size_t size);

/* Takes size bytes of what the library writes; non-zero: it cannot, and the call fails with
 * HYMBA_ERROR_FILE. */
typedef int32_t (*hymba_write)(void *user, const void *data, size_t size);

/* ---------------------------------------------------------- element types */

typedef int32_t hymba_dtype;

enum {
    HYMBA_DTYPE_DEFAULT = 0,
    HYMBA_DTYPE_F32 = 1,
    HYMBA_DTYPE_F16 = 2,
    HYMBA_DTYPE_BF16 = 3,
    HYMBA_DTYPE_INT8 = 4, /* with scales: one for each group of weights, or for each row of a
                             head's keys or values */
    HYMBA_DTYPE_INT4 = 5, /* weights only, with scales */
    HYMBA_DTYPE_FP8 = 6   /* keys and values only: a sign, 4 bits of exponent, 3 of mantissa (E4M3,
                             without infinities; the greatest is 448) */
};

/* "f32", "f16", "bf16", "int8", "int4", "fp8"; NULL for any other number. Static storage. Any
 * thread. */
HYMBA_API const char *hymba_dtype_name(hymba_dtype dtype);

/* The reverse of hymba_dtype_name; HYMBA_DTYPE_DEFAULT for a name it does not know or NULL. */
HYMBA_API hymba_dtype hymba_dtype_from_name(const char *name);

/* Bytes of one element, scales not counted; 0 for int4, which takes half a byte, and for any other
 * number. Any thread. */
HYMBA_API size_t hymba_dtype_size(hymba_dtype dtype);

/* ---------------------------------------------------------------- handles */

typedef struct hymba_model hymba_model;
typedef struct hymba_tokenizer hymba_tokenizer;
typedef struct hymba_context hymba_context;
typedef struct hymba_session hymba_session;
typedef struct hymba_text_stream hymba_text_stream;
typedef struct hymba_sampler hymba_sampler;
typedef struct hymba_generation hymba_generation;
typedef struct hymba_scheduler hymba_scheduler;

/* ------------------------------------------------------------------ model */

enum {
    HYMBA_MODEL_NO_MAP = 1,      /* read weight files into memory instead of mapping them */
    HYMBA_MODEL_NO_WEIGHTS = 2,  /* open configuration (and tokenizer) only: for queries */
    HYMBA_MODEL_NO_TOKENIZER = 4 /* do not look for a tokenizer */
};

typedef struct hymba_model_params {
    size_t struct_size;
    uint32_t flags;          /* HYMBA_MODEL_... */
    uint32_t reserved;       /* 0 */
    const hymba_host *host;  /* NULL: defaults */
    uint64_t memory_limit;   /* bytes the model may allocate, mapped files and tokenizer not
                                counted; beyond it HYMBA_ERROR_MEMORY. 0: none */
    hymba_dtype quantize;    /* INT8, INT4: weights are quantised while they are loaded, as
                                hymba_quantize does with HYMBA_QUANTIZE_PLAIN and default groups;
                                this copy is the model's own memory, and the files' pages are let
                                go. DEFAULT: weights as stored */
    uint32_t reserved2;      /* 0 */
} hymba_model_params;

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_model_params_init(hymba_model_params *params, size_t size);

/*
 * Opens a model directory in the published Hugging Face layout: config.json; model.safetensors, or
 * the shards that model.safetensors.index.json names; tokenizer.model or tokenizer.json, and
 * tokenizer_config.json, where there are any.
 *
 * Weight files are mapped and used in place; they must not be changed while the model lives.
 * Errors: ARGUMENT, MEMORY, FILE (missing, unreadable), FORMAT (contradictory, wrong type or
 * shape), UNSUPPORTED (a configuration this library refuses; the field is named), CANCELLED.
 * Threads: any.
 */
HYMBA_API hymba_status hymba_model_open(const char *directory, const hymba_model_params *params,
                                        hymba_model **model, hymba_error *error);

/* One file of a model that lies in memory. name is its name inside the directory. */
typedef struct hymba_memory_file {
    const char *name;
    const void *data;
    size_t size;
} hymba_memory_file;

/*
 * The same from memory blocks. files is an array of n_files elements of file_size bytes, i.e.
 * sizeof(hymba_memory_file). Weight files are used in place: their memory must stay valid and
 * unchanged until the model is destroyed. The other files and the names are copied.
 * Errors and threads as hymba_model_open.
 */
HYMBA_API hymba_status hymba_model_open_memory(const hymba_memory_file *files, size_t file_size,
                                               size_t n_files, const hymba_model_params *params,
                                               hymba_model **model, hymba_error *error);

/* Takes one more reference, returned by one more release. Any thread. */
HYMBA_API hymba_model *hymba_model_retain(hymba_model *model);

/* Gives one reference back; the last one unmaps and frees. NULL is ignored. Any thread. */
HYMBA_API void hymba_model_release(hymba_model *model);

typedef struct hymba_model_info {
    size_t struct_size;
    uint32_t vocabulary_size;   /* V: logits per token */
    uint32_t hidden_size;       /* H */
    uint32_t n_layers;
    uint32_t n_heads;           /* query heads */
    uint32_t n_kv_heads;
    uint32_t qk_head_size;      /* width of a query or key head */
    uint32_t v_head_size;       /* width of a value head */
    uint32_t inner_size;        /* width of both branches */
    uint32_t state_size;        /* SSM state per inner channel */
    uint32_t conv_width;        /* taps of the causal convolution */
    uint32_t dt_rank;
    uint32_t intermediate_size; /* width of the feed-forward network */
    uint32_t n_meta_tokens;
    uint32_t window;            /* sliding window in tokens; 0: every layer attends fully */
    uint32_t n_kv_layers;       /* layers that own a KV cache */
    int32_t bos_token;          /* -1: none */
    int32_t eos_token;          /* -1: none */
    hymba_dtype weight_dtype;   /* of the embedding; DEFAULT if the model has no weights */
    uint64_t n_parameters;
    uint64_t weight_bytes;      /* of all used tensors as stored, or as quantised while loading,
                                   with their scales; 0 without weights */
    uint64_t max_position;      /* max_position_embeddings; not enforced */
    double rope_base;           /* after NTK scaling; 0: no rotation */
    double rms_norm_epsilon;
    hymba_dtype projection_dtype; /* of the layers' projections, the narrowest of them; DEFAULT if
                                     the model has no weights or no layer has any */
    uint32_t group_size;          /* of these: weights that share a scale; 0: not quantised */
    uint64_t projection_parameters; /* of the layers' projections, which every token is multiplied
                                       with; the output head has vocabulary_size * hidden_size */
    uint64_t pass_bytes;          /* of weight_bytes, what every pass reads: without the meta
                                     tokens, and without an embedding that is not the head */
} hymba_model_info;

/* Fills *info up to its struct_size. Errors: ARGUMENT. Threads: any. */
HYMBA_API hymba_status hymba_model_get_info(const hymba_model *model, hymba_model_info *info,
                                            hymba_error *error);

/*
 * A number that tells models apart: of the layer plan and, by samples, of the weights; 0 for NULL.
 * Saved sessions carry it. Threads: any.
 */
HYMBA_API uint64_t hymba_model_fingerprint(const hymba_model *model);

enum { HYMBA_ATTENTION_NONE = 0, HYMBA_ATTENTION_FULL = 1, HYMBA_ATTENTION_WINDOW = 2 };
enum { HYMBA_SSM_NONE = 0, HYMBA_SSM_MAMBA1 = 1 };
enum { HYMBA_FUSION_NONE = 0, HYMBA_FUSION_MEAN = 1, HYMBA_FUSION_CONCAT = 2 };
enum { HYMBA_FFN_NONE = 0, HYMBA_FFN_SWIGLU = 1 };

typedef struct hymba_layer_info {
    size_t struct_size;
    int32_t attention;    /* HYMBA_ATTENTION_... */
    int32_t ssm;          /* HYMBA_SSM_... */
    int32_t fusion;       /* HYMBA_FUSION_... */
    int32_t ffn;          /* HYMBA_FFN_... */
    uint32_t window;      /* tokens; 0 unless attention is WINDOW */
    int32_t kv_layer;     /* the layer whose keys and values this one reads; -1: no attention */
} hymba_layer_info;

/* Fills *info for layer 0 <= layer < n_layers. Errors: ARGUMENT. Threads: any. */
HYMBA_API hymba_status hymba_model_get_layer_info(const hymba_model *model, uint32_t layer,
                                                  hymba_layer_info *info, hymba_error *error);

/*
 * The model's tokenizer, or NULL if it has none. Borrowed: it lives as long as the model, or
 * longer if the caller retains it. Threads: any.
 */
HYMBA_API hymba_tokenizer *hymba_model_tokenizer(const hymba_model *model);

/* Number of presets and the name of one ("tiny", "125m", "350m", "1.5b"; NULL past the end). */
HYMBA_API uint32_t hymba_preset_count(void);
HYMBA_API const char *hymba_preset_name(uint32_t index);

/*
 * Writes the config.json text of a published shape into buffer (bytes, no NUL counted).
 * Errors: ARGUMENT (unknown name), BUFFER, MEMORY. Threads: any.
 */
HYMBA_API hymba_status hymba_preset_config(const char *name, char *buffer, size_t capacity,
                                           size_t *needed, hymba_error *error);

typedef struct hymba_init_params {
    size_t struct_size;
    uint64_t seed;
    hymba_dtype dtype;       /* of the weights; default bf16 */
    uint32_t reserved;       /* 0 */
    const hymba_host *host;  /* NULL: defaults; progress phase WRITE */
} hymba_init_params;

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_init_params_init(hymba_init_params *params, size_t size);

/*
 * Writes a model directory with random weights: config.json (config_json, length bytes, with its
 * torch_dtype set), generation_config.json and model.safetensors, streamed with little memory.
 * The same configuration, seed and dtype give the same bytes. The directory is created if its
 * parent exists; model files already in it are refused, not overwritten. A failed or cancelled
 * call leaves none of its files behind. Errors: ARGUMENT, MEMORY, FILE, FORMAT, UNSUPPORTED,
 * CANCELLED. Threads: any.
 */
HYMBA_API hymba_status hymba_model_init(const char *directory, const char *config_json,
                                        size_t length, const hymba_init_params *params,
                                        hymba_error *error);

/* How weights are rounded to integers. */
enum {
    HYMBA_QUANTIZE_DEFAULT = 0,    /* GPTQ with calibration tokens, otherwise PLAIN */
    HYMBA_QUANTIZE_PLAIN = 1,      /* least squared error of each group of weights */
    HYMBA_QUANTIZE_IMPORTANCE = 2, /* errors weighed by how large the weight's inputs are */
    HYMBA_QUANTIZE_GPTQ = 3        /* each weight's error is made up for by those not rounded yet */
};

typedef struct hymba_quantize_params {
    size_t struct_size;
    hymba_dtype type;        /* of the layers' projections: INT8 or INT4. Embedding and output
                                matrix become INT8; what is small or sensitive stays as it is.
                                DEFAULT: INT8 */
    uint32_t group_size;     /* weights that share a scale: 32, 64 or 128, which must divide every
                                row. 0: 64 for INT8 and 32 for INT4, and 32 where 64 does not
                                divide */
    int32_t method;          /* HYMBA_QUANTIZE_... */
    uint32_t n_threads;      /* 0: the number of processors this process may use */
    const int32_t *tokens;   /* calibration: text as the model will meet it; needed by IMPORTANCE
                                and GPTQ, at least 1024 tokens */
    uint64_t n_tokens;
    const hymba_host *host;  /* NULL: defaults; progress phases LOAD, PREFILL (calibration) and
                                QUANTIZE */
} hymba_quantize_params;

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_quantize_params_init(hymba_quantize_params *params, size_t size);

/*
 * Reads the model directory input and writes the model with quantised weights into the directory
 * output, which any call that opens models then takes: config.json with quantization_config,
 * model.safetensors (docs/quantisation.md), and copies of generation_config.json and of the
 * tokenizer's files. The same input and parameters give the same bytes. output is created if its
 * parent exists; model files already in it are refused, not overwritten. A failed or cancelled
 * call leaves none of its files behind. Errors: ARGUMENT (also: a row that no group size divides,
 * weights that are quantised already, too few tokens), MEMORY, FILE, FORMAT (also: a weight that
 * is infinite or not a number; it is named), UNSUPPORTED, CANCELLED. Threads: any.
 */
HYMBA_API hymba_status hymba_quantize(const char *input, const char *output,
                                      const hymba_quantize_params *params, hymba_error *error);

/* -------------------------------------------------------------- tokenizer */

/*
 * Opens the tokenizer of a directory without its model: tokenizer.model, or tokenizer.json where
 * that is all there is, and tokenizer_config.json if present. Immutable. host may be NULL.
 * Errors: ARGUMENT, MEMORY, FILE, FORMAT, UNSUPPORTED. Threads: any.
 */
HYMBA_API hymba_status hymba_tokenizer_open(const char *directory, const hymba_host *host,
                                            hymba_tokenizer **tokenizer, hymba_error *error);

/* As hymba_model_retain and hymba_model_release. Any thread. */
HYMBA_API hymba_tokenizer *hymba_tokenizer_retain(hymba_tokenizer *tokenizer);
HYMBA_API void hymba_tokenizer_release(hymba_tokenizer *tokenizer);

/* Number of ids, added tokens included; 0 for NULL. */
HYMBA_API uint32_t hymba_tokenizer_vocabulary_size(const hymba_tokenizer *tokenizer);

/* Ids of the special tokens, or -1 where there is none (or tokenizer is NULL). */
HYMBA_API int32_t hymba_tokenizer_bos(const hymba_tokenizer *tokenizer);
HYMBA_API int32_t hymba_tokenizer_eos(const hymba_tokenizer *tokenizer);

/* Whether the tokenizer's configuration asks for a BOS token before a text: 1 or 0. */
HYMBA_API int32_t hymba_tokenizer_adds_bos(const hymba_tokenizer *tokenizer);

enum {
    HYMBA_ENCODE_BOS = 1,    /* put the BOS token first */
    HYMBA_ENCODE_SPECIAL = 2 /* the literal text of a special token becomes that token; without
                                this flag it is ordinary text, so that a user's words cannot forge
                                a turn */
};

/*
 * Text to token ids. The text may hold any bytes; each malformed UTF-8 sequence is read as
 * U+FFFD, as SentencePiece does. Errors: ARGUMENT, BUFFER, MEMORY. Threads: any.
 */
HYMBA_API hymba_status hymba_tokenizer_encode(const hymba_tokenizer *tokenizer, const char *text,
                                              size_t length, uint32_t flags, int32_t *ids,
                                              size_t capacity, size_t *needed,
                                              hymba_error *error);

enum {
    HYMBA_DECODE_SPECIAL = 1 /* write special tokens as their text instead of dropping them */
};

/*
 * Token ids to bytes: special tokens are dropped, byte tokens become their bytes, one leading
 * space of the whole output is removed. The bytes are those of the tokens, valid UTF-8 or not.
 * Errors: ARGUMENT (an id outside the vocabulary; error.position is its index), BUFFER.
 * Threads: any.
 */
HYMBA_API hymba_status hymba_tokenizer_decode(const hymba_tokenizer *tokenizer, const int32_t *ids,
                                              size_t n_ids, uint32_t flags, char *buffer,
                                              size_t capacity, size_t *needed, hymba_error *error);

/*
 * The vocabulary entry of an id as it stands in the tokenizer's file ("<0x0A>" for a byte token,
 * U+2581 for a space). *text is not NUL-terminated and lives as long as the tokenizer.
 * Errors: ARGUMENT. Threads: any.
 */
HYMBA_API hymba_status hymba_tokenizer_piece(const hymba_tokenizer *tokenizer, int32_t id,
                                             const char **text, size_t *length,
                                             hymba_error *error);

/* 1 if the tokenizer has a chat template, else 0. */
HYMBA_API int32_t hymba_tokenizer_has_chat_template(const hymba_tokenizer *tokenizer);

/*
 * Renders the chat template. json is one JSON object: "messages" (array of objects with "role"
 * and "content"), and optionally "tools" (array), "contexts" (array of strings),
 * "add_generation_prompt" (boolean, default false), and whatever else the template knows;
 * "bos_token" and "eos_token" are there by default. Integers must fit 64 bits. The result is text
 * for hymba_tokenizer_encode, to which the template's own convention adds no BOS token.
 * Errors: ARGUMENT, BUFFER, MEMORY, FORMAT (json), MISSING (no template), UNSUPPORTED (a
 * construct of the template that this library does not know). Threads: any.
 */
HYMBA_API hymba_status hymba_tokenizer_render_chat(const hymba_tokenizer *tokenizer,
                                                   const char *json, size_t length, char *buffer,
                                                   size_t capacity, size_t *needed,
                                                   hymba_error *error);

/*
 * Streaming decode: tokens go in one by one, only whole UTF-8 characters come out. One thread at
 * a time. The concatenated output of all calls and finish equals hymba_tokenizer_decode whenever
 * that is valid UTF-8; each malformed beginning of a character comes out as one U+FFFD.
 */
HYMBA_API hymba_status hymba_text_stream_create(hymba_tokenizer *tokenizer,
                                                hymba_text_stream **stream, hymba_error *error);
HYMBA_API void hymba_text_stream_release(hymba_text_stream *stream);

/* Back to the beginning of a text. NULL is ignored. */
HYMBA_API void hymba_text_stream_reset(hymba_text_stream *stream);

/*
 * Takes one token; *text, NUL-terminated and *length bytes long (0: nothing yet), belongs to the
 * stream and lives until the next call on it. Errors: ARGUMENT, MEMORY.
 */
HYMBA_API hymba_status hymba_text_stream_push(hymba_text_stream *stream, int32_t id,
                                              const char **text, size_t *length,
                                              hymba_error *error);

/* What is left: bytes of an unfinished character come out as U+FFFD. Then as after reset. */
HYMBA_API hymba_status hymba_text_stream_finish(hymba_text_stream *stream, const char **text,
                                                size_t *length, hymba_error *error);

/* ---------------------------------------------------------------- context */

/*
 * The arithmetic of matrix products with weights. Sums are f32 in all of them; attention,
 * convolution, scan and norms are not touched by it.
 */
enum {
    HYMBA_COMPUTE_DEFAULT = 0, /* INT8 if the model has quantised weights, BF16 if it has bf16
                                  weights and the processor multiplies bf16, otherwise F32; on
                                  a device as docs/devices.md says; hymba_context_get_info
                                  tells */
    HYMBA_COMPUTE_F32 = 1,     /* activations and products in f32 */
    HYMBA_COMPUTE_BF16 = 2,    /* activations are rounded to bf16 before they are multiplied with
                                  bf16 weights, on a device also with quantised ones, rounded
                                  to bf16; other weights as with F32 */
    HYMBA_COMPUTE_INT8 = 3,    /* as BF16; and activations are rounded to int8, with a scale for
                                  each group, before they are multiplied with int8 or int4
                                  weights. On a device instead: activations and weights of the
                                  projections, of any type, are rounded to int8, with a scale
                                  for each row, and multiplied exactly */
    HYMBA_COMPUTE_FP8 = 4      /* the same in fp8 (E4M3), with sums in f32: on a device of compute
                                  capability 8.9 or later alone */
};

/*
 * Threads of the embedding program's. Copied when a context is created, which then starts none of
 * its own. Which threads do what, and in which order, changes no bit of a result.
 */
typedef struct hymba_executor {
    size_t struct_size;
    void *user;         /* first argument of run */
    uint32_t n_threads; /* most parts of one piece of work, 1 to 1024; each has its own scratch
                           memory in the context */
    uint32_t reserved;  /* 0 */
    /*
     * Calls part(argument, i) exactly once for each i < n_parts, on any threads, at the same time
     * or one after another, and returns when all of them have returned. 2 <= n_parts <= n_threads.
     * Runs on the thread that called the library, some hundred times for each token: what it costs
     * counts. part does not block, allocate or unwind.
     */
    void (*run)(void *user, void (*part)(void *argument, uint32_t index), void *argument,
                uint32_t n_parts);
} hymba_executor;

/* Clears *executor and sets its struct_size. NULL is ignored. */
HYMBA_API void hymba_executor_init(hymba_executor *executor, size_t size);

/* "f32", "bf16", "int8", "fp8"; NULL for any other number. Static storage. Any thread. */
HYMBA_API const char *hymba_compute_name(int32_t compute);

/* The reverse; HYMBA_COMPUTE_DEFAULT for a name it does not know or NULL. Any thread. */
HYMBA_API int32_t hymba_compute_from_name(const char *name);

/* Bytes of a number that the ranks of one run share, and nobody else has. */
enum { HYMBA_UNIQUE_ID_BYTES = 128 };

/*
 * One model on several devices: each rank is a context that holds and computes a part of every
 * layer, in a process or on a thread of its own. Everything behind it works as with one device, but
 * all ranks make the same calls, in the same order and with the same arguments: those that create a
 * context or compute tokens wait for each other, and give the same results, to the bit, on all.
 * hymba_context_create reads it; nothing of it is kept.
 */
typedef struct hymba_ranks {
    size_t struct_size;
    uint32_t rank;                  /* of this context, 0 <= rank < world_size */
    uint32_t world_size;            /* how many there are. 0, 1: an ordinary context; at most 256,
                                       and at most as many as the model has parts */
    uint32_t local_rank;            /* the device N that "cuda" means; "cuda:N" says it itself */
    uint32_t timeout_ms;            /* most milliseconds that this rank waits for others, each
                                       time it does. 0: 60000 */
    const char *meeting;            /* where the ranks meet, the same for all of them:
                                       "tcp://HOST:PORT", where rank 0 listens until all have come
                                       ("tcp://[ADDRESS]:PORT" with IPv6); or "file:/PATH", a file
                                       that all can read, which rank 0 writes, and removes once all
                                       have joined. NULL with world_size 1 or unique_id */
    const unsigned char *unique_id; /* HYMBA_UNIQUE_ID_BYTES bytes from hymba_unique_id, of one
                                       call for all ranks, which then do not meet. NULL: they do */
} hymba_ranks;

/* Clears *ranks and sets its struct_size. NULL is ignored. */
HYMBA_API void hymba_ranks_init(hymba_ranks *ranks, size_t size);

/*
 * Sets rank, world_size, local_rank and meeting of *ranks from the environment, as launchers of
 * processes (torchrun, for one) set it: RANK, WORLD_SIZE and LOCAL_RANK are decimal numbers. The
 * meeting is what stands in ranks->meeting already; else what HYMBA_MEETING names; else
 * "tcp://MASTER_ADDR:MASTER_PORT"; with a WORLD_SIZE of 1 there may be none. A text that comes from
 * the environment is put into buffer, and needs as many bytes as it has, its NUL counted: see the
 * rule for buffers. If it does not fit, or only its size is asked for, *ranks is unchanged; at most
 * 4104 bytes are needed. The environment is never read unasked. A program with raised rights finds
 * no variable.
 *
 * The library does not take part in a launcher's own meeting, which may occupy MASTER_PORT:
 * torchrun's does. Then set HYMBA_MEETING or ranks->meeting to another port or to a file.
 * Errors: ARGUMENT (a variable that is missing or malformed; it is named), BUFFER. Threads: any, as
 * long as none changes the environment.
 */
HYMBA_API hymba_status hymba_ranks_from_environment(hymba_ranks *ranks, char *buffer,
                                                    size_t capacity, size_t *needed,
                                                    hymba_error *error);

/*
 * Makes a number for the ranks of one run: id has room for HYMBA_UNIQUE_ID_BYTES bytes. For
 * programs that bring it from one rank to the others by their own means. The process that makes it
 * must live until all have joined, and its context may be any of them.
 * Errors: ARGUMENT, MEMORY, DEVICE, UNSUPPORTED (a plug-in that knows no ranks). Threads: any, as
 * long as none changes the environment.
 */
HYMBA_API hymba_status hymba_unique_id(unsigned char *id, hymba_error *error);

typedef struct hymba_context_params {
    size_t struct_size;
    const char *device;       /* "cpu"; "cuda" or "cuda:N", N from 0: a device of the CUDA
                                 plug-in (docs/devices.md); "cuda:N,M", 2 to 64 devices: one
                                 context over all of them. NULL: "cpu" */
    const char *cpu;          /* instruction set: "best", "generic", "avx2", "avx512", "amx",
                                 "neon". NULL: what the environment variable HYMBA_CPU names, or
                                 "best" where it is not set or empty. On a processor with AMX,
                                 "best" and "amx" ask the system to let the process use it */
    uint32_t n_threads;       /* 0: the executor's, or the number of processors this process may
                                 use by affinity and CPU quota */
    uint32_t max_step_tokens; /* tokens per pass over the weights; longer calls take several
                                 passes, with the same result. 0: 128 */
    hymba_dtype cache_type;   /* of keys and values: f32 (default), f16, bf16, int8, fp8 */
    hymba_dtype state_type;   /* of SSM and convolution state between calls; default f32 */
    int32_t compute;          /* HYMBA_COMPUTE_... */
    uint32_t rewind_tokens;   /* sessions can go back by up to so many tokens at any time; each
                                 keeps so many recurrent states. 0: none; at most 1024 */
    const hymba_host *host;   /* NULL: the model's */
    uint64_t memory_limit;    /* bytes of context and sessions together; an allocation beyond
                                 fails with HYMBA_ERROR_MEMORY. 0: none */
    const hymba_executor *executor; /* NULL: the library's own threads */
    const hymba_ranks *ranks; /* NULL: the whole model on one device */
} hymba_context_params;

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_context_params_init(hymba_context_params *params, size_t size);

/*
 * Allocates the working memory and starts the threads: n_threads counts the one that calls. They
 * have its affinity, take none of the program's signals, and sleep within milliseconds after a
 * call. The meta tokens run when the first session is created.
 *
 * After fork() the child has copies of its own of context and sessions and may use and release
 * them: threads are started anew with its first call. If a call was running on another thread, the
 * child's copy is BUSY for ever, and can only be released.
 *
 * Errors: ARGUMENT, MEMORY, THREAD, MISSING (model without weights), UNSUPPORTED (an instruction
 * set this machine lacks; a model or a compute that the device does not know), DEVICE (a device
 * that cannot be had, in one sentence), CANCELLED. Threads: any, as long as none changes the
 * environment.
 *
 * On a device of the plug-in its memory holds a copy of the weights, which the model's contexts
 * there share (phase LOAD), and everything of sessions but tokens and logits. n_threads, executor
 * and cpu do not count. Once the device has failed in a call, that call and all later ones return
 * DEVICE; sessions are then as they were before it and can be released. A process that was forked
 * off must not use the context.
 *
 * With ranks the call prepares the rank's own part, then waits for the others (phase MEETING). It
 * fails on all with ARGUMENT if models, parameters, devices or libraries differ; what and where is
 * named. Also: UNSUPPORTED (on the CPU), FILE (a meeting that cannot be held), and TIMEOUT for the
 * others of a rank that fails by itself or does not come; it is named where it is known. A rank
 * that dies later is noticed in the next call that waits for it, which returns TIMEOUT or DEVICE;
 * the device then counts as failed. Sessions of such ranks can neither be saved nor loaded yet, nor
 * have a snapshot_budget.
 *
 * With several devices ("cuda:0,1,2") the context has all ranks itself, in that order, with a
 * thread for each but the first; it is used like any other. Of ranks only timeout_ms may be set. A
 * call does on all devices what it does, or nothing on any; once one has failed, all later calls
 * return DEVICE. Logits and tokens are the first device's. Limits of memory hold for each device by
 * itself, and what is told of memory, times and speed is the first device's, whose part is no
 * smaller than the others'; budgets of snapshots count its bytes. Callbacks run on the calling
 * thread; after creation they tell of the first device. The message of an error that only another
 * device has met begins with that device's name.
 */
HYMBA_API hymba_status hymba_context_create(hymba_model *model, const hymba_context_params *params,
                                            hymba_context **context, hymba_error *error);
HYMBA_API hymba_context *hymba_context_retain(hymba_context *context);
HYMBA_API void hymba_context_release(hymba_context *context);

typedef struct hymba_context_info {
    size_t struct_size;
    const char *device;        /* "cpu", "cuda:0", "cuda:0,1"; valid as long as the context */
    const char *cpu;           /* instruction set in use, or the device's name ("NVIDIA H200,
                                  sm_90"); valid as long as the context */
    uint32_t n_threads;
    uint32_t max_step_tokens;
    hymba_dtype cache_type;
    hymba_dtype state_type;
    int32_t compute;
    uint32_t reserved;
    uint64_t workspace_bytes;  /* working memory, without weights and sessions */
    uint32_t rank;
    uint32_t world_size;       /* 1: the whole model */
} hymba_context_info;

/* Fills *info. Errors: ARGUMENT. Threads: any, also while a call runs. */
HYMBA_API hymba_status hymba_context_get_info(const hymba_context *context,
                                              hymba_context_info *info, hymba_error *error);

/*
 * Measures for some tenths of a second how fast the context multiplies when all operands lie in
 * its processors' caches, in the arithmetic and with the type of weights of the model's
 * projections: *rate is operations per second, two for each multiply-add. What a prompt's
 * products can reach at most. On a device: the best of products of large squares. Errors:
 * ARGUMENT, MEMORY, BUSY, CANCELLED, DEVICE.
 */
HYMBA_API hymba_status hymba_context_measure_products(hymba_context *context, double *rate,
                                                      hymba_error *error);

/*
 * Measures for less than a tenth of a second how fast the context's device copies within its
 * memory, of which it takes so many bytes meanwhile: *rate is bytes per second, read and written.
 * Errors: ARGUMENT, MEMORY (not so many are free), BUSY, CANCELLED, DEVICE, UNSUPPORTED (on the
 * CPU).
 */
HYMBA_API hymba_status hymba_context_measure_bandwidth(hymba_context *context, uint64_t bytes,
                                                       double *rate, hymba_error *error);

/*
 * With on = 1 the calls that compute tokens, from now on, measure each kernel they run; with 0 they
 * no longer do. 1 begins at zero, also where it was on. Results are the same to the bit. On a
 * device each kernel is waited for: its time has the way to the device and back in it, and a step
 * as a whole takes longer than usual. Errors: ARGUMENT (on is another number), BUSY, DEVICE.
 * Threads: the context's.
 */
HYMBA_API hymba_status hymba_context_measure_kernels(hymba_context *context, int32_t on,
                                                     hymba_error *error);

/* What kernels of one kind have taken. */
typedef struct hymba_kernel_time {
    const char *name;  /* NUL-terminated, static storage: "step", "embedding", "norm", "rounding",
                          "in_proj", "rope_cache" (rotation, and rows made for caches),
                          "attention_window", "attention_full", "convolution", "x_proj",
                          "dt_proj", "scan", "fusion", "out_proj", "gate_up", "swiglu", "down",
                          "head", "sampling" (on a device), "all_sum" (among ranks, with the
                          time that others are waited for) */
    uint64_t calls;    /* of "step": passes over the weights */
    double seconds;    /* of all calls; of "step": of the library's calls as a whole, copies, host
                          and all */
    double bytes;      /* that had to be read and written, each array once; of "step": the sum */
    double operations; /* additions, multiplications (two for each multiply-add), divisions and
                          special functions, one each; of "step": the sum */
} hymba_kernel_time;

/*
 * What was measured since hymba_context_measure_kernels(context, 1): "step" first, then all kinds
 * of kernels in the order of a step; those that the model does not have have no calls. times has
 * room for capacity elements of time_size bytes, i.e. sizeof(hymba_kernel_time): see the rule for
 * buffers. Errors: ARGUMENT, BUFFER, BUSY, DEVICE, STATE (never measured). Threads: the context's.
 */
HYMBA_API hymba_status hymba_context_kernel_times(hymba_context *context, hymba_kernel_time *times,
                                                  size_t time_size, size_t capacity,
                                                  size_t *needed, hymba_error *error);

/*
 * Makes the call that is running on the context return HYMBA_ERROR_CANCELLED within one layer (on a
 * device within one step); no effect if none runs. Any thread; safe in a signal handler.
 */
HYMBA_API void hymba_context_cancel(hymba_context *context);

/* What a session of n_tokens tokens needs. */
typedef struct hymba_memory_info {
    size_t struct_size;
    uint64_t n_tokens;        /* in: tokens, meta tokens not counted */
    uint64_t meta_bytes;      /* keys and values of the meta tokens; shared by all sessions */
    uint64_t kv_bytes;        /* keys and values of the tokens */
    uint64_t conv_bytes;      /* convolution state */
    uint64_t ssm_bytes;       /* SSM state */
    uint64_t total_bytes;     /* sum of the four */
    uint64_t weight_bytes;    /* of the model, and of its copy on a device; 0 without weights */
    uint64_t workspace_bytes; /* of a context with these parameters, one session a call */
} hymba_memory_info;

/*
 * Computes *info for info->n_tokens before anything is allocated. Works on a model without
 * weights. Errors: ARGUMENT, LIMIT (the size does not fit 64 bits). Threads: any.
 */
HYMBA_API hymba_status hymba_model_get_memory_info(const hymba_model *model,
                                                   const hymba_context_params *params,
                                                   hymba_memory_info *info, hymba_error *error);

/* ---------------------------------------------------------------- session */

/* What happens at a session's max_tokens. */
enum {
    HYMBA_LIMIT_STOP = 0,  /* appending returns HYMBA_ERROR_LIMIT, a generation ends */
    HYMBA_LIMIT_ERROR = 1, /* appending and generation both return HYMBA_ERROR_LIMIT */
    HYMBA_LIMIT_SLIDE = 2  /* full-attention layers see only the last max_tokens tokens (and the
                              meta tokens), so that the session can go on for ever; window layers
                              and the SSM state, which still remembers what was dropped, are not
                              affected */
};

typedef struct hymba_session_params {
    size_t struct_size;
    uint64_t max_tokens;        /* most tokens the session may hold; 0: no limit but memory */
    uint64_t reserve_tokens;    /* memory for so many is allocated at once; 0: grows in blocks */
    int32_t limit_policy;       /* HYMBA_LIMIT_... */
    uint32_t reserved;          /* 0 */
    uint64_t snapshot_interval; /* a snapshot is taken whenever the length passes a multiple of
                                   this; 0: only by call */
    uint64_t snapshot_budget;   /* bytes of all snapshots; automatic ones make room, oldest first.
                                   0: no budget */
    uint64_t memory_limit;      /* bytes of the session, shared blocks included; 0: none */
} hymba_session_params;

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_session_params_init(hymba_session_params *params, size_t size);

/*
 * A new sequence that stands behind the meta tokens. The first session of a context computes
 * their state (phase META), the later ones share it.
 * Errors: ARGUMENT, MEMORY, BUSY, CANCELLED. Threads: the context's.
 */
HYMBA_API hymba_status hymba_session_create(hymba_context *context,
                                            const hymba_session_params *params,
                                            hymba_session **session, hymba_error *error);

/* Retain and release may be called from any thread. */
HYMBA_API hymba_session *hymba_session_retain(hymba_session *session);
HYMBA_API void hymba_session_release(hymba_session *session);

/* Back to the state after creation; reserved memory is kept. Errors: ARGUMENT, BUSY. */
HYMBA_API hymba_status hymba_session_reset(hymba_session *session, hymba_error *error);

/* Allocates memory for n_tokens tokens in all. Errors: ARGUMENT, LIMIT, MEMORY, BUSY. */
HYMBA_API hymba_status hymba_session_reserve(hymba_session *session, uint64_t n_tokens,
                                             hymba_error *error);

/* Tokens the session holds, meta tokens not counted; 0 for NULL. */
HYMBA_API uint64_t hymba_session_length(const hymba_session *session);

/* The tokens, hymba_session_length of them. Valid until the next call on the session. */
HYMBA_API const int32_t *hymba_session_tokens(const hymba_session *session);

enum {
    HYMBA_LOGITS_NONE = 0,
    HYMBA_LOGITS_LAST = 1, /* of the last token of the call */
    HYMBA_LOGITS_ALL = 2   /* of every token of the call */
};

/*
 * Appends n_tokens >= 1 tokens (each 0 <= id < vocabulary_size) and computes the logits asked
 * for, which replace the session's earlier ones. How tokens are divided into calls does not
 * change the results (exactly so on the CPU with f32 state).
 * Errors: ARGUMENT (a bad id: error.position is its index), MEMORY, LIMIT, BUSY, CANCELLED.
 * After a failure the session is where it was; its logits are gone only if the call got as far
 * as computing. Threads: the context's.
 */
HYMBA_API hymba_status hymba_session_append(hymba_session *session, const int32_t *tokens,
                                            size_t n_tokens, int32_t logits, hymba_error *error);

/* One session's part of a batch. */
typedef struct hymba_batch_item {
    hymba_session *session; /* of this context; at most once in a batch */
    const int32_t *tokens;
    size_t n_tokens;        /* >= 1 */
    int32_t logits;         /* HYMBA_LOGITS_... */
    int32_t reserved;       /* 0 */
    hymba_sampler *sampler; /* NULL, or at most once in a batch: chooses, as hymba_sampler_sample
                               does, the token that comes after the last one; logits may be NONE */
    int32_t *token;         /* where that token is put; NULL without a sampler */
} hymba_batch_item;

/*
 * hymba_session_append on many sessions at once, of any lengths together: each weight is read
 * once for all. items is an array of n_items elements of item_size bytes, i.e.
 * sizeof(hymba_batch_item). All or nothing: after a failure no session and no sampler has moved.
 * But once it has begun to compute, the sessions of all its items have no logits any more. Each
 * session's result is, to the bit, what it would be alone. error.position is the index of the item
 * at fault, or that of a bad id among its item's tokens.
 *
 * A device chooses the tokens of samplers itself, and only what logits asks for is copied from it.
 * Samplers with dry, typical_p, top_n_sigma, xtc, mirostat, a process, two biases for one token, or
 * penalties behind another stage, and all above 131,072 logits, have their logits copied to the
 * host (a line in the log says so, once). The tokens are the same.
 * Errors and threads as hymba_session_append and hymba_sampler_sample.
 */
HYMBA_API hymba_status hymba_context_decode(hymba_context *context, const hymba_batch_item *items,
                                            size_t item_size, size_t n_items, hymba_error *error);

/*
 * The logits of the last call that computed any on this session: *rows rows of vocabulary_size
 * f32 values, row-major. Borrowed; valid until the next call that changes the session.
 * Errors: ARGUMENT, STATE (none computed). Threads: the context's.
 */
HYMBA_API hymba_status hymba_session_logits(const hymba_session *session, const float **logits,
                                            size_t *rows, hymba_error *error);

/*
 * Appends the tokens and writes to log_probabilities (n_tokens values, natural logarithm) how
 * probable the model held each of them, given everything before it. The session must hold at
 * least one token, and its last call must have computed the logits of its last token. Afterwards
 * the logits of the last token stand ready. Errors: as hymba_session_append, and STATE.
 */
HYMBA_API hymba_status hymba_session_score(hymba_session *session, const int32_t *tokens,
                                           size_t n_tokens, float *log_probabilities,
                                           hymba_error *error);

/* --------------------------------------- forks, snapshots, going back, saving */

/*
 * An SSM state cannot be cut: what a sequence's state was earlier is known only where it was kept.
 * So going back leads to a snapshot, or stays within the context's rewind_tokens, or computes
 * again from the nearest snapshot before; a call says which, and never does less than asked.
 */

/* What a call took over and what it had to compute or copy. */
typedef struct hymba_reuse_info {
    size_t struct_size;
    uint64_t reused_tokens;   /* whose state was taken over as it was */
    uint64_t computed_tokens; /* that went through the model again */
    uint64_t copied_bytes;
    uint64_t shared_bytes;    /* of blocks held in common, not copied */
} hymba_reuse_info;

/*
 * A second session in the same state, which then goes its own way. Full-attention blocks are
 * shared until one of the two writes where the other has; rings and SSM states are copied.
 * Snapshots are shared too. The logits are copied. info may be NULL.
 * Errors: ARGUMENT, MEMORY, LIMIT, BUSY. Threads: the context's.
 */
HYMBA_API hymba_status hymba_session_fork(hymba_session *session, hymba_session **fork,
                                          hymba_reuse_info *info, hymba_error *error);

/*
 * Keeps the present state, and the last logits if there are any. name, a mark to find it by, may
 * be NULL; a snapshot of the same length is replaced. With a snapshot_budget, automatic snapshots
 * are dropped to make room. Errors: ARGUMENT (name longer than 63 bytes), MEMORY, LIMIT (does not
 * fit the budget), BUSY. Threads: the context's.
 */
HYMBA_API hymba_status hymba_session_snapshot(hymba_session *session, const char *name,
                                              hymba_reuse_info *info, hymba_error *error);

typedef struct hymba_snapshot_info {
    size_t struct_size;
    uint64_t length;      /* tokens of the session at the time */
    uint64_t bytes;       /* of its own, shared blocks not counted */
    int32_t automatic;    /* 1: taken by snapshot_interval */
    int32_t has_logits;   /* 1: going back to it brings logits back */
    char name[64];        /* "" without a mark */
} hymba_snapshot_info;

/* Snapshots the session has, by ascending length; 0 for NULL. */
HYMBA_API size_t hymba_session_snapshot_count(const hymba_session *session);

/* Fills *info for 0 <= index < count. Errors: ARGUMENT. Threads: the context's. */
HYMBA_API hymba_status hymba_session_get_snapshot(const hymba_session *session, size_t index,
                                                  hymba_snapshot_info *info, hymba_error *error);

/* The same for the last snapshot with that name. Errors: ARGUMENT, STATE (there is none). */
HYMBA_API hymba_status hymba_session_find_snapshot(const hymba_session *session, const char *name,
                                                   hymba_snapshot_info *info, hymba_error *error);

/* Drops the snapshot of that length. Errors: ARGUMENT, STATE (there is none), BUSY. */
HYMBA_API hymba_status hymba_session_drop_snapshot(hymba_session *session, uint64_t length,
                                                   hymba_error *error);

enum {
    HYMBA_REWIND_KEPT = 0,   /* only to a state that was kept: a snapshot, the last rewind_tokens
                                tokens, the beginning, or where the session stands */
    HYMBA_REWIND_COMPUTE = 1 /* to any length: from the nearest kept state before, the tokens up to
                                there are computed again */
};

/*
 * Goes back to the first length tokens; the later ones and their snapshots are forgotten. Logits
 * are there afterwards if they were computed or kept with the snapshot. info may be NULL.
 * Errors: ARGUMENT (length beyond the session's; unknown mode), STATE (HYMBA_REWIND_KEPT: no state
 * was kept there; the message names the nearest), MEMORY, BUSY, CANCELLED. After a failure the
 * session is where it was. Threads: the context's.
 */
HYMBA_API hymba_status hymba_session_rewind(hymba_session *session, uint64_t length, int32_t mode,
                                            hymba_reuse_info *info, hymba_error *error);

enum {
    HYMBA_CAN_FORK = 1,
    HYMBA_CAN_SNAPSHOT = 2,
    HYMBA_CAN_REWIND_STEPS = 4, /* rewind_tokens is not 0 */
    HYMBA_CAN_SAVE = 8,
    HYMBA_CAN_SLIDE = 16,       /* some layer attends fully, or nothing needs dropping */
    HYMBA_CAN_REMOVE_TOKENS = 32 /* from the middle of a sequence: never set, since an SSM state
                                    cannot forget; rewind and append again instead */
};

typedef struct hymba_session_info {
    size_t struct_size;
    uint64_t length;
    uint64_t max_tokens;
    uint64_t first_visible;    /* oldest token that full layers still see (HYMBA_LIMIT_SLIDE) */
    uint64_t rewind_length;    /* shortest length that rewind_tokens reaches */
    uint64_t n_snapshots;
    uint64_t snapshot_bytes;
    uint64_t memory_bytes;     /* of the session, shared blocks and snapshots included */
    uint64_t shared_bytes;     /* of blocks held with others */
    uint32_t capabilities;     /* HYMBA_CAN_... */
    int32_t limit_policy;
} hymba_session_info;

/* Fills *info. Errors: ARGUMENT. Threads: the context's. */
HYMBA_API hymba_status hymba_session_get_info(const hymba_session *session,
                                              hymba_session_info *info, hymba_error *error);

/*
 * Writes the session to a file: tokens, caches, states, last logits, snapshots, and the state of
 * sampler if it is not NULL. The file is written under a temporary name, synced and renamed: at
 * every moment either the old file or the new one is there, complete. info->copied_bytes is the
 * file's size. Errors: ARGUMENT, MEMORY, FILE, BUSY, CANCELLED. Threads: the context's.
 */
HYMBA_API hymba_status hymba_session_save(hymba_session *session, const hymba_sampler *sampler,
                                          const char *path, hymba_reuse_info *info,
                                          hymba_error *error);

/* The same to a function of the caller's, called with pieces in order. */
HYMBA_API hymba_status hymba_session_save_to(hymba_session *session, const hymba_sampler *sampler,
                                             hymba_write write, void *user,
                                             hymba_reuse_info *info, hymba_error *error);

/*
 * Opens a saved session in a context whose model, cache_type, state_type and rewind_tokens are
 * those it was saved with; it continues where it stood, to the bit on the same instruction set,
 * and computes no token again. The file is not trusted: whatever it holds, the result is an error
 * or a session. params may be NULL: then as saved. *sampler (sampler may be NULL) becomes the
 * saved sampler, or NULL if there is none.
 * Errors: ARGUMENT, MEMORY, FILE, FORMAT (damaged or made by something else), UNSUPPORTED (another
 * version or byte order), STATE (another model or other types; the message says which), LIMIT,
 * BUSY, CANCELLED. Threads: the context's.
 */
HYMBA_API hymba_status hymba_session_load(hymba_context *context, const char *path,
                                          const hymba_session_params *params,
                                          hymba_session **session, hymba_sampler **sampler,
                                          hymba_reuse_info *info, hymba_error *error);

/* The same from memory. */
HYMBA_API hymba_status hymba_session_load_memory(hymba_context *context, const void *data,
                                                 size_t size, const hymba_session_params *params,
                                                 hymba_session **session,
                                                 hymba_sampler **sampler, hymba_reuse_info *info,
                                                 hymba_error *error);

/* ---------------------------------------------------------------- sampler */

/* What is added to the logit of a token. */
typedef struct hymba_logit_bias {
    int32_t token; /* >= 0; one that the logits do not have is no harm */
    float bias;    /* finite, or -INFINITY: the token never comes */
} hymba_logit_bias;

/*
 * A stage of the caller's own. It may change the logits of the n candidates that are left, in no
 * particular order; -INFINITY drops one. Non-zero stops the call with HYMBA_ERROR_CANCELLED.
 */
typedef int32_t (*hymba_process_logits)(void *user, const int32_t *tokens, float *logits,
                                        size_t n);

/*
 * How the next token is chosen: the biases, then the stages in their order, then the draw. All
 * zero: greedy, i.e. the most probable token (lowest id on a tie). Floats must be finite. Recent
 * tokens are those that the sampler has chosen or accepted, the prompt too if it was accepted.
 *
 * Probabilities are those of what the stages before have left. The stages are those of llama.cpp,
 * and come from: repeat_penalty arXiv:1909.05858; top_p 1904.09751; typical_p 2202.00666; min_p
 * 2407.01082; top_n_sigma 2411.07641; mirostat 2007.14966; XTC and DRY: pull requests 6335 and
 * 5677 of text-generation-webui; presence_penalty and frequency_penalty: OpenAI's API.
 */
typedef struct hymba_sampler_params {
    size_t struct_size;
    uint64_t seed;         /* the same seed and logits give the same tokens on every machine */
    float temperature;     /* >= 0, divides the logits; 1: as they are. 0: greedy, the best of what
                              is left, also where the order leaves this stage out */
    int32_t top_k;         /* >= 0; keep the k most probable; 0: all */
    float top_p;           /* 0 to 1; keep the smallest set with at least this probability; 0 or 1:
                              all */
    float min_p;           /* 0 to 1; drop what is less probable than min_p times the best; 0: keep
                              all */
    float repeat_penalty;  /* >= 0; logits of recent tokens: divided (> 0) or multiplied (< 0) by
                              this; 0 or 1: off */
    int32_t repeat_last_n; /* >= -1; how many recent tokens count for the three penalties; 0: 64,
                              -1: all */
    float presence_penalty;  /* taken off the logit of every recent token, may be < 0; 0: off */
    float frequency_penalty; /* the same once for each time it came; 0: off */
    float typical_p;       /* 0 to 1; keep the tokens whose surprise is nearest to the mean
                              surprise, until they have more than this probability together; 0 or
                              1: all */
    float top_n_sigma;     /* >= 0; drop what lies more than this many standard deviations of the
                              logits below the best logit; 0: keep all */
    float xtc_probability; /* 0 to 1: how often XTC acts. It drops all tokens with a probability
                              of at least xtc_threshold but the least probable of them; 0: off */
    float xtc_threshold;   /* 0 to 1, above 0.5 without effect; 0: 0.1 */
    float dry_multiplier;  /* >= 0. DRY penalises the token that would go on with a repetition of
                              n tokens by dry_multiplier * dry_base ^ (n - dry_allowed_length), if n
                              is at least dry_allowed_length; 0: off */
    float dry_base;        /* >= 1; 0: 1.75 */
    int32_t dry_allowed_length; /* >= 0; 0: 2 */
    int32_t dry_penalty_last_n; /* >= -1; how many recent tokens DRY looks at; 0 or -1: all */
    const int32_t *dry_breakers; /* tokens that no repetition goes across and that DRY never
                                    penalises; copied */
    size_t n_dry_breakers;
    int32_t mirostat;      /* 2: Mirostat 2 cuts off and draws, after the other stages; 0: off.
                              top_n_sigma, top_k, typical_p, top_p, min_p and xtc then do not run
                              (penalties and dry do, which they do not in llama.cpp) */
    float mirostat_tau;    /* >= 0: the surprise to keep to, in bits; 0: 5 */
    float mirostat_eta;    /* >= 0: how fast the cut follows the surprise; 0: 0.1 */
    uint32_t reserved;     /* 0 */
    const hymba_logit_bias *logit_bias; /* copied; of several for one token the sum counts */
    size_t n_logit_bias;
    const char *order;     /* the stages by name with ; between, each at most once; one left out
                              does not run. NULL: "penalties;dry;top_n_sigma;top_k;typical_p;top_p;
                              min_p;xtc;temperature", after "custom" if there is a process */
    hymba_process_logits process; /* the stage "custom" */
    void *process_user;
} hymba_sampler_params;

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_sampler_params_init(hymba_sampler_params *params, size_t size);

/* One thread at a time. Errors: ARGUMENT (the field is named), MEMORY. host may be NULL. */
HYMBA_API hymba_status hymba_sampler_create(const hymba_sampler_params *params,
                                            const hymba_host *host, hymba_sampler **sampler,
                                            hymba_error *error);
HYMBA_API hymba_sampler *hymba_sampler_retain(hymba_sampler *sampler);
HYMBA_API void hymba_sampler_release(hymba_sampler *sampler);

/* Forgets the accepted tokens and starts the random numbers again at the seed. NULL is ignored. */
HYMBA_API void hymba_sampler_reset(hymba_sampler *sampler);

/* Tells the sampler that a token (of the prompt, say) is in the text. Errors: ARGUMENT, MEMORY. */
HYMBA_API hymba_status hymba_sampler_accept(hymba_sampler *sampler, int32_t token,
                                            hymba_error *error);

/*
 * Chooses a token from n_logits logits, which are not changed, and accepts it.
 * After an error the sampler is as it was. Errors: ARGUMENT (no logits, none left, a NaN or
 * +INFINITY among them or from the caller's stage), MEMORY, CANCELLED (by the caller's stage).
 */
HYMBA_API hymba_status hymba_sampler_sample(hymba_sampler *sampler, const float *logits,
                                            size_t n_logits, int32_t *token, hymba_error *error);

/*
 * Writes the whole sampler as bytes: parameters, accepted tokens, random numbers. buffer: see the
 * rule for buffers. Errors: ARGUMENT, BUFFER, UNSUPPORTED (it has a process).
 */
HYMBA_API hymba_status hymba_sampler_state(const hymba_sampler *sampler, void *buffer,
                                           size_t capacity, size_t *needed, hymba_error *error);

/*
 * A sampler from such bytes, which goes on as the saved one would have. The bytes are not trusted:
 * whatever they hold, the result is an error or a sampler. host may be NULL.
 * Errors: ARGUMENT, MEMORY, FORMAT (damaged), UNSUPPORTED (another version or byte order).
 */
HYMBA_API hymba_status hymba_sampler_restore(const void *data, size_t size, const hymba_host *host,
                                             hymba_sampler **sampler, hymba_error *error);

typedef struct hymba_token_probability {
    int32_t token;
    float log_probability; /* natural logarithm */
} hymba_token_probability;

/*
 * How probable the logits as they are make a token (log_probability may be NULL: then token is not
 * read), and the n_top most probable tokens in order, the lower id first among equals.
 * Errors: ARGUMENT (token or n_top beyond n_logits, no logits, none finite, a NaN or +INFINITY).
 * Threads: any.
 */
HYMBA_API hymba_status hymba_log_probabilities(const float *logits, size_t n_logits, int32_t token,
                                               float *log_probability,
                                               hymba_token_probability *top, size_t n_top,
                                               hymba_error *error);

/* ------------------------------------------------------------- generation */

typedef struct hymba_generation_params {
    size_t struct_size;
    uint64_t max_tokens;              /* 0: no limit of its own */
    const char *const *stop_strings;  /* NUL-terminated, copied; the text ends before the first */
    size_t n_stop_strings;
    uint32_t flags;                   /* HYMBA_GENERATION_... */
    uint32_t n_top;                   /* alternatives with each token, at most vocabulary_size */
} hymba_generation_params;

enum {
    HYMBA_GENERATION_IGNORE_EOS = 1,       /* go on after the end-of-sequence token */
    HYMBA_GENERATION_LOG_PROBABILITIES = 2 /* events carry log_probability; so they do with n_top */
};

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_generation_params_init(hymba_generation_params *params, size_t size);

/*
 * An iterator that samples, decodes and turns tokens into text. The session must hold the prompt
 * with the logits of its last token; the sampler has accepted what it should count. The
 * generation holds both. tokenizer may be NULL: then events carry no text and stop strings are
 * refused. While it is in use nothing else may change the session.
 * Errors: ARGUMENT, MEMORY, STATE (no logits). Threads: the context's.
 */
HYMBA_API hymba_status hymba_generation_create(hymba_session *session, hymba_sampler *sampler,
                                               hymba_tokenizer *tokenizer,
                                               const hymba_generation_params *params,
                                               hymba_generation **generation, hymba_error *error);
HYMBA_API void hymba_generation_release(hymba_generation *generation);

enum {
    HYMBA_EVENT_TOKEN = 1, /* a token was generated; text may be empty */
    HYMBA_EVENT_END = 2,   /* nothing more comes; text is what was held back */
    HYMBA_EVENT_FAILED = 3 /* the same after an error; of requests (hymba_scheduler_step) only */
};

enum {
    HYMBA_STOP_NONE = 0,
    HYMBA_STOP_EOS = 1,       /* the end-of-sequence token, which is not an event of its own */
    HYMBA_STOP_STRING = 2,    /* a stop string */
    HYMBA_STOP_LENGTH = 3,    /* max_tokens */
    HYMBA_STOP_LIMIT = 4,     /* the session's max_tokens */
    HYMBA_STOP_CANCELLED = 5  /* hymba_generation_cancel, hymba_scheduler_cancel */
};

/* "eos", "string", "length", "limit", "cancelled", "none". Static storage. */
HYMBA_API const char *hymba_stop_name(int32_t stop);

typedef struct hymba_event {
    size_t struct_size;
    int32_t kind;      /* HYMBA_EVENT_... */
    int32_t stop;      /* HYMBA_STOP_...; of END */
    int32_t token;     /* of TOKEN; -1 otherwise */
    uint32_t reserved;
    const char *text;  /* whole UTF-8 characters, NUL-terminated; valid until the next call */
    size_t length;     /* bytes */
    const hymba_token_probability *top; /* of TOKEN: the most probable tokens; valid until the next
                                           call */
    uint32_t n_top;        /* how many; 0 unless asked for */
    float log_probability; /* of TOKEN, by the model's logits alone; 0 unless asked for */
} hymba_event;

/*
 * The next event. The token of a TOKEN event is in the session when the next event has been
 * asked for; text that may be the beginning of a stop string is held back. After END every
 * further call gives END again. Without log-probabilities a device brings tokens alone to the
 * host: the session then has no logits before END with LENGTH or STRING. Errors: those of
 * hymba_session_append and hymba_sampler_sample; the call may be repeated after one.
 */
HYMBA_API hymba_status hymba_generation_next(hymba_generation *generation, hymba_event *event,
                                             hymba_error *error);

/* Makes next return END with HYMBA_STOP_CANCELLED. Any thread; safe in a signal handler. */
HYMBA_API void hymba_generation_cancel(hymba_generation *generation);

/* -------------------------------------------------------------- scheduler */

/*
 * Continuous batching. A request feeds a prompt to a session of its own and then generates, event
 * for event what a hymba_generation would give alone (exactly so on the CPU with f32 state; see
 * docs/batching.md). Requests come and go at any time; each step of the scheduler is one batch of
 * at most token_budget tokens, the generated ones of some requests beside pieces of the prompts of
 * others.
 *
 * Requests stand in a line, new ones at its end. Each, from the first on, gets one token computed,
 * the one it has generated or the next of its prompt, until the budget is spent; what then remains
 * of it is divided evenly among the prompts. Whoever was served goes to the end of the line. So of
 * n requests each is served at least once in n / token_budget steps, rounded up. With n no more
 * than token_budget each step brings every generating request a token, and each of p prompts at
 * least 1 + (token_budget - n) / p tokens further, rounded down, or to its end or its session's
 * next automatic snapshot. A step computes nothing else (docs/batching.md).
 */
typedef struct hymba_scheduler_params {
    size_t struct_size;
    uint32_t max_requests; /* at once; 0: 256, at most 65,536 */
    uint32_t reserved;     /* 0 */
} hymba_scheduler_params;

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_scheduler_params_init(hymba_scheduler_params *params, size_t size);

/*
 * token_budget: most tokens of a step, at least 1; more than the context's max_step_tokens counts
 * as that. A context may have several schedulers. Errors: ARGUMENT (also a budget of 0, with which
 * nothing would ever move), MEMORY. Threads: any.
 */
HYMBA_API hymba_status hymba_scheduler_create(hymba_context *context, uint32_t token_budget,
                                              const hymba_scheduler_params *params,
                                              hymba_scheduler **scheduler, hymba_error *error);

/* Retain and release may be called from any thread. The last release ends all requests, without
 * an event: their sessions are where the last step left them. */
HYMBA_API hymba_scheduler *hymba_scheduler_retain(hymba_scheduler *scheduler);
HYMBA_API void hymba_scheduler_release(hymba_scheduler *scheduler);

typedef struct hymba_request_params {
    size_t struct_size;
    hymba_tokenizer *tokenizer;                /* NULL: events carry no text */
    const hymba_generation_params *generation; /* NULL: defaults */
    void *user;                                /* comes with the request's events */
} hymba_request_params;

/* Sets all of *params to the defaults and its struct_size to size. NULL is ignored. */
HYMBA_API void hymba_request_params_init(hymba_request_params *params, size_t size);

/*
 * Adds a request: the n_tokens tokens of its prompt (copied) are appended to the session, then it
 * generates. The session may hold tokens already; with n_tokens 0 it must have the logits of its
 * last one. The sampler has accepted what it should count. Without one (NULL) the request ends
 * behind the prompt, with HYMBA_STOP_LENGTH and the logits of its last token. *request is the
 * request's number, never given twice by a scheduler.
 *
 * The scheduler holds session, sampler and tokenizer until the request's END or FAILED event.
 * Meanwhile nothing else may change the session: if something does, the request fails with STATE.
 * Errors: ARGUMENT (a bad id: error.position is its index), MEMORY, LIMIT (max_requests; a prompt
 * beyond the session's max_tokens), UNSUPPORTED, STATE (session or sampler are another request's,
 * of this scheduler or of another one; no logits), BUSY. Threads: the context's.
 */
HYMBA_API hymba_status hymba_scheduler_add(hymba_scheduler *scheduler, hymba_session *session,
                                           hymba_sampler *sampler, const int32_t *tokens,
                                           size_t n_tokens, const hymba_request_params *params,
                                           uint64_t *request, hymba_error *error);

/* What a step brought a request. */
typedef struct hymba_request_event {
    uint64_t request;    /* its number */
    void *user;          /* of its parameters */
    int32_t kind;        /* HYMBA_EVENT_... */
    int32_t stop;        /* these seven as in hymba_event; they */
    int32_t token;       /* and message are valid until the next step */
    hymba_status status; /* of FAILED; HYMBA_OK otherwise */
    const char *text;
    size_t length;
    const hymba_token_probability *top;
    uint32_t n_top;
    float log_probability;
    const char *message; /* of FAILED: one sentence, NUL-terminated; "" otherwise */
} hymba_request_event;

/*
 * Computes one step and writes what came of it, at most one event for each request, in no
 * particular order; a step that only brought prompts further has none. events is an array of
 * capacity elements of event_size bytes, i.e. sizeof(hymba_request_event); *n_events becomes their
 * number. With room for fewer than hymba_scheduler_count events nothing is computed: BUFFER (or,
 * for NULL and 0, HYMBA_OK), and *n_events is that count.
 *
 * After END or FAILED a request is gone and its session free. A request fails alone: with LIMIT or
 * MEMORY of its session, STATE, or an error of its sampler. Its session is then where the last step
 * left it, which may be before the last token that its events gave.
 *
 * Errors: ARGUMENT, BUFFER, BUSY; MEMORY, CANCELLED (hymba_context_cancel): no request has moved,
 * and the step may be repeated; DEVICE. A step without memory that has events of requests which
 * need nothing computed, as cancelled ones, gives these and no error. Threads: the context's.
 */
HYMBA_API hymba_status hymba_scheduler_step(hymba_scheduler *scheduler,
                                            hymba_request_event *events, size_t event_size,
                                            size_t capacity, size_t *n_events,
                                            hymba_error *error);

/* Requests without an END or FAILED event so far; 0 for NULL. Any thread. */
HYMBA_API size_t hymba_scheduler_count(const hymba_scheduler *scheduler);

/* Makes the next step end the request with HYMBA_STOP_CANCELLED. A number that has ended, or never
 * was, is ignored. Any thread; safe in a signal handler. */
HYMBA_API void hymba_scheduler_cancel(hymba_scheduler *scheduler, uint64_t request);

#ifdef __cplusplus
}
#endif

#endif /* HYMBA_H */
