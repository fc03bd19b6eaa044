"""What an adapter file is made for: a checkpoint, or a GGUF file that was made of one.

Both give the same: which tensor of the model each module is, how its rows are ordered there, and by what the model is
known again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.adapter_fit import BaseModules
from convert.checkpoint import Checkpoint, read_checkpoint
from convert.families import FAMILIES, Family, TensorRule
from convert.hyperparameters import Hyperparameters, read_hyperparameters
from convert.source import read_model
from convert.tensor_plan import plan_tensors
from convert.transforms import SlabTransform
from convert.weights_identity import weights_sha256
from edge.errors import EdgeError
from edge.gguf_file import GGUFFile, read_gguf
from edge.gguf_format import WEIGHTS_KEY

# config.json's names for the keys of a GGUF file from which row orders follow
_SHAPE_KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}


@dataclass(frozen=True)
class BaseTensor:
    """A matrix of the model. `shape` is the checkpoint's; the file has the first `rows`, in the transform's order."""

    name: str
    shape: tuple[int, ...]
    rows: int
    transform: SlabTransform | None
    expert: int | None = None
    """Which of the matrices that are stacked in the tensor, where each belongs to an expert."""


@dataclass(frozen=True)
class AdapterBase:
    modules: BaseModules
    tensors: Mapping[str, BaseTensor]
    """By module."""
    weights_sha256: str | None
    """None for a GGUF file that another tool made."""

    @property
    def family(self) -> Family:
        return self.modules.family


def read_adapter_base(path: Path) -> AdapterBase:
    """The base at a path: a checkpoint directory or a GGUF file. EdgeError if it is of no known family."""
    return _of_checkpoint(read_checkpoint(path)) if path.is_dir() else _of_gguf(read_gguf(path))


def _of_checkpoint(checkpoint: Checkpoint) -> AdapterBase:
    family, shape, _ = read_model(checkpoint)
    stored = {planned.name: planned.shape for planned in plan_tensors(family, shape, checkpoint.tensors)}
    tensors = dict(_tensors(family, shape, stored))
    return _base(checkpoint.name, family, tensors, shape.tied_embeddings, weights_sha256(checkpoint.tensors))


def _of_gguf(file: GGUFFile) -> AdapterBase:
    families = [family for family in FAMILIES if family.gguf_name == file.architecture]
    if not families:
        known = ", ".join(sorted({family.gguf_name for family in FAMILIES}))
        raise EdgeError(f"{file.path} is of the architecture {file.architecture!r}.", hint=f"Known are: {known}.")
    shape = read_hyperparameters(_config(file))
    stored = {name: tuple(reversed(tensor.shape)) for name, tensor in file.tensors.items()}
    tensors: dict[str, BaseTensor] = {}
    for family in families:
        tensors = {**dict(_tensors(family, shape, stored)), **tensors}
    identity = file.metadata.get(WEIGHTS_KEY)
    tied = "output.weight" not in file.tensors
    return _base(file.path.name, families[0], tensors, tied, identity if isinstance(identity, str) else None)


def _base(
    name: str,
    family: Family,
    tensors: Mapping[str, BaseTensor],
    tied_embeddings: bool,
    identity: str | None,
) -> AdapterBase:
    shapes = {module: tensor.shape for module, tensor in tensors.items()}
    return AdapterBase(BaseModules(name, family, shapes, tied_embeddings), tensors, identity)


def _tensors(
    family: Family, shape: Hyperparameters, stored: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, BaseTensor]]:
    """Each module by the family's rules, with its matrix among the `stored` shapes, outermost dimension first."""
    for rule in family.tensors:
        for block in range(shape.layers if rule.is_per_block else 1):
            name = rule.target_name(block)
            transform = rule.transform.bind(shape) if rule.transform else None
            sizes = stored.get(name, ())
            if rule.is_per_expert and len(sizes) == 3:
                for expert in range(sizes[0]):
                    yield _module(rule, block, expert), BaseTensor(name, sizes[1:], sizes[1], transform, expert)
            elif len(sizes) == 2:
                spare = shape.spare_rows if rule.shape[0] == "vocabulary" else 0
                yield _module(rule, block), BaseTensor(name, (sizes[0] + spare, sizes[1]), sizes[0], transform)


def _module(rule: TensorRule, block: int, expert: int = 0) -> str:
    return rule.source_name(block, expert).removesuffix(".weight")


def _config(file: GGUFFile) -> dict[str, int | float]:
    """As much of a config.json as the keys of a file tell, and the row orders ask for."""
    keys = {name: _largest(file.metadata.get(f"{file.architecture}.{key}")) for name, key in _SHAPE_KEYS.items()}
    known = {name: value for name, value in keys.items() if value is not None}
    embeddings = file.tensors.get("token_embd.weight")
    return {"rms_norm_eps": 0.0, "vocab_size": embeddings.shape[-1] if embeddings else 1, **known}


def _largest(value: object) -> int | None:
    """A size, the largest where a file gives one for each layer. No row order follows from those that differ."""
    if isinstance(value, Sequence):
        return max((number for number in value if isinstance(number, int)), default=None)
    return value if isinstance(value, int) else None
