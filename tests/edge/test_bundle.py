"""Bundles: a model carried to another machine in one file, and what is refused of files from strangers."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edge.bundle
from edge.bundle import LIST_NAME, read_bundle, write_bundle
from edge.errors import EdgeError
from edge.store import Store
from edge.store_record import Record, Source
from edge.stored_files import StoredFile, sha256_of
from tests.edge.fake_hub import COMMIT


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """The store of a machine without a network."""
    return Store(tmp_path / "other")


def put(store: Store, gguf: Path, *parts: str, name: str = "org/model:F32") -> Record:
    """A real small model in the store, with its licence."""
    folder = store.folder / "hub" / "a"
    files = []
    for part in (*(parts or ("Q/model-F32.gguf",)), "LICENSE"):
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if part == "LICENSE":
            target.write_text("free")
        else:
            shutil.copyfile(gguf, target)
        files.append(StoredFile(part, target.stat().st_size, sha256_of(target)))
    record = Record(
        name, Source.HUB, "hub/a", tuple(files[:-1]), "org/model", COMMIT, "apache-2.0", licence_files=(files[-1],)
    )
    store.add(record)
    return record


@pytest.fixture
def record(store: Store, tiny_gguf: Path) -> Record:
    return put(store, tiny_gguf)


@pytest.fixture
def bundle(store: Store, record: Record, tmp_path: Path) -> Path:
    path = tmp_path / "model.bundle"
    write_bundle(store, record, path)
    return path


def is_untouched(store: Store) -> bool:
    """Whether nothing was left in the store, but for the files of its locks."""
    files = [path.relative_to(store.folder) for path in store.folder.rglob("*") if path.is_file()]
    return all(path.parts[0] == "locks" for path in files)


def refusal(store: Store, path: Path) -> str:
    with pytest.raises(EdgeError) as caught:
        read_bundle(store, path)
    assert caught.value.hint
    assert is_untouched(store)
    assert str(path) in caught.value.message
    return caught.value.message


# There and back


def test_model_arrives_with_its_record_and_licence(
    store: Store, other: Store, record: Record, bundle: Path, tiny_gguf: Path
) -> None:
    seen: list[Any] = []
    arrived = read_bundle(other, bundle, seen.append)
    assert arrived.source is Source.BUNDLE
    assert (arrived.name, arrived.files, arrived.licence_files) == (record.name, record.files, record.licence_files)
    assert (arrived.repository, arrived.revision, arrived.licence) == ("org/model", COMMIT, "apache-2.0")
    assert other.paths(arrived)[0].read_bytes() == tiny_gguf.read_bytes()
    assert other.licence_paths(arrived)[0].read_text() == "free"
    assert other.find("org/model:F32") == other.find("org/model") == arrived
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (record.size_bytes + 4, record.size_bytes + 4)
    assert not list((other.folder / "bundles").glob("*.part"))


def test_bundle_of_a_bundle_has_the_same_bytes(store: Store, other: Store, bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.bundle"
    write_bundle(other, read_bundle(other, bundle), again)
    with tarfile.open(bundle) as first, tarfile.open(again) as second:
        assert [(member.name, member.size) for member in first][1:] == [
            (member.name, member.size) for member in second
        ][1:]


def test_tar_programs_read_a_bundle(bundle: Path, tiny_gguf: Path) -> None:
    with tarfile.open(bundle) as archive:
        assert archive.getnames() == [LIST_NAME, "0001-model-F32.gguf", "0002-LICENSE"]
        content = archive.extractfile("0001-model-F32.gguf")
        assert content is not None
        assert content.read() == tiny_gguf.read_bytes()


def test_bundle_says_nothing_of_the_machine_it_was_made_on(store: Store, bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as archive:
        listed = archive.extractfile(LIST_NAME)
        assert listed is not None
        text = listed.read().decode()
    assert str(tmp_path) not in text
    assert "folder" not in json.loads(text)["record"]


def test_sizes_of_eight_gigabytes_and_more_fit_a_header() -> None:
    header = edge.bundle._header("0001-m.gguf", 20 << 30)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 20 << 30
    assert len(header) == 512


def test_bundle_that_is_taken_in_twice_is_there_once(other: Store, bundle: Path) -> None:
    first = read_bundle(other, bundle)
    assert read_bundle(other, bundle) == first
    assert len(list((other.folder / "bundles").iterdir())) == 1


def test_bundle_replaces_other_bytes_of_the_same_name(other: Store, bundle: Path, tmp_path: Path) -> None:
    older = tmp_path / "older.gguf"
    older.write_bytes(b"older")
    put(other, older)
    arrived = read_bundle(other, bundle)
    assert other.find("org/model:F32") == arrived
    assert not (other.folder / "hub").exists()


def test_remains_of_a_killed_attempt_are_cleared_away(other: Store, bundle: Path) -> None:
    remains = other.folder / "bundles" / "0123.part"
    remains.mkdir(parents=True)
    (remains / "m.gguf").write_text("half")
    read_bundle(other, bundle)
    assert not remains.exists()


# Writing


def test_existing_file_is_not_overwritten(store: Store, record: Record, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(EdgeError, match="mine exists already") as caught:
        write_bundle(store, record, tmp_path / "mine")
    assert caught.value.hint == "Remove it, or name another file."
    assert (tmp_path / "mine").read_text() == "mine"


def test_file_that_is_no_longer_what_came_is_not_packed(store: Store, record: Record, tmp_path: Path) -> None:
    path = store.paths(record)[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(EdgeError, match="is no longer what was put into the store") as caught:
        write_bundle(store, record, tmp_path / "out")
    assert "edge rm org/model:F32" in caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("out")] == []


def test_disk_without_the_room_is_noticed_before_anything_is_written(
    store: Store, other: Store, record: Record, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(EdgeError, match=r"bundle of org/model:F32 needs .* and 1\.00 kB are free in") as caught:
        write_bundle(store, record, tmp_path / "out")
    assert "edge rm" in caught.value.hint
    with pytest.raises(EdgeError, match=r"org/model:F32 needs .* and 1\.00 kB are free in"):
        read_bundle(other, bundle)
    assert is_untouched(other)


def test_folder_that_is_not_there_is_told(store: Store, record: Record, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="out cannot be written: No such file") as caught:
        write_bundle(store, record, tmp_path / "absent" / "out")
    assert "free space" in caught.value.hint


def test_bundle_beside_another_that_is_being_written_leaves_that_alone(
    store: Store, record: Record, tmp_path: Path
) -> None:
    (tmp_path / "out.part").write_text("another's")
    write_bundle(store, record, tmp_path / "out")
    assert (tmp_path / "out.part").read_text() == "another's"
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith("out")) == ["out", "out.part"]


# What is refused


def rewritten(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The bundle with its list changed, and the headers as they must be for it."""
    with tarfile.open(bundle) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    listed = json.loads(members[0][1])
    change(listed)
    return packed(bundle, [(LIST_NAME, json.dumps(listed).encode()), *members[1:]])


