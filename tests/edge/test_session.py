"""Named conversations: what is kept, what is resumed, and what is refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.chat import Chat
from edge.errors import EdgeError
from edge.prefix_file import open_prefix
from edge.prefix_identity import PrefixIdentity
from edge.prompt import Message
from edge.session import KeptChat, SessionFile
from edge.session_list import list_sessions
from edge.session_record import SessionModel
from edge.settings import SamplingSettings
from tests.edge.fake_engine import FakeEngine

MODEL = SessionModel("demo", None, "smol.gguf", digest="aa", template="bb")
SAMPLING = SamplingSettings(temperature=0.25, seed=7, logit_bias=((5, -1.5),), dry_sequence_breakers=("\n", "é"))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Talk:
    """A chat that is kept in `folder`, with a fake engine."""

    def __init__(self, folder: Path, name: str = "work", *, model: SessionModel = MODEL) -> None:
        self.engine = FakeEngine(["It is Paris.", "Two million."])
        self.chat = Chat(self.engine, system="Be brief.", sampling=SAMPLING)
        self.clock = Clock()
        self.file = SessionFile(folder, name)
        self.kept = KeptChat(self.file, model, self.chat, self.engine, clock=self.clock)

    def ask(self, question: str) -> None:
        self.chat.send(question).result()
        self.kept.save()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.__exit__(None, None, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With one session, `work`, of one turn."""
    folder = tmp_path / "sessions"
    with Talk(folder) as talk:
        talk.ask("Capital of France?")
        talk.kept.finish()
    return folder


