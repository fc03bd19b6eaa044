"""What one engine has computed, saved and taken in by another: nothing is computed again, and nothing changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from convert.pipeline import write_checkpoint
from edge.bake import bake, baked_path, system_tokens
from edge.chat import Chat
from edge.errors import EdgeError
from edge.local_engine import LocalEngine as Engine
from edge.prefix_file import open_prefix, write_prefix
from edge.prompt import Message
from edge.request import Request
from edge.settings import ModelSettings, SamplingSettings
from tests.tiny import write_tiny_checkpoint

GREEDY = SamplingSettings(temperature=0)
SETTINGS = ModelSettings(context_tokens=512, threads=1)
FAMILIES = ["llama3", "gemma2", "gemma3", "lfm2"]  # full attention; sliding windows of 16 tokens; recurrent layers


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family, in a folder of its own."""
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for family in FAMILIES:
        (folder / family).mkdir()
        checkpoint = write_tiny_checkpoint(family, folder / family)
        (made[family],) = write_checkpoint(checkpoint, ["F32"], folder / family / f"{family}.gguf")
    return made


def chat_in_ascii(engine: Engine) -> Chat:
    """Models of random weights write half characters, and spaces that a template trims: such tokens are ruled out."""
    odd = tuple(
        (token, -1e9)
        for token, piece in enumerate(engine.vocab.pieces())
        if not piece.isascii() or not piece or piece.strip() != piece
    )
    return Chat(engine, sampling=SamplingSettings(temperature=0, logit_bias=odd), max_tokens=12)


def top_logprobs(engine: Engine, prompt: tuple[int, ...]) -> tuple[int, list[float]]:
    """Of a prompt: how many of its tokens were cached, and the log probabilities of what may come next."""
    completion = engine.submit(Request(prompt, sampling=GREEDY, max_tokens=1, logprobs=20)).result()
    top = sorted(completion.logprobs[0].top, key=lambda each: each.token)
    return completion.usage.cached_tokens, [each.logprob for each in top]


@dataclass(frozen=True)
class Saved:
    """A conversation of one engine, and what the next turn's prompt will be."""

    path: Path
    tokens: tuple[int, ...]
    messages: list[Message]
    next_prompt: tuple[int, ...]


