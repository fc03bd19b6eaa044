// The searches for the scale of a sub-block, over LANES sub-blocks at once.
//
// Source: llama.cpp, ggml/src/ggml-quants.c, make_qkx2_quants (make_qkx3_quants is the same where it is used),
// make_qx_quants, make_q3_quants and quantize_row_iq4_nl_impl. The order of every lane's operations is theirs, and so
// are the expressions that they stand in: where Clang fuses operations, it does so within an expression.
// Included after lanes.h, once for each instruction set. `count` is a constant wherever these are used.

#define SEARCH static inline __attribute__((always_inline))

// The result of a search: x is near scale * level + min. Levels are kept as what they were rounded from.
typedef struct {
    floats scale, min;
    floats level_inverse, level_min;  // level = nearest(level_inverse * (x - level_min))
} NAME(affine);

SEARCH floats NAME(affine_error)(const floats *x, const floats *weight, const floats *level, int count, floats scale,
                                 floats min, int has_absolute_error) {
    floats error = NAME(splat)(0);
    if (has_absolute_error) {
        for (int i = 0; i < count; i++) error += weight[i] * NAME(magnitude)(scale * level[i] + min - x[i]);
        return error;
    }
    for (int i = 0; i < count; i++) {
        const floats difference = scale * level[i] + min - x[i];
        error += weight[i] * (difference * difference);
    }
    return error;
}

