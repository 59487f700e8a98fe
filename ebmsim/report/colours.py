"""Colours of all pictures: eight that colour-blind readers tell apart, and what each stands for.

Source: M. Okabe and K. Ito, Color Universal Design (2008).
"""

from __future__ import annotations

from collections.abc import Sequence

BLACK, GREY, PALE = "#000000", "#999999", "#dddddd"
ORANGE, SKY, GREEN, YELLOW = "#e69f00", "#56b4e9", "#009e73", "#f0e442"
BLUE, VERMILION, PURPLE = "#0072b2", "#d55e00", "#cc79a7"

LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Of lines and points that stand for nothing with a colour of its own, in order."""

CATEGORIES = {
    "matmul": BLUE,
    "convolution": SKY,
    "elementwise": ORANGE,
    "transformation": GREEN,
    "movement": PURPLE,
    "rng": YELLOW,
    "host": GREY,
}
PHASES = {
    "forward": BLUE,
    "backward to the input": ORANGE,
    "random numbers": YELLOW,
    "update": GREEN,
    "accept": PURPLE,
}
INFERENCE = {"once": GREEN, "first step": ORANGE, "further steps": BLUE}
WAITING = PALE
"""Of the time that a device waits."""

_BOUNDS = {"compute": BLUE, "dispatch": GREY, "sync": PURPLE}
# Of memory levels, from main memory inwards.
_LEVELS = (VERMILION, ORANGE, YELLOW, GREEN)


def of_bound(name: str, levels: Sequence[str]) -> str:
    """The colour of what binds: compute, dispatch, sync, or memory:<level> of a device's levels, innermost first."""
    if name in _BOUNDS:
        return _BOUNDS[name]
    return _LEVELS[min(len(levels) - 1 - levels.index(name.removeprefix("memory:")), len(_LEVELS) - 1)]


def on(colour: str) -> str:
    """Black or white, whichever is read on a colour (relative luminance of ITU-R BT.709, without gamma)."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return BLACK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 110 else "#ffffff"
