"""Run a model for comparison: its values and its derivatives, for inputs and outputs of any form."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dcsurgery.example_inputs import arguments, preserved

__all__ = ["bits", "curvature", "equal_bits", "mapped", "tensors"]

_STEP = 1e-6  # of central differences of gradients in float64


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor of an output or of inputs: nested containers, dataclasses, graphs."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "to_dict") and hasattr(value, "keys"):  # a PyG Data or Batch
        yield from tensors(value.to_dict())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from tensors({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return inputs with a function applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if hasattr(value, "to_dict") and hasattr(value, "apply"):
        return value.clone().apply(function)
    if isinstance(value, dict):
        return {key: mapped(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [mapped(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _run(
    model: nn.Module, inputs: Any, *, differentiable: bool = True, shifts: list[Tensor] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return outputs, and the leaves that they may depend on: floating inputs (moved by ``shifts``), then parameters."""
    leaves: list[Tensor] = []

    def variable(tensor: Tensor) -> Tensor:
        leaf = tensor.detach().clone()
        if not differentiable or not leaf.is_floating_point():
            return leaf
        if shifts is not None:
            leaf += shifts[len(leaves)]
        leaves.append(leaf.requires_grad_())
        return leaf.clone()  # which the model may change in place

    args, kwargs = arguments(mapped(inputs, variable))
    with torch.random.fork_rng(devices=[]), preserved(model):
        torch.default_generator.manual_seed(0)
        outputs = list(tensors(model(*args, **kwargs)))
    return outputs, leaves + [p for p in model.parameters() if p.requires_grad]


def _gradients(outputs: list[Tensor], leaves: list[Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
    """Return the gradient of one weighted sum of all outputs; an empty list where there is none."""
    parts = [o.abs() if o.is_complex() else o for o in outputs if o.requires_grad and o.numel()]
    if not parts or not leaves:
        return []
    weighted = [(p * torch.linspace(1, 2, p.numel(), dtype=p.dtype).view_as(p)).sum() for p in parts]
    total = torch.stack([w.double() for w in weighted]).sum()
    return list(torch.autograd.grad(total, leaves, create_graph=create_graph, allow_unused=True))


def bits(model: nn.Module, inputs: Any, *, training: bool) -> list[Tensor | None]:
    """Return outputs and gradients in one mode; the model's own mode, buffers and caches are put back."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        for differentiable in (True, False):  # some operators refuse inputs that have gradients
            try:
                with preserved(model):  # the backward pass of a checkpoint, too, moves statistics
                    outputs, leaves = _run(model, inputs, differentiable=differentiable)
                    values = [o.detach().clone() for o in outputs]  # some backward passes free what forward returned
                    return [*values, *_gradients(outputs, leaves)]
            except RuntimeError:
                continue
        return list(_run(model, inputs, differentiable=False)[0])  # some models have no gradients at all
    finally:
        model.train(modes[model])  # which may hand the mode on to modules that torch does not see
        for module, mode in modes.items():
            module.training = mode


def equal_bits(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    """Say whether two runs gave the same bits; NaN equals NaN."""

    def same(x: Tensor | None, y: Tensor | None) -> bool:
        if x is None or y is None:
            return x is y
        if (x.dtype, x.shape, x.layout) != (y.dtype, y.shape, y.layout):
            return False
        x, y = x.to_dense(), y.to_dense()
        return bool(((x == y) | ((x != x) & (y != y))).all())  # noqa: PLR0124 - NaN alone differs from itself

    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def curvature(model: nn.Module, inputs: Any) -> tuple[float, float, float]:
    """Return u·Hv by double backward, the same by central differences of gradients, and the size of its terms.

    H is the Hessian of a weighted sum of the outputs with respect to floating inputs and parameters; u and v are random.

    Raises
    ------
    RuntimeError
        If an operator has no such derivative.
    ValueError
        If no output depends differentiably on anything.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernel has no second derivative on the CPU
        outputs, leaves = _run(model, inputs)
        first = _gradients(outputs, leaves, create_graph=True)
        if all(gradient is None for gradient in first):
            raise ValueError("no output depends differentiably on anything")
        generator = torch.Generator().manual_seed(0)
        u, v = ([torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in leaves] for _ in range(2))
        length = float(torch.stack([d.square().sum() for d in v]).sum().sqrt())
        v = [d / length for d in v]  # a short way: few activations pass their kinks on it
        slope = _dot(first, u)
        second: list[Tensor | None] = []
        if slope.requires_grad:
            second = list(torch.autograd.grad(slope, leaves, allow_unused=True))
        terms = torch.cat(
            [torch.zeros(1)] + [(h * d).reshape(-1) for h, d in zip(second, v, strict=False) if h is not None]
        )
        slopes = [_slope_at(model, inputs, u, [sign * _STEP * d for d in v]) for sign in (1.0, -1.0)]
    difference = (slopes[0] - slopes[1]) / (2 * _STEP)
    return float(terms.sum()), difference, float(terms.abs().sum()) + 1e-3 * max(map(abs, slopes))


def _slope_at(model: nn.Module, inputs: Any, u: list[Tensor], shifts: list[Tensor]) -> float:
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad(), contextlib.ExitStack() as restored:
        for parameter, shift in zip(parameters, shifts[len(shifts) - len(parameters) :], strict=True):
            restored.callback(parameter.copy_, parameter.detach().clone())
            parameter += shift
        with torch.enable_grad():
            outputs, leaves = _run(model, inputs, shifts=shifts)
            return float(_dot(_gradients(outputs, leaves), u))


def _dot(gradients: list[Tensor | None], directions: list[Tensor]) -> Tensor:
    return torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None]).sum()
