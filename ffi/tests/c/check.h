/* What the C programs of these tests check with: a failed check says where, what and the last error, and ends the program. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "perilune.h"

#define CHECK(condition)                                                                                                    \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "%s:%d: not so: %s; last error: %s\n", __FILE__, __LINE__, #condition, perilune_last_error()); \
            exit(1);                                                                                                        \
        }                                                                                                                   \
    } while (0)

/* Checks the status of a call, and that a fault left a sentence. */
#define EXPECT(wanted, call)                                                                                             \
    do {                                                                                                                 \
        perilune_status_t got_ = (call);                                                                                 \
        if (got_ != (wanted)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s gave %d %s: %s; expected %s\n", __FILE__, __LINE__, #call, got_,                  \
                    perilune_fault_name(got_), perilune_last_error(), #wanted);                                          \
            exit(1);                                                                                                     \
        }                                                                                                                \
        CHECK(got_ >= 0 || strlen(perilune_last_error()) > 0);                                                           \
    } while (0)

#define OK(call) EXPECT(PERILUNE_OK, call)

#endif
