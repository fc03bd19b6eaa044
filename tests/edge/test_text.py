"""Text that may be shown at once, from bytes and stop texts split anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.text import TextStream

# few characters, so that stop texts appear, overlap and almost appear; some of them take several bytes
LETTERS = "abé👩"
texts = st.text(alphabet=LETTERS, max_size=24)
stops = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=4), max_size=3)


@st.composite
def split_texts(draw: st.DrawFn) -> list[bytes]:
    """A text's bytes, cut at any places."""
    encoded = draw(texts).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(encoded)), max_size=8)))
    return [encoded[start:end] for start, end in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]


def before_stop(text: str, stop: list[str]) -> str:
    """Read one character at a time: the first moment at which the text ends with a stop text, without it."""
    for end in range(len(text) + 1):
        if lengths := [len(one) for one in stop if text[:end].endswith(one)]:
            return text[: end - max(lengths)]
    return text


def push_all(stream: TextStream, pieces: list[bytes]) -> str:
    return "".join(map(stream.push, pieces))


@given(split_texts())
def test_characters_split_at_any_byte_come_out_whole(pieces: list[bytes]) -> None:
    stream = TextStream()
    shown = push_all(stream, pieces)
    assert shown == b"".join(pieces).decode()
    assert stream.finish() == ""


@settings(max_examples=500)
@given(split_texts(), stops)
def test_text_ends_before_the_first_stop_text_wherever_it_is_split(pieces: list[bytes], stop: list[str]) -> None:
    whole = b"".join(pieces).decode()
    stream = TextStream(stop)
    assert push_all(stream, pieces) + stream.finish() == before_stop(whole, stop)
    assert stream.is_stopped == any(one in whole for one in stop)


@given(split_texts(), stops)
def test_exactly_what_a_stop_text_could_begin_with_is_held_back(pieces: list[bytes], stop: list[str]) -> None:
    stream, shown, received = TextStream(stop), "", b""
    for piece in pieces:
        shown += stream.push(piece)
        received += piece
        if stream.is_stopped:
            return
        held = received.decode(errors="ignore").removeprefix(shown)
        ends = [length for one in stop for length in range(1, len(one)) if (shown + held).endswith(one[:length])]
        assert len(held) == max(ends, default=0)


@pytest.mark.parametrize("pieces", [[b"xabay"], [b"xab", b"ay"], [b"xa", b"b", b"a", b"y"]])
def test_of_overlapping_stop_texts_the_one_complete_first_ends_the_text_for_any_cuts(pieces: list[bytes]) -> None:
    assert push_all(TextStream(["aba", "b"]), pieces) == "xa"


def test_of_stop_texts_complete_at_once_the_longest_ends_the_text() -> None:
    assert TextStream(["p", "stop", "op"]).push(b"never stop") == "never "


def test_shorter_stop_text_that_is_complete_does_not_wait_for_a_longer_one() -> None:
    stream = TextStream(["END", "ENDING"])
    assert stream.push(b"the END") == "the "
    assert stream.is_stopped


def test_stop_text_at_the_very_start_leaves_nothing() -> None:
    stream = TextStream(["\n"])
    assert stream.push(b"\nmore") == ""
    assert stream.is_stopped
    assert stream.finish() == ""


def test_nothing_is_shown_after_a_stop_text() -> None:
    stream = TextStream(["."])
    assert stream.push(b"One. Two.") == "One"
    assert stream.push(b"Three") == ""
    assert stream.finish() == ""


def test_empty_stop_text_stops_nothing() -> None:
    stream = TextStream([""])
    assert stream.push(b"abc") == "abc"
    assert not stream.is_stopped


def test_beginning_of_a_stop_text_is_shown_at_the_end() -> None:
    stream = TextStream(["</answer>"])
    assert stream.push(b"x </ans") == "x "
    assert stream.finish() == "</ans"


def test_half_a_character_at_the_end_becomes_a_replacement_character() -> None:
    stream = TextStream()
    assert stream.push("日".encode()[:2]) == ""
    assert stream.finish() == "�"


def test_byte_that_begins_no_character_is_replaced_at_once() -> None:
    assert TextStream().push(b"a\xffb") == "a�b"
