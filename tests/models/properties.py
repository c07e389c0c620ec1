"""What holds for every hard case, whatever it hides: called by the tests of the parts that have to see to it."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import torch
from exam.running import tensors
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

import dcsurgery as dcs
from dcsurgery.census import Census, take_census
from dcsurgery.example_inputs import arguments, fresh
from dcsurgery.plans import Plan
from dcsurgery.subclass import amendments_of
from dcsurgery.surgery import Surgery
from models.case import Case, build
from models.hard_cases import ALL

__all__ = [
    "empty_plan_is_the_identity",
    "follows_the_hand_written_model",
    "is_read_off_the_source",
    "leaves_the_original_alone",
    "operated",
    "replays_on_other_weights",
    "same_bits",
    "survives_copies_and_files",
    "values",
]


def case_of(which: str | Case) -> Case:
    """Return a case, or the one of the default suite that has this name."""
    return which if isinstance(which, Case) else ALL[which]


def operated(which: str | Case) -> tuple[nn.Module, Surgery]:
    """Return a case's model and its surgery, made once."""
    return _operated(case_of(which))


@functools.cache
def _operated(case: Case) -> tuple[nn.Module, Surgery]:
    model = build(case)
    return model, dcs.transform(model, example_inputs=case.inputs, **case.options)


def values(function: Callable[..., Any], inputs: Any, *first: Any) -> list[Tensor]:
    """Return the tensors that a function returns for example inputs, always with the same random numbers."""
    args, kwargs = arguments(fresh(inputs))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(tensors(function(*first, *args, **kwargs)))


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    """Say whether two lists of tensors are equal to the last bit."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _derivatives(function: Callable[..., Any], model: nn.Module, inputs: Any, *first: Any) -> list[Tensor]:
    """Return first derivatives, and the derivatives of their squares: what training on forces needs."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    inputs = pytree.tree_map_only(
        Tensor, lambda t: t.detach().clone().requires_grad_(t.is_floating_point() and not t.is_sparse), fresh(inputs)
    )
    wanted += [t for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor) and t.requires_grad]
    args, kwargs = arguments(inputs)
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        torch.manual_seed(0)
        outputs = [o.to_dense() for o in tensors(function(*first, *args, **kwargs)) if o.is_floating_point()]
    total = torch.stack([(o * torch.linspace(1, 2, o.numel()).view_as(o)).sum() for o in outputs]).sum()
    one = torch.autograd.grad(total, wanted, create_graph=True, allow_unused=True, materialize_grads=True)
    square = torch.stack([g.square().sum() for g in one]).sum()
    two = torch.autograd.grad(square, wanted, allow_unused=True, materialize_grads=True)
    return [*one, *two]


def _gone(surgery: Surgery, model: nn.Module) -> nn.Module:
    """Return the model without the parameters that the surgery deleted, so that those of both models are in step."""
    remaining = copy.deepcopy(model)
    for key in surgery.key_map.deleted:
        owner, _, name = key.rpartition(".")
        remaining.get_submodule(owner)._parameters.pop(name, None)
    return remaining


def _classes(model: nn.Module) -> list[tuple[str, str, tuple[Any, ...]]]:
    # Every GraphModule has a class of its own, so that only the names can be equal.
    return [(path, type(m).__qualname__, amendments_of(m)) for path, m in model.named_modules()]


