"""Run a callable on the grid without leaving a trace, and see whether it is an elementwise function."""

from __future__ import annotations

import copy
import functools
import random
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from dcsurgery.catalog import Match
from dcsurgery.fingerprint.fits import GRID, Array
from dcsurgery.fingerprint.matching import best_fit

__all__ = ["identify", "quiet", "values_of"]


def identify(fn: Callable[..., Any]) -> Match | None:
    """Find the activation or gate as which a callable behaves.

    The callable is run on small tensors (CPU, float64, no gradients; the random states, the attributes of the object
    that a method is bound to and its buffers are put back afterwards; hooks of modules are not run). What it raises is
    swallowed.

    Parameters
    ----------
    fn
        Function, lambda, partial, bound method, callable object, `torch.autograd.Function.apply`, scripted function,
        or a module without parameters. A module runs in the mode (train or eval) that it is in.

    Returns
    -------
    Match or None
        None where it is affine, not elementwise, not deterministic, not finite, or like nothing in the catalog.
    """
    with quiet():
        values = values_of(fn)
        return None if values is None else best_fit(values)


def values_of(fn: Callable[..., Any]) -> Array | None:
    """Return a callable's values on `GRID`, None where it is no deterministic elementwise function; see `identify`."""
    with quiet():
        try:
            return _probe(fn)
        except (Exception, SystemExit):  # noqa: BLE001 - a probed callable may raise anything, and then it is no activation
            return None


def _probe(fn: Callable[..., Any]) -> Array | None:
    """Return the callable's values on the grid, None where it is no deterministic elementwise function."""
    owner = _owner(fn)
    if isinstance(fn, nn.Module):
        if next(fn.parameters(), None) is not None:
            return None
        fn, owner = _without_hooks(copy.deepcopy(fn)), None
    with _restored(owner):
        x = torch.from_numpy(GRID)
        values = _evaluate(fn, x)
        if values is None or not bool(torch.isfinite(values).all()):
            return None
        # The same points again, with other neighbours and in other shapes.
        for order, shape in ((_SHUFFLED[:60], (12, 5)), (_SHUFFLED[40:112], (3, 4, 6))):
            again = _evaluate(fn, x[order].reshape(shape))
            if again is None or not torch.allclose(again.reshape(-1), values[order], rtol=1e-12, atol=1e-13):
                return None
    return np.asarray(values.numpy())


_SHUFFLED = np.random.default_rng(0).permutation(GRID.size)


def _evaluate(fn: Callable[..., Any], x: Tensor) -> Tensor | None:
    """Return ``fn`` of a copy of ``x`` as float64, None unless it is one real tensor of the same shape."""
    y = fn(x.clone())
    if not isinstance(y, Tensor) or y.shape != x.shape or not y.is_floating_point() or y.device != x.device:
        return None
    return y.detach().to(torch.float64).clone()


@contextmanager
def quiet() -> Iterator[None]:
    """Leave no trace and see none: modes that watch, random states, autocast, warnings."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with ExitStack() as stack:
            # Modes first, so that they do not see what follows; set_default_device is such a mode, too.
            stack.enter_context(_disable_current_modes())
            stack.enter_context(torch._C.DisableTorchFunction())
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast("cpu", enabled=False))
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _owner(fn: Callable[..., Any]) -> object:
    """Return the object whose state a call may change: what a method is bound to, or a callable object itself."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    owner = getattr(fn, "__self__", fn)
    stateless = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, Tensor)
    return None if isinstance(owner, stateless) else owner


@contextmanager
def _restored(owner: object) -> Iterator[None]:
    """Put back an object's attributes and, of a module and everything below it, the buffers' values."""
    holders = list(owner.modules()) if isinstance(owner, nn.Module) else [owner]
    tables = [vars(holder) for holder in holders if hasattr(holder, "__dict__")]
    buffers = [holder._buffers for holder in holders if isinstance(holder, nn.Module)]
    known = [(table, dict(table)) for table in (*tables, *buffers)]
    values = [(b, b._version, b.clone()) for table in buffers for b in table.values() if b is not None]
    try:
        yield
    finally:
        for table, before in known:
            for name in [name for name in table if name not in before]:
                del table[name]
            table.update({name: value for name, value in before.items() if table.get(name, known) is not value})
        for buffer, version, value in values:
            if buffer._version != version:
                buffer.copy_(value)


def _without_hooks(module: nn.Module) -> nn.Module:
    if not isinstance(module, torch.jit.ScriptModule):
        for child in module.modules():
            child._forward_hooks.clear()
            child._forward_pre_hooks.clear()
    return module