def packed(bundle: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(bundle, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return bundle


def contents(bundle: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(bundle) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


@pytest.mark.parametrize("kept", [0, 100, 512, 700, 1024, 5000, -4000])
def test_bundle_that_is_cut_off_is_refused(kept: int, other: Store, bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:kept])
    assert "is no bundle to be used" in refusal(other, bundle)


def test_cut_off_bundle_says_how_much_is_missing_before_anything_is_copied(other: Store, bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-4000])
    assert "it is cut off, or its list is wrong" in refusal(other, bundle)


@pytest.mark.parametrize("offset", [600, 1500, 100_000, -2000])
def test_any_changed_byte_is_noticed(offset: int, other: Store, bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    content[offset] ^= 1
    bundle.write_bytes(content)
    assert "is no bundle to be used" in refusal(other, bundle)


def test_content_with_another_hash_is_refused(other: Store, bundle: Path) -> None:
    members = contents(bundle)
    members[1] = (members[1][0], members[1][1][:-1] + b"?")
    message = refusal(other, packed(bundle, members))
    assert message.endswith("the content of Q/model-F32.gguf is not what its list says.")


@pytest.mark.parametrize("name", ["../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "C:\\evil.gguf", "aux", ""])
def test_path_out_of_the_store_is_refused(name: str, other: Store, bundle: Path) -> None:
    path = rewritten(bundle, lambda listed: listed["record"]["files"][0].update(file=name))
    assert "its list does not describe a model" in refusal(other, path)
    assert not (other.folder.parent / "evil.gguf").exists()


@pytest.mark.parametrize(
    "name", ["../x", "../../x:Q8_0", "a/b/c:Q8_0", "org/model", "a\\b:Q8_0", "\x1b[2J:Q8_0", 5, ""]
)
def test_name_that_no_model_has_is_refused(name: Any, other: Store, bundle: Path) -> None:
    path = rewritten(bundle, lambda listed: listed["record"].update(name=name))
    assert "its list does not describe a model, or has a name that is not safe" in refusal(other, path)


def test_name_in_the_archive_leads_nowhere(other: Store, bundle: Path) -> None:
    members = contents(bundle)
    members[1] = ("../../evil.gguf", members[1][1])
    assert "it has '../../evil.gguf' where '0001-model-F32.gguf' should be" in refusal(other, packed(bundle, members))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_whatever_is_no_regular_file_is_refused(kind: bytes, other: Store, bundle: Path) -> None:
    members = contents(bundle)
    with tarfile.open(bundle, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name.endswith(".gguf"):
                member.type, member.linkname, member.size = kind, "/etc/passwd", 0
                archive.addfile(member)
                archive.fileobj.write(bytes(-(-len(content) // 512) * 512))  # type: ignore[union-attr]
            else:
                archive.addfile(member, io.BytesIO(content))
    assert "is no regular file" in refusal(other, bundle)


@pytest.mark.parametrize("n_bytes", [1 << 50, (1 << 62) - 1])
def test_absurd_size_is_refused_before_anything_is_written(n_bytes: int, other: Store, bundle: Path) -> None:
    path = rewritten(bundle, lambda listed: listed["record"]["files"][0].update(bytes=n_bytes))
    assert "it is cut off, or its list is wrong" in refusal(other, path)


def test_list_of_an_absurd_size_is_not_read(other: Store, bundle: Path) -> None:
    header = tarfile.TarInfo(LIST_NAME)
    header.size = 1 << 40
    bundle.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bundle.read_bytes()[512:])
    assert "its list claims 1.10 TB" in refusal(other, bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed: listed.update(format=2), "its format is 2, and this edge reads 1."),
        (lambda listed: listed.pop("record"), "does not describe a model"),
        (lambda listed: listed["record"].update(files=[]), "does not describe a model"),
        (lambda listed: listed["record"]["files"][0].update(sha256="x"), "does not describe a model"),
        (lambda listed: listed["record"]["files"][0].update(file="model.bin"), "its model is no GGUF file."),
        (lambda listed: listed["record"]["licence_files"][0].update(file="Q"), "have the same place."),
        (lambda listed: listed["record"]["licence_files"][0].update(file="q/MODEL-f32.gguf"), "have the same place."),
        (lambda listed: listed["record"]["files"][0].update(bytes=5), "has another size than its list says."),
    ],
)
def test_list_that_cannot_be_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, other: Store, bundle: Path
) -> None:
    assert message in refusal(other, rewritten(bundle, change))


@pytest.mark.parametrize("listed", [b"{", b"[" * 100_000, b"[]", b"5", b"\xff"])
def test_list_that_is_no_list_is_refused(listed: bytes, other: Store, bundle: Path) -> None:
    message = refusal(other, packed(bundle, [(LIST_NAME, listed), *contents(bundle)[1:]]))
    assert "its list is not JSON" in message or "its format is None" in message


def test_more_than_the_list_says_is_refused(other: Store, bundle: Path) -> None:
    path = packed(bundle, [*contents(bundle), ("more", b"more")])
    assert "it does not end where its list does" in refusal(other, path)


def test_something_between_the_files_is_refused(other: Store, bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    list_bytes = len(contents(bundle)[0][1])
    content[512 + list_bytes] = 1
    bundle.write_bytes(content)
    assert "there is something between its files" in refusal(other, bundle)


def test_what_is_no_bundle_at_all_is_refused(other: Store, tmp_path: Path, tiny_gguf: Path) -> None:
    assert f"where {LIST_NAME} should be is no header" in refusal(other, tiny_gguf)
    assert "cannot be taken in: No such file" in refusal(other, tmp_path / "absent")
    assert "cannot be taken in: Is a directory" in refusal(other, tmp_path)


def test_model_that_is_no_gguf_is_refused_though_its_hash_is_right(store: Store, other: Store, tmp_path: Path) -> None:
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"not a model" * 100)
    path = tmp_path / "fake.bundle"
    write_bundle(store, put(store, fake), path)
    message = refusal(other, path)
    assert message.startswith(f"The model in {path} cannot be used: model-F32.gguf ")


def test_refused_bundle_leaves_the_model_that_was_there(other: Store, bundle: Path, tiny_gguf: Path) -> None:
    known = put(other, tiny_gguf, "other-F32.gguf")
    content = bytearray(bundle.read_bytes())
    content[100_000] ^= 1
    bundle.write_bytes(content)
    with pytest.raises(EdgeError):
        read_bundle(other, bundle)
    assert other.find("org/model:F32") == known
