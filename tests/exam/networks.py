"""Judge one random network: the edited model against the reference, the value witness and, on a share, everything."""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import time
from typing import Any

import torch
from models import random_networks
from models.random_networks import Description, reference
from models.ways import WAYS
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

import dcsurgery as dcs
from dcsurgery.errors import CheckFailed
from dcsurgery.plans import Plan
from dcsurgery.surgery import Surgery
from exam.case import Case
from exam.examining import Judgement, Verdict, judge
from exam.running import mapped, tensors

__all__ = ["judge_network"]

_CLOSE = 1e-9  # of the largest derivative: what rounding leaves after a few layers of squares
_CANCELLED = 1e-14  # of the largest value or derivative before: what is left where large numbers cancel
_NOISES = 30.0  # changes of the last bit: so much do roundings inside add up to
_ORDERS = 3

_SHARE = 12  # of this many networks, about one is judged as all models of the exam are


def judge_network(description: Description) -> Verdict:
    """Edit a network as its description asks, and judge the result.

    Always: the report (residual, value witness), the reference to third derivatives, and one further way of getting to
    the same model: without example inputs, by a plan through YAML on another instance, edited in place and taken back, or
    reloaded. A share, chosen by the description: all that the exam asks of a model.
    """
    digest = hashlib.sha256(repr(description).encode()).hexdigest()
    case = Case("random networks", digest[:12], lambda: random_networks.build(description)[0], lambda: ())
    begin = time.monotonic()
    network, inputs = random_networks.build(description)
    if int(digest, 16) % _SHARE == 0:
        case = Case(
            case.family,
            case.name,
            lambda: random_networks.build(description)[0],
            lambda: inputs,
            random_networks.options_of(description),
            training=description.training,
            edits=len(_plan(description, network, inputs).edits),
        )
        found = list(judge(case).judgements)
    else:
        found = []
    try:
        surgery = dcs.transform(
            network, example_inputs=inputs, allow_empty=True, **random_networks.options_of(description)
        )
    except CheckFailed as error:
        found.append(Judgement("residual", "fail", str(error)))
        return Verdict(case, tuple(found), time.monotonic() - begin)
    witness = surgery.report["value witness"]
    found.append(Judgement("value witness", witness.status, witness.reason if witness.status != "pass" else ""))
    for name, judgement in (
        ("by hand", functools.partial(_by_hand, description, network, surgery, inputs)),
        _further(description, network, surgery, inputs),
    ):
        wrong = judgement()
        found.append(Judgement(name, "fail" if wrong else "pass", wrong))
    return Verdict(case, tuple(found), time.monotonic() - begin)


def _plan(description: Description, network: nn.Module, inputs: Any) -> Plan:
    return dcs.plan(network, example_inputs=inputs, allow_empty=True, **random_networks.options_of(description))


def _by_hand(description: Description, network: nn.Module, surgery: Surgery, inputs: Any) -> str:
    """Values and derivatives of the reference, by inputs and by every weight that is left."""
    kept = [name for name, _ in network.named_parameters() if name not in surgery.key_map.deleted]
    edited = copy.deepcopy(surgery.model)
    mine = _derivatives(edited, kept, inputs, edited)
    original = copy.deepcopy(network)
    theirs = _derivatives(original, kept, inputs, functools.partial(reference, description, original))
    if len(mine) < len(theirs):
        before = copy.deepcopy(network)
        if len(mine) < len(_derivatives(before, kept, inputs, before)):
            return f"the edited model has {len(mine) - 1} derivatives only"
    size = 0.0
    for order, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        scale = max((float(t.abs().max()) for t in b), default=0.0)
        size = max(size, scale)
        largest = max((float((x - y).abs().max()) for x, y in zip(a, b, strict=True)), default=0.0)
        if not largest <= _CLOSE * scale + _CANCELLED * size:
            if largest <= _NOISES * _noise(edited, kept, inputs, mine, order):
                continue
            return f"order {order}: {largest:.3g} off, of {scale:.3g}"
    return ""


