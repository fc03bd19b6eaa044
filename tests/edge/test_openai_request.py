"""OpenAI's chat-completion bodies become requests, or errors that name the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.constraint import Constraint
from edge.openai_fields import MAX_NESTING, BodyError, parse_json
from edge.openai_request import KNOWN_FIELDS, WITHOUT_EFFECT, ChatBody, parse_body
from edge.request import AdapterChoice
from edge.settings import SamplingSettings
from edge.tool_requests import chat_requests
from tests.edge.fake_engine import FakeEngine

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}


def parsed(**fields: Any) -> ChatBody:
    return parse_body({"messages": HELLO, **fields})


def refused(body: object) -> tuple[str, str, str]:
    """The field, the message and the hint of a body that is wrong."""
    with pytest.raises(BodyError) as caught:
        parse_body(body)
    return caught.value.field, caught.value.message, caught.value.hint


# What a body asks for


def test_body_with_messages_alone_leaves_everything_to_the_model() -> None:
    engine = FakeEngine()
    (request,) = chat_requests(parsed(), None, engine)
    assert request.sampling == engine.default_sampling
    assert (request.max_tokens, request.stop, request.logprobs, request.constraint) == (None, (), None, None)
    assert request.adapters is None


def test_every_role_and_part_reaches_the_prompt() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Two"}, {"type": "text", "text": "parts"}]},
        {"role": "assistant", "content": "Yes?", "refusal": None, "annotations": []},
        {"role": "user", "content": "Go on"},
    ]
    engine = FakeEngine()
    (request,) = chat_requests(parse_body({"messages": messages}), None, engine)
    assert "".join(map(engine.vocab.text, request.prompt_tokens)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTwo\nparts<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n"
    )


def test_control_token_in_a_message_stays_text() -> None:
    engine = FakeEngine()
    (request,) = chat_requests(parse_body({"messages": [{"role": "user", "content": "<|im_end|>"}]}), None, engine)
    assert request.prompt_tokens.count(engine.vocab.special_tokens["<|im_end|>"]) == 1


def test_openai_fields_reach_the_request() -> None:
    body = parsed(
        model="gemma", max_completion_tokens=7, temperature=0, top_p=0.5, stop=["a", "b"], seed=-1, user="me",
        logit_bias={"12": -100, "3": 1.5}, logprobs=True, top_logprobs=4, presence_penalty=1, frequency_penalty=-0.5,
    )  # fmt: skip
    (request,) = chat_requests(body, None, FakeEngine())
    assert body.model == "gemma"
    assert (request.max_tokens, request.stop, request.logprobs, request.client) == (7, ("a", "b"), 4, "me")
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0, 0.5, 2**32 - 1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -0.5)
    assert sampling.logit_bias == ((12, -100.0), (3, 1.5))


def test_own_fields_reach_the_request() -> None:
    (request,) = chat_requests(
        parsed(
            priority=-2, ignore_eos=True, min_tokens=3, stop_tokens=[5, 6], deadline_seconds=1.5,
            lora=[{"name": "law", "scale": 0.5}, {"name": "poetry"}],
        ),
        None,
        FakeEngine(),
    )  # fmt: skip
    assert (request.priority, request.ignore_eos, request.min_tokens, request.stop_tokens) == (-2, True, 3, (5, 6))
    assert request.deadline_seconds == 1.5
    assert request.adapters == (AdapterChoice("law", 0.5), AdapterChoice("poetry", 1.0))


def test_every_sampling_setting_has_a_field_of_its_name() -> None:
    chosen = {"top_k": 3, "min_p": 0.1, "typical_p": 0.9, "top_n_sigma": 1.5, "xtc_probability": 0.5}
    chosen |= {"xtc_threshold": 0.2, "dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 4}
    chosen |= {"dry_penalty_last_n": 64, "repeat_penalty": 1.1, "repeat_last_tokens": 32, "mirostat_tau": 5.0}
    chosen |= {"mirostat_eta": 0.2, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0}
    (request,) = chat_requests(parsed(**chosen, dry_sequence_breakers=["\n", "*"]), None, FakeEngine())
    assert {name: getattr(request.sampling, name) for name in chosen} == chosen
    assert request.sampling.dry_sequence_breakers == ("\n", "*")
    assert set(SamplingSettings.__dataclass_fields__) <= set(KNOWN_FIELDS)


def test_choices_differ_in_their_seeds_only() -> None:
    requests = chat_requests(parsed(n=3, seed=2**32 - 2), None, FakeEngine())
    assert [request.sampling.seed for request in requests] == [2**32 - 2, 2**32 - 1, 0]
    assert len({request.prompt_tokens for request in requests}) == 1
    assert [request.sampling.seed for request in chat_requests(parsed(n=2), None, FakeEngine())] == [None, None]


def test_stop_may_be_one_text() -> None:
    assert parsed(stop="\n").stop == ("\n",)


def test_integer_may_be_written_with_a_point() -> None:
    body = parsed(max_tokens=3.0, top_k=5.0)
    assert (repr(body.max_tokens), repr(body.sampling["top_k"])) == ("3", "5")


def test_template_variables_reach_the_template() -> None:
    class Remembering(FakeEngine):
        def chat_tokens(self, messages: Any, variables: Any = None, known_tokens: Any = ()) -> tuple[int, ...]:
            self.variables = variables
            return (1,)

    engine = Remembering()
    chat_requests(parsed(chat_template_kwargs={"enable_thinking": False}), None, engine)
    assert engine.variables == {"enable_thinking": False}


def test_response_formats_become_constraints() -> None:
    assert parsed(response_format={"type": "text"}).constraint is None
    assert parsed(response_format={"type": "json_object"}).constraint == Constraint.json_schema({"type": "object"})
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
    constraint = parsed(response_format=wanted).constraint
    assert constraint is not None
    assert constraint.text == json.dumps(SCHEMA)  # with its properties in their order
    assert parsed(regex="[0-9]").constraint == Constraint.regex("[0-9]")
    assert parsed(grammar='start: "a"').constraint == Constraint.grammar('start: "a"')


def test_streaming_options_are_read() -> None:
    body = parsed(stream=True, stream_options={"include_usage": True})
    assert (body.is_streamed, body.includes_usage) == (True, True)


def test_fields_without_effect_here_are_accepted() -> None:
    given = dict.fromkeys(WITHOUT_EFFECT, "x")
    assert parsed(**given, modalities=["text"], tool_choice="auto", parallel_tool_calls=False).messages


def test_null_is_as_good_as_absent() -> None:
    nothing = {name: None for name in KNOWN_FIELDS if name != "messages"}
    assert parsed(**nothing) == parsed()


# What is refused


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temprature": 0}, ("temprature", "The field temprature is not known.", "Did you mean temperature?")),
        ({"zzz": 0}, ("zzz", "The field zzz is not known.", "Leave it out: it would be ignored.")),
        ({"temperature": "hot"}, ("temperature", 'temperature is "hot".', "It must be a number.")),
        ({"temperature": True}, ("temperature", "temperature is true.", "It must be a number.")),
        (
            {"temperature": 10**400},
            ("temperature", "temperature is an integer with very many digits.", "It must be a number."),
        ),
        ({"temperature": float("inf")}, ("temperature", "temperature is Infinity.", "It must be a number.")),
        ({"top_p": 7}, ("top_p", "top_p is 7.0.", "top_p must be above 0 and at most 1.")),
        ({"top_k": [1]}, ("top_k", "top_k is a list with 1 member.", "It must be an integer of at least -1.")),
        ({"top_k": 1.5}, ("top_k", "top_k is 1.5.", "It must be an integer of at least -1.")),
        ({"top_k": -1}, ("top_k", "top_k is -1.", "top_k must be at least 0 (0 switches it off).")),
        ({"max_tokens": 0}, ("max_tokens", "max_tokens is 0.", "It must be an integer of at least 1.")),
        ({"max_tokens": 2**40}, ("max_tokens", "max_tokens is 1099511627776.", "It must be an integer of at least 1.")),
        (
            {"max_tokens": 1, "max_completion_tokens": 2},
            ("max_tokens", "max_completion_tokens is 2 and max_tokens is 1.", "Give one of them."),
        ),
        ({"n": 0}, ("n", "n is 0.", "It must be an integer between 1 and 128.")),
        ({"stop": [""]}, ("stop[0]", 'stop[0] is "".', "It must be a text of at least one character.")),
        ({"stop": 5}, ("stop", "stop is 5.", "It must be a text or a list of texts.")),
        ({"stop": ["a", 5]}, ("stop[1]", "stop[1] is 5.", "It must be a text.")),
        ({"stop_tokens": [-1]}, ("stop_tokens[0]", "stop_tokens[0] is -1.", "It must be an integer of at least 0.")),
        (
            {"logit_bias": {"x": 1}},
            ("logit_bias.x", "logit_bias has the key 'x'.", "Keys are token ids, such as 1234."),
        ),
        (
            {"logit_bias": {"1": 101}},
            ("logit_bias.1", "logit_bias.1 is 101.", "It must be a number between -100 and 100."),
        ),
        ({"top_logprobs": 2}, ("top_logprobs", "top_logprobs is given without logprobs.", "Set logprobs to true.")),
        ({"logprobs": 1}, ("logprobs", "logprobs is 1.", "It must be true or false.")),
        (
            {"logprobs": True, "top_logprobs": 21},
            ("top_logprobs", "top_logprobs is 21.", "It must be an integer between 0 and 20."),
        ),
        ({"stream_options": {}}, ("stream_options", "stream_options is given without stream.", "Set stream to true.")),
        (
            {"stream": True, "stream_options": {"include_usge": True}},
            (
                "stream_options.include_usge",
                "The field stream_options.include_usge is not known.",
                "Did you mean include_usage?",
            ),
        ),
        ({"response_format": "json"}, ("response_format", 'response_format is "json".', "It must be a JSON object.")),
        (
            {"response_format": {"type": "xml"}},
            (
                "response_format.type",
                'response_format.type is "xml".',
                "It must be one of text, json_object, json_schema.",
            ),
        ),
        (
            {"response_format": {"type": "json_schema"}},
            ("response_format.json_schema", "response_format.json_schema is missing.", "It must be given."),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            (
                "response_format.json_schema.schema",
                "response_format.json_schema.schema is missing.",
                "It must be given.",
            ),
        ),
        (
            {"response_format": {"type": "json_object"}, "regex": "a"},
            ("regex", "response_format and regex exclude each other.", "Give one constraint."),
        ),
        (
            {"modalities": ["text", "audio"]},
            ("modalities[1]", "modalities[1] is 'audio'.", "Only text can be written."),
        ),
        (
            {"reasoning_effort": "low"},
            (
                "reasoning_effort",
                "reasoning_effort is not supported.",
                "Set what the model's template knows with chat_template_kwargs.",
            ),
        ),
        (
            {"functions": []},
            (
                "functions",
                "functions is not supported.",
                "Describe them in the prompt and ask for JSON with response_format.",
            ),
        ),
        ({"tool_choice": "required"}, ("tool_choice", "tool_choice is given without tools.", "Give the tools too.")),
        ({"lora": [{"scale": 1}]}, ("lora[0].name", "lora[0].name is missing.", "It must be given.")),
        ({"lora": "law"}, ("lora", 'lora is "law".', "It must be a list.")),
        ({"lora": [{"nmae": "law"}]}, ("lora[0].nmae", "The field lora[0].nmae is not known.", "Did you mean name?")),
        (
            {"deadline_seconds": -1},
            ("deadline_seconds", "deadline_seconds is -1.", "It must be a number of at least 0."),
        ),
        (
            {"chat_template_kwargs": {"a": json.loads("[" * 40 + "]" * 40)}},
            ("chat_template_kwargs", "chat_template_kwargs is nested too deeply.", "At most 32 levels are passed on."),
        ),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else ",".join(value),
)
def test_wrong_field_is_named_with_what_it_should_be(fields: dict[str, Any], expected: tuple[str, str, str]) -> None:
    assert refused({"messages": HELLO, **fields}) == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (None, ("messages", "messages is missing.", "It must be given.")),
        ([], ("messages", "messages is empty.", "Give at least one message.")),
        ("Hello", ("messages", 'messages is "Hello".', "It must be a list.")),
        (["Hello"], ("messages[0]", 'messages[0] is "Hello".', "It must be a JSON object.")),
        ([{"content": "x"}], ("messages[0].role", "messages[0].role is missing.", "It must be given.")),
        (
            [{"role": "king", "content": "x"}],
            (
                "messages[0].role",
                'messages[0].role is "king".',
                "It must be one of developer, system, user, assistant, tool.",
            ),
        ),
        ([*HELLO, {"role": "user"}], ("messages[1].content", "messages[1].content is missing.", "It must be given.")),
        (
            [*HELLO, *HELLO, {"role": "user", "content": 5}],
            ("messages[2].content", "messages[2].content is 5.", "It must be a text or a list of text parts."),
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            (
                "messages[0].content[0]",
                "messages[0].content[0] is of type image_url.",
                "Only parts of type text are read.",
            ),
        ),
        (
            [{"role": "user", "content": [{"text": "x"}]}],
            ("messages[0].content[0].type", "messages[0].content[0].type is missing.", "It must be given."),
        ),
        (
            [{"role": "user", "content": [{"type": "text"}]}],
            ("messages[0].content[0].text", "messages[0].content[0].text is missing.", "It must be given."),
        ),
        (
            [{"role": "user", "content": "x", "name": "Ann"}],
            (
                "messages[0].name",
                "messages[0].name is not supported.",
                "Chat templates have no place for it: write it into the text.",
            ),
        ),
        (
            [{"role": "user", "content": "x", "cotnent": "y"}],
            ("messages[0].cotnent", "The field messages[0].cotnent is not known.", "Did you mean content?"),
        ),
        (
            [{"role": "assistant", "content": "x", "refusal": "no"}],
            ("messages[0].refusal", 'messages[0].refusal is "no".', "It must be null here."),
        ),
    ],
)
def test_wrong_message_is_named_by_its_place(messages: object, expected: tuple[str, str, str]) -> None:
    assert refused({"messages": messages}) == expected


@pytest.mark.parametrize("value", [[], "x", 5, None])
def test_body_that_is_no_object_is_refused(value: object) -> None:
    field, message, hint = refused(value)
    assert (field, hint) == ("", "It must be a JSON object.")
    assert message.startswith("The request is ")


# JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": }', "It is not valid JSON: column 7: Expecting value."),
        ('{\n"a" 1}', "It is not valid JSON: line 2, column 5: Expecting ':' delimiter."),
        ('{"a": 1, "a": 2}', "The field a is there twice in one object."),
        ('{"a": NaN}', "NaN is not JSON."),
        (r'{"a": "\ud800"}', "It holds half of a surrogate pair."),
        ("[" * 100_000, "It is nested too deeply."),
        ("[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1), "It is nested too deeply."),
        ("1" * 10_000, "It holds a number that is too long."),
    ],
)
def test_json_that_readers_could_differ_about_is_refused(text: str, message: str) -> None:
    with pytest.raises(BodyError) as caught:
        parse_json(text, "It")
    assert caught.value.message == message


def test_json_of_any_sound_kind_is_read() -> None:
    text = '{"a": [1, 2.5, null, true, "\\u00e9\\ud83d\\ude00é"]}'
    assert parse_json(text, "It") == {"a": [1, 2.5, None, True, "é😀é"]}
