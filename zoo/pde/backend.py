"""DeepXDE on its PyTorch backend, without touching the settings of whoever uses DeepXDE himself.

DeepXDE picks its backend once, when it is imported, announces it on stderr, and moves torch's default device to a GPU
where there is one. Its precision is a global that every point set and condition reads.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import numpy as np
import torch

from dcsurgery.errors import BadInput

__all__ = ["deepxde", "quietly", "settings"]

_BACKEND = "pytorch"


def deepxde() -> ModuleType:
    """Return DeepXDE, imported with its PyTorch backend.

    Raises
    ------
    BadInput
        If DeepXDE is not installed, or was imported with another backend before.
    """
    module = sys.modules.get("deepxde")
    if module is None or not hasattr(module, "backend"):
        module = _imported()
    chosen = module.backend.backend_name
    if chosen != _BACKEND:
        raise BadInput(
            f"DeepXDE runs on its backend {chosen!r}, and dcsurgery edits PyTorch networks",
            where="deepxde",
            fix="start Python with DDE_BACKEND=pytorch in the environment, or import dcsurgery.zoo.pde before deepxde",
        )
    return module


@cache
def _imported() -> ModuleType:
    before = torch.get_default_device()
    chosen = os.environ.get("DDE_BACKEND")
    os.environ["DDE_BACKEND"] = _BACKEND
    try:
        with quietly(stderr=True):
            import deepxde as module
    except ImportError as error:
        raise BadInput(
            f"DeepXDE cannot be imported: {error}", where="deepxde", fix='install it with pip install "dcsurgery[pde]"'
        ) from None
    finally:
        if chosen is None:
            del os.environ["DDE_BACKEND"]
        else:
            os.environ["DDE_BACKEND"] = chosen
        if torch.get_default_device() != before:
            # None removes the device context that slows every call down; a context that was there comes back.
            torch.set_default_device(None)
            if torch.get_default_device() != before:
                torch.set_default_device(before)
    return module


@contextlib.contextmanager
def quietly(*, stderr: bool = False) -> Iterator[None]:
    """Keep what DeepXDE prints off stdout, and off stderr as well if asked to."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if stderr:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


@contextlib.contextmanager
def settings(dtype: torch.dtype, device: str | torch.device = "cpu", seed: int | None = None) -> Iterator[ModuleType]:
    """Run DeepXDE code in a precision, on a device and from a seed; all globals come back afterwards.

    Parameters
    ----------
    dtype
        torch.float32 or torch.float64: of networks, points and conditions that are made inside.
    device
        Where DeepXDE puts the tensors that it makes.
    seed
        Of NumPy's global random numbers, which DeepXDE shuffles the times of its points with; None leaves them.

    Raises
    ------
    BadInput
        As for `deepxde`, or if the precision is neither of the two.
    """
    if dtype not in (torch.float32, torch.float64):
        raise BadInput(f"PINNs are trained in float32 or float64, not in {str(dtype).removeprefix('torch.')}")
    module = deepxde()
    real = module.config.real
    before, state = real.precision, np.random.get_state()  # noqa: NPY002 - these are the numbers that DeepXDE draws
    (real.set_float64 if dtype is torch.float64 else real.set_float32)()
    try:
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002
        with quietly(), torch.device(device):
            yield module
    finally:
        np.random.set_state(state)  # noqa: NPY002
        {16: real.set_float16, 32: real.set_float32, 64: real.set_float64}[before]()