def _close(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


def follows_the_hand_written_model(which: str | Case) -> None:
    """Values, gradients and double backward, in train and eval mode, on reached and not reached branches."""
    case = case_of(which)
    model, surgery = operated(case)
    assert surgery.report.ok, str(surgery.report)
    assert len(surgery.plan.edits) == case.edits, str(surgery.plan)
    assert not surgery.plan.unedited
    assert surgery.report["value witness"].status == ("pass" if case.witnessed else "skip"), str(surgery.report)
    for training in (True, False):
        for inputs in (case.inputs, *(case.other_inputs or ())):
            edited = copy.deepcopy(surgery.model).train(training)
            reference = copy.deepcopy(model).train(training)
            expected = values(case.by_hand, inputs, copy.deepcopy(reference))
            assert any(bool(t.any()) for t in expected), "the comparison would show nothing"
            _close(values(copy.deepcopy(edited), inputs), expected)
            if case.differentiable:
                remaining = _gone(surgery, reference)
                found = _derivatives(edited, edited, inputs)
                _close(found, _derivatives(case.by_hand, remaining, inputs, remaining))


def leaves_the_original_alone(which: str | Case) -> None:
    """The argument of `transform` computes, and looks, like a model that was never shown to it."""
    case = case_of(which)
    model, surgery = operated(case)
    untouched = build(case)
    assert _classes(model) == _classes(untouched)
    assert same_bits(values(copy.deepcopy(model), case.inputs), values(untouched, case.inputs))
    kept = {k: v for k, v in model.state_dict().items() if k not in surgery.key_map.deleted}
    assert list(kept) == list(surgery.model.state_dict())
    assert same_bits(list(tensors(kept)), list(tensors(surgery.model.state_dict())))


def survives_copies_and_files(which: str | Case) -> None:
    """A deep copy and a reloaded pickle compute the same bits; the original's checkpoint loads, strictly."""
    case = case_of(which)
    model, surgery = operated(case)
    edited = copy.deepcopy(surgery.model)
    expected = values(copy.deepcopy(edited), case.inputs)
    copied = copy.deepcopy(edited)
    assert all(a is not b for a, b in zip(copied.parameters(), edited.parameters(), strict=True))
    assert same_bits(values(copied, case.inputs), expected)
    if case.pickles:
        stream = io.BytesIO()
        torch.save(edited, stream)
        stream.seek(0)
        restored = torch.load(stream, weights_only=False)
        assert isinstance(restored, nn.Module if isinstance(model, fx.GraphModule) else type(model))
        assert same_bits(values(restored, case.inputs), expected)
    edited.load_state_dict(build(case).state_dict(), strict=True)
    assert same_bits(values(edited, case.inputs), expected)


def replays_on_other_weights(which: str | Case) -> None:
    """The plan, through YAML, edits another instance; undoing that gives the instance back."""
    case = case_of(which)
    _, surgery = operated(case)
    plan = Plan.from_yaml(surgery.plan.to_yaml())
    assert plan == surgery.plan
    other = build(case, seed=7).eval()
    _close(values(dcs.apply(other, plan).model, case.inputs), values(case.by_hand, case.inputs, other))
    before = values(copy.deepcopy(other), case.inputs)
    inplace = dcs.apply(other, plan, inplace=True)
    assert inplace.model is other
    assert inplace.undo() is other
    assert _classes(other) == _classes(build(case))
    assert same_bits(values(other, case.inputs), before)


def is_read_off_the_source(which: str | Case) -> None:
    """Without example inputs the same sites are found, and the edited model computes the same bits."""
    case = case_of(which)
    found, ran = _sites(take_census(build(case), graphs=False)), _sites(take_census(build(case), case.inputs))
    assert found == ran
    surgery = dcs.transform(build(case), **case.options)
    assert len(surgery.plan.edits) == case.edits
    _, proven = operated(case)  # shared with other tests: a run in training mode moves its statistics
    assert same_bits(values(surgery.model, case.inputs), values(copy.deepcopy(proven.model), case.inputs))


def _sites(census: Census) -> dict[str, tuple[str, ...]]:
    return {s.name: (s.role, s.operator, s.how) for s in census if s.role in ("activation", "normalization")}


def empty_plan_is_the_identity(which: str | Case) -> None:
    """No edits, no difference: values and gradients, train and eval, to the last bit."""
    case = case_of(which)
    model = build(case)
    same = dcs.transform(model, irelu=False, denorm=False).model
    for training in (True, False):
        before, after = copy.deepcopy(model).train(training), copy.deepcopy(same).train(training)
        assert same_bits(values(after, case.inputs), values(before, case.inputs))
        if case.differentiable:
            assert same_bits(_derivatives(after, after, case.inputs), _derivatives(before, before, case.inputs))
