"""Label rescaling: the model returns C times its raw output, forces follow from the energy, and C goes where it goes."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput, Refused
from dcsurgery.rescale import rescale_graph, rescale_labels
from dcsurgery.subclass import original_class

C = 1e6


def points(n: int = 5, width: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


class Energy(nn.Module):
    """A small energy; module level, so that it pickles."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return self.trunk(x).sum() + shift


class EnergyAndForces(nn.Module):
    """(E, F) with F = -dE/dx taken inside, and an optional third output."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = Energy().eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, None]:
        with torch.enable_grad():
            x = x.requires_grad_()
            energy = self.energy(x)
            (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
        return energy, -gradient, None


class Pair(NamedTuple):
    energy: Tensor
    count: Tensor


@dataclass(frozen=True)
class Prediction:
    total_energy: Tensor
    features: Tensor
    stress: Tensor | None = None


class Returns(nn.Module):
    """Returns whatever a function of its input makes."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Any:
        return self.make(x * self.weight)


def rescaled(model: nn.Module, scale: float = C, outputs: Any = None) -> nn.Module:
    rescale_labels(model, scale, outputs)
    return model


def energy_model() -> nn.Module:
    return Energy().double().eval()


# --- what it computes -------------------------------------------------------------------------------------------------


def test_output_is_c_times_raw_output_and_scaled_gives_the_raw_one() -> None:
    x, model = points(), energy_model()
    raw = model(x)
    rescaled(model)
    assert torch.equal(model(x), raw * C)
    assert torch.equal(model(x, scaled=True), raw)
    assert torch.equal(model.scaled()(x), raw)
    assert torch.equal(model.scaled()(x, shift=2.0), raw + 2)
    with model.scaled() as inner:
        assert inner is model
        assert torch.equal(model(x), raw)
        with model.scaled():
            assert torch.equal(model(x), raw)
        assert torch.equal(model(x), raw)
    assert torch.equal(model(x), raw * C)


def test_scaled_mode_ends_when_the_body_raises() -> None:
    x, model = points(), rescaled(energy_model())
    physical = model(x)
    with pytest.raises(ZeroDivisionError), model.scaled():
        _ = 1 / 0
    assert torch.equal(model(x), physical)


def test_forces_from_autograd_match_finite_differences_of_the_physical_energy() -> None:
    x, model, h = points(2).requires_grad_(), rescaled(energy_model()), 1e-5
    (gradient,) = torch.autograd.grad(model(x), x)
    for index in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=x.dtype)
        step[index] = h
        step = step.view_as(x)
        with torch.no_grad():
            difference = (model(x + step) - model(x - step)) / (2 * h)
        assert difference.item() == pytest.approx(gradient.flatten()[index].item(), rel=1e-6, abs=1e-8 * C)


def test_forces_that_the_model_derives_itself_scale_as_its_energy_does() -> None:
    x, model = points(), rescaled(EnergyAndForces().double())
    energy, forces, none = model(x.clone())
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0], x)
    assert none is None
    assert energy.item() == pytest.approx(C * model.scaled()(x)[0].item(), rel=1e-14)
    torch.testing.assert_close(forces, -gradient, rtol=1e-12, atol=0)


def test_pinn_residual_of_a_linear_equation_scales_by_c() -> None:
    x = points(7, 2).requires_grad_()
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def residual(u: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 1].sum(), x, create_graph=True)
        return first[:, 0] - 0.1 * second[:, 1]

    raw = residual(model(x))
    rescaled(model, 100.0)
    torch.testing.assert_close(residual(model(x)), 100 * raw, rtol=1e-12, atol=1e-12)


