"""Parts of a model that are no plain Python: TorchScript, torch.fx, custom operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models.case import Case, Net, hand
from torch import fx, nn


def scripted_body(x):
    return F.silu(x) + 1


class Traceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(4, 4), nn.SiLU()

    def forward(self, x):
        return torch.tanh(self.act(self.layer(x)))


class CallsScriptFunction(Net):
    def __init__(self):
        super().__init__()
        self.run = torch.jit.script(scripted_body)

    def forward(self, x):
        return self.b(self.run(self.a(x)))


class ScriptedChild(Net):
    def __init__(self):
        super().__init__()
        self.child = torch.jit.script(Traceable())

    def forward(self, x):
        return self.b(self.child(self.a(x)))


class TracedChild(Net):
    def __init__(self):
        super().__init__()
        self.child = torch.jit.trace(Traceable(), torch.ones(2, 4))

    def forward(self, x):
        return self.b(self.child(self.a(x)))


class GraphInside(Net):
    def __init__(self):
        super().__init__()
        self.child = fx.symbolic_trace(Traceable())
        self.listed = [fx.symbolic_trace(Traceable()).double()]

    def forward(self, x):
        return self.b(self.listed[0](F.gelu(self.child(self.a(x)))))


def child(m, h):
    return hand(hand(m.layer(h)))


CASES = {
    "ScriptFunction": Case(CallsScriptFunction, lambda m, x: m.b(hand(m.a(x)) + 1), pickles=False, static=False),
    "scripted child": Case(ScriptedChild, lambda m, x: m.b(child(m.child, m.a(x))), edits=2, pickles=False),
    "traced child": Case(TracedChild, lambda m, x: m.b(child(m.child, m.a(x))), edits=2, pickles=False),
    "graph inside": Case(
        GraphInside, lambda m, x: m.b(child(m.listed[0], hand(child(m.child, m.a(x))))), edits=5, pickles=False
    ),
    "one node of a graph inside": Case(
        GraphInside,
        lambda m, x: m.b(torch.tanh(F.silu(m.listed[0].layer(F.gelu(hand(F.silu(m.child.layer(m.a(x))))))))),
        options={"include": "child.tanh@tanh"},
        pickles=False,
    ),
}
