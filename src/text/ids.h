/* Appending to the growing list of ids. */
#ifndef HY_TEXT_IDS_H
#define HY_TEXT_IDS_H

#include "text/tokenizer.h"

/* Appends one id. On failure the list is as it was. */
hymba_status hy_ids_append(struct hy_ids *ids, int32_t id, hymba_error *error);

#endif