def test_second_derivatives_and_parameter_gradients_are_right() -> None:
    model = rescaled(energy_model(), 10.0)
    x = points(2).requires_grad_()
    assert torch.autograd.gradcheck(model, (x,))
    assert torch.autograd.gradgradcheck(model, (x,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_output_keeps_the_raw_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    model = rescaled(Returns(lambda x: x.to(dtype)), C)
    assert model(torch.full(shape, 0.01, dtype=dtype)).dtype == dtype


def test_half_precision_does_not_overflow_through_c() -> None:
    model = rescaled(nn.Identity(), C)
    value = torch.tensor([0.01], dtype=torch.float16)
    assert model(value).item() == pytest.approx(1e4, rel=1e-3)
    assert model.half().label_scale.item() == C
    assert model(value).item() == pytest.approx(1e4, rel=1e-3)


# --- which outputs ----------------------------------------------------------------------------------------------------


def test_default_of_a_tuple_is_every_floating_tensor() -> None:
    x = points()
    model = rescaled(Returns(lambda x: (x, x.argmax(), None, [1], 2 * x)))
    first, index, none, plain, second = model(x)
    torch.testing.assert_close((first, second), (C * x, 2 * C * x))
    assert (index.dtype, none, plain) == (torch.int64, None, [1])


def test_named_tuple_list_and_dataclass_keep_their_types() -> None:
    x = points()
    pair = rescaled(Returns(lambda x: Pair(x.sum(), torch.tensor(5))))(x)
    assert isinstance(pair, Pair)
    assert (pair.energy.item(), pair.count.item()) == (pytest.approx(C * x.sum().item()), 5)
    named = rescaled(Returns(lambda x: Pair(x.sum(), x)), outputs="energy")(x)
    assert torch.equal(named.count, x)
    assert isinstance(rescaled(Returns(lambda x: [x, x]))(x), list)
    prediction = rescaled(Returns(lambda x: Prediction(x.sum(), x)))(x)
    assert isinstance(prediction, Prediction)
    assert torch.equal(prediction.features, x)
    assert prediction.total_energy.item() == pytest.approx(C * x.sum().item())


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_default_of_a_mapping_is_what_its_names_say(kind: type[dict[str, Any]]) -> None:
    x = points()
    labels = ("energy", "node_forces", "totalEnergy", "stress", "u", "y", "F", "output", "prediction")
    others = ("features", "logits", "last_hidden_state", "energy_loss", "energy_mask", "x", "f", 3)
    model = rescaled(Returns(lambda x: kind([(name, x) for name in (*labels, *others)])))
    result = model(x)
    assert type(result) is kind
    assert list(result) == [*labels, *others]
    assert {name for name in result if torch.equal(result[name], x * C)} == set(labels)
    assert {name for name in result if torch.equal(result[name], x)} == set(others)


def test_the_model_s_own_container_is_not_changed() -> None:
    kept = {"energy": points(), "forces": [points()]}
    model = rescaled(Returns(lambda _: kept))
    for _ in range(2):
        assert torch.equal(model(points())["energy"], C * points())
        assert torch.equal(model(points())["forces"][0], C * points())
    assert torch.equal(kept["energy"], points())
    assert torch.equal(kept["forces"][0], points())


def test_chosen_outputs_are_the_only_ones_that_change() -> None:
    x = points()
    assert torch.equal(rescaled(Returns(lambda x: {"a": x, "b": x}), outputs=("b",))(x)["a"], x)
    assert torch.equal(rescaled(Returns(lambda x: {"a": x, "b": x}), outputs=("b",))(x)["b"], C * x)
    first, last = rescaled(Returns(lambda x: (x, x)), outputs=(-1,))(x)
    assert torch.equal(first, x)
    assert torch.equal(last, C * x)
    nested = rescaled(Returns(lambda x: (x, {"f": (x, None)})), outputs=(0, 1))(x)
    assert torch.equal(nested[1]["f"][0], C * x)


def test_mapping_that_is_a_dataclass_is_built_by_its_constructor() -> None:
    @dataclass
    class ModelOutput(OrderedDict):  # type: ignore[type-arg]  # the shape of transformers' outputs
        energy: Tensor | None = None
        hidden_states: tuple[Tensor, ...] | None = None

        def __post_init__(self) -> None:
            for name in ("energy", "hidden_states"):
                if getattr(self, name) is not None:
                    self[name] = getattr(self, name)

    x = points()
    result = rescaled(Returns(lambda x: ModelOutput(energy=x, hidden_states=(x,))))(x)
    assert torch.equal(result.energy, C * x)
    assert torch.equal(result["energy"], C * x)
    assert torch.equal(result.hidden_states[0], x)


@pytest.mark.parametrize(
    ("make", "outputs", "message"),
    [
        (lambda x: {"logits": x, "loss": x}, None, r"logits \(tensor float64\[5, 3\]\).*outputs="),
        (lambda x: {"energy": x}, ("forces",), r"no 'forces'; there: energy"),
        (lambda x: {"energy": x.long()}, None, "there: energy"),
        (lambda x: (x, x), (2,), "no 2; there: 0"),
        (lambda x: (x, x), ("energy",), "no 'energy'"),
        (lambda x: x, (0,), "returns one tensor"),
        (lambda x: x.long(), None, "no floating tensor"),
        (lambda _: None, None, "returns None"),
        (lambda _: (), None, "an empty tuple"),
        (lambda _: object(), None, "a object"),
        (lambda x: (x, (x, x)), None, "output 1 is a tuple.*outputs="),
    ],
)
def test_output_without_the_labels_says_what_is_there(make: Any, outputs: Any, message: str) -> None:
    model = rescaled(Returns(make), outputs=outputs)
    with pytest.raises(BadInput, match=message):
        model(points())
    model.scaled()(points())


# --- C in the model's state -------------------------------------------------------------------------------------------


def test_checkpoints_from_before_and_after_load_strictly() -> None:
    x, old = points(), energy_model().state_dict()
    model = rescaled(energy_model(), 1e3)
    new = model.state_dict()
    assert set(new) == {*old, "label_scale"}
    other = rescaled(Energy().double().eval(), C)
    other.load_state_dict(old, strict=True)
    assert other.label_scale.item() == C
    other.load_state_dict(new, strict=True)
    assert other.label_scale.item() == 1e3
    assert torch.equal(other(x), model(x))
    parent = nn.ModuleDict({"model": other})
    parent.load_state_dict({f"model.{key}": value for key, value in old.items()}, strict=True)
    with pytest.raises(RuntimeError, match=r"Missing key.*trunk\.0\.weight"):
        other.load_state_dict({key: value for key, value in old.items() if key != "trunk.0.weight"})
    assert "label_scale" not in old


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_checkpoint_with_an_impossible_c_does_not_load(value: float) -> None:
    model = rescaled(energy_model())
    state = {**model.state_dict(), "label_scale": torch.tensor(value)}
    with pytest.raises(RuntimeError, match="label_scale: the label scale must be one positive finite number"):
        model.load_state_dict(state)
    assert model.label_scale.item() == C


def saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved])
def test_copies_and_saved_models_return_the_same(again: Any) -> None:
    x, model = points(), rescaled(energy_model())
    model.label_scale.fill_(1e3)
    with model.scaled():
        copied = again(model)
    assert type(copied) is type(model)
    assert isinstance(copied, Energy)
    assert original_class(copied) is Energy
    assert torch.equal(copied(x), model(x))
    assert torch.equal(copied.scaled()(x), model.scaled()(x))


