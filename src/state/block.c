#include "state/block.h"

#include "base/checked.h"

/* On the host the data lie behind the record, in the same allocation. */
enum { DATA_OFFSET = HY_ALIGNMENT };

_Static_assert(sizeof(struct hy_block) <= DATA_OFFSET, "the record must fit before the data");

struct hy_block *hy_block_create(struct hy_memory *memory, struct hy_plugin *plugin, size_t bytes)
{
    size_t whole = DATA_OFFSET;
    if (!plugin && !hy_add_size(bytes, DATA_OFFSET, &whole))
        return NULL;
    struct hy_block *block = hy_alloc_zero(memory, 1, whole); /* what is saved must be defined */
    if (!block)
        return NULL;
    atomic_init(&block->references, 1);
    block->memory = memory;
    block->plugin = plugin;
    block->bytes = bytes;
    block->data = plugin ? hy_store_alloc_zero(memory, plugin, bytes)
                         : (unsigned char *)block + DATA_OFFSET;
    if (block->data)
        return block;
    hy_free(memory, block);
    return NULL;
}

struct hy_block *hy_block_retain(struct hy_block *block)
{
    atomic_fetch_add(&block->references, 1);
    return block;
}

void hy_block_release(struct hy_block *block)
{
    if (!block || atomic_fetch_sub(&block->references, 1) != 1)
        return;
    if (block->plugin)
        hy_store_free(block->memory, block->plugin, block->data, block->bytes);
    hy_free(block->memory, block);
}

int hy_block_is_shared(struct hy_block *block)
{
    return atomic_load(&block->references) > 1;
}
