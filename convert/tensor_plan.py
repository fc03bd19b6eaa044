"""Which tensors of a checkpoint become which tensors of a file: a family's rules, matched before a weight is read.

A tensor of the checkpoint that no rule names, or a rule without its tensor, is an error here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convert.families import Family, TensorRule
from convert.hyperparameters import Hyperparameters
from convert.rope import frequency_factors
from convert.safetensors_file import SourceTensor
from convert.transforms import SlabTransform
from edge.errors import EdgeError

READABLE_DTYPES = ("F32", "F16", "BF16")
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class SourceRows:
    """Rows `first` up to, but without, `last` of a tensor of the checkpoint; of a vector, these are its values."""

    tensor: SourceTensor
    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first

    @property
    def n_bytes(self) -> int:
        return self.tensor.n_bytes * self.count // _row_count(self.tensor.shape)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the output: its sources' rows one after the other, or computed from the configuration (`values`).

    Experts are stacked like this, each from a tensor of its own or from its rows of one that holds them all.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[SourceRows, ...]
    transform: SlabTransform | None = None
    values: npt.NDArray[np.float32] | None = None

    @property
    def rows(self) -> int:
        """Rows of the matrix the tensor is converted as; a vector is a single column."""
        return self.element_count // self.columns

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def element_count(self) -> int:
        return math.prod(self.shape)

    @property
    def source_bytes(self) -> int:
        return sum(source.n_bytes for source in self.sources)


def plan_tensors(family: Family, shape: Hyperparameters, sources: Mapping[str, SourceTensor]) -> Iterator[TensorPlan]:
    """The tensors a family makes of a checkpoint's, in file order. EdgeError for missing, unknown or misshapen ones."""
    by_rule_name = _by_rule_name(family, sources)
    used: set[str] = set()
    for rule, block in expanded_rules(family, shape):
        names = _source_names(rule, block, shape, by_rule_name)
        if rule.presence == "untied" and shape.tied_embeddings:
            used.update(names)  # a tied checkpoint may carry a copy that transformers ignores as well
            continue
        if rule.presence == "optional" and not any(name in by_rule_name for name in names):
            continue
        used.update(names)
        rows = tuple(_source_rows(family, rule, block, shape, names, by_rule_name))
        transform = rule.transform.bind(shape) if rule.transform else None
        yield TensorPlan(rule.target_name(block), _sizes(shape, rule.target_shape), rows, transform)
    _refuse_leftovers(family, set(by_rule_name) - used)
    for name, factors in {**frequency_factors(shape.rope), **family.computed(shape)}.items():
        yield TensorPlan(name, factors.shape, (), values=factors)


def parameter_count(tensors: Iterable[TensorPlan]) -> int:
    """Weights of the source; what is computed from the configuration is none of its parameters."""
    return sum(tensor.element_count for tensor in tensors if tensor.sources)


def left_out_parts(family: Family, names: Sequence[str]) -> Iterator[str]:
    """What of a checkpoint a file of its language model does not hold, in words for a person."""
    for part in family.left_out:
        count = sum(bool(re.search(part.pattern, name)) for name in names)
        if count:
            yield f"the file holds the language model, without {part.what} ({count} tensors)"


