"""Writing a plan: the same bytes whatever the threads and slabs, and nothing left behind when it fails."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import claim, slabs, write
from convert.checkpoint import read_checkpoint
from convert.pipeline import write_checkpoint
from convert.plan import ConversionOptions
from convert.pool import Progress
from edge.errors import EdgeError
from tests.convert.conftest import TinyFolder
from tests.convert.edited import Weights, edited_weights, stored

ALL = ["F32", "F16", "BF16", "Q8_0", "Q4_K_M"]
Conversion = Callable[..., list[Path]]


def converted(source: Path, folder: Path, quantizations: list[str] = ALL, **options: Any) -> dict[str, bytes]:
    """The bytes of each file that a conversion makes."""
    return {path.name: path.read_bytes() for path in write_checkpoint(source, quantizations, folder, **options)}


def refusal(source: Path, out: Path, quantization: str = "F32", **options: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        write_checkpoint(source, [quantization], out, **options)
    return caught.value


@pytest.fixture
def failing_writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Lets the first `count` writes succeed; all others fail with an error number."""

    def install(count: int, number: int) -> None:
        left = iter(range(count))
        original = os.pwrite

        def pwrite(descriptor: int, content: memoryview, offset: int) -> int:
            if next(left, None) is None:
                raise OSError(number, os.strerror(number))
            return original(descriptor, content, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)

    return install


@pytest.mark.parametrize("name", ["llama3", "llama-uneven", "gemma2"])
def test_files_made_in_one_pass_equal_those_made_one_by_one(name: str, tiny: TinyFolder, tmp_path: Path) -> None:
    together = converted(tiny(name), tmp_path / "together")
    alone = {}
    for quantization in ALL:
        alone |= converted(tiny(name), tmp_path / "alone", [quantization])
    assert together == alone
    assert len(together) == len(ALL)


@pytest.mark.parametrize("threads", [2, 5])
def test_bytes_do_not_depend_on_the_number_of_threads(threads: int, tiny: TinyFolder, tmp_path: Path) -> None:
    expected = converted(tiny("llama-uneven"), tmp_path / "one", threads=1)
    assert converted(tiny("llama-uneven"), tmp_path / "several", threads=threads) == expected


