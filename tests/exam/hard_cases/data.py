"""Inputs and outputs of every kind, and the strange tensors among them."""

from __future__ import annotations

import collections
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from models.case import Case, Net, between, hand, rows
from torch import nn
from torch_geometric.data import Batch, Data


@dataclass
class Request:
    x: torch.Tensor
    scale: float = 1.0


@dataclass
class Answer:
    value: torch.Tensor
    hidden: list[torch.Tensor]
    note: str = ""


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class ModelOutput(collections.OrderedDict):
    """A dict whose entries are attributes, as libraries return it."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self):
        return type(self), (), None, None, iter(self.items())


class OfDataclass(Net):
    def forward(self, request):
        return self.b(F.silu(self.a(request.x)) * request.scale)


class OfGenerator(Net):
    def forward(self, batches):
        return self.b(sum(torch.tanh(self.a(x)) for x in batches))


class Rows:
    """An iterable that starts anew each time: what a data loader is."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return (rows(seed=seed) for seed in range(self.count))


class OfGraph(Net):
    def forward(self, data):
        h = F.silu(self.a(data.x))
        messages = torch.tanh(h[data.edge_index[0]])
        h = h.index_add(0, data.edge_index[1], messages)
        count = data.num_graphs if isinstance(data, Batch) else 1
        batch = data.batch if data.batch is not None else torch.zeros(len(h), dtype=torch.long)
        return self.b(torch.zeros(count, 4, dtype=h.dtype).index_add(0, batch, h))


def of_graph(m, data):
    h = hand(m.a(data.x))
    h = h.index_add(0, data.edge_index[1], hand(h[data.edge_index[0]]))
    return m.b(torch.zeros(int(data.batch.max()) + 1, 4, dtype=h.dtype).index_add(0, data.batch, h))


class OfNested(Net):
    def forward(self, items, *, extra=None):
        total = 0
        for group in items:
            for item in group["parts"]:
                total = total + F.silu(self.a(item))
        return self.b(total if extra is None else total + torch.tanh(extra[0]))


class OfPair(Net):
    def forward(self, pair, name="silu"):
        return self.b(getattr(F, name)(self.a(pair.first)) + pair.second.sum())


class OfIntegers(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.b = nn.Linear(4, 2)

    def forward(self, tokens, mask):
        h = F.silu(self.embedding(tokens)) * mask[..., None]
        return self.b(h.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))


def of_integers(m, tokens, mask):
    h = hand(m.embedding(tokens)) * mask[..., None]
    return m.b(h.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))


class Sparse(nn.Module):
    """A sparse matrix among the inputs."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, x, adjacency):
        return torch.sparse.mm(adjacency, torch.tanh(self.a(x)))


ADJACENCY = torch.sparse_coo_tensor(
    torch.tensor([[0, 1, 2, 3], [1, 2, 0, 4]]),
    torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64),
    (5, 5),
    check_invariants=True,
).coalesce()


class Packed(nn.Module):
    """Sequences of different lengths."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, packed):
        return packed._replace(data=F.silu(self.a(packed.data))).data


def packed():
    return nn.utils.rnn.pack_sequence([rows(3), rows(2, seed=2)])


class Complex(Net):
    """Activates the real and the imaginary part, and the modulus."""

    def forward(self, x):
        z = torch.fft.fft(self.a(x), dim=-1)
        z = torch.complex(F.silu(z.real), torch.tanh(z.imag))
        return self.b(torch.view_as_real(z).sum(-1) + F.relu((z + 3).abs() - 2.5))  # |z| has no second derivative at 0


def complex_(m, x):
    z = torch.fft.fft(m.a(x), dim=-1)
    z = torch.complex(hand(z.real), hand(z.imag))
    return m.b(z.real + z.imag + hand((z + 3).abs() - 2.5))


class Views(Net):
    """In-place activations on views: what they are views of changes."""

    def forward(self, x):
        first, second, third = (self.a(x).clone() for _ in range(3))
        first[:, :2].relu_()
        torch.tanh_(second[:, 2])
        F.elu(third[1:3, 3:], inplace=True)
        return self.b(first + second + third)


def views(m, x):
    h = m.a(x)
    first = torch.cat([hand(h[:, :2]), h[:, 2:]], 1)
    second = torch.cat([h[:, :2], hand(h[:, 2:3]), h[:, 3:]], 1)
    third = torch.cat([h[:, :3], torch.cat([h[:1, 3:], hand(h[1:3, 3:]), h[3:, 3:]])], 1)
    return m.b(first + second + third)