def test_moving_keeps_c_and_changes_the_weights() -> None:
    model = rescaled(energy_model())
    physical = model(points())
    assert model.float()(points(dtype=torch.float32)).dtype == torch.float32
    assert model.bfloat16().half().double().label_scale.dtype == torch.float64
    assert model.label_scale.item() == C
    assert model(points()).item() == pytest.approx(physical.item(), rel=0.1)
    assert model.to("meta").label_scale.is_meta
    model.to_empty(device="cpu")
    assert model.label_scale.item() == C
    parent = nn.ModuleList([rescaled(energy_model())]).half()
    assert parent[0].label_scale.item() == C
    assert parent[0].trunk[0].weight.dtype == torch.float16


def test_train_and_eval_work_as_before() -> None:
    model = rescaled(energy_model())
    model.train()
    torch.manual_seed(0)
    first = model(points())
    torch.manual_seed(0)
    assert torch.equal(first, model.scaled()(points()) * C)
    model.eval()
    assert not torch.equal(first, model(points()))


def test_hooks_stay_and_see_what_the_call_returns() -> None:
    model, seen = energy_model(), []
    model.register_forward_hook(lambda _module, _args, output: seen.append(output))
    rescaled(model)
    output = model(points())
    raw = model.scaled()(points())
    assert [torch.equal(a, b) for a, b in zip(seen, [output, raw], strict=True)] == [True, True]


