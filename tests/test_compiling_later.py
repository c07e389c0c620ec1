"""A GraphModule that is compiled later is, to whoever uses it, one that was compiled at once."""

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from dcsurgery.compiling_later import LEFT, compile_later, copies_compile_later, graph_module
from dcsurgery.copying import copied

X = torch.linspace(-2, 2, 12).reshape(4, 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("shift", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.layer(x)) + self.shift


class Own(fx.GraphModule):
    """A GraphModule of a user's own class."""


def traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return fx.symbolic_trace(Net())


def later() -> fx.GraphModule:
    module = traced()
    compile_later(module)
    return module


def is_compiled(module: nn.Module) -> bool:
    return "_code" in vars(module)


def silu_to_tanh(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        if node.target is F.silu:
            node.target, node.kwargs = torch.tanh, {}


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda m: m(X), id="call"),
        pytest.param(lambda m: m.forward(X), id="forward"),
        pytest.param(lambda m: type(m).forward(m, X), id="forward of its class"),
        pytest.param(lambda m: m.code, id="code"),
        pytest.param(lambda m: m._code, id="_code"),
        pytest.param(str, id="str"),
        pytest.param(lambda m: m.recompile().src, id="recompile"),
        pytest.param(lambda m: str(inspect.signature(m.forward)), id="signature"),
        pytest.param(lambda m: fx.symbolic_trace(m).code, id="symbolic_trace"),
        pytest.param(lambda m: torch.jit.trace(m, X)(X), id="jit.trace"),
        pytest.param(lambda m: torch.func.functional_call(m, dict(m.named_parameters()), (X,)), id="functional_call"),
        pytest.param(lambda m: setattr(m, "graph", m.graph) or m(X), id="graph set"),
        pytest.param(lambda m: nn.Sequential(m)(X), id="inside another"),
        pytest.param(lambda m: torch.compile(nn.Sequential(m), backend="eager", fullgraph=True)(X), id="torch.compile"),
        pytest.param(lambda m: torch.export.export(nn.Sequential(m), (X,)).module()(X), id="export"),
        pytest.param(lambda m: torch.jit.script(nn.Sequential(m))(X), id="jit.script"),
    ],
)
def test_every_use_is_that_of_a_module_compiled_at_once(use: Callable[[fx.GraphModule], Any]) -> None:
    module = later()
    assert not is_compiled(module)
    found, expected = use(module), use(traced())
    assert is_compiled(module)
    assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected
    left = vars(type(module)).keys() - vars(type(traced())).keys()
    assert left <= {*LEFT, "__annotations__"}  # no method; jit.script adds annotations


def test_a_graph_that_was_edited_meanwhile_is_the_one_that_runs() -> None:
    module = traced()
    silu_to_tanh(module)
    assert torch.equal(module(X), traced()(X))  # torch.fx: the old code, until it is compiled
    compile_later(module)
    assert torch.equal(module(X), torch.tanh(module.layer(X)) + module.shift)
    assert "torch.tanh" in module.code


@pytest.mark.parametrize("save", [torch.save, pickle.dump], ids=["torch.save", "pickle"])
def test_a_pickled_module_has_the_code_of_its_graph_now(save: Callable[[Any, Any], None]) -> None:
    module = traced()
    silu_to_tanh(module)
    compile_later(module)
    file = io.BytesIO()
    save(module, file)
    assert is_compiled(module)
    assert "recompile" not in vars(type(module))
    file.seek(0)
    again = torch.load(file, weights_only=False) if save is torch.save else pickle.load(file)
    assert torch.equal(again(X), torch.tanh(module.layer(X)) + module.shift)
    assert "torch.tanh(layer)" in again.code


def test_what_is_pickled_is_what_torch_pickles() -> None:
    (function, (found, imports)), (expected_function, (expected, expected_imports)) = (
        module.__reduce__() for module in (later(), traced())
    )
    assert (function, imports) == (expected_function, expected_imports)
    assert found.keys() == expected.keys()
    assert found["_code"] == expected["_code"]


