"""Conversions in the cache: made once, made anew when the checkpoint changed, never half there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import edge.conversion_cache
from edge.conversion_cache import ConversionCache, fingerprint
from edge.errors import EdgeError
from tests.tiny import write_tiny_checkpoint


class FakeConverter:
    """Writes the number of its call as the file."""

    def __init__(self) -> None:
        self.calls: list[tuple[Path, list[str], Path]] = []
        self.during: Callable[[], None] = lambda: None

    def __call__(self, source: Path, quantizations: Sequence[str], out: Path, *, progress: Any = None) -> list[Path]:
        self.calls.append((source, list(quantizations), out))
        number = len(self.calls)
        self.during()
        out.write_text(str(number))
        return [out]


@pytest.fixture
def converter() -> FakeConverter:
    return FakeConverter()


@pytest.fixture
def cache(tmp_path: Path, converter: FakeConverter) -> ConversionCache:
    return ConversionCache(tmp_path / "cache", converter)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(bytes(100))
    return directory


def converted(cache: ConversionCache, checkpoint: Path, quantization: str = "Q8_0", origin: str = "here") -> Path:
    return cache.gguf(checkpoint, name="tiny", origin=origin, quantization=quantization)


def keep_times(path: Path, change: Callable[[], object]) -> None:
    status = path.stat()
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_checkpoint_is_converted_once_under_its_name(
    cache: ConversionCache, converter: FakeConverter, checkpoint: Path
) -> None:
    first = converted(cache, checkpoint)
    assert first.name == "tiny-Q8_0.gguf"
    assert first.read_text() == "1"
    assert converted(cache, checkpoint) == first
    assert converter.calls == [(checkpoint, ["Q8_0"], first)]


def test_each_quantization_is_a_file_of_its_own(cache: ConversionCache, checkpoint: Path) -> None:
    first, second = (converted(cache, checkpoint, quantization) for quantization in ("Q8_0", "Q4_K_M"))
    assert first.parent == second.parent
    assert (first.read_text(), second.read_text()) == ("1", "2")


def test_changed_checkpoint_is_converted_anew_and_the_old_file_deleted(
    cache: ConversionCache, checkpoint: Path
) -> None:
    old = converted(cache, checkpoint)
    (checkpoint / "config.json").write_text('{"rope_theta": 1}')
    new = converted(cache, checkpoint)
    assert new.read_text() == "2"
    assert not old.parent.exists()


def test_conversions_of_other_checkpoints_of_the_same_name_stay(cache: ConversionCache, checkpoint: Path) -> None:
    here = converted(cache, checkpoint, origin="here")
    (checkpoint / "config.json").write_text('{"rope_theta": 1}')
    converted(cache, checkpoint, origin="there")
    assert here.is_file()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model", "chat_template.jinja"])
def test_fingerprint_changes_with_the_size_of_any_source_file(name: str, checkpoint: Path) -> None:
    (checkpoint / name).write_bytes(b"a")
    before = fingerprint(checkpoint)
    keep_times(checkpoint / name, lambda: (checkpoint / name).write_bytes(b"ab"))
    assert fingerprint(checkpoint) != before


def test_fingerprint_changes_with_the_time_of_a_file(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    os.utime(checkpoint / "model.safetensors", ns=(0, 1))
    assert fingerprint(checkpoint) != before


def test_fingerprint_changes_with_a_header_of_the_same_size_and_time(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    before = fingerprint(checkpoint)
    keep_times(path, lambda: path.write_bytes(bytes(99) + b"1"))
    assert fingerprint(checkpoint) != before


def test_fingerprint_changes_when_a_file_comes_or_is_renamed(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    (checkpoint / "tokenizer.json").write_text("{}")
    with_tokenizer = fingerprint(checkpoint)
    (checkpoint / "tokenizer.json").rename(checkpoint / "vocab.json")
    assert len({before, with_tokenizer, fingerprint(checkpoint)}) == 3


def test_fingerprint_changes_with_the_converter(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(checkpoint)
    monkeypatch.setattr(edge.conversion_cache, "CONVERTER_VERSION", edge.conversion_cache.CONVERTER_VERSION + 1)
    assert fingerprint(checkpoint) != before


def test_fingerprint_ignores_files_that_no_conversion_reads(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    (checkpoint / "README.md").write_text("about")
    assert fingerprint(checkpoint) == before


def test_unreadable_checkpoint_is_an_edge_error(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").symlink_to(checkpoint / "absent")
    with pytest.raises(EdgeError, match=r"tiny cannot be read: No such file or directory"):
        fingerprint(checkpoint)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), EdgeError("no such quantization")])
def test_failed_conversion_leaves_no_trace_and_can_be_tried_again(
    interruption: BaseException, cache: ConversionCache, converter: FakeConverter, checkpoint: Path
) -> None:
    def interrupt() -> None:
        raise interruption

    converter.during = interrupt
    with pytest.raises(type(interruption)):
        converted(cache, checkpoint)
    assert list((cache.folder / "models").iterdir()) == []
    converter.during = lambda: None
    assert converted(cache, checkpoint).is_file()


def test_failed_conversion_keeps_the_file_of_the_checkpoint_before(
    cache: ConversionCache, converter: FakeConverter, checkpoint: Path
) -> None:
    old = converted(cache, checkpoint)
    (checkpoint / "config.json").write_text("not a config")

    def refuse() -> None:
        raise EdgeError("config.json is not JSON")

    converter.during = refuse
    with pytest.raises(EdgeError):
        converted(cache, checkpoint)
    assert old.is_file()


def test_second_asker_waits_for_the_first_and_takes_its_file(
    cache: ConversionCache, converter: FakeConverter, checkpoint: Path
) -> None:
    results: list[Path] = []
    second = threading.Thread(target=lambda: results.append(converted(cache, checkpoint)))

    def let_the_second_come() -> None:
        second.start()
        second.join(timeout=0.2)
        assert second.is_alive()

    converter.during = let_the_second_come
    first = converted(cache, checkpoint)
    second.join()
    assert results == [first]
    assert len(converter.calls) == 1


def test_two_processes_that_convert_one_checkpoint_at_once_share_one_conversion(tmp_path: Path) -> None:
    """The real converter in real processes: one converts, and both read the same whole file."""
    source = write_tiny_checkpoint("llama3", tmp_path)
    program = (
        "import sys; from pathlib import Path; from edge.conversion_cache import ConversionCache, convert_in_process\n"
        "def convert(*arguments, **options):\n"
        "    print('converts', flush=True)\n"
        "    return convert_in_process(*arguments, **options)\n"
        "cache = ConversionCache(Path(sys.argv[2]), convert)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "path = cache.gguf(Path(sys.argv[1]), name='tiny', origin='here', quantization='Q8_0')\n"
        "from edge.stored_files import sha256_of\n"
        "print(sha256_of(path), path)"
    )
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "cache")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:  # both at once
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    lines = [out.splitlines() for out, _ in outputs]
    assert sorted(len(each) for each in lines) == [1, 2]  # one of them converted
    assert lines[0][-1] == lines[1][-1]
    folder = Path(lines[0][-1].split()[1]).parent
    assert sorted(path.name for path in folder.iterdir()) == ["tiny-Q8_0.gguf", "tiny-Q8_0.proof.json"]


def test_long_names_are_cut_to_what_file_systems_take(cache: ConversionCache, checkpoint: Path) -> None:
    path = cache.gguf(checkpoint, name="n" * 250, origin="here", quantization="Q8_0")
    assert path.name == f"{'n' * 80}-Q8_0.gguf"


def test_cache_folder_that_cannot_be_written_is_an_edge_error(
    converter: FakeConverter, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EdgeError, match=r"cache folder .* cannot be written") as caught:
        converted(ConversionCache(tmp_path / "file", converter), checkpoint)
    assert "EDGE_CACHE" in caught.value.hint
