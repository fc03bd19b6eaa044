"""Models of the hub into the store: checked by content, shared by processes, and exactly as a lockfile says."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.conversion_cache import ConversionCache
from edge.errors import EdgeError
from edge.hub import RepositoryFiles
from edge.locked_pull import pull_all, pull_one
from edge.lockfile import lock, read_lockfile, write_lockfile
from edge.pull import Puller, find_current
from edge.store import Store
from edge.store_record import Record, Source
from edge.stored_files import StoredFile
from tests.edge.fake_hub import CHECKPOINT, COMMIT, FakeConverter, FakeHub, sha256_text

OTHER_COMMIT = "decade" + "0" * 34


@pytest.fixture
def hub() -> FakeHub:
    fake = FakeHub()
    fake.repositories["org/model"] = {"model-Q8_0.gguf": "eight", "model-Q4_K_M.gguf": "four", "LICENSE": "free"}
    fake.repositories["org/source"] = {**CHECKPOINT, "LICENSE": "free"}
    fake.licence = "apache-2.0"
    return fake


def machine(folder: Path, hub: FakeHub) -> Puller:
    """A machine with an empty store, or with what is in `folder`."""
    return Puller(
        Store(folder), ConversionCache(folder, FakeConverter()), hub, lambda _: contextlib.nullcontext(lambda _: None)
    )


@pytest.fixture
def puller(tmp_path: Path, hub: FakeHub) -> Puller:
    return machine(tmp_path / "store", hub)


def content(puller: Puller, record: Record) -> list[str]:
    return [path.read_text() for path in puller.store.paths(record)]


# Downloads


def test_record_of_a_download_says_what_came_from_where(puller: Puller) -> None:
    record = puller.pull("org/model", "Q8_0")
    assert record == Record(
        name="org/model:Q8_0",
        source=Source.HUB,
        folder=f"hub/models--org--model/snapshots/{COMMIT}",
        files=(StoredFile("model-Q8_0.gguf", 5, sha256_text("eight")),),
        repository="org/model",
        revision=COMMIT,
        licence="apache-2.0",
        licence_files=(StoredFile("LICENSE", 4, sha256_text("free")),),
    )
    assert puller.store.find("org/model:Q8_0") == record
    assert puller.store.find("org/model") is None  # which would be the preferred quantization
    assert content(puller, record) == ["eight"]


def test_model_pulled_without_a_quantization_has_both_names(puller: Puller) -> None:
    record = puller.pull("org/model", None)
    assert record.name == "org/model:Q4_K_M"
    assert find_current(puller.store, "org/model") == record


def test_split_model_is_all_its_parts(puller: Puller, hub: FakeHub) -> None:
    parts = [f"m-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    hub.repositories["org/split"] = dict(zip(parts, ("one", "two"), strict=True))
    record = puller.pull("org/split", "Q8_0")
    assert [file.name for file in record.files] == parts
    assert content(puller, record) == ["one", "two"]


def test_download_with_another_hash_than_the_hubs_is_deleted_and_not_used(puller: Puller, hub: FakeHub) -> None:
    hub.wrong_bytes["model-Q8_0.gguf"] = "evil!"
    with pytest.raises(EdgeError) as caught:
        puller.pull("org/model", "Q8_0")
    assert caught.value.message == (
        f"model-Q8_0.gguf arrived with the sha256 {sha256_text('evil!')[:16]}..., but the hub says"
        f" {sha256_text('eight')[:16]}...: it is damaged, or not the same file."
    )
    assert caught.value.hint.startswith("It has been deleted. Pull it again")
    assert list(puller.store.folder.rglob("*.gguf")) == []
    assert puller.store.records() == []
    hub.wrong_bytes.clear()
    assert content(puller, puller.pull("org/model", "Q8_0")) == ["eight"]


def test_damaged_file_of_another_program_is_named_and_left(puller: Puller, hub: FakeHub, tmp_path: Path) -> None:
    class LibraryCache(FakeHub):
        def download(self, listing: RepositoryFiles, names: Any, folder: Path, progress: Any = None) -> Path:
            return super().download(listing, names, tmp_path / "library", progress)

    library = LibraryCache()
    library.repositories = hub.repositories
    elsewhere = replace(puller, hub=library)
    record = elsewhere.pull("org/model", "Q4_K_M")
    assert elsewhere.store.paths(record) == [tmp_path / "library" / "model-Q4_K_M.gguf"]
    library.wrong_bytes["model-Q8_0.gguf"] = "evil!"
    with pytest.raises(EdgeError, match="damaged") as caught:
        elsewhere.pull("org/model", "Q8_0")
    damaged = tmp_path / "library" / "model-Q8_0.gguf"
    assert caught.value.hint == f"It is not edge's: delete {damaged} , then pull the model again."
    assert damaged.exists()


def test_two_pulls_of_one_model_share_one_download(puller: Puller, hub: FakeHub) -> None:
    began, may_end = threading.Event(), threading.Event()

    class SlowHub(FakeHub):
        def download(self, listing: RepositoryFiles, names: Any, folder: Path, progress: Any = None) -> Path:
            began.set()
            assert may_end.wait(10)
            return super().download(listing, names, folder, progress)

    slow = SlowHub()
    slow.repositories = hub.repositories
    both = replace(puller, hub=slow)
    records: list[Record] = []
    threads = [threading.Thread(target=lambda: records.append(both.pull("org/model", "Q8_0"))) for _ in range(2)]
    threads[0].start()
    assert began.wait(10)
    threads[1].start()
    threads[1].join(timeout=0.2)
    assert threads[1].is_alive()  # it waits
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert records[0] == records[1]
    assert slow.downloaded == ["model-Q8_0.gguf", "LICENSE"]
    assert slow.listings == 1


# Conversions


def test_record_of_a_conversion_says_what_it_was_made_of(puller: Puller) -> None:
    record = puller.pull("org/source", "Q8_0")
    assert (record.name, record.source, record.revision) == ("org/source:Q8_0", Source.CONVERSION, COMMIT)
    assert content(puller, record) == ["Q8_0"]
    assert {file.name: file.sha256 for file in record.origin_files} == {
        name: sha256_text(text) for name, text in CHECKPOINT.items()
    }
    assert [path.read_text() for path in puller.store.licence_paths(record)] == ["free"]
    assert [other.name for other in puller.store.records()] == ["org/source:checkpoint", "org/source:Q8_0"]


def test_second_conversion_is_made_of_the_checkpoint_in_the_store_even_without_the_hub(
    puller: Puller, hub: FakeHub
) -> None:
    first = puller.pull("org/source", "Q8_0")
    hub.is_away = True
    second = puller.pull("org/source", "Q4_0")
    assert second.origin_files == first.origin_files
    assert puller.store.find("org/source:Q8_0") == first


def test_repository_stays_at_the_commit_of_its_checkpoint(puller: Puller, hub: FakeHub) -> None:
    puller.pull("org/source", "Q8_0")
    hub.revision = OTHER_COMMIT
    assert puller.pull("org/source", "Q4_0").revision == COMMIT


def test_conversions_outlive_their_checkpoint_and_its_return(puller: Puller) -> None:
    first = puller.pull("org/source", "Q8_0")
    checkpoint = puller.store.find("org/source:checkpoint")
    assert checkpoint is not None
    puller.store.remove(puller.store.removal(checkpoint))
    assert puller.store.find("org/source:Q8_0") == first
    puller.pull("org/source", "Q4_0")
    assert puller.store.find("org/source:Q8_0") == first


def test_hash_of_a_conversion_is_taken_from_its_proof(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(source: Path, quantizations: Any, out: Path, *, progress: Any = None) -> list[Path]:
        out.write_text("model")
        files = [{"name": out.name, "bytes": 5, "sha256": "ab" * 32}]
        out.with_name(out.name.replace(".gguf", ".proof.json")).write_text(json.dumps({"files": files}))
        return [out]

    proving = replace(puller, cache=ConversionCache(puller.store.folder, convert))
    assert proving.pull("org/source", "Q8_0").files == (StoredFile("source-Q8_0.gguf", 5, "ab" * 32),)


# Lockfiles


@pytest.mark.parametrize(("repository", "quantization"), [("org/model", "Q8_0"), ("org/source", "Q4_0")])
def test_another_machine_gets_the_same_bytes(
    repository: str, quantization: str, puller: Puller, hub: FakeHub, tmp_path: Path
) -> None:
    lockfile = tmp_path / "edge.lock"
    name = f"{repository}:{quantization}"
    record = pull_one(puller, name, lockfile, lambda: puller.pull(repository, quantization))
    hub.revision = OTHER_COMMIT
    other = machine(tmp_path / "other", hub)
    (got,) = pull_all(other, lockfile)
    assert got == record
    assert content(other, got) == content(puller, record)
    assert pull_one(other, repository, lockfile, lambda: pytest.fail("it is locked")) == got


def test_lockfile_has_everything_that_makes_a_model_the_same(puller: Puller, tmp_path: Path) -> None:
    lockfile = tmp_path / "edge.lock"
    pull_one(puller, "org/model:Q8_0", lockfile, lambda: puller.pull("org/model", "Q8_0"))
    assert json.loads(lockfile.read_text()) == {
        "format": 1,
        "models": [
            {
                "name": "org/model:Q8_0",
                "repository": "org/model",
                "revision": COMMIT,
                "licence": "apache-2.0",
                "files": [{"file": "model-Q8_0.gguf", "bytes": 5, "sha256": sha256_text("eight")}],
                "licence_files": [{"file": "LICENSE", "bytes": 4, "sha256": sha256_text("free")}],
            }
        ],
    }


def test_models_are_added_to_a_lockfile_and_pulled_together(puller: Puller, hub: FakeHub, tmp_path: Path) -> None:
    lockfile = tmp_path / "edge.lock"
    for quantization in ("Q8_0", "Q4_K_M"):
        pull_one(
            puller, f"org/model:{quantization}", lockfile, lambda chosen=quantization: puller.pull("org/model", chosen)
        )
    names = ["org/model:Q4_K_M", "org/model:Q8_0"]
    assert [model.name for model in read_lockfile(lockfile)] == names
    assert [record.name for record in pull_all(machine(tmp_path / "other", hub), lockfile)] == names
    with pytest.raises(EdgeError, match=r"several models of org/model: org/model:Q4_K_M, org/model:Q8_0\.") as caught:
        pull_one(puller, "org/model", lockfile, lambda: pytest.fail("which?"))
    assert caught.value.hint == "Name one of them."


def test_file_that_differs_from_the_lockfile_is_deleted_and_not_used(
    puller: Puller, hub: FakeHub, tmp_path: Path
) -> None:
    lockfile = tmp_path / "edge.lock"
    pull_one(puller, "org/model:Q8_0", lockfile, lambda: puller.pull("org/model", "Q8_0"))
    hub.repositories["org/model"]["model-Q8_0.gguf"] = "evil!"
    other = machine(tmp_path / "other", hub)
    with pytest.raises(EdgeError, match=f"but {lockfile} says {sha256_text('eight')[:16]}"):
        pull_all(other, lockfile)
    assert other.store.records() == []
    assert list(other.store.folder.rglob("*.gguf")) == []


def test_model_of_another_commit_gives_way_to_the_locked_one(puller: Puller, hub: FakeHub, tmp_path: Path) -> None:
    lockfile = tmp_path / "edge.lock"
    pull_one(puller, "org/model:Q8_0", lockfile, lambda: puller.pull("org/model", "Q8_0"))
    other = machine(tmp_path / "other", hub)
    hub.repositories["org/model"]["model-Q8_0.gguf"] = "nine!"
    hub.revision = OTHER_COMMIT
    newer = other.pull("org/model", "Q8_0")
    hub.repositories["org/model"]["model-Q8_0.gguf"] = "eight"
    (record,) = pull_all(other, lockfile)
    assert content(other, record) == ["eight"]
    assert not other.store.paths(newer)[0].exists()


def test_model_that_was_damaged_here_is_told_by_a_locked_pull(puller: Puller, tmp_path: Path) -> None:
    lockfile = tmp_path / "edge.lock"
    record = pull_one(puller, "org/model:Q8_0", lockfile, lambda: puller.pull("org/model", "Q8_0"))
    puller.store.paths(record)[0].write_text("EIGHT")
    with pytest.raises(EdgeError, match="is damaged"):
        pull_all(puller, lockfile)


def test_conversion_with_other_bytes_than_locked_is_not_used(puller: Puller, hub: FakeHub, tmp_path: Path) -> None:
    lockfile = tmp_path / "edge.lock"
    pull_one(puller, "org/source:Q8_0", lockfile, lambda: puller.pull("org/source", "Q8_0"))

    def other_version(source: Path, quantizations: Any, out: Path, *, progress: Any = None) -> list[Path]:
        out.write_text("else")
        return [out]

    folder = tmp_path / "other"
    other = replace(machine(folder, hub), cache=ConversionCache(folder, other_version))
    with pytest.raises(EdgeError, match="it was made by another version of edge or llama") as caught:
        pull_all(other, lockfile)
    assert "--bundle" in caught.value.hint
    assert other.store.find("org/source:Q8_0") is None
    assert list(folder.rglob("*.gguf")) == []


def test_what_is_not_of_the_hub_cannot_be_locked() -> None:
    record = Record("demo:Q8_0", Source.CONVERSION, "a", (StoredFile("m.gguf", 1, "0" * 64),))
    with pytest.raises(EdgeError, match="demo:Q8_0 does not come from the hub") as caught:
        lock(record)
    assert "--bundle" in caught.value.hint


MODEL = {
    "name": "org/model:Q8_0",
    "repository": "org/model",
    "revision": COMMIT,
    "files": [{"file": "m.gguf", "bytes": 1, "sha256": "0" * 64}],
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no lockfile of edge's: it is not JSON."),
        ("[" * 100_000, "is no lockfile of edge's: it is not JSON."),
        ("\ud800", "is no lockfile of edge's: it is not JSON."),
        ("[]", "is no lockfile of edge's: it has no list of models."),
        ({"format": 2, "models": []}, "has the format 2; this edge reads 1."),
        ({"format": 1, "models": [5]}, "in model 1, "),
        ({"format": 1, "models": [MODEL, MODEL]}, "org/model:Q8_0 is in it twice."),
        ({"format": 1, "models": [MODEL | {"repository": "../.."}]}, "in model 1, '../..' is no repository."),
        (
            {"format": 1, "models": [MODEL | {"name": "other/model:Q8_0"}]},
            "'other/model:Q8_0' is no model of org/model",
        ),
        ({"format": 1, "models": [MODEL | {"revision": "main"}]}, "'main' is no commit."),
        ({"format": 1, "models": [MODEL | {"licence": 5}]}, "5 is no licence."),
        ({"format": 1, "models": [MODEL | {"files": []}]}, "it names no files."),
        ({"format": 1, "models": [MODEL | {"files": [{"file": "m"}]}]}, "in model 1, 'bytes' is missing."),
        (
            {"format": 1, "models": [MODEL | {"files": [{"file": "../m", "bytes": 1, "sha256": "0" * 64}]}]},
            "the file name '../m' cannot be.",
        ),
        (
            {"format": 1, "models": [MODEL | {"converted": [{"file": "m", "bytes": 1, "sha256": "X"}]}]},
            "'X' of m is no sha256.",
        ),
    ],
)
def test_lockfile_that_is_wrong_is_refused_with_the_reason(text: Any, message: str, tmp_path: Path) -> None:
    lockfile = tmp_path / "edge.lock"
    lockfile.write_bytes((text if isinstance(text, str) else json.dumps(text)).encode("utf-8", "surrogatepass"))
    with pytest.raises(EdgeError) as caught:
        read_lockfile(lockfile)
    assert message in caught.value.message
    assert caught.value.hint


def test_lockfile_that_cannot_be_read_or_written_is_an_edge_error(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"absent\.lock cannot be read: No such file") as caught:
        read_lockfile(tmp_path / "absent.lock")
    assert "makes one" in caught.value.hint
    with pytest.raises(EdgeError, match="cannot be written: No such file") as caught:
        write_lockfile(tmp_path / "absent" / "edge.lock", [])
    assert caught.value.hint == "Check the folder and the free space there; the model itself is in the store."
    with (tmp_path / "large.lock").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(EdgeError, match="too large for a lockfile"):
        read_lockfile(tmp_path / "large.lock")


# Without a network

NO_CONNECTIONS = """
import socket, sys

