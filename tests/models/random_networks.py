"""Random networks: a description that hypothesis draws, the network that is built from it, and the reference.

The reference reads the description and the original's weights. It shares no code with the network's `forward` and
none with dcsurgery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.case import hand
from models.ways import WAYS, WIDTH, Parametric, Way

__all__ = ["DESCRIPTIONS", "Description", "build", "options_of", "reference"]

NORMS = ("none", "batch", "layer", "group", "rms", "functional layer", "functional instance")
CELLS = ("gru", "rnn", "lstm", "by hand")


# -- descriptions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """Norm, linear map and activation, maybe around a residual."""

    way: str
    norm: str = "none"
    residual: bool = False


@dataclass(frozen=True)
class Branches:
    """Two ways side by side, added, multiplied or mixed by a linear map."""

    left: tuple[Any, ...]
    right: tuple[Any, ...]
    join: str = "add"


@dataclass(frozen=True)
class Repeated:
    """The same block, called several times; in a checkpoint if asked for."""

    block: Any
    times: int = 2
    checkpointed: bool = False


@dataclass(frozen=True)
class Recurrent:
    """A cell that walks over the rows."""

    cell: str


@dataclass(frozen=True)
class Attention:
    """Attention over the rows, its scores activated, behind it a gated unit."""

    way: str


@dataclass(frozen=True)
class Held:
    """Blocks in a container that torch does not register."""

    blocks: tuple[Any, ...]


Block = Plain | Branches | Repeated | Recurrent | Attention | Held


@dataclass(frozen=True)
class Description:
    """A network, and what is asked of it.

    Attributes
    ----------
    trunk, output_blocks
        Its blocks.
    inputs
        ``tensor``, ``dict`` or ``two``.
    outputs
        ``tensor``, ``dict`` or ``forces``: with the negative gradient of the energy, taken inside.
    training
        The mode that it is edited and compared in.
    edits
        ``all``, ``activations`` or ``norms``.
    selection
        Which top-level blocks: ``all``, ``output-blocks``, or ``include`` or ``exclude`` with the number in ``chosen``.
    rescale
        The factor of the outputs; None for none.
    """

    trunk: tuple[Block, ...]
    output_blocks: tuple[Block, ...] = ()
    inputs: str = "tensor"
    outputs: str = "tensor"
    training: bool = False
    edits: str = "all"
    selection: str = "all"
    chosen: int = 0
    rescale: float | None = None
    seed: int = field(default=0)

    def ways(self) -> set[str]:
        """Return the ways that its layers are written in."""
        return {way for block in (*self.trunk, *self.output_blocks) for way in _ways(block)}


def _ways(block: Block) -> set[str]:
    match block:
        case Plain(way=way) | Attention(way=way):
            return {way}
        case Branches(left=left, right=right):
            return {way for b in (*left, *right) for way in _ways(b)}
        case Repeated(block=inner):
            return _ways(inner)
        case Held(blocks=blocks):
            return {way for b in blocks for way in _ways(b)}
        case _:
            return set()


_PLAIN = st.builds(Plain, st.sampled_from(sorted(WAYS)), st.sampled_from(NORMS), st.booleans())
_SIMPLE = st.one_of(
    _PLAIN,
    _PLAIN,
    st.builds(Recurrent, st.sampled_from(CELLS)),
    st.builds(Attention, st.sampled_from(sorted(WAYS))),
)
_SOME = st.lists(_SIMPLE, min_size=1, max_size=2).map(tuple)
_BLOCK = st.one_of(
    _PLAIN,
    _PLAIN,
    _SIMPLE,
    st.builds(Branches, _SOME, _SOME, st.sampled_from(("add", "multiply", "mix"))),
    st.builds(Repeated, _SIMPLE, st.integers(2, 3), st.booleans()),
    st.builds(Held, _SOME),
)

#: What hypothesis draws.
DESCRIPTIONS = st.builds(
    Description,
    trunk=st.lists(_BLOCK, min_size=1, max_size=3).map(tuple),
    output_blocks=st.lists(_BLOCK, max_size=1).map(tuple),
    inputs=st.sampled_from(("tensor", "dict", "two")),
    outputs=st.sampled_from(("tensor", "dict", "forces")),
    training=st.booleans(),
    edits=st.sampled_from(("all", "all", "activations", "norms")),
    selection=st.sampled_from(("all", "all", "output-blocks", "include", "exclude")),
    chosen=st.integers(0, 2),
    rescale=st.sampled_from((None, None, 10.0)),
    seed=st.integers(0, 1000),
)


# -- networks ----------------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """A layer of some way behind a norm."""

    def __init__(self, block: Plain) -> None:
        super().__init__()
        self.kind, self.residual = block.norm, block.residual
        self.norm = {
            "batch": nn.BatchNorm1d,
            "layer": nn.LayerNorm,
            "group": lambda width: nn.GroupNorm(2, width),
            "rms": nn.RMSNorm,
        }.get(block.norm, lambda _: None)(WIDTH)
        self.layer = WAYS[block.way].layer()

    def forward(self, x):
        y = x
        if self.norm is not None:
            y = self.norm(y)
        elif self.kind == "functional layer":
            y = F.layer_norm(y, (WIDTH,))
        elif self.kind == "functional instance":
            y = F.instance_norm(y.T[None])[0].T
        y = self.layer(y)
        return x + y if self.residual else y


class SideBySide(nn.Module):
    def __init__(self, block: Branches) -> None:
        super().__init__()
        self.join = block.join
        self.left = nn.Sequential(*map(made, block.left))
        self.right = nn.ModuleList(map(made, block.right))
        self.mix = nn.Linear(2 * WIDTH, WIDTH) if block.join == "mix" else None

    def forward(self, x):
        left, right = self.left(x), x
        for block in self.right:
            right = block(right)
        if self.mix is not None:
            return self.mix(torch.cat([left, right], -1))
        return left + right if self.join == "add" else left * right


class Again(nn.Module):
    def __init__(self, block: Repeated) -> None:
        super().__init__()
        self.block, self.times, self.checkpointed = made(block.block), block.times, block.checkpointed

    def forward(self, x):
        for _ in range(self.times):
            y = checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x)
            x = 0.5 * (x + y)
        return x


class OverRows(nn.Module):
    def __init__(self, block: Recurrent) -> None:
        super().__init__()
        self.kind = block.cell
        cells = {"gru": nn.GRUCell, "rnn": nn.RNNCell, "lstm": nn.LSTMCell}
        cell = cells.get(block.cell)
        self.cell = nn.Linear(2 * WIDTH, 2 * WIDTH) if cell is None else cell(WIDTH, WIDTH)

    def forward(self, x):
        h = c = x.new_zeros(1, WIDTH)
        found = []
        for row in x.split(1):
            if self.kind == "lstm":
                h, c = self.cell(row, (h, c))
            elif self.kind == "by hand":
                gate, new = self.cell(torch.cat([row, h], 1)).chunk(2, 1)
                gate = torch.sigmoid(gate)
                h = gate * h + (1 - gate) * torch.tanh(new)
            else:
                h = self.cell(row, h)
            found.append(h)
        return torch.cat(found)


class Attending(nn.Module):
    def __init__(self, block: Attention) -> None:
        super().__init__()
        self.qk, self.gate, self.layer = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH), WAYS[block.way].layer()
        self.slope = 0.2

    def forward(self, x):
        q, k = self.qk(x).chunk(2, -1)
        weights = torch.softmax(F.leaky_relu(q @ k.T, self.slope), -1)
        return weights @ (self.layer(x) * torch.sigmoid(self.gate(x)))


class Hidden(nn.Module):
    def __init__(self, block: Held) -> None:
        super().__init__()
        self.kept = {"blocks": [made(b) for b in block.blocks]}

    def _apply(self, fn, recurse=True):
        for block in self.kept["blocks"]:
            block._apply(fn)
        return super()._apply(fn, recurse)

    def train(self, mode=True):
        for block in self.kept["blocks"]:
            block.train(mode)
        return super().train(mode)

    def forward(self, x):
        for block in self.kept["blocks"]:
            x = block(x)
        return x


def made(block: Block) -> nn.Module:
    """Return the module that a block is."""
    match block:
        case Plain():
            return Normed(block)
        case Branches():
            return SideBySide(block)
        case Repeated():
            return Again(block)
        case Recurrent():
            return OverRows(block)
        case Attention():
            return Attending(block)
        case Held():
            return Hidden(block)


class Stage(nn.Module):
    """A block of the trunk. All are of one class: dataflow must find no output block among them."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = made(block)

    def forward(self, x):
        return self.block(x)


