"""Stand in for the dispatcher's kernels: whoever calls an operator, Python, TorchScript or C++, gets what is put here.

A kernel at the Autograd key of a device takes the place of torch's own. What it does not want to change it passes on
to the kernel that it has displaced, so that everything else keeps its derivatives. Kernels belong to the process: one is
installed while any thread wants it, and acts only in threads that do.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

__all__ = ["Handler", "displaced"]

#: Gets the operator's name (``silu``, ``silu_``), its arguments, and the displaced kernel as a function without
#: arguments; returns what the operator returns.
Handler = Callable[[str, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]


class _Threads(threading.local):
    def __init__(self) -> None:
        self.handlers: list[Handler] = []


class _Installed:
    """One displaced kernel, and how many want it displaced."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.users = 1


_THREADS = _Threads()
_LOCK = threading.Lock()
_INSTALLED: dict[tuple[str, str], _Installed] = {}


@contextlib.contextmanager
def displaced(names: Collection[str], devices: Collection[str], handler: Handler) -> Iterator[None]:
    """Let a handler stand in for kernels, in this thread.

    Parameters
    ----------
    names
        Names of ATen operators, without namespace and overload; their in-place forms are displaced as well.
    devices
        Device types, for instance ``{"cpu"}``.
    handler
        What is called instead; in nested use, the innermost one.
    """
    wanted = [(overload, f"Autograd{_key_of(device)}") for overload in _overloads(names) for device in sorted(devices)]
    installed: list[tuple[str, str]] = []
    _THREADS.handlers.append(handler)
    try:
        for overload, key in wanted:
            if _install(overload, key):
                installed.append((overload.name(), key))
        yield
    finally:
        _THREADS.handlers.pop()
        for place in installed:
            _remove(place)


def _key_of(device: str) -> str:
    return {"meta": "Meta", "privateuseone": "PrivateUse1"}.get(device, device.upper())


def _overloads(names: Collection[str]) -> Iterator[Any]:
    for name in sorted({*names, *(f"{plain}_" for plain in names)}):
        packet = getattr(torch.ops.aten, name, None)
        for overload in () if packet is None else packet.overloads():
            if "out" not in overload and overload != "grad_input":
                yield getattr(packet, overload)


def _install(overload: Any, key: str) -> bool:
    """Displace one kernel, or count one more who wants it; False where the dispatcher has none."""
    place = (overload.name(), key)
    with _LOCK:
        if place in _INSTALLED:
            _INSTALLED[place].users += 1
            return True
        try:
            kernel = torch.library.get_kernel(overload, key)
        except RuntimeError:  # an overload on numbers, which TorchScript has for itself
            return False
        library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a kernel is displaced is the purpose
            library.impl(overload, _stand_in(overload, kernel), key, with_keyset=True)
        _INSTALLED[place] = _Installed(library)
    return True


def _remove(place: tuple[str, str]) -> None:
    with _LOCK:
        entry = _INSTALLED[place]
        entry.users -= 1
        if not entry.users:
            del _INSTALLED[place]
            entry.library._destroy()


def _stand_in(overload: Any, kernel: Any) -> Callable[..., Any]:
    name = overload._schema.name.partition("::")[2]

    def stand_in(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        def original() -> Any:
            return kernel.call_boxed(keyset, *args, **kwargs)

        handlers = _THREADS.handlers
        return handlers[-1](name, args, kwargs, original) if handlers else original()

    return stand_in
