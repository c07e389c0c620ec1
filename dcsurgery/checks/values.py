"""The edited model computes what the original computes with other kernels: values and derivatives, to rounding."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.capture.recorded import Recording
from dcsurgery.checks.failing import first_line, raise_if_memory
from dcsurgery.checks.functional import Derivatives, Function, derivatives_of
from dcsurgery.checks.outputs import refusal
from dcsurgery.checks.rounding import coarsest_rounding
from dcsurgery.checks.running import run
from dcsurgery.checks.sizes import resized
from dcsurgery.checks.suspects import suspects
from dcsurgery.errors import BadInput
from dcsurgery.plans import Edit
from dcsurgery.report import Check
from dcsurgery.witness import Witness

__all__ = ["Deviation", "check_sizes", "check_values", "largest_deviation"]

NAME = "value witness"
SIZES = "other size"
LIMIT = 1e-12
_ROUNDINGS = 1e3
_SMALL = 1e-3  # of the largest: a smaller tensor is compared on this scale
# Roundings of the largest: less than that is left where large numbers cancel, as a bias's derivatives before a norm do.
_CANCELLED = 64 * torch.finfo(torch.float64).eps
_ILL = 1e-3  # what differs by less may be a matter of rounding: that is looked into
_NOISES = 30.0  # an operation rounds as a change of the last bit does, and there are many of them
_ORDERS = ("values", "1st derivatives", "2nd derivatives", "3rd derivatives")


@dataclass(frozen=True)
class Deviation:
    """The largest relative deviation of one set of tensors, and where it is."""

    figure: float
    place: str = ""


def largest_deviation(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    size: float = 0.0,
    noise: Mapping[str, float] | None = None,
) -> Deviation:
    """Compare tensors by name; each on the scale of its largest value, small ones on that of the largest of all.

    ``size`` is that of what they were computed from: derivatives that are all zero have no scale of their own. Differences
    up to a tensor's ``noise`` do not count.
    """
    largest = max(size, _size(expected))
    worst = Deviation(0.0)
    for name, tensor in expected.items():
        other = found.get(name)
        if other is None or other.shape != tensor.shape:
            shape = "missing" if other is None else f"of shape {tuple(other.shape)}"
            return Deviation(math.inf, f"{name} is {shape}, expected {tuple(tensor.shape)}")
        if not tensor.numel():
            continue
        scale = max(float(tensor.abs().max()), _SMALL * largest)
        difference = (other.detach() - tensor).abs()
        ignored = max(_CANCELLED * largest, 0.0 if noise is None else noise.get(name, 0.0))
        difference = difference.where(~(difference <= ignored), 0.0)
        figure = float(difference.max()) / scale if scale else (math.inf if bool(difference.any()) else 0.0)
        figure = math.inf if math.isnan(figure) else figure
        if figure > worst.figure:
            index = tuple(int(i) for i in torch.unravel_index(difference.nan_to_num(math.inf).argmax(), tensor.shape))
            worst = Deviation(figure, f"{name}{list(index) if index else ''}")
    return worst


def _size(tensors: Mapping[str, Tensor]) -> float:
    return max((float(t.abs().max()) for t in tensors.values() if t.numel()), default=0.0)


def check_values(
    original: nn.Module,
    edited: nn.Module,
    edits: Collection[Edit],
    recording: Recording,
    example_inputs: Any,
    order: int = 3,
    *,
    other_inputs: bool = False,
) -> Check:
    """Compare the edited model with the value witness, in float64.

    Parameters
    ----------
    original, edited
        The models.
    edits
        What was edited.
    recording
        A recorded run of the original.
    example_inputs
        See `take_census`.
    order
        Highest derivative.
    other_inputs
        The inputs are not those of the recorded run: sites may run less often.
    """
    try:
        witnessed, edited_one = Function.of(original, example_inputs), Function.of(edited, example_inputs)
    except BadInput as error:
        return Check(NAME, "skip", reason=error.message)
    # An edit that changes weights rounds them in the type that the model has, and takes derivatives by other numbers.
    changed = {str(edit.settings["into"]) for edit in edits if "into" in edit.settings}
    limit = max(LIMIT, _ROUNDINGS * _precision(original)) if changed else LIMIT
    both = [
        name
        for name in witnessed.parameters()
        if name in edited_one.parameters() and name.rpartition(".")[0] not in changed
    ]
    try:
        expected, missed = _witnessed(
            witnessed, edits, recording, example_inputs, both, order, other_inputs=other_inputs
        )
    except Exception as error:  # noqa: BLE001 - a model may refuse float64 in any way
        raise_if_memory(error)
        return Check(NAME, "skip", reason=f"the original does not run in float64 ({first_line(error)})")
    if missed:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(missed.items())[:3])
        return Check(NAME, "skip", reason=f"{len(missed)} sites have no witness: {told}")
    reason = refusal(expected.values)
    if reason:
        return Check(NAME, "skip", reason=f"{reason}: a comparison would show nothing")
    try:
        found = _derivatives(edited_one, edited_one.run(), both, order)
    except Exception as error:  # noqa: BLE001
        raise_if_memory(error)
        return Check(
            NAME, "fail", None, limit, f"the original runs in float64, the edited model does not ({first_line(error)})"
        )
    check = _compare(found, expected, limit)
    if check.status == "fail" and limit < (check.figure or 0.0) < 1.0:
        unit = coarsest_rounding(witnessed)
        if (
            limit < _ROUNDINGS * unit
        ):  # rounding alone may differ as much: who is right in the last bit is decided there
            check = _compare(found, expected, _ROUNDINGS * unit)
            check = replace(check, reason=f"{check.reason}; the original rounds to {unit:.1e} inside")
    if check.status == "fail" and limit < (check.figure or 0.0) < _ILL:
        noise = _noise(edited_one, found, both, order)
        if _compare(found, expected, limit, noise).status == "pass":
            reason = f"{check.reason}, by no more than what the last bit of the weights changes there"
            return Check(NAME, "pass", check.figure, limit, reason)
    if check.status == "fail":
        places = suspects(edited, edits)
        return replace(check, reason=f"{check.reason}; {places}") if places else check
    return check


def check_sizes(
    original: nn.Module, edited: nn.Module, edits: Collection[Edit], recording: Recording, example_inputs: Any
) -> Check:
    """Compare with the witness on inputs of another size: nothing of the edit may depend on the one it was made with."""
    other, what = resized(example_inputs)
    if other is None:
        return Check(SIZES, "skip", reason=what)
    try:
        run(original, other)
    except BadInput as error:
        return Check(SIZES, "skip", reason=f"the original does not run on {what}: {error.message[:120]}")
    check = check_values(original, edited, edits, recording, other, order=0, other_inputs=True)
    return Check(SIZES, check.status, check.figure, check.limit, f"{what}: {check.reason}")


def _witnessed(
    function: Function,
    edits: Collection[Edit],
    recording: Recording,
    example_inputs: Any,
    names: list[str],
    order: int,
    *,
    other_inputs: bool,
) -> tuple[Derivatives, dict[str, str]]:
    with Witness(function.model, edits, recording, example_inputs) as witness:
        # Derivatives inside, too: checkpointed parts run again for them.
        expected = _derivatives(function, function.run(witness), names, order)
    return expected, witness.missed(other_inputs=other_inputs)


def _derivatives(function: Function, outputs: dict[str, Tensor], names: list[str], order: int) -> Derivatives:
    parameters = function.parameters()
    return derivatives_of(outputs, {**function.inputs, **{name: parameters[name] for name in names}}, order)


def _noise(function: Function, found: Derivatives, names: list[str], order: int) -> list[dict[str, float]]:
    """Return, for values and each order, how much changes with the last bit of inputs and parameters, tensor by tensor.

    Squares of squares, differences of near numbers and kinks multiply what each operation rounds: two programs that
    compute the same cannot agree better than this.
    """
    generator = torch.Generator().manual_seed(0)
    eps = torch.finfo(torch.float64).eps
    with torch.no_grad():
        for tensor in (*function.inputs.values(), *function.parameters().values()):
            signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
            tensor.mul_(1 + eps * signs)
    moved = _derivatives(function, function.run(), names, order)
    pairs = [(found.values, moved.values), *zip(found.orders, moved.orders, strict=False)]
    return [
        {
            name: _NOISES * float((tensor - theirs[name]).abs().max())
            for name, tensor in mine.items()
            if tensor.numel() and name in theirs and theirs[name].shape == tensor.shape
        }
        for mine, theirs in pairs
    ]


def _compare(
    found: Derivatives, expected: Derivatives, limit: float, noise: list[dict[str, float]] | None = None
) -> Check:
    told, worst, size = [], Deviation(0.0), 0.0
    pairs = [(found.values, expected.values), *zip(found.orders, expected.orders, strict=False)]
    for index, (what, (mine, theirs)) in enumerate(zip(_ORDERS, pairs, strict=False)):
        if any(not bool(torch.isfinite(t).all()) for t in theirs.values()):
            told.append(f"{what}: the witness's are not finite")
            break
        ignored = None if noise is None or index >= len(noise) else noise[index]
        deviation = largest_deviation(mine, theirs, 0.0 if _size(theirs) else size, ignored)
        size = max(size, _size(theirs))
        if deviation.figure > limit:
            return Check(NAME, "fail", deviation.figure, limit, f"{what} differ at {deviation.place}")
        told.append(f"{what} {deviation.figure:.1e}")
        worst = max(worst, deviation, key=lambda d: d.figure)
    else:
        if len(found.orders) < len(expected.orders) and any(
            bool(t.any()) for t in expected.orders[len(found.orders)].values()
        ):
            return Check(NAME, "fail", None, limit, f"the edited model has fewer derivatives: {found.stopped}")
        if expected.stopped:
            told.append(expected.stopped)
    return Check(NAME, "pass", worst.figure, limit, ", ".join(told))


def _precision(model: nn.Module) -> float:
    return max((torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()), default=0.0)
