"""The commands of the terminal chat: what they do, what they say, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.chat import Chat
from edge.errors import EdgeError
from edge.prompt import Message
from edge.repl_commands import COMMANDS, help_text, obey, suggestions
from edge.repl_talk import Leave, Say, Talk, fenced
from edge.settings import AdapterSettings, SamplingSettings
from tests.edge.fake_engine import FakeEngine
from tests.edge.talks import FakeModels, FakeSource, talk_with

Captured = pytest.CaptureFixture[str]

ADAPTERS = (AdapterSettings(Path("pirate.gguf"), 0.5), AdapterSettings(Path("poet.gguf")))


def notes(capsys: Captured) -> list[str]:
    """Lines on stderr, without the greeting and what answers took."""
    return [line for line in capsys.readouterr().err.splitlines()[1:] if " · " not in line]


def said(talk: Talk) -> list[str]:
    return [message.content for message in talk.chat.messages]


def refusal(talk: Talk, text: str) -> tuple[str, str]:
    with pytest.raises(EdgeError) as caught:
        obey(talk, text)
    return caught.value.message, caught.value.hint


# Taking back, answering again, editing


def test_undo_takes_back_the_last_turn(capsys: Captured) -> None:
    talk = talk_with(FakeEngine(), "One", "Two", "/undo")
    assert said(talk) == ["One", "ok"]
    assert notes(capsys) == ["Taken back: Two"]
    talk_with(FakeEngine(), "/undo")
    assert notes(capsys) == ["error: There is nothing to take back.", "hint:  Nothing was said yet."]


def test_retry_answers_the_last_message_again_and_keeps_both_answers(capsys: Captured) -> None:
    engine = FakeEngine(["Heads.", "Tails."])
    talk = talk_with(engine, "Toss a coin.", "/retry", "/branch")
    assert engine.prompt(0) == engine.prompt(1)
    assert said(talk) == ["Toss a coin.", "Tails."]
    assert notes(capsys) == ["  1  1 turn; turn 1: Toss a coin. → Heads.", "* 2  1 turn; turn 1: Toss a coin. → Tails."]


def test_retry_says_when_the_answer_may_be_the_same(capsys: Captured) -> None:
    talk_with(FakeEngine(), "Hi", "/set seed 5", "/retry", "/set temperature 0", "/retry")
    lines = notes(capsys)
    assert "With seed 5, the answer may be the same." in lines
    assert "With temperature 0, the answer may be the same." in lines
    talk_with(FakeEngine(), "/retry")
    assert notes(capsys)[0] == "error: There is no message to answer again."


def test_retry_after_an_error_sends_the_message_that_had_no_answer(capsys: Captured) -> None:
    engine = FakeEngine(["One.", EdgeError("The engine's process was ended by SIGKILL."), "Two."])
    talk = talk_with(engine, "First", "Second", "/retry")
    assert said(talk) == ["First", "One.", "Second", "Two."]
    assert talk.chat.branches.others == ()
    assert "error: The engine's process was ended by SIGKILL." in notes(capsys)


def test_edit_offers_the_last_message_and_goes_on_from_there(capsys: Captured) -> None:
    engine = FakeEngine(["Paris.", "Madrid."])
    talk = talk_with(engine, "Capital of France?", "/edit", "Capital of Spain?")
    assert isinstance(talk.source, FakeSource)
    assert talk.source.drafts == ["Capital of France?"]
    assert said(talk) == ["Capital of Spain?", "Madrid."]
    assert [line[0].content for line in talk.chat.branches.others] == ["Capital of France?"]


def test_edit_of_an_earlier_message_leaves_all_that_followed_as_a_branch(capsys: Captured) -> None:
    talk = talk_with(FakeEngine(["a", "b", "c"]), "One", "Two", "/edit 1", "Three", "/branch 1")
    assert said(talk) == ["One", "a", "Two", "b"]
    assert notes(capsys) == ["* 1  2 turns; turn 1: One → a", "  2  1 turn; turn 1: Three → c"]


def test_edit_that_changes_nothing_sends_nothing(capsys: Captured) -> None:
    engine = FakeEngine()
    talk_with(engine, "One", "/edit", " ", "/edit 2", "/edit x")
    assert len(engine.requests) == 1
    assert notes(capsys) == [
        "The message stays as it was.",
        "error: There is no message 2.",
        "hint:  Messages: 1 to 1.",
        "error: 'x' is not a number.",
        "hint:  Usage: /edit [N]",
    ]
    talk_with(FakeEngine(), "/edit")
    assert notes(capsys)[0] == "error: There is no message to edit."


def test_edit_that_is_refused_leaves_the_conversation_as_it_was() -> None:
    engine = FakeEngine(["a", EdgeError("The prompt is too long."), "b"])
    talk = talk_with(engine, "One", "/edit", "Two")
    assert said(talk) == ["One", "a"]
    assert talk.chat.branches.others == ()


def test_branch_that_ends_before_the_others_part_from_it(capsys: Captured) -> None:
    talk_with(FakeEngine(["a", "b", "c"]), "One", "Two", "/retry", "/undo", "/branch")
    assert notes(capsys)[-2:] == ["  1  2 turns; turn 2: Two → b", "* 2  1 turn; there is no turn 2"]


def test_branches_take_a_line_each(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    talk = talk_with(FakeEngine(["word " * 40, "other " * 40]), "One " * 40, "/retry")
    capsys.readouterr()
    for columns in (50, 72, 100):
        monkeypatch.setattr("edge.repl_turns.note_columns", lambda columns=columns: columns)
        obey(talk, "/branch")
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("  1  1 turn; turn 1: One") and " → word" in first and len(first) < columns
        assert second.startswith("* 2  1 turn; turn 1: One") and " → other" in second and len(second) < columns


def test_branch_without_others_and_of_no_number(capsys: Captured) -> None:
    talk_with(FakeEngine(), "One", "/branch", "/branch 2")
    assert notes(capsys) == [
        "There is one branch only. /retry and /edit begin others.",
        "error: There is no branch 2.",
        "hint:  Branches: 1 to 1.",
    ]


# Settings


def test_set_changes_what_is_sent_and_lists_what_differs(capsys: Captured) -> None:
    engine = FakeEngine()
    commands = ("/set temperature 0.25", "/set max_tokens 7", "/set logit_bias 5=-1.5,7=2")
    talk_with(
        engine, "/set", *commands, "/set", "/set top_p", "Hi", "/set temperature default", "/set max_tokens default"
    )
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.logit_bias, engine.requests[0].max_tokens) == (
        0.25,
        ((5, -1.5), (7, 2.0)),
        7,
    )
    names = ", ".join(["max_tokens", *SamplingSettings.__dataclass_fields__])
    assert notes(capsys) == [
        "Every setting has its default.",
        f"Settings: {names}.",
        "temperature = 0.25",
        "max_tokens = 7",
        "logit_bias = 5=-1.5,7=2",
        "max_tokens = 7 (default: none)",
        "temperature = 0.25 (default: 0.5)",
        "logit_bias = 5=-1.5,7=2 (default: [])",
        f"Settings: {names}.",
        "top_p = 0.95 (default: 0.95)",
        "temperature = 0.5",
        "max_tokens = none",
    ]


@pytest.mark.parametrize(
    ("command", "message", "hint"),
    [
        ("/set temprature 1", "There is no setting 'temprature'.", "Did you mean temperature?"),
        ("/set heat 1", "There is no setting 'heat'.", "Settings: max_tokens, temperature, "),
        ("/set temprature", "There is no setting 'temprature'.", "Did you mean temperature?"),
        ("/set temperature hot", "temperature is 'hot'.", "temperature must be a number, or default."),
        ("/set top_k 1.5", "top_k is '1.5'.", "top_k must be a whole number, or default."),
        ("/set top_p 7", "top_p is 7.0.", "top_p must be above 0 and at most 1."),
        ("/set max_tokens 0", "max_tokens is 0.", "max_tokens must be at least 1, or default."),
        ("/set logit_bias 5", "logit_bias is '5'.", "Write token ids with what is added to them, such as"),
        ("/set dry_sequence_breakers x", "dry_sequence_breakers is 'x'.", "Write a JSON list of texts, such as"),
    ],
)
def test_setting_that_cannot_be_is_refused(command: str, message: str, hint: str) -> None:
    talk = talk_with(FakeEngine())
    refused = refusal(talk, command)
    assert refused[0] == message and refused[1].startswith(hint)
    assert talk.chat.sampling == talk.models.engine.default_sampling


def test_every_sampling_setting_can_be_set() -> None:
    talk = talk_with(FakeEngine())
    for name in SamplingSettings.__dataclass_fields__:
        value = {"logit_bias": "3=1", "dry_sequence_breakers": '["x"]'}.get(name, "1")
        obey(talk, f"/set {name} {value}")
    sampling = talk.chat.sampling
    assert (sampling.seed, sampling.dry_sequence_breakers, sampling.mirostat_tau) == (1, ("x",), 1.0)
    for name in SamplingSettings.__dataclass_fields__:
        obey(talk, f"/set {name} default")
    assert talk.chat.sampling == talk.models.engine.default_sampling


def test_schema_holds_answers_until_it_is_off(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "person.json"
    path.write_text(json.dumps({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}))
    engine = FakeEngine()
    talk_with(engine, "/schema", f"/schema {path}", "/schema", "Hi", "/schema off", "Hi")
    assert engine.requests[0].constraint is not None and engine.requests[0].constraint.text == path.read_text()
    assert engine.requests[1].constraint is None
    assert notes(capsys) == [
        "There is no JSON Schema. /schema FILE sets one.",
        "Answers conform to person.json from now on; /schema off ends it.",
        "Answers conform to a JSON Schema.",
        "Answers are free again.",
    ]


def test_schema_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    talk = talk_with(FakeEngine())
    assert refusal(talk, f"/schema {tmp_path}/none")[0] == f"{tmp_path}/none cannot be read: No such file or directory."
    (tmp_path / "bad.json").write_text("{")
    assert "not valid JSON" in refusal(talk, f"/schema {tmp_path}/bad.json")[0]
    (tmp_path / "never.json").write_text('{"allOf": [{"type": "string"}, {"type": "integer"}]}')
    refusal(talk, f"/schema {tmp_path}/never.json")
    assert talk.chat.constraint is None


def test_adapters_are_chosen_by_name_and_scale(capsys: Captured) -> None:
    engine = FakeEngine()
    commands = ("/lora", "/lora poet:0.25", "One", "/lora off", "Two", "/lora pirate poet:2", "Three")
    talk_with(engine, "Zero", *commands, adapters=ADAPTERS)
    chosen = [None if each.adapters is None else [(a.name, a.scale) for a in each.adapters] for each in engine.requests]
    assert chosen == [None, [("poet", 0.25)], [], [("pirate", 1.0), ("poet", 2.0)]]
    assert notes(capsys) == [
        *("pirate: scale 0.5", "poet: scale 1"),
        *("pirate: off", "poet: scale 0.25"),
        "Answers come without adapters.",
        *("pirate: scale 1", "poet: scale 2"),
    ]


def test_adapter_that_is_not_there_is_refused(capsys: Captured) -> None:
    talk = talk_with(FakeEngine(), adapters=ADAPTERS)
    assert refusal(talk, "/lora parrot") == ("No adapter 'parrot' is loaded.", "Loaded: pirate, poet.")
    assert refusal(talk, "/lora poet:loud")[0] == "The scale 'loud' is not a number."
    assert refusal(talk_with(FakeEngine()), "/lora x")[1] == "Load one with: edge chat --lora FILE"
    obey(talk_with(FakeEngine()), "/lora")
    assert notes(capsys)[-1] == "No adapter is loaded. Load one with: edge chat --lora FILE"


# Files


def test_file_goes_with_the_next_message_only(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "notes.txt").write_text("Bees dance.\n")
    engine = FakeEngine()
    talk_with(engine, "/read", f"/read {tmp_path}/notes.txt", "/read", "What do they do?", "And?")
    assert "<|im_start|>user\nnotes.txt:\n\n```\nBees dance.\n```\n\nWhat do they do?<|im_end|>" in engine.prompt(0)
    assert engine.prompt(1).endswith("<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n")
    assert notes(capsys) == [
        "No file goes with the next message. /read FILE adds one.",
        "notes.txt: 33 tokens, part of the next message.",
        "With the next message: notes.txt. /read off drops them.",
    ]


def test_file_is_dropped_on_demand(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "notes.txt").write_text("Bees dance.\n")
    engine = FakeEngine()
    talk_with(engine, f"/read {tmp_path}/notes.txt", "/read off", "Hi")
    assert "Bees" not in engine.prompt()
    assert notes(capsys)[-1] == "The next message goes without files."


def test_file_that_cannot_fit_the_context_is_refused_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("x" * 300)
    talk = talk_with(FakeEngine(context_tokens=256))
    message, hint = refusal(talk, f"/read {tmp_path}/book.txt")
    assert message == "book.txt takes 321 tokens, with 19 before it; the context holds 256."
    assert "--ctx" in hint
    assert talk.attachments == []


def test_file_that_no_context_could_hold_is_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(10**12)
    message, _ = refusal(talk_with(FakeEngine()), f"/read {tmp_path}/disk.img")
    assert message == "disk.img has 1.00 TB, the context holds 4,096 tokens."


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    assert "is not UTF-8" in refusal(talk_with(FakeEngine()), f"/read {tmp_path}/photo.jpg")[0]
    assert "cannot be read: Is a directory" in refusal(talk_with(FakeEngine()), f"/read {tmp_path}")[0]


def test_text_with_a_fence_stays_inside_of_its_own() -> None:
    assert fenced("a\n```\nb\n") == "````\na\n```\nb\n````"


# The clipboard


@pytest.fixture
def clipboard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    copied: list[str] = []

    def copy(text: str, environment: object, terminal: object) -> str:
        copied.append(text)
        return "by xclip"

    monkeypatch.setattr("edge.repl_turns.copy", copy)
    return copied


def test_answer_or_one_of_its_code_blocks_is_copied(clipboard: list[str], capsys: Captured) -> None:
    answer = "Two ways:\n\n```python\nx = 1\n```\n\n```\ny\n```\n"
    talk_with(FakeEngine([answer]), "How?", "/copy", "/copy 2", "/copy 3")
    assert clipboard == [answer, "y\n"]
    assert notes(capsys) == [
        "The answer is on the clipboard (by xclip).",
        "Code block 2 is on the clipboard (by xclip).",
        "error: The last answer has no code block 3.",
        "hint:  Code blocks: 1 to 2.",
    ]


def test_copy_without_anything_to_copy_is_refused(clipboard: list[str]) -> None:
    assert refusal(talk_with(FakeEngine()), "/copy")[0] == "There is no answer to copy."
    talk = talk_with(FakeEngine(["No code."]), "Hi")
    assert refusal(talk, "/copy 1")[1] == "It has none; /copy copies the whole answer."
    assert clipboard == []


# Model and figures


def test_model_is_changed_and_the_conversation_goes_on(capsys: Captured) -> None:
    first, second = FakeEngine(["Paris."]), FakeEngine(["Madrid."], context_tokens=512)
    models = FakeModels(first, Path("small.gguf"))
    models.engines["other"], models.paths["other"] = second, Path("large.gguf")
    talk = talk_with(first, "Capital of France?", "/set top_k 3")
    talk.models = models.desk
    obey(talk, "/model other")
    talk.chat.send("And of Spain?").result()
    assert first.is_closed and not second.is_closed
    assert "Paris." in second.prompt() and second.requests[0].sampling.top_k == 3
    assert notes(capsys)[-1] == (
        "large.gguf, 512 tokens of context. The conversation goes on, 1 turn to be read by it."
    )
    obey(talk, "/model")
    assert capsys.readouterr().err == "large.gguf, 512 tokens of context.\n"
    assert refusal(talk, "/model other") == ("large.gguf is the model in use.", "Name another one.")


def test_model_that_cannot_be_opened_leaves_the_one_in_use() -> None:
    class Broken(FakeEngine):
        @property
        def context_tokens(self) -> int:
            raise EdgeError("There is no memory for it.")

        @context_tokens.setter
        def context_tokens(self, value: int) -> None:
            pass

    engine = FakeEngine()
    models = FakeModels(engine, Path("small.gguf"))
    models.engines["big"], models.paths["big"] = Broken(), Path("big.gguf")
    talk = talk_with(engine, "Hi")
    talk.models = models.desk
    assert refusal(talk, "/model big")[0] == "There is no memory for it."
    assert models.opened == ["demo", "big", "demo"]
    assert talk.models.choice.path == Path("small.gguf")


def test_stats_add_up_what_answers_took(capsys: Captured) -> None:
    talk_with(FakeEngine(["one two three", "one two"]), "Hi", "Again", "/retry", "/stats")
    rows = [line.rstrip().split(maxsplit=1) for line in notes(capsys)]
    assert ["Model", "model.gguf"] in rows
    assert ["Turns", "2"] in rows and ["Branches", "2"] in rows and ["Answers", "3"] in rows
    assert ["Written", "6 tokens"] in rows
    assert ["Speed", "3.0 tokens/s (median)"] in rows


def test_stats_of_one_token_are_in_the_singular(capsys: Captured) -> None:
    talk_with(FakeEngine(["one"]), "Hi", "/stats")
    assert ["Written", "1 token"] in [line.rstrip().split(maxsplit=1) for line in notes(capsys)]


def test_stats_of_a_chat_without_answers_are_short(capsys: Captured) -> None:
    talk_with(FakeEngine(), "/stats")
    text = "\n".join(notes(capsys))
    assert "0 of 4,096 tokens" in text and "Speed" not in text


# The list of commands


def test_help_is_beside_the_names_or_below_them() -> None:
    assert "/save NAME                keep the chat under a name\n" in help_text(80)
    assert "/save NAME\n    keep the chat under a name\n" in help_text(40)
    assert max(map(len, help_text(80).splitlines())) < 90


def test_every_command_is_known_under_its_name_only() -> None:
    assert len({command.name for command in COMMANDS}) == len(COMMANDS) == 18
    talk = talk_with(FakeEngine())
    assert refusal(talk, "/rety") == (
        "There is no command /rety.",
        "Did you mean /retry? A space in front sends a message as it is.",
    )
    assert refusal(talk, "/xyzzy")[1].startswith("/help lists the commands.")
    assert isinstance(obey(talk, "/exit"), Leave)


def test_command_takes_what_follows_as_it_stands() -> None:
    talk = talk_with(FakeEngine())
    obey(talk, "/system  Two words\nand a line ")
    assert talk.chat.system == "Two words\nand a line"
    talk.unanswered = "Hi"
    assert obey(talk, "/retry") == Say("Hi")


def test_suggestions_suit_the_command(tmp_path: Path) -> None:
    talk = talk_with(FakeEngine(), adapters=ADAPTERS, folder=tmp_path)
    (tmp_path / "trip.json").touch()
    assert "temperature" in suggestions(talk, "/set", "te")
    assert suggestions(talk, "/set", "seed 1") == ["seed default"]
    assert suggestions(talk, "/load", "") == ["trip"]
    assert suggestions(talk, "/lora", "") == ["pirate", "poet", "off"]
    assert list(suggestions(talk, "/undo", "")) == []


def test_system_text_with_what_looks_like_a_command_is_no_command() -> None:
    chat = Chat(FakeEngine(), system="/exit")
    chat.messages = [Message("user", "Hi"), Message("assistant", "Hello")]
    assert chat.questions == ["Hi"]


def test_commands_in_the_readme_are_those_of_the_help() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{help_text(80).partition(chr(10) * 2)[0]}\n```" in readme