def test_integer_buffers_say_nothing_about_the_range_of_c() -> None:
    model = rescaled(nn.BatchNorm1d(3).double().eval(), 1e40)
    torch.testing.assert_close(model(points()), points() * 1e40 / (1 + 1e-5) ** 0.5)


def test_c_keeps_float64_precision() -> None:
    assert rescaled(energy_model(), 0.1).label_scale.item() == 0.1
    assert type(rescaled(energy_model(), 0.1))().label_scale.item() == 0.1


@pytest.mark.parametrize("scale", [1000, np.float32(1e3), np.int64(1000), np.array(1e3), torch.tensor(1e3)])
def test_scale_may_be_any_kind_of_number(scale: Any) -> None:
    assert rescaled(energy_model(), scale).label_scale.item() == 1e3


def test_undo_gives_back_class_keys_and_values() -> None:
    model = energy_model()
    raw, keys = model(points()), set(model.state_dict())
    undo = rescale_labels(model, C)
    undo()
    assert type(model) is Energy
    assert set(model.state_dict()) == keys
    assert torch.equal(model(points()), raw)
    rescaled(model)


def test_instance_that_the_class_makes_of_itself_is_rescaled() -> None:
    model = rescaled(energy_model())
    again = type(model)().double().eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(points()), model(points()))


def test_class_that_moves_itself_while_it_is_made_can_be_made_again() -> None:
    class Doubles(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 1)
            self.double()

    assert type(rescaled(Doubles()))().label_scale.item() == C


def test_slice_of_a_rescaled_sequential_is_not_rescaled() -> None:
    x = points()
    model = rescaled(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double())
    head = model[:2]
    assert type(head) is nn.Sequential
    assert torch.equal(head(x), model[1](model[0](x)))
    assert set(head.state_dict()) == {"0.weight", "0.bias"}


# --- compilers and exporters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.sum(),
        lambda x: (x, x.sum(), None),
        lambda x: {"energy": x, "features": x},
        lambda x: Pair(x, x),
        lambda x: Prediction(x, x),
    ],
)
def test_compiles_as_one_graph_in_both_modes(make: Any) -> None:
    torch.compiler.reset()
    model, x = rescaled(Returns(make)), points()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    leaves = torch.utils._pytree.tree_leaves

    def values(output: Any) -> list[Any]:
        return leaves(vars(output) if isinstance(output, Prediction) else output)

    for kwargs in ({}, {"scaled": True}):
        pairs = zip(values(compiled(x, **kwargs)), values(model(x, **kwargs)), strict=True)
        assert all(a is b or torch.equal(a, b) for a, b in pairs)
    with model.scaled():
        assert torch.equal(values(compiled(x))[0], values(model(x))[0])


@pytest.mark.filterwarnings("ignore:.*isinstance.*treespec:FutureWarning")
def test_exports_with_its_own_parameter_names() -> None:
    model, x = rescaled(energy_model()), points()
    dynamic = {"x": {0: torch.export.Dim("n", min=2)}, "shift": None}
    program = torch.export.export(model, (x,), {"shift": 1.0}, dynamic_shapes=dynamic)
    assert "label_scale" in program.state_dict
    more = points(9)
    torch.testing.assert_close(program.module()(more, shift=1.0), model(more, shift=1.0))


def test_signature_is_the_model_s_own_and_scaled() -> None:
    assert str(inspect.signature(rescaled(energy_model()).forward)) == (
        "(x: 'Tensor', shift: 'float' = 0.0, *, scaled: 'bool' = False) -> 'Tensor'"
    )

    class Anything(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return args[0] * kwargs["by"]

    model, x = rescaled(Anything()), points()
    assert list(inspect.signature(model.forward).parameters) == ["args", "scaled", "kwargs"]
    assert torch.equal(model(x, by=2), 2 * C * x)
    assert torch.equal(model(x, by=2, scaled=True), 2 * x)


def test_symbolic_trace_sees_the_model_s_own_arguments() -> None:
    model, x = rescaled(nn.Linear(3, 1).double()), points()
    traced = torch.fx.Tracer().trace(model)
    assert [node.name for node in traced.nodes if node.op == "placeholder"] == ["input_1"]
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def test_symbolic_trace_of_several_outputs_fails_instead_of_guessing() -> None:
    with pytest.raises(BadInput, match="Proxy"):
        torch.fx.symbolic_trace(rescaled(Returns(lambda x: (x, x.argmax()))))


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0, 0.0, -1e6, float("nan"), float("inf"), "1e6", None, True, 1j, [1.0], 10**400])
def test_scale_that_is_no_positive_number_is_bad_input(scale: Any) -> None:
    model = energy_model()
    with pytest.raises(BadInput, match="label scale C must be"):
        rescale_labels(model, scale)
    with pytest.raises(BadInput, match="label scale C must be"):
        rescale_graph(torch.fx.symbolic_trace(model), scale)
    assert type(model) is Energy


