"""Examine one case: edit the model with everything on, and judge the result from outside."""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

import dcsurgery as dcs
from dcsurgery.errors import CheckFailed
from dcsurgery.surgery import Surgery
from exam.case import Case, build
from exam.running import bits, curvature, equal_bits

__all__ = ["JUDGEMENTS", "Judgement", "Verdict", "judge"]

Bits = list[Tensor | None]
Status = Literal["pass", "fail", "skip"]

#: What each case is judged by, in the order of the table.
JUDGEMENTS = (
    *("sites", "residual", "value witness", "by hand", "keys", "identity", "undo", "reload", "double backward"),
    "checks",
)

_LIMIT = 20.0  # seconds that one case may take before its derivatives are left out
_RESIDUAL = ("residual", "known sites", "other sites", "graph equals plan")
_JUDGED = (*_RESIDUAL, "value witness", "keys", "reload")


@dataclass(frozen=True)
class Judgement:
    """One verdict on one case; ``reason`` says why it failed or was skipped."""

    name: str
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """All judgements on one case, with the seconds that they took."""

    case: Case
    judgements: tuple[Judgement, ...]
    seconds: float

    @property
    def failures(self) -> tuple[Judgement, ...]:
        """What failed."""
        return tuple(j for j in self.judgements if j.status == "fail")


def judge(case: Case) -> Verdict:
    """Edit a case's model and judge the edited one.

    Nothing that dcsurgery does raises here; a model that does not run before it was edited does.
    """
    begin = time.process_time()
    model, inputs = build(case)
    before = {mode: bits(model, inputs, training=mode) for mode in (True, False)}
    state = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    found = [_judged("identity", lambda: _identity(model, inputs, before))]
    try:
        surgery = _operate(model, inputs, case)
    except Exception as error:  # noqa: BLE001 - a traceback out of dcsurgery is a failure to be counted, too
        found.append(Judgement("residual", "fail", f"{type(error).__name__}: {error}"))
        return Verdict(case, _merged(found), time.process_time() - begin)
    found += [
        _judged("sites", lambda: _sites(surgery, case, inputs, before)),
        *_reported(surgery),
        _judged("keys", lambda: _keys(model, state, surgery)),
        _judged("undo", lambda: _undo(model, inputs, before, surgery)),
        _judged("reload", lambda: _reload(model, inputs, surgery)),
    ]
    by_hand = case.by_hand
    if by_hand is not None:
        found.append(_judged("by hand", lambda: by_hand() or ""))
    if time.process_time() - begin > _LIMIT:
        found.append(Judgement("double backward", "skip", f"the case has taken more than {_LIMIT:g} s"))
    elif case.dtype != torch.float64:
        found.append(Judgement("double backward", "skip", "the model does not run in float64"))
    else:
        found.append(_judged("double backward", lambda: _double_backward(model, inputs, surgery)))
    return Verdict(case, _merged(found), time.process_time() - begin)


def _merged(found: list[Judgement]) -> tuple[Judgement, ...]:
    """Return one judgement per name, in their order: a failure where there is one."""
    severity = ("pass", "skip", "fail")
    of_name = {name: [j for j in found if j.name == name] for name in JUDGEMENTS}
    return tuple(max(group, key=lambda j: severity.index(j.status)) for group in of_name.values() if group)


class _Skipped(Exception):
    """A judgement cannot be made, for a reason that is not dcsurgery's."""


def _judged(name: str, judgement: Callable[[], str]) -> Judgement:
    """Make one judgement: an empty string is good, any other says what is wrong."""
    try:
        wrong = judgement()
    except _Skipped as reason:
        return Judgement(name, "skip", str(reason))
    except Exception as error:  # noqa: BLE001 - whatever an edited model raises is a failure of the edit
        wrong = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return Judgement(name, "fail" if wrong else "pass", wrong)


def _operate(model: nn.Module, inputs: Any, case: Case) -> Surgery:
    """Transform a model; where a check fails, the surgery is judged all the same, with the report of that failure."""
    try:
        return dcs.transform(model, example_inputs=inputs, allow_empty=True, **case.options)
    except CheckFailed as error:
        plan = dcs.plan(model, example_inputs=inputs, allow_empty=True, **case.options)
        surgery = dcs.apply(model, plan)
        surgery.report = error.report
        return surgery


def _identity(model: nn.Module, inputs: Any, before: dict[bool, Bits]) -> str:
    """An empty plan gives the same bits, values and gradients, in train and eval mode."""
    same = dcs.transform(model, irelu=False, denorm=False).model
    return "; ".join(
        f"an empty plan changes the {'train' if mode else 'eval'} mode"
        for mode in before
        if not equal_bits(bits(same, inputs, training=mode), before[mode])
    )


def _sites(surgery: Surgery, case: Case, inputs: Any, before: dict[bool, Bits]) -> str:
    """As many edits as there should be; a model without any is untouched."""
    count = len(surgery.plan.edits)
    if case.edits is None:
        return "" if count else "nothing was edited"
    if count != case.edits:
        return f"{count} edits instead of {case.edits}: {', '.join(e.site for e in surgery.plan.edits)}"
    if case.edits == 0 and not all(equal_bits(bits(surgery.model, inputs, training=m), before[m]) for m in before):
        return "nothing was to be edited, and the outputs differ"
    return ""


