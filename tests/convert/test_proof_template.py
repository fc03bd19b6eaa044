"""Chat templates: what they write is what Jinja writes, and the conversations they do not take are named."""

from __future__ import annotations

import pytest

from convert.proof_template import CONVERSATIONS, compare_templates, try_template
from edge.errors import EdgeError
from edge.template_sandbox import SandboxedTemplate

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
ALL = tuple(conversation.name for conversation in CONVERSATIONS)


def refusal(stored: str, original: str) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        compare_templates(stored, original, "<s>", "</s>")
    return caught.value


def test_template_that_takes_everything_has_no_limits() -> None:
    found = compare_templates(CHATML, CHATML, "<s>", "</s>")
    assert (found.taken, found.limits) == (ALL, ())


def test_conversation_that_is_refused_is_a_limit_with_its_reason() -> None:
    found = compare_templates(WITHOUT_SYSTEM, WITHOUT_SYSTEM, "<s>", "</s>")
    assert found.taken == tuple(name for name in ALL if name != "system text")
    assert found.limits == ("system text: The chat template refuses this conversation: System role not supported",)


def test_text_that_is_left_out_is_a_limit() -> None:
    silent = CHATML.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
    )
    assert try_template(silent, "", "").limits == ("system text: the template leaves a part of it out.",)


@pytest.mark.parametrize(
    ("template", "text", "taken"),
    [
        (
            "{%- for m in messages -%}\n  {%- generation -%} {{ m.content }} {%- endgeneration %}\n{% endfor %}",
            "How do bees dance?",
            ALL,
        ),
        (
            "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
            "How do bees dance?",
            ALL,
        ),
        (
            "{{ bos_token }}{{ messages | tojson(indent=2) }}{{ tools is none }}",
            '<s>[\n  {\n    "role": "user",\n    "content": "How do bees dance?"\n  }\n]True',
            ALL[:4],
        ),
        (
            "{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = s.n + 1 %}{{ s.n }}{% endfor %}",
            "1",
            (),
        ),
        (
            "{% macro say(m) %}{{ m.role | title }}{{ m.content | trim }}{% endmacro %}{{ say(messages[0]) }}",
            "UserHow do bees dance?",
            ALL[:1],
        ),
        ("{{ strftime_now('%d %b %Y') }}", "01 Jan 2026", ()),
    ],
    ids=["generation", "loop controls", "JSON", "namespace", "macro", "date"],
)
def test_what_templates_are_made_of_comes_out_as_jinja_writes_it(
    template: str, text: str, taken: tuple[str, ...]
) -> None:
    assert SandboxedTemplate(template).write(CONVERSATIONS[0].variables("<s>", "</s>")) == text
    assert compare_templates(template, template, "<s>", "</s>").taken == taken


def test_template_that_fails_in_jinja_too_is_a_limit() -> None:
    template = "{{ messages[1].content.missing.deeper }}" + CHATML
    assert all("The chat template fails" in limit for limit in try_template(template, "", "").limits)
    assert compare_templates(template, template, "", "").taken == ()


def test_changed_template_is_refused_with_the_place() -> None:
    error = refusal(CHATML.replace("im_end", "im_END"), CHATML)
    place = CHATML.index("end|>")
    assert error.message == f"The file's chat template differs from the checkpoint's, first at character {place}."
    assert (
        error.hint
        == "The file's template is not the checkpoint's, or it runs differently: convert again, or report it."
    )
    assert refusal(CHATML[:-3], CHATML).message.endswith(f"first at character {len(CHATML) - 3}.")


def test_template_that_is_no_jinja_is_refused() -> None:
    assert refusal("{% for %}", "{% for %}").message.startswith("The chat template is not valid Jinja: ")


def test_template_without_bounds_is_refused_before_jinja_runs_it() -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert refusal(endless, endless).message == "The chat template fails: it takes more than 300,000 steps"


def test_difference_to_jinja_is_refused_with_both_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """A sandbox with a mind of its own."""

        def __init__(self, source: str) -> None:
            self.source = source

        def write(self, names: object) -> str:
            return "other"

    monkeypatch.setattr("convert.proof_template.SandboxedTemplate", Other)
    error = refusal("plain", "plain")
    assert error.message == "The chat template writes a single question as 'other'; Jinja writes 'plain'."
