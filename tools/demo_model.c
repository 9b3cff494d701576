#include "demo_model.h"

/*
 * The files of examples/demo as they are, brought in by the assembler: as C arrays they would be
 * a hundred megabytes of source. Paths are relative to the project's root, where builds run. 64
 * bytes of alignment for the weights, which are used where they lie.
 */
#define EMBED(symbol, path)                                                                       \
    __asm__(".pushsection .rodata\n"                                                              \
            ".balign 64\n"                                                                        \
            #symbol "_begin:\n"                                                                   \
            ".incbin \"" path "\"\n"                                                              \
            #symbol "_end:\n"                                                                     \
            ".byte 0\n"                                                                           \
            ".popsection\n");                                                                     \
    extern const unsigned char symbol##_begin[] __attribute__((visibility("hidden")));            \
    extern const unsigned char symbol##_end[] __attribute__((visibility("hidden")))

EMBED(demo_config, "examples/demo/config.json");
EMBED(demo_weights, "examples/demo/model.safetensors");
EMBED(demo_tokenizer, "examples/demo/tokenizer.model");
EMBED(demo_tokenizer_config, "examples/demo/tokenizer_config.json");

hymba_status demo_model_open(const hymba_model_params *params, hymba_model **model,
                             hymba_error *error)
{
    const hymba_memory_file files[] = {
        {"config.json", demo_config_begin, (size_t)(demo_config_end - demo_config_begin)},
        {"model.safetensors", demo_weights_begin,
         (size_t)(demo_weights_end - demo_weights_begin)},
        {"tokenizer.model", demo_tokenizer_begin,
         (size_t)(demo_tokenizer_end - demo_tokenizer_begin)},
        {"tokenizer_config.json", demo_tokenizer_config_begin,
         (size_t)(demo_tokenizer_config_end - demo_tokenizer_config_begin)},
    };
    return hymba_model_open_memory(files, sizeof files[0], sizeof files / sizeof files[0], params,
                                   model, error);
}
