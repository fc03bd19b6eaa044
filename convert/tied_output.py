"""The output of a checkpoint that ties it to its embeddings: what is stored of it has to be a copy of them.

transformers ignores such a tensor, and a file has no place for it; one with other values was trained to be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from convert.families import Family
from convert.safetensors_file import SourceTensor
from convert.shards import ShardMaps
from convert.tensor_plan import TensorPlan
from edge.errors import EdgeError

_EMBEDDINGS = "token_embd.weight"
_OUTPUT = "lm_head.weight"
_SLAB_BYTES = 1 << 22


def refuse_another_output(family: Family, tensors: Sequence[TensorPlan], sources: Mapping[str, SourceTensor]) -> None:
    """EdgeError if the checkpoint has an output that the file will not hold, and that is no copy of its embeddings.

    Both are read whole to tell; where there is no such output, nothing is read.
    """
    used = {rows.tensor.name for planned in tensors for rows in planned.sources}
    embeddings = next((each.sources[0].tensor for each in tensors if each.name == _EMBEDDINGS), None)
    left_out = [each for name, each in sources.items() if family.rule_name(name) == _OUTPUT and each.name not in used]
    for output in left_out:
        if embeddings is not None and not _are_equal(output, embeddings):
            raise EdgeError(
                f"The checkpoint ties its output to the embeddings, but {output.name!r} has other values than"
                f" {embeddings.name!r}.",
                hint='Set "tie_word_embeddings" to false in config.json if it is to be used, or take the tensor out.',
            )


def _are_equal(output: SourceTensor, embeddings: SourceTensor) -> bool:
    if output.shape != embeddings.shape:
        return False
    slab = max(1, _SLAB_BYTES * output.rows // max(output.n_bytes, 1))
    with ShardMaps() as maps:
        for first in range(0, output.rows, slab):
            last = min(first + slab, output.rows)
            rows, others = (_values(maps.rows(each, first, last), each.dtype) for each in (output, embeddings))
            if not np.array_equal(rows, others):
                return False
            for each in (output, embeddings):
                maps.release(each, first, last)
    return True


def _values(rows: npt.NDArray[np.generic], dtype: str) -> npt.NDArray[np.float32]:
    """The values of some rows, of which BF16 comes as bits."""
    if dtype == "BF16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)
