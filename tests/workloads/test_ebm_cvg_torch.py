"""EBM-CVG executed: steps, the upsampler's chain, text, image and a training iteration against networks in torch.

The networks follow the code named in the workload file and take their weights by the names they have there.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import Composer
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import WORK
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cvg.yaml")
FILE = parse_workload(DOCUMENT)
SIZES = {
    "clevr_pos": {"width": 32, "head": 16, "conditions": 1},
    "glide": {"conditions": 1, "width": 32, "head": 16, "text_width": 16, "layers": 2, "upsampling": 3},
    "stable_diffusion": {"conditions": 2, "width": 32, "text_width": 128, "layers": 2, "vae": 32},
}
CHAINS, LEVEL, STEPS = 2, 2, 4


class Network:
    """Layers by the names of their weights; `p` are the workload's parameters."""

    def __init__(self, w: dict[str, Tensor], p: Any) -> None:
        self.w, self.p = w, p

    def linear(self, name: str, x: Tensor) -> Tensor:
        return fn.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        return fn.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **how)

    def conv1(self, name: str, x: Tensor) -> Tensor:
        return fn.conv1d(x, self.w[f"{name}.weight"].squeeze(2), self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return fn.group_norm(x, 32, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return fn.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def residual(self, name: str, x: Tensor, emb: Tensor | None, moves: int = 0) -> Tensor:
        h = fn.silu(self.norm(f"{name}.norm1", x))
        if moves:
            h, x = (fn.avg_pool2d(t, 2) if moves < 0 else fn.interpolate(t, scale_factor=2.0) for t in (h, x))
        h = self.conv(f"{name}.conv1", h, padding=1)
        if emb is None:
            h = self.norm(f"{name}.norm2", h)
        elif self.p["glide"]:
            scale, shift = self.linear(f"{name}.emb", fn.silu(emb))[..., None, None].chunk(2, 1)
            h = self.norm(f"{name}.norm2", h) * (1 + scale) + shift
        else:
            h = self.norm(f"{name}.norm2", h + self.linear(f"{name}.emb", fn.silu(emb))[..., None, None])
        h = self.conv(f"{name}.conv2", fn.silu(h), padding=1)
        return h + (self.conv(f"{name}.skip", x) if f"{name}.skip.weight" in self.w else x)

    def attention(self, name: str, x: Tensor, text: Tensor | None) -> Tensor:
        b, c, *size = x.shape
        heads, head = c // self.p["head"], self.p["head"]
        qkv = self.conv1(f"{name}.qkv", self.norm(f"{name}.norm", x).flatten(2))
        q, k, v = qkv.reshape(b * heads, 3 * head, -1).split(head, 1)
        if text is not None:
            told = self.conv1(f"{name}.text_kv", text.mT).reshape(b * heads, 2 * head, -1)
            k, v = (torch.cat([t, s], -1) for t, s in zip(told.split(head, 1), (k, v), strict=True))
        share = ((q * head**-0.25).mT @ (k * head**-0.25)).softmax(-1)
        mixed = (v @ share.mT).reshape(b, c, -1)
        return x + self.conv1(f"{name}.proj", mixed).reshape(b, c, *size)

    def cross(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (
            self.linear(f"{name}.{part}", of).unflatten(-1, (8, -1)).transpose(1, 2)
            for part, of in (("q", x), ("k", y), ("v", y))
        )
        share = (q @ k.mT).softmax(-1)  # the scale lies in the product, and costs and changes nothing here
        return self.linear(f"{name}.out", (share @ v).transpose(1, 2).flatten(2))

    def transformer(self, name: str, x: Tensor, text: Tensor) -> Tensor:
        y = self.conv(f"{name}.proj_in", self.norm(f"{name}.norm", x)).flatten(2).mT
        z = self.layer_norm(f"{name}.ln_1", y)
        y = self.cross(f"{name}.att1", z, z) + y
        y = self.cross(f"{name}.att2", self.layer_norm(f"{name}.ln_2", y), text) + y
        z, gate = self.linear(f"{name}.fc1", self.layer_norm(f"{name}.ln_3", y)).chunk(2, -1)
        y = self.linear(f"{name}.fc2", z * fn.gelu(gate)) + y
        return self.conv(f"{name}.proj_out", y.mT.reshape(x.shape)) + x

    def stage(self, name: str, x: Tensor, emb: Tensor, text: Tensor | None) -> Tensor:
        x = self.residual(f"{name}.res", x, emb)
        if f"{name}.att.norm.weight" not in self.w:
            return x
        if self.p["latent"]:
            assert text is not None
            return self.transformer(f"{name}.att", x, text)
        return self.attention(f"{name}.att", x, text)

    def floor(self, name: str, x: Tensor, emb: Tensor, text: Tensor | None) -> Tensor:
        latent, skips = self.p["latent"], [x]
        for i in (1, 2, 3):
            if f"{name}.down{i}.res.norm1.weight" in self.w:
                skips.append(self.stage(f"{name}.down{i}", skips[-1], emb, text))
        x = skips[-1]
        if f"{name}.middle1.res.norm1.weight" in self.w:
            x = self.stage(f"{name}.below", self.stage(f"{name}.middle1", x, emb, text), emb, text)
        else:
            down = self.residual(f"{name}.shrink.res", x, emb, -1) if not latent else None
            x = self.conv(f"{name}.shrink.conv", x, stride=2, padding=1) if down is None else down
            x = self.floor(f"{name}.below", x, emb, text)
        for i, skip in reversed(list(enumerate(skips))):
            x = self.stage(f"{name}.up{i}.stage", torch.cat([x, skip], 1), emb, text)
        if f"{name}.grow.conv.weight" in self.w:
            return self.conv(f"{name}.grow.conv", fn.interpolate(x, scale_factor=2.0), padding=1)
        return self.residual(f"{name}.grow.res", x, emb, 1) if f"{name}.grow.res.norm1.weight" in self.w else x

    def unet(self, name: str, x: Tensor, emb: Tensor, text: Tensor | None) -> Tensor:
        x = self.floor(f"{name}.top", self.conv(f"{name}.conv_in", x, padding=1), emb, text)
        return self.conv(f"{name}.conv_out", fn.silu(self.norm(f"{name}.norm", x)), padding=1)

    def embedded(self, name: str, angles: Tensor) -> Tensor:
        waves = torch.cat([angles.cos(), angles.sin()], -1)
        return self.linear(f"{name}.linear2", fn.silu(self.linear(f"{name}.linear1", waves)))

    def time(self, name: str, t: Tensor) -> Tensor:
        return self.embedded(f"{name}.mlp", self.w[f"{name}.kept"][t][:, None] * self.w[f"{name}.frequencies"])

    def glide_text(self, name: str, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.w[f"{name}.words.weight"][tokens] + self.w[f"{name}.positions"]
        x = torch.where(mask.bool(), x, self.w[f"{name}.padding"])
        for i in range(self.p["layers"]):
            at = f"{name}.layer{i}"
            qkv = self.linear(f"{at}.qkv", self.layer_norm(f"{at}.ln_1", x)).unflatten(-1, (8, -1))
            q, k, v = qkv.chunk(3, -1)
            scale = q.shape[-1] ** -0.25
            share = torch.einsum("bthc,bshc->bhts", q * scale, k * scale).softmax(-1)
            x = x + self.linear(f"{at}.proj", torch.einsum("bhts,bshc->bthc", share, v).flatten(2))
            x = x + self.linear(f"{at}.out", fn.gelu(self.linear(f"{at}.fc", self.layer_norm(f"{at}.ln_2", x))))
        return self.layer_norm(f"{name}.final", x)

    def clip(self, name: str, tokens: Tensor) -> Tensor:
        x = self.w[f"{name}.words.weight"][tokens] + self.w[f"{name}.positions"]
        for i in range(self.p["layers"]):
            at = f"{name}.layer{i}"
            z = self.layer_norm(f"{at}.ln_1", x)
            q, k, v = (self.linear(f"{at}.{part}", z).unflatten(-1, (-1, 64)).transpose(-3, -2) for part in "qkv")
            share = (0.125 * q @ k.mT + self.w[f"{at}.mask"]).softmax(-1)
            x = x + self.linear(f"{at}.out", (share @ v).transpose(-3, -2).flatten(-2))
            z = self.linear(f"{at}.fc1", self.layer_norm(f"{at}.ln_2", x))
            x = x + self.linear(f"{at}.fc2", z * (1.702 * z).sigmoid())
        return self.layer_norm(f"{name}.final", x)

    def score(self, x: Tensor, t: Tensor, given: dict[str, Tensor]) -> Tensor:
        """What the U-Net says of the rows of CLEVR, or of GLIDE's base network."""
        emb = self.time("unet.time", t)
        if self.p["glide"]:
            text = self.glide_text("text.text", given["words"], given["words_mask"])
            return self.unet("unet.net", x, emb + self.linear("unet.emb.proj", text[:, -1]), text)
        return self.unet("unet.net", x, emb + self.label(given), None)

    def label(self, given: dict[str, Tensor]) -> Tensor:
        """What the conditions of CLEVR become, and their absence."""
        if self.p["model"] == "clevr_pos":
            label = self.linear("label.linear", given["position"])
        else:
            y, at = given["relation"], "label.label"
            tables = ("shape", "size", "colour", "material", "place")
            objects = [
                torch.cat([self.w[f"{at}.object.{n}.table.weight"][y[:, i + first]] for i, n in enumerate(tables)], 1)
                for first in (0, 5)
            ]
            parts = [self.linear(f"{at}.object.linear", o) for o in objects]
            label = torch.cat([*parts, self.w[f"{at}.relation.table.weight"][y[:, 10]]], 1)
        return torch.where(given["given"].bool(), label, self.w["label.none"])

    def upsampled(self, x: Tensor, low: Tensor, t: Tensor, given: dict[str, Tensor]) -> Tensor:
        at = "sampler.upsampler"
        wide = fn.interpolate(low, scale_factor=4.0, mode="bilinear", align_corners=False)
        text = self.glide_text(f"{at}.text", given["joined"], given["joined_mask"])
        emb = self.time(f"{at}.time", t) + self.linear(f"{at}.texted.proj", text[:, -1])
        return self.unet(f"{at}.unet", torch.cat([x, wide], 1), emb, text)

    def p_mean_variance(self, name: str, x: Tensor, out: Tensor) -> tuple[Tensor, ...]:
        """Mean, logarithm of the variance, and the clean image, as in gaussian_diffusion.py."""

        def of(what: str) -> Tensor:
            return self.w[f"{name}.{what}.table"][LEVEL]

        eps, v = out.chunk(2, -3)
        share = (v + 1) / 2
        log_variance = share * of("log_variance.most") + (1 - share) * of("log_variance.least")
        clean = (of("clean.of_x") * x - of("clean.of_eps") * eps).clamp(-1, 1)
        return of("mean.of_clean") * clean + of("mean.of_x") * x, log_variance, clean

    def composed(self, owner: str, eps: Tensor, none: Tensor) -> Tensor:
        return none + (self.w[f"{owner}.weights"] * (eps - none)).sum(1, keepdim=True)


def counted(f: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = f()
    return result, counter.get_total_flops()


def product_flops(graph: Graph, nodes: list[Node] | tuple[Node, ...]) -> int:
    total = 0
    for node in nodes:
        if node.op in WORK:
            shapes = ([graph.tensors[t].shape for t in tensors] for tensors in (node.inputs, node.outputs))
            total += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    return total


# What is no random number: levels, constants, and coefficients between 0 and 1 that grow.
GIVEN = {"t": LEVEL, "level": LEVEL, "level_up": LEVEL}
GIVEN_LAST = {"one": 1.0, "last": float(LEVEL), "alpha.table": 0.3, "alpha_next.table": 0.6}


def values_of(graph: Graph) -> dict[int, Tensor]:
    """Values of everything that nodes read and none writes."""
    generator = torch.Generator().manual_seed(3)
    written = {t for node in graph.nodes for t in node.outputs}
    values: dict[int, Tensor] = {}
    for number in sorted({t for node in graph.nodes for t in node.inputs} - written):
        tensor = graph.tensors[number]
        if tensor.role == "constant":
            continue
        last = next((v for name, v in GIVEN_LAST.items() if tensor.name.endswith(f".{name}")), None)
        if tensor.name in GIVEN:
            values[number] = torch.full(tensor.shape, GIVEN[tensor.name])
        elif tensor.kind == "index":
            values[number] = torch.randint(0, 3, tensor.shape, generator=generator)
        elif tensor.name in ("given", "words_mask", "joined_mask"):
            values[number] = torch.randint(0, 2, tensor.shape, generator=generator).double()
        elif tensor.role == "buffer" and last is not None:
            values[number] = torch.full(tensor.shape, last, dtype=torch.float64)
        else:
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            values[number] = 0.2 * drawn if tensor.role == "weight" else drawn
    return values


class Run:
    """A small workload's inference, executed."""

    def __init__(self, model: str, run: Callable[..., dict[int, Any]]) -> None:
        self.workload = settle(DOCUMENT, FILE, "small", {"model": model, **SIZES[model]})
        self.program: Program = Composer(self.workload, CHAINS).program()
        self.graph = self.program.graph
        drawn = values_of(self.graph)
        self.found = run(self.graph, drawn)
        named = {self.graph.tensors[t].name: v for t, v in drawn.items()}
        self.network = Network(named, self.workload.parameters)
        self.given = named

    def last(self, name: str, before: int | None = None) -> Tensor:
        """What the last node of a name gives."""
        nodes = self.graph.nodes[:before]
        value: Tensor = self.found[next(n.outputs[0] for n in reversed(nodes) if n.name == name)]
        return value

    def section(self, label: str, repeat: int) -> tuple[int, int]:
        return next((s.first, s.last) for s in self.program.sections if (s.label, s.repeat) == (label, repeat))


@pytest.fixture(scope="module")
def executed(run: Callable[..., dict[int, Any]]) -> Callable[[str], Run]:
    """Each model's inference, executed once."""
    return lru_cache(lambda model: Run(model, run))


@pytest.mark.parametrize("model", ["clevr_pos", "glide"])
def test_a_step(model: str, executed: Callable[[str], Run]) -> None:
    """Every number of the next images is the script's, and so are the FLOPs of the products."""
    r = executed(model)
    net, (first, last) = r.network, r.section("step", STEPS)
    xs = r.last("sampler.xs", first)
    rows = xs.shape[1]
    t = torch.full((CHAINS * rows,), LEVEL)
    at = xs[:, :1].expand_as(xs).flatten(0, 1)
    out, count = counted(lambda: net.score(at, t, r.given))
    out = out.unflatten(0, (CHAINS, rows))
    eps, rest = out.chunk(2, 2)
    eps = net.composed("sampler.out.one", eps[:, :-1], eps[:, -1:]).expand_as(eps)
    mean, log_variance, _ = net.p_mean_variance("sampler.xs", xs, torch.cat([eps, rest], 2))
    expected = mean + (0.5 * log_variance).exp() * r.last("sampler.xs.noise")
    torch.testing.assert_close(r.last("sampler.xs.add1", last), expected, rtol=1e-8, atol=1e-8)
    assert product_flops(r.graph, r.graph.nodes[first:last]) == count > 0


def test_relations(run: Callable[..., dict[int, Any]]) -> None:
    """The encoder of relations alone, at the published width; the rest is as with positions."""
    workload = settle(DOCUMENT, FILE, "", {})
    whole = Composer(workload, CHAINS).program().graph
    graph = Graph(whole.tensors, tuple(n for n in whole.nodes if n.phase == "once" or n.branch == "label[0]"))
    values = values_of(graph)
    found = run(graph, values)
    named = {graph.tensors[t].name: v for t, v in values.items()}
    named |= {n.name: found[n.outputs[0]] for n in graph.nodes if n.phase == "once"}
    expected, count = counted(lambda: Network(named, workload.parameters).label(named))
    torch.testing.assert_close(found[graph.nodes[-1].outputs[0]], expected)
    assert expected.shape == (3 * CHAINS, 768)
    assert product_flops(graph, graph.nodes) == count > 0


def test_the_upsampler(executed: Callable[[str], Run]) -> None:
    """A step of its chain, DDIM with η = 0, is once per inference, three times here."""
    r = executed("glide")
    net, (first, last) = r.network, r.section("once", 3)
    low = r.last("sampler.low.shift2")
    torch.testing.assert_close(low, r.last("sampler.x"))
    large, at = r.last("sampler.large", first)[:, 0], "sampler.large"
    t = torch.full((CHAINS,), LEVEL)
    out, count = counted(lambda: net.upsampled(large, low, t, r.given))
    _, _, clean = net.p_mean_variance(at, large, out)
    of = {name: net.w[f"{at}.{name}.table"][LEVEL] for name in ("of_x", "of_eps", "alpha", "alpha_next")}
    eps = (of["of_x"] * large - clean) / of["of_eps"]
    sigma = 0 * ((1 - of["alpha_next"]) / (1 - of["alpha"])).sqrt() * (1 - of["alpha"] / of["alpha_next"]).sqrt()
    mean = clean * of["alpha_next"].sqrt() + (1 - of["alpha_next"] - sigma**2).sqrt() * eps
    expected = mean + sigma * r.last(f"{at}.noise")[:, 0]
    torch.testing.assert_close(r.last(f"{at}.add2", last)[:, 0], expected, rtol=1e-8, atol=1e-8)
    assert torch.isfinite(expected).all()
    assert product_flops(r.graph, r.graph.nodes[first:last]) == count > 0


def test_stable_diffusion(executed: Callable[[str], Run]) -> None:
    """Texts, a step and the image."""
    r = executed("stable_diffusion")
    net, (first, last) = r.network, r.section("step", STEPS)
    # all prompts in one batch, as many empty texts in another, of which the last is used
    texts, count = counted(lambda: [net.clip("clip.clip", r.given[name]) for name in ("empty", "prompts")])
    text = torch.cat([texts[0][:, -1:], texts[1]], 1)
    torch.testing.assert_close(r.last("clip.slice1"), text)
    assert product_flops(r.graph, r.graph.nodes[:first]) == count > 0

    x, width = r.last("sampler.xs", first), int(r.workload.parameters["width"])
    frequencies = (net.w["latent_unet.exponents"] * -9.21 * 2 / width).exp()
    emb = net.embedded("latent_unet.emb", LEVEL * frequencies.expand(CHAINS, -1))
    out, count = counted(lambda: [net.unet("latent_unet.net", x[:, 0], emb, text[:, i]) for i in range(text.shape[1])])
    eps = torch.stack(out, 1)
    eps = net.composed("combine.composed1", eps[:, 1:], eps[:, :1])
    expected = (x - 0.5 * eps) * 2 * 0.5 + 0.5 * eps
    torch.testing.assert_close(r.last("sampler.xs.add1", last), expected, rtol=1e-8, atol=1e-8)
    emb_flops = len(out) * CHAINS * 2 * (4 * width**2 + 16 * width**2)
    assert product_flops(r.graph, r.graph.nodes[first:last]) == count + emb_flops

    image, count = counted(lambda: decoded(net, r.found[r.graph.results[0]]))
    torch.testing.assert_close(r.last("decoder.to_host1"), image)
    assert 0.1 < image.std() < 0.6
    assert product_flops(r.graph, r.graph.nodes[last:]) == count > 0


def decoded(net: Network, x: Tensor) -> Tensor:
    """AutoencoderKL's decoder."""
    x = net.conv("decoder.conv_in", net.conv("decoder.post_quant", x / 0.18215), padding=1)
    x, at = net.residual("decoder.middle1", x, None), "decoder.attention"
    y = net.norm(f"{at}.norm", x).flatten(2).mT
    q, k, v = (net.linear(f"{at}.{part}", y) for part in "qkv")
    x = net.linear(f"{at}.proj", (q @ k.mT).softmax(-1) @ v).mT.reshape(x.shape) + x
    x = net.residual("decoder.middle2", x, None)
    for i in (1, 2, 3, 4):
        for block in ("r1", "r2", "r3"):
            x = net.residual(f"decoder.up{i}.{block}", x, None)
        if i < 4:
            x = net.conv(f"decoder.up{i}.conv", fn.interpolate(x, scale_factor=2.0), padding=1)
    x = net.conv("decoder.conv_out", fn.silu(net.norm("decoder.norm", x)), padding=1)
    return (x / 2 + 0.5).clamp(0, 1)


def test_a_training_iteration(run: Callable[..., dict[int, Any]]) -> None:
    """Squared error to a target; every weight's gradient is torch's, and so are the FLOPs forward and backward."""
    sizes = {"model": "clevr_pos", "training_batch": 2, **SIZES["clevr_pos"]}
    iteration = compose_training(settle(DOCUMENT, FILE, "small", sizes))
    graph, values = iteration.graph, values_of(iteration.graph)
    found = run(graph, values)
    named = {graph.tensors[t].name: v for t, v in values.items()}
    weights = {graph.tensors[t].name: values[t].requires_grad_() for t in iteration.weights}
    net = Network(named, settle(DOCUMENT, FILE, "small", sizes).parameters)

    def gradients() -> tuple[Tensor, ...]:
        out = net.score(named["noised"], torch.full((2,), LEVEL), named)
        return torch.autograd.grad((out - named["target"]).square().sum(), list(weights.values()))

    expected, count = counted(gradients)
    updates = {graph.tensors[n.inputs[0]].name: n.inputs[1] for n in graph.nodes if n.op == "adam"}
    largest = max(g.abs().max() for g in expected)
    for name, grad in zip(weights, expected, strict=True):
        torch.testing.assert_close(found[updates[name]] / largest, grad / largest, rtol=1e-7, atol=1e-11)
    spans = [span for spans in iteration.parts.values() for span in spans]
    assert sum(product_flops(graph, graph.nodes[a:b]) for a, b in spans) == count
