"""Markdown as the page shows it: what it means, what hostile texts become, and the same while it is written."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.edge.page.acting import answers, ask, ask_and_wait, module
from tests.edge.page.fake_server import FakeServer, Wait

SHOWN = "(m, text) => { const box = document.createElement('div'); m.showMarkdown(box, text); return box.innerHTML; }"

STREAMED = """async (m, text, size) => {
    const box = document.createElement("div");
    const blocks = [];
    const stream = new m.MarkdownStream(box, { onBlock: (block) => blocks.push(block) });
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    for (let at = 0; at < text.length; at += size) {
        stream.append(text.slice(at, at + size));
        await frame();
    }
    stream.finish();
    return [box.innerHTML, blocks.length];
}"""

ALL_OF_IT = """# Title ##

Some **bold**, *italic*, ***both***, ~~gone~~, `code` and a [link](https://example.org/a_(b)).
Second line.

- one
- two
  - inner *two*

    paragraph
- [x] done

7. seven
8. eight

> quoted
> - item

| a | b |
|---|--:|
| 1 \\| 2 | `x` |

---

```py
def f():

    return "<b>"
```

~~~
tilde
~~~
end"""


def shown(page: Page, text: str) -> str:
    html: str = module(page, "markdown_view.js", SHOWN, text)
    return html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        (
            "a *b* _c_ **d** __e__ ***f***",
            "<p>a <em>b</em> <em>c</em> <strong>d</strong> <strong>e</strong> <strong><em>f</em></strong></p>",
        ),
        ("snake_case_name, 2 * 3 * 4, 5 ** 2", "<p>snake_case_name, 2 * 3 * 4, 5 ** 2</p>"),
        ("**open and *never", "<p>**open and *never</p>"),
        ("**a *b** c*", "<p><strong>a *b</strong> c*</p>"),
        ("one\ntwo", "<p>one<br>two</p>"),
        ("a<br>b", "<p>a<br>b</p>"),
        ("``a ` b`` and `c", "<p><code>a ` b</code> and `c</p>"),
        (r"\*not\* \`code\`", "<p>*not* `code`</p>"),
        ("## Two ##", "<h3>Two</h3>"),
        ("#hashtag", "<p>#hashtag</p>"),
        ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("In the year\n1984. it was", "<p>In the year<br>1984. it was</p>"),
        ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
        ("***", "<hr>"),
        (
            "|a|b|\n|:-:|-|\n|1|",
            '<div class="table" tabindex="0"><table>'
            '<thead><tr><th class="center">a</th><th class="left">b</th></tr></thead>'
            '<tbody><tr><td class="center">1</td><td class="left"></td></tr></tbody></table></div>',
        ),
        ("a | b", "<p>a | b</p>"),
        ("", ""),
    ],
)
def test_markdown_is_shown_as_what_it_means(modules: Page, text: str, html: str) -> None:
    assert shown(modules, text) == html


def test_links_lead_to_http_only_and_tell_nothing_to_where_they_lead(modules: Page) -> None:
    link = '<a href="https://example.org/" title="https://example.org/" target="_blank" rel="noopener noreferrer">'
    assert shown(modules, "[a](https://example.org)") == f"<p>{link}a</a></p>"
    assert shown(modules, "<https://example.org>, https://example.org.") == (
        f"<p>{link}https://example.org</a>, {link}https://example.org</a>.</p>"
    )
    assert shown(modules, "(see http://a.test/b_(c))").count('href="http://a.test/b_(c)"') == 1


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x)",
    "[x](//evil.test)",
    "<javascript:alert(1)>",
    '[x](https://a.test/"onmouseover="alert(1))',
    '[x](https://a.test "title" onclick=alert(1))',
    "![x](https://a.test/x.png)",
    '```"><script>alert(1)</script>\nx\n```',
    "```x onclick=alert(1)\n</code></pre><script>alert(1)</script>",
    "| <svg onload=alert(1)> |\n|---|\n| <iframe src=javascript:alert(1)> |",
    "# <style>*{display:none}</style>",
    "- <details ontoggle=alert(1) open>",
    "> <math><mi//xlink:href='javascript:alert(1)'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "[a [b](https://b.test) c](https://c.test)",
    "**<b>*</b>**",
    "[x][y]\n\n[y]: javascript:alert(1)",
]
ALLOWED = {
    *("P", "H2", "H3", "H4", "H5", "H6", "UL", "OL", "LI", "BLOCKQUOTE", "HR", "BR", "PRE", "DIV", "TABLE", "THEAD"),
    *("TBODY", "TR", "TH", "TD", "STRONG", "EM", "DEL", "CODE", "A", "SPAN", "INPUT", "BUTTON", "svg", "use"),
}
CENSUS = """(m, text) => {
    const box = document.createElement("div");
    m.showMarkdown(box, text);
    const all = [...box.querySelectorAll("*")];
    return {
        tags: all.map((each) => each.tagName),
        handlers: all.flatMap((each) => each.getAttributeNames()).filter((name) => /^on|^style$/.test(name)),
        links: [...box.querySelectorAll("a")].map((each) => [each.protocol, each.rel, each.querySelector("a")]),
        sources: all.filter((each) => each.hasAttribute("src")).length,
    };
}"""


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(modules: Page, text: str) -> None:
    census = module(modules, "markdown_view.js", CENSUS, text)
    assert set(census["tags"]) <= ALLOWED
    assert (census["handlers"], census["sources"]) == ([], 0)
    for link in census["links"]:
        assert link in (["https:", "noopener noreferrer", None], ["http:", "noopener noreferrer", None])


def test_no_script_of_a_model_runs_in_the_conversation(page: Page, server: FakeServer) -> None:
    page.evaluate("void (window.alert = () => { window.wasRun = true; })")
    for text in HOSTILE:
        server.says(text)
        ask_and_wait(page, text)
    assert page.evaluate("window.wasRun") is None
    expect(answers(page).first).to_have_text("<script>alert(1)</script>")


BROKEN = [
    *("x" + "*" * 200_000, "**a" * 100_000, "[" * 300_000, "[a](" * 100_000, "`a``b" * 80_000, "_a_" * 100_000),
    *("https://" * 60_000, "![" * 100_000, "<" * 300_000, "~~a" * 90_000, "x" + "```" * 100_000, "\\" * 300_000),
    *(
        "[](" + "(" * 300_000,
        "# " + "#" * 200_000 + " x",
        "> " * 100_000 + "x",
        "- " * 100_000 + "x",
        "1. a\n" * 40_000,
    ),
    "|" * 100_000 + "x\n" + "|-" * 100_000,
]
SHAPE = """(m, text) => {
    const box = document.createElement("div");
    m.showMarkdown(box, text);
    let depth = 0;
    for (let level = [box]; level.length > 0; level = level.flatMap((each) => [...each.children])) depth += 1;
    return [box.textContent.length, depth];
}"""


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:8])
def test_broken_nesting_comes_to_an_end_and_is_not_deep(modules: Page, text: str) -> None:
    length, depth = module(modules, "markdown_view.js", SHAPE, text)
    assert length > 0
    assert depth < 60


@pytest.mark.parametrize("size", [2, 7])
def test_a_text_that_grows_ends_as_the_whole_text_is_shown(modules: Page, size: int) -> None:
    html, blocks = module(modules, "markdown_view.js", STREAMED, ALL_OF_IT, size)
    assert html == shown(modules, ALL_OF_IT)
    assert blocks == 10


def test_an_answer_cut_inside_a_code_fence_is_code(page: Page, server: FakeServer) -> None:
    server.says("Look:\n\n```py", "thon\nprint('", Wait(), "<b>')\n")
    ask(page, "Code")
    expect(answers(page).locator("pre")).to_have_text("print('")
    expect(answers(page).locator(".code-head")).to_contain_text("python")
    server.go_on()
    expect(answers(page).locator("pre")).to_have_text("print('<b>')\n")
    expect(page.locator(".facts")).to_be_visible()


def test_bold_text_is_bold_before_its_end_has_come(page: Page, server: FakeServer) -> None:
    server.says("so **very", Wait(), "** well")
    ask(page, "Hi")
    expect(answers(page).locator("strong")).to_have_text("very")
    server.go_on()
    expect(answers(page)).to_have_text("so very well")


def test_code_is_copied_as_it_was_written(page: Page, server: FakeServer) -> None:
    server.says("```\na  <b>\n\tc\n```")
    ask_and_wait(page, "Code")
    page.get_by_role("button", name="Copy code").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "a  <b>\n\tc"


def test_a_megabyte_without_a_line_break_is_shown_whole(page: Page, server: FakeServer) -> None:
    server.says(*["x" * 10_000] * 100)
    ask(page, "Long")
    expect(page.locator(".facts")).to_be_visible(timeout=60_000)
    assert page.evaluate("document.querySelector('.assistant .text').textContent.length") == 1_000_000


def test_blocks_that_are_whole_stay_the_same_elements(page: Page, server: FakeServer) -> None:
    server.says("First.\n\nSecond", Wait(), " goes on.\n\nThird", Wait(), ".")
    ask(page, "Hi")
    expect(answers(page)).to_contain_text("Second")
    page.evaluate("document.querySelector('.assistant .text p').mark = 'the same'")
    server.go_on()
    expect(answers(page)).to_contain_text("Third")
    server.go_on()
    expect(page.locator(".facts")).to_be_visible()
    assert page.evaluate("document.querySelector('.assistant .text p').mark") == "the same"
