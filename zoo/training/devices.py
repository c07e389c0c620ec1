"""Devices: one CPU, one GPU, or several processes with one of them each."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from dcsurgery.errors import BadInput

try:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
except ImportError:
    raise BadInput("training needs lightning-fabric", fix='pip install "dcsurgery[train]"') from None

__all__ = ["Fabric", "fabric_for", "launch", "peak_memory", "resolved", "telling_memory", "tf32"]

Result = TypeVar("Result")


def resolved(device: str) -> str:
    """Return a device's name, ``cpu`` or ``cuda``; ``auto`` is CUDA where there is one.

    Raises
    ------
    BadInput
        If the name is unknown or there is no CUDA.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise BadInput(f"unknown device {device!r}", fix="use cpu, cuda or auto")
    if device == "cuda" and not torch.cuda.is_available():
        built = torch.backends.cuda.is_built()
        why = "no CUDA device is visible" if built else f"torch {torch.__version__} was built without CUDA"
        fix = "check nvidia-smi and CUDA_VISIBLE_DEVICES" if built else "install a CUDA build of torch"
        raise BadInput(f"cannot train on cuda: {why}", fix=f"{fix}, or use --device cpu")
    return device


def fabric_for(device: str = "cpu", devices: int = 1) -> Fabric:
    """Return the Fabric for a number of processes with one device each; several synchronize their gradients.

    Raises
    ------
    BadInput
        If there is no such device, or not as many.
    """
    device = resolved(device)
    if devices < 1:
        raise BadInput(f"devices must be at least 1, got {devices}")
    if device == "cuda" and devices > torch.cuda.device_count():
        raise BadInput(f"{devices} GPUs asked for, {torch.cuda.device_count()} there", fix="use fewer, with --devices")
    if devices == 1:
        return Fabric(accelerator=device, devices=1)
    # Some models leave parameters out of the energy. Spawned processes need no second run of the command line.
    strategy = DDPStrategy(start_method="spawn", find_unused_parameters=True)
    return Fabric(accelerator=device, devices=devices, strategy=strategy)


def launch(fabric: Fabric, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call ``function(fabric, *arguments)`` in every process of a Fabric; return the first one's result.

    With several processes, function, arguments and result must pickle.
    """
    if fabric.world_size == 1:
        fabric.launch()
        return function(fabric, *arguments)
    return fabric.launch(function, *arguments)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Set whether CUDA may round products of float32 to TF32, for a time."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def telling_memory(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into an error that suggests a batch size.

    Raises
    ------
    BadInput
        In place of torch's own error.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise _too_large(batch_size, "CUDA") from error
    except MemoryError as error:
        raise _too_large(batch_size, "the machine") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise _too_large(batch_size, "the machine") from error


def _too_large(batch_size: int, what: str) -> BadInput:
    fix = f"try --batch-size {batch_size // 2}" if batch_size > 1 else "use a smaller model or float32"
    return BadInput(f"{what} ran out of memory with batches of {batch_size} structures", fix=fix)


def peak_memory(device: torch.device) -> float:
    """Return the most memory used so far, in MiB: allocated tensors on CUDA, the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10
