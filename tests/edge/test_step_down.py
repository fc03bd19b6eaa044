"""Opening with less: what is given up in which order, what is remembered, and what is raised as it is."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import EdgeError
from edge.settings import ModelSettings
from edge.step_down import StepMemory, is_memory_failure, open_stepping_down, steps_down

NO_MEMORY = EdgeError("llama.cpp cannot make a context of 8192 tokens: failed to allocate buffer for kv cache")


class FakeOpening:
    """Opens what is small enough, and keeps what was tried."""

    def __init__(self, fits: Callable[[ModelSettings], bool], error: EdgeError = NO_MEMORY) -> None:
        self.fits, self.error = fits, error
        self.tried: list[ModelSettings] = []

    def __call__(self, settings: ModelSettings) -> ModelSettings:
        self.tried.append(settings)
        if not self.fits(settings):
            raise self.error
        return settings


@pytest.fixture
def memory(tmp_path: Path) -> StepMemory:
    return StepMemory(tmp_path / "state" / "memory.json")


def opened(opening: FakeOpening, memory: StepMemory, wanted: ModelSettings, told: list[str]) -> ModelSettings:
    return open_stepping_down(
        opening, wanted, model="gemma", layers=43, context_tokens=8192, memory=memory, tell=told.append
    )


def test_what_fits_is_opened_as_it_is(memory: StepMemory) -> None:
    told: list[str] = []
    opening = FakeOpening(lambda settings: True)
    assert opened(opening, memory, ModelSettings(), told) == ModelSettings()
    assert not told and not memory.path.exists()


def test_steps_are_made_in_order_and_said(memory: StepMemory) -> None:
    told: list[str] = []
    opening = FakeOpening(lambda settings: settings.gpu_layers == 23)
    got = opened(opening, memory, ModelSettings(), told)
    assert told == [
        "Memory does not suffice: trying steps of 256 tokens.",
        "Memory does not suffice: trying steps of 128 tokens.",
        "Memory does not suffice: trying keys and values in Q8_0.",
        "Memory does not suffice: trying keys in Q8_0 and values in Q4_0.",
        "Memory does not suffice: trying a context of 4,096 tokens.",
        "Memory does not suffice: trying a context of 2,048 tokens.",
        "Memory does not suffice: trying a context of 1,024 tokens.",
        "Memory does not suffice: trying 33 layers on the graphics card.",
        "Memory does not suffice: trying 23 layers on the graphics card.",
    ]
    assert got == ModelSettings(
        context_tokens=1024, prefill_tokens=128, key_type="Q8_0", value_type="Q4_0", gpu_layers=23
    )


def test_second_copy_of_weights_is_given_up_before_all_else_where_there_is_one() -> None:
    for has_copy, wanted in ((True, ModelSettings()), (True, ModelSettings(repack_weights=False))):
        steps = steps_down(wanted, layers=43, context_tokens=8192, may_undo_repacking=has_copy)
        assert (next(steps).settings == replace(wanted, repack_weights=False)) == wanted.repack_weights
    (first, *_) = steps_down(ModelSettings(), layers=43, context_tokens=8192)
    assert first.settings.repack_weights


def test_what_worked_is_tried_first_the_next_time(memory: StepMemory) -> None:
    opening = FakeOpening(lambda settings: settings.key_type == "Q8_0")
    first = opened(opening, memory, ModelSettings(), [])
    told: list[str] = []
    again = FakeOpening(lambda settings: settings.key_type == "Q8_0")
    assert opened(again, memory, ModelSettings(), told) == first
    assert again.tried == [first]
    assert told == [f"Memory did not suffice last time, so now with --ubatch 128 --kv-type Q8_0 ({memory.path})."]


def test_other_wishes_and_other_models_are_tried_as_they_are(memory: StepMemory) -> None:
    memory.remember("gemma", ModelSettings(), ModelSettings(prefill_tokens=128))
    assert memory.recall("gemma", ModelSettings()) == ModelSettings(prefill_tokens=128)
    assert memory.recall("gemma", ModelSettings(context_tokens=4096)) is None
    assert memory.recall("llama", ModelSettings()) is None


def test_settings_that_are_not_remembered_stay_those_that_are_wanted(memory: StepMemory) -> None:
    memory.remember("gemma", ModelSettings(), ModelSettings(prefill_tokens=128))
    recalled = memory.recall("gemma", ModelSettings(threads=5))
    assert recalled == ModelSettings(threads=5, prefill_tokens=128)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe\0{", b"[" * 100_000, b'{"gemma": 3}', b'{"gemma": {"wanted": {}, "worked": {}}}'],
)
def test_damaged_memory_remembers_nothing_and_is_written_anew(memory: StepMemory, content: bytes) -> None:
    memory.path.parent.mkdir()
    memory.path.write_bytes(content)
    assert memory.recall("gemma", ModelSettings()) is None
    opening = FakeOpening(lambda settings: settings.prefill_tokens < 512)
    assert opened(opening, memory, ModelSettings(), []) == ModelSettings(prefill_tokens=256)
    assert memory.recall("gemma", ModelSettings()) == ModelSettings(prefill_tokens=256)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefill_tokens", 0),
        ("prefill_tokens", 256.5),
        ("prefill_tokens", True),
        ("prefill_tokens", None),
        ("context_tokens", "4096"),
        ("context_tokens", 1 << 40),
        ("gpu_layers", [3]),
        ("repack_weights", 0),
        ("repack_weights", "no"),
        ("key_type", "Q9_9"),
        ("key_type", 8),
    ],
)
def test_remembered_nonsense_is_left_aside(memory: StepMemory, name: str, value: object) -> None:
    memory.remember("gemma", ModelSettings(), ModelSettings())
    entries = json.loads(memory.path.read_text("utf-8"))
    entries["gemma"]["worked"][name] = value
    memory.path.write_text(json.dumps(entries), "utf-8")
    assert memory.recall("gemma", ModelSettings()) is None


def test_memory_on_a_full_disk_stays_as_it_was(memory: StepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.remember("gemma", ModelSettings(), ModelSettings(prefill_tokens=128))

    def fill(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill)  # when what was written has to go to the disk
    opening = FakeOpening(lambda settings: settings.context_tokens == 2048)
    told: list[str] = []
    assert opened(opening, memory, ModelSettings(parallel=2), told).context_tokens == 2048 and told
    assert list(memory.path.parent.iterdir()) == [memory.path], "and nothing is left beside it"
    assert memory.recall("gemma", ModelSettings()) == ModelSettings(prefill_tokens=128)


def test_memory_that_cannot_be_written_does_not_stop_anything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    blocked = StepMemory(tmp_path / "file" / "memory.json")
    opening = FakeOpening(lambda settings: settings.prefill_tokens < 512)
    assert opened(opening, blocked, ModelSettings(), []) == ModelSettings(prefill_tokens=256)


def test_error_that_is_no_matter_of_memory_is_raised_as_it_is(memory: StepMemory) -> None:
    opening = FakeOpening(lambda settings: False, EdgeError("There is no model 'x'."))
    with pytest.raises(EdgeError, match="There is no model"):
        opened(opening, memory, ModelSettings(), [])
    assert len(opening.tried) == 1


def test_first_error_is_raised_when_nothing_smaller_is_left(memory: StepMemory) -> None:
    opening = FakeOpening(lambda settings: False)
    with pytest.raises(EdgeError) as caught:
        opened(opening, memory, ModelSettings(), [])
    assert caught.value is NO_MEMORY
    assert opening.tried[-1].gpu_layers == 0 and not memory.path.exists()


def test_values_stay_in_16_bits_without_flash_attention() -> None:
    steps = list(steps_down(ModelSettings(flash_attention="off"), layers=10, context_tokens=2048))
    assert {step.settings.value_type for step in steps} == {"F16"}


def test_several_sequences_keep_a_context_each() -> None:
    settings = ModelSettings(parallel=4, context_tokens=4096, prefill_tokens=128, flash_attention="off", gpu_layers=0)
    assert list(steps_down(settings, layers=10, context_tokens=8192)) == []


@pytest.mark.parametrize(
    ("message", "is_memory"),
    [
        ("llama.cpp cannot make a context of 9 tokens: failed to allocate compute pp buffers", True),
        ("llama.cpp cannot load m.gguf: unable to allocate CUDA0 buffer", True),
        ("The engine's process was ended by SIGKILL (out of memory?).", True),
        ("The engine's process was ended by SIGABRT: GGML_ASSERT(ctx->mem_buffer != NULL) failed.", True),
        ("llama.cpp cannot make a context of 9 tokens: insufficient memory (attempted to allocate 2 MB)", True),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", True),
        ("llama.cpp cannot load m.gguf: unknown architecture", False),
        ("The context of 12 tokens is too short.", False),
    ],
)
def test_failures_of_memory_are_told_from_others(message: str, is_memory: bool) -> None:
    assert is_memory_failure(EdgeError(message)) is is_memory


def test_cache_that_cannot_be_quantized_stays_as_it_is(memory: StepMemory) -> None:
    opening = FakeOpening(lambda settings: settings.context_tokens == 4096)
    got = open_stepping_down(
        opening,
        ModelSettings(),
        model="odd",
        layers=10,
        context_tokens=8192,
        memory=memory,
        tell=lambda line: None,
        allows_quantized_cache=False,
    )
    assert (got.key_type, got.context_tokens) == ("F16", 4096)
