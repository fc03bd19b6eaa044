"""Chats that are kept under a name, and baked system texts, on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge.session import SessionFile
from tests.edge.conftest import Command, error_lines
from tests.tiny import write_tiny_checkpoint

OPTIONS = ("--temperature", "0", "--max-tokens", "6", "--threads", "1")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "state" / "sessions"


@pytest.fixture
def model(tiny_gguf: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    shutil.copy(tiny_gguf, path)
    return path


def test_chat_goes_on_under_its_name(edge_command: Command, model: Path, state: Path) -> None:
    first = edge_command("chat", model, "--session", "work", *OPTIONS, "--system", "Be brief.", stdin=b"One\nTwo\n")
    assert (first.code, first.err) == (0, "Session work: new.\n")
    # neither the model nor the settings have to be given again
    second = edge_command("chat", "--session", "work", "--threads", "1", "--max-tokens", "6", stdin=b"Three\n")
    assert second.code == 0
    assert second.err.startswith("Session work: 4 messages, ")
    with SessionFile(state, "work") as file:
        assert file.record is not None
        said = file.record.conversation
        assert [message.content for message in said.messages[::2]] == ["One", "Two", "Three"]
        assert said.messages[5].content == second.out.removesuffix("\n")
        assert said.system == "Be brief."
        assert file.record.sampling.temperature == 0
        assert file.prefix_path.exists()


def test_options_win_over_what_the_session_had(edge_command: Command, model: Path, state: Path) -> None:
    edge_command("chat", model, "--session", "work", *OPTIONS, "--system", "Be brief.", stdin=b"One\n")
    options = ("--system", "Rhyme.", "--temperature", "0.5", "--seed", "3", "--threads", "1", "--max-tokens", "2")
    assert edge_command("chat", "--session", "work", *options, stdin=b"Two\n").code == 0
    with SessionFile(state, "work") as file:
        assert file.record is not None
        assert (file.record.sampling.temperature, file.record.sampling.seed) == (0.5, 3)
        assert file.record.conversation.system == "Rhyme."


def test_session_of_another_model_is_refused(edge_command: Command, model: Path, tmp_path: Path) -> None:
    edge_command("chat", model, "--session", "work", *OPTIONS, stdin=b"One\n")
    checkpoint = write_tiny_checkpoint("llama3", tmp_path)
    assert edge_command("convert", checkpoint, "--quant", "Q8_0", "--out", tmp_path / "other.gguf").code == 0
    message, hint = error_lines(edge_command("chat", tmp_path / "other.gguf", "--session", "work", stdin=b"Two\n"))
    assert message == "The session work was begun with tiny.gguf; this is other.gguf, another model."
    assert hint.startswith(f"Go on with its own: edge chat {model} --session work.")


def test_session_that_is_open_is_refused(edge_command: Command, model: Path, state: Path) -> None:
    with SessionFile(state, "work"):
        message, _ = error_lines(edge_command("chat", model, "--session", "work", stdin=b"One\n"))
    assert message == "The session work is open in another chat."


def test_error_that_ends_a_chat_loses_nothing_of_it(edge_command: Command, model: Path, state: Path) -> None:
    outcome = edge_command("chat", model, "--session", "work", *OPTIONS, stdin=b"One\n\xff\n")
    assert outcome.code == 1
    with SessionFile(state, "work") as file:
        assert file.record is not None and len(file.record.conversation.messages) == 2
        assert file.prefix_path.exists()


def test_sessions_are_listed(edge_command: Command, model: Path, state: Path) -> None:
    empty = edge_command("chat", "--list")
    assert (empty.code, empty.out, empty.err) == (0, "", f"There are no sessions in {state}.\n")
    edge_command("chat", model, "--session", "work", *OPTIONS, stdin=b"One\n")
    listed = edge_command("chat", "--list")
    assert listed.code == 0
    title, head, row = listed.out.splitlines()
    assert title.split() == ["Sessions"]
    assert head.split() == ["Name", "Used", "Messages", "Size", "Model", "What", "was", "said"]
    assert row.split()[0] == "work" and row.split()[3] == "2" and row.split()[-2:] == ["tiny.gguf", "One"]


def test_last_session_goes_on_without_its_name(edge_command: Command, model: Path, state: Path) -> None:
    message, hint = error_lines(edge_command("chat", "--continue", stdin=b"One\n"))
    assert message == f"There are no sessions in {state}." and hint == "Begin a chat without --continue."
    edge_command("chat", model, "--session", "work", *OPTIONS, stdin=b"One\n")
    outcome = edge_command("chat", "--continue", "--threads", "1", "--max-tokens", "6", stdin=b"Two\n")
    assert outcome.code == 0 and outcome.err.startswith("Session work: 2 messages, ")
    message, hint = error_lines(edge_command("chat", "--continue", "--session", "work", stdin=b"Two\n"))
    assert message.startswith("--continue goes on with the session that was used last: ")
    assert hint == "Leave one of them out."


def test_sessions_with_a_text_in_them_are_listed(edge_command: Command, model: Path, state: Path) -> None:
    for name, line in (("work", b"Bees\n"), ("trip", b"Rome\n")):
        edge_command("chat", model, "--session", name, *OPTIONS, stdin=line)
    rows = edge_command("chat", "--list", "rome").out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["trip"]
    outcome = edge_command("chat", "--list", "zebra")
    assert (outcome.out, outcome.err) == ("", f"There are no sessions with 'zebra' in {state}.\n")


def test_chat_from_a_pipe_is_kept_under_a_name_only(edge_command: Command, model: Path, state: Path) -> None:
    assert edge_command("chat", model, *OPTIONS, stdin=b"One\n/retry\n/branch\n").code == 0
    assert not state.exists()


def test_history_that_does_not_fit_is_refused_where_nothing_may_be_left_out(edge_command: Command, model: Path) -> None:
    line = b"The bees are dancing again and again and again and again. " * 3 + b"\n"
    arguments = ("chat", model, "--ctx", "256", *OPTIONS)
    dropped = edge_command(*arguments, stdin=line * 4)
    assert dropped.code == 0 and "earlier messages no longer fit" in dropped.err
    refused = edge_command(*arguments, "--overflow", "error", stdin=line * 4)
    assert refused.code == 1
    assert "error: The conversation has " in refused.err and "more than the 256 of the context" in refused.err


# Baked system texts


def test_baked_system_text_lies_beside_the_model_and_is_used(edge_command: Command, model: Path) -> None:
    system = "You are a beekeeper. " * 6
    baked = edge_command("bake", model, "--system", system, "--threads", "1", "--json")
    document = json.loads(baked.out)
    path = Path(document["path"])
    assert path.parent == model.parent and path.name.startswith("tiny.") and path.suffix == ".prefix"
    assert path.stat().st_size == document["bytes"]
    run = edge_command("run", model, "Hello", "--system", system, *OPTIONS, "--json")
    assert json.loads(run.out)["usage"]["cached_tokens"] == document["tokens"] > 30


def test_system_text_baked_without_repacked_weights_is_used_without_them(edge_command: Command, model: Path) -> None:
    system = "You are a beekeeper. " * 6
    edge_command("bake", model, "--system", system, "--threads", "1", "--no-repack")
    for options, is_used in ((["--no-repack"], True), (["--repack"], False)):
        run = edge_command("run", model, "Hello", "--system", system, *OPTIONS, *options, "--json")
        assert (json.loads(run.out)["usage"]["cached_tokens"] > 30) == is_used


def test_system_text_may_come_from_a_file_and_the_result_go_elsewhere(
    edge_command: Command, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "system.txt").write_text("You are a beekeeper.\n")
    out = tmp_path / "bees.prefix"
    outcome = edge_command("bake", model, "--system-file", tmp_path / "system.txt", "--out", out, "--threads", "1")
    path, size = outcome.out.splitlines()
    assert path == str(out) and out.exists()
    assert size.startswith("  ") and " tokens, " in size
    inline = edge_command("bake", model, "--system", "You are a beekeeper.", "--threads", "1", "--json")
    assert json.loads(inline.out)["tokens"] == int(size.split()[0])


def test_exactly_one_system_text_is_baked(edge_command: Command, model: Path, tmp_path: Path) -> None:
    for arguments in ((), ("--system", "a", "--system-file", tmp_path / "a")):
        message, hint = error_lines(edge_command("bake", model, *arguments))
        assert message == "Which system text?"
        assert hint == "Give it with --system, or a file that holds it with --system-file."
    message, _ = error_lines(edge_command("bake", model, "--system-file", tmp_path / "none"))
    assert message == f"{tmp_path}/none cannot be read: No such file or directory."


def test_system_text_that_is_too_long_is_refused_with_both_numbers(edge_command: Command, model: Path) -> None:
    message, _ = error_lines(edge_command("bake", model, "--system", "bees " * 2000, "--threads", "1"))
    assert message.startswith("The prompt has ") and message.endswith(" tokens, the context holds 512.")
