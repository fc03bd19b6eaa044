"""Whether a LoRA belongs to a base: the modules it changes are there, in their shapes, and none is left out.

Knows names and shapes of the base; what becomes of the matrices is for `convert.adapter_plan` and `convert.merge`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from convert.adapter import Adapter, AdapterPair
from convert.families import Family
from edge.errors import EdgeError

EMBEDDINGS = "model.embed_tokens"
OUTPUT = "lm_head"
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class BaseModules:
    """The matrices of a base by the names that the family's rules give their modules, with their shapes."""

    name: str
    family: Family
    shapes: Mapping[str, tuple[int, ...]]
    tied_embeddings: bool


def pairs_by_base_module(adapter: Adapter, base: BaseModules) -> dict[str, AdapterPair]:
    """The adapter's pairs under the base's names, without those of `left_out_names`.

    EdgeError when the adapter belongs to another base.
    """
    left_out = set(left_out_names(adapter, base.family))
    pairs = {
        _base_module(base.family, module): pair
        for module, pair in adapter.pairs.items()
        if f"{module}.weight" not in left_out
    }
    if not pairs:
        _refuse_other_base(adapter, "changes nothing of the language model, only", list(adapter.pairs))
    _refuse_tied(adapter, base, pairs)
    unknown = [pair.module for module, pair in pairs.items() if module not in base.shapes]
    if unknown:
        _refuse_other_base(adapter, f"changes modules that {base.name} ({base.family.name}) does not have", unknown)
    for module, pair in pairs.items():
        _check_shape(adapter, base, module, pair)
    _check_copies(adapter, base)
    _check_complete(adapter, base, pairs)
    return pairs


def left_out_names(adapter: Adapter, family: Family) -> list[str]:
    """The weights that an adapter changes in parts of a checkpoint that no file of its language model holds."""
    return [name for module in adapter.pairs if is_left_out(family, name := f"{module}.weight")]


def is_left_out(family: Family, name: str) -> bool:
    return any(re.search(part.pattern, name) for part in family.left_out)


def _base_module(family: Family, module: str) -> str:
    return family.rule_name(f"{module}.weight").removesuffix(".weight")


def _refuse_tied(adapter: Adapter, base: BaseModules, pairs: Mapping[str, AdapterPair]) -> None:
    """Tied embeddings are one tensor with two uses; PEFT changes one of them, a file could only change both."""
    changed = next((pairs[module] for module in (EMBEDDINGS, OUTPUT) if module in pairs), None)
    if base.tied_embeddings and changed:
        raise EdgeError(
            f"{adapter.directory} changes {changed.module}, but {base.name} uses one tensor as embeddings and as"
            " output: a GGUF file cannot change one of them alone.",
            hint="Train without embed_tokens and lm_head, or merge with PEFT and save the model untied.",
        )


def _check_shape(adapter: Adapter, base: BaseModules, module: str, pair: AdapterPair) -> None:
    if pair.weight_shape != base.shapes[module]:
        raise EdgeError(
            f"{adapter.directory}: the matrices of {pair.module} make {list(pair.weight_shape)};"
            f" in {base.name} it is {list(base.shapes[module])}.",
            hint=_trained_on(adapter),
        )
    if pair.is_embedding != (module == EMBEDDINGS):
        _refuse_other_base(adapter, "has matrices of embeddings for a linear module, or the reverse", [pair.module])


def _check_copies(adapter: Adapter, base: BaseModules) -> None:
    for module, tensor in adapter.copied_embeddings.items():
        expected = base.shapes.get(_base_module(base.family, module))
        if expected is not None and tensor.shape != expected:
            raise EdgeError(
                f"{adapter.directory} was trained with {module} as {list(tensor.shape)}; in {base.name} it is"
                f" {list(expected)}.",
                hint="Tokens were added for training: merge with PEFT and convert the result.",
            )


def _check_complete(adapter: Adapter, base: BaseModules, pairs: Mapping[str, AdapterPair]) -> None:
    """Of each kind of module that the file has, every one that the settings name has to be there."""
    kinds = {_kind(module) for module in pairs}
    missing = [
        module
        for module in base.shapes
        if module not in pairs and _kind(module) in kinds and adapter.config.targets(module)
    ]
    if missing:
        raise EdgeError(
            f"{adapter.directory} has no matrices for {_listed(missing)}, which its adapter_config.json names.",
            hint="The file is incomplete, or its base has more layers: save or download the adapter again.",
        )


def _kind(module: str) -> str:
    return module.rpartition(".")[2]


def _refuse_other_base(adapter: Adapter, what: str, modules: Sequence[str]) -> NoReturn:
    raise EdgeError(f"{adapter.directory} {what}: {_listed(modules)}.", hint=_trained_on(adapter))


def _trained_on(adapter: Adapter) -> str:
    named = adapter.config.base_name
    return f"It was trained on {named}: give that as base." if named else "It was trained on another model."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if names[_NAMES_SHOWN:] else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
