"""The operators, one file a family. Importing this package fills the tables."""

from ebmsim.graph.operators import (
    activations,
    arithmetic,
    attention,
    convolution,
    fused,
    host,
    indexing,
    normalisation,
    pooling,
    products,
    randomness,
    reductions,
    resampling,
    shaping,
    training,
)

__all__ = [
    "activations",
    "arithmetic",
    "attention",
    "convolution",
    "fused",
    "host",
    "indexing",
    "normalisation",
    "pooling",
    "products",
    "randomness",
    "reductions",
    "resampling",
    "shaping",
    "training",
]
