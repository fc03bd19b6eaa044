"""The HTML report: well-formed, complete, harmless, and in need of nothing else."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.compare import compare_records
from bench.html_plots import (
    HEIGHT,
    WIDTH,
    Axis,
    Bar,
    Series,
    bar_plot,
    legend,
    line_plot,
    logarithmic_ticks,
    point_plot,
    round_ticks,
)
from bench.html_report import cumulative, html_report, latency_plot, memory_plot, streams_plot
from bench.record import Record
from tests.bench.bench_records import DECODE, PEAK, make_record

VOID = {"meta", "br", "img", "link", "input", "hr"}


class _Checker(HTMLParser):
    """Checks that every element is closed where it should be, and keeps what is needed for the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _checked(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def _plot(html: str) -> ElementTree.Element:
    """The SVG of a figure, without its legend."""
    plot, end, _ = html.partition("</svg>")
    return ElementTree.fromstring(plot + end)


@pytest.fixture
def records() -> list[Record]:
    return [make_record("Q8_0", divergence=0.004), make_record("Q4_0", notes=("A <note>.",))]


def test_every_element_is_closed_and_every_plot_is_well_formed(records: list[Record]) -> None:
    for shown in (records, records[:1]):
        page = html_report(shown, compare_records(shown, shown, Path("old.jsonl")))
        assert page.startswith("<!DOCTYPE html>")
        _checked(page)
        plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        assert len(plots) == 5
        for plot in plots:
            ElementTree.fromstring(plot)


def test_nothing_is_fetched_and_nothing_runs(records: list[Record]) -> None:
    page = html_report(records)
    checker = _checked(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(checker.tags)
    assert not [name for name, _ in checker.attributes if name in ("src", "href") or name.startswith("on")]
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in checker.attributes


def test_names_cannot_become_markup(records: list[Record]) -> None:
    page = html_report(records)
    assert "Made-up CPU <7>" not in page and "Made-up CPU &lt;7&gt;" in page
    assert "A &lt;note&gt;." in page


def test_it_is_for_dark_screens_as_well(records: list[Record]) -> None:
    page = html_report(records)
    assert "prefers-color-scheme: dark" in page
    used = set(re.findall(r"var\((--\w+)\)", page))
    light, dark = page.split("prefers-color-scheme: dark")[0], page.split("prefers-color-scheme: dark")[1]
    assert all(f"{name}:" in light and f"{name}:" in dark for name in used)


def test_several_models_answer_which_quantization(records: list[Record]) -> None:
    checker = _checked(html_report(records))
    text = " ".join(checker.text)
    assert "Which quantization?" in text
    for title in (
        "Quality against size",
        "Prefill and decode",
        "Throughput over streams",
        "Time between tokens",
        "Memory of a fresh process",
        "KL divergence, token by token",
    ):
        assert title in text
    assert "decode, 128 tokens (mark: what memory allows, predicted)" in text


def test_one_model_has_its_figures_in_front() -> None:
    text = " ".join(_checked(html_report([make_record()])).text)
    assert "model-Q4_0 (Q4_0)" in text
    assert "of it not of files" in text and "first token" in text


def test_without_quality_there_is_no_plot_of_it() -> None:
    page = html_report([make_record(divergence=None)])
    assert "Quality against size" not in page and "token by token" not in page
    assert len(re.findall("<svg", page)) == 4


def test_a_regression_stands_in_the_page() -> None:
    old, new = (
        make_record(samples={DECODE: [100, 101, 102, 103, 104]}),
        make_record(samples={DECODE: [50, 51, 52, 53, 54]}),
    )
    page = html_report([new], compare_records([new], [old], Path("old.jsonl")))
    assert "Against the earlier run: worse (1 worse by more than 5%)" in page
    assert '<td class="worse">worse</td>' in page
    assert "1 unchanged" in page


def test_ticks_are_round() -> None:
    assert round_ticks(0, 1.08) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert round_ticks(90, 150) == pytest.approx([100, 120, 140])
    assert round_ticks(3, 3) == [3]
    assert logarithmic_ticks(0.004, 0.3) == pytest.approx([0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
    assert logarithmic_ticks(1, 5000) == pytest.approx([1, 10, 100, 1000])


def test_places_on_a_plot_follow_the_values() -> None:
    axis = Axis("x", lambda value: f"{value:g}")
    plot = ElementTree.fromstring(line_plot("title", [Series("a", ((0, 0), (5, 10), (10, 10)))], axis, axis))
    (line,) = plot.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] > points[1][1] == points[2][1]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)


def test_a_single_point_and_values_of_zero_can_be_drawn() -> None:
    axis = Axis("x", str, is_logarithmic=True)
    points = point_plot("title", [Series("a", ((5, 0.0),))], Axis("y", str, starts_at_zero=False), axis)
    (circle,) = ElementTree.fromstring(points).iter("circle")
    assert 0 < float(circle.attrib["cx"]) < WIDTH and 0 < float(circle.attrib["cy"]) < HEIGHT
    bars = bar_plot("title", [("group", [Bar("a very long name of a model", 0.0, "0", (0.0, 0.0), 0.0)])])
    (bar,) = ElementTree.fromstring(bars).iter("rect")
    assert float(bar.attrib["width"]) == 1.0
    assert [text.text for text in ElementTree.fromstring(bars).iter("text")] == ["group", "…ong name of a model", "0"]


def test_names_of_points_near_each_other_do_not_overlap() -> None:
    axis = Axis("x", str, starts_at_zero=False)
    series = [Series(f"Q{number}_K_M", ((100.0 + number, 1.0 + number / 50),)) for number in range(3)]
    series.append(Series("far", ((400.0, 3.0),)))
    texts = ElementTree.fromstring(point_plot("title", series, axis, axis)).iter("text")
    names = [text for text in texts if text.attrib.get("class") == "name"]
    assert [name.text for name in names] == ["Q0_K_M", "Q1_K_M", "Q2_K_M", "far"]
    places = [(float(name.attrib["x"]), float(name.attrib["y"])) for name in names]
    for first, second in itertools.combinations(places, 2):
        assert abs(first[0] - second[0]) >= 45 or abs(first[1] - second[1]) >= 14
    assert all(0 < x < WIDTH - 20 and 0 < y < HEIGHT for x, y in places)


def test_a_ninth_series_is_told_from_the_first() -> None:
    axis = Axis("x", str)
    plot = line_plot("title", [Series(str(number), ((0, number), (1, number))) for number in range(9)], axis, axis)
    styles = [line.attrib["class"] for line in ElementTree.fromstring(plot).iter("polyline")]
    assert styles[0] == "s0" and styles[8] == "s0 again" and len(set(styles)) == 9
    assert 'class="b0 again"' in legend([str(number) for number in range(9)])


def test_several_models_of_different_sizes_answer_which_model() -> None:
    assert "<h1>Which model?</h1>" in html_report([make_record(), make_record("Q8_0", parameters=7)])


def test_streams_are_marked_where_they_were_measured() -> None:
    record = make_record()
    plot = _plot(streams_plot([record], ["Q4_0"]))
    below = [text.text for text in plot.iter("text") if text.attrib.get("y") == f"{HEIGHT - 26:.1f}"]
    assert below == ["4"] == [str(streams) for streams in record.settings["streams"]]


def test_texts_of_marks_stand_above_the_lines() -> None:
    plot = _plot(memory_plot([make_record()], ["Q4_0"]))
    lowest_text = max(float(text.attrib["y"]) for text in plot.iter("text") if text.attrib.get("class") == "mark-name")
    tops = [float(point.split(",")[1]) for line in plot.iter("polyline") for point in line.attrib["points"].split()]
    assert lowest_text < min(tops)


def test_tokens_that_came_at_once_do_not_stretch_the_axis() -> None:
    record = replace(make_record(), gaps_seconds={"1": [0.000003] * 30 + [0.01] * 70})
    plot = _plot(latency_plot([record], ["Q4_0"]))
    texts = [text.text for text in plot.iter("text")]
    assert "10" in texts and "0.01" not in texts


def test_the_curve_of_gaps_rises_from_the_shortest_to_the_longest() -> None:
    curve = cumulative([0.03, 0.01, 0.02])
    assert curve == ((10.0, 0.0), (20.0, 0.5), (30.0, 1.0))
    assert len(cumulative([0.01] * 10_000)) == 160
    assert cumulative([0.01]) == ((10.0, 1.0),)


def test_the_page_of_an_interrupted_run_says_so_in_its_head() -> None:
    page = html_report([replace(make_record(), interrupted=True)])
    assert "<h1>model-Q4_0 (Q4_0), interrupted</h1>" in page
    assert "interrupted" not in html_report([make_record()])


def test_a_run_that_was_interrupted_before_its_speeds_has_a_page() -> None:
    early = replace(make_record(samples={PEAK: (210e6,)}, divergence=None), ceiling=None, gaps_seconds={}, memory=None)
    page = html_report([replace(early, interrupted=True), replace(make_record("Q8_0"), interrupted=True)])
    assert "Which quantization?, interrupted</h1>" in page and "peak memory of the process" in page
    assert "<figcaption>" not in html_report([replace(early, interrupted=True)])
