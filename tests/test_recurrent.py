"""Opened recurrent modules: equal to torch's kernels, equal to a loop written by hand, and open to derivatives."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import dcsurgery as dcs
from dcsurgery.activations import IReLU, integrate
from dcsurgery.errors import BadInput, Refused
from dcsurgery.recurrent import UnfuseRecurrent, inner_operators
from dcsurgery.subclass import amend, amended, original_class

INPUT, HIDDEN, BATCH, STEPS = 3, 4, 3, 5
LENGTHS = torch.tensor([3, 5, 2])
IRELU = UnfuseRecurrent((("tanh", "irelu"),))
# torch's own functions, as modules that somebody puts in.
IDENTITY = {
    "tanh": UnfuseRecurrent((("tanh", nn.Tanh()),)),
    "relu": UnfuseRecurrent((("relu", nn.ReLU()),)),
    "sigmoid": UnfuseRecurrent((("sigmoid", nn.Sigmoid()),)),
    "": UnfuseRecurrent(()),
}
SEQUENCES: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm-proj": (nn.LSTM, {"proj_size": 2}),
    "gru": (nn.GRU, {}),
    "rnn-tanh": (nn.RNN, {}),
    "rnn-relu": (nn.RNN, {"nonlinearity": "relu"}),
}
CELLS: dict[str, tuple[type[nn.RNNCellBase], dict[str, Any]]] = {
    "lstm": (nn.LSTMCell, {}),
    "gru": (nn.GRUCell, {}),
    "rnn-tanh": (nn.RNNCell, {}),
    "rnn-relu": (nn.RNNCell, {"nonlinearity": "relu"}),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sequence(kind: str, **options: Any) -> Any:
    cls, fixed = SEQUENCES[kind]
    return cls(INPUT, HIDDEN, dtype=torch.float64, **fixed, **options)


def cell(kind: str, **options: Any) -> Any:
    cls, fixed = CELLS[kind]
    return cls(INPUT, HIDDEN, dtype=torch.float64, **fixed, **options)


def opened(module: nn.Module, amendment: UnfuseRecurrent | None = None) -> Any:
    """A copy of a module whose kernel is open; by default with torch's own activation put in."""
    new = copy.deepcopy(module)
    amend(new, amendment or IDENTITY[inner_operators(module)[0]])
    return new


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def example(module: Any, layout: str, *, with_state: bool) -> tuple[Any, list[Tensor], Any]:
    """Return the input, the leaf tensors behind input and state, and the state."""
    batched = layout != "unbatched"
    swap = module.batch_first and batched
    x = leaf(BATCH, STEPS, INPUT) if swap else leaf(STEPS, *([BATCH] * batched), INPUT)
    given: Any = x
    if layout == "packed-unsorted":
        given = pack_padded_sequence(x, LENGTHS, batch_first=module.batch_first, enforce_sorted=False)
    if layout == "packed-sorted":
        given = pack_padded_sequence(x, LENGTHS.sort(descending=True).values, batch_first=module.batch_first)
    if not with_state:
        return given, [x], None
    depth = module.num_layers * (2 if module.bidirectional else 1)
    h = leaf(depth, *([BATCH] * batched), module.proj_size or HIDDEN)
    if not isinstance(module, nn.LSTM):
        return given, [x, h], h
    c = leaf(depth, *([BATCH] * batched), HIDDEN)
    return given, [x, h, c], (h, c)


