"""Slabs: in the order of the output, in the cache, and read from the disk before they are worked on."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert import slabs as module
from convert.pipeline import plan_checkpoint
from convert.safetensors_file import SourceTensor
from convert.shards import ShardMaps
from convert.slabs import SLAB_ELEMENTS, Slab, read_ahead, slabs, source_bytes
from tests.convert.conftest import TinyFolder


class Recorder(ShardMaps):
    """Maps that keep what was asked for ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_bytes = 0

    def read_ahead(self, tensor: SourceTensor, first_row: int, last_row: int) -> None:
        super().read_ahead(tensor, first_row, last_row)
        rows = tensor.rows if len(tensor.shape) > 1 else tensor.shape[0]
        self.asked_bytes += tensor.n_bytes // rows * (last_row - first_row)


def slabs_of(folder: Path, quantization: str = "Q8_0") -> list[Slab]:
    plan = plan_checkpoint(folder, [quantization], Path("out"))
    return [slab for tensor in plan.tensors for slab in slabs(tensor)]


@pytest.mark.parametrize("name", ["llama2", "mixtral", "llama-longrope"])
def test_slabs_read_ahead_are_the_same_in_the_same_order(
    name: str, tiny: TinyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 4096)
    pending = slabs_of(tiny(name))
    for ahead_bytes in (0, 10_000, 1 << 30):
        monkeypatch.setattr(module, "READ_AHEAD_BYTES", ahead_bytes)
        with ShardMaps() as maps:
            assert list(read_ahead(iter(pending), maps)) == pending


def test_what_is_asked_for_stays_the_same_distance_ahead(tiny: TinyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 4096)
    monkeypatch.setattr(module, "READ_AHEAD_BYTES", 100_000)
    pending = slabs_of(tiny("llama2"))
    total_bytes, largest = sum(map(source_bytes, pending)), max(map(source_bytes, pending))
    taken_bytes = 0
    with Recorder() as maps:
        for slab in read_ahead(iter(pending), maps):
            taken_bytes += source_bytes(slab)
            ahead_bytes = maps.asked_bytes - taken_bytes
            assert ahead_bytes <= 100_000 + largest
            assert ahead_bytes > 100_000 - 2 * largest or maps.asked_bytes == total_bytes
    assert taken_bytes == maps.asked_bytes == total_bytes


def test_slab_has_no_more_weights_than_a_cores_cache_holds_unless_a_row_or_a_transform_needs_them(
    tiny: TinyFolder,
) -> None:
    assert SLAB_ELEMENTS * 4 <= 1 << 19
    for slab in slabs_of(tiny("llama2")):
        unit = slab.tensor.transform.unit if slab.tensor.transform else 1
        assert (slab.last - slab.first) * slab.tensor.columns <= max(SLAB_ELEMENTS, unit * slab.tensor.columns)
