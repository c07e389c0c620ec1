"""Models that TorchScript takes: one per thing that its archives can hold."""

import enum
import math
import warnings
from typing import Dict, List, NamedTuple  # noqa: UP035

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(NamedTuple):
    energy: Tensor
    count: int


class Kind(enum.Enum):
    PLAIN = 1
    DOUBLED = 2


@torch.jit.script
class Counter:
    def __init__(self, start: int):
        self.start = start

    def doubled(self) -> int:
        return self.start * 2


@torch.jit.script
def gated_product(x: Tensor, w: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.tanh(x @ w)


@torch.jit.interface
class Layer(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        pass


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.LayerNorm(8), nn.Dropout(0.25), nn.Linear(8, 3))
        self.bn = nn.BatchNorm1d(3)
        self.register_buffer("shift", torch.arange(3.0))
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.layers(x)) + self.shift * self.scratch


class Branches(nn.Module):
    """If on a tensor, while, for over a count that the data says, assertions, a helper that is called twice."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def step(self, x: Tensor) -> Tensor:
        return F.elu(self.lin(x))

    def forward(self, x: Tensor, steps: Tensor, bias: Tensor | None = None) -> Tensor:
        if bool(x.sum() > 0):  # noqa: SIM108 - a statement is what is scripted
            x = torch.tanh(x)
        else:
            x = F.layer_norm(x, (3,))
        turns = 0
        while turns < 3:
            x = self.step(x)
            turns += 1
            assert x.dim() == 2, f"two dimensions, not {x.dim()}"
        for _ in range(int(steps.sum())):
            x = F.gelu(self.step(x), approximate="tanh")
        if bias is not None:
            x = x + bias
        return x


class Tables(nn.Module):
    """Dicts, tuples, records, enumerations, scripted classes and settings, in and out."""

    sizes: Dict[str, List[int]]  # noqa: UP006 - TorchScript reads no other form here

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.kind = Kind.DOUBLED
        self.sizes = {"a": [1, 2], "b": []}
        self.pair = (2, "x")
        self.weights = [torch.ones(3), torch.zeros(3)]

    def forward(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Head]:
        counter = Counter(3)
        x = F.leaky_relu(self.lin(batch["x"]), 0.2)
        if self.kind == Kind.DOUBLED:
            x = x * counter.doubled()
        out: dict[str, Tensor] = {}
        for name, value in batch.items():
            out[f"{name}_out"] = F.relu(value, inplace=False) * self.sizes["a"][1] + self.weights[0]
        return out, Head(x.sum(), x.size(0) + self.pair[0])


class WithInterface(nn.Module):
    layer: Layer

    def __init__(self):
        super().__init__()
        self.layer = nn.Tanh()
        self.other = nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.layer.forward(x))

    @torch.jit.export
    def raw(self, x: Tensor, factor: int = 3) -> Tensor:
        return x.relu() * factor


class Shared(nn.Module):
    """One activation at two places, two layers of one type, a tied weight, a call of a shared scripted function."""

    def __init__(self):
        super().__init__()
        self.a = nn.SiLU()
        self.b = self.a
        self.first = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.second[0].weight = self.first[0].weight
        self.w = nn.Parameter(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        return gated_product(self.b(self.second(self.a(self.first(x)))), self.w)


class Forces(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x.requires_grad_(True)
        energy = self.net(x).sum()
        gradient = torch.autograd.grad([energy], [x], create_graph=True)[0]
        assert gradient is not None
        return energy, -gradient


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, 2, batch_first=True)
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(self.rnn(x)[0][:, 0])


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.group(F.relu(self.bn(self.conv(x)), inplace=True)))


class ShiftedSoftplus(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = math.log(2.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x) - self.shift


class Interaction(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(5, 6), ShiftedSoftplus(), nn.Linear(6, 6))
        self.act = ShiftedSoftplus()
        self.lin = nn.Linear(6, 6)

    def forward(self, h: Tensor, edges: Tensor, distances: Tensor, features: Tensor) -> Tensor:
        cutoff = 0.5 * (torch.cos(distances * math.pi / 10.0) + 1.0)
        messages = h[edges[0]] * (self.mlp(features) * cutoff.view(-1, 1))
        return self.lin(self.act(torch.zeros_like(h).index_add(0, edges[1], messages)))


class SchNet(nn.Module):
    """As SchNet, small, with its edges as an input."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.interactions = nn.ModuleList([Interaction(), Interaction()])
        self.act = ShiftedSoftplus()
        self.out = nn.Linear(6, 1)
        self.register_buffer("offset", torch.linspace(0, 5, 5))

    def forward(self, z: Tensor, pos: Tensor, edges: Tensor) -> Tensor:
        distances = (pos[edges[0]] - pos[edges[1]]).norm(p=2, dim=-1)
        features = torch.exp(-((distances.unsqueeze(-1) - self.offset) ** 2))
        h = self.embedding(z)
        for interaction in self.interactions:
            h = h + interaction(h, edges, distances, features)
        return self.out(self.act(h)).sum()


def rows(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def molecule() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    pairs = [(a, b) for a in range(6) for b in range(6) if a != b]
    return (
        torch.randint(0, 10, (6,), generator=generator),
        torch.randn(6, 3, generator=generator, dtype=torch.float64),
        torch.tensor(pairs).T.contiguous(),
    )


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)


def images() -> Tensor:
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def sequences() -> Tensor:
    return torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


#: Name to how it is made, its example inputs, and whether a trace of it makes sense.
CASES = {
    "mlp": (MLP, lambda: (rows(),), True),
    "branches": (Branches, lambda: (rows(), torch.tensor([1, 1])), False),
    "tables": (Tables, lambda: ({"x": rows()},), False),
    "interface": (WithInterface, lambda: (rows(),), True),
    "shared": (Shared, lambda: (rows(),), True),
    "forces": (Forces, lambda: (rows(),), False),
    "recurrent": (Recurrent, lambda: (sequences()[..., :3],), True),
    "transformer": (transformer, lambda: (sequences(),), True),
    "convolutions": (Convolutions, lambda: (images(),), True),
    "schnet": (SchNet, molecule, True),
}


def built(name: str, train: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name][0]().double().train(train)


def inputs_of(name: str) -> tuple:
    return CASES[name][1]()


def scripted(name: str, how: str = "script", train: bool = False) -> torch.jit.ScriptModule:
    model = built(name, train)
    if how == "trace":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own layers look at values while they are traced
            return torch.jit.trace(model, inputs_of(name), check_trace=False)
    made = torch.jit.script(model)
    return torch.jit.freeze(made) if how == "freeze" else made
