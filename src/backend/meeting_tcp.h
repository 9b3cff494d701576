/* The two sides of a meeting at an address: rank 0, which listens, and the others, who come. */
#ifndef HY_BACKEND_MEETING_TCP_H
#define HY_BACKEND_MEETING_TCP_H

#include "backend/meeting.h"

hymba_status hy_meeting_receive_guests(struct hy_memory *memory, const struct hy_meeting *meeting,
                                       const struct hy_place *place, const unsigned char *id,
                                       hymba_error *error);

hymba_status hy_meeting_visit(struct hy_memory *memory, const struct hy_meeting *meeting,
                              const struct hy_place *place, unsigned char *id,
                              hymba_error *error);

#endif
