"""Build a model without drawing weights for it: what a checkpoint holds replaces them all.

Orthogonal weights cost a decomposition for each layer: more than reading the file, for a large GemNet, and many times
more where two processes do so on the same cores.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["undrawn"]

#: The functions of `torch.nn.init` that draw random numbers.
_RANDOM = (
    *("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_"),
    *("kaiming_uniform_", "kaiming_normal_", "orthogonal_", "sparse_"),
)
_TURNS = threading.RLock()  # threads that put back what another had put there would leave its functions behind


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Let constructors leave parameters at zero instead of drawing them, in this thread.

    Parameters only: a table of random numbers that is no parameter is drawn as ever. Functions of `torch.nn.init` that
    were imported by name are not caught, and draw as ever, too.
    """
    with _TURNS:
        before = {name: getattr(nn.init, name) for name in _RANDOM}
        for name, function in before.items():
            setattr(nn.init, name, _skipping(function, threading.get_ident()))
        try:
            yield
        finally:
            for name, function in before.items():
                setattr(nn.init, name, function)


def _skipping(function: Callable[..., torch.Tensor], thread: int) -> Callable[..., torch.Tensor]:
    @functools.wraps(function)
    def skip(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if threading.get_ident() != thread or not isinstance(tensor, nn.Parameter):
            return function(tensor, *args, **kwargs)
        return nn.init.zeros_(tensor)

    return skip
