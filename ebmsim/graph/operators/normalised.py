"""What norms differentiate to: x̂ = (x - mean) r and its derivatives, written in basic operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ebmsim.graph.operators.table import Shape, elements

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder


def gain_shape(x: Shape, over: str) -> Shape:
    """The shape in which a learned gain is broadcast over x: along the last axis, or along the channels."""
    return tuple(x[-1:]) if over in ("layer", "rms") else (x[1], *(1,) * (len(x) - 2))


class Normalised:
    """x̂ and means over the normalised elements.

    over: layer, rms (over the last axis, rms without a mean), group, batch (over all but the channel axis), or stored
    (statistics that do not depend on x). saved: mean and rate r, of rms the rate alone.
    """

    def __init__(self, b: Builder, x: int, saved: Sequence[int], over: str, groups: int) -> None:
        self.b, self.over, self.full = b, over, b.shape(x)
        full = self.full
        self.view = (full[0], groups, elements(full[1:]) // groups) if over == "group" else full
        rank, per_channel = len(full), over in ("batch", "stored")
        self.axes = tuple(i for i in range(-rank, 0) if i != 1 - rank) if per_channel else (-1,)
        self.statistic = gain_shape(full, over) if per_channel else (*self.view[:-1], 1)
        self.rate = b.emit("reshape", saved[-1], shape=self.statistic)
        centred = self.grouped(x)
        if over != "rms":
            centred = b.emit("sub", centred, b.emit("reshape", saved[0], shape=self.statistic))
        self.x = b.emit("mul", centred, self.rate)

    def grouped(self, tensor: int) -> int:
        """A view in which the normalised elements are whole axes."""
        return self.b.emit("reshape", tensor, shape=self.view)

    def back(self, tensor: int) -> int:
        """The view back to the shape of x."""
        return self.b.emit("reshape", tensor, shape=self.full)

    def shared_by_gain(self) -> tuple[int, ...]:
        """The axes of x along which a gain is the same."""
        rank = len(self.full)
        own = -1 if self.over in ("layer", "rms") else 1 - rank
        return tuple(i for i in range(-rank, 0) if i != own)

    def mean(self, left: int, right: int | None = None) -> int:
        """Mean of a tensor, or of a product, over the normalised elements."""
        product = left if right is None else self.b.emit("mul", left, right)
        return self.b.emit("reduce_mean", product, axes=self.axes, keep=True)

    def project(self, v: int) -> int:
        """r (v - mean v - x̂ mean(v x̂)): the gradient of x̂ taken back to x."""
        b = self.b
        if self.over == "stored":
            return b.emit("mul", self.rate, v)
        rest = v if self.over == "rms" else b.emit("sub", v, self.mean(v))
        along = b.emit("mul", self.x, self.mean(v, self.x))
        return b.emit("mul", self.rate, b.emit("sub", rest, along))

    def bend(self, g: int, h: int) -> int:
        """The gradient in x of Σ h project(g).

        With a = mean g, b = mean(g x̂), c = mean(h x̂), e = mean(h g), m = mean h:
        project(-r (h b + g c)) - r² (e - m a - c b) x̂; without m a where there is no mean.
        """
        b = self.b
        along_g, along_h = self.mean(g, self.x), self.mean(h, self.x)
        v = b.emit("add", b.emit("mul", h, along_g), b.emit("mul", g, along_h))
        first = self.project(b.emit("scale", b.emit("mul", v, self.rate), by=-1.0))
        level = self.mean(h, g)
        if self.over != "rms":
            level = b.emit("sub", level, b.emit("mul", self.mean(h), self.mean(g)))
        level = b.emit("sub", level, b.emit("mul", along_g, along_h))
        second = b.emit("mul", self.x, b.emit("mul", level, b.emit("square", self.rate)))
        return b.emit("sub", first, second)

    def of_statistics(self, *given: int | None) -> int:
        """What gradients of the statistics, at least one, give x: (dμ - dr r² x̂) / count."""
        b = self.b
        level, slope = (None, *given) if self.over == "rms" else given
        terms = [] if level is None else [b.emit("reshape", level, shape=self.statistic)]
        if slope is not None:
            squared = b.emit("mul", b.emit("reshape", slope, shape=self.statistic), b.emit("square", self.rate))
            bend = b.emit("mul", self.x, squared)
            terms = [b.emit("sub", terms[0], bend) if terms else b.emit("scale", bend, by=-1.0)]
        count = elements(self.full) // elements(self.statistic)
        return self.back(b.emit("expand", b.emit("scale", terms[0], by=1.0 / count), shape=self.view))
