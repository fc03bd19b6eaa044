// All that is compiled for one instruction set. NAME and LANES are what it is called and how many floats it works on.

#include "lanes.h"
#include "search.h"
#include "small.h"
#include "affine.h"
#include "symmetric.h"
#include "nonlinear.h"

// Type, weights and bytes of a block, the encoder, and whether importance weighs by the row's mean square
static const encoder NAME(encoders)[] = {
    {2, 32, sizeof(block_q4_0), NAME(encode_q4_0), 1},
    {3, 32, sizeof(block_q4_1), NAME(encode_q4_1), 1},
    {6, 32, sizeof(block_q5_0), NAME(encode_q5_0), 1},
    {7, 32, sizeof(block_q5_1), NAME(encode_q5_1), 1},
    {8, 32, sizeof(block_q8_0), NAME(encode_q8_0), 0},
    {10, BLOCK, sizeof(block_q2_K), NAME(encode_q2_K), 0},
    {11, BLOCK, sizeof(block_q3_K), NAME(encode_q3_K), 0},
    {12, BLOCK, sizeof(block_q4_K), NAME(encode_q4_K), 0},
    {13, BLOCK, sizeof(block_q5_K), NAME(encode_q5_K), 0},
    {14, BLOCK, sizeof(block_q6_K), NAME(encode_q6_K), 0},
    {20, 32, sizeof(block_iq4_nl), NAME(encode_iq4_nl), 0},
    {23, BLOCK, sizeof(block_iq4_xs), NAME(encode_iq4_xs), 0},
};

#undef SEARCH
#undef STRETCH
#undef BLOCKS
#undef floats
#undef ints
#undef NAME
#undef LANES
#undef MAX_FLOATS
#undef MIN_FLOATS
