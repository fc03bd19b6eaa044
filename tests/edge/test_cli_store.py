"""The commands of the model store: what they print, ask and refuse."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import edge.cli
import edge.models
from edge.store import Store
from tests.edge.conftest import Command, error_lines
from tests.edge.fake_hub import COMMIT, FakeHub, sha256_text
from tests.tiny import write_tiny_checkpoint


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    fake.repositories["org/model"] = {"model-Q8_0.gguf": "eight", "model-Q4_K_M.gguf": "four"}
    fake.licence = "gemma"
    monkeypatch.setattr(edge.models, "HuggingFaceHub", lambda: fake)
    return fake


# pull


def test_pull_prints_what_it_got_and_where_it_is(edge_command: Command, store: Store) -> None:
    outcome = edge_command("pull", "org/model:Q8_0")
    path = store.folder / "hub/models--org--model/snapshots" / COMMIT / "model-Q8_0.gguf"
    assert outcome.out == f"org/model:Q8_0  5 bytes, from the hub at {COMMIT[:12]}, licence gemma\n  {path}\n"
    assert (outcome.code, outcome.err) == (0, "")


def test_pull_as_json_is_one_document(edge_command: Command, store: Store) -> None:
    (model,) = json.loads(edge_command("pull", "org/model", "--quant", "q8_0", "--json").out)["models"]
    assert model.pop("last_used").startswith("20")
    assert model == {
        "name": "org/model:Q8_0",
        "quantization": "Q8_0",
        "bytes": 5,
        "source": "hub",
        "is_whole": True,
        "repository": "org/model",
        "revision": COMMIT,
        "licence": "gemma",
        "path": str(store.folder / "hub/models--org--model/snapshots" / COMMIT / "model-Q8_0.gguf"),
        "files": [{"file": "model-Q8_0.gguf", "bytes": 5, "sha256": sha256_text("eight")}],
    }


def test_pull_of_what_is_there_does_not_ask_the_hub(edge_command: Command, hub: FakeHub) -> None:
    edge_command("pull", "org/model:Q8_0")
    assert edge_command("pull", "org/model:Q8_0").code == 0
    assert hub.listings == 1


def test_lockfile_is_written_and_followed(
    edge_command: Command, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge_command("pull", "org/model:Q8_0", "--lock", "edge.lock")
    edge_command("pull", "org/model:Q4_K_M", "--lock", "edge.lock")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "other"))
    hub.repositories["org/model"] |= {"model-Q8_0.gguf": "newer"}
    error, hint = error_lines(edge_command("pull", "--lock", "edge.lock"))
    assert error.startswith("model-Q8_0.gguf arrived with the sha256")
    assert hint.startswith("It has been deleted.")
    hub.repositories["org/model"] |= {"model-Q8_0.gguf": "eight"}
    assert [line.split()[0] for line in edge_command("pull", "--lock", "edge.lock").out.splitlines()[::2]] == [
        "org/model:Q4_K_M",
        "org/model:Q8_0",
    ]


def test_model_moves_in_a_bundle_between_two_empty_machines(
    edge_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_tiny_checkpoint("llama3", tmp_path)
    (checkpoint / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\nlicense: none\n")
    (checkpoint / "LICENSE").write_text("free")
    packed = edge_command("pull", str(checkpoint), "--quant", "Q8_0", "--bundle", "model.bundle")
    assert packed.code == 0, packed.err
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "other"))
    taken = edge_command("pull", "--from-bundle", "model.bundle")
    assert taken.out.splitlines()[0].endswith("from a bundle, licence mit")
    assert edge_command("verify", "llama3:Q8_0").out.splitlines()[1] == (
        "  ✓ content  the file has its sha256: it is what came as llama3:Q8_0"
    )
    shutil.rmtree(checkpoint)  # a directory of that name would come first
    options = ("Hi", "--max-tokens", "2", "--threads", "1", "--raw", "--temperature", "0")
    answer = edge_command("run", "llama3:Q8_0", *options)
    assert answer.code == 0, answer.err
    assert edge_command("run", "llama3", *options) == answer


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["x.gguf"], "x.gguf is a file of yours: every command takes it as it is.", "Pull a name on the hub"),
        (["demo", "--lock", "f"], "demo does not come from the hub, so that a lockfile cannot say", "--bundle FILE"),
        (["--lock", "f", "--bundle", "b"], "--quant and --bundle are for one model.", "Name it before"),
        (["--lock", "absent"], "The lockfile absent cannot be read: No such file", "makes one"),
        (["org/model", "--bundle", "x.gguf"], "x.gguf exists already.", "name another file"),
        (["org/model", "--bundle", "absent/b"], "There is no folder for absent/b.", "Make it, or name another file."),
        (["org/model", "--from-bundle", "b"], "--from-bundle takes all there is from the bundle.", "Leave the other"),
        (["org/absent"], "There is no model org/absent", ""),
        (["nonsense"], "There is no model 'nonsense': no such file or directory", "org/name[:QUANT]"),
        (["org/model:Q8_0", "--quant", "Q4_0"], "Two quantizations are asked for: Q4_0 and Q8_0.", "Give one"),
    ],
)
def test_pull_refuses_what_makes_no_sense(
    arguments: list[str], message: str, hint: str, edge_command: Command, tmp_path: Path
) -> None:
    (tmp_path / "x.gguf").write_text("mine")
    outcome = edge_command("pull", *arguments)
    assert outcome.code == 1
    assert not list((tmp_path / "store").rglob("*.gguf"))
    assert message in outcome.err
    assert hint in outcome.err
    assert outcome.out == ""


def test_pull_of_nothing_is_a_usage_error(edge_command: Command) -> None:
    outcome = edge_command("pull")
    assert outcome.code == 2
    assert "What to pull is missing." in outcome.err


# list


def test_list_has_a_line_for_each_model_the_last_used_on_top(edge_command: Command, store: Store) -> None:
    edge_command("pull", "org/model:Q8_0")
    edge_command("pull", "org/model:Q4_K_M")
    for path, time in zip(sorted((store.folder / "records").iterdir()), (2_000_000_000, 1_000_000_000), strict=True):
        os.utime(path, (time, time))
    lines = [line.split() for line in edge_command("list").out.splitlines()]
    assert lines[0] == ["Name", "Quantization", "Size", "Source", "Last", "used", "Licence"]
    assert [line[:2] for line in lines[1:3]] == [["org/model", "Q4_K_M"], ["org/model", "Q8_0"]]
    assert lines[1][2:5] == ["4", "bytes", "hub"]
    assert lines[1][-1] == "gemma"
    assert " ".join(lines[3]) == f"2 models, 9 bytes in {store.folder}"


def test_list_as_json_has_models_and_what_was_begun(edge_command: Command, store: Store) -> None:
    edge_command("pull", "org/model:Q8_0")
    part = store.hub_folder("org/other", COMMIT) / "m.gguf.part"
    part.parent.mkdir(parents=True)
    part.write_text("half")
    document = json.loads(edge_command("list", "--json").out)
    assert document["folder"] == str(store.folder)
    assert [model["name"] for model in document["models"]] == ["org/model:Q8_0"]
    assert document["unfinished_downloads"] == [{"path": str(part), "bytes": 4}]
    assert "Unfinished downloads: 4 bytes; `edge pull` goes on with them" in edge_command("list").out


def test_empty_store_is_said_to_be_empty(edge_command: Command, store: Store) -> None:
    assert edge_command("list").out == f"No models in {store.folder}\n"


def test_model_that_lost_a_part_is_listed_as_damaged(edge_command: Command, store: Store) -> None:
    edge_command("pull", "org/model:Q8_0")
    next(store.folder.rglob("*.gguf")).write_text("e")
    assert "hub, damaged" in edge_command("list").out
    error, hint = error_lines(edge_command("verify", "org/model:Q8_0"))
    assert "model-Q8_0.gguf is damaged: its sha256 is" in error
    assert hint == "Get it anew: edge rm org/model:Q8_0, then edge pull org/model:Q8_0"
    assert edge_command("rm", "org/model:Q8_0", "--yes").out == "1 byte freed.\n"


def test_verify_takes_a_name_as_rm_does(edge_command: Command, tmp_path: Path) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    edge_command("pull", "org/model:Q8_0")
    assert edge_command("verify", "org/model").out.splitlines()[1].endswith("it is what came as org/model:Q8_0")
    edge_command("pull", "org/model:Q4_K_M")
    assert error_lines(edge_command("verify", "org/model")) == [
        "There are several models of org/model in the store: org/model:Q4_K_M, org/model:Q8_0.",
        "Name one of them.",
    ]
    assert error_lines(edge_command("verify", "org/other:Q8_0")) == [
        "There is no file org/other:Q8_0, and no model of that name in the store.",
        "Check the path; `edge list` shows what is in the store.",
    ]


def test_running_a_model_makes_it_the_last_used(
    edge_command: Command, store: Store, tmp_path: Path, tiny_gguf: Path, hub: FakeHub
) -> None:
    edge_command("pull", "org/model:Q8_0")
    (path,) = (store.folder / "records").iterdir()
    os.utime(path, (1000, 1000))
    edge.models.resolve("org/model:Q8_0")
    assert path.stat().st_mtime > 1_000_000_000


# rm


class Terminal:
    """A person at a terminal who types one answer."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self, *_: object) -> str:
        return f"{self.answer}\n"


