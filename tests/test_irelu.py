"""IReLU: values, derivatives of every order, and one node for everybody who looks from outside."""

# No postponed annotations here: torch.fx cannot pickle the graph of a forward that has them.
import copy
import inspect
import io
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dcsurgery.activations import IReLU, irelu
from dcsurgery.errors import BadInput

# torch itself scripts functions when forward-mode differentiation is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Away from 0, where the second derivative jumps.
POINTS = torch.tensor([-3.0, -0.5, -1e-3, 1e-3, 0.7, 2.0, 5.0], dtype=torch.float64)


def grad(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


def derivatives(f: Callable[[Tensor], Tensor], x: Tensor, order: int = 3) -> list[Tensor]:
    """f(x), f'(x), f''(x), … by repeated reverse mode."""
    x = x.clone().requires_grad_()
    found = [f(x)]
    for _ in range(order):
        # + 0 x keeps a graph where the derivative is constant
        found.append(grad(found[-1] + 0 * x, x))
    return found


def expected(x: Tensor) -> list[Tensor]:
    """The closed forms, with comparisons and no torch activation."""
    step = (x > 0).to(x.dtype)
    return [0.5 * x * x * step, x * step, step, torch.zeros_like(x)]


class Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Marked(torch.Tensor):
    """A subclass with torch's default behaviour."""


class Watched(torch.Tensor):
    """A subclass that looks at operators, below autograd."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    seen: ClassVar[list[str]] = []

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        cls.seen.append(func.__name__)
        with torch._C._DisableTorchDispatch():
            return func(*args, **(kwargs or {}))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, 4)
        self.act = IReLU()
        self.outer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(irelu(self.act(self.inner(x))))


# Values


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_special_values(dtype: torch.dtype, device: str, requires_grad: bool) -> None:
    x = torch.tensor([-math.inf, -2.0, -0.0, 0.0, 3.0, math.inf, math.nan], dtype=dtype, device=device)
    y = irelu(x.requires_grad_(requires_grad)).detach()
    assert y.dtype == dtype and y.device == x.device
    assert y[:-1].tolist() == [0.0, 0.0, 0.0, 0.0, 4.5, math.inf]
    assert y[-1].isnan()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_at_special_values(dtype: torch.dtype, device: str) -> None:
    x = torch.tensor([-math.inf, -2.0, 0.0, 3.0, math.inf, math.nan], dtype=dtype, device=device, requires_grad=True)
    irelu(x).sum().backward()
    assert x.grad is not None and x.grad.dtype == dtype
    assert x.grad[:-1].tolist() == [0.0, 0.0, 0.0, 3.0, math.inf]
    assert x.grad[-1].isnan()


@pytest.mark.parametrize("dtype", FLOATS)
def test_both_forms_are_equal_bit_for_bit(dtype: torch.dtype) -> None:
    x = torch.cat([torch.randn(4096) * scale for scale in (1e-3, 1.0, 30.0)]).to(dtype)
    fast = irelu(x.clone().requires_grad_())
    assert fast.grad_fn is not None and "Mul" not in fast.grad_fn.name()
    assert torch.equal(fast.detach(), irelu(x))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_overflows_only_where_the_result_does(requires_grad: bool) -> None:
    x = torch.tensor([300.0, 360.0, 363.0], dtype=torch.float16, requires_grad=requires_grad)  # 300² > 65504
    assert irelu(x).tolist() == [44992.0, 64800.0, math.inf]


@pytest.mark.parametrize("make", [
    lambda x: x.t(),
    lambda x: x[:, ::2],
    lambda x: x[:0],
    lambda x: x[1, 2],
    lambda x: x[0, :1].expand(5),
], ids=["transposed", "strided", "empty", "0-dim", "expanded"])  # fmt: skip
def test_any_layout(make: Callable[[Tensor], Tensor]) -> None:
    view = make(torch.linspace(-2, 3, 24, dtype=torch.float64).reshape(4, 6))
    for order, (found, wanted) in enumerate(zip(derivatives(irelu, view), expected(view), strict=True)):
        assert found.shape == view.shape, order
        assert torch.equal(found, wanted), order


def test_tensor_subclass_and_parameter() -> None:
    x = POINTS.as_subclass(Marked).requires_grad_()
    y = irelu(x)
    assert type(y) is Marked
    assert torch.equal(grad(y, x).as_subclass(Tensor), expected(POINTS)[1])
    assert type(irelu(nn.Parameter(POINTS))) is Tensor


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensor() -> None:
    nested = torch.nested.nested_tensor([POINTS, POINTS[:2]], requires_grad=True)
    assert torch.equal(irelu(nested).unbind()[1], expected(POINTS[:2])[0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_other_dtypes_are_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(BadInput, match=f"irelu takes real floating-point numbers, got dtype {dtype}"):
        IReLU()(torch.ones(2, dtype=dtype))


def test_non_tensor_is_refused() -> None:
    with pytest.raises(BadInput, match="takes a tensor, got float"):
        irelu(1.0)  # type: ignore[arg-type]


# Derivatives


def test_derivatives_up_to_the_third_match_the_closed_forms() -> None:
    for found, wanted in zip(derivatives(irelu, POINTS), expected(POINTS), strict=True):
        assert torch.equal(found, wanted)


def test_third_derivative_is_zero_without_a_helping_graph() -> None:
    x = POINTS.clone().requires_grad_()
    second = grad(grad(irelu(x) ** 2, x), x)  # of x⁴/4 where x > 0
    assert torch.allclose(grad(second, x), torch.where(POINTS > 0, 6 * POINTS, 0.0), rtol=1e-14)


@pytest.mark.parametrize("module", [IReLU(), IReLU(inplace=True)], ids=repr)
def test_gradcheck_to_second_order(module: nn.Module) -> None:
    x = POINTS.clone().requires_grad_()
    f = lambda t: module(t * 1.0)
    assert gradcheck(f, x, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, x, check_batched_grad=True)
    assert gradgradcheck(lambda t: grad(module(t * 1.0), t) * t, x)


def test_forward_over_reverse() -> None:
    x = POINTS.clone().requires_grad_()
    y = irelu(x)  # the fast form, before any dual level is entered
    with forward_ad.dual_level():
        g = forward_ad.make_dual(torch.ones_like(x), torch.full_like(x, 2.0))
        (pulled,) = torch.autograd.grad(y, x, g)
        assert torch.equal(forward_ad.unpack_dual(pulled).tangent, 2 * expected(POINTS)[1])


def test_batched_gradients_of_the_fast_form() -> None:
    jacobian = torch.autograd.functional.jacobian(irelu, POINTS, vectorize=True)
    assert torch.equal(jacobian, torch.diag(expected(POINTS)[1]))
    hessian = torch.autograd.functional.hessian(lambda x: irelu(x).sum(), POINTS, vectorize=True)
    assert torch.equal(hessian, torch.diag(expected(POINTS)[2]))


def test_function_transforms() -> None:
    value, first, second, third = expected(POINTS)
    total = lambda x: irelu(x).sum()
    assert torch.equal(torch.func.grad(total)(POINTS), first)
    assert torch.equal(torch.func.hessian(total)(POINTS), torch.diag(second))
    assert torch.equal(torch.func.vmap(torch.func.grad(torch.func.grad(torch.func.grad(irelu))))(POINTS), third)
    dual = torch.func.jvp(irelu, (POINTS,), (2 * torch.ones_like(POINTS),))
    assert torch.equal(dual[0], value) and torch.equal(dual[1], 2 * first)
    assert torch.equal(torch.func.vmap(irelu)(POINTS.reshape(1, -1)), value.reshape(1, -1))


def test_only_inputs_are_kept_for_backward() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x, g = torch.randn(100, requires_grad=True), torch.randn(100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        (first,) = torch.autograd.grad(irelu(x), x, g, create_graph=True)
    assert first.requires_grad
    assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr(), g.data_ptr()}


def test_inplace_overwrites_its_input_and_refuses_leaves() -> None:
    x = POINTS.clone().requires_grad_()
    work = x * 1.0
    y = IReLU(inplace=True)(work)
    assert y is work
    assert torch.equal(work.detach(), expected(POINTS)[0])
    assert torch.equal(grad(y, x), expected(POINTS)[1])
    with pytest.raises(RuntimeError, match="leaf Variable"):  # as nn.ReLU(inplace=True) does
        IReLU(inplace=True)(x)


# Seen from outside


def test_fx_sees_one_call() -> None:
    traced = torch.fx.symbolic_trace(Net())
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"] == [irelu, irelu]
    x = torch.randn(5, 3)
    assert torch.equal(traced(x), Net()(x))
    assert "dcsurgery_activations_irelu(" in traced.code
    again = pickle.loads(pickle.dumps(traced))
    assert torch.equal(again(x), Net()(x))


def test_torch_function_mode_sees_one_call() -> None:
    x = POINTS.clone().requires_grad_()
    with Recorder() as recorder:
        y = irelu(x)
    assert recorder.seen == [irelu]
    assert torch.equal(y.detach(), expected(POINTS)[0])


def test_operator_watching_subclass_sees_plain_operators() -> None:
    x = POINTS.clone().as_subclass(Watched).requires_grad_()
    Watched.seen.clear()
    irelu(x)
    assert Watched.seen == ["relu.default"]


def test_dispatch_mode_sees_plain_operators() -> None:
    with Operators() as operators:
        irelu(POINTS.clone().requires_grad_())
    assert [name for name in operators.seen if name not in ("clone.default", "detach.default")] == [
        "relu.default",
        "mul.Tensor",
        "mul.Tensor",
    ]


def same_as_eager(f: Callable[[Tensor], Tensor], net: nn.Module) -> None:
    """Values and the gradients of value² + |slope|² equal those of ``net`` on another batch size."""
    x = torch.randn(7, 3)
    results = []
    for g in (f, net):
        net.zero_grad()
        inputs = x.clone().requires_grad_()
        y = g(inputs)
        (y.square().sum() + grad(y, inputs).square().sum()).backward()
        results.append([y.detach(), inputs.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
    assert len(results[0]) == 6
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_make_fx_can_be_differentiated_twice() -> None:
    net = Net()
    trace = make_fx(net, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    same_as_eager(trace(torch.randn(5, 3, requires_grad=True)), net)


def test_make_fx_of_a_derivative() -> None:
    f = lambda x: grad(grad(irelu(x), x), x)
    x = POINTS.clone().requires_grad_()
    assert torch.equal(make_fx(f)(x)(x), expected(POINTS)[2])


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    net = Net()
    program = torch.export.export(
        net, (torch.randn(5, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=strict
    )
    exported = program.module()
    for name, parameter in net.named_parameters():
        assert torch.equal(exported.get_parameter(name), parameter)
    x = torch.randn(7, 3, requires_grad=True)
    assert torch.equal(exported(x), net(x))
    assert torch.equal(grad(grad(exported(x), x)[:, 0], x), grad(grad(net(x), x)[:, 0], x))


def test_compile_without_graph_breaks() -> None:
    net = Net()
    torch._dynamo.reset()
    same_as_eager(torch.compile(net, backend="eager", fullgraph=True), net)
    # AOTAutograd has no double backward: value and gradient
    x = torch.randn(5, 3, requires_grad=True)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, net(x))
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), x)[0], grad(net(x), x).detach())


def test_torchscript() -> None:
    net, x = Net(), torch.randn(5, 3)
    same_as_eager(torch.jit.trace(net, (x,)), net)
    same_as_eager(torch.jit.script(net), net)
    for module in (IReLU(), IReLU(inplace=True)):
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(module), file)
        file.seek(0)
        assert torch.equal(torch.jit.load(file)(x.clone()), irelu(x))
    assert torch.equal(torch.jit.script(irelu)(x), irelu(x))


@pytest.mark.parametrize("module", [IReLU(), IReLU(inplace=True)], ids=repr)
def test_pickles_by_its_public_name_and_has_no_state(module: IReLU) -> None:
    data = pickle.dumps([module, irelu])
    assert b"integrated_relu" not in data
    again, function = pickle.loads(data)
    assert type(again) is IReLU and again.inplace == module.inplace and function is irelu
    assert copy.deepcopy(module).inplace == module.inplace
    assert not module.state_dict()


def test_repr() -> None:
    assert repr(IReLU()) == "IReLU()"
    assert repr(IReLU(inplace=True)) == "IReLU(inplace=True)"
    assert "½ x²" in (irelu.__doc__ or "") and "irelu" in inspect.getsource(irelu)
