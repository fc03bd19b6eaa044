"""Files that appear whole: what a reader, a second writer or a full disk sees meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Barrier, Thread
from typing import BinaryIO

import pytest

from edge.whole_file import written_privately, written_whole

both = pytest.mark.parametrize("written", [written_whole, written_privately])
Written = Callable[[Path], AbstractContextManager[BinaryIO]]


@both
def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path, written: Written) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with written(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


@both
def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path, written: Written) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write_half() -> None:
        with written(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@both
def test_writers_at_the_same_time_have_files_of_their_own(tmp_path: Path, written: Written) -> None:
    path, at_work = tmp_path / "file", Barrier(8, timeout=20)
    contents = [bytes([letter]) * 10_000 for letter in range(8)]

    def write(content: bytes) -> None:
        with written(path) as file:
            file.write(content[:5000])
            at_work.wait()
            file.write(content[5000:])

    threads = [Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"before")
    path.chmod(0o640)
    link.symlink_to(path)
    with written_whole(link) as file:
        file.write(b"after")
    assert link.is_symlink() and path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    with written_whole(tmp_path / "file") as file:
        file.write(b"new")
    (tmp_path / "other").write_bytes(b"new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_device_is_written_as_it_is() -> None:
    with written_whole(Path(os.devnull)) as file:
        file.write(b"gone")
    with pytest.raises(OSError, match="No space left on device"), written_whole(Path("/dev/full")) as file:
        file.write(b"no room")
    assert Path("/dev/full").is_char_device()


def test_a_folder_that_is_not_there_is_the_caller_s_to_explain(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "missing" / "file"):
        pass
    with pytest.raises(IsADirectoryError), written_whole(tmp_path) as file:
        file.write(b"")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_a_private_file_is_private_before_anything_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    path.chmod(0o644)
    with umask(0), written_privately(path) as file:
        (part,) = set(tmp_path.iterdir()) - {path}
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        file.write(b"after")
    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_private_file_takes_the_place_of_a_link(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"somebody else's")
    path.symlink_to(other)
    with written_privately(path) as file:
        file.write(b"private")
    assert not path.is_symlink() and path.read_bytes() == b"private"
    assert other.read_bytes() == b"somebody else's"


@both
def test_a_link_in_the_way_of_the_temporary_file_is_not_followed(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"somebody else's")
    monkeypatch.setattr(os, "urandom", bytes)
    part = tmp_path / f"file.{bytes(6).hex()}.part"
    part.symlink_to(other)
    with pytest.raises(FileExistsError), written(tmp_path / "file") as file:
        file.write(b"private")
    assert other.read_bytes() == b"somebody else's"
    assert sorted(tmp_path.iterdir()) == [part, other]