@pytest.mark.parametrize(("answer", "code", "is_left"), [("y", 0, False), ("n", 1, True), ("", 1, True)])
def test_rm_shows_what_would_be_freed_and_asks(
    answer: str,
    code: int,
    is_left: bool,
    edge_command: Command,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edge_command("pull", "org/model:Q8_0")
    path = next(store.folder.rglob("*.gguf"))
    monkeypatch.setattr("sys.argv", ["edge", "rm", "org/model:Q8_0"])
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    with pytest.raises(SystemExit) as ended:
        edge.cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == code
    assert err.startswith(f"org/model:Q8_0: 5 bytes\n  {path}\n")
    assert path.exists() is is_left
    assert ("Nothing was removed." in err) is is_left
    assert out.endswith("" if is_left else "5 bytes freed.\n")


def test_rm_removes_nothing_when_nobody_can_be_asked(edge_command: Command, store: Store) -> None:
    edge_command("pull", "org/model:Q8_0")
    outcome = edge_command("rm", "org/model:Q8_0")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-2:] == [
        "error: Nothing was removed: there is nobody to ask.",
        "hint:  Give --yes to do without.",
    ]
    assert len(list(store.folder.rglob("*.gguf"))) == 1


def test_rm_of_a_repository_takes_all_of_it(edge_command: Command, store: Store) -> None:
    edge_command("pull", "org/model:Q8_0")
    edge_command("pull", "org/model:Q4_K_M")
    part = store.hub_folder("org/model", COMMIT) / "m.gguf.part"
    part.write_text("half")
    document = json.loads(edge_command("rm", "org/model", "--yes", "--json").out)
    assert document["freed_bytes"] == 5 + 4 + 4
    assert document["models"] == ["org/model:Q4_K_M", "org/model:Q8_0"]
    assert document["removed"][-1] == str(part)
    assert document["left"] == []
    assert not (store.folder / "hub").exists()
    assert edge_command("list").out == f"No models in {store.folder}\n"