def _noise(edited: nn.Module, names: list[str], inputs: Any, mine: list[list[Tensor]], order: int) -> float:
    """Return how much the derivatives of one order change with the last bit of the weights."""
    moved = copy.deepcopy(edited)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + torch.finfo(parameter.dtype).eps)
    pairs = zip(mine[order], _derivatives(moved, names, inputs, moved)[order], strict=True)
    return max((float((x - y).abs().max()) for x, y in pairs), default=0.0)


def _derivatives(model: nn.Module, names: list[str], inputs: Any, function: Any) -> list[list[Tensor]]:
    """Return outputs, then the derivatives of a fixed combination of them, of one of these, and so on."""
    parameters = dict(model.named_parameters())
    leaves = [parameters[name] for name in names]

    def variable(tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    args = mapped(inputs, variable)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        current = list(tensors(function(*args)))
    found = [[t.detach() for t in current]]
    for order in range(_ORDERS):
        total = sum((t * torch.linspace(1, 2 + order, t.numel()).view_as(t)).sum() for t in current if t.requires_grad)
        if not isinstance(total, Tensor):
            found.append([torch.zeros_like(leaf) for leaf in leaves])
            continue
        again = order + 1 < _ORDERS
        try:
            current = list(
                torch.autograd.grad(total, leaves, create_graph=again, allow_unused=True, materialize_grads=True)
            )
        except CheckpointError:  # some checkpoints, of views changed in place, can be gone through once only
            break
        found.append([t.detach() for t in current])
    return found


def _further(description: Description, network: nn.Module, surgery: Surgery, inputs: Any) -> tuple[str, Any]:
    """Choose, by the description, one more way to the edited model."""
    ways = [WAYS[way] for way in description.ways()]
    options = [("keys", functools.partial(_replayed, description, surgery, inputs))]
    options.append(("undo", functools.partial(_undone, network, surgery, inputs)))
    if all(way.static for way in ways):
        options.append(("sites", functools.partial(_static, description, network, surgery, inputs)))
    if all(way.pickles for way in ways):
        options.append(("reload", functools.partial(_reloaded, surgery, inputs)))
    return options[description.seed % len(options)]


def _values(model: nn.Module, inputs: Any) -> list[Tensor]:
    return [t.detach() for t in tensors(copy.deepcopy(model)(*mapped(inputs, torch.clone)))]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _replayed(description: Description, surgery: Surgery, inputs: Any) -> str:
    """The plan, written to YAML and read, edits another instance; with the original's weights it is the same model."""
    other, _ = random_networks.build(description)
    plan = Plan.from_yaml(surgery.plan.to_yaml())
    if plan != surgery.plan:
        return "the plan changed on its way through YAML"
    edited = dcs.apply(other, plan).model
    return "" if _same(_values(edited, inputs), _values(surgery.model, inputs)) else "another instance differs"


def _undone(network: nn.Module, surgery: Surgery, inputs: Any) -> str:
    """Edited in place and taken back, a copy is the original; so is one with an empty plan."""
    before = _values(network, inputs)
    copied = copy.deepcopy(network)
    if not _same(_values(dcs.apply(copied, surgery.plan, inplace=True).undo(), inputs), before):
        return "undo does not give the original back"
    same = dcs.transform(network, irelu=False, denorm=False).model
    return "" if _same(_values(same, inputs), before) else "an empty plan changes the outputs"


def _static(description: Description, network: nn.Module, surgery: Surgery, inputs: Any) -> str:
    """Without example inputs, the same edits are planned and give the same model."""
    edited = dcs.transform(network, allow_empty=True, **random_networks.options_of(description)).model
    return "" if _same(_values(edited, inputs), _values(surgery.model, inputs)) else "it differs without example inputs"


def _reloaded(surgery: Surgery, inputs: Any) -> str:
    stream = io.BytesIO()
    torch.save(surgery.model, stream)
    stream.seek(0)
    restored = torch.load(stream, weights_only=False)
    return "" if _same(_values(restored, inputs), _values(surgery.model, inputs)) else "the reloaded model differs"
