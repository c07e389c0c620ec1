"""Derivatives of a model against finite differences, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from dcsurgery.copying import in_double
from dcsurgery.example_inputs import arguments, converted, fresh
from dcsurgery.report import Check

__all__ = ["check_derivatives", "check_edit_derivatives"]

_NAMES = {1: "gradcheck", 2: "gradgradcheck", 3: "third derivative"}
_GROUPS = 4
_LIMIT = 1e-7  # of the projected Jacobian, in units of the largest output; differences in float64 are good to 1e-10
_RELATIVE = 1e-3
_CALLS = 8  # of the function, per input and output: torch's fast mode makes fewer


def check_derivatives(model: nn.Module, example_inputs: Any, order: int = 1) -> list[Check]:
    """Compare derivatives with respect to floating inputs and parameters with finite differences.

    Parameters
    ----------
    model
        A copy of it is checked, in float64 and in its own mode.
    example_inputs
        See `take_census`.
    order
        1, 2 or 3: one check per order up to it.

    Returns
    -------
    list of Check
        Skipped, with the reason, where the model has no float64 form, no differentiable tensor, an output that is
        zero or not finite, or an operator without the derivative.
    """
    prepared = _prepare(model, example_inputs)
    if isinstance(prepared, str):
        return [Check(_NAMES[n], "skip", reason=prepared) for n in range(1, order + 1)]
    function, tensors = prepared
    return [_check(function, tensors, n) for n in range(1, order + 1)]


Function = Callable[..., tuple[torch.Tensor, ...]]


def _prepare(model: nn.Module, example_inputs: Any) -> tuple[Function, tuple[torch.Tensor, ...]] | str:
    """Return a function of the differentiable tensors, or why there is none."""
    try:
        double = in_double(model)
        args, kwargs = arguments(converted(fresh(example_inputs), torch.float64))
        leaves, spec = pytree.tree_flatten((args, kwargs))
        floating = [(i, t) for i, t in enumerate(leaves) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        wanted = [i for i, t in floating if t.layout is torch.strided]
        names = [n for n, p in double.named_parameters() if p.requires_grad and p.numel()]
        parameters = dict(double.named_parameters())
        buffers = {n: b.clone() for n, b in double.named_buffers()}

        def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            changed = list(leaves)
            for index, tensor in zip(wanted, tensors, strict=False):
                changed[index] = tensor
            new_args, new_kwargs = pytree.tree_unflatten(changed, spec)
            state = dict(zip(names, tensors[len(wanted) :], strict=True))
            state = {**{n: b.clone() for n, b in buffers.items()}, **state}  # running statistics start equal each time
            with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
                torch.default_generator.manual_seed(0)  # torch.manual_seed asks for the generator of every device
                output = torch.func.functional_call(double, state, new_args, new_kwargs, tie_weights=True)
            plain = dict(output) if hasattr(output, "keys") and not isinstance(output, dict) else output
            found = [t for t in pytree.tree_leaves(plain) if isinstance(t, torch.Tensor) and t.is_floating_point()]
            return tuple(t.to_dense() for t in found if t.requires_grad)

        tensors = [leaves[i].detach().clone().requires_grad_() for i in wanted]
        tensors += [parameters[n].detach().clone().requires_grad_() for n in names]
        outputs = function(*tensors)
        values = torch.cat([torch.zeros(0, dtype=torch.float64), *(o.detach().reshape(-1) for o in outputs)])
        used = _used(outputs, tensors)  # a backward pass, in which reversible layers free what they returned
    except Exception as error:  # noqa: BLE001 - a model may refuse float64 in any way
        text = (str(error).splitlines() or [""])[0]
        return f"the model does not run in float64 ({type(error).__name__}: {text[:120]})"
    if not outputs:
        return "no output depends on a differentiable tensor"
    if not values.numel():
        return "the output is empty"
    if not bool(torch.isfinite(values).all()):
        return "the output is not finite"
    largest = float(values.abs().max())
    if largest < 1e-12:
        return "the output is zero: a comparison would show nothing"
    groups = _groups(used, len(wanted))
    return _of_groups(function, tensors, groups, largest), tuple(_flat([tensors[i] for i in group]) for group in groups)


def _used(outputs: tuple[torch.Tensor, ...], tensors: list[torch.Tensor]) -> list[int]:
    """Return the positions of the tensors that the outputs depend on."""
    if not outputs:
        return []
    total = torch.stack([o.sum() for o in outputs]).sum()
    gradients = torch.autograd.grad(total, tensors, allow_unused=True)
    return [i for i, gradient in enumerate(gradients) if gradient is not None]


def _groups(positions: list[int], inputs: int) -> list[list[int]]:
    """Return each input alone and the parameters in a few groups: every group costs two runs of the model."""
    parameters = [i for i in positions if i >= inputs]
    groups = [[i] for i in positions if i < inputs] + [parameters[k::_GROUPS] for k in range(_GROUPS)]
    return [group for group in groups if group]


def _flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).requires_grad_()


def _of_groups(function: Function, tensors: list[torch.Tensor], groups: list[list[int]], unit: float) -> Function:
    def of_groups(*vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        every = [t.detach() for t in tensors]
        for group, vector in zip(groups, vectors, strict=True):
            pieces = vector.split([tensors[i].numel() for i in group])
            for index, piece in zip(group, pieces, strict=True):
                every[index] = piece.view(tensors[index].shape)
        return tuple(output / unit for output in function(*every))

    return of_groups


def _check(function: Function, tensors: tuple[torch.Tensor, ...], order: int) -> Check:
    name = _NAMES[order]
    check = gradcheck if order == 1 else gradgradcheck
    target = function if order < 3 else _gradient(function)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(0)
            check(_bounded(target, tensors), tensors, fast_mode=True, atol=_LIMIT, rtol=_RELATIVE, nondet_tol=1e-10)
    except GradcheckError as error:
        text = " ".join(str(error).split())
        return Check(name, "fail", None, _LIMIT, f"analytical and numerical derivative differ: {text[:200]}")
    except (RuntimeError, NotImplementedError) as error:
        text = (str(error).splitlines() or [""])[0]
        return Check(name, "skip", reason=f"an operator has no derivative of this order: {text[:120]}")
    count = sum(t.numel() for t in tensors)
    return Check(name, "pass", None, _LIMIT, f"{count} numbers in {len(tensors)} groups, float64")


def _bounded(function: Function, tensors: tuple[torch.Tensor, ...]) -> Function:
    """Stop a function that is called for every number: where a fast check has failed, torch goes on to explain it.

    That takes two runs of the model per parameter, hours for a model of any size.
    """
    calls, most = 0, 0

    def bounded(*vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nonlocal calls, most
        calls += 1
        if most and calls > most:
            raise GradcheckError("along a random direction")
        outputs = function(*vectors)
        most = most or _CALLS * (1 + len(tensors) + len(outputs))
        return outputs

    return bounded


def _gradient(function: Function) -> Function:
    def gradient(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        value = torch.stack([o.square().sum() for o in function(*tensors)]).sum()
        grads = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
        return tuple(g for g in grads if g is not None and g.requires_grad)

    return gradient


def check_edit_derivatives(original: nn.Module, edited: nn.Module, example_inputs: Any, order: int) -> list[Check]:
    """Check the edited model; a kink that the original has at these very inputs (``abs`` at 0) is not the edit's."""
    checks = check_derivatives(edited, example_inputs, order)
    if all(check.status != "fail" for check in checks):
        return checks
    before = {check.name: check for check in check_derivatives(original, example_inputs, order)}
    return [
        Check(check.name, "skip", reason=f"the original fails it, too: {before[check.name].reason}")
        if check.status == "fail" and before[check.name].status == "fail"
        else check
        for check in checks
    ]
