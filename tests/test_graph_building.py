"""A large graph that is rebuilt line by line is the one that torch.fx would have loaded, and as safe to read."""

from __future__ import annotations

import operator
import random
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from dcsurgery import files
from dcsurgery.activations import irelu
from dcsurgery.errors import UnsafeFile
from dcsurgery.files.graph_building import MANY, built
from dcsurgery.files.safe_rules import Forbidden

IMPORTS = "import torch\nfrom torch import device\nimport operator\n"


def drawn(seed, nodes, outputs=1):
    """A graph of random operations, two of its inputs and two of its modules used again and again."""
    draw = random.Random(seed)
    root = nn.Module()
    root.layer, root.block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.SiLU())
    graph = fx.Graph()
    values = [graph.placeholder("x"), graph.placeholder("y")]
    for _ in range(nodes):
        a, b = draw.choice(values[-9:]), draw.choice(values[-9:])
        how, *given = draw.choice(
            [
                (graph.call_module, "layer", (a,)),
                (graph.call_module, "block.0", (b,)),
                (graph.call_function, F.gelu, (a,), {"approximate": "tanh"}),
                (graph.call_function, irelu, (a,)),
                (graph.call_function, torch.add, (a, b), {"alpha": 2}),
                (graph.call_function, torch.stack, ([a, b, a],), {"dim": 0}),
                (graph.call_function, operator.sub, (1.5, a)),
                (graph.call_function, operator.getitem, (b, (Ellipsis, slice(0, 2, None)))),
                (graph.call_method, "tanh", (b,)),
                (graph.call_method, "to", (b, torch.float64)),
            ]
        )
        values.append(how(*given))
    last = values[-outputs:]
    graph.output(last[0] if outputs == 1 else {"all": (last, None), "first": values[0]})
    return fx.GraphModule(root, graph)


def pickled(module):
    _, (body, imports) = module.__reduce__()
    return body, imports


def described(module):
    kinds = [(type(node.target) is str, str(node.target), node.op) for node in module.graph.nodes]
    return (
        kinds,
        [(n.name, repr(n.args), repr(n.kwargs), n.type, repr(n.meta)) for n in module.graph.nodes],
        module.code,
    )


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_it_is_what_torch_fx_loads(seed, outputs):
    module = drawn(seed, 200, outputs)
    body, imports = pickled(module)
    found = built(dict(body), imports, lambda _: True, many=50)
    expected = fx.graph_module.reduce_graph_module(dict(body), imports)
    assert found is not None
    assert described(found) == described(expected)
    assert (type(found).__name__, found._tracer_cls) == (type(expected).__name__, expected._tracer_cls)
    assert vars(found).keys() == vars(expected).keys()
    assert all(found.get_submodule(path) is module.get_submodule(path) for path in ("layer", "block.0"))


def test_it_computes_the_same_and_can_be_edited_and_saved(tmp_path):
    graph = fx.Graph()
    x = graph.placeholder("x")
    for _ in range(MANY):
        x = graph.call_function(torch.tanh, (graph.call_module("layer", (x,)),))
    graph.output(x)
    module = fx.GraphModule(nn.ModuleDict({"layer": nn.Linear(3, 3)}), graph)
    torch.save(module, tmp_path / "graph.pt")
    read = files.read(tmp_path / "graph.pt").model
    inputs = torch.randn(5, 3)
    assert torch.equal(read(inputs), module(inputs))
    node = next(node for node in read.graph.nodes if node.target is torch.tanh)
    node.target = torch.sigmoid
    read.recompile()
    torch.save(read, tmp_path / "edited.pt")
    assert torch.equal(files.read(tmp_path / "edited.pt").model(inputs), read(inputs))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x):
        return F.silu(x)


def lines(text, count=60):
    return f"def forward(self, x):\n{textwrap.indent(textwrap.dedent(text) * count, '    ')}    return x\n"


@pytest.mark.parametrize(
    "code",
    [
        lines("x = x * x.shape[0]\n"),  # made where it is used
        lines("size = x.shape\nx = x.view(size)\n"),
        lines("x = x + self.weight\n"),
        lines("x = x + self.shift\n"),
        lines("x : torch.Tensor = torch.tanh(x)\n"),
        lines("torch.tanh(x)\n"),
        lines("x = torch.tanh(x) * torch.sigmoid(x)\n"),  # three nodes
        lines("y = torch.zeros(3)\nx = x + y\n"),  # no node at all
        lines("a, b = x, x\n"),
        lines("x = torch.tanh(x)  # why\n"),
        lines("x = torch. tanh(x)\n"),
        lines("x = torch.tanh(x);  y = x\n"),
        lines("x = torch.tanh(x)\n").replace("self, x", "self, x : torch.Tensor"),
        lines("x = torch.tanh(x)\n").replace("self, x", "self, x = None"),
        lines("x = torch.tanh(x)\n").replace("return x", "return x + 1"),
        lines("x = torch.tanh(x)\n").replace("return x", "return unknown"),
        lines("x = torch.tanh(dcs_value_0)\n"),
        "def forward(self, x):\n" + "".join(f"    x = x + {i}\n" for i in range(99)) + "    return x\n",  # all differ
    ],
)
def test_whatever_is_not_of_that_form_goes_the_usual_way(code):
    body, _ = pickled(fx.GraphModule(Odd(), fx.symbolic_trace(Odd()).graph))
    body = {**body, "_parameters": dict(Odd()._parameters), "_buffers": dict(Odd()._buffers), "_code": code}
    assert built(body, IMPORTS, lambda _: True, many=50) is None


def test_small_graphs_go_the_usual_way():
    body, imports = pickled(drawn(0, 200))
    assert built(body, imports, lambda _: True) is None


@pytest.mark.parametrize(
    "code",
    [
        lines("x = torch.load(x)\n"),
        lines("x = x.numpy()\n"),
        lines("x = torch.os.system(x)\n"),
        lines("x = self.to_folder(x)\n"),
        lines("x = open(x)\n"),
        lines("x = (lambda: torch.load(x))()\n"),
        lines("x = [torch.load(a) for a in x]\n"),
        lines("x = torch.tanh(x)\n" * 9 + "y = torch.load\n"),
        lines("y = torch.load\nx = y(x)\n"),
        lines("torch = x\nx = torch.load(x)\n"),  # would hide what the checks take for the module
        lines("len = x\nx = torch.tanh(x)\n"),
        lines("self = x\nx = torch.tanh(x)\n"),
        lines("x = torch.tanh(x)\n").replace("self, x", "self, x, torch"),
        lines("y = torch.add(open, x)\nopen = x\n"),  # the builtin, until it is assigned
        lines("x = torch.tanh(x).__class__\n"),
        lines("x = getattr(x, '__class__')\n"),
    ],
)
def test_a_large_program_is_as_safe_as_a_small_one(code, tmp_path):
    body, _ = pickled(fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))
    try:
        assert built({**body, "_code": code}, IMPORTS, lambda _: False, many=50) is None
    except Forbidden:
        return
    torch.save(Call(fx.graph_module.reduce_graph_module, {**body, "_code": code}, IMPORTS), tmp_path / "graph.pt")
    with pytest.raises(UnsafeFile):
        files.read(tmp_path / "graph.pt")


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.how = function, args

    def __reduce__(self):
        return self.how
