"""IReLU(x) = ½ x² for x > 0, 0 otherwise: the antiderivative of ReLU.

Its first derivative is continuous (ReLU), its second is a step, its third is 0 almost everywhere. Two forms with equal
results are kept. In eager mode an autograd.Function saves nothing but its input and needs fewer passes over memory;
every tracer, compiler and transform gets ``½ relu(x) · relu(x)``, which it can fuse and differentiate itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx
from torch.overrides import handle_torch_function, has_torch_function_unary

from dcsurgery.activations.eager import only_autograd_watches, require_floating

__all__ = ["IReLU", "irelu"]


class _Value(Function):
    """x → ½ relu(x)²."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        positive = torch.relu(x)
        # One pass; multiplies as (½ r) · r like the plain form, so that neither overflows before the result does.
        return torch.addcmul(x.new_zeros(()), positive, positive, value=0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return _times_relu(x, grads[0])


class _TimesReLU(Function):
    """(x, g) → g · relu(x), bilinear but for the step; saves its inputs only, so any order of derivative is right."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(x, g)
        return torch.relu(x).mul_(g)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, g = ctx.saved_tensors
        (h,) = grads
        wants_x, wants_g = ctx.needs_input_grad
        # threshold_backward(h g, x) is h g [x > 0] in one pass, and has derivatives of its own.
        by_x = torch.ops.aten.threshold_backward.default(h * g, x, 0) if wants_x else None
        return by_x, _times_relu(x, h) if wants_g else None


def _times_relu(x: Tensor, g: Tensor) -> Tensor:
    # Backward may run under vmap (batched gradients) or forward AD although forward did not.
    if only_autograd_watches(g):
        return _TimesReLU.apply(x, g)
    return g * torch.relu(x)


def irelu(x: Tensor) -> Tensor:
    """Return ½ x² where x > 0 and 0 elsewhere.

    NaN stays NaN, +inf gives +inf and -inf gives 0. The function can be overridden: a ``TorchFunctionMode``, a tensor
    subclass or a torch.fx proxy sees one call of ``irelu``.

    Parameters
    ----------
    x
        Real floating-point tensor of any shape.

    Returns
    -------
    Tensor
        Same shape, dtype and device as ``x``.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        if has_torch_function_unary(x):
            return handle_torch_function(irelu, (x,), x)
        require_floating(x, "irelu")
        if only_autograd_watches(x) and x.requires_grad and torch.is_grad_enabled():
            return _Value.apply(x)
    positive = torch.relu(x)
    return 0.5 * positive * positive


class IReLU(nn.Module):
    """Apply `irelu` elementwise; no parameters and no buffers.

    Parameters
    ----------
    inplace
        Write the result into the input, for models that read their input again afterwards. The derivatives need the
        old values, so that a copy is kept and no memory is saved.

    Examples
    --------
    >>> IReLU()(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return ``irelu(x)``."""
        if self.inplace:
            return x.copy_(irelu(x.clone()))
        return irelu(x)

    def extra_repr(self) -> str:
        """Say so when the module works in place."""
        return "inplace=True" if self.inplace else ""


# Pickles and traced graphs name the public path, which outlives the layout of this package.
irelu.__module__ = IReLU.__module__ = "dcsurgery.activations"
