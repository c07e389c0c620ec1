"""A model as a function of its floating inputs and parameters, in float64, with its derivatives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from dcsurgery.capture.control_flow import unfolded
from dcsurgery.checks.failing import first_line, raise_if_memory
from dcsurgery.checks.outputs import named_tensors
from dcsurgery.copying import in_double
from dcsurgery.example_inputs import arguments, converted, eagerly, fresh
from dcsurgery.seeding import seeded

__all__ = ["Derivatives", "Function", "derivatives_of", "in_float64"]


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Let tensors that a model makes itself be float64, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass
class Function:
    """A copy of a model in float64, and inputs that derivatives can be taken with respect to.

    Attributes
    ----------
    model
        The copy, in the model's own mode.
    example_inputs
        What it is called with.
    inputs
        Name to leaf tensor, for every floating input; changing its values changes what the model is called with.
    """

    model: nn.Module
    example_inputs: Any
    inputs: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(model: nn.Module, example_inputs: Any) -> Function:
        """Copy a model and its inputs."""
        function = Function(in_double(model), example_inputs)
        function.arguments()
        return function

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return new arguments that depend on the leaves and may be written into."""
        args, kwargs = arguments(converted(fresh(self.example_inputs), torch.float64))
        return (
            tuple(self._leaf(value, f"argument {index}") for index, value in enumerate(args)),
            {name: self._leaf(value, name) for name, value in kwargs.items()},
        )

    def _leaf(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            if not value.is_floating_point() or value.layout is not torch.strided:
                return value
            return self.inputs.setdefault(name, value.detach().clone().requires_grad_()).clone()
        if hasattr(value, "apply") and hasattr(value, "keys"):  # a PyG Data or Batch
            for key, item in value.to_dict().items():
                if isinstance(item, Tensor) and item.is_floating_point():
                    value[key] = self._leaf(item, key if name == "argument 0" else f"{name}.{key}")
            return value
        paths, spec = pytree.tree_flatten_with_path(value)
        if len(paths) == 1 and paths[0][0] == ():
            return value
        return pytree.tree_unflatten([self._leaf(item, name + pytree.keystr(path)) for path, item in paths], spec)

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters that derivatives are taken with respect to."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad and p.numel()}

    def run(self, call: Any = None) -> dict[str, Tensor]:
        """Return the floating outputs by name; the random state is the same every time."""
        args, kwargs = self.arguments()
        with seeded(), eagerly(), sdpa_kernel(SDPBackend.MATH), in_float64(), unfolded(self.model):
            output = (call or self.model)(*args, **kwargs)
        return {name: t.to_dense() for name, t in named_tensors(output) if t.is_floating_point()}


@dataclass
class Derivatives:
    """What one run gave.

    Attributes
    ----------
    values
        Outputs by name.
    orders
        For each order from 1 on: variable to the derivative of a random combination of the order before.
    stopped
        Why there are not more orders, empty if there are.
    """

    values: dict[str, Tensor]
    orders: list[dict[str, Tensor]] = field(default_factory=list)
    stopped: str = ""


def derivatives_of(outputs: Mapping[str, Tensor], variables: Mapping[str, Tensor], order: int) -> Derivatives:
    """Differentiate a random combination of the outputs, then one of its derivatives, and so on.

    Each order is the one before contracted with random numbers, the same ones in every call: two models agree in them
    only if they agree in the derivatives.
    """
    # Copies: reversible layers free what they returned during the backward pass.
    found = Derivatives({name: t.detach().clone() for name, t in outputs.items()})
    names, leaves = list(variables), list(variables.values())
    current = dict(outputs)
    for n in range(1, order + 1):
        scalar = _combination(current, seed=n)
        if scalar is None:
            found.stopped = f"nothing depends on the inputs or parameters in a way that has a derivative of order {n}"
            break
        try:
            gradients = torch.autograd.grad(scalar, leaves, create_graph=n < order, allow_unused=True)
        except (RuntimeError, NotImplementedError) as error:
            raise_if_memory(error)
            found.stopped = f"an operator has no derivative of order {n}: {first_line(error)}"
            break
        current = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for name, leaf, gradient in zip(names, leaves, gradients, strict=True)
        }
        found.orders.append({name: t.detach() for name, t in current.items()})
    return found


def _combination(tensors: Mapping[str, Tensor], seed: int) -> Tensor | None:
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    for tensor in tensors.values():
        weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        if tensor.requires_grad and tensor.numel():
            part = (weights * tensor).sum()
            total = part if total is None else total + part
    return total