@pytest.mark.parametrize("elements", [1, 5000, 1 << 26])
def test_bytes_do_not_depend_on_the_size_of_slabs(
    elements: int, tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = converted(tiny("llama2"), tmp_path / "default")
    monkeypatch.setattr(slabs, "SLAB_ELEMENTS", elements)
    assert converted(tiny("llama2"), tmp_path / "other") == expected


def test_bytes_do_not_depend_on_positioned_writes(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has no pwrite: there, threads take turns to seek and write."""
    monkeypatch.setattr(slabs, "SLAB_ELEMENTS", 4096)
    expected = converted(tiny("llama2"), tmp_path / "positioned", threads=5)
    monkeypatch.delattr(os, "pwrite")
    assert converted(tiny("llama2"), tmp_path / "in-turns", threads=5) == expected


def test_write_that_takes_only_a_part_is_continued(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = converted(tiny("llama2"), tmp_path / "whole", ["BF16"])
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: original(file, content[:30_000], offset))
    assert converted(tiny("llama2"), tmp_path / "in-parts", ["BF16"]) == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_never_falls_and_ends_at_the_source_s_bytes(
    threads: int, tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convert.pool._REPORT_SECONDS", 0.001)
    monkeypatch.setattr(slabs, "SLAB_ELEMENTS", 4096)
    reports: list[Progress] = []
    write_checkpoint(tiny("llama2"), ["Q8_0"], tmp_path, threads=threads, progress=reports.append)
    done = [report.done_bytes for report in reports]
    assert done == sorted(done)
    total = sum(tensor.n_bytes for tensor in read_checkpoint(tiny("llama2")).tensors.values())
    assert {report.total_bytes for report in reports} == {total}
    assert done[-1] == total


@pytest.mark.parametrize("threads", [0, -1])
def test_number_of_threads_that_makes_no_sense_is_refused(threads: int, tiny: TinyFolder, tmp_path: Path) -> None:
    error = refusal(tiny("llama2"), tmp_path, threads=threads)
    assert error.message == f"{threads} threads cannot do any work."
    assert error.hint == "Give --threads a number from 1 on."
    assert list(tmp_path.iterdir()) == []


class Disk:
    """What shutil.disk_usage says."""

    def __init__(self, free: int) -> None:
        self.free = free


def test_disk_without_room_is_refused_before_anything_is_written(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(free=6_500_000))
    folder = tmp_path / "not" / "there"
    error = refusal(tiny("llama2"), folder)
    assert error.message == f"{folder} has 6.50 MB free; the conversion needs 6.63 MB."
    assert error.hint == "Free some space or write elsewhere with --out."
    assert list(tmp_path.iterdir()) == []


def test_room_is_needed_for_all_files_together(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(free=7_000_000))
    with pytest.raises(EdgeError, match=r"has 7\.00 MB free; the conversion needs 9\.9. MB\."):
        write_checkpoint(tiny("llama2"), ["F32", "BF16"], tmp_path)
    write_checkpoint(tiny("llama2"), ["F32"], tmp_path)


@pytest.mark.parametrize("writes", [0, 1, 5])
def test_full_disk_midway_leaves_nothing(
    writes: int, tiny: TinyFolder, tmp_path: Path, failing_writes: Callable[[int, int], None]
) -> None:
    failing_writes(writes, errno.ENOSPC)
    error = refusal(tiny("llama2"), tmp_path / "model.gguf")
    assert error.message == f"{tmp_path / 'model.gguf'} cannot be written: No space left on device."
    assert error.hint == "Free some space or write elsewhere with --out."
    assert list(tmp_path.iterdir()) == []


def test_other_failure_to_write_does_not_blame_the_space(
    tiny: TinyFolder, tmp_path: Path, failing_writes: Callable[[int, int], None]
) -> None:
    failing_writes(2, errno.EIO)
    error = refusal(tiny("llama2"), tmp_path / "model.gguf")
    assert error.message == f"{tmp_path / 'model.gguf'} cannot be written: Input/output error."
    assert error.hint == "Check the folder or write elsewhere with --out."


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """No file of this process may grow beyond 100 kB."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files_only")
def test_file_system_that_takes_no_large_files_leaves_nothing(tiny_llama2: Path, tmp_path: Path) -> None:
    error = refusal(tiny_llama2, tmp_path / "model.gguf")
    assert error.message == f"{tmp_path / 'model.gguf'} cannot be written: File too large."
    assert error.hint == "Free some space or write elsewhere with --out."
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_llama2(tiny: TinyFolder) -> Path:
    return tiny("llama2")


def test_folder_that_is_a_file_is_refused(tiny: TinyFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    error = refusal(tiny("llama2"), tmp_path / "file" / "model.gguf")
    assert error.message == f"{tmp_path / 'file'} cannot be written: File exists."
    assert error.hint == "Check the folder or write elsewhere with --out."


def test_part_that_cannot_be_opened_leaves_none_of_the_others(tiny: TinyFolder, tmp_path: Path) -> None:
    (tmp_path / "llama2-Q8_0.gguf.part").mkdir()
    with pytest.raises(EdgeError) as caught:
        write_checkpoint(tiny("llama2"), ["F16", "Q8_0"], tmp_path)
    assert caught.value.message == f"{tmp_path / 'llama2-Q8_0.gguf'} cannot be written: Is a directory."
    assert [path.name for path in tmp_path.iterdir()] == ["llama2-Q8_0.gguf.part"]


def test_rename_that_fails_leaves_no_part(tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "replace", refuse)
    error = refusal(tiny("llama2"), tmp_path / "model.gguf")
    assert error.message == f"{tmp_path / 'model.gguf'} cannot be written: Operation not permitted."
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_synced_does_no_harm(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems refuse it after the rename has been done."""
    original = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 - resolves the link by itself
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    (path,) = write_checkpoint(tiny("llama2"), ["F16"], tmp_path)
    assert list(tmp_path.iterdir()) == [path]


class Interrupted:
    """A progress callback that is interrupted at its first report."""

    def __call__(self, progress: Progress) -> None:
        raise KeyboardInterrupt


def test_interrupt_midway_leaves_nothing(tiny: TinyFolder, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tiny("llama2"), ALL, tmp_path, progress=Interrupted())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT for one process")
def test_ctrl_c_in_the_command_leaves_nothing_and_exits_with_130(tiny: TinyFolder, tmp_path: Path) -> None:
    command = """
from convert import slabs, write
slabs.SLAB_ELEMENTS = 1  # so that the conversion lasts for long
from edge.cli import main
main()
"""
    arguments = ["convert", str(tiny("llama3")), "--out", str(tmp_path / "model.gguf"), "--threads", "1"]
    with subprocess.Popen([sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "model.gguf.part").exists():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_interrupt_between_renames_leaves_complete_files_only(
    tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = converted(tiny("llama2"), tmp_path / "whole", ["F16", "Q8_0"])

    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_sync_directory", interrupt)  # what follows the first rename
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tiny("llama2"), ["F16", "Q8_0"], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        "llama2-F16.gguf": expected["llama2-F16.gguf"]
    }


def test_file_that_would_be_replaced_stays_until_the_new_one_is_complete(
    tiny: TinyFolder, tmp_path: Path, failing_writes: Callable[[int, int], None]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"of an earlier conversion")
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tiny("llama2"), ["F32"], path, force=True, progress=Interrupted())
    failing_writes(3, errno.ENOSPC)
    refusal(tiny("llama2"), path, force=True)
    assert path.read_bytes() == b"of an earlier conversion"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="its files are not claimed")
@pytest.mark.parametrize("max_part_bytes", [None, 1_000_000])
def test_second_conversion_to_the_same_file_is_refused_and_does_the_first_no_harm(
    tiny: TinyFolder, tmp_path: Path, max_part_bytes: int | None
) -> None:
    options = ConversionOptions(max_part_bytes=max_part_bytes)
    (tmp_path / "out").mkdir()
    (tmp_path / "alone").mkdir()
    write_checkpoint(tiny("llama2"), ["F32"], tmp_path / "alone", options=options)
    refusals = []

    def convert_again(progress: Progress) -> None:
        if not refusals:
            refusals.append(refusal(tiny("llama2"), tmp_path / "out", options=options))

    write_checkpoint(tiny("llama2"), ["F32"], tmp_path / "out", options=options, progress=convert_again)
    path = tmp_path / "out" / "llama2-F32.gguf"
    assert refusals[0].message == f"{path} is being made by another conversion."
    assert refusals[0].hint == "Wait until it has ended, or write elsewhere with --out."
    made, expected = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("out", "alone")
    )
    assert made == expected


@pytest.mark.skipif(sys.platform == "win32", reason="its files are not claimed")
def test_file_that_got_its_name_while_it_was_claimed_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, made = tmp_path / "model.gguf.part", tmp_path / "model.gguf"
    part.write_bytes(b"complete")

    def rename_first(descriptor: int, operation: int) -> None:
        if not made.exists():
            part.rename(made)

    monkeypatch.setattr(claim.fcntl, "flock", rename_first)
    claim.Claim(part, made_for=made).release()
    assert (made.read_bytes(), part.read_bytes()) == (b"complete", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="its files are not claimed")
@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_written_to_all_the_same(
    reason: int, tiny: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(claim.fcntl, "flock", refuse)
    assert list(converted(tiny("llama2"), tmp_path / "out", ["F16"])) == ["llama2-F16.gguf"]


def test_part_of_an_earlier_crash_is_written_over(tiny: TinyFolder, tmp_path: Path) -> None:
    expected = converted(tiny("llama2"), tmp_path / "fresh", ["F16"])
    again = tmp_path / "again"
    again.mkdir()
    (again / "llama2-F16.gguf.part").write_bytes(b"\xff" * 9_000_000)
    assert converted(tiny("llama2"), again, ["F16"]) == expected
    assert [path.name for path in again.iterdir()] == ["llama2-F16.gguf"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_link_is_replaced_and_what_it_led_to_stays(tiny: TinyFolder, tmp_path: Path) -> None:
    target, link = tmp_path / "precious", tmp_path / "model.gguf"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    write_checkpoint(tiny("llama2"), ["F16"], link, force=True)
    assert target.read_bytes() == b"precious"
    assert link.is_file() and not link.is_symlink()


@pytest.mark.parametrize("quantization", ALL)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_that_is_no_number_is_named_by_tensor_and_row(
    quantization: str, dtype: str, value: float, tiny: TinyFolder, tmp_path: Path
) -> None:
    """Quantization hides them: a NaN in a block comes out as an ordinary number."""

    def spoil(weights: dict[str, Weights]) -> None:
        spoiled = np.zeros((256, 256))
        spoiled[37, 100] = spoiled[200, 3] = value
        weights["model.layers.1.self_attn.q_proj.weight"] = stored(spoiled, dtype)

    source = edited_weights(tiny("llama2"), tmp_path / "spoiled", spoil)
    error = refusal(source, tmp_path / "out", quantization)
    assert error.message == ("The tensor 'model.layers.1.self_attn.q_proj.weight' holds NaN or infinity in row 37.")
    assert error.hint == "The checkpoint is damaged: download it again."
    assert list((tmp_path / "out").iterdir()) == []


def test_norm_that_holds_nan_is_named_with_its_index(tiny: TinyFolder, tmp_path: Path) -> None:
    def spoil(weights: dict[str, Weights]) -> None:
        weights["model.norm.weight"].values[255] = 0x7FC0

    error = refusal(edited_weights(tiny("llama2"), tmp_path / "spoiled", spoil), tmp_path, "Q8_0")
    assert error.message == "The tensor 'model.norm.weight' holds NaN or infinity at index 255."


@pytest.mark.parametrize(("quantization", "value"), [("F16", 7e4), ("Q8_0", 1e8), ("Q4_K_M", 1e8)])
def test_weight_beyond_a_type_s_range_is_named(
    quantization: str, value: float, tiny: TinyFolder, tmp_path: Path
) -> None:
    def spoil(weights: dict[str, Weights]) -> None:
        weights["model.layers.0.mlp.up_proj.weight"] = stored(np.full((512, 256), value))

    source = edited_weights(tiny("llama2"), tmp_path / "large", spoil)
    kind = {"Q4_K_M": "Q4_K"}.get(quantization, quantization)
    error = refusal(source, tmp_path / "out", quantization)
    assert error.message == f"The tensor 'model.layers.0.mlp.up_proj.weight' holds values that {kind} cannot express."
    assert error.hint == "Choose BF16 or F32."
    write_checkpoint(source, ["BF16", "F32"], tmp_path / "out")
