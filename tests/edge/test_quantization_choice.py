"""Which quantization is taken where none is asked for: by the machine, said in a line, and kept once it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.device_profiles import Device, MemoryPool, find_device
from edge.errors import EdgeError
from edge.hub_headers import CheckpointHeaders
from edge.models import resolve
from edge.quantization_choice import best_of_files, choose_quantization
from tests.edge.fake_hub import FakeHub
from tests.edge.test_models import FakeConverter
from tests.tiny import write_tiny_checkpoint

GB = 1_000_000_000
NINE_B = {"F16": int(18.5 * GB), "Q8_0": int(9.8 * GB), "Q6_K": int(7.6 * GB), "Q4_K_M": int(5.8 * GB), "IQ9": GB}
PI = find_device("raspberry-pi-5-8gb")
CARD = find_device("rtx-3060-12gb")


class NoHeaders:
    def read(self, repository: str) -> CheckpointHeaders:
        raise EdgeError(f"{repository} has no headers.", hint="None.")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))


def test_best_file_that_fits_the_card_leaves_room_for_a_context() -> None:
    assert best_of_files(NINE_B, CARD) == "Q6_K"


def test_on_a_small_board_speed_counts() -> None:
    assert best_of_files({"F16": 3 * GB, "Q8_0": int(1.6 * GB), "Q4_K_M": GB}, PI) == "Q8_0"
    assert best_of_files({"F16": 3 * GB, "Q4_K_M": GB}, PI) == "Q4_K_M"


def test_where_nothing_fits_or_is_known_nothing_is_chosen() -> None:
    assert best_of_files({"F16": 100 * GB}, PI) is None
    assert best_of_files({"ODD": 1}, PI) is None


def test_choice_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_quantization("org/model", NINE_B, CARD) == "Q6_K"
    assert capsys.readouterr().err == "org/model: Q6_K is the best quantization that fits this machine.\n"
    assert choose_quantization("google/gemma-2-9b-it", {}, CARD) == "Q8_0"
    assert choose_quantization("google/gemma-2-9b-it", {}, PI) == "Q4_K_M"


def test_checkpoint_that_cannot_be_looked_at_is_left_to_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_quantization("org/unknown", {}, CARD, NoHeaders()) is None
    assert capsys.readouterr().err == "org/unknown: org/unknown has no headers.\n"


def test_name_on_the_hub_gets_the_file_that_fits_and_keeps_it() -> None:
    hub = FakeHub()
    hub.repositories["org/model"] = {"model-Q4_K_M.gguf": "4", "model-Q8_0.gguf": "eight"}
    seen: list[dict[str, int]] = []

    def choose(reference: str, gguf_bytes: object) -> str:
        assert reference == "org/model" and isinstance(gguf_bytes, dict)
        seen.append(gguf_bytes)
        return "Q8_0"

    assert resolve("org/model", hub=hub, choose=choose).read_text() == "eight"
    assert resolve("org/model", hub=hub, choose=choose).read_text() == "eight"
    assert seen == [{"Q4_K_M": 1, "Q8_0": 5}]
    assert resolve("org/model:Q4_K_M", hub=hub, choose=choose).read_text() == "4"


def test_directory_is_converted_to_what_fits_and_stays_with_it(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint("llama3", tmp_path)
    converter = FakeConverter()
    roomy = Device("made", "made", MemoryPool(16 * GB, 16 * GB, 40e9, 3e11))
    chosen: list[str | None] = []

    def choose(reference: str, gguf_bytes: object) -> str | None:
        chosen.append(choose_quantization(reference, {}, roomy))
        return chosen[-1]

    first = resolve(str(directory), converter=converter, choose=choose)
    again = resolve(str(directory), converter=converter, choose=lambda *_: "Q2_K")
    assert first == again and len(chosen) == 1
    assert first.name == f"llama3-{chosen[0]}.gguf" and chosen[0] in ("BF16", "Q8_0")
