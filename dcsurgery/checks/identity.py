"""An empty plan gives the original back bit for bit, and so does undoing a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from dcsurgery.checks.failing import raise_if_memory
from dcsurgery.checks.outputs import equal, named_tensors
from dcsurgery.compiling_later import LEFT
from dcsurgery.copying import copied
from dcsurgery.errors import SurgeryError
from dcsurgery.example_inputs import call, preserved
from dcsurgery.plans import Plan
from dcsurgery.report import Check
from dcsurgery.seeding import seeded
from dcsurgery.surgery import apply_plan

__all__ = ["check_identity", "check_undo"]


def check_identity(original: nn.Module, example_inputs: Any) -> Check:
    """Apply a plan without edits; compare outputs and gradients in both modes, bit for bit."""
    try:
        same = apply_plan(original, Plan()).model
    except SurgeryError as error:
        return Check("identity", "skip", reason=error.message)
    modes, compared = {path: module.training for path, module in original.named_modules()}, 0
    try:
        for training in (original.training, not original.training):
            first, again, other = (_bits(model, example_inputs, training) for model in (original, original, same))
            if _difference(first, again):
                return Check("identity", "skip", reason="the original does not repeat itself")
            wrong = _difference(first, other)
            if wrong:
                mode = "train" if training else "eval"
                return Check("identity", "fail", 1, 0, f"without any edit, {wrong} is another one in {mode} mode")
            compared += len(first)
    except Exception as error:  # noqa: BLE001 - in the other mode, a model may raise anything
        text = (str(error).splitlines() or [""])[0]
        return Check("identity", "skip", reason=f"it does not run in both modes ({type(error).__name__}: {text[:100]})")
    finally:
        for path, module in original.named_modules():
            module.training = modes[path]
    return Check("identity", "pass", 0, 0, f"{compared} outputs and gradients, in train and eval mode")


def _bits(model: nn.Module, example_inputs: Any, training: bool) -> dict[str, Tensor]:
    before = {path: module.training for path, module in model.named_modules()}
    try:
        model.train(training)
        with seeded(), preserved(model):
            outputs = dict(named_tensors(call(model, example_inputs)))
            parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
            terms = [t.sum() for t in outputs.values() if t.requires_grad and not t.is_complex()]
            found = {name: t.detach().clone() for name, t in outputs.items()}
            if terms and parameters:
                gradients: tuple[Tensor | None, ...]
                try:
                    gradients = torch.autograd.grad(torch.stack(terms).sum(), [*parameters.values()], allow_unused=True)
                except RuntimeError as error:  # the model writes into what its own backward needs
                    raise_if_memory(error)
                    gradients = (None,) * len(parameters)
                pairs = zip(parameters, gradients, strict=True)
                found |= {f"the gradient of {name}": g for name, g in pairs if g is not None}
    finally:
        for path, module in model.named_modules():
            module.training = before[path]
    return found


def _difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> str:
    if a.keys() != b.keys():
        return ", ".join(sorted(a.keys() ^ b.keys())[:1])
    return next((name for name in a if not equal(a[name], b[name])), "")


def check_undo(original: nn.Module, plan: Plan, example_inputs: Any) -> Check:
    """Apply the plan to a copy, undo it, and compare everything with the original, bit for bit."""
    try:
        surgery = apply_plan(copied(original), plan, inplace=True)
        back = surgery.undo()
    except SurgeryError as error:
        return Check("undo", "skip", reason=error.message)
    wrong = list(_leftovers(copied(original), back))  # a copy may lose attributes by itself: a compiled model's does
    if not wrong:
        first, again, other = (_bits(model, example_inputs, original.training) for model in (original, original, back))
        if _difference(first, again):
            return Check("undo", "skip", reason="the original does not repeat itself")
        difference = _difference(first, other)
        wrong = [f"{difference} is another one"] if difference else []
    reason = "; ".join(wrong[:3]) if wrong else f"{len(plan.edits)} edits undone: same classes, tensors and outputs"
    return Check("undo", "fail" if wrong else "pass", len(wrong), 0, reason)


def _leftovers(original: nn.Module, back: nn.Module) -> Iterator[str]:
    old, new = dict(original.named_modules()), dict(back.named_modules())
    yield from (f"module {path} is there in one only" for path in old.keys() ^ new.keys())
    for path in old.keys() & new.keys():
        # Every GraphModule and every amended module has a class of its own.
        if type(old[path]).__qualname__ != type(new[path]).__qualname__:
            yield f"{path or 'the model'} is a {type(new[path]).__name__}"
        names = (vars(old[path]).keys() ^ vars(new[path]).keys()) - _made_by_compiling(old[path])
        yield from (f"{path or 'the model'} has another attribute {name}" for name in sorted(names))
    before, after = original.state_dict(), back.state_dict()
    yield from (f"tensor {key} is there in one only" for key in before.keys() ^ after.keys())
    for key in before.keys() & after.keys():
        if isinstance(before[key], Tensor) and not equal(before[key], after[key]):
            yield f"tensor {key} has another value"


def _made_by_compiling(module: nn.Module) -> frozenset[str]:
    return frozenset(LEFT) if isinstance(module, fx.GraphModule) else frozenset()
