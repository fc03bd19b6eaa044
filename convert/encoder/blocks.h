// Layouts of ggml's K-quant blocks of 256 weights, and the conversions around them.
// Source: llama.cpp, ggml/src/ggml-common.h and ggml-impl.h
#pragma once

#include <stdint.h>
#include <string.h>

enum { BLOCK = 256 };

// w = d * scale[j] * q - dmin * min[j], 8 sub-blocks of 32; scales and minima are 6 bits each, packed into 12 bytes
typedef struct {
    uint16_t d, dmin;     // float16
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

_Static_assert(sizeof(block_q4_K) == 144, "Q4_K block");
_Static_assert(sizeof(block_q5_K) == 176, "Q5_K block");
_Static_assert(sizeof(block_q6_K) == 210, "Q6_K block");

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
