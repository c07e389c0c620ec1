"""What a model returns: its tensors, whether there are numbers in them, and whether two of them are equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from dcsurgery.report import Check

__all__ = ["check_finite", "equal", "named_tensors", "refusal", "tensors_of", "without_numbers"]

_ZERO = 1e-12


def named_tensors(output: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in what a model returned, named as Python would write it: ``output['forces']``."""
    yield from _named(output, "output")


def _named(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "__getitem__")):
        for key in value.keys():  # noqa: SIM118 - a PyG Data iterates over something else
            yield from _named(value[key], f"{name}[{key!r}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from _named(getattr(value, entry.name), f"{name}.{entry.name}")
    elif hasattr(value, "_fields"):
        for entry_name in value._fields:
            yield from _named(getattr(value, entry_name), f"{name}.{entry_name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _named(item, f"{name}[{index}]")
    else:
        for path, leaf in pytree.tree_leaves_with_path(value):
            if isinstance(leaf, Tensor):
                yield name + pytree.keystr(path), leaf


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in what a model returned."""
    return (tensor for _, tensor in named_tensors(value))


def equal(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors have the same bits, shape and dtype."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_complex():  # torch knows no nan_to_num of half-precision ones
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())  # the second only where there are NaNs


def without_numbers(output: Any) -> str:
    """Say which tensor of an output holds no numbers, empty if all do."""
    for name, tensor in named_tensors(output):
        if isinstance(tensor, FakeTensor) or tensor.is_meta:
            return (
                f"{name} is a {'FakeTensor' if isinstance(tensor, FakeTensor) else 'meta tensor'}: it holds no numbers"
            )
    return ""


def refusal(tensors: Mapping[str, Tensor]) -> str:
    """Say why nothing can be compared with these tensors, empty if something can."""
    if not tensors:
        return "there is no floating output"
    if any(isinstance(tensor, FakeTensor) or tensor.is_meta for tensor in tensors.values()):
        return "the output holds no numbers"
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            return f"{name} is not finite"
    largest = max((float(t.detach().abs().max()) for t in tensors.values() if t.numel()), default=0.0)
    return "the output is zero" if largest < _ZERO else ""


def check_finite(output: Any) -> Check:
    """Count NaN and infinity; a tensor that has no numbers fails as well."""
    tensors = dict(named_tensors(output))
    if not tensors:
        return Check("finite", "skip", reason="the model returns no tensor")
    unreal = without_numbers(output)
    if unreal:
        return Check("finite", "fail", None, 0, unreal)
    bad = {n: int((~torch.isfinite(t)).sum()) for n, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    count = sum(bad.values())
    where = ", ".join(name for name, number in bad.items() if number)
    return Check(
        "finite", "fail" if count else "pass", count, 0, f"{where}: {count} values are NaN or infinite" * bool(count)
    )
