"""The session that a running chat is kept in, and the list of all of them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from edge.errors import EdgeError
from edge.prompt import Message
from edge.repl_commands import obey
from edge.repl_sessions import session_table
from edge.session import SessionFile
from edge.session_list import last_session, list_sessions, one_line, session_names
from edge.session_record import read_record
from edge.session_shelf import is_named
from tests.edge.fake_engine import FakeEngine
from tests.edge.talks import talk_with

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def kept_talk(folder: Path, model: Path, *items: str) -> list[str]:
    """Talk, and leave; gives the names of all sessions."""
    talk = talk_with(FakeEngine(["It is Paris.", "Two million."]), *items, folder=folder, model=model, keeps=True)
    talk.shelf.close()
    return session_names(folder)


def refusal(folder: Path, model: Path, command: str) -> tuple[str, str]:
    talk = talk_with(FakeEngine(), folder=folder, model=model, keeps=True)
    with pytest.raises(EdgeError) as caught:
        obey(talk, command)
    return caught.value.message, caught.value.hint


# What is kept


def test_chat_without_a_name_is_kept_as_text_under_the_time(folder: Path, tiny_gguf: Path) -> None:
    (name,) = kept_talk(folder, tiny_gguf, "Capital of France?")
    assert not is_named(name)
    assert read_record(folder / f"{name}.json").conversation.messages[1] == Message("assistant", "It is Paris.")
    assert not (folder / f"{name}.prefix").exists()


def test_chat_in_which_nothing_was_said_is_not_kept(folder: Path, tiny_gguf: Path) -> None:
    assert kept_talk(folder, tiny_gguf, "/help") == []
    assert not folder.exists()


def test_chats_of_the_same_second_are_two(folder: Path, tiny_gguf: Path) -> None:
    kept_talk(folder, tiny_gguf, "One")
    names = kept_talk(folder, tiny_gguf, "Two", "/new", "Three")
    assert len(names) == 3 and not any(map(is_named, names))


def test_chat_goes_on_where_it_cannot_be_kept(tmp_path: Path, tiny_gguf: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    talk = talk_with(FakeEngine(), "One", "Two", folder=tmp_path / "file" / "x", model=tiny_gguf, keeps=True)
    assert len(talk.chat.messages) == 4
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("This chat is not kept. Sessions cannot be kept in ") for line in lines) == 1


def test_what_was_written_before_an_error_is_kept(folder: Path, tiny_gguf: Path) -> None:
    engine = FakeEngine(["one two three"])

    def fail(word: str) -> None:
        if word == "three":
            raise EdgeError("The engine's process was ended by SIGKILL.")

    engine.before_token = fail
    talk_with(engine, "Count", folder=folder, model=tiny_gguf, keeps=True)
    (name,) = session_names(folder)
    assert read_record(folder / f"{name}.json").conversation.messages[-1].content == "one two "


# /save, /load, /new


def test_saved_chat_has_its_name_only_and_what_was_computed(folder: Path, tiny_gguf: Path) -> None:
    assert kept_talk(folder, tiny_gguf, "Capital of France?", "/save trip", "People?") == ["trip"]
    assert len(read_record(folder / "trip.json").conversation.messages) == 4
    assert (folder / "trip.prefix").exists()


def test_chat_of_a_name_is_copied_under_another_one(folder: Path, tiny_gguf: Path) -> None:
    names = kept_talk(folder, tiny_gguf, "Capital of France?", "/save trip", "/save journey", "People?")
    assert names == ["journey", "trip"]
    assert len(read_record(folder / "trip.json").conversation.messages) == 2
    assert len(read_record(folder / "journey.json").conversation.messages) == 4


def test_loaded_chat_goes_on_with_its_settings_branches_and_system_text(folder: Path, tiny_gguf: Path) -> None:
    kept_talk(folder, tiny_gguf, "/system Be brief.", "/set top_k 3", "Capital?", "/retry", "/save trip")
    engine = FakeEngine()
    talk = talk_with(engine, "Before", "/load trip", "And?", folder=folder, model=tiny_gguf, keeps=True)
    assert engine.prompt().startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nCapital?")
    assert engine.requests[-1].sampling.top_k == 3
    assert len(talk.chat.branches.others) == 1
    assert engine.loaded_tokens
    assert talk.shelf.name == "trip"


def test_new_conversation_leaves_the_last_one_as_it_is(folder: Path, tiny_gguf: Path, capsys: Captured) -> None:
    kept_talk(folder, tiny_gguf, "Capital of France?", "/save trip", "/new", "Hi")
    assert "A new conversation. The last one is kept as trip." in capsys.readouterr().err
    assert len(read_record(folder / "trip.json").conversation.messages) == 2
    assert len(session_names(folder)) == 2


def test_session_of_an_earlier_kind_of_computation_is_told_before_the_answer(
    folder: Path, tiny_gguf: Path, capsys: Captured
) -> None:
    kept_talk(folder, tiny_gguf, "Capital of France?", "/save trip")
    (folder / "trip.prefix").unlink()
    talk_with(FakeEngine(), "/load trip", "Hi", folder=folder, model=tiny_gguf)
    lines = capsys.readouterr().err.splitlines()
    assert "Session trip: 2 messages." in lines
    assert f"Session trip is computed again, because there is no {folder}/trip.prefix." in lines


def test_names_that_cannot_be_are_refused(folder: Path, tiny_gguf: Path) -> None:
    kept_talk(folder, tiny_gguf, "Capital of France?", "/save trip")
    assert refusal(folder, tiny_gguf, "/save") == ("A session needs a name.", "Usage: /save NAME")
    assert refusal(folder, tiny_gguf, "/save a/b")[0] == "'a/b' is no name for a session."
    taken = refusal(folder, tiny_gguf, "/save trip")
    assert taken == ("There is a session trip already.", "Use another name, or go on with it: /load trip")
    assert refusal(folder, tiny_gguf, "/load")[0] == "Which session?"
    assert refusal(folder, tiny_gguf, "/load tripp") == ("There is no session 'tripp'.", "Did you mean trip?")
    assert refusal(folder, tiny_gguf, "/load x") == ("There is no session 'x'.", "/sessions lists them.")
    with SessionFile(folder, "trip"):
        assert refusal(folder, tiny_gguf, "/load trip")[0] == "The session trip is open in another chat."


def test_session_of_another_model_is_refused_with_the_way_to_it(folder: Path, tiny_gguf: Path) -> None:
    kept_talk(folder, tiny_gguf, "Capital of France?", "/save trip")
    document = json.loads((folder / "trip.json").read_text())
    document["model"] |= {"digest": "zz", "file_name": "gemma.gguf", "reference": "org/gemma"}
    (folder / "trip.json").write_text(json.dumps(document))
    message, hint = refusal(folder, tiny_gguf, "/load trip")
    assert message == f"The session trip was said with gemma.gguf; this is {tiny_gguf.name}."
    assert hint == "Change to its model first: /model org/gemma"
    SessionFile(folder, "trip").close()  # it was let go of


# The list


@pytest.fixture
def three(folder: Path, tiny_gguf: Path) -> Path:
    """`bees` was used first, `trip` last."""
    kept_talk(folder, tiny_gguf, "Do bees dance?", "/save bees")
    kept_talk(folder, tiny_gguf, "Capital of France?", "/retry", "/save trip")
    for place, name in enumerate(("bees", "trip")):
        path = folder / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "updated": f"2026-01-0{place + 1}T10:20:30+00:00"}))
        os.utime(path, (place, place))
    return folder


def test_sessions_are_found_by_what_was_said_in_any_branch_and_by_name(three: Path) -> None:
    def found(text: str) -> list[tuple[str, str]]:
        return [(each.name, each.snippet) for each in list_sessions(three, text)]

    assert found("") == [("trip", "Capital of France?"), ("bees", "Do bees dance?")]
    assert found("PARIS") == [("trip", "It is Paris."), ("bees", "It is Paris.")]
    assert found("million") == [("trip", "Two million.")]  # of the branch that goes on
    assert found("tri") == [("trip", "Capital of France?")]
    assert found("zebra") == []


def test_place_of_a_text_in_a_long_message_is_shown() -> None:
    assert one_line("a\n  b " * 100, 10) == "a b a b a…"


def test_last_session_is_the_one_written_last(three: Path, tmp_path: Path) -> None:
    assert last_session(three) == "trip"
    with pytest.raises(EdgeError, match=r"There are no sessions in .*\.\nBegin a chat without --continue\."):
        last_session(tmp_path / "none")


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (0, ["Name", "Used", "Messages", "Size", "Model", "What was said"]),
        (100, ["Name", "Used", "Messages", "Size", "Model", "What was said"]),
        (80, ["Name", "Used", "Messages", "Size", "What was said"]),
        (60, ["Name", "Used", "Messages", "What was said"]),
        (40, ["Name", "What was said"]),
    ],
)
def test_table_of_sessions_suits_the_terminal(three: Path, columns: int, names: list[str]) -> None:
    assert [column.header for column in session_table(list_sessions(three), columns).columns] == names


@pytest.mark.parametrize("columns", [30, 40, 60, 80, 100, 140])
def test_table_of_sessions_has_a_line_for_each(three: Path, columns: int) -> None:
    path = three / "trip.json"
    path.write_text(path.read_text().replace("Capital of France?", "Capital of France, " + "and more of it " * 20))
    console = Console(file=io.StringIO(), width=columns)
    console.print(session_table(list_sessions(three), columns))
    assert isinstance(console.file, io.StringIO)
    _title, _head, trip, bees = console.file.getvalue().splitlines()
    assert "2026-01-02 10:20" in trip or columns < 60
    assert trip.startswith("trip ") and "Capital of" in trip and "Do bees" in bees


def test_sessions_are_listed_in_the_chat(three: Path, tiny_gguf: Path, capsys: Captured) -> None:
    talk = talk_with(FakeEngine(), "/sessions million", "/sessions zebra", folder=three, model=tiny_gguf)
    text = capsys.readouterr().err
    assert "trip" in text and "bees" not in text
    assert f"There are no sessions with 'zebra' in {talk.shelf.folder}." in text


# Files from before there were branches, and damaged ones


def test_file_without_branches_is_read(three: Path) -> None:
    document = json.loads((three / "trip.json").read_text())
    del document["branches"]
    (three / "trip.json").write_text(json.dumps(document))
    assert read_record(three / "trip.json").conversation.branches.others == ()


@pytest.mark.parametrize(
    ("branches", "reason"),
    [
        ({"position": 0, "others": [{"shared": 9, "messages": []}]}, "a branch shares 9 messages"),
        ({"position": 5, "others": []}, "the place of a branch is 5"),
        ({"others": []}, "it lacks 'position'"),
    ],
)
def test_damaged_branches_are_refused(three: Path, branches: object, reason: str) -> None:
    document = json.loads((three / "trip.json").read_text())
    (three / "trip.json").write_text(json.dumps({**document, "branches": branches}))
    with pytest.raises(EdgeError, match=reason):
        read_record(three / "trip.json")
