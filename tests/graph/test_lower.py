"""From graph to kernels: which kernels wait for which."""

from ebmsim.graph.graph import Builder
from ebmsim.graph.lower import lower


def test_a_reader_waits_for_the_last_write_into_a_tensor():
    """Kernels: square writes y (branch a), assign writes into y (branch b), relu reads y (branch c)."""
    b = Builder()
    x = b.tensor((4, 8), "sample")
    part = b.tensor((4, 1), "input")
    with b.at(branch="a"):
        y = b.emit("square", x)
    with b.at(branch="b"):
        z = b.emit("assign", y, part, axis=-1, start=0, length=1)
    with b.at(branch="c"):
        b.emit("relu", z)
    table = lower(b.graph(), b.nodes, "fp32")
    assert table.ops == ("square", "assign", "relu")
    assert table.awaited.tolist() == [[1, 0], [2, 1]]