// Levels 0..range.levels, for `count` elements with weights. Gives 0, with nothing searched, if a value might leave the
// range that `level` rounds without `by_bits`.
SEARCH int NAME(search_affine)(const floats *x, const floats *weight, int count, search_range range, int by_bits,
                               NAME(affine) *result) {
    floats level[32];
    floats min = x[0], max = x[0];
    floats sum_w = weight[0], sum_x = weight[0] * x[0];
    for (int i = 1; i < count; i++) {
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
    floats scale = 1 / inverse;
    for (int i = 0; i < count; i++) level[i] = NAME(level)(inverse * (x[i] - min), 0, range.levels, by_bits);
    floats best_error = NAME(affine_error)(x, weight, level, count, scale, min, range.has_absolute_error);
    result->level_inverse = inverse;
    result->level_min = min;

    for (int step = 0; step <= range.steps; step++) {
        inverse = (range.first + range.step * step + range.levels) / NAME(select)(is_flat, one, max - min);
        if (!by_bits && NAME(any)(~(NAME(magnitude)(inverse) * (reach + NAME(magnitude)(min)) < ROUNDABLE))) return 0;
        floats sum_l = NAME(splat)(0), sum_l2 = sum_l, sum_xl = sum_l;
        for (int i = 0; i < count; i++) {
            const floats l = NAME(level)(inverse * (x[i] - min), 0, range.levels, by_bits);
            level[i] = l;
            sum_l += weight[i] * l;
            sum_l2 += weight[i] * l * l;
            sum_xl += weight[i] * l * x[i];
        }
        const floats determinant = sum_w * sum_l2 - sum_l * sum_l;
        floats this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        floats this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        const ints is_above = this_min > 0;
        this_scale = NAME(select)(is_above, sum_xl / sum_l2, this_scale);
        this_min = NAME(select)(is_above, NAME(splat)(0), this_min);
        const floats error =
            NAME(affine_error)(x, weight, level, count, this_scale, this_min, range.has_absolute_error);
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

// The first of the elements with the largest magnitude; 1 in the lanes of `is_zero`, which have nothing but zeros and
// are overwritten after the search
SEARCH floats NAME(extreme)(const floats *x, int count, ints *is_zero) {
    floats extreme = NAME(splat)(0), magnitude = extreme;
    for (int i = 0; i < count; i++) {
        const floats size = NAME(magnitude)(x[i]);
        const ints is_larger = size > magnitude;
        extreme = NAME(select)(is_larger, x[i], extreme);
        magnitude = NAME(select)(is_larger, size, magnitude);
    }
    *is_zero = magnitude < 1e-15f;
    return NAME(select)(*is_zero, NAME(splat)(1), extreme);
}

// Levels -limit..limit-1 without a minimum, for `count` elements with weights. `inverse` is what the levels were
// rounded with; 0 for a lane of zeros, whose levels are all -limit.
SEARCH int NAME(search_symmetric)(const floats *x, const floats *weight, int count, int limit, int by_bits,
                                  floats *scale_out, floats *inverse_out) {
    ints is_zero;
    const floats extreme = NAME(extreme)(x, count, &is_zero);
    // |inverse * x| is at most limit + 1 in every step, unless the division overflows
    const floats finest = -(float) (limit + 1) / extreme;
    if (!by_bits && NAME(any)(~(NAME(magnitude)(finest) * NAME(magnitude)(extreme) < ROUNDABLE))) return 0;
    floats weighted[32];
    for (int i = 0; i < count; i++) weighted[i] = weight[i] * x[i];

    floats scale = NAME(splat)(0), best = scale, best_inverse = scale;
    for (int turn = 0; turn < 19; turn++) {
        const int step = turn == 0 ? 0 : turn <= 9 ? turn - 10 : turn - 9;  // 0, then -9..-1, then 1..9
        const floats inverse = step ? -(limit + 0.1f * step) / extreme : -(float) limit / extreme;
        floats sum_lx = NAME(splat)(0), sum_l2 = sum_lx;
        for (int i = 0; i < count; i++) {
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

// Levels of search_symmetric, stored from 0 on
SEARCH ints NAME(symmetric_level)(floats x, floats inverse, int limit) {
    const floats level = NAME(level)(inverse * x, -limit, limit - 1, 1) + (float) limit;
    return __builtin_convertvector(NAME(select)(inverse == 0, NAME(splat)(0), level), ints);
}

// Levels -limit..limit-1 for 16 elements weighted by their squares, improved one element after the other. Gives the
// scale; levels are stored from 0 on.
SEARCH floats NAME(search_in_turns)(const floats *x, int limit, floats *level) {
    enum { COUNT = 16 };
    ints is_zero;
    const floats inverse = -(float) limit / NAME(extreme)(x, COUNT, &is_zero);
    floats weight[COUNT], weighted[COUNT], sum_lx = NAME(splat)(0), sum_l2 = sum_lx;
    for (int i = 0; i < COUNT; i++) {
        weight[i] = x[i] * x[i];
        weighted[i] = weight[i] * x[i];
        level[i] = NAME(level)(inverse * x[i], -limit, limit - 1, 1);
        sum_lx += weighted[i] * level[i];
        sum_l2 += weight[i] * level[i] * level[i];
    }
    // a lane in which a turn changed nothing is not changed by the next one either
    for (int turn = 0, has_changed = 1; turn < 5 && has_changed; turn++) {
        ints changes = {0};
        for (int i = 0; i < COUNT; i++) {
            const floats other_lx = sum_lx - weighted[i] * level[i];
            const floats other_l2 = sum_l2 - weight[i] * level[i] * level[i];
            const floats l = NAME(level)(x[i] * other_l2 / other_lx, -limit, limit - 1, 1);
            const floats new_lx = other_lx + weighted[i] * l;
            const floats new_l2 = other_l2 + weight[i] * l * l;
            const ints is_better = (other_lx > 0) & (l != level[i]) & (new_l2 > 0) &
                                   (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2);
            level[i] = NAME(select)(is_better, l, level[i]);
            sum_lx = NAME(select)(is_better, new_lx, sum_lx);
            sum_l2 = NAME(select)(is_better, new_l2, sum_l2);
            changes |= is_better;
        }
        has_changed = NAME(any)(changes);
    }
    for (int i = 0; i < COUNT; i++) level[i] = NAME(select)(is_zero, NAME(splat)(0), level[i] + (float) limit);
    return NAME(select)((sum_l2 > 0) & ~is_zero, sum_lx / sum_l2, NAME(splat)(0));
}

// Which entry of the codebook is nearest, the larger one from the middle between two on
SEARCH ints NAME(codebook_level)(floats x) {
    ints level = {0};
    level += 15;
    for (int i = 0; i < 15; i++) level += x < 0.5f * (codebook[i] + codebook[i + 1]);  // -1 where it is true
    return level;
}

SEARCH floats NAME(codebook_value)(floats x) {
    ints value = {0};
    value += codebook[15];
    for (int i = 0; i < 15; i++)
        value -= (x < 0.5f * (codebook[i] + codebook[i + 1])) & (codebook[i + 1] - codebook[i]);
    return __builtin_convertvector(value, floats);
}

// The scale for entries of the codebook, for 32 elements with weights
SEARCH floats NAME(search_codebook)(const floats *x, const floats *weight) {
    enum { COUNT = 32 };
    ints is_zero;
    const floats extreme = NAME(extreme)(x, COUNT, &is_zero);
    floats scale = NAME(splat)(0), best = scale;
    for (int turn = 0; turn < 16; turn++) {
        const floats inverse = turn ? (float) (turn - 8 + codebook[0]) / extreme : 1 / (-extreme / (float) codebook[0]);
        floats sum_qx = NAME(splat)(0), sum_q2 = sum_qx;
        for (int i = 0; i < COUNT; i++) {
            const floats q = NAME(codebook_value)(inverse * x[i]);
            sum_qx += weight[i] * q * x[i];
            sum_q2 += weight[i] * q * q;
        }
        const floats this_scale = sum_qx / sum_q2;
        ints is_better = sum_q2 > 0;
        if (turn) is_better &= sum_qx * sum_qx > best * sum_q2;
        scale = NAME(select)(is_better, this_scale, scale);
        if (turn == 0)
            best = scale * sum_qx;
        else
            best = NAME(select)(is_better, this_scale * sum_qx, best);
    }
    return NAME(select)(is_zero, NAME(splat)(0), scale);
}
