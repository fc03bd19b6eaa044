// The searches for the scale of a sub-block, over LANES sub-blocks at once.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, make_qkx2_quants and make_qx_quants. The order of every lane's operations
// is theirs. Included after lanes.h, once for each instruction set.

// The result of a search: x is near scale * level + min. Levels are kept as what they were rounded from.
typedef struct {
    floats scale, min;
    floats level_inverse, level_min;  // level = nearest(level_inverse * (x - level_min))
} NAME(affine);

// Levels 0..range.levels, for 32 elements with weights. Gives 0, with nothing searched, if a value might leave the range
// that `level` rounds without `by_bits`.
static inline __attribute__((always_inline)) int NAME(search_affine)(
    const floats *x, const floats *weight, search_range range, int by_bits, NAME(affine) *result) {
    enum { COUNT = 32 };
    floats level[COUNT];
    floats min = x[0], max = x[0];
    floats sum_w = weight[0], sum_x = weight[0] * x[0];
    for (int i = 1; i < COUNT; i++) {
        min = NAME(smaller)(x[i], min);
        max = NAME(larger)(x[i], max);
        sum_w += weight[i];
        sum_x += weight[i] * x[i];
    }
    const floats lowest = min;
    min = NAME(select)(min > 0, NAME(splat)(0), min);
    const ints is_flat = max == min;  // such lanes are searched with a span of 1 and overwritten at the end
    const floats flat_min = min, one = NAME(splat)(1);

    floats inverse = (float) range.levels / NAME(select)(is_flat, one, max - min);
    const floats reach = NAME(larger)(NAME(magnitude)(max), NAME(magnitude)(lowest));
    if (!by_bits && NAME(any)(~(NAME(magnitude)(inverse) * (reach + NAME(magnitude)(min)) < ROUNDABLE))) return 0;
    floats scale = 1 / inverse, best_error = NAME(splat)(0);
    for (int i = 0; i < COUNT; i++) {
        const floats l = NAME(level)(inverse * (x[i] - min), 0, range.levels, by_bits);
        const floats difference = scale * l + min - x[i];
        best_error += weight[i] * (difference * difference);
    }
    result->level_inverse = inverse;
    result->level_min = min;

    for (int step = 0; step <= range.steps; step++) {
        inverse = (range.first + range.step * step + range.levels) / NAME(select)(is_flat, one, max - min);
        if (!by_bits && NAME(any)(~(NAME(magnitude)(inverse) * (reach + NAME(magnitude)(min)) < ROUNDABLE))) return 0;
        floats sum_l = NAME(splat)(0), sum_l2 = sum_l, sum_xl = sum_l;
        for (int i = 0; i < COUNT; i++) {
            const floats l = NAME(level)(inverse * (x[i] - min), 0, range.levels, by_bits);
            const floats wl = weight[i] * l;
            level[i] = l;
            sum_l += wl;
            sum_l2 += wl * l;
            sum_xl += wl * x[i];
        }
        const floats determinant = sum_w * sum_l2 - sum_l * sum_l;
        floats this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        floats this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        const ints is_above = this_min > 0;
        this_scale = NAME(select)(is_above, sum_xl / sum_l2, this_scale);
        this_min = NAME(select)(is_above, NAME(splat)(0), this_min);
        floats error = NAME(splat)(0);
        for (int i = 0; i < COUNT; i++) {
            const floats difference = this_scale * level[i] + this_min - x[i];
            error += weight[i] * (difference * difference);
        }
        const ints is_better = (determinant > 0) & (error < best_error);
        result->level_inverse = NAME(select)(is_better, inverse, result->level_inverse);
        result->level_min = NAME(select)(is_better, min, result->level_min);
        best_error = NAME(select)(is_better, error, best_error);
        scale = NAME(select)(is_better, this_scale, scale);
        min = NAME(select)(is_better, this_min, min);
    }
    // a flat lane has levels of 0
    result->scale = NAME(select)(is_flat, NAME(splat)(0), scale);
    result->min = -NAME(select)(is_flat, flat_min, min);
    result->level_inverse = NAME(select)(is_flat, NAME(splat)(0), result->level_inverse);
    return 1;
}

// Levels -limit..limit-1 without a minimum, for 16 elements weighted by their squares. `inverse` is what the levels were
// rounded with; 0 for a lane of zeros, whose levels are all -limit.
static inline __attribute__((always_inline)) int NAME(search_symmetric)(
    const floats *x, int limit, int by_bits, floats *scale_out, floats *inverse_out) {
    enum { COUNT = 16 };
    floats weight[COUNT], weighted[COUNT];
    floats extreme = NAME(splat)(0), magnitude = extreme;
    for (int i = 0; i < COUNT; i++) {
        const floats size = NAME(magnitude)(x[i]);
        const ints is_larger = size > magnitude;
        extreme = NAME(select)(is_larger, x[i], extreme);
        magnitude = NAME(select)(is_larger, size, magnitude);
        weight[i] = x[i] * x[i];
        weighted[i] = weight[i] * x[i];
    }
    const ints is_zero = magnitude < 1e-15f;  // such lanes are searched as if their extreme were 1
    extreme = NAME(select)(is_zero, NAME(splat)(1), extreme);
    // |inverse * x| is at most limit + 1 in every step, unless the division overflows
    const floats finest = -(float) (limit + 1) / extreme;
    if (!by_bits && NAME(any)(~(NAME(magnitude)(finest) * magnitude < ROUNDABLE))) return 0;

    floats scale = NAME(splat)(0), best = scale, best_inverse = scale;
    for (int turn = 0; turn < 19; turn++) {
        const int step = turn == 0 ? 0 : turn <= 9 ? turn - 10 : turn - 9;  // 0, then -9..-1, then 1..9
        const floats inverse = step ? -(limit + 0.1f * step) / extreme : -(float) limit / extreme;
        floats sum_lx = NAME(splat)(0), sum_l2 = sum_lx;
        for (int i = 0; i < COUNT; i++) {
            const floats l = NAME(level)(inverse * x[i], -limit, limit - 1, by_bits);
            sum_lx += weighted[i] * l;
            sum_l2 += weight[i] * l * l;
        }
        const floats this_scale = sum_lx / sum_l2;
        if (step == 0) {
            scale = NAME(select)(sum_l2 != 0, this_scale, scale);
            best = scale * sum_lx;
            best_inverse = inverse;
            continue;
        }
        const ints is_better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2);
        scale = NAME(select)(is_better, this_scale, scale);
        best = NAME(select)(is_better, this_scale * sum_lx, best);
        best_inverse = NAME(select)(is_better, inverse, best_inverse);
    }
    *scale_out = NAME(select)(is_zero, NAME(splat)(0), scale);
    *inverse_out = NAME(select)(is_zero, NAME(splat)(0), best_inverse);
    return 1;
}
