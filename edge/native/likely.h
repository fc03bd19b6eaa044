/* The highest of a great many logits, read once. */

#ifndef EDGE_LIKELY_H
#define EDGE_LIKELY_H

#include <stddef.h>
#include <stdint.h>

#define GROUP 64 /* tokens that share one maximum */

/* As llama_token_data of llama.h. */
typedef struct {
    int32_t id;
    float logit;
    float p;
} candidate;

/* Writes the `count` highest logits, their equals and maybe more to `found`, by ascending id; gives how many they are.
   -1 if there are not enough numbers, or too many for `room`. `maxima` has room for one of each whole group. */
ptrdiff_t find_likely(const float *logits, ptrdiff_t tokens, ptrdiff_t count, float *maxima, candidate *found,
                      ptrdiff_t room);

#endif