def message_of(action: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(EdgeError) as caught:
        action()
    return caught.value.message, caught.value.hint


# Kept and resumed


def test_conversation_goes_on_after_a_restart_without_being_computed_again(folder: Path) -> None:
    with Talk(folder) as talk:
        assert talk.kept.resume() == "Session work: 2 messages, nothing has to be computed again."
        assert talk.engine.loaded_tokens == talk.chat.tokens
        assert talk.chat.messages == [Message("user", "Capital of France?"), Message("assistant", "It is Paris.")]
        talk.ask("How many people?")
        assert talk.engine.prompt().startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nCapital of")


def test_session_that_does_not_exist_is_new(tmp_path: Path) -> None:
    with Talk(tmp_path / "sessions", "trip") as talk:
        assert talk.kept.resume() == "Session trip: new."
        assert talk.chat.system == "Be brief."


def test_everything_that_was_chosen_is_kept(folder: Path) -> None:
    with SessionFile(folder, "work") as file:
        assert file.record is not None
        assert (file.record.sampling, file.record.model) == (SAMPLING, MODEL)
        assert file.record.conversation.system == "Be brief."
        assert file.record.created <= file.record.updated


def test_left_out_messages_stay_left_out(folder: Path) -> None:
    with Talk(folder) as talk:
        talk.kept.resume()
        talk.chat.resume(replace(talk.chat.conversation(), left_out=2))
        talk.kept.finish()
    with Talk(folder) as talk:
        talk.kept.resume()
        talk.ask("Next")
        assert "Paris" not in talk.engine.prompt()
        assert len(talk.chat.messages) == 4


def test_files_are_for_their_owner_only(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"work.json", "work.prefix", "work.lock"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("work.json", "work.prefix"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_text_of_any_kind_survives(tmp_path: Path) -> None:
    for strange in ("Où ça? 🐝", "\ud800", '"\\\n\0'):
        with Talk(tmp_path / "sessions") as talk:
            talk.kept.resume()
            talk.chat.messages = [Message("user", strange)]
            talk.kept.finish()
        with SessionFile(tmp_path / "sessions", "work") as file:
            assert file.record is not None
            assert file.record.conversation.messages == (Message("user", strange),)


# When it is saved


def test_what_was_said_is_on_the_disk_after_every_answer(tmp_path: Path) -> None:
    with Talk(tmp_path) as talk:
        talk.ask("Capital of France?")
        document = json.loads((tmp_path / "work.json").read_text())
        assert document["messages"][1] == {"role": "assistant", "content": "It is Paris."}
        assert not (tmp_path / "work.prefix").exists()


def test_what_was_computed_is_saved_once_a_minute_and_at_the_end(tmp_path: Path) -> None:
    with Talk(tmp_path) as talk:
        saved: list[float] = []
        save = talk.engine.save_prefix

        def save_slowly(tokens: tuple[int, ...], path: Path) -> int:
            saved.append(talk.clock.now)
            talk.clock.now += 3
            return save(tokens, path)

        talk.engine.save_prefix = save_slowly  # type: ignore[method-assign, assignment]
        for _ in range(30):
            talk.ask("Go on.")
            talk.clock.now += 11
        # at the first answer after a minute; then, as it took 3 seconds, not before 150 more have passed
        assert saved == [66, 66 + 3 + 154]
        talk.kept.finish()
        assert len(saved) == 3
        talk.kept.finish()
        assert len(saved) == 3
        assert open_prefix(tmp_path / "work.prefix").tokens == talk.chat.tokens


def test_forgotten_conversation_is_forgotten_on_the_disk(folder: Path) -> None:
    with Talk(folder) as talk:
        talk.kept.resume()
        talk.chat.clear()
        talk.kept.finish()
        assert not (folder / "work.prefix").exists()
    with Talk(folder) as talk:
        talk.kept.resume()
        assert talk.chat.messages == []


def test_prefix_that_cannot_be_saved_is_a_warning_for_what_was_said_is_safe(folder: Path) -> None:
    with Talk(folder) as talk:
        talk.kept.resume()
        talk.ask("How many people?")
        (folder / "work.prefix").unlink()
        (folder / "work.prefix").mkdir()
        with pytest.warns(
            UserWarning, match=r"^The session is saved, but not what was computed for it: .*cannot be wr"
        ):
            talk.kept.finish()
    with SessionFile(folder, "work") as file:
        assert file.record is not None and len(file.record.conversation.messages) == 4


# What has changed in between


def resumed(folder: Path, *, model: SessionModel = MODEL, identity: PrefixIdentity | None = None) -> str:
    """The line about a resumed session, whose messages must be there in any case."""
    with Talk(folder, model=model) as talk:
        talk.engine.identity = identity or talk.engine.identity
        line = talk.kept.resume()
        assert len(talk.chat.messages) == 2
        return line


def test_history_is_kept_and_computed_again_where_the_state_is_no_longer_right(folder: Path) -> None:
    start = "Session work: 2 messages, computed again with the next answer, because "
    plain = FakeEngine().identity
    other_library = resumed(folder, identity=replace(plain, library="2 (b)"))
    assert other_library == (f"{start}{folder}/work.prefix was made with another build of llama.cpp: 1 (a), not 2 (b).")
    other_adapter = resumed(folder, identity=replace(plain, adapters="pirate.gguf × 1 89ab"))
    assert other_adapter.endswith("was made with no adapter, not with the adapter pirate.gguf × 1.")
    other_template = resumed(folder, model=replace(MODEL, template="cc"))
    assert other_template == f"{start}the model's chat template is another one now."


def test_history_is_kept_where_the_state_is_missing_or_damaged(folder: Path) -> None:
    (folder / "work.prefix").write_bytes(b"EDGE-KV\n" + bytes(100))
    assert "work.prefix has version 0 of the format; version 1 can be read." in resumed(folder)
    (folder / "work.prefix").unlink()
    assert resumed(folder).endswith(f"because there is no {folder}/work.prefix.")


def test_state_of_an_earlier_answer_is_used_as_far_as_it_goes(folder: Path) -> None:
    with Talk(folder) as talk:
        talk.kept.resume()
        talk.ask("How many people?")  # and then the process is killed
        count = len(talk.chat.tokens)
    with Talk(folder) as talk:
        line = talk.kept.resume()
        assert line.startswith("Session work: 4 messages, computed again with the next answer, because only ")
        assert line.endswith(f" of its {count} tokens were saved.")
        assert talk.engine.loaded_tokens


def test_session_of_another_model_is_refused_with_both_names_and_stays_as_it_is(folder: Path) -> None:
    before = (folder / "work.json").read_bytes()
    other = replace(MODEL, file_name="gemma.gguf", digest="zz")
    with SessionFile(folder, "work") as file:
        message, hint = message_of(lambda: file.check_model(other))
    assert message == "The session work was begun with smol.gguf; this is gemma.gguf, another model."
    assert hint == ("Go on with its own: edge chat demo --session work. Or begin one of another name: --session OTHER.")
    assert (folder / "work.json").read_bytes() == before


def test_model_is_known_again_by_what_it_is_not_by_its_name(tiny_gguf: Path, tmp_path: Path) -> None:
    model = SessionModel.of(tiny_gguf, str(tiny_gguf), None)
    (tmp_path / "renamed.gguf").symlink_to(tiny_gguf)
    renamed = SessionModel.of(tmp_path / "renamed.gguf", "org/name", "Q8_0")
    assert (renamed.digest, renamed.template) == (model.digest, model.template)
    assert (renamed.file_name, renamed.reference, renamed.quantization) == ("renamed.gguf", "org/name", "Q8_0")
    assert model.reference == str(tiny_gguf)


def test_path_of_a_model_is_kept_whole(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_gguf.parent)
    assert SessionModel.of(tiny_gguf, tiny_gguf.name, None).reference == str(tiny_gguf)


# Names and locks


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc/passwd", "..\\b", ".hidden", "a b", "a\n", "x" * 41, "-x"]
)
def test_name_that_could_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    message, hint = message_of(lambda: SessionFile(tmp_path / "sessions", name))
    assert message == f"{name!r} is no name for a session."
    assert hint == "Use up to 40 letters, digits, and between them '-' and '.', as in: trip-to-rome"
    assert not (tmp_path / "sessions").exists()


@pytest.mark.parametrize("name", ["work", "a", "trip-to.rome_2", "Küche", "x" * 40])
def test_plain_names_are_names(tmp_path: Path, name: str) -> None:
    with SessionFile(tmp_path, name) as file:
        assert file.path == tmp_path / f"{name}.json"


def test_session_that_is_open_is_refused_to_others_until_it_is_closed(folder: Path) -> None:
    with SessionFile(folder, "work"):
        message, hint = message_of(lambda: SessionFile(folder, "work"))
        assert message == "The session work is open in another chat."
        assert hint == "End that one first, or use another name."
    SessionFile(folder, "work").__exit__(None, None, None)


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message, hint = message_of(lambda: SessionFile(tmp_path / "file" / "sessions", "work"))
    assert message.startswith(f"Sessions cannot be kept in {tmp_path}/file/sessions: ")
    assert "EDGE_STATE" in hint


# Damaged files


def document_with(**changed: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: {**document, **changed}


DAMAGES = {
    "other format": (document_with(format=2), "its format is 2"),
    "no messages": (lambda d: {k: v for k, v in d.items() if k != "messages"}, "it lacks 'messages'"),
    "forged role": (document_with(messages=[{"role": "root", "content": ""}]), "A message has the role 'root'"),
    "number for text": (document_with(messages=[{"role": "user", "content": 5}]), "5 stands where a text should be"),
    "too many left out": (document_with(left_out=3), "left_out is 3"),
    "negative left out": (document_with(left_out=-1), "left_out is -1"),
    "tokens no numbers": (document_with(tokens=["1"]), "tokens are not whole numbers"),
    "impossible sampling": (lambda d: {**d, "sampling": {**d["sampling"], "top_p": 7}}, "top_p is 7"),
    "unknown sampling": (lambda d: {**d, "sampling": {**d["sampling"], "heat": 7}}, "heat"),
    "no object": (lambda d: [], "list indices must be"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda name: name)
def test_damaged_session_is_refused_with_the_reason(folder: Path, damage: str) -> None:
    change, reason = DAMAGES[damage]
    path = folder / "work.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    message, hint = message_of(lambda: SessionFile(folder, "work"))
    assert message.startswith(f"The session file {path} is damaged: ")
    assert reason in message
    assert hint == "Delete it to begin the session again."


@pytest.mark.parametrize("content", [b"", b'{"format"', b"\xff\xfe", b"[" * 100_000])
def test_file_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "work.json").write_bytes(content)
    message, _ = message_of(lambda: SessionFile(folder, "work"))
    assert message.startswith(f"The session file {folder}/work.json is damaged: ")
    (folder / "work.json").unlink()
    SessionFile(folder, "work").__exit__(None, None, None)  # the lock was let go of


# The list


def test_list_has_every_session_the_last_used_first(folder: Path) -> None:
    with Talk(folder, "trip") as talk:
        talk.ask("Rome?")
    document = json.loads((folder / "trip.json").read_text())
    (folder / "trip.json").write_text(json.dumps({**document, "updated": "2999-01-01T00:00:00+00:00"}))
    (folder / "broken.json").write_text("{")
    listed = list_sessions(folder)
    assert [(each.name, each.model, each.messages) for each in listed] == [
        ("trip", "smol.gguf", 2),
        ("work", "smol.gguf", 2),
        ("broken", "", None),
    ]
    sizes = [(folder / name).stat().st_size for name in ("work.json", "work.prefix")]
    assert listed[1].n_bytes == sum(sizes)
    assert list_sessions(folder / "none") == []