@pytest.mark.parametrize("outputs", [(), [], 1.5, (None,), (True,), {}])
def test_selection_that_names_nothing_is_bad_input(outputs: Any) -> None:
    with pytest.raises(BadInput, match="outputs must be positions or names"):
        rescale_labels(energy_model(), C, outputs)


def test_scale_beyond_the_model_s_dtype_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"C=1e\+40 does not fit float32, the dtype of trunk.0.weight"):
        rescale_labels(Energy(), 1e40)
    with pytest.raises(BadInput, match="does not fit float16"):
        rescale_graph(torch.fx.symbolic_trace(nn.Linear(3, 1).half()), 1e6)
    rescale_labels(energy_model(), 1e40)


def test_second_rescale_is_refused_with_the_first_c() -> None:
    model = rescaled(energy_model(), 1e3)
    with pytest.raises(Refused, match=r"the model is already rescaled by C=1000"):
        rescale_labels(model, 1e3)
    with pytest.raises(Refused, match=r"its part '0' is already rescaled by C=1000"):
        rescale_labels(nn.Sequential(model), 1e3)
    graph = torch.fx.symbolic_trace(nn.Linear(3, 1))
    rescale_graph(graph, 10.0)
    with pytest.raises(Refused, match="already rescaled by C=10"):
        rescale_graph(graph, 10.0)
    with pytest.raises(Refused, match="its part 'child' is already rescaled by C=10"):
        rescale_labels(nn.ModuleDict({"child": graph}), 10.0)
    with pytest.raises(Refused, match="already rescaled"):
        rescale_labels(copy.deepcopy(model), 1e3)


class HasScaled(nn.Linear):
    def scaled(self) -> None: ...


class TakesScaled(nn.Linear):
    def forward(self, x: Tensor, *, scaled: bool = True) -> Tensor:
        return super().forward(x) * scaled


def graph_with_buffer() -> nn.Module:
    module = torch.fx.symbolic_trace(nn.Linear(3, 1))
    module.register_buffer("label_scale", torch.ones(()))
    return module


def with_buffer() -> nn.Module:
    module = nn.Linear(3, 1)
    module.register_buffer("label_scale", torch.ones(()))
    return module


def with_patched_forward() -> nn.Module:
    module = nn.Linear(3, 1)
    module.forward = lambda x: x  # type: ignore[method-assign]
    return module


class PicklesItself(nn.Linear):
    def __reduce__(self) -> Any:
        return PicklesItself, (3, 1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (HasScaled(3, 1), "member 'scaled'"),
        (nn.ModuleDict({"scaled": nn.Tanh()}), "member 'scaled'"),
        (TakesScaled(3, 1), "parameter 'scaled'"),
        (with_buffer(), "member 'label_scale'"),
        (with_patched_forward(), "forward in the instance"),
        (PicklesItself(3, 1), "could not be saved"),
        (torch.fx.symbolic_trace(nn.Linear(3, 1)), "use rescale_graph"),
        (torch.compile(nn.Linear(3, 1), backend="eager"), "rescale the original model first"),
    ],
)
def test_model_that_cannot_be_rescaled_is_refused_with_the_reason_and_left_alone(model: Any, reason: str) -> None:
    before, state = type(model), set(model.state_dict())
    with pytest.raises(Refused, match=reason):
        rescale_labels(model, C)
    assert type(model) is before
    assert set(model.state_dict()) == state


def test_graph_with_a_member_of_that_name_is_refused() -> None:
    with pytest.raises(Refused, match="member 'label_scale' already"):
        rescale_graph(graph_with_buffer(), C)


