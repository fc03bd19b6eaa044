"""Calls of functions read out of replies, in whatever pieces these come."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from edge.tool_calls import CallArguments, CallBegin, CallEnd, ReplyReader, ReplyText, call_text, read_reply, reply_of

CALL = call_text("weather", {"city": 'Bern } "x" \\', "days": {"n": 2}})


def test_call_is_written_on_lines_of_its_own_between_marks() -> None:
    assert call_text("f", {"a": [1]}) == '<tool_call>\n{"name": "f", "arguments": {"a": [1]}}\n</tool_call>'


def test_text_alone_is_kept_as_it_is() -> None:
    reply = read_reply(" a < b, <tool> and <tool_cal \n")
    assert reply.text == " a < b, <tool> and <tool_cal \n"
    assert reply.calls == ()


def test_text_before_a_call_loses_only_the_white_space_between_them() -> None:
    reply = read_reply(f" I look.\n\n{CALL}")
    assert reply.text == " I look."
    assert [call.name for call in reply.calls] == ["weather"]


def test_braces_and_quotes_in_arguments_end_nothing() -> None:
    (call,) = read_reply(CALL).calls
    assert json.loads(call.arguments) == {"city": 'Bern } "x" \\', "days": {"n": 2}}


def test_calls_have_ids_of_their_own() -> None:
    first, second = read_reply(f"{CALL}\n{CALL}").calls
    assert first.identifier.startswith("call_") and len(first.identifier) == 29
    assert first.identifier != second.identifier


def test_mark_within_an_argument_is_text() -> None:
    text = call_text("say", {"text": "<tool_call>\n</tool_call>"})
    (call,) = read_reply(text).calls
    assert json.loads(call.arguments) == {"text": "<tool_call>\n</tool_call>"}


def test_call_that_was_cut_off_keeps_what_there_is() -> None:
    (call,) = read_reply(CALL[: CALL.index("Bern") + 4]).calls
    assert call.arguments == '{"city": "Bern'
    assert read_reply('<tool_call>\n{"name": "wea').calls == ()


def test_parts_come_as_soon_as_they_are_certain() -> None:
    reader = ReplyReader()
    assert reader.feed("Wait") == [ReplyText("Wait")]
    assert reader.feed(" <tool") == []
    assert reader.feed("s> ") == [ReplyText(" <tools>")]
    assert reader.feed("<tool_call>\n") == []
    begin, arguments = reader.feed('{"name": "f", "arguments": {"a": ')
    assert isinstance(begin, CallBegin) and begin.name == "f"
    assert arguments == CallArguments(0, '{"a": ')
    assert reader.feed("1}}\n") == [CallArguments(0, "1}"), CallEnd(0)]
    assert reader.feed("</tool_call>") == []
    assert reader.end() == []


@given(st.data())
def test_pieces_of_any_size_make_the_same_reply(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(["", "I look. ", "<", "x <tool_call"])) + f"\n{CALL}\n" + CALL
    reader, parts, position = ReplyReader(), [], 0
    while position < len(text):
        size = data.draw(st.integers(1, 12))
        parts += reader.feed(text[position : position + size])
        position += size
    parts += reader.end()
    whole, pieced = read_reply(text), reply_of(parts)
    assert pieced.text == whole.text
    assert [(call.name, call.arguments) for call in pieced.calls] == [(c.name, c.arguments) for c in whole.calls]