def assert_equal(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Same structure, layout and values."""
    got_leaves, got_spec = pytree.tree_flatten(got)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    assert got_spec == expected_spec
    for a, b in zip(got_leaves, expected_leaves, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def total(output: Any) -> Tensor:
    """A scalar to which every number of the output contributes differently."""
    parts = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    return sum((torch.linspace(1, 2, t.numel(), dtype=t.dtype) * t.reshape(-1)).sum() for t in parts)


def gradients(module: nn.Module, output: Any, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(total(output), [*inputs, *module.parameters()], retain_graph=True))


# -- equal to the kernel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["batched", "unbatched", "packed-sorted", "packed-unsorted"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", SEQUENCES)
def test_sequence_equals_the_kernel_in_outputs_states_and_gradients(kind, layers, bidirectional, layout):
    for batch_first, bias, with_state in itertools.product([False, True], repeat=3):
        fused = sequence(kind, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias)
        new = opened(fused)
        given, leaves, hx = example(fused, layout, with_state=with_state)
        expected, got = fused(given, hx), new(given, hx)
        assert_equal(got, expected)
        assert isinstance(got[0], PackedSequence) == layout.startswith("packed")
        if isinstance(got[0], Tensor):
            assert got[0].stride() == expected[0].stride()
        assert_equal(gradients(new, got, leaves), gradients(fused, expected, leaves))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_cell_equals_the_kernel_in_states_and_gradients(kind, batched, with_state, bias):
    fused = cell(kind, bias=bias)
    new = opened(fused)
    x, h, c = (leaf(*([BATCH] * batched), width) for width in (INPUT, HIDDEN, HIDDEN))
    hx = None if not with_state else (h, c) if kind == "lstm" else h
    leaves = [x] if hx is None else [x, h, c] if kind == "lstm" else [x, h]
    expected, got = fused(x, hx), new(x, hx)
    assert_equal(got, expected)
    assert_equal(gradients(new, got, leaves), gradients(fused, expected, leaves))


@pytest.mark.parametrize("operator", ["", "sigmoid"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_operators_that_are_not_listed_keep_torchs_function(kind, operator):
    for make, x in ((sequence, leaf(STEPS, BATCH, INPUT)), (cell, leaf(BATCH, INPUT))):
        fused = make(kind)
        assert_equal(opened(fused, IDENTITY[operator])(x), fused(x))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_between_layers_draws_the_same_numbers_as_the_kernel(packed, batch_first):
    layout = "packed-unsorted" if packed else "batched"
    for kind in SEQUENCES:
        fused = sequence(kind, num_layers=3, dropout=0.4, bidirectional=True, batch_first=batch_first)
        new = opened(fused)
        given, _, _ = example(fused, layout, with_state=False)
        results = []
        for module in (fused, new):
            torch.manual_seed(7)
            results.append(module(given))
        assert_equal(results[1], results[0])
        torch.manual_seed(8)
        assert not torch.equal(new(given)[0][0], results[1][0][0])
        assert_equal(new.eval()(given), fused.eval()(given))


def test_batch_of_no_sequences_gives_an_empty_output():
    fused = sequence("gru")
    x = leaf(STEPS, 0, INPUT)
    assert_equal(opened(fused)(x), fused(x))


def test_signatures_are_those_of_torch():
    for cls in (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell):
        ours = inspect.signature(amended(cls, UnfuseRecurrent(())).forward).parameters.values()
        theirs = inspect.signature(cls.forward).parameters.values()
        assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


# -- equal to a loop written by hand -------------------------------------------------------------------------------


def half_square(x: Tensor) -> Tensor:
    return 0.5 * x * x * (x > 0)


def logistic(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def by_hand(module: Any, x: Tensor, activation: Any = half_square, gate: Any = logistic) -> tuple[Tensor, ...]:
    """One layer, one direction, one sequence: gate after gate, as the documentation of torch writes them."""
    name = type(module).__name__
    suffix = "_l0" if isinstance(module, nn.RNNBase) else ""
    w, u, b, d = (getattr(module, part + suffix) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h, c = torch.zeros(2, HIDDEN, dtype=x.dtype)
    for x_t in x:
        into = [w[k : k + HIDDEN] @ x_t + b[k : k + HIDDEN] for k in range(0, len(w), HIDDEN)]
        back = [u[k : k + HIDDEN] @ h + d[k : k + HIDDEN] for k in range(0, len(w), HIDDEN)]
        if name.startswith("LSTM"):
            i, f, g, o = (a + b for a, b in zip(into, back, strict=True))
            c = gate(f) * c + gate(i) * activation(g)
            h = gate(o) * activation(c)
        elif name.startswith("GRU"):
            r, z = gate(into[0] + back[0]), gate(into[1] + back[1])
            h = (1 - z) * activation(into[2] + r * back[2]) + z * h
        else:
            h = activation(into[0] + back[0])
    return (h, c) if name.startswith("LSTM") else (h,)


@pytest.mark.parametrize("kind", CELLS)
def test_irelu_equals_a_loop_over_steps_and_gates(kind):
    amendment = UnfuseRecurrent((("relu" if kind == "rnn-relu" else "tanh", "irelu"),))
    x = 2 * leaf(STEPS, INPUT)
    layer, step = opened(sequence(kind), amendment), opened(cell(kind), amendment)
    expected = by_hand(layer, x)
    assert max(part.abs().max() for part in expected) > 0.01
    hidden = layer(x)[1]
    assert_equal([part[0] for part in (hidden if kind == "lstm" else (hidden,))], list(expected))
    state = None
    for x_t in x:
        state = step(x_t, state)
    assert_equal(list(state) if kind == "lstm" else [state], list(by_hand(step, x)))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gates_and_activation_take_different_replacements(kind):
    integral = integrate("silu")
    both = UnfuseRecurrent((("sigmoid", integral), ("tanh", IReLU())))
    module, x = opened(sequence(kind), both), leaf(STEPS, INPUT)
    expected = by_hand(module, x, half_square, integral)
    hidden = module(x)[1]
    assert_equal([part[0] for part in (hidden if kind == "lstm" else (hidden,))], list(expected))


def test_a_second_amendment_adds_to_the_first():
    x = leaf(STEPS, BATCH, INPUT)
    module = sequence("lstm")
    together = opened(module, UnfuseRecurrent((("sigmoid", "integrated-tanh"), ("tanh", "irelu"))))
    one_by_one = opened(module, IRELU)
    assert inner_operators(one_by_one) == ("sigmoid",)
    amend(one_by_one, UnfuseRecurrent((("sigmoid", "integrated-tanh"),)))
    assert inner_operators(one_by_one) == ()
    assert_equal(one_by_one(x), together(x), 0)


@pytest.mark.parametrize("inplace", [nn.ReLU(inplace=True), nn.Sequential(IReLU(inplace=True))])
@pytest.mark.parametrize("grad", [False, True])
def test_an_inplace_replacement_leaves_the_cell_state_alone(inplace, grad):
    plain = copy.deepcopy(inplace)
    for part in plain.modules():
        part.inplace = False
    module, x = sequence("lstm"), leaf(STEPS, BATCH, INPUT)
    with torch.set_grad_enabled(grad):
        got = opened(module, UnfuseRecurrent((("tanh", inplace), ("sigmoid", nn.Identity()))))(x)
        expected = opened(module, UnfuseRecurrent((("tanh", plain), ("sigmoid", nn.Identity()))))(x)
    assert expected[1][1].min() < 0
    assert_equal(got, expected, 0)


# -- what runs -----------------------------------------------------------------------------------------------------


class Kernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "operator", "kernels", "replacement"),
    [
        ("lstm", "tanh", {"tanh", "tanh_backward"}, "irelu"),
        ("lstm", "sigmoid", {"sigmoid", "sigmoid_backward"}, "irelu"),
        ("gru", "tanh", {"tanh", "tanh_backward"}, "irelu"),
        ("rnn-tanh", "tanh", {"tanh", "tanh_backward"}, "irelu"),
        ("rnn-relu", "relu", {"relu", "threshold_backward"}, nn.SiLU()),
    ],
)
def test_no_kernel_of_the_replaced_operator_runs_forward_or_backward(kind, operator, kernels, replacement):
    for module, x in ((sequence(kind), leaf(STEPS, BATCH, INPUT)), (cell(kind), leaf(BATCH, INPUT))):
        for amendment, left in ((UnfuseRecurrent(()), kernels), (UnfuseRecurrent(((operator, replacement),)), set())):
            new = opened(module, amendment)
            with Kernels() as watch:
                gradients(new, new(x), [x])
            assert watch.seen & kernels == left
            assert not {name for name in watch.seen if name.startswith(("lstm", "gru", "rnn", "mkldnn", "_thnn"))}


@pytest.mark.parametrize("kind", CELLS)
def test_first_and_second_derivatives_match_finite_differences(kind):
    # IReLU's second derivative jumps at 0; the integral of SiLU is smooth.
    amendment = UnfuseRecurrent((("relu" if kind == "rnn-relu" else "tanh", "integrated-silu"),))
    layer, step = opened(sequence(kind, bidirectional=True), amendment), opened(cell(kind), amendment)
    for module, x in ((layer, leaf(3, 2, INPUT)), (step, leaf(2, INPUT))):
        names, values = zip(*module.named_parameters(), strict=True)

        def run(x, *values, module=module, names=names):
            return total(functional_call(module, dict(zip(names, values, strict=True)), (x,)))

        assert gradcheck(run, (x, *values), fast_mode=True)
        assert gradgradcheck(run, (x, *values), fast_mode=True)


def test_derivatives_pass_through_packed_sequences():
    module = opened(sequence("gru", bidirectional=True, num_layers=2), UnfuseRecurrent((("tanh", "integrated-silu"),)))

    def run(x):
        output, hidden = module(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
        return total((pad_packed_sequence(output)[0], hidden))

    x = leaf(STEPS, BATCH, INPUT)
    assert gradcheck(run, x, fast_mode=True)
    assert gradgradcheck(run, x, fast_mode=True)


def test_export_and_vmap_see_the_replacement():
    module, x = opened(sequence("lstm"), IRELU), leaf(2, BATCH, INPUT).detach()
    program = torch.export.export(module, (x,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.sigmoid.default" in called
    assert not {name for name in called if name.startswith(("aten.tanh", "aten.lstm"))}
    assert_equal(program.module()(x), module(x))
    each = torch.func.vmap(lambda sequence: module(sequence)[0], in_dims=1, out_dims=1)
    assert_equal(each(x), module(x)[0])


# -- contracts of the module -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CELLS)
def test_parameters_keys_and_class_survive_and_undo_restores(kind):
    for module, x in ((sequence(kind), leaf(STEPS, BATCH, INPUT)), (cell(kind), leaf(BATCH, INPUT))):
        cls, before, keys = type(module), [id(p) for p in module.parameters()], list(module.state_dict())
        expected = module(x)
        undo = amend(module, UnfuseRecurrent(((inner_operators(module)[0], "irelu"),)))
        assert isinstance(module, cls)
        assert original_class(module) is cls
        assert [id(p) for p in module.parameters()] == before
        assert list(module.state_dict()) == keys
        assert not torch.equal(pytree.tree_leaves(module(x))[0], pytree.tree_leaves(expected)[0])
        undo()
        assert type(module) is cls
        assert_equal(module(x), expected, 0)


@pytest.mark.parametrize("amendment", [IRELU, UnfuseRecurrent((("tanh", IReLU()),))])
def test_pickles_and_copies_compute_the_same(amendment):
    for module, x in ((sequence("lstm", num_layers=2), leaf(STEPS, BATCH, INPUT)), (cell("gru"), leaf(BATCH, INPUT))):
        new = opened(module, amendment)
        expected = new(x)
        file = io.BytesIO()
        torch.save(new, file)
        file.seek(0)
        others = [pickle.loads(pickle.dumps(new)), copy.deepcopy(new), torch.load(file, weights_only=False)]
        for other in others:
            assert_equal(other(x), expected, 0)
            assert {id(p) for p in other.parameters()}.isdisjoint(id(p) for p in new.parameters())
            assert inner_operators(other) == ("sigmoid",)


def test_moves_flattens_and_trains_like_any_module():
    module = opened(sequence("lstm", num_layers=2, bidirectional=True), IRELU)
    module.flatten_parameters()
    x = leaf(STEPS, BATCH, INPUT).detach()
    single, double = module.to(torch.float32)(x.float())[0], module.to(torch.float64)(x)[0]
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-6)
    assert module.to("meta")(x.to("meta"))[0].shape == double.shape

    module = opened(sequence("lstm"), IRELU)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        losses.append(module(x)[0].square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]


def test_weights_set_from_outside_are_used():
    module, x = opened(sequence("gru"), IRELU), leaf(STEPS, BATCH, INPUT)
    zeros = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    assert functional_call(module, zeros, (x,))[0].abs().max() == 0
    nn.utils.parametrize.register_parametrization(module, "weight_ih_l0", Zero())
    halved = opened(sequence("gru"), IRELU)
    halved.load_state_dict(
        {k.replace("parametrizations.weight_ih_l0.original", "weight_ih_l0"): v for k, v in module.state_dict().items()}
    )
    with torch.no_grad():
        halved.weight_ih_l0.zero_()
    assert_equal(module(x), halved(x), 0)


class Zero(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0 * weight


# -- which modules -------------------------------------------------------------------------------------------------


class Renamed(nn.LSTM):
    """Adds a method and keeps forward."""

    def last(self, x: Tensor) -> Tensor:
        return self(x)[0][-1]


class Overridden(nn.GRU):
    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


class Foreign(nn.GRU):
    """A forward that has nothing to do with the kernel."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        return torch.relu(input), hx


class Wrapped(nn.LSTMCell):
    """A forward of its own around the kernel, with an activation of its own."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        return nn.functional.silu(super().forward(2 * input, hx)[0])


def test_inner_operators_name_what_the_kernel_runs():
    expected = {"lstm": ("tanh", "sigmoid"), "gru": ("tanh", "sigmoid"), "rnn-tanh": ("tanh",), "rnn-relu": ("relu",)}
    for kind, operators in expected.items():
        assert inner_operators(sequence(kind)) == inner_operators(cell(kind)) == operators
    assert inner_operators(Renamed(3, 4)) == ("tanh", "sigmoid")
    replaced = nn.LSTM(3, 4)
    replaced.forward = lambda x: x
    assert inner_operators(Overridden(3, 4)) == ("tanh", "sigmoid")
    for other in (nn.Linear(3, 4), nn.Tanh(), Foreign(3, 4), nn.RNNBase("LSTM", 3, 4), replaced):
        assert inner_operators(other) == ()


def test_a_subclass_that_keeps_forward_is_opened():
    module, x = Renamed(INPUT, HIDDEN, dtype=torch.float64), leaf(STEPS, BATCH, INPUT)
    torch.testing.assert_close(opened(module).last(x), module.last(x), rtol=0, atol=1e-12)


def test_a_forward_around_the_kernel_stays_and_the_kernel_is_opened():
    module, x = Overridden(INPUT, HIDDEN, 2, dtype=torch.float64), leaf(STEPS, BATCH, INPUT)
    for mine, theirs in zip(opened(module)(x), module(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    inside = nn.GRU(INPUT, HIDDEN, 2, dtype=torch.float64)
    inside.load_state_dict(module.state_dict())
    edited = amended(nn.GRU, UnfuseRecurrent((("tanh", "irelu"),)))
    inside.__class__ = edited
    module.__class__ = amended(
        amended(Overridden, UnfuseRecurrent((("tanh", "integrated-silu"),))), UnfuseRecurrent((("tanh", "irelu"),))
    )
    torch.testing.assert_close(module(x)[0], inside(2 * x)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(copy.deepcopy(module)(x)[0], module(x)[0], rtol=0, atol=0)


def test_a_transform_edits_the_kernel_and_what_is_around_it():
    model, x = nn.Sequential(Wrapped(INPUT, HIDDEN)).double(), leaf(BATCH, INPUT)
    census = dcs.inspect(model, (x,))
    assert {(s.name, s.operator, s.role) for s in census} == {
        ("0.forward@silu", "silu", "activation"),
        ("0@tanh", "tanh", "activation"),
        ("0@sigmoid", "sigmoid", "gate"),
    }
    report = dcs.transform(model, example_inputs=(x,)).report
    assert sorted(line.partition("(")[2] for line in report.done) == ["call rewritten)", "kernel opened)"]
    assert {c.name: c.status for c in report}["residual"] == "pass"


@pytest.mark.parametrize(
    ("cls", "replacements", "error", "match"),
    [
        (nn.Linear, (("tanh", "irelu"),), Refused, "class Linear does not run the forward of torch's LSTM"),
        (Foreign, (("tanh", "irelu"),), Refused, "class Foreign does not run"),
        (nn.LSTM, (("relu", "irelu"),), Refused, "no relu inside a LSTM .replace tanh or sigmoid"),
        (nn.RNNCell, (("sigmoid", "irelu"),), Refused, "no sigmoid inside a RNNCell"),
        (nn.GRU, (("tanh", "irelu"), ("tanh", "irelu")), BadInput, "tanh is to be replaced 2 times"),
        (nn.GRU, (("tanh", "ireul"),), BadInput, "did you mean 'irelu'"),
    ],
)
def test_edits_that_cannot_be_made_are_refused(cls, replacements, error, match):
    with pytest.raises(error, match=match):
        amended(cls, UnfuseRecurrent(replacements))


@pytest.mark.parametrize(
    ("input_shape", "state_shapes", "match"),
    [
        ((BATCH, 2), None, r"input of shape \(3, 2\) .give it one of shape \(batch, 3\)"),
        ((5, BATCH, INPUT), None, r"input of shape \(5, 3, 3\)"),
        ((BATCH, INPUT), ((1, HIDDEN), (BATCH, HIDDEN)), r"state of shape \(1, 4\) .its shape must be \(3, 4\)"),
        ((BATCH, INPUT), ((BATCH, HIDDEN), (HIDDEN,)), r"state of shape \(4,\)"),
        ((INPUT,), ((1, HIDDEN), (1, HIDDEN)), r"its shape must be \(4,\)"),
    ],
)
def test_cell_names_a_wrong_shape(input_shape, state_shapes, match):
    module = cell("lstm")
    state = None if state_shapes is None else tuple(leaf(*shape) for shape in state_shapes)
    with pytest.raises((RuntimeError, ValueError)):
        module(leaf(*input_shape), state)
    with pytest.raises(BadInput, match=match):
        opened(module)(leaf(*input_shape), state)


@pytest.mark.parametrize(
    ("kind", "input_shape", "state"),
    [
        ("gru", (STEPS, BATCH, 2), None),
        ("gru", (STEPS,), None),
        ("rnn-tanh", (1, STEPS, BATCH, INPUT), None),
        ("gru", (STEPS, BATCH, INPUT), (1, 1, HIDDEN)),
        ("gru", (STEPS, INPUT), (1, 1, HIDDEN)),
        ("gru", (STEPS, BATCH, INPUT), (1, HIDDEN)),
    ],
)
def test_sequence_refuses_the_shapes_that_torch_refuses(kind, input_shape, state):
    module = sequence(kind)
    for each in (module, opened(module)):
        with pytest.raises((RuntimeError, ValueError), match=r"(?i)expected|must|should also be"):
            each(leaf(*input_shape), None if state is None else leaf(*state))


def test_a_sequence_without_steps_is_refused():
    with pytest.raises(BadInput, match="LSTM got a sequence without any step"):
        opened(sequence("lstm"))(leaf(0, BATCH, INPUT))
