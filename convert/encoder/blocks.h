// Layouts of ggml's blocks, and the conversions around them. Little-endian, as GGUF is.
// Source: llama.cpp, ggml/src/ggml-common.h and ggml-impl.h
#pragma once

#include <stdint.h>
#include <string.h>

enum { BLOCK = 256 };  // weights of a K-quant's block

// w = d * q: 32 weights, with levels -8..7 stored from 0 on
typedef struct {
    uint16_t d;      // float16
    uint8_t qs[16];  // 4 bits: element i in the lower half of qs[i], element i + 16 in the upper
} block_q4_0;

// w = d * q + m
typedef struct {
    uint16_t d, m;
    uint8_t qs[16];
} block_q4_1;

typedef struct {
    uint16_t d;
    uint8_t qh[4];  // the fifth bit of element i is bit i of these 32
    uint8_t qs[16];
} block_q5_0;

typedef struct {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
} block_q5_1;

typedef struct {
    uint16_t d;
    int8_t qs[32];
} block_q8_0;

// w = d * scale[j] * q - dmin * min[j], 16 sub-blocks of 16
typedef struct {
    uint8_t scales[16];     // 4 bits each, minima in the upper half
    uint8_t qs[BLOCK / 4];  // 2 bits: in each half of the block elements i, i + 32, i + 64 and i + 96 share a byte
    uint16_t d, dmin;
} block_q2_K;

// w = d * (scale[j] - 32) * (q - 4), 16 sub-blocks of 16
typedef struct {
    uint8_t hmask[BLOCK / 8];  // the third bit: bit j of hmask[i] belongs to element 32 * j + i
    uint8_t qs[BLOCK / 4];     // the lower 2 bits, as in Q2_K
    uint8_t scales[12];        // 6 bits: 8 bytes with the lower 4 of j and j + 8, then the upper 2 of j, j + 4, ...
    uint16_t d;
} block_q3_K;

// w = d * scale[j] * q - dmin * min[j], 8 sub-blocks of 32; scales and minima are 6 bits each, packed into 12 bytes
typedef struct {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[BLOCK / 2];  // 4 bits: sub-blocks 0 and 1 share bytes, then 2 and 3, ...
} block_q4_K;

typedef struct {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[BLOCK / 8];  // the fifth bit: bit j of qh[l] belongs to element l of sub-block j
    uint8_t qs[BLOCK / 2];
} block_q5_K;

// w = d * scale[j] * (q - 32), 16 sub-blocks of 16
typedef struct {
    uint8_t ql[BLOCK / 2];  // lower 4 bits
    uint8_t qh[BLOCK / 4];  // upper 2 bits
    int8_t scales[BLOCK / 16];
    uint16_t d;
} block_q6_K;

// w = d * codebook[q]
typedef block_q4_0 block_iq4_nl;

// w = d * (scale[j] - 32) * codebook[q], 8 sub-blocks of 32
typedef struct {
    uint16_t d;
    uint16_t scales_h;    // upper 2 bits of each scale
    uint8_t scales_l[4];  // lower 4 bits
    uint8_t qs[BLOCK / 2];
} block_iq4_xs;

_Static_assert(sizeof(block_q4_0) == 18, "Q4_0 block");
_Static_assert(sizeof(block_q4_1) == 20, "Q4_1 block");
_Static_assert(sizeof(block_q5_0) == 22, "Q5_0 block");
_Static_assert(sizeof(block_q5_1) == 24, "Q5_1 block");
_Static_assert(sizeof(block_q8_0) == 34, "Q8_0 block");
_Static_assert(sizeof(block_q2_K) == 84, "Q2_K block");
_Static_assert(sizeof(block_q3_K) == 110, "Q3_K block");
_Static_assert(sizeof(block_q4_K) == 144, "Q4_K block");
_Static_assert(sizeof(block_q5_K) == 176, "Q5_K block");
_Static_assert(sizeof(block_q6_K) == 210, "Q6_K block");
_Static_assert(sizeof(block_iq4_xs) == 136, "IQ4_XS block");

static const int8_t codebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Rounds to the nearest integer, ties to even, for |value| <= 4194303; beyond that the bits decide, as in ggml.
static inline int nearest_int(float value) {
    return (int) (bits_of(value + 12582912.f) & 0x007fffff) - 0x00400000;
}

static inline int clamp(int value, int low, int high) {
    return value < low ? low : value > high ? high : value;
}

// float32 to float16, ties to even; NaN becomes the quiet one with its sign.
static inline uint16_t half_of(float value) {
    const uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff;
    const uint16_t sign = (uint16_t) ((bits >> 16) & 0x8000);
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x47800000) return sign | 0x7c00;  // 65536 and more
    if (magnitude < 0x38800000)                         // below 2^-14: adding 0.5 rounds to multiples of 2^-24
        return sign | (uint16_t) (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000);
    const uint32_t odd = (magnitude >> 13) & 1;
    return sign | (uint16_t) ((magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

static inline float float_of_half(uint16_t half) {
    const uint32_t sign = (uint32_t) (half & 0x8000) << 16, exponent = (half >> 10) & 31, mantissa = half & 0x3ff;
    if (exponent == 31) return float_of(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) return float_of(sign | bits_of((float) mantissa * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

// The bytes of 32 levels of 4 bits; a fifth bit is left out
static inline void pack_nibbles(const uint8_t *levels, uint8_t *qs) {
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t) ((levels[i] & 15) | (levels[i + 16] & 15) << 4);
}

static inline void pack_fifth_bits(const uint8_t *levels, uint8_t *qh) {
    for (int i = 0; i < 4; i++) {
        uint64_t eight;
        memcpy(&eight, levels + 8 * i, sizeof eight);
        // the product puts the lowest bit of byte j at 56 + j
        qh[i] = (uint8_t) ((eight >> 4 & 0x0101010101010101) * 0x0102040810204080 >> 56);
    }
}

// The bytes of 256 levels of 2 bits, the lowest of each, as Q2_K and Q3_K have them
static inline void pack_pairs_of_bits(const uint8_t *levels, uint8_t *qs) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *l = levels + 128 * half;
        for (int i = 0; i < 32; i++)
            qs[32 * half + i] =
                (uint8_t) ((l[i] & 3) | (l[i + 32] & 3) << 2 | (l[i + 64] & 3) << 4 | (l[i + 96] & 3) << 6);
    }
}

// Scales and minima of 6 bits of Q4_K and Q5_K. What does not fit into them spreads as in ggml, and is read back so.
static inline void pack_scales_and_mins(const uint8_t *scales, const uint8_t *mins, uint8_t *packed) {
    for (int j = 0; j < 4; j++) {
        packed[j] = (uint8_t) (scales[j] | (scales[j + 4] >> 4) << 6);
        packed[j + 4] = (uint8_t) (mins[j] | (mins[j + 4] >> 4) << 6);
        packed[j + 8] = (uint8_t) ((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
    }
}

static inline void unpack_scales_and_mins(const uint8_t *packed, uint8_t *scales, uint8_t *mins) {
    for (int j = 0; j < 4; j++) {
        scales[j] = packed[j] & 63;
        mins[j] = packed[j + 4] & 63;
        scales[j + 4] = (uint8_t) ((packed[j + 8] & 15) | (packed[j] >> 6) << 4);
        mins[j + 4] = (uint8_t) (packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4);
    }
}
