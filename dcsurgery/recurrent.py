"""Open recurrent kernels: ``lstm(x, weights)`` → ``linear``, ``chunk`` and activations, one step after the other.

torch runs an LSTM, a GRU or an RNN as one kernel, so that the tanh inside is no call that could be rewritten. The
opened module computes the recurrence of torch's documentation in separate operations, and any of the activations in
it can be another function. Parameters, buffers, hooks and state-dict keys are the module's own; nothing is copied.
"""

from __future__ import annotations

import os
import types
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcsurgery.calls import activation_function
from dcsurgery.catalog import FUSED_MODULES
from dcsurgery.errors import BadInput, Refused
from dcsurgery.recurrence import Activation, cell_forward, kind_of, sequence_forward, step
from dcsurgery.subclass import amendments_of

__all__ = ["UnfuseRecurrent", "inner_operators", "is_opened_kernel", "runs_recurrent_kernel", "wraps_recurrent_kernel"]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_CLASSES = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_OWN: dict[str, Activation] = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


def runs_recurrent_kernel(module: nn.Module) -> bool:
    """Say whether a module runs the ``forward`` of one of torch's recurrent classes, opened or not."""
    return isinstance(module, _CLASSES) and (
        _recurrent_class(type(module)) is not None or wraps_recurrent_kernel(module)
    )


def wraps_recurrent_kernel(module: nn.Module) -> bool:
    """Say whether a module without children has a ``forward`` of its own around ``super().forward`` of such a class."""
    cls = type(module)
    own = isinstance(module, _CLASSES) and _recurrent_class(cls) is None and _kernel_class(cls) is not None
    return own and not module._modules


def inner_operators(module: nn.Module) -> tuple[str, ...]:
    """Name the catalog operators that can be replaced inside a module's recurrent kernel.

    Parameters
    ----------
    module
        Any module. A subclass of torch's recurrent classes counts as long as it runs torch's own ``forward``, itself
        or through ``super().forward``.

    Returns
    -------
    tuple of str
        ``("tanh", "sigmoid")`` for LSTM and GRU, ``("tanh",)`` or ``("relu",)`` for RNN, and the same for their
        cells, less what an `UnfuseRecurrent` has already replaced; empty for every other module.
    """
    runs_it = "forward" not in vars(module) and runs_recurrent_kernel(module)
    base = _kernel_class(type(module)) if runs_it else None
    if base is None:
        return ()
    replaced = {
        operator
        for amendment in amendments_of(module)
        if isinstance(amendment, UnfuseRecurrent)
        for operator, _ in amendment.replacements
    }
    kind = kind_of(module)
    runs = _operators_of(base) if kind in ("LSTM", "GRU") else (kind,)
    return tuple(operator for operator in _operators_of(base) if operator in runs and operator not in replaced)


def is_opened_kernel(frame: types.FrameType | None) -> bool:
    """Say whether a frame is a step of an opened kernel, or torch's code that it has called."""
    while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        frame = frame.f_back
    return frame is not None and frame.f_code is step.__code__


