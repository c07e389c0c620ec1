"""In the other mode, train or eval, the edited model runs as the original does: same sites, same dropout, same norms."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from dcsurgery.capture.graphs import Key
from dcsurgery.checks.residual import check_others, check_residual
from dcsurgery.checks.running import watched, watched_with_new_values
from dcsurgery.errors import BadInput
from dcsurgery.plans import Plan
from dcsurgery.report import Check
from dcsurgery.tree import Tree

__all__ = ["check_modes", "in_mode"]

NAME = "other mode"
_RANDOM = (
    "native_dropout",
    "bernoulli",
    "rrelu_with_noise",
    "alpha_dropout",
    "feature_dropout",
    "rand",
    "randn",
    "normal",
)


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model in train or eval mode, and every module back to its own afterwards."""
    # Those in plain lists and dicts, too: a train() of the user's own may hand the mode on to them.
    before = [(module, module.training) for module in Tree.of(model).modules.values()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def check_modes(
    original: nn.Module,
    edited: nn.Module,
    plan: Plan,
    selected: set[Key],
    edited_sites: Collection[Key],
    example_inputs: Any,
) -> Check:
    """Run both models in the mode that they are not in, and look for the same things again."""
    training = not original.training
    mode = "train" if training else "eval"
    try:
        with in_mode(original, training=training):
            pass
    except NotImplementedError as error:  # an exported program's mode is fixed
        return Check(NAME, "skip", reason=f"the original has no {mode} mode: {error}")
    with in_mode(original, training=training), in_mode(edited, training=training):
        old = {path: module.training for path, module in original.named_modules()}
        new = {path: module.training for path, module in edited.named_modules()}
        stuck = [path or "the model" for path, flag in old.items() if new.get(path, flag) != flag]
        if stuck:
            return Check(NAME, "fail", len(stuck), 0, f"{', '.join(stuck[:3])}: does not follow .{mode}()")
        try:
            before = watched(original, example_inputs)
        except BadInput as error:
            return Check(NAME, "skip", reason=f"the original does not run in {mode} mode: {error.message[:150]}")
        try:
            after = watched(edited, example_inputs, before.recording.calls)
        except BadInput as error:
            return Check(NAME, "fail", None, 0, f"the original runs in {mode} mode, the edited model does not: {error}")
        others = check_others(before, after, set(edited_sites))
        if others.status == "fail":  # other values may lead another way
            moved = watched_with_new_values(original, plan.edits, before.recording, example_inputs)
            if moved is not None:
                before, others = moved, check_others(moved, after, set(edited_sites))
        residual = check_residual(before, after, selected, plan, edited, example_inputs)
        wrong = [check.reason for check in (residual, others) if check.status == "fail"]
    dead = _missing(before.kernels, after.kernels)
    wrong += [f"{name} ran {count} times less often: dropout is not what it was" for name, count in dead.items()]
    reason = "; ".join(wrong[:3]) if wrong else f"{mode} mode: same sites and {_random(before.kernels)} random kernels"
    return Check(NAME, "fail" if wrong else "pass", len(wrong), 0, reason)


def _random(kernels: Counter[str]) -> int:
    return sum(count for name, count in kernels.items() if name.rstrip("_") in _RANDOM)


def _missing(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    # An RReLU that was replaced drew random numbers of its own.
    names = [name for name in before if name.rstrip("_") in _RANDOM and "rrelu" not in name]
    return {name: before[name] - after[name] for name in names if after[name] < before[name]}
