/* Structs and constants of hymba.h lie and count as they were promised. That none is missing here
 * is what check_layout.sh sees to. */
#include "support.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "layout.h"

#if UINTPTR_MAX == 0xffffffffffffffffu
START_TEST(fields_lie_where_they_were_promised)
{
    const struct layout *line = &layouts[_i];
    const char *name = line->name ? line->name : "";
    ck_assert_msg(line->offset == line->actual_offset && line->size == line->actual_size,
                  "%s %s: offset and size are %zu, %zu, promised were %zu, %zu", line->structure,
                  name, line->actual_offset, line->actual_size, line->offset, line->size);
}
END_TEST

/* A hole could not be used later: an older caller's struct holds anything there. */
START_TEST(structs_have_no_holes)
{
    size_t end = 0;
    for (size_t i = 0; i < n_layouts; i++) {
        const struct layout *line = &layouts[i], *next = line + 1;
        if (!line->name) {
            end = 0;
            continue;
        }
        ck_assert_msg(line->actual_offset == end, "%s.%s begins at %zu, the one before ends at %zu",
                      line->structure, line->name, line->actual_offset, end);
        end = line->actual_offset + line->actual_size;
        if (i + 1 < n_layouts && next->name)
            continue;
        const struct layout *head = line;
        while (head->name)
            head--;
        ck_assert_msg(head->actual_size == end, "%s ends at %zu, its last field at %zu",
                      line->structure, head->actual_size, end);
    }
}
END_TEST
#endif

START_TEST(constants_have_the_promised_values)
{
    const struct layout_constant *constant = &layout_constants[_i];
    ck_assert_msg(constant->value == constant->actual, "%s is %lld, promised was %lld",
                  constant->name, (long long)constant->actual, (long long)constant->value);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("layout");
    TCase *tests = tcase_create("layout");
#if UINTPTR_MAX == 0xffffffffffffffffu
    tcase_add_loop_test(tests, fields_lie_where_they_were_promised, 0, (int)n_layouts);
    tcase_add_test(tests, structs_have_no_holes);
#else
    printf("skipped: layout: pointers have not 64 bits here\n");
#endif
    tcase_add_loop_test(tests, constants_have_the_promised_values, 0, (int)n_layout_constants);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
