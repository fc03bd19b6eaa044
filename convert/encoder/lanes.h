// Vectors of LANES floats, each lane with a sub-block of its own, and what ggml's scalar code does to a float, done to
// every lane. No operation mixes lanes and none is fused or reordered, so that a lane's result has the scalar's bits.
//
// Included once for each instruction set, with NAME(x) giving names of their own.

typedef float NAME(floats) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES)));
#define floats NAME(floats)
#define ints NAME(ints)

// Weights that an encoder is given at once: as many blocks as fill the lanes with sub-blocks of 32
enum { NAME(STRETCH) = 32 * LANES > BLOCK ? 32 * LANES : BLOCK, NAME(BLOCKS) = NAME(STRETCH) / BLOCK };
#define STRETCH NAME(STRETCH)
#define BLOCKS NAME(BLOCKS)

// LANES floats from anywhere
static inline floats NAME(load)(const float *x) {
    typedef float anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    return *(const anywhere *) x;
}

static inline floats NAME(splat)(float value) {
    return value - (floats) {0};
}

static inline floats NAME(select)(ints mask, floats yes, floats no) {
    return (floats) ((mask & (ints) yes) | (~mask & (ints) no));
}

static inline floats NAME(magnitude)(floats value) {
    return (floats) ((ints) value & 0x7fffffff);
}

static inline int NAME(any)(ints mask) {
    int found = 0;
    for (int lane = 0; lane < LANES; lane++) found |= mask[lane];
    return found != 0;
}

static inline floats NAME(root)(floats value) {
    floats result;
    for (int lane = 0; lane < LANES; lane++) result[lane] = __builtin_sqrtf(value[lane]);
    return result;
}

// a > b ? a : b, and a < b ? a : b
#if defined(MAX_FLOATS)
static inline floats NAME(larger)(floats a, floats b) { return MAX_FLOATS(a, b); }
static inline floats NAME(smaller)(floats a, floats b) { return MIN_FLOATS(a, b); }
#else
static inline floats NAME(larger)(floats a, floats b) { return NAME(select)(a > b, a, b); }
static inline floats NAME(smaller)(floats a, floats b) { return NAME(select)(a < b, a, b); }
#endif

// nearest_int, clamped to low..high. `by_bits` is ggml's way for any value; the other gives the same for magnitudes up
// to ROUNDABLE in half the operations.
#define ROUNDABLE 4194303.f

static inline floats NAME(level)(floats value, int low, int high, int by_bits) {
    const floats shifted = value + 12582912.f;
    if (!by_bits) {
        const floats rounded = shifted - 12582912.f;
        return NAME(smaller)(NAME(larger)(rounded, NAME(splat)(low)), NAME(splat)(high));
    }
    ints whole = ((ints) shifted & 0x007fffff) - 0x00400000;
    ints below = whole < low, above = whole > high;
    whole = (below & low) | (~below & whole);
    whole = (above & high) | (~above & whole);
    return __builtin_convertvector(whole, floats);
}

// A level that is rounded by cutting off, in 8 bits as in ggml, and not above `high`
static inline ints NAME(cut_level)(floats value, int high) {
    ints whole = __builtin_convertvector(value, ints);
    whole = (whole << 24) >> 24;
    const ints above = whole > high;
    return (above & high) | (~above & whole);
}

// Element i of LANES sub-blocks that stand `stride` apart
static inline floats NAME(gather)(const float *x, int stride, int i) {
    floats result;
    for (int lane = 0; lane < LANES; lane++) result[lane] = x[lane * stride + i];
    return result;
}

static inline void NAME(scatter)(ints levels, uint8_t *out, int stride, int i) {
    for (int lane = 0; lane < LANES; lane++) out[lane * stride + i] = (uint8_t) levels[lane];
}