def test_rm_waits_for_a_download_that_is_going_on(
    edge_command: Command, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = store.hub_folder("org/model", COMMIT) / "m.gguf.part"
    part.parent.mkdir(parents=True)
    part.write_text("half")
    seen: list[tuple[str, bool]] = []

    @contextmanager
    def held(_: Store, what: str) -> Iterator[None]:
        seen.append((what, part.exists()))
        yield
        seen.append((what, part.exists()))

    monkeypatch.setattr(Store, "held", held)
    assert edge_command("rm", "org/model", "--yes").out == "4 bytes freed.\n"
    assert seen == [("org/model", True), ("org/model", False)]


def test_rm_never_touches_a_file_of_a_persons_own(edge_command: Command, tmp_path: Path, store: Store) -> None:
    (tmp_path / "mine.gguf").write_text("mine")
    error, hint = error_lines(edge_command("rm", "mine.gguf", "--yes"))
    assert error == f"mine.gguf is not in the model store {store.folder}, and edge removes nothing else."
    assert hint == "Delete it yourself, if you mean to."
    assert (tmp_path / "mine.gguf").exists()


def test_rm_of_an_unknown_name_says_what_is_near(edge_command: Command) -> None:
    error, hint = error_lines(edge_command("rm", "org/model:Q8_0", "--yes"))
    assert error == "There is no model org/model:Q8_0 in the store."
    assert hint == "`edge list` shows what there is."
    edge_command("pull", "org/model:Q8_0")
    assert error_lines(edge_command("rm", "org/modell:Q8_0", "--yes"))[1] == "Did you mean org/model:Q8_0?"