class Strange(Net):
    """Expanded, transposed, empty and 0-d tensors."""

    def forward(self, x):
        h = self.a(x)
        wide = F.silu(h.mean(0).expand(3, 4))
        turned = torch.tanh(h.T).T
        nothing = F.gelu(h[:0])
        single = F.softplus(h.sum())
        return self.b(wide.sum(0) + turned + nothing.sum() + single)


def strange(m, x):
    h = m.a(x)
    return m.b(3 * hand(h.mean(0)) + hand(h) + hand(h.sum()))


class ManyOutputs(Net):
    def forward(self, x):
        h = F.silu(self.a(x))
        y = self.b(h)
        return {"dataclass": Answer(y, [h], "text"), "pair": Pair(h, y), "none": None, "flag": True}, [(y.sum(), 3)]


def many_outputs(m, x):
    h = hand(m.a(x))
    y = m.b(h)
    return {"dataclass": Answer(y, [h], "text"), "pair": Pair(h, y), "none": None, "flag": True}, [(y.sum(), 3)]


class ReturnsModelOutput(Net):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return ModelOutput(logits=self.b(h), hidden=(h,))


class Reads(Net):
    """Works on a copy of its dataclass input that it changed."""

    def forward(self, request):
        request = replace(request, x=torch.tanh(self.a(request.x)))
        return replace(request, x=self.b(request.x)).x


def graphs():
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    return Batch.from_data_list([Data(x=rows(3, seed=s), edge_index=edges) for s in range(2)])


class Subclass(torch.Tensor):
    """A tensor subclass that comes through every operation, with attributes of its own."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


class OfSubclass(Net):
    def forward(self, x):
        h = F.silu(self.a(x.as_subclass(Subclass)))
        assert isinstance(h, Subclass)
        return self.b(h).as_subclass(torch.Tensor)


class Wrapped:
    """No tensor, but takes part in torch functions."""

    def __init__(self, value, scale):
        self.value, self.scale = value, scale

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        scale = next(a.scale for a in args if isinstance(a, Wrapped))
        return Wrapped(func(*(a.value if isinstance(a, Wrapped) else a for a in args), **(kwargs or {})), scale)


class OfWrapper(Net):
    def forward(self, x):
        h = torch.tanh(Wrapped(self.a(x), 2.0))
        return self.b(h.value * h.scale)


CASES = {
    "dataclass": Case(
        OfDataclass, lambda m, request: m.b(hand(m.a(request.x)) * request.scale), inputs=(Request(rows(), 2.0),)
    ),
    "iterable": Case(OfGenerator, lambda m, b: m.b(sum(hand(m.a(x)) for x in b)), inputs=(Rows(3),)),
    "graphs": Case(OfGraph, of_graph, edits=2, inputs=(graphs(),)),
    "nested lists and dicts": Case(
        OfNested,
        lambda m, items, extra: m.b(hand(m.a(items[0]["parts"][0])) + hand(m.a(items[1]["parts"][0])) + hand(extra[0])),
        edits=2,
        inputs={
            "items": [{"parts": [rows()]}, {"parts": (rows(seed=2),)}],
            "extra": [torch.ones(4, dtype=torch.float64)],
        },
    ),
    "named tuple": Case(
        OfPair,
        lambda m, pair: m.b(hand(m.a(pair.first)) + pair.second.sum()),
        inputs=(Pair(rows(), rows(2)),),
        static=False,
    ),
    "integers": Case(
        OfIntegers,
        of_integers,
        inputs=(torch.tensor([[1, 2, 0], [6, 3, 5]]), torch.tensor([[1, 1, 0], [1, 1, 1]])),
    ),
    "sparse": Case(Sparse, lambda m, x, adj: adj.to_dense() @ hand(m.a(x)), inputs=(rows(), ADJACENCY)),
    "packed sequence": Case(Packed, lambda m, p: hand(m.a(p.data)), inputs=(packed(),)),
    "complex": Case(Complex, complex_, edits=3),
    "in place on views": Case(Views, views, edits=3),
    "strange tensors": Case(Strange, strange, edits=4),
    "many outputs": Case(ManyOutputs, many_outputs),
    "dict with attributes": Case(
        ReturnsModelOutput, lambda m, x: ModelOutput(logits=between(m, x), hidden=(hand(m.a(x)),))
    ),
    "changed dataclass": Case(Reads, lambda m, request: between(m, request.x), inputs=(Request(rows()),)),
    "tensor subclass": Case(OfSubclass, between),
    "wrapper with __torch_function__": Case(OfWrapper, lambda m, x: m.b(2 * hand(m.a(x)))),
}
