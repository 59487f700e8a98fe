"""Small modules of the families that are captured: each a factory that gives a module and what it is called with."""

import math

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

C = 3


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1)


class Cnn(nn.Module):
    """With norms or without; strided."""

    def __init__(self, norm: str = "", stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, stride, padding=1, bias=not norm)
        norms = {"group": lambda: nn.GroupNorm(2, 8), "instance": lambda: nn.InstanceNorm2d(8, affine=True)}
        self.norm1, self.norm2 = (norms[norm]() if norm else nn.Identity() for _ in range(2))
        self.pool = nn.AvgPool2d(2) if stride == 1 else nn.Identity()
        self.fc = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = fn.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        h = self.pool(fn.leaky_relu(self.norm2(self.conv2(h)), 0.2))
        return self.fc(h.flatten(2).sum(2))


class Timed(nn.Module):
    """An MLP that a time conditions, through sines and cosines and FiLM."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.enter = nn.Linear(6, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(depth))
        self.films = nn.ModuleList(nn.Linear(16, 32) for _ in range(depth))
        self.leave = nn.Linear(16, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(1e4) * torch.arange(4, dtype=x.dtype) / 4)
        angles = t[:, None] * frequencies
        time = self.embed(torch.cat([angles.sin(), angles.cos()], -1))
        h = self.enter(x)
        for layer, film in zip(self.layers, self.films, strict=True):
            gain, bias = film(time).chunk(2, -1)
            h = h + fn.silu(layer(h) * (1 + gain) + bias)
        return self.leave(h)[:, 0]


class Transformer(nn.Module):
    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 8)
        self.place = nn.Parameter(torch.randn(1, 5, 8) * 0.1)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.leave = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.encoder(self.enter(x) + self.place).mean(1)).squeeze(1)


class Composed(nn.Module):
    """Energies of several networks of one kind, added."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.nets = nn.ModuleList(Cnn() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        return sum(net(x) for net in self.nets).squeeze(1)


class Disjunction(Composed):
    """The soft minimum of several energies."""

    def forward(self, x: Tensor) -> Tensor:
        return -torch.logsumexp(-torch.stack([net(x)[:, 0] for net in self.nets]), 0)


class Rows(nn.Module):
    """One MLP for every row of the sample, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        total = self.net(x[:, 0])
        for i in range(1, x.shape[1]):
            total = total + self.net(x[:, i])
        return total


class Folded(Rows):
    """One MLP for all rows at once, folded into the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.reshape(-1, x.shape[-1])).view(x.shape[0], -1).sum(1)


class Multiscale(nn.Module):
    """Networks of the image at three sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.big, self.mid, self.small = Cnn("group"), Cnn(), Cnn(stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.big(x) + self.mid(fn.avg_pool2d(x, 2)) + self.small(fn.avg_pool2d(x, 4))


class Pairs(nn.Module):
    """A network of graphs: messages of pairs of nodes by index, added up at their ends; differences of all pairs."""

    def __init__(self, nodes: int = 4) -> None:
        super().__init__()
        i, j = torch.triu_indices(nodes, nodes, 1)
        self.register_buffer("i", i)
        self.register_buffer("j", j)
        self.message = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 8))
        self.update = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, self.i], x.index_select(1, self.j)
        m = self.message(torch.cat([a, b, (a - b).norm(dim=-1, keepdim=True)], -1))
        nodes = torch.zeros(x.shape[0], x.shape[1], 8, dtype=x.dtype).index_add(1, self.j, m)
        far = (x[:, :, None] - x[:, None]).square().sum(-1)
        return self.update(nodes).sum((1, 2)) + torch.exp(-far).sum((1, 2))


class Unet(nn.Module):
    """Half the squared distance to what a U-Net makes of the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.middle = nn.Conv2d(16, 16, 3, padding="same")
        self.up1 = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.up2 = nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = fn.silu(self.down1(x))
        h = fn.silu(self.middle(fn.silu(self.down2(a))))
        h = fn.silu(self.up2(torch.cat([self.up1(h), a], 1)))
        low = fn.interpolate(fn.max_pool2d(h, 2), scale_factor=2, mode="bilinear")
        f = self.out(torch.cat([h, low], 1))
        return 0.5 * (x - f).pow(2).sum((1, 2, 3))