@pytest.fixture(scope="module")
def saved(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    """Of each family, a conversation of some 150 tokens and its prefix file."""
    made = {}
    for family, model in models.items():
        path = tmp_path_factory.mktemp("saved") / "chat.prefix"
        with Engine(model, SETTINGS) as engine:
            chat = chat_in_ascii(engine)
            for question in ("The bees are dancing. " * 8, "Why?", "And then? " * 4):
                chat.send(question).result()
            # the last token of the answer was chosen and never computed
            assert engine.save_prefix(chat.tokens, path) == len(chat.tokens) - 1
            prompt = engine.chat_tokens([*chat.messages, Message("user", "So?")], known_tokens=chat.tokens)
            made[family] = Saved(path, chat.tokens, chat.messages, prompt)
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_next_turn_in_a_fresh_engine_computes_only_what_is_new(
    family: str, models: dict[str, Path], saved: dict[str, Saved]
) -> None:
    known = saved[family]
    with Engine(models[family], SETTINGS) as engine:
        assert engine.load_prefix(known.path) == len(known.tokens) - 1
        chat = chat_in_ascii(engine)
        chat.messages, chat.tokens = list(known.messages), known.tokens
        assert chat.send("So?").result().usage.cached_tokens == len(known.tokens) - 1 > 100


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_loaded_leads_to_what_would_have_been_computed(
    family: str, models: dict[str, Path], saved: dict[str, Saved]
) -> None:
    with Engine(models[family], SETTINGS) as engine:
        cached, computed = top_logprobs(engine, saved[family].next_prompt)
        assert cached == 0
    with Engine(models[family], SETTINGS) as engine:
        engine.load_prefix(saved[family].path)
        cached, loaded = top_logprobs(engine, saved[family].next_prompt)
        assert cached == len(saved[family].tokens) - 1
    assert loaded == pytest.approx(computed, abs=0.02)  # other batches round differently


def test_prefix_is_there_in_another_process(models: dict[str, Path], saved: dict[str, Saved]) -> None:
    known = saved["gemma2"]
    script = f"""
from pathlib import Path
from edge.local_engine import LocalEngine as Engine
from edge.request import Request
from edge.settings import ModelSettings

with Engine(Path({str(models["gemma2"])!r}), ModelSettings(context_tokens=512, threads=1)) as engine:
    engine.load_prefix(Path({str(known.path)!r}))
    print(engine.submit(Request({known.next_prompt!r}, max_tokens=1)).result().usage.cached_tokens)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(known.tokens) - 1}\n"


def test_prefix_of_another_model_is_refused_and_the_engine_goes_on(
    models: dict[str, Path], saved: dict[str, Saved]
) -> None:
    with Engine(models["llama3"], SETTINGS) as engine:
        with pytest.raises(EdgeError) as caught:
            engine.load_prefix(saved["gemma2"].path)
        assert caught.value.message.endswith("was made with another model: gemma2.gguf, not llama3.gguf.")
        assert engine.submit(Request((1, 2), max_tokens=2)).result().tokens


def test_prefix_of_another_kind_of_cache_is_refused(models: dict[str, Path], saved: dict[str, Saved]) -> None:
    with (
        Engine(models["llama3"], replace(SETTINGS, key_type="Q8_0")) as engine,
        pytest.raises(EdgeError, match="was made with another kind of KV cache: keys F16, values F16"),
    ):
        engine.load_prefix(saved["llama3"].path)


def test_prefix_that_is_longer_than_the_context_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "long.prefix"
    with Engine(models["llama3"], SETTINGS) as engine:
        engine.submit(Request((5,) * 300, max_tokens=1)).result()
        assert engine.save_prefix((5,) * 300, path) == 300
    with Engine(models["llama3"], replace(SETTINGS, context_tokens=256)) as engine:
        with pytest.raises(EdgeError) as caught:
            engine.load_prefix(path)
        assert caught.value.message == f"{path} holds 300 tokens, for which the engine has no room."
        assert "--ctx" in caught.value.hint
        assert engine.submit(Request((1, 2), max_tokens=2)).result().tokens


def test_state_that_llama_cpp_refuses_is_an_error_and_the_engine_goes_on(
    models: dict[str, Path], saved: dict[str, Saved], tmp_path: Path
) -> None:
    sound = open_prefix(saved["gemma2"].path)
    state = sound.read_state()
    path = tmp_path / "odd.prefix"
    for odd in (state[:-4], bytes(len(state)), state[: len(state) // 2]):
        write_prefix(path, sound.identity, sound.tokens, odd)
        with Engine(models["gemma2"], SETTINGS) as engine:
            with pytest.raises(EdgeError, match="for which the engine has no room"):
                engine.load_prefix(path)
            assert engine.submit(Request(saved["gemma2"].next_prompt, max_tokens=2)).result().usage.cached_tokens == 0


def test_nothing_is_written_where_nothing_was_computed(models: dict[str, Path], tmp_path: Path) -> None:
    with Engine(models["llama3"], SETTINGS) as engine:
        assert engine.save_prefix((1, 2, 3), tmp_path / "none.prefix") == 0
        engine.submit(Request((1, 5, 6, 7), max_tokens=1)).result()
        # what is held goes on differently, and that is not for this file
        assert engine.save_prefix((1, 5, 8), tmp_path / "none.prefix") == 0
        assert engine.save_prefix((1, 5, 6, 7, 8), tmp_path / "some.prefix") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["some.prefix"]


# Baked system texts


SYSTEM = "You are a beekeeper. Answer briefly. " * 6


@pytest.fixture
def own_model(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Gives a model in a folder of its own, where prefix files may lie beside it."""

    def of(family: str) -> Path:
        (tmp_path / family).mkdir(exist_ok=True)
        path = tmp_path / family / "model.gguf"
        if not path.exists():
            shutil.copy(models[family], path)
        return path

    return of


def first_turn(engine: Engine, question: str) -> tuple[int, int]:
    """Cached and all tokens of a first prompt with the system text."""
    prompt = engine.chat_tokens([Message("system", SYSTEM), Message("user", question)])
    usage = engine.submit(Request(prompt, sampling=GREEDY, max_tokens=2)).result().usage
    return usage.cached_tokens, usage.prompt_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_baked_system_text_is_not_computed_again(family: str, own_model: Callable[[str], Path]) -> None:
    model = own_model(family)
    with Engine(model, SETTINGS) as engine:
        count = bake(engine, SYSTEM, baked_path(model, SYSTEM))
        assert count == len(system_tokens(engine, SYSTEM)) > 60
    with Engine(model, SETTINGS) as engine:
        cached, prompt_tokens = first_turn(engine, "What do bees eat?")
        assert cached == count < prompt_tokens
        assert first_turn(engine, "Where do they live?")[0] >= count  # and so does the next conversation


def test_baked_system_text_is_found_where_the_folder_of_the_model_cannot_be_written(
    own_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_STATE", str(tmp_path / "state"))
    model = own_model("llama3")
    monkeypatch.setattr("edge.bake.os.access", lambda path, mode: path != model.parent)
    path = baked_path(model, SYSTEM)
    assert path.is_relative_to(tmp_path / "state" / "baked")
    other = model.parent.parent / "elsewhere" / model.name  # has the same name, and a place of its own
    assert baked_path(other, SYSTEM).parent != path.parent
    with Engine(model, SETTINGS) as engine:
        count = bake(engine, SYSTEM, path)
    assert [file.name for file in model.parent.iterdir()] == [model.name]
    with Engine(model, SETTINGS) as engine:
        assert first_turn(engine, "What do bees eat?")[0] == count


def test_every_conversation_with_a_system_text_begins_with_its_tokens(own_model: Callable[[str], Path]) -> None:
    for family in FAMILIES:
        with Engine(own_model(family), SETTINGS) as engine:
            tokens = system_tokens(engine, SYSTEM)
            for question in ("Hi", "1 + 1?", " x", "\nlist", "é", "<end>"):
                prompt = engine.chat_tokens([Message("system", SYSTEM), Message("user", question)])
                assert prompt[: len(tokens)] == tokens
            assert len(prompt) - len(tokens) < 20


def test_other_system_text_is_computed_as_ever(own_model: Callable[[str], Path]) -> None:
    model = own_model("llama3")
    with Engine(model, SETTINGS) as engine:
        bake(engine, "Something else entirely. " * 8, baked_path(model, "Something else"))
    with Engine(model, SETTINGS) as engine:
        assert first_turn(engine, "What do bees eat?")[0] == 0


def test_damaged_file_beside_a_model_is_a_warning_and_not_used(own_model: Callable[[str], Path]) -> None:
    model = own_model("llama3")
    path = baked_path(model, SYSTEM)
    with Engine(model, SETTINGS) as engine:
        bake(engine, SYSTEM, path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with Engine(model, SETTINGS) as engine:
        with pytest.warns(UserWarning, match="is damaged: the checksum of its state is wrong. It is not used."):
            assert first_turn(engine, "What do bees eat?")[0] == 0
        assert first_turn(engine, "What do bees eat?")[0] > 60  # by what was computed
    path.write_bytes(content[:-1])
    with pytest.warns(UserWarning, match=r"is damaged: it has \d+ bytes instead of \d+. It is not used."):
        Engine(model, SETTINGS).close()


def test_file_for_other_settings_is_passed_over_in_silence(own_model: Callable[[str], Path]) -> None:
    model = own_model("llama3")
    with Engine(model, replace(SETTINGS, key_type="Q8_0", flash_attention="on")) as engine:
        bake(engine, SYSTEM, baked_path(model, SYSTEM))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Engine(model, SETTINGS) as engine:
            assert first_turn(engine, "What do bees eat?")[0] == 0


def test_file_of_another_model_under_this_name_is_a_warning(own_model: Callable[[str], Path]) -> None:
    model, other = own_model("llama3"), own_model("lfm2")
    with Engine(other, SETTINGS) as engine:
        bake(engine, SYSTEM, baked_path(model, SYSTEM))
    with pytest.warns(UserWarning, match=r"another model: model\.gguf, not model\.gguf\. It is not used"):
        Engine(model, SETTINGS).close()
