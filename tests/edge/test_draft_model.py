"""The draft model, held to greedy text computed token by token in another context."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from convert.pipeline import write_checkpoint
from edge.draft_model import DraftModel
from edge.errors import EdgeError
from edge.llama.context import Batch, Context
from edge.llama.model import Model
from edge.settings import ModelSettings
from tests.tiny import write_tiny_checkpoint

SETTINGS = ModelSettings(context_tokens=256, threads=1)
# full attention, a window of 16 tokens, and convolutions with a state that cannot be cut back
FAMILIES = ["llama3", "gemma3", "lfm2"]


@pytest.fixture(scope="module", params=FAMILIES)
def gguf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (path,) = write_checkpoint(write_tiny_checkpoint(request.param, folder), ["F32"], folder / "model.gguf")
    return path


@contextmanager
def opened(path: Path, settings: ModelSettings = SETTINGS, smallest_chance: float = 0.0) -> Iterator[DraftModel]:
    """The model as its own draft model, which drafts however unsure it is: random weights are never sure."""
    with (
        Model(path, vocabulary_only=True) as wanted,
        DraftModel(path, wanted.vocab, settings, smallest_chance=smallest_chance) as model,
    ):
        yield model


class Greedy:
    """The greedy continuation of any text, every time from its beginning."""

    def __init__(self, path: Path) -> None:
        self._model = Model(path)
        self._context = Context(self._model, context_tokens=256)
        self._batch = Batch(256, 1)

    def continuation(self, text: Sequence[int], count: int) -> list[int]:
        self._context.remove(0, 0)
        found: list[int] = []
        fed, position = list(text), 0
        while len(found) < count:
            self._batch.clear()
            index = self._batch.add(fed, sequence=0, position=position, last_logits=True)
            self._context.decode(self._batch)
            position += len(fed)
            fed = [int(self._context.logits(index).argmax())]
            found += fed
        return found

    def close(self) -> None:
        self._context.close()
        self._model.close()


@pytest.fixture(scope="module")
def greedy(gguf: Path) -> Iterator[Greedy]:
    reference = Greedy(gguf)
    yield reference
    reference.close()


def prompt(seed: int, tokens: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(3, 300) for _ in range(tokens)]


def test_model_as_its_own_draft_model_is_always_right(gguf: Path, greedy: Greedy) -> None:
    text = prompt(1, 20)
    expected = greedy.continuation(text, 60)
    with opened(gguf) as model:
        drafter = model.drafter(0, text)
        position = 0
        while position < 50:
            draft = drafter.draft(6)
            assert draft == expected[position : position + 6]
            assert len(drafter.chances) == 6
            drafter.extend(expected[position : position + 7])  # all of it, and what follows
            position += 7


def test_drafts_after_rejected_ones_continue_the_text_as_it_is(gguf: Path, greedy: Greedy) -> None:
    generator = random.Random(2)
    text = prompt(3, 30)
    with opened(gguf) as model:
        drafter = model.drafter(0, text)
        for _ in range(12):
            draft = drafter.draft(5)
            assert draft == greedy.continuation(text, 5)
            added = [*draft[: generator.randrange(6)], generator.randrange(3, 300)]
            text += added
            drafter.extend(added)


def test_several_texts_are_drafted_side_by_side(gguf: Path, greedy: Greedy) -> None:
    texts = [prompt(seed, 10 + seed) for seed in range(3)]
    with opened(gguf, ModelSettings(context_tokens=256, threads=1, parallel=3)) as model:
        drafters = [model.drafter(sequence, text) for sequence, text in enumerate(texts)]
        for step in range(4):
            for drafter, text in zip(drafters, texts, strict=True):
                assert drafter.draft(3) == greedy.continuation(text, 3)
                text.append(10 + step)
                drafter.extend([10 + step])


def test_next_text_of_a_sequence_takes_the_place_of_the_last(gguf: Path, greedy: Greedy) -> None:
    first = prompt(5, 40)
    second = [*first[:25], *prompt(6, 10)]
    with opened(gguf) as model:
        assert model.drafter(0, first).draft(4) == greedy.continuation(first, 4)
        assert model.drafter(0, second).draft(4) == greedy.continuation(second, 4)
        assert model.drafter(0, second).draft(4) == greedy.continuation(second, 4)


def test_long_prompt_is_taken_in_over_several_steps(gguf: Path, greedy: Greedy) -> None:
    text = prompt(7, 150)
    with opened(gguf) as model:
        drafter = model.drafter(0, text)
        assert drafter.is_behind
        assert drafter.draft(4) == []
        assert drafter.is_behind
        assert drafter.draft(4) == greedy.continuation(text, 4)
        assert not drafter.is_behind


def test_drafts_end_with_the_context(gguf: Path) -> None:
    with opened(gguf, ModelSettings(context_tokens=64, threads=1)) as model:
        drafter = model.drafter(0, prompt(8, model.longest_text_tokens - 3))
        while drafter.is_behind:
            draft = drafter.draft(16)
        assert len(draft) == 3
        drafter.extend(draft)
        assert drafter.draft(16) == []
        assert not drafter.is_behind


def test_full_context_drops_the_text_that_was_not_used_for_longest(gguf: Path, greedy: Greedy) -> None:
    with opened(gguf, ModelSettings(context_tokens=256, threads=1, parallel=3)) as model:
        texts = [prompt(9 + number, 110) for number in range(3)]
        drafters = [model.drafter(number, text) for number, text in enumerate(texts)]
        for drafter, text in zip(drafters, texts, strict=True):
            draft = drafter.draft(3) or drafter.draft(3)
            assert draft == greedy.continuation(text, 3)


def test_unsure_model_drafts_nothing(gguf: Path) -> None:
    with opened(gguf, smallest_chance=0.99) as model:
        drafter = model.drafter(0, prompt(10, 20))
        assert drafter.draft(8) == []
        assert list(drafter.chances) == []


def test_text_without_tokens_has_no_drafts(gguf: Path) -> None:
    with opened(gguf) as model:
        assert model.drafter(0, []).draft(8) == []


def test_model_with_a_vocabulary_of_another_size_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    (other,) = write_checkpoint(write_tiny_checkpoint("lfm2", tmp_path), ["F32"], tmp_path / "other.gguf")
    with Model(tiny_gguf, vocabulary_only=True) as wanted, pytest.raises(EdgeError) as refused:
        DraftModel(other, wanted.vocab, SETTINGS)
    assert refused.value.message == (
        f"{other} cannot draft for this model: it has a vocabulary of 320 tokens, the model one of 624."
    )
    assert refused.value.hint == "Draft with a smaller model of the same family, which has the same tokenizer."


def test_model_with_other_tokens_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    """Both have 624 tokens."""
    (other,) = write_checkpoint(write_tiny_checkpoint("qwen3", tmp_path), ["F32"], tmp_path / "other.gguf")
    with Model(tiny_gguf, vocabulary_only=True) as wanted, Model(other, vocabulary_only=True) as found:
        token = next(token for token in range(wanted.vocab.size) if wanted.vocab.text(token) != found.vocab.text(token))
        with pytest.raises(EdgeError) as refused:
            DraftModel(other, wanted.vocab, SETTINGS)
        assert refused.value.message == (
            f"{other} cannot draft for this model: its token {token} is {found.vocab.text(token)!r}, the model's"
            f" {wanted.vocab.text(token)!r}."
        )