def _reported(surgery: Surgery) -> list[Judgement]:
    """Take over what the report has checked; a failed check is a failed judgement, whatever its name."""
    checks = {check.name: check for check in surgery.report.checks}
    residual = [checks[name] for name in _RESIDUAL if name in checks]
    failed = [check for check in residual if check.status == "fail"]
    found = [Judgement("residual", "fail" if failed else "pass", "; ".join(f"{c.name}: {c.reason}" for c in failed))]
    for name in ("keys", "reload"):
        check = checks.get(name)
        if check is not None and check.status == "fail":
            found.append(Judgement(name, "fail", check.reason))
    witness = checks.get("value witness")
    if witness is None:
        found.append(Judgement("value witness", "skip", "the report has no such check"))
    else:
        found.append(Judgement("value witness", witness.status, witness.reason))
    others = [c for c in surgery.report.failures if c.name not in _JUDGED]
    found.append(Judgement("checks", "fail" if others else "pass", "; ".join(f"{c.name}: {c.reason}" for c in others)))
    return found


def _keys(model: nn.Module, state: dict[str, torch.Tensor], surgery: Surgery) -> str:
    """Surviving tensors keep key, order, value and sharing; the original's checkpoint loads strictly."""
    edited = surgery.model
    new = edited.state_dict()
    kept = [name for name in model.state_dict() if name not in surgery.key_map.deleted]
    if kept != [name for name in new if name not in surgery.key_map.added]:
        return "the keys, or their order, differ"
    changed = [name for name in kept if name in state and not equal_bits([new[name]], [state[name]])]
    if changed:
        return f"other values: {', '.join(changed[:3])}"
    moved = [
        name for name, value in model.state_dict().items() if name in state and not equal_bits([value], [state[name]])
    ]
    if moved:
        return f"the original's values changed: {', '.join(moved[:3])}"
    if _shared(model, kept) != _shared(edited, kept):
        return "other tensors are shared"
    frozen = {name: p.requires_grad for name, p in model.named_parameters() if name in kept}
    if any(frozen.get(name, p.requires_grad) != p.requires_grad for name, p in edited.named_parameters()):
        return "requires_grad differs"
    missing = edited.load_state_dict(state, strict=False)
    unexpected = [name for name in missing.unexpected_keys if name not in surgery.key_map.deleted]
    absent = [name for name in missing.missing_keys if name in state and name not in surgery.key_map.added]
    return f"the original's checkpoint does not fit: {unexpected + absent}" if unexpected or absent else ""


def _shared(model: nn.Module, keys: list[str]) -> set[frozenset[str]]:
    """Return the groups of keys that hold one tensor."""
    groups: dict[int, set[str]] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if name in keys:
            groups.setdefault(id(tensor), set()).add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def _undo(model: nn.Module, inputs: Any, before: dict[bool, Bits], surgery: Surgery) -> str:
    """Edited in place and taken back, a copy of the model gives the original's bits, keys and classes."""
    other = copy.deepcopy(model)
    back = dcs.apply(other, surgery.plan, inplace=True).undo()
    if back is not other:
        return "undo returned another object"
    if _classes(back) != _classes(model):
        return "other classes"
    if list(back.state_dict()) != list(model.state_dict()):
        return "other keys"
    same = all(equal_bits(bits(back, inputs, training=mode), before[mode]) for mode in before)
    return "" if same else "other bits"


def _classes(model: nn.Module) -> list[Any]:
    # Every GraphModule has a class of its own.
    return [fx.GraphModule if isinstance(m, fx.GraphModule) else type(m) for m in model.modules()]


def _reload(model: nn.Module, inputs: Any, surgery: Surgery) -> str:
    """Pickled and read again, the edited model gives the same bits, in both modes."""
    try:
        _restored(model)
    except Exception as error:
        raise _Skipped(f"the original cannot be pickled ({type(error).__name__})") from error
    restored = _restored(surgery.model)
    if list(restored.state_dict()) != list(surgery.model.state_dict()):
        return "other keys"
    for mode in (True, False):
        if not equal_bits(bits(restored, inputs, training=mode), bits(surgery.model, inputs, training=mode)):
            return f"other bits in {'train' if mode else 'eval'} mode"
    return ""


def _restored(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


def _double_backward(model: nn.Module, inputs: Any, surgery: Surgery) -> str:
    """Second derivatives of the edited model exist, are finite and agree with differences of its gradients."""
    wrong = _disagreement(surgery.model, inputs)
    if wrong:
        before = _disagreement(model, inputs)
        if before:
            raise _Skipped(f"the original, too: {before}")
    return wrong


def _disagreement(model: nn.Module, inputs: Any) -> str:
    try:
        exact, difference, size = curvature(model, inputs)
    except ValueError as error:
        raise _Skipped(str(error)) from error
    except (RuntimeError, NotImplementedError) as error:
        return f"no second derivative: {(str(error).splitlines() or [''])[0][:100]}"
    if not math.isfinite(exact):
        return "the second derivative is not finite"
    if abs(exact - difference) > 1e-4 * size:
        return f"second derivative {exact:.6g} by double backward, {difference:.6g} by differences of gradients"
    return ""
