"""The model store: its records, what is removed with a model and what never is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edge.terminal
from edge.content import check_content
from edge.errors import EdgeError
from edge.store import Store
from edge.store_record import Record, Source, record_from_json, record_to_json
from edge.stored_files import StoredFile, held, is_safe_name, sha256_of
from edge.terminal import byte_progress
from tests.edge.fake_hub import COMMIT, sha256_text


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, name: str = "org/model:Q8_0", folder: str = "models/a", **texts: str) -> Record:
    """A model whose files have these names and texts."""
    texts = texts or {"m": "weights"}
    files = []
    for stem, text in texts.items():
        path = store.folder / folder / f"{stem}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files.append(StoredFile(path.name, len(text), sha256_text(text)))
    record = Record(name, Source.HUB, folder, tuple(files), "org/model", COMMIT, "mit")
    store.add(record)
    return record


# Records


def test_record_is_found_again_as_it_was(store: Store) -> None:
    record = replace(
        put(store),
        licence_files=(StoredFile("LICENSE", 1, "0" * 64),),
        origin_files=(StoredFile("a/b.safetensors", 2, "1" * 64),),
        origin="hub:org/model",
        converter_version=3,
    )
    store.add(record)
    assert store.find("org/model:Q8_0") == record
    assert store.records() == [record]
    assert store.paths(record) == [store.folder / "models/a/m.gguf"]


def test_another_name_leads_to_the_record(store: Store) -> None:
    record = put(store)
    store.add(record, also_called="org/model")
    assert store.find("org/model") == record
    assert store.records() == [record]


@pytest.mark.parametrize("name", ["org/model", "org/model:Q4_0", "", "../x", "org--model:Q8_0", "\ud800", "a" * 5000])
def test_unknown_names_are_not_found(name: str, store: Store) -> None:
    put(store)
    assert store.find(name) is None


def test_model_that_lost_its_file_or_a_part_of_it_is_not_found(store: Store) -> None:
    record = put(store, a="one", b="two")
    (store.folder / "models/a/b.gguf").write_text("t")
    assert store.find(record.name) is None
    assert store.records() == [record]  # something is there that can be removed
    (store.folder / "models/a/b.gguf").unlink()
    (store.folder / "models/a/a.gguf").unlink()
    assert store.records() == []


def test_use_is_remembered_as_the_time_of_the_record(store: Store) -> None:
    record = put(store)
    path = next((store.folder / "records").iterdir())
    os.utime(path, (1000, 1000))
    assert store.last_used(record) == 1000
    store.mark_used(record)
    assert store.last_used(record) > 1000
    path.unlink()
    store.mark_used(record)
    assert store.last_used(record) == 0


CHANGES: dict[str, Any] = {
    "format": 2,
    "name": "",
    "source": "thin air",
    "folder": 5,
    "files": [],
    "licence": 5,
    "converter_version": True,
    "repository": [],
}
BROKEN_FILES: list[Any] = [
    None,
    [5],
    ["x"],
    [{}],
    [{"file": "../m.gguf", "bytes": 1, "sha256": "0" * 64}],
    [{"file": "/m.gguf", "bytes": 1, "sha256": "0" * 64}],
    [{"file": "m.gguf", "bytes": -1, "sha256": "0" * 64}],
    [{"file": "m.gguf", "bytes": 1 << 63, "sha256": "0" * 64}],
    [{"file": "m.gguf", "bytes": True, "sha256": "0" * 64}],
    [{"file": "m.gguf", "bytes": 1, "sha256": "0" * 63}],
    [{"file": "m.gguf", "bytes": 1, "sha256": "0" * 64}, {"file": "M.GGUF", "bytes": 1, "sha256": "0" * 64}],
]


@pytest.mark.parametrize("key", CHANGES)
def test_record_with_a_wrong_value_is_none(key: str, store: Store) -> None:
    content = record_to_json(put(store))
    assert record_from_json(content) is not None
    assert record_from_json(content | {key: CHANGES[key]}) is None


@pytest.mark.parametrize("files", BROKEN_FILES)
def test_record_with_files_that_cannot_be_is_none(files: Any, store: Store) -> None:
    assert record_from_json(record_to_json(put(store)) | {"files": files}) is None


@pytest.mark.parametrize(
    ("name", "is_safe"),
    [
        ("model.gguf", True),
        ("Q4_0/m[1]-Q4_0.gguf", True),
        ("模型.gguf", True),
        ("..", False),
        ("a/../b", False),
        ("/a", False),
        ("a//b", False),
        ("a/", False),
        ("", False),
        ("a\\b", False),
        ("C:x", False),
        ("nul", False),
        ("aux.gguf", False),
        ("a.", False),
        ("a ", False),
        ("a\n", False),
        ("a\0", False),
        ("a\u202e", False),
        ("x" * 201, False),
    ],
)
def test_names_are_safe_when_no_system_reads_more_into_them(name: str, is_safe: bool) -> None:
    assert is_safe_name(name) is is_safe


# Content


def test_changed_content_is_told_with_what_to_do(store: Store) -> None:
    record = put(store, a="one", b="two")
    check_content(store, record, byte_progress)
    path = store.folder / "models/a/b.gguf"
    path.write_text("owt")
    with pytest.raises(EdgeError) as caught:
        check_content(store, record, byte_progress)
    assert caught.value.message == (
        f"{path} is damaged: its sha256 is {sha256_text('owt')[:16]}..., not {sha256_text('two')[:16]}... as when it"
        " came."
    )
    assert caught.value.hint == "Get it anew: edge rm org/model:Q8_0, then edge pull org/model:Q8_0"


def test_file_that_is_gone_is_told(store: Store) -> None:
    record = put(store)
    (store.folder / "models/a/m.gguf").unlink()
    with pytest.raises(EdgeError, match=r"m\.gguf cannot be read: No such file") as caught:
        check_content(store, record, byte_progress)
    assert "pull the model again" in caught.value.hint


def test_hash_reports_its_progress_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 << 20))
    seen: list[Any] = []
    sha256_of(tmp_path / "file", seen.append)
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (3 << 20, 3 << 20)
    with pytest.raises(EdgeError, match="absent cannot be read"):
        sha256_of(tmp_path / "absent")


# Removing


def test_model_goes_with_its_files_its_proof_and_its_other_name(store: Store) -> None:
    record = put(store, m="weights")
    store.add(record, also_called="org/model")
    (store.folder / "models/a/m.proof.json").write_text("{}")
    removal = store.removal(record)
    assert removal.freed_bytes == 7 + 2
    assert [path.name for path in removal.paths] == ["m.gguf", "m.proof.json"]
    store.remove(removal)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []
    assert store.find("org/model") is None


def test_file_of_two_models_stays_until_both_are_gone(store: Store) -> None:
    first, second = put(store, "org/model:Q8_0"), put(store, "org/other:Q8_0")
    assert store.removal(first).paths == ()
    store.remove(store.removal(first))
    assert store.find("org/other:Q8_0") == second
    assert len(store.removal(second).paths) == 1


def test_files_outside_of_the_store_are_left_and_named(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "library" / "m.gguf"
    outside.parent.mkdir()
    outside.write_text("weights")
    record = Record("x:Q8_0", Source.HUB, str(outside.parent), (StoredFile("m.gguf", 7, "0" * 64),))
    store.add(record)
    removal = store.removal(record)
    assert (removal.paths, removal.outside, removal.freed_bytes) == ((), (outside,), 0)
    store.remove(removal)
    assert outside.exists()
    assert store.records() == []


def test_link_in_the_store_to_a_folder_outside_is_outside(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "m.gguf").write_text("weights")
    (store.folder / "models").mkdir(parents=True)
    (store.folder / "models" / "a").symlink_to(tmp_path / "mine")
    record = Record("x:Q8_0", Source.HUB, "models/a", (StoredFile("m.gguf", 7, "0" * 64),))
    store.add(record)
    store.remove(store.removal(record))
    assert (tmp_path / "mine" / "m.gguf").exists()


@pytest.mark.parametrize("place", ["../m.gguf", "models/../../m.gguf"])
def test_no_path_leads_the_removal_out_of_the_store(place: str, store: Store, tmp_path: Path) -> None:
    (store.folder / "models").mkdir(parents=True)
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(EdgeError, match="is not in the model store") as caught:
        store.remove_file(store.folder / place)
    assert "Delete it yourself" in caught.value.hint
    assert (tmp_path / "m.gguf").exists()


def test_replaced_model_goes_with_the_files_that_only_it_had(store: Store) -> None:
    put(store, folder="hub/old")
    new = put(store, folder="hub/new")
    assert store.records() == [new]
    assert not (store.folder / "hub/old").exists()


def test_file_that_cannot_be_removed_is_told(store: Store) -> None:
    (store.folder / "models" / "m.gguf").mkdir(parents=True)  # unlink refuses a folder
    with pytest.raises(EdgeError, match=r"m\.gguf cannot be removed") as caught:
        store.remove_file(store.folder / "models" / "m.gguf")
    assert "still uses" in caught.value.hint


def test_store_that_cannot_be_written_is_an_edge_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    record = Record("x:Q8_0", Source.HUB, "a", (StoredFile("m.gguf", 7, "0" * 64),))
    with pytest.raises(EdgeError, match=r"cache folder .* cannot be written") as caught:
        Store(tmp_path / "file").add(record)
    assert "EDGE_CACHE" in caught.value.hint


def test_unfinished_downloads_are_found_by_repository(store: Store) -> None:
    parts = []
    for repository in ("org/model", "org/other"):
        part = store.hub_folder(repository, COMMIT) / "Q4_0" / "m.gguf.part"
        part.parent.mkdir(parents=True)
        part.write_text("half")
        parts.append(part)
    assert store.unfinished() == sorted(parts)
    assert store.unfinished("org/model") == parts[:1]
    assert store.unfinished("*/*") == []


# Locks


def test_who_has_to_wait_for_another_process_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "locks" / "x.lock"
    lock.parent.mkdir()
    program = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "held\n"

        def note(text: str) -> None:
            noted.append(text)
            assert other.stdin
            other.stdin.write("\n")  # now the other process ends
            other.stdin.flush()

        noted: list[str] = []
        monkeypatch.setattr(edge.terminal, "note", note)
        with held(lock, "org/model"):
            pass
    assert noted == ["Another process is at work on org/model: waiting for it"]


def test_records_are_json_that_people_can_read(store: Store) -> None:
    put(store)
    content = json.loads(next((store.folder / "records").iterdir()).read_text())
    assert content["name"] == "org/model:Q8_0"
    assert content["files"] == [{"file": "m.gguf", "bytes": 7, "sha256": sha256_text("weights")}]
