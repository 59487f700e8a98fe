"""Ways to compute matrix products and convolutions on tiled units, as figures no device changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ebmsim.graph.kernels import Floats, Ints
from ebmsim.graph.rows import Products
from ebmsim.policy import Algorithm, Profile, Tiles

PARTIAL_SUM_BYTES = 4.0
# Launches of a transformed convolution beside its products: images, filters and results are transformed.
TRANSFORM_LAUNCHES = 3.0


class Ways(NamedTuple):
    """Ways in which products can be computed, those of one product side by side from its `start` on.

    product: whose way it is. tiles: output tiles of all waves. flops: FLOPs of one tile at full rate, edges and the
    fraction of peak included. floor: cycles of a tile's inner axis at least. stored: cycles of a tile to write its
    results. operands: bytes from the shared level beside arithmetic. extra: bytes after it (partial sums, transforms).
    packed: cycles of a unit to reorder the second operand. launches: of more kernels. split: whether the inner axis is.
    name: into `names`. algorithm: into `algorithms`, -1 for the direct ways.
    """

    names: tuple[str, ...]
    algorithms: tuple[Algorithm, ...]
    start: Ints
    product: Ints
    tiles: Floats
    flops: Floats
    floor: Floats
    stored: Floats
    operands: Floats
    extra: Floats
    packed: Floats
    launches: Floats
    split: Floats
    name: Ints
    algorithm: Ints


_FIGURES = ("tiles", "flops", "floor", "stored", "operands", "extra", "packed", "launches", "split")


def ways_of(products: Products, profile: Profile) -> Ways:
    """Every way the profile knows for every product, without those that no device could prefer.

    A way is left out when another one of the same product, direct or of the same algorithm, is at most as large in
    every figure: time grows with each of them.
    """
    return _ways(products, profile, _undominated)


def every_way(products: Products, profile: Profile) -> Ways:
    """Every way the profile knows for every product: for products that are computed on one device only once."""
    return _ways(products, profile, lambda figures, legal: legal)


def _ways(products: Products, profile: Profile, choose: Callable[[Any, Any], Any]) -> Ways:
    names: list[str] = []
    found: list[dict[str, Any]] = []
    algorithms = tuple(profile.algorithms.values())
    b, m, n, k = products.shape
    size = products.element_bytes

    def add(applies: Any, algorithm: int, prefix: str, given: tuple[list[str], dict[str, Any]]) -> None:
        labels, figures = given
        legal = figures.pop("legal") & applies
        for column in figures:
            figures[column] = np.broadcast_to(figures[column], legal.shape)
        kept = choose(np.stack([figures[column] for column in _FIGURES]), legal)
        which, product = np.nonzero(kept)
        columns = {column: values[which, product] for column, values in figures.items()}
        name = which + len(names)
        found.append({**columns, "product": product, "name": name, "algorithm": np.full(len(name), algorithm)})
        names.extend(prefix + label for label in labels)

    is_convolution = products.convolution
    packed = [size * profile.packing.get(category, 0.0) * (b * k * n) for category in ("matmul", "convolution")]
    fetched = 1.0 - products.chained
    tiled = _tiled((b, m, n, k), profile, profile.tiles, profile.split_k, size, packed[0], size, fetched)
    add(~is_convolution, -1, "", tiled)
    if is_convolution.any():
        splits = profile.convolution_split_k
        given = _tiled((b, m, n, k), profile, profile.convolution_tiles, splits, size, packed[1])
        given[1]["extra"] = given[1]["extra"] + size * profile.reorder * _images(products)
        add(is_convolution, -1, "", given)
        for index, (name, algorithm) in enumerate(profile.algorithms.items()):
            given = _transformed(products, profile, algorithm)
            add(is_convolution & takes(products, algorithm), index, f"{name}, ", given)
    order = np.argsort(np.concatenate([part["product"] for part in found]), kind="stable")
    columns = {key: np.concatenate([part[key] for part in found])[order] for key in found[0]}
    start = np.searchsorted(columns["product"], np.arange(len(products)))
    return Ways(tuple(names), algorithms, start, **columns)


def _undominated(figures: Any, legal: Any) -> Any:
    """Ways (figures × ways × products) that no other legal way is at most as large as in every figure.

    Of equal ways the first is kept.
    """
    kept = legal.copy()
    count = legal.shape[0]
    index = np.arange(count)[:, None]
    for way in range(count):
        ours = figures[:, way]
        no_larger = (figures <= ours[:, None]).all(0)
        equal = (figures == ours[:, None]).all(0)
        better = no_larger & legal & (~equal | (index < way))
        kept[way] &= ~better.any(0)
    return kept


def _images(products: Products) -> Any:
    """Elements of a convolution's images, read once and written: b m (k / r² + n).

    Not counted: the margin of a window, and the positions that a stride leaves out.
    """
    b, m, n, k = products.shape
    window = np.maximum(products.window[0], 1.0)
    return b * m * (k / (window * window) + n)


def takes(products: Products, algorithm: Algorithm) -> Any:
    """Products that an algorithm could compute."""
    kernel, stride, _, _ = products.window
    return (kernel == algorithm.kernel) & (stride == algorithm.stride) & (products.shape[0] == 1)


def _tiled(
    product: tuple[Any, ...],
    profile: Profile,
    tiles: Tiles,
    splits: tuple[int, ...],
    size: float,
    packed: Any,
    operand_bytes: float = 0.0,
    fetched: Any = 1.0,
) -> tuple[list[str], dict[str, Any]]:
    """Output tiles of M rows and N columns, the inner axis in s parts (ways × products).

        tiles    = b ⌈m/M⌉ ⌈n/N⌉ s         flops = 2 M N k' / fraction
        floor    = max(k' · loop, k' (M' + N') e / feed)              stored = M' N' e / store
        operands = b k (m ⌈n/N⌉ + n ⌈m/M⌉) e          extra = [s > 1] 8 s b m n
        packed   = [M > 1, N > 1] b k n e · cycles per byte: kernels for vectors take the second operand as it is

    e bytes hold an element; k' = ⌈k/s⌉ padded to so many as the profile's `inner` bytes hold; M' = min(M, m), N' =
    min(N, n); partial sums of 4 bytes are written and read. Operands of convolutions are not counted (operand_bytes 0):
    the taps of a window share them; nor is the first operand where it is made on the chip (fetched 0). Not counted:
    several tiles on a unit at a time, stream-K, swizzling. Source of the form: docs/assumptions.md.
    """
    b, m, n, k = product
    step = profile.inner / size
    choices = [(*tile, s) for tile in tiles for s in splits]
    rows, columns, fraction, parts = (np.array(c, dtype=np.float64)[:, None] for c in zip(*choices, strict=True))
    inner = np.ceil(np.ceil(k / parts) / step) * step
    down, across = np.ceil(m / rows), np.ceil(n / columns)
    taken = (np.minimum(rows, m) * fetched + np.minimum(columns, n)) * (operand_bytes / profile.feed)
    # A profile with no other tile: it pads nothing.
    single = max(rows.max(), columns.max()) == 1
    figures = {
        "tiles": b * down * across * parts,
        "flops": 2.0 * rows * columns * inner / fraction,
        "floor": inner * np.maximum(profile.loop, taken),
        "stored": np.minimum(rows, m) * np.minimum(columns, n) * (size / profile.store),
        "operands": b * k * (m * across * fetched + n * down) * operand_bytes,
        "extra": np.where(parts > 1, 2.0 * PARTIAL_SUM_BYTES * parts * b * m * n, 0.0),
        "packed": np.where((rows > 1) & (columns > 1), packed, 0.0),
        "launches": 0.0,
        "split": (parts > 1).astype(np.float64),
        # More parts than pairs of inner steps make no sense; tiles of one row or column are kernels for vectors.
        "legal": ((parts == 1) | (k >= 2.0 * parts * step))
        & (single | (((rows > 1) | (m == 1)) & ((columns > 1) | (n == 1)))),
    }
    return [f"{r:g}×{c:g} tiles" + (f", inner axis in {s} parts" if s > 1 else "") for r, c, _, s in choices], figures


def _transformed(products: Products, profile: Profile, algorithm: Algorithm) -> tuple[list[str], dict[str, Any]]:
    """Winograd's convolution F(q × q, r × r): (q + r - 1)² products over ⌈h/q⌉ ⌈w/q⌉ tiles of every image.

    Images, filters and results are transformed by kernels of their own: 2 (V + U + G) bytes at a share of the shared
    level's bandwidth, V, U and G the transformed images, results and filters. Source: Lavin and Gray, arXiv:1509.09308.
    """
    _, m, n, k = products.shape
    window, _, height, width = products.window
    q, points = algorithm.output, float(algorithm.points)
    tiles = m / np.maximum(height * width, 1.0) * np.ceil(height / q) * np.ceil(width / q)
    channels = k / np.maximum(window * window, 1.0)
    size = products.element_bytes
    product, splits = (points, tiles, n, channels), profile.convolution_split_k
    labels, figures = _tiled(product, profile, profile.convolution_tiles, splits, size, 0.0)
    moved = 2.0 * points * (tiles * channels + tiles * n + channels * n) * products.element_bytes
    figures["flops"] = figures["flops"] / algorithm.fraction
    figures["extra"] = figures["extra"] + moved / algorithm.transforms
    figures["launches"] = TRANSFORM_LAUNCHES
    return labels, figures
