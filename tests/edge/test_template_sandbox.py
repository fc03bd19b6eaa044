"""The sandbox that chat templates run in."""

from __future__ import annotations

from datetime import datetime

import pytest

from edge import template_sandbox
from edge.errors import EdgeError
from edge.template_sandbox import SandboxedTemplate


def write(source: str, **names: object) -> str:
    return SandboxedTemplate(source).write(names)


def test_white_space_around_blocks_is_trimmed_as_transformers_does() -> None:
    assert write("a\n  {% if true %}\n  b\n  {% endif %}\nc\n") == "a\n  b\nc"


def test_loops_can_be_left_early() -> None:
    assert write("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "012"


def test_the_generation_tag_leaves_what_is_in_it() -> None:
    assert write("{% generation %}{{ text }}{% endgeneration %}!", text="hello") == "hello!"


def test_tojson_keeps_accents_and_angle_brackets() -> None:
    assert write("{{ value | tojson }}", value={"é": "<b>"}) == '{"é": "<b>"}'
    assert write("{{ value | tojson(indent=2) }}", value={"a": 1}) == '{\n  "a": 1\n}'


def test_tojson_escapes_on_request_all_but_the_marks_in_the_text() -> None:
    assert write("{{ value | tojson(ensure_ascii=true) }}", value="é\ufdd0🙂") == '"\\u00e9\ufdd0\\ud83d\\ude42"'


def test_the_date_of_today_can_be_written() -> None:
    assert write("{{ strftime_now('%Y') }}") == datetime.now().strftime("%Y")


def test_a_refusal_is_told_in_the_words_of_the_template() -> None:
    with pytest.raises(EdgeError, match="refuses this conversation: roles must alternate") as caught:
        write("{{ raise_exception('roles must alternate') }}")
    assert "order" in caught.value.hint


def test_a_syntax_error_names_the_line() -> None:
    with pytest.raises(EdgeError, match=r"not valid Jinja: .*endif.*\(line 3\)"):
        SandboxedTemplate("a\n{% if x %}\n{% endfor %}")


def test_a_template_nested_beyond_reason_is_refused() -> None:
    with pytest.raises(EdgeError, match="not valid Jinja"):
        SandboxedTemplate("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}")


def test_a_failing_template_is_an_edge_error_with_the_reason() -> None:
    with pytest.raises(EdgeError, match=r"The chat template fails: .*'dict object' has no attribute 'name'"):
        write("{{ tool.name.first }}", tool={})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ names.append('x') }}", "'append' of 'list' object is unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for i in range(1000000000) %}{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "1,000 steps"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}", "steps"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ 'ab' * 1000000000 }}", "repeats a text 1,000,000,000 times"),
        ("{{ 1000000000 * [1] }}", "repeats a text 1,000,000,000 times"),
        ("{{ 10 ** 1000000000 }}", "power of 1000000000"),
        ("{% set n = namespace(t='ab') %}{% for i in range(64) %}{% set n.t = n.t + n.t %}{% endfor %}", "16,000,000"),
        ("{% for i in range(99) %}{{ 'x' * 999999 }}{% endfor %}", "writes more than 16,000,000 characters"),
    ],
)
def test_a_hostile_template_is_stopped(source: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 1000)
    with pytest.raises(EdgeError, match=reason):
        write(source, names=["a"])


def test_ordinary_sums_and_products_still_work() -> None:
    assert write("{{ 'ab' * 2 + 'c' }} {{ 3 * 4 + 2 ** 3 }} {{ ([1] + [2]) | length }}") == "ababc 20 2"


def test_a_template_cannot_replace_the_counter_of_its_steps() -> None:
    with pytest.raises(EdgeError, match="reserved name _edge_count_step"):
        SandboxedTemplate("{% macro _edge_count_step() %}{% endmacro %}")


def test_a_template_can_be_used_again_after_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 1000)
    template = SandboxedTemplate("{% for i in numbers %}{% for j in numbers %}{% endfor %}{% endfor %}done")
    with pytest.raises(EdgeError, match="steps"):
        template.write({"numbers": range(50)})
    assert template.write({"numbers": range(3)}) == "done"
