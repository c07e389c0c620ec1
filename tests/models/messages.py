"""PyG message passing: ``propagate`` calls the user's methods from code that it generates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import MessagePassing

from models.case import Case, hand, rows

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
WEIGHTS = rows(6, 2, seed=3)


class Convolution(MessagePassing):
    def __init__(self):
        super().__init__(aggr="add")
        self.node = nn.Linear(3, 4)
        self.edge = nn.Linear(2, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x, edge_index, edge_attr):
        weights = self.edge_updater(edge_index, edge_attr=edge_attr)
        return self.propagate(edge_index, x=x, weights=weights)

    def edge_update(self, edge_attr):
        return torch.tanh(self.edge(edge_attr))

    def message(self, x_j, weights):
        return F.silu(self.node(x_j)) * weights

    def update(self, inputs):
        return self.out(inputs).relu()


class Held(MessagePassing):
    """The activation is an attribute, and only ``message`` uses it."""

    def __init__(self):
        super().__init__(aggr="add")
        self.node = nn.Linear(3, 2)
        self.act = F.silu

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, x_i, x_j):
        return self.act(self.node(x_i - x_j))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Convolution()
        self.second = Convolution()
        self.mix = nn.Linear(2, 3)

    def forward(self, x, edge_index, edge_attr):
        h = self.mix(self.first(x, edge_index, edge_attr))
        return self.second(h, edge_index, edge_attr)


def convolution(m, x, edges, weights):
    messages = hand(m.node(x[edges[0]])) * hand(m.edge(weights))
    summed = torch.zeros(len(x), 4, dtype=x.dtype).index_add(0, edges[1], messages)
    return hand(m.out(summed))


def held(m, x, edges):
    messages = hand(m.node(x[edges[1]] - x[edges[0]]))
    return torch.zeros(len(x), 2, dtype=x.dtype).index_add(0, edges[1], messages)


def only_second(m, x, edges, weights):
    return convolution(m.second, m.mix(m.first(x, edges, weights)), edges, weights)


CASES = {
    "message, update, edge_update": Case(Convolution, convolution, edits=3, inputs=(rows(), EDGES, WEIGHTS)),
    "attribute used in message": Case(Held, held, inputs=(rows(), EDGES)),
    "one of two convolutions": Case(
        Stack, only_second, edits=3, inputs=(rows(), EDGES, WEIGHTS), options={"include": "second"}
    ),
}
