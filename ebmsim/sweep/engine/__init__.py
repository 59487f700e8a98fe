"""Estimates of many devices at once: every formula once, on arrays whose axes are the swept figures.

On a grid arithmetic lives on the axes that it depends on, memory on those of bandwidths, and bytes on those of
capacities; only their combination spans the product of the axes. Devices that vary in everything at once are taken in
groups of near ones. In both cases, what the range of the devices decides is decided once for all of them:

    rows      kernels that differ by a factor alone on all of the devices are one
    ways      ways to compute a product that are best on none are left out
    launches  launches that the device never waits for are not looked at: passes become columns, sums of kernels
    work      the above for a range of devices
    states    kernels at capacities, by what can bind them
    sums      the sums
    points    the axes of the devices, and their extremes
    figures   seconds of passes on a grid and in groups, and the figures of an estimate
"""

from ebmsim.sweep.engine.figures import evaluate
from ebmsim.sweep.engine.launches import flat
from ebmsim.sweep.engine.work import Prepared, prepare

__all__ = ["Prepared", "evaluate", "flat", "prepare"]
