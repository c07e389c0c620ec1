"""Where a custom autograd.Function may be used, and what an activation accepts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dcsurgery.errors import BadInput

__all__ = ["only_autograd_watches", "require_floating"]


def only_autograd_watches(x: Tensor) -> bool:
    """Whether reverse-mode autograd alone looks at what happens to ``x``.

    Everybody else wants plain operators: compilers, export, tracers and dispatch modes record them; functorch
    transforms and forward-mode differentiation have no rule for an autograd.Function; tensor subclasses, nested and
    sparse tensors bring their own operators.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and x.layout is torch.strided
        and not x.is_nested
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # is_grads_batched, jacobian(vectorize=True)
        and forward_ad._current_level < 0
        and not is_in_torch_dispatch_mode()
    )


def require_floating(x: Tensor, name: str) -> None:
    """Refuse everything but real floating-point tensors.

    Raises
    ------
    BadInput
        If ``x`` is not a tensor, or one of integers, booleans or complex numbers; the message names the dtype.
    """
    if not isinstance(x, Tensor):
        raise BadInput(f"{name} takes a tensor, got {type(x).__name__}", fix="wrap it with torch.as_tensor")
    if not x.dtype.is_floating_point:
        raise BadInput(
            f"{name} takes real floating-point numbers, got dtype {x.dtype}",
            fix="convert the tensor first, for instance with .float()",
        )