def refuse(*arguments, **options):
    print("CONNECTION", arguments, flush=True)
    raise OSError("a connection was made")

socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
from edge.cli import main
sys.argv = ["edge", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pull", "org/model:Q8_0"], 0, "org/model:Q8_0"),
        (["pull", "org/model"], 0, "org/model:Q8_0"),
        (["pull", "--lock", "edge.lock"], 0, "org/model:Q8_0"),
        (["list"], 0, "org/model"),
        (["verify", "org/model:Q8_0"], 0, "content"),
        (["rm", "org/model:Q8_0", "--yes"], 0, "freed"),
        (["pull", "org/model:Q4_0"], 1, "HF_HUB_OFFLINE forbids"),
        (["pull", "org/absent"], 1, "HF_HUB_OFFLINE forbids"),
        (["run", "org/absent", "Hi"], 1, "HF_HUB_OFFLINE forbids"),
    ],
)
def test_offline_makes_no_connection(arguments: list[str], code: int, said: str, hub: FakeHub, tmp_path: Path) -> None:
    puller = machine(tmp_path / "store", hub)
    del hub.repositories["org/model"]["model-Q4_K_M.gguf"]
    pull_one(puller, "org/model", tmp_path / "edge.lock", lambda: puller.pull("org/model", None))
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "EDGE_CACHE": str(tmp_path / "store")}
    done = subprocess.run(
        [sys.executable, "-c", NO_CONNECTIONS, *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CONNECTION" not in done.stdout
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stderr
