"""Forces are minus the derivative of the energy with respect to the positions: F = -dE/dx, by central differences."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.checks.failing import first_line, raise_if_memory
from dcsurgery.checks.functional import Function
from dcsurgery.report import Check

__all__ = ["Recognised", "check_forces", "recognise_forces"]

NAME = "forces"
LIMIT = 1e-5  # of the largest force: central differences are good to about 1e-8 of the energy
_DIRECTIONS = 3
# Of the positions. A smaller one follows where the first does not agree: the forces of IReLU have kinks, and a step over one
# is off by its length, while wrong forces are off by the same amount at every step.
_STEPS = (1e-4, 1e-5, 1e-6)
_ROUNDINGS = 8  # units in the last place of the energies that a difference may be off
_BLUR = 1e-2  # of the forces: differences that are rounded more coarsely say nothing
_SINGLE = 90  # components that are looked at one by one to name the place
_ENERGY = re.compile(r"(.*[^a-z])?(energy|e|u|y)([^a-z].*)?")
_FORCES = re.compile(r"(.*[^a-z])?(forces?|f)([^a-z].*)?")
_POSITIONS = re.compile(r"(.*[^a-z])?(pos(itions?)?|coord(inate)?s?|xyz|x|r)([^a-z].*)?")


@dataclass(frozen=True)
class Recognised:
    """Which outputs are energy and forces, which input the positions, and by what that was told."""

    energy: str
    forces: str
    positions: str
    rule: str


def recognise_forces(outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Recognised | None:
    """Find energy, forces and positions by name and shape, None where there are none.

    By name: entries called ``energy`` and ``forces`` (or ``E`` and ``F``). By shape, in a tuple: a tensor of the shape of
    an input, behind one of another shape.
    """
    named = {name: _last(name) for name in outputs}
    energy = next((n for n, last in named.items() if _ENERGY.fullmatch(last)), None)
    forces = next((n for n, last in named.items() if _FORCES.fullmatch(last)), None)
    if energy is not None and forces is not None:
        positions = _positions(outputs[forces], inputs)
        return None if positions is None else Recognised(energy, forces, positions, "by the outputs' names")
    in_tuple = [name for name in outputs if re.fullmatch(r"output\[\d+\]", name)]
    for first in in_tuple:
        for other in in_tuple:
            positions = None if other == first else _positions(outputs[other], inputs)
            same = outputs[first].shape == outputs[other].shape
            if positions is not None and not same and outputs[other].dim() > 1:
                return Recognised(first, other, positions, f"{other} has the shape of {positions}")
    return None


def _last(name: str) -> str:
    return re.split(r"[\[\].']+", name.rstrip("]'"))[-1].lower()


def _positions(forces: Tensor, inputs: Mapping[str, Tensor]) -> str | None:
    fitting = [name for name, tensor in inputs.items() if tensor.shape == forces.shape]
    return next((n for n in fitting if _POSITIONS.fullmatch(_last(n))), fitting[0] if fitting else None)


def check_forces(edited: nn.Module, example_inputs: Any, original: nn.Module | None = None) -> Check:
    """Compare the forces that a model returns with differences of its energy, in float64."""
    try:
        function = Function.of(edited, example_inputs)
        outputs = function.run()
        found = recognise_forces(outputs, function.inputs)
        if found is None:
            return Check(NAME, "skip", reason="the output has no energy and forces, by name or by shape")
        check = _compare(function, outputs, found)
    except Exception as error:  # noqa: BLE001 - a model may refuse float64 in any way
        raise_if_memory(error)
        return Check(NAME, "skip", reason=f"the model does not run in float64 ({first_line(error)})")
    if check.status == "fail" and original is not None:
        before = check_forces(original, example_inputs)
        if before.status == "fail":  # forces of a direct head, for instance
            return Check(
                NAME, "skip", before.figure, LIMIT, "the original's forces are no derivative of its energy, either"
            )
    return check


def _compare(function: Function, outputs: dict[str, Tensor], found: Recognised) -> Check:
    forces = outputs[found.forces].detach()
    largest = float(forces.abs().max()) if forces.numel() else 0.0
    told = f"E is {found.energy}, F {found.forces}, x {found.positions} ({found.rule})"
    if not bool(torch.isfinite(forces).all()) or largest < 1e-12:
        return Check(NAME, "skip", reason=f"the forces are zero or not finite; {told}")
    position = function.inputs[found.positions].detach().clone()
    length = max(1.0, float(position.abs().mean()))

    def energy(x: Tensor) -> float:
        with torch.no_grad():
            function.inputs[found.positions].copy_(x)
        return float(function.run()[found.energy].detach().sum())

    def slope(direction: Tensor, step: float) -> float:
        # Richardson: the error of fourth order is below the limit for smooth models, also near cutoffs.
        first = (energy(position + step * direction) - energy(position - step * direction)) / (2 * step)
        second = (energy(position + 2 * step * direction) - energy(position - 2 * step * direction)) / (4 * step)
        return (4 * first - second) / 3

    # Energies are rounded, so that differences of them are no better than this, however small the forces are.
    size = float(outputs[found.energy].detach().abs().sum())
    worst = math.inf
    for step in (length * part for part in _STEPS):
        rounding = _ROUNDINGS * torch.finfo(torch.float64).eps * size / step
        generator = torch.Generator().manual_seed(0)
        errors = []
        for _ in range(_DIRECTIONS):
            direction = torch.randn(forces.shape, generator=generator, dtype=torch.float64).to(forces)
            projected = float((forces * direction).sum())
            scale = float((forces * direction).abs().sum())
            if rounding > (_BLUR if worst == math.inf else LIMIT) * scale:
                break
            errors.append(max(0.0, abs(projected + slope(direction, step)) - rounding) / scale)
        if len(errors) < _DIRECTIONS:
            break
        worst = min(worst, max(errors))
        if worst <= LIMIT:
            return Check(NAME, "pass", worst, LIMIT, told)
    if worst == math.inf:
        told = f"the forces, {largest:.2g}, are too small beside the energy, {size:.2g}, for differences; {told}"
        return Check(NAME, "skip", reason=told)
    where = _where(forces, lambda direction: slope(direction, length * _STEPS[0]))
    return Check(NAME, "fail", worst, LIMIT, f"{found.forces} is not -dE/dx{where}; {told}")


def _where(forces: Tensor, slope: Any) -> str:
    """Name the component that is furthest off, among the largest ones."""
    order = forces.abs().reshape(-1).argsort(descending=True)[:_SINGLE].tolist()
    worst, place, text = -1.0, None, ""
    for index in order:
        direction = torch.zeros_like(forces).reshape(-1)
        direction[index] = 1
        expected = -slope(direction.reshape(forces.shape))
        value = float(forces.reshape(-1)[index])
        if abs(value - expected) > worst:
            worst = abs(value - expected)
            place = [int(i) for i in torch.unravel_index(torch.tensor(index), forces.shape)]
            text = f": {place} is {value:.4g}, expected {expected:.4g}"
    return text if place is not None else ""
