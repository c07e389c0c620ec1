"""TorchScript's operators on tensors that need more than ATen's function, and those of its ``prim`` namespace.

Types and layouts are numbers in TorchScript.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["AUTOGRAD", "PRIM", "TENSORS"]

_DTYPES = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.qint8, torch.quint8, torch.qint32),
    torch.bfloat16,
)
_LAYOUTS = (torch.strided, torch.sparse_coo)


def _dtype(value: Any) -> Any:
    return _DTYPES[value] if isinstance(value, int) else value


def _number_of(dtype: torch.dtype) -> int:
    return _DTYPES.index(dtype)


def _tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> torch.Tensor:
    return torch.tensor(data, dtype=_dtype(dtype), device=device, requires_grad=requires_grad)


def _grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: Any = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> list[Any]:
    found = torch.autograd.grad(outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused=allow_unused)
    return list(found)


def _backward(value: torch.Tensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False) -> None:
    value.backward(gradient, retain_graph=retain_graph, create_graph=create_graph)


def _set_grad_enabled(flag: bool) -> None:
    torch.set_grad_enabled(flag)  # a class, which acts when it is made


def _size(value: torch.Tensor, *args: Any) -> Any:
    return value.size(*args) if args else list(value.size())


def _scalar_type(value: Any, *_: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _warn(message: Any, *_: Any, **__: Any) -> None:
    warnings.warn(str(message), stacklevel=2)


def _to(value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    moved: torch.Tensor = torch.ops.aten.to(value, *args, **kwargs)
    return moved


AUTOGRAD = types.SimpleNamespace(grad=_grad)
TENSORS: dict[str, Callable[..., Any]] = {
    "ScalarImplicit": _scalar_type,
    "item": _scalar_type,
    "tensor": _tensor,
    "as_tensor": lambda data, dtype=None, device=None: torch.as_tensor(data, dtype=_dtype(dtype), device=device),
    "size": _size,
    "dim": lambda value: value.dim(),
    "numel": lambda value: value.numel(),
    "is_floating_point": lambda value: value.is_floating_point(),
    "is_complex": lambda value: value.is_complex(),
    "is_contiguous": lambda value, **kwargs: value.is_contiguous(**kwargs),
    "requires_grad_": lambda value, flag=True: value.requires_grad_(flag),
    "is_grad_enabled": torch.is_grad_enabled,
    "set_grad_enabled": _set_grad_enabled,
    "is_autocast_enabled": lambda *_: torch.is_autocast_enabled("cuda"),
    "is_autocast_cpu_enabled": lambda *_: torch.is_autocast_enabled("cpu"),
    "grad": _grad,
    "backward": _backward,
    "warn": _warn,
    "device": torch.device,
    "to": _to,
    "get_device": lambda value: value.get_device(),
    "cpu": lambda value: value.cpu(),
    "wait": lambda value: value,
}


_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (
        *(ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, OverflowError),
        *(RuntimeError, StopIteration, TypeError, ValueError, ZeroDivisionError),
    )
}


def _raise(message: Any, kind: str | None = None) -> None:
    raise _ERRORS.get((kind or "").rpartition(".")[2], RuntimeError)(message)


def _type_of(device: Any) -> str:
    return str((device if isinstance(device, torch.device) else device.device).type)


PRIM: dict[str, Callable[..., Any]] = {
    "RaiseException": _raise,
    "device": lambda value: value.device,
    "dtype": lambda value: _number_of(value.dtype),
    "layout": lambda value: _LAYOUTS.index(value.layout),
    "requires_grad": lambda value: value.requires_grad,
    "is_cuda": lambda value: value.is_cuda,
    "is_cpu": lambda value: value.is_cpu,
    "is_meta": lambda value: value.is_meta,
    "is_mps": lambda value: value.is_mps,
    "is_xla": lambda value: value.device.type == "xla",
    "is_xpu": lambda value: value.device.type == "xpu",
    "is_hpu": lambda value: value.device.type == "hpu",
    "is_ipu": lambda value: value.device.type == "ipu",
    "is_vulkan": lambda value: value.device.type == "vulkan",
    "is_maia": lambda value: value.device.type == "maia",
    "is_mtia": lambda value: value.device.type == "mtia",
    "is_mkldnn": lambda value: value.is_mkldnn,
    "is_quantized": lambda value: value.is_quantized,
    "is_sparse": lambda value: value.is_sparse,
    "is_sparse_csr": lambda value: value.is_sparse_csr,
    "is_nested": lambda value: value.is_nested,
    "shape": lambda value: list(value.shape),
    "ndim": lambda value: value.ndim,
    "data": lambda value: value.data,
    "grad": lambda value: value.grad,
    "itemsize": lambda value: value.itemsize,
    "nbytes": lambda value: value.nbytes,
    "T": lambda value: value.T,
    "mT": lambda value: value.mT,
    "H": lambda value: value.H,
    "mH": lambda value: value.mH,
    "name": lambda value: None if value is None else str(value),
    "type": _type_of,
    "index": lambda device: device.index,
    "min": min,
    "max": max,
    "abs": abs,
    "rangelist": lambda count: list(range(count)),
    "NumToTensor": torch.tensor,
    "TupleUnpack": tuple,
    "unchecked_cast": lambda value: value,
    "tolist": lambda value, *_: value.tolist(),
    "AutogradAnyNonZero": lambda *values: any(isinstance(value, torch.Tensor) for value in values),
    "is_none": lambda value: value is None,
}