class Network(nn.Module):
    def __init__(self, description: Description) -> None:
        super().__init__()
        self.inputs, self.outputs = description.inputs, description.outputs
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(map(Stage, description.trunk))
        self.output_blocks = nn.ModuleList(map(made, description.output_blocks))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, first, second=None):
        if self.inputs == "dict":
            first, second = first["x"], first["shift"]
        if self.outputs == "forces":
            with torch.enable_grad():
                first = first if first.requires_grad else first.detach().requires_grad_()
                energy = self.energies(first, second)
                (gradient,) = torch.autograd.grad(energy.sum(), first, create_graph=True)
            return {"energy": energy, "forces": -gradient}
        energy = self.energies(first, second)
        return {"energy": energy, "rows": energy * 2} if self.outputs == "dict" else energy

    def energies(self, x, shift):
        x = self.embed(x)
        if shift is not None:
            x = x + shift
        for block in self.blocks:
            x = block(x)
        for block in self.output_blocks:
            x = block(x)
        return self.head(x)


def build(description: Description) -> tuple[Network, tuple[Any, ...]]:
    """Return the network and its example inputs, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(description.seed)
        network = Network(description).double().train(description.training)
        x, shift = torch.randn(5, WIDTH, dtype=torch.float64), torch.randn(WIDTH, dtype=torch.float64)
    inputs = {"tensor": (x,), "two": (x, shift), "dict": ({"x": x, "shift": shift},)}[description.inputs]
    return network, inputs


def options_of(description: Description) -> dict[str, Any]:
    """Return the arguments of `transform` that a description asks for."""
    options: dict[str, Any] = {"irelu": description.edits != "norms", "denorm": description.edits != "activations"}
    if description.rescale is not None:
        options["rescale"] = description.rescale
    if description.selection == "output-blocks" and description.output_blocks:
        options["scope"] = "output-blocks"
    elif description.selection in ("include", "exclude"):
        options[description.selection] = f"blocks.{description.chosen % len(description.trunk)}"
    return options


# -- the reference -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """What is put in the place of activations and norms in one block."""

    activations: bool
    norms: bool

    def act(self, x: Tensor, *applied: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply activations, or IReLU for each of them."""
        for function in applied:
            x = hand(x) if self.activations else function(x)
        return x


