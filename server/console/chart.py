"""The curves of a plan as a picture: an SVG in the page's colours, with a description for who does not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 600, 240, 44, 12, 28
LINES: Final = (("forget_raised", "forget"), ("retain", "retain"), ("personal", "personal"))
"""What is drawn: the name in a plan, and what the line is called. The first is the worst copy's, with the margin."""


@dataclass(frozen=True)
class Line:
    """One curve: its name, points as SVG has them, and where each dot is."""

    name: str
    points: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """One search, by scorer and guard rank.

    Attributes
    ----------
    title, words : str
        What it is, and what it shows, in words.
    lines : tuple of Line
    ticks : tuple of (float, str)
        Sizes of the mask along the bottom.
    chosen : float or None
        Where the chosen setting is.
    grid : tuple of (float, str)
        Accuracies along the side.
    """

    title: str
    words: str
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    chosen: float | None
    grid: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM


def charts(chosen: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """A chart for every scorer and guard rank that was tried; steps of a search are drawn equally far apart."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for point in curve:
        groups.setdefault((str(point["scorer"]), int(point["guard_rank"])), []).append(point)
    return [_chart(name, rank, points, chosen) for (name, rank), points in groups.items()]


def _chart(scorer: str, rank: int, points: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> Chart:
    step = (WIDTH - LEFT - 16) / max(1, len(points) - 1)
    xs = [round(LEFT + 8 + index * step, 1) for index in range(len(points))]
    lines = []
    for field, name in LINES:
        if field == "personal" and not any(point[field] for point in points):
            continue
        dots = tuple((x, _y(float(point[field]))) for x, point in zip(xs, points, strict=True))
        lines.append(Line(name, " ".join(f"{x},{y}" for x, y in dots), dots))
    every = max(1, len(points) // 8)
    ticks = tuple(
        (x, f"{100 * float(point['fraction']):.3g} %") for x, point in list(zip(xs, points, strict=True))[::every]
    )
    at = next((x for x, point in zip(xs, points, strict=True) if dict(point) == dict(chosen)), None)
    first, last = points[0], points[-1]
    words = (
        f"From a mask of {100 * float(first['fraction']):.3g} % of the weights "
        f"to {100 * float(last['fraction']):.3g} %, accuracy "
        f"on what is to be forgotten goes from {float(first['forget_raised']):.2f} to "
        f"{float(last['forget_raised']):.2f}, and on what is kept from {float(first['retain']):.2f} to "
        f"{float(last['retain']):.2f}."
    )
    title = f"Masks by {scorer}" + (f", guard of rank {rank}" if rank else "")
    return Chart(title, words, tuple(lines), ticks, at, tuple((_y(v / 4), f"{v / 4:.2f}") for v in range(5)))


def _y(share: float) -> float:
    """Height of an accuracy from 0 to 1."""
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(share, 0.0), 1.0)), 1)