class Basic(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        changed = stride > 1 or a != b
        self.shortcut = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b)) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(fn.relu(self.bn1(self.conv1(x)))))
        return fn.relu(h + (x if self.shortcut is None else self.shortcut(x)))


class Resnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layers = nn.Sequential(Basic(8, 8, 1), Basic(8, 8, 1), Basic(8, 16, 2), Basic(16, 16, 1))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(fn.relu_(self.bn(self.stem(x))))
        return self.fc(torch.flatten(self.pool(h), 1)).view(-1)


class Normed(nn.Module):
    """Spectral and weight norms as parametrisations."""

    def __init__(self) -> None:
        super().__init__()
        p = nn.utils.parametrizations
        self.conv = p.spectral_norm(nn.Conv2d(3, 4, 3))
        self.fc1 = p.spectral_norm(nn.Linear(4 * 36, 8))
        self.fc2 = p.weight_norm(nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(fn.softplus(self.fc1(fn.elu(self.conv(x)).flatten(1))))


class Attention(nn.Module):
    """Attention by hand and by einsum, with a bias of its own for every pair."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(5, 5))
        self.mix = nn.Parameter(torch.randn(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4)
        share = (q @ k.transpose(-2, -1) * 0.5 + self.bias).softmax(-1)
        h = self.out((share @ v).transpose(1, 2).reshape(b, n, d))
        score = torch.einsum("bnd,bmd->bnm", h, x)
        return torch.einsum("bnm,bmd,de->be", score.softmax(-1), h, self.mix).logsumexp(1)


class Encoded(nn.Module):
    """A network of a sample and of a condition that an encoder reads; one condition for all chains."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = nn.Embedding(5, 6)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 6))
        self.head = nn.Sequential(nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 1))
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor, image: Tensor, label: Tensor) -> Tensor:
        condition = torch.cat([self.encoder(image), self.labels(label)], -1)
        h = x * condition[:, :6]
        return self.head(torch.cat([h, condition[:, 6:]], -1))[:, 0] + 0.1 * h.var(1)


def image(size: int = 8) -> Tensor:
    return torch.randn(C, 3, size, size)


# Name -> module and inputs.
MODELS = {
    "mlp": lambda: (Mlp(), torch.randn(C, 6)),
    "cnn": lambda: (Cnn(), image()),
    "cnn_group": lambda: (Cnn("group"), image()),
    "cnn_instance": lambda: (Cnn("instance"), image()),
    "cnn_strided": lambda: (Cnn(stride=2), image()),
    "timed": lambda: (Timed(), (torch.randn(C, 6), torch.rand(C))),
    "transformer": lambda: (Transformer().eval(), torch.randn(C, 5, 4)),
    "composed": lambda: (Composed(), image()),
    "disjunction": lambda: (Disjunction(), image()),
    "rows": lambda: (Rows(), torch.randn(C, 4, 6)),
    "folded": lambda: (Folded(), torch.randn(C, 4, 6)),
    "multiscale": lambda: (Multiscale(), image(16)),
    "pairs": lambda: (Pairs(), torch.randn(C, 4, 4)),
    "unet": lambda: (Unet(), image()),
    "resnet": lambda: (Resnet().eval(), image()),
    "normed": lambda: (Normed().eval(), image()),
    "attention": lambda: (Attention(), torch.randn(C, 5, 8)),
    "encoded": lambda: (Encoded(), (torch.randn(C, 6), torch.randn(C, 1, 6, 6), torch.tensor([1, 0, 4]))),
}
