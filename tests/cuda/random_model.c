#include "random_model.h"

#include <stdio.h>
#include <unistd.h>

#include "support.h"

hymba_model *random_model_open(const char *config)
{
    hymba_error error = {.struct_size = sizeof error};
    char path[300];
    hymba_model *model;
    snprintf(path, sizeof path, "%s/model", test_directory());
    if (access(path, F_OK) != 0)
        test_status(hymba_model_init(path, config, HYMBA_NUL_TERMINATED, NULL, &error), HYMBA_OK,
                    error);
    test_status(hymba_model_open(path, NULL, &model, &error), HYMBA_OK, error);
    return model;
}
