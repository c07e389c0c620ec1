"""Second and third derivatives of fields with respect to coordinates, as a PDE residual takes them, against jets.

A residual differentiates backward, once per order. A jet goes forward: it carries the Taylor coefficients of the
coordinates along a line through the model. Nothing is common to the two but the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dcsurgery.checks.failing import first_line, raise_if_memory
from dcsurgery.checks.functional import Function, in_float64
from dcsurgery.checks.outputs import tensors_of
from dcsurgery.report import Check
from dcsurgery.seeding import seeded

__all__ = ["check_jets"]

NAME = "PDE order"
LIMIT = 1e-9
_BY_DIFFERENCES = 1e-5  # where the model cannot be differentiated forward
_STEP = 1e-5
_MOST = 4  # space and time: more columns are features, not coordinates
_POINTS = 16

_Field = Callable[[Tensor], Tensor]  # (points, coordinates) -> (points,)


def check_jets(edited: nn.Module, example_inputs: Any, original: nn.Module | None = None, order: int = 3) -> Check:
    """Compare derivatives along a line, taken backward, with forward-mode ones, for each order up to ``order``.

    What the original fails as well is not the edit's doing: torch's own third derivative of layer_norm, for instance.
    """
    check = _checked(edited, example_inputs, order)
    if check.status == "fail" and original is not None:
        before = _checked(original, example_inputs, order)
        if before.status == "fail":
            return replace(before, status="skip", reason=f"the original fails it, too: {before.reason}")
    return check


def _checked(edited: nn.Module, example_inputs: Any, order: int) -> Check:
    try:
        function = Function.of(edited, example_inputs)
        points, reason = _points(function)
        if points is None:
            return Check(NAME, "skip", reason=reason)
        with in_float64():
            return _compare(_projected(function.model), points[:_POINTS], order)
    except Exception as error:  # noqa: BLE001 - a model may refuse float64 in any way
        raise_if_memory(error)
        return Check(NAME, "skip", reason=f"the model does not run in float64 ({first_line(error)})")


def _points(function: Function) -> tuple[Tensor | None, str]:
    """Return the coordinates that a model maps to a field, or why it is no such map."""
    args, kwargs = function.arguments()
    if len(pytree.tree_leaves((args, kwargs))) != 1 or len(function.inputs) != 1 or kwargs:
        return None, "it has other arguments than coordinates"
    (points,) = (leaf.detach().clone() for leaf in function.inputs.values())
    if points.dim() != 2 or points.shape[1] > _MOST:
        return None, f"the input has shape {tuple(points.shape)}: not rows of 1 to {_MOST} coordinates"
    outputs = list(function.run().values())
    if len(outputs) != 1 or outputs[0].dim() > 2 or outputs[0].shape[:1] != points.shape[:1]:
        return None, "the output is no field with one row per point"
    if not outputs[0].requires_grad:
        return None, "the output does not depend on the coordinates"
    half = max(1, len(points) // 2)
    with torch.no_grad(), in_float64(), seeded():
        part = _only_tensor(function.model(points[:half]))
    if part.shape != outputs[0][:half].shape or not torch.allclose(part, outputs[0][:half], rtol=1e-9, atol=1e-12):
        return None, "a point's value depends on the other points: not a field"
    return points, ""


def _only_tensor(output: Any) -> Tensor:
    return next(tensors_of(output))


def _projected(model: nn.Module) -> _Field:
    def field(x: Tensor) -> Tensor:
        with seeded():  # dropout drops the same in every call
            values = _only_tensor(model(x))
        values = values.reshape(len(x), -1)
        return values @ torch.linspace(1, 2, values.shape[1], dtype=values.dtype, device=values.device)

    return field


def _compare(field: _Field, x: Tensor, order: int) -> Check:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(x.shape[1], generator=generator, dtype=torch.float64).to(x)
    backward = [_backward(field, n)(x, v).detach() for n in range(order + 1)]
    try:
        check = _against(_jets(field, x, v, order), backward, LIMIT, "jets")
    except (RuntimeError, NotImplementedError) as error:  # an autograd.Function without a forward-mode rule
        told = f"there are no jets ({first_line(error)[:60]})"
    else:
        if check.status != "fail":
            return check
        # torch's forward mode is wrong beyond the first order for layer_norm and batch_norm: differences decide.
        told = f"jets say otherwise ({check.reason})"
    by_differences = _against(_differences(field, x, v, order), backward, _BY_DIFFERENCES, "differences")
    return replace(by_differences, reason=f"{by_differences.reason}; {told}")


def _against(expected: list[Tensor], backward: list[Tensor], limit: float, rule: str) -> Check:
    if not all(bool(torch.isfinite(t).all()) for t in (*expected, *backward)):
        return Check(NAME, "skip", reason="the derivatives are not finite")
    unit = max(float(t.abs().max()) for t in (backward[0], *expected))
    if unit < 1e-12:
        return Check(NAME, "skip", reason="the field is zero: a comparison would show nothing")
    worst = 0.0
    for n, (mine, theirs) in enumerate(zip(backward[1:], expected, strict=True), start=1):
        scale = max(float(theirs.abs().max()), 1e-3 * unit)
        figure = float((mine - theirs).abs().max()) / scale
        if figure > limit:
            point = int((mine - theirs).abs().argmax())
            text = f"{float(mine[point]):.6g} backward, {float(theirs[point]):.6g} by {rule}"
            return Check(NAME, "fail", figure, limit, f"derivative {n} along a line, at point {point}: {text}")
        worst = max(worst, figure)
    return Check(
        NAME, "pass", worst, limit, f"derivatives 1 to {len(expected)} of {len(backward[0])} points, by {rule}"
    )


def _differences(field: _Field, x: Tensor, v: Tensor, order: int) -> list[Tensor]:
    """Return for each order the central difference of the order before, which is taken backward."""

    def at(n: int, shift: float) -> Tensor:
        return _backward(field, n)(x + shift * v, v).detach()

    return [(at(n, _STEP) - at(n, -_STEP)) / (2 * _STEP) for n in range(order)]


def _backward(field: _Field, order: int) -> Callable[[Tensor, Tensor], Tensor]:
    def derivative(x: Tensor, v: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        value = field(x)
        for _ in range(order):
            if not value.requires_grad:
                return torch.zeros_like(value)
            (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True)
            value = slope @ v
        return value

    return derivative


def _jets(field: _Field, x: Tensor, v: Tensor, order: int) -> list[Tensor]:
    def along(t: Tensor) -> Tensor:
        return field(x + t * v)

    found: list[Tensor] = []
    current: Callable[[Tensor], Tensor] = along
    zero, one = torch.zeros((), dtype=x.dtype, device=x.device), torch.ones((), dtype=x.dtype, device=x.device)
    for _ in range(order):
        current = _forward(current, one)
        found.append(current(zero).detach())
    return found


def _forward(function: Callable[[Tensor], Tensor], one: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda t: torch.func.jvp(function, (t,), (one,))[1]
