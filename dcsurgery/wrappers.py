"""Wrapped models: what has to be taken off before an edit, and why."""

from __future__ import annotations

from torch import nn

from dcsurgery.errors import Refused
from dcsurgery.subclass import original_class

__all__ = ["refuse_wrapped"]

_UNWRAP = "edit the model inside, then wrap the result again"

#: Class name with the start of its module, what is wrong with editing it, and what to do instead.
_REFUSED = (
    (
        "torch.nn.parallel.distributed",
        "DistributedDataParallel",
        "it has spread the parameters over its buckets, and would wait for gradients of deleted ones",
        f"{_UNWRAP}: dcs.transform(model.module, …)",
    ),
    (
        "torch.distributed.fsdp",
        "FullyShardedDataParallel",
        "its parameters are pieces of flattened ones, so that no layer's can be deleted or kept by name",
        _UNWRAP,
    ),
)
_QUANTIZED = ("torch.ao.nn.quantized.modules.", "torch.ao.nn.intrinsic.quantized.", "torch.nn.quantized.")


def refuse_wrapped(model: nn.Module) -> None:
    """Raise for wrappers and layers whose inside cannot be edited in place.

    ``torch.compile`` and ``DataParallel`` can stay on: the first compiles anew, the second copies the edited model.

    Raises
    ------
    Refused
        The message names the module and the way round.
    """
    for path, module in model.named_modules():
        cls = original_class(module)
        where = path or "(model)"
        for home, name, reason, fix in _REFUSED:
            if any(c.__name__ == name and c.__module__.startswith(home) for c in cls.__mro__):
                raise Refused(f"a {name} is not edited: {reason}", where=where, fix=fix)
        if cls.__module__.startswith(_QUANTIZED):
            raise Refused(
                f"{cls.__name__} computes with integers and has no derivatives, which an edited activation needs",
                where=where,
                fix="edit the floating-point model, then quantize the result",
            )