@dataclass(frozen=True)
class UnfuseRecurrent:
    """Amendment: a recurrent module whose kernel is open (see `dcsurgery.subclass`).

    For ``nn.LSTM``, ``nn.GRU``, ``nn.RNN``, their cells, and subclasses that keep ``forward`` or call it. Arguments, outputs,
    layouts, dropout and packed sequences are as before; without a replacement the values are those of the kernel, up
    to rounding. Under autocast each operation chooses its own precision, which is not always the kernel's choice.

    An LSTM applies tanh twice, to the cell candidate and to the new cell state; it is one site, and both are replaced
    together. In the same way ``sigmoid`` means all gates. A later `UnfuseRecurrent` of the same module adds to the
    earlier ones.

    Attributes
    ----------
    replacements
        Pairs of a catalog operator inside the kernel and its replacement: an activation's name, or a module without
        parameters and buffers. An operator that is not listed keeps torch's own function.
    """

    replacements: tuple[tuple[str, str | nn.Module], ...]

    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        """Return the opened ``forward`` for a subclass of ``cls``.

        Raises
        ------
        Refused
            If ``cls`` does not run torch's own recurrent ``forward``, or an operator is not inside its kernel.
        BadInput
            If an operator is listed twice, or a replacement's name is not known.
        """
        base = _kernel_class(cls)
        if base is None:
            raise Refused(
                f"class {cls.__qualname__} does not run the forward of torch's LSTM, GRU, RNN or one of their cells",
                fix="leave the module out with --exclude",
            )
        known = _operators_of(base)
        for operator, times in Counter(operator for operator, _ in self.replacements).items():
            if operator not in known:
                raise Refused(
                    f"there is no {operator} inside a {base.__name__}", fix=f"replace {' or '.join(known)} instead"
                )
            if times > 1:
                raise BadInput(f"{operator} is to be replaced {times} times in one edit", fix="list it once")
        earlier: Mapping[str, Activation] = getattr(cls, "_dcsurgery_functions", _OWN)
        functions = {operator: _out_of_place(activation_function(new)) for operator, new in self.replacements}
        members: dict[str, Any] = {"_dcsurgery_functions": {**earlier, **functions}}
        if _recurrent_class(cls) is not None:
            members["forward"] = _opened_forward(base)
        return members

    def below(self, cls: type[nn.Module]) -> type[nn.Module] | None:
        """Return what ``super().forward`` has to find in a class that has a ``forward`` of its own."""
        base = None if _recurrent_class(cls) is not None else _kernel_class(cls)
        return None if base is None else _open_class(base)


def _open_class(base: type[nn.Module]) -> type[nn.Module]:
    if base not in _OPEN:
        members = {"forward": _opened_forward(base), "__module__": base.__module__, "__doc__": base.__doc__}
        _OPEN[base] = type(base.__name__, (base,), members)
    return _OPEN[base]


_OPEN: dict[type[nn.Module], type[nn.Module]] = {}


def _opened_forward(base: type[nn.Module]) -> Callable[..., Any]:
    return sequence_forward if issubclass(base, nn.RNNBase) else cell_forward


def _kernel_class(cls: type[nn.Module]) -> type[nn.Module] | None:
    """Return torch's class whose ``forward`` an instance runs, perhaps from a ``forward`` of its own; None without one."""
    direct = _recurrent_class(cls)
    if direct is not None:
        return direct
    for base in cls.__mro__:
        if base in _CLASSES:
            return base
        forward = getattr(vars(base).get("forward"), "__code__", None)
        if forward in (sequence_forward.__code__, cell_forward.__code__):
            continue
        if "forward" in vars(base) and (forward is None or not {"super", "forward"} <= set(forward.co_names)):
            return None
    return None


def _recurrent_class(cls: type[nn.Module]) -> type[nn.Module] | None:
    """Return torch's class whose ``forward`` an instance runs, opened or not; None where it is another class."""
    # nn.Module itself has a forward, so that one is always found.
    owner = next(base for base in cls.__mro__ if "forward" in vars(base) and not _opens(base) and not _says_torch(base))
    return owner if owner in _CLASSES else None


def _says_torch(base: type) -> bool:
    """Say whether a class was imported from TorchScript, its ``forward`` being that of torch's own class below it."""
    name = vars(base).get("__torchscript_name__")
    return name is not None and any(name == f"{cls.__module__}.{cls.__qualname__}" for cls in base.__mro__)


def _opens(cls: type) -> bool:
    amendments = vars(cls).get("_dcsurgery_amendments", ())
    return bool(amendments) and isinstance(amendments[-1], UnfuseRecurrent)


def _operators_of(base: type[nn.Module]) -> tuple[str, ...]:
    return FUSED_MODULES[f"{base.__module__}.{base.__qualname__}"]


def _out_of_place(activation: Activation) -> Activation:
    # What the activation is given is a view of all gates, or the cell state, which is used again.
    modules = activation.modules() if isinstance(activation, nn.Module) else ()
    if any(getattr(module, "inplace", False) for module in modules):
        return lambda x: activation(x.clone())
    return activation
