"""Plots as inline SVG: lines, bars and labelled points on axes with round ticks. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 16, 14, 44
_COLOURS = 8
_BAR_HEIGHT, _GROUP_GAP, _LABEL_WIDTH, _VALUE_WIDTH = 16, 14, 150, 110
_LETTER_WIDTH, _BOLD_LETTER_WIDTH = 6.6, 7.6
_MARK_ROWS, _MARK_ROW_HEIGHT = 4, 14
NumberText = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """Points of one model. `spreads` are the ends of vertical whiskers, one pair for each point."""

    label: str
    points: tuple[tuple[float, float], ...]
    spreads: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Axis:
    label: str
    text: NumberText
    is_logarithmic: bool = False
    starts_at_zero: bool = True
    ticks: tuple[float, ...] = ()
    """Where something was measured; none: at round values."""


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    text: str
    spread: tuple[float, float] | None = None
    limit: float | None = None
    """A mark that the bar could reach at most."""


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool

    def place(self, value: float) -> float:
        low, high, value = (self._mapped(each) for each in (self.low, self.high, max(self.low, value)))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        found = logarithmic_ticks(self.low, self.high) if self.is_logarithmic else []
        if len(found) > 2:
            return found
        return [tick for tick in round_ticks(self.low, self.high) if self.low <= tick <= self.high * 1.0001]

    def _mapped(self, value: float) -> float:
        return math.log10(value) if self.is_logarithmic else value


def line_plot(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    marks: Sequence[tuple[float, str]] = (),
    *,
    dots: bool = True,
) -> str:
    """Lines through the points of each series; marks are vertical lines with a text."""
    x_scale, y_scale = _scales(series, x, y, marks)
    if marks:  # their texts stand above the lines
        y_scale = replace(y_scale, end=y_scale.end + _MARK_ROWS * _MARK_ROW_HEIGHT)
    body = [_grid(x_scale, y_scale, x, y), _marks(marks, x_scale)]
    for place, each in enumerate(series):
        body.append(_line(each, place, x_scale, y_scale, y, dots=dots))
    return _svg(title, HEIGHT, body)


def point_plot(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """The points of each series with its name beside them."""
    x_scale, y_scale = _scales(series, x, y, ())
    body = [_grid(x_scale, y_scale, x, y)]
    places = [(x_scale.place(across), y_scale.place(up)) for each in series for across, up in each.points]
    taken = [_Box(left - 6, top - 6, left + 6, top + 6) for left, top in places]
    for place, each in enumerate(series):
        colour = place % _COLOURS
        body.append(_whiskers(each, colour, x_scale, y_scale))
        for across, up in each.points:
            left, top = x_scale.place(across), y_scale.place(up)
            told = f"{each.label}: {x.text(across)}, {y.text(up)}"
            box = _label_box(each.label, left, top, taken)
            taken.append(box)
            body.append(
                f'<circle class="f{colour}" cx="{left:.1f}" cy="{top:.1f}" r="6"><title>{escape(told)}</title></circle>'
                f'<text class="name" x="{box.left:.1f}" y="{box.bottom - 3:.1f}">{escape(each.label)}</text>'
            )
    return _svg(title, HEIGHT, body)


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: _Box) -> bool:
        is_beside = self.right <= other.left or other.right <= self.left
        return not (is_beside or self.bottom <= other.top or other.bottom <= self.top)


def _label_box(label: str, left: float, top: float, taken: Sequence[_Box]) -> _Box:
    """Where the name of a point has room: near it, inside of the plot, and on nothing else if that can be."""
    width, height = len(label) * _BOLD_LETTER_WIDTH, 14.0
    across = (left + 9, left - 9 - width, left - width / 2)
    up = (top - 18, top + 4, top - 7)
    boxes = [_Box(x, y, x + width, y + height) for y in up for x in across]
    inside = [box for box in boxes if box.right <= WIDTH and box.left >= _LEFT and box.bottom <= HEIGHT - _BOTTOM]
    return next((box for box in inside if not any(map(box.overlaps, taken))), (inside or boxes)[0])


def bar_plot(title: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Horizontal bars, in groups of which each has a scale of its own."""
    body, top = [], 4.0
    for name, bars in groups:
        body.append(f'<text class="group" x="0" y="{top + 12:.1f}">{escape(name)}</text>')
        top += 20
        longest = max(max(bar.value, bar.limit or 0.0, *(bar.spread or (0.0,))) for bar in bars) or 1.0
        scale = _Scale(0.0, longest, _LABEL_WIDTH, WIDTH - _VALUE_WIDTH, is_logarithmic=False)
        for place, bar in enumerate(bars):
            body.append(_bar(bar, place % _COLOURS, scale, top))
            top += _BAR_HEIGHT + 5
        top += _GROUP_GAP
    return _svg(title, round(top), body)