def _by_rule_name(family: Family, sources: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    found: dict[str, SourceTensor] = {}
    for name, tensor in sources.items():
        if any(re.search(part.pattern, name) for part in family.left_out):
            continue
        known = found.setdefault(family.rule_name(name), tensor)
        if known is not tensor:
            first, second = sorted((known.name, name))
            raise EdgeError(
                f"The checkpoint has the same tensor twice: {first!r} and {second!r}.",
                hint="Remove one of them: transformers would take either.",
            )
    return found


def _source_names(
    rule: TensorRule, block: int, shape: Hyperparameters, sources: Mapping[str, SourceTensor]
) -> tuple[str, ...]:
    """The names of what a rule takes: one, or one for each expert unless they are fused in this checkpoint."""
    if rule.fused and rule.fused.source_name(block) in sources:
        return (rule.fused.source_name(block),)
    return tuple(rule.source_name(block, expert) for expert in range(shape.experts if rule.is_per_expert else 1))


def _source_rows(
    family: Family,
    rule: TensorRule,
    block: int,
    shape: Hyperparameters,
    names: Sequence[str],
    sources: Mapping[str, SourceTensor],
) -> Iterator[SourceRows]:
    is_fused = rule.fused is not None and names == (rule.fused.source_name(block),)
    for name in names:
        source = sources.get(name)
        if source is None:
            raise EdgeError(
                f"The checkpoint has no tensor {name!r}, which {family.name} needs.",
                hint="It is incomplete or its config.json belongs to another model: download it again.",
            )
        if is_fused:
            yield from _rows_of_experts(rule, shape, source)
        else:
            _check_source(source, _stored_sizes(shape, rule.shape), rule.shape)
            all_rows = [(0, _row_count(_sizes(shape, rule.shape)))]
            for first, last in rule.row_order(shape) if rule.row_order else all_rows:
                yield SourceRows(source, first, last)


def _rows_of_experts(rule: TensorRule, shape: Hyperparameters, source: SourceTensor) -> Iterator[SourceRows]:
    """The rows that a rule takes of each expert in a tensor [experts, parts * rows, columns]."""
    assert rule.fused is not None
    experts, rows, *columns = _sizes(shape, rule.target_shape)
    parts = rule.fused.parts
    dimensions = ("experts", f"{parts} {rule.shape[0]}" if parts > 1 else rule.shape[0], *rule.shape[1:])
    _check_source(source, (experts, parts * rows, *columns), dimensions)
    for expert in range(experts):
        first = (expert * parts + rule.fused.part) * rows
        yield SourceRows(source, first, first + rows)


def expanded_rules(family: Family, shape: Hyperparameters) -> Iterator[tuple[TensorRule, int]]:
    """Rules in file order: what stands before the blocks, the blocks one by one, what stands after them."""
    first = next(index for index, rule in enumerate(family.tensors) if rule.is_per_block)
    before = ((rule, 0) for rule in family.tensors[:first])
    blocks = ((rule, block) for block in range(shape.layers) for rule in family.tensors if rule.is_per_block)
    after = ((rule, 0) for rule in family.tensors[first:] if not rule.is_per_block)
    for rule, block in (*before, *blocks, *after):
        if rule.is_in_layer(shape, block):
            yield rule, block


def _sizes(shape: Hyperparameters, dimensions: Sequence[str]) -> tuple[int, ...]:
    return tuple(shape.size(dimension) for dimension in dimensions)


def _stored_sizes(shape: Hyperparameters, dimensions: Sequence[str]) -> tuple[int, ...]:
    """The sizes in the checkpoint, which may have rows for more tokens than there are."""
    return tuple(shape.size(name) + (shape.spare_rows if name == "vocabulary" else 0) for name in dimensions)


def _check_source(source: SourceTensor, expected: tuple[int, ...], dimensions: Sequence[str]) -> None:
    if source.shape != expected:
        raise EdgeError(
            f"The tensor {source.name!r} has shape {list(source.shape)}; config.json makes it {list(expected)}"
            f" ({' x '.join(dimensions)}).",
            hint="config.json and weights belong to different models.",
        )
    if source.dtype not in READABLE_DTYPES:
        raise EdgeError(
            f"The tensor {source.name!r} is stored as {source.dtype}.",
            hint=f"Convertible are {', '.join(READABLE_DTYPES)}: get the original, unquantized checkpoint.",
        )


def _refuse_leftovers(family: Family, names: set[str]) -> None:
    left = sorted(name for name in names if not any(re.search(pattern, name) for pattern in family.ignored))
    if left:
        more = f" and {len(left) - _NAMES_SHOWN} more" if left[_NAMES_SHOWN:] else ""
        raise EdgeError(
            f"The checkpoint has tensors that {family.name} does not know: {', '.join(left[:_NAMES_SHOWN])}{more}.",
            hint="Leaving them out would change the model: it is of another architecture, or has an adapter inside.",
        )


def _row_count(shape: Sequence[int]) -> int:
    """Rows by which a tensor is read; of a vector, its values."""
    return math.prod(shape[:-1]) if len(shape) > 1 else shape[0]
