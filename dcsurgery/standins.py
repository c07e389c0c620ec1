"""What stands in a slot after an edit: deleted norms and replaced activations that had tensors of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from dcsurgery.calls import argument_name, pass_on

__all__ = ["DeletedNorm", "ForgetTensors", "InPlace", "ReplacedActivation", "keep_hooks"]

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
_SETTING = (bool, int, float, str, type(None))


class _DropsKeys(nn.Module):
    """Ignores the keys of the module that was here when an old checkpoint is loaded."""

    def __init__(self, old_keys: Iterable[str]) -> None:
        super().__init__()
        self.old_keys = tuple(old_keys)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for key in self.old_keys:
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class DeletedNorm(_DropsKeys):
    """Passes its input on where a normalization was: ``norm(x) → x``.

    Parameters
    ----------
    old
        The normalization; its plain settings (``eps``, ``num_features``) stay readable. Its weight reads as ones and its
        bias as zeros, in its shape, dtype and device, for models that look at them (``norm.weight.dtype``); they are
        no parameters any more. Its buffers are None.
    returns
        Which positional argument comes out.
    copied
        Return a copy: somebody writes into the result, and the norm's input must stay.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    _identity: tuple[str, ...] = ()

    def __init__(self, old: nn.Module | None = None, returns: int = 0, copied: bool = False) -> None:
        super().__init__(old.state_dict().keys() if old is not None else ())
        self.returns = returns
        self.copied = copied
        self.argument = "" if old is None else argument_name(old, returns)
        self.deleted = type(old).__name__ if old is not None else "normalization"
        self.weight = self.bias = None
        for name in (*old._parameters, *old._buffers) if old is not None else ():
            setattr(self, name, None)
        self._identity = tuple(name for name in ("weight", "bias") if old is not None and _is_plain(old, name))
        for name in self._identity:
            value = getattr(old, name)
            vars(self)[name] = torch.full((), float(name == "weight"), dtype=value.dtype, device=value.device)
            vars(self)[name] = vars(self)[name].expand(value.shape)
        for name, value in vars(old).items() if old is not None else ():
            if (
                not name.startswith("_")
                and isinstance(value, _SETTING)
                and name not in ("training", "returns", "copied", "argument")
            ):
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tensor that would have been normalized."""
        if len(args) > self.returns:
            return pass_on(args[self.returns], self.copied)
        return pass_on(kwargs[self.argument] if self.argument in kwargs else next(iter(kwargs.values())), self.copied)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        for name in self._identity:  # they are moved and converted like parameters
            vars(self)[name] = fn(vars(self)[name])
        return super()._apply(fn, recurse)

    def reset_parameters(self) -> None:
        """Do nothing: there is nothing left to reset."""

    def reset_running_stats(self) -> None:
        """Do nothing: there is nothing left to reset."""

    def extra_repr(self) -> str:
        """Name what was deleted."""
        return self.deleted


def _is_plain(module: nn.Module, name: str) -> bool:
    value = module._parameters.get(name)
    return value is not None and not nn.parameter.is_lazy(value)


class ReplacedActivation(_DropsKeys):
    """An activation in place of one that had parameters (PReLU): old checkpoints still load, its keys are ignored."""

    def __init__(self, activation: nn.Module, old_keys: Iterable[str]) -> None:
        super().__init__(old_keys)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the new activation."""
        result: torch.Tensor = self.activation(x)
        return result


class InPlace(nn.Module):
    """Writes an activation's result into its input, as the in-place operator did that it replaces."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x``, changed."""
        return x.copy_(self.activation(x.clone()))


@dataclass(frozen=True)
class ForgetTensors:
    """Amendment for a norm with more inside (BatchNormAct2d): its own tensors are gone, their old keys are ignored."""

    names: tuple[str, ...]

    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        """Return the loading method of the amended class."""
        names = self.names

        def _load_from_state_dict(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
            for name in names:
                state_dict.pop(prefix + name, None)
            cls._load_from_state_dict(module, state_dict, prefix, *rest)
            # A BatchNorm puts its counter into checkpoints of before there was one.
            _, _, _, unexpected, _ = rest
            unexpected[:] = [key for key in unexpected if key not in {prefix + name for name in names}]

        return {"_load_from_state_dict": _load_from_state_dict}


def keep_hooks(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give a stand-in the hooks and the mode of the module that it replaces."""
    for name in _HOOKS:
        vars(new)[name] = vars(old)[name]
    return new.train(old.training)
