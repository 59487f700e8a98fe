"""Networks of several blocks of two inputs: messages on a graph, and a transformer that a label conditions."""

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

C = 3


class Messages(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(2 * d + 1, d), nn.SiLU(), nn.Linear(d, d), nn.SiLU())
        self.node = nn.Sequential(nn.Linear(2 * d, d), nn.SiLU(), nn.Linear(d, d))

    def forward(self, h: Tensor, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        far = ((x[:, start] - x[:, end]) ** 2).sum(-1, keepdim=True)
        m = self.edge(torch.cat([h[:, start], h[:, end], far], -1))
        return h + self.node(torch.cat([h, torch.zeros_like(h).index_add_(1, end, m)], -1))


class Molecule(nn.Module):
    """Atoms at places, of kinds that are given; every two of them see each other."""

    def __init__(self, atoms: int = 4) -> None:
        super().__init__()
        edges = [(i, j) for i in range(atoms) for j in range(atoms) if i != j]
        self.kinds = nn.Embedding(5, 8)
        self.layers = nn.ModuleList(Messages(8) for _ in range(3))
        self.out = nn.Linear(8, 1)
        self.register_buffer("start", torch.tensor([i for i, _ in edges]))
        self.register_buffer("end", torch.tensor([j for _, j in edges]))

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        h = self.kinds(kind)
        for layer in self.layers:
            h = layer(h, x, self.start, self.end)
        return self.out(h).sum((1, 2))


class Modulated(nn.Module):
    """A transformer's block with gains and biases from a condition."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.mix, self.modulation = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 6 * d)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        b, n, d = x.shape
        g1, b1, s1, g2, b2, s2 = self.modulation(fn.silu(c))[:, None].chunk(6, -1)
        y = self.norm1(x) * (1 + g1) + b1
        q, k, v = self.qkv(y).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + s1 * self.mix(fn.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
        return x + s2 * self.mlp(self.norm2(x) * (1 + g2) + b2)


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.labels = nn.Embedding(10, 16)
        self.blocks = nn.ModuleList(Modulated(16, 2) for _ in range(3))
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.places
        c = self.labels(label)
        for block in self.blocks:
            h = block(h, c)
        return self.head(h[:, 0]).squeeze(-1)


MODELS = {
    "molecule": lambda: (Molecule(), (torch.randn(C, 4, 3), torch.randint(0, 5, (C, 4)))),
    "vision": lambda: (Vision(), (torch.randn(C, 3, 8, 8), torch.tensor([1, 2, 3]))),
}