def reference(description: Description, network: Network, *inputs: Any) -> list[Tensor]:
    """Return the outputs that the edited network must have."""
    x = inputs[0]["x"] if description.inputs == "dict" else inputs[0]
    shift = inputs[0]["shift"] if description.inputs == "dict" else (inputs[1] if len(inputs) > 1 else None)
    factor = description.rescale or 1.0
    if description.outputs != "forces":
        energy = _energies(description, network, x, shift)
        # "rows" is no label's name, and is not rescaled.
        return [energy * factor] if description.outputs == "tensor" else [energy * factor, 2 * energy]
    x = x if x.requires_grad else x.detach().requires_grad_()
    energy = _energies(description, network, x, shift)
    (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    return [energy * factor, -gradient * factor]


def _energies(description: Description, network: Network, x: Tensor, shift: Tensor | None) -> Tensor:
    h = F.linear(x, network.embed.weight, network.embed.bias)
    h = h if shift is None else h + shift
    for index, block in enumerate(description.trunk):
        h = _block(block, network.blocks[index].block, h, _rules(description, index))
    for index, block in enumerate(description.output_blocks):
        h = _block(block, network.output_blocks[index], h, _rules(description, None))
    return F.linear(h, network.head.weight, network.head.bias)


def _rules(description: Description, index: int | None) -> Rules:
    chosen = description.chosen % len(description.trunk)
    selected = {
        "all": True,
        "output-blocks": index is None or not description.output_blocks,
        "include": index == chosen,
        "exclude": index != chosen,
    }[description.selection]
    return Rules(selected and description.edits != "norms", selected and description.edits != "activations")


def _block(block: Block, module: Any, x: Tensor, rules: Rules) -> Tensor:
    match block:
        case Plain():
            y = _layer(WAYS[block.way], module.layer, _norm(block.norm, module.norm, x, rules), rules)
            return x + y if block.residual else y
        case Branches():
            left = right = x
            for inner, part in zip(block.left, module.left, strict=True):
                left = _block(inner, part, left, rules)
            for inner, part in zip(block.right, module.right, strict=True):
                right = _block(inner, part, right, rules)
            if block.join == "mix":
                return module.mix(torch.cat([left, right], -1))
            return left + right if block.join == "add" else left * right
        case Repeated():
            for _ in range(block.times):
                x = 0.5 * (x + _block(block.block, module.block, x, rules))
            return x
        case Recurrent():
            return _recurrent(block.cell, module.cell, x, rules)
        case Attention():
            q, k = module.qk(x).chunk(2, -1)
            weights = torch.softmax(rules.act(q @ k.T, lambda s: F.leaky_relu(s, 0.2)), -1)
            return weights @ (_layer(WAYS[block.way], module.layer, x, rules) / (1 + torch.exp(-module.gate(x))))
        case Held():
            for inner, part in zip(block.blocks, module.kept["blocks"], strict=True):
                x = _block(inner, part, x, rules)
            return x


def _layer(way: Way, layer: Any, x: Tensor, rules: Rules) -> Tensor:
    applies = way.applies
    if way.layer is Parametric:
        applies = (lambda y: torch.where(y > 0, y, layer.act.weight * y),)
    return rules.act(F.linear(x, layer.linear.weight, layer.linear.bias), *applies)


def _norm(kind: str, module: Any, x: Tensor, rules: Rules) -> Tensor:
    if kind == "none" or rules.norms:
        return x
    if kind == "functional layer":
        return F.layer_norm(x, (WIDTH,))
    if kind == "functional instance":
        # torch's own, as its third derivatives are not those of the formula (x - mean) / sqrt(var + eps).
        return F.instance_norm(x.T[None])[0].T
    return module(x)


def _recurrent(kind: str, cell: Any, x: Tensor, rules: Rules) -> Tensor:
    h = c = x.new_zeros(1, WIDTH)
    found = []
    for row in x.split(1):
        if kind == "by hand":
            gate, new = F.linear(torch.cat([row, h], 1), cell.weight, cell.bias).chunk(2, 1)
            gate = 1 / (1 + torch.exp(-gate))
            h = gate * h + (1 - gate) * rules.act(new, torch.tanh)
            found.append(h)
            continue
        own, other = F.linear(row, cell.weight_ih, cell.bias_ih), F.linear(h, cell.weight_hh, cell.bias_hh)
        if kind == "rnn":
            h = rules.act(own + other, torch.tanh)
        elif kind == "gru":
            (r, z, n), (hr, hz, hn) = own.chunk(3, 1), other.chunk(3, 1)
            update = torch.sigmoid(z + hz)
            h = (1 - update) * rules.act(n + torch.sigmoid(r + hr) * hn, torch.tanh) + update * h
        else:
            i, f, g, o = (own + other).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * rules.act(g, torch.tanh)
            h = torch.sigmoid(o) * rules.act(c, torch.tanh)
        found.append(h)
    return torch.cat(found)
