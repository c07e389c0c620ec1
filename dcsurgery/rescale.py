"""Rescale labels: ``model(x) -> C * model(x)``, with ``model(x, scaled=True)`` for the raw output.

The model then learns labels / C, which are at most 1, while its users go on reading physical units. Energies and forces
share one C: the derivative of C * E is C times the derivative of E. See `dcsurgery.labels` for C itself.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import Refused
from dcsurgery.label_files import read_labels
from dcsurgery.label_outputs import Outputs, check_outputs, map_labels
from dcsurgery.labels import check_scale, parse_rescale, rescale_constant
from dcsurgery.rescale_graph import BUFFER, MARK, check_range, device_of, refuse_second, rescale_graph
from dcsurgery.rescaled_dataset import RescaledDataset
from dcsurgery.subclass import amend

__all__ = [
    "LabelRescale",
    "RescaledDataset",
    "ScaledMode",
    "parse_rescale",
    "read_labels",
    "rescale_constant",
    "rescale_graph",
    "rescale_labels",
]

_HALF = (torch.float16, torch.bfloat16)
_DEPTH = "_label_scaled_depth"  # how many `with model.scaled():` are open


def rescale_labels(module: nn.Module, C: float, outputs: Any = None) -> Callable[[], None]:
    """Make a live module return physical units: its raw output times C.

    Parameters
    ----------
    module
        Any module but a `torch.fx.GraphModule` (see `rescale_graph`) or a TorchScript one. Its class becomes a
        subclass that pickles and deep-copies; C becomes the buffer ``label_scale`` of shape () and dtype float64, which
        keeps its value whatever dtype the model is moved to.
    C
        Label scale: positive, in units of the labels.
    outputs
        Which outputs are labels: positions in a tuple, names in a NamedTuple, mapping or dataclass. None takes a lone
        tensor, all floating tensors of a tuple, and the entries of a mapping or dataclass whose names say energy,
        force, stress, virial, hessian, label, prediction or output, or are ``E``, ``F``, ``u`` or ``y``.

    Returns
    -------
    callable
        Undoes the rescale.

    Raises
    ------
    BadInput
        If C is not positive and finite, does not fit the model's dtype, or ``outputs`` is not a selection. A selection
        that the model's output does not have raises BadInput when the model is called.
    Refused
        If the model, or a part of it, is rescaled already, or if ``scaled`` or ``label_scale`` is taken.
    """
    amendment = LabelRescale(check_scale(C), check_outputs(outputs))
    refuse_second(module)
    _refuse_what_cannot_be_wrapped(module)
    check_range(module, amendment.C)
    undo_class = amend(module, amendment)
    module.register_buffer(BUFFER, _scale_on(device_of(module), amendment.C))

    def undo() -> None:
        undo_class()
        del module._buffers[BUFFER]

    return undo


@dataclass(frozen=True)
class LabelRescale:
    """Amendment of a model's class: ``forward`` returns raw output * C, and ``scaled`` gives the raw one.

    Attributes
    ----------
    C
        The label scale that instances start with; the buffer ``label_scale`` is what counts.
    outputs
        Positions or names of the outputs that are labels; None chooses as `rescale_labels` says.
    """

    C: float
    outputs: Outputs | None = None

    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        """Return the members that the subclass of ``cls`` gets."""
        made = {
            "__init__": self._init(cls),
            "__getstate__": _getstate(cls),
            "forward": self._forward(cls),
            "scaled": _scaled,
            _DEPTH: 0,
            MARK: True,
            "_apply": self._apply(cls),
            "_load_from_state_dict": _load_from_state_dict(cls),
        }
        if issubclass(cls, nn.Sequential):
            made["__getitem__"] = _getitem(cls)
        return made

    def _init(self, cls: type[nn.Module]) -> Callable[..., None]:
        # Some classes copy themselves with type(self)(…); such a copy must scale too.
        @functools.wraps(cls.__init__)
        def init(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            cls.__init__(module, *args, **kwargs)
            module.register_buffer(BUFFER, _scale_on(device_of(module), self.C))

        return init

    def _forward(self, cls: type[nn.Module]) -> Callable[..., Any]:
        outputs = self.outputs

        @functools.wraps(cls.forward)
        def forward(module: Any, *args: Any, scaled: bool = False, **kwargs: Any) -> Any:
            raw = cls.forward(module, *args, **kwargs)
            if scaled or getattr(module, _DEPTH):
                return raw
            factor = module.label_scale
            if isinstance(raw, torch.fx.Proxy):
                # A symbolic trace knows no dtypes. Of several outputs it cannot tell the labels, so those fail below.
                return raw * factor.to(raw)
            return map_labels(raw, lambda label: _times(label, factor), _is_label, outputs)

        # Compilers, exporters and other captures read parameter names from here.
        forward.__signature__ = _with_scaled(inspect.signature(cls.forward))  # type: ignore[attr-defined]
        return forward

    def _apply(self, cls: type[nn.Module]) -> Callable[..., nn.Module]:
        def _apply(module: nn.Module, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> nn.Module:
            # Every .to(), .half(), .cuda() comes through here. In float16, 1e6 would become inf for good, so only the
            # device is taken from the move.
            scale = module._buffers.get(BUFFER)
            if scale is None:  # a constructor that moves itself
                return cls._apply(module, fn, *args, **kwargs)
            module._buffers[BUFFER] = None
            try:
                done = cls._apply(module, fn, *args, **kwargs)
            finally:
                module._buffers[BUFFER] = scale
            with torch.no_grad():
                device = fn(torch.zeros((), device=scale.device)).device
            module._buffers[BUFFER] = _scale_on(device, self.C if scale.is_meta else scale)
            return done

        return _apply


class ScaledMode:
    """The raw side of a rescaled model: call it, or open it with ``with``.

    ``model.scaled()(x)`` is the raw output of one call; inside ``with model.scaled():`` every call of the model, from any
    thread, returns raw output.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's raw output, label / C."""
        return self.model(*args, scaled=True, **kwargs)

    def __enter__(self) -> nn.Module:
        self._move(1)
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._move(-1)

    def _move(self, step: int) -> None:
        depth = getattr(self.model, _DEPTH) + step
        if depth:
            self.model.__dict__[_DEPTH] = depth
        else:
            # The class says 0, so that a model outside `with` has no trace of the mode in its state.
            self.model.__dict__.pop(_DEPTH, None)

    def __repr__(self) -> str:
        return f"ScaledMode({type(self.model).__name__})"