def test_copies_are_compiled_when_they_run_and_equal_ordinary_copies() -> None:
    model = nn.Sequential(traced(), nn.Sequential(traced()))
    found, expected = copied(model), copy.deepcopy(model)
    assert [is_compiled(m) for m in found.modules() if isinstance(m, fx.GraphModule)] == [False, False]
    assert torch.equal(found(X), expected(X))
    assert torch.equal(found(X), model(X))
    assert found.state_dict().keys() == model.state_dict().keys()
    assert found[0].layer.weight is not model[0].layer.weight
    for module in model.modules():
        assert "_deepcopy_init" not in vars(type(module))


def test_a_copy_of_a_module_that_is_not_compiled_yet() -> None:
    module = later()
    first, second = copied(module), copy.deepcopy(module)
    assert not is_compiled(module)
    assert torch.equal(first(X), traced()(X))
    assert torch.equal(second(X), traced()(X))


def test_the_way_back_is_taken_when_a_copy_fails() -> None:
    module = traced()

    class Uncopied:
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise RuntimeError("no copies")

    module.held = Uncopied()
    with pytest.raises(RuntimeError, match="no copies"), copies_compile_later(module):
        copy.deepcopy(module)
    assert "_deepcopy_init" not in vars(type(module))


def test_members_that_somebody_has_kept_still_work() -> None:
    module = later()
    recompile, reduce = module.recompile, module.__reduce__
    assert recompile().src == recompile().src == traced().code
    assert reduce()[1][0]["_code"] == traced().code
    assert fx.GraphModule.recompile is not None
    assert torch.equal(module(X), traced()(X))


def test_the_code_is_there_though_somebody_took_away_what_a_run_left() -> None:
    module = later()
    before = set(vars(module))
    expected = module(X)
    for name in vars(module).keys() - before:
        del vars(module)[name]
    assert module.code == traced().code
    assert torch.equal(module(X), expected)
    assert not hasattr(module, "_in_spec")


def test_hooks_run_once_on_the_first_call() -> None:
    module, calls = later(), []
    module.register_forward_hook(lambda *_: calls.append("forward"))
    module(X)
    module(X)
    assert calls == ["forward", "forward"]


def test_compiling_a_module_compiles_those_inside() -> None:
    inner = later()
    outer = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3)))
    outer.add_module("inner", inner)
    outer.recompile()
    assert is_compiled(inner)
    assert torch.equal(inner(X), traced()(X))
    assert vars(type(inner)).keys() - LEFT <= vars(type(traced())).keys()


def test_nested_inputs_keep_their_structure() -> None:
    class Nested(nn.Module):
        def forward(self, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"y": F.silu(x["a"]) + x["b"]}

    module = fx.symbolic_trace(Nested(), concrete_args={"x": {"a": fx.PH, "b": fx.PH}})
    expected = module({"a": X, "b": X})
    found = copied(module)
    assert not is_compiled(found)
    assert found._in_spec == module._in_spec
    assert torch.equal(copied(module)({"a": X, "b": X})["y"], expected["y"])


def test_a_class_of_its_own_is_compiled_at_once() -> None:
    module = Own(Net(), traced().graph)
    silu_to_tanh(module)
    compile_later(module)
    assert is_compiled(module)
    assert torch.equal(module(X), torch.tanh(module.layer(X)) + module.shift)
    with copies_compile_later(module):
        assert is_compiled(copy.deepcopy(module))


def test_a_made_module_is_the_one_that_torch_makes() -> None:
    root = Net()
    found, expected = graph_module(root, traced().graph, "Named"), fx.GraphModule(root, traced().graph, "Named")
    assert not is_compiled(found)
    assert type(found).__name__ == type(expected).__name__ == "Named"
    assert vars(found).keys() <= vars(expected).keys()
    assert torch.equal(found(X), expected(X))
    assert vars(found).keys() == vars(expected).keys()


def test_a_wrong_input_raises_what_it_raised() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        later()(torch.zeros(2, 5))
    with pytest.raises(TypeError, match="forward"):
        later()()
