/* tokenizer.model. */
#include "fuzz_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t nothing;
    fuzz_tokenizer(size ? data : &nothing, size, NULL, 0, NULL, 0);
    return 0;
}