def _scaled(self: nn.Module) -> ScaledMode:
    """Return the raw side of the model, a callable and a context manager."""
    return ScaledMode(self)


def _times(label: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    if factor.device != label.device:  # a model spread over devices; compiled graphs stay free of fixed devices
        factor = factor.to(label.device)
    # Half precision is multiplied in float32: 0.01 * 1e6 fits float16 where 1e6 does not. The result keeps the raw
    # output's dtype, also for 0-dim outputs, which a float64 factor would promote.
    if label.dtype in _HALF:
        return (label.float() * factor.float()).to(label.dtype)
    return label * factor.to(label.dtype)


def _is_label(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _with_scaled(signature: inspect.Signature) -> inspect.Signature:
    parameters = list(signature.parameters.values())
    variable = parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    last = [parameters.pop()] if variable else []
    scaled = inspect.Parameter("scaled", inspect.Parameter.KEYWORD_ONLY, default=False, annotation="bool")
    return signature.replace(parameters=[*parameters, scaled, *last])


def _getstate(cls: type[nn.Module]) -> Callable[[nn.Module], Any]:
    def getstate(module: nn.Module) -> Any:
        # A copy made inside `with model.scaled():` has no `with` that could end.
        state = cls.__getstate__(module)
        return {key: value for key, value in state.items() if key != _DEPTH} if isinstance(state, dict) else state

    return getstate


def _load_from_state_dict(cls: type[nn.Module]) -> Callable[..., None]:
    def _load_from_state_dict(
        module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *rest: Any
    ) -> None:
        key = prefix + BUFFER
        given = state_dict.get(key)
        if given is None:
            # A checkpoint from before the rescale knows no C; the module's own stays.
            state_dict = {**state_dict, key: module._buffers[BUFFER]}
        elif isinstance(given, torch.Tensor) and not given.is_meta:
            value = float(given.detach().reshape(-1)[0]) if given.numel() == 1 else math.nan
            if not (math.isfinite(value) and value > 0):
                errors: list[str] = rest[-1]
                errors.append(f"{key}: the label scale must be one positive finite number, got {given.tolist()}")
                return
        cls._load_from_state_dict(module, state_dict, prefix, local_metadata, *rest)

    return _load_from_state_dict


def _getitem(cls: type[nn.Sequential]) -> Callable[..., Any]:
    def getitem(module: nn.Sequential, index: Any) -> Any:
        part = cls.__getitem__(module, index)
        if isinstance(index, slice) and type(part) is type(module):
            # Some of the layers are not the model: what they return is no label.
            part.__class__ = cls
            del part._buffers[BUFFER]
        return part

    return getitem


def _scale_on(device: torch.device, scale: float | torch.Tensor) -> torch.Tensor:
    # Apple's GPUs have no float64; powers of 10 up to 1e10 are exact in float32 too.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    if isinstance(scale, torch.Tensor):
        return scale.to(device=device, dtype=dtype)
    return torch.tensor(scale, dtype=dtype, device=device)


def _refuse_what_cannot_be_wrapped(module: nn.Module) -> None:
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise Refused(f"{name} is TorchScript, whose class is compiled", fix="rescale the eager model")
    if isinstance(module, torch.fx.GraphModule):
        raise Refused("a GraphModule's class cannot be amended", fix="use rescale_graph")
    if "forward" in vars(module):
        raise Refused(
            f"{name} has forward in the instance, which hides the class's (torch.compile does this, and so do patches)",
            fix="rescale the original model first, then compile or patch it",
        )
    if hasattr(module, "scaled"):
        raise Refused(f"{name} has a member 'scaled' already, which the raw mode needs", fix="rename that member")
    if hasattr(module, BUFFER):
        raise Refused(f"{name} has a member '{BUFFER}' already, which C needs", fix="rename that member")
    if "scaled" in inspect.signature(type(module).forward).parameters:
        raise Refused(
            f"forward of {name} has a parameter 'scaled' already, which the raw mode needs",
            fix="rename that parameter",
        )
