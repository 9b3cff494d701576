/* tokenizer.json and, behind a line "=====", tokenizer_config.json. */
#include "fuzz_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t nothing;
    const uint8_t *config;
    size_t json_size, config_size;
    fuzz_divide(data, size, &json_size, &config, &config_size);
    fuzz_tokenizer(NULL, 0, json_size ? data : &nothing, json_size, config, config_size);
    return 0;
}