def test_torchscript_is_refused() -> None:
    with pytest.raises(Refused, match="TorchScript"):
        rescale_labels(torch.jit.trace(nn.Linear(3, 1), torch.ones(2, 3)), C)


# --- graphs -----------------------------------------------------------------------------------------------------------


class List(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return [x, (x,)]


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.sum(), x.argmax(), x, x


class Dict(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"energy": x.sum(), "features": x}


def test_graph_multiplies_its_output_and_undo_restores_it() -> None:
    x, model = points(), energy_model()
    graph = torch.fx.symbolic_trace(model)
    code, raw = graph.code, graph(x)
    undo = rescale_graph(graph, C)
    assert torch.equal(graph(x), C * raw)
    assert graph.float()(points(dtype=torch.float32)).dtype == torch.float32
    assert [node.target for node in graph.graph.nodes][-4:-1] == ["label_scale", "to", torch.mul]
    graph.double()
    undo()
    assert graph.code == code
    assert torch.equal(graph(x), model(x))
    assert set(graph.state_dict()) == set(model.state_dict())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))])
def test_copied_graph_returns_the_same_and_knows_that_it_is_rescaled(again: Any) -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 1), nn.Tanh()).double())
    rescale_graph(graph, C)
    copied = again(graph)
    assert torch.equal(copied(points()), graph(points()))
    with pytest.raises(Refused, match="already rescaled by C=1e"):
        rescale_graph(copied, 10.0)


def test_graph_of_nested_outputs_keeps_their_structure() -> None:
    x, graph = points(), torch.fx.symbolic_trace(List())
    rescale_graph(graph, C, outputs=(1,))
    first, (second,) = graph(x)
    assert torch.equal(first, x)
    assert torch.equal(second, C * x)


def test_graph_of_a_dict_scales_what_its_names_say() -> None:
    x, graph = points(), torch.fx.symbolic_trace(Dict())
    rescale_graph(graph, C)
    assert torch.equal(graph(x)["energy"], C * x.sum())
    assert torch.equal(graph(x)["features"], x)


def test_graph_of_a_tuple_needs_a_choice_or_example_values() -> None:
    x, graph = points(), torch.fx.symbolic_trace(Tuple())
    code = graph.code
    with pytest.raises(BadInput, match="does not say which are floating"):
        rescale_graph(graph, C)
    with pytest.raises(BadInput, match="no 7"):
        rescale_graph(graph, C, outputs=(7,))
    assert graph.code == code
    assert not list(graph.buffers())
    undo = rescale_graph(graph, C, outputs=(0,))
    assert [torch.equal(a, b) for a, b in zip(graph(x), (C * x.sum(), x.argmax(), x, x), strict=True)] == [True] * 4
    undo()
    torch.fx.passes.shape_prop.ShapeProp(graph).propagate(x)
    rescale_graph(graph, C)
    assert torch.equal(graph(x)[0], C * x.sum())
    assert torch.equal(graph(x)[1], x.argmax())
    assert torch.equal(graph(x)[2], graph(x)[3])
    assert len([node for node in graph.graph.nodes if node.target is torch.mul]) == 2


def test_graph_that_returns_a_module_s_tuple_takes_it_apart() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTM(3, 2).double()

        def forward(self, x: Tensor) -> Any:
            return self.inner(x)

    x, graph = points(), torch.fx.symbolic_trace(Outer())
    code, (raw, (hidden, _)) = graph.code, graph(x)
    torch.fx.passes.shape_prop.ShapeProp(graph).propagate(x)
    with pytest.raises(BadInput, match="output 1 is"):
        rescale_graph(graph, C)
    undo = rescale_graph(graph, C, outputs=(0,))
    result, (same, _) = graph(x)
    assert torch.equal(result, C * raw)
    assert torch.equal(same, hidden)
    undo()
    assert graph.code == code


def test_exported_graph_keeps_its_output_names() -> None:
    x = points()
    graph = torch.export.export(Dict(), (x,)).module()
    rescale_graph(graph, C)
    assert torch.equal(graph(x)["energy"], C * x.sum())
    assert torch.equal(graph(x)["features"], x)