def legend(labels: Sequence[str]) -> str:
    """The names of the series with their colours, as HTML."""
    items = [
        f'<span><i class="b{place % _COLOURS}{_again(place)}"></i>{escape(label)}</span>'
        for place, label in enumerate(labels)
    ]
    return f'<p class="legend">{"".join(items)}</p>'


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, some five of them."""
    rough = (high - low) / about
    if rough <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 times them where there are few."""
    factors = (1,) if high / low > 1000 else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def _scales(series: Sequence[Series], x: Axis, y: Axis, marks: Sequence[tuple[float, str]]) -> tuple[_Scale, _Scale]:
    across = [point[0] for each in series for point in each.points] + [place for place, _ in marks]
    up = [point[1] for each in series for point in each.points]
    up += [end for each in series for ends in each.spreads for end in ends]
    return (
        _Scale(*_range(across, x), _LEFT, WIDTH - _RIGHT, x.is_logarithmic),
        _Scale(*_range(up, y), HEIGHT - _BOTTOM, _TOP, y.is_logarithmic),
    )


def _range(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    """What an axis shows: all values, with some room around them."""
    low, high = min(values), max(values)
    if axis.is_logarithmic:
        positive = [value for value in values if value > 0] or [1.0]
        return min(positive) / 1.3, max(positive) * 1.3
    if axis.starts_at_zero:
        return 0.0, high * 1.08 if high > 0 else 1.0
    margin = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    return max(0.0, low - margin) if low >= 0 else low - margin, high + margin


def _grid(x_scale: _Scale, y_scale: _Scale, x: Axis, y: Axis) -> str:
    lines = []
    for tick in y_scale.ticks():
        top = y_scale.place(tick)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>')
        lines.append(_text(_LEFT - 8, top + 4, y.text(tick), "end"))
    bottom = HEIGHT - _BOTTOM
    for tick in x.ticks or x_scale.ticks():
        left = x_scale.place(tick)
        lines.append(f'<line class="axis" x1="{left:.1f}" x2="{left:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        lines.append(_text(left, bottom + 18, x.text(tick), "middle"))
    lines.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    lines.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, x.label, "middle"))
    middle = (_TOP + bottom) / 2
    lines.append(
        f'<text transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>'
    )
    return "".join(lines)


def _line(series: Series, place: int, x_scale: _Scale, y_scale: _Scale, y: Axis, *, dots: bool) -> str:
    colour = place % _COLOURS
    points = [(x_scale.place(across), y_scale.place(up)) for across, up in series.points]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
    drawn = (
        f'<polyline class="s{colour}{_again(place)}" points="{path}"><title>{escape(series.label)}</title></polyline>'
    )
    if not dots:
        return drawn
    circles = [
        f'<circle class="f{colour}" cx="{left:.1f}" cy="{top:.1f}" r="3.5">'
        f"<title>{escape(f'{series.label}: {y.text(up)}')}</title></circle>"
        for (left, top), (_, up) in zip(points, series.points, strict=True)
    ]
    return drawn + _whiskers(series, colour, x_scale, y_scale) + "".join(circles)


def _again(place: int) -> str:
    """What tells a series from the one that had its colour first."""
    return " again" if place >= _COLOURS else ""


def _whiskers(series: Series, colour: int, x_scale: _Scale, y_scale: _Scale) -> str:
    return "".join(
        f'<line class="s{colour}" x1="{x_scale.place(across):.1f}" x2="{x_scale.place(across):.1f}"'
        f' y1="{y_scale.place(low):.1f}" y2="{y_scale.place(high):.1f}"/>'
        for (across, _), (low, high) in zip(series.points, series.spreads, strict=False)
    )


def _marks(marks: Sequence[tuple[float, str]], x_scale: _Scale) -> str:
    drawn = []
    for number, (place, label) in enumerate(marks):
        left = x_scale.place(place)
        drawn.append(f'<line class="mark" x1="{left:.1f}" x2="{left:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        drawn.append(_text(left + 4, _TOP + 10 + _MARK_ROW_HEIGHT * (number % _MARK_ROWS), label, "start", "mark-name"))
    return "".join(drawn)


def _bar(bar: Bar, colour: int, scale: _Scale, top: float) -> str:
    end, middle = scale.place(bar.value), top + _BAR_HEIGHT / 2
    told = escape(f"{bar.label}: {bar.text}")
    drawn = [
        _text(_LABEL_WIDTH - 8, middle + 4, _shortened(bar.label), "end"),
        f'<rect class="f{colour}" x="{_LABEL_WIDTH}" y="{top:.1f}" width="{max(1.0, end - _LABEL_WIDTH):.1f}"'
        f' height="{_BAR_HEIGHT}" rx="2"><title>{told}</title></rect>',
    ]
    if bar.spread:
        low, high = (scale.place(value) for value in bar.spread)
        drawn.append(f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
    rightmost = max(end, *(scale.place(value) for value in bar.spread or (0.0,)))
    if bar.limit is not None:
        left = scale.place(bar.limit)
        drawn.append(
            f'<line class="limit" x1="{left:.1f}" x2="{left:.1f}" y1="{top - 2:.1f}" y2="{top + _BAR_HEIGHT + 2:.1f}">'
            "<title>ceiling</title></line>"
        )
        has_room = rightmost + 12 + len(bar.text) * _LETTER_WIDTH < left
        rightmost = rightmost if has_room else max(rightmost, left)
    drawn.append(_text(rightmost + 6, middle + 4, bar.text, "start", "value"))
    return "".join(drawn)


def _shortened(label: str) -> str:
    most = int((_LABEL_WIDTH - 12) / _LETTER_WIDTH)
    return label if len(label) <= most else f"…{label[1 - most :]}"  # names differ at their ends


def _text(left: float, top: float, text: str, anchor: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: int, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">{"".join(body)}</svg>'
    )
