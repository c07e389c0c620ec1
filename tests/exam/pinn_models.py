"""Cases from DeepXDE: its networks for the PyTorch backend, with its activations, transforms and operator networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dcsurgery.zoo.coverage import deepxde
from exam.case import Case, normal

__all__ = ["pinn_cases"]

_NORMAL = "Glorot normal"


class Resized(nn.Module):
    """A DeepXDE net inside a model that scales its inputs, as users write around it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.net(x * self.scale))


class FourierFeatures:
    """A feature transform that is an object with a state."""

    def __init__(self) -> None:
        self.frequencies = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        angles = x @ self.frequencies
        return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


def hard_boundary(x: Tensor, y: Tensor) -> Tensor:
    """An output transform that makes the boundary condition hold, with an activation in it."""
    return x[:, :1] * (1 - x[:, :1]) * torch.tanh(y) + y.sigmoid() * 0.1


def periodic(x: Tensor) -> Tensor:
    """An input transform."""
    return torch.cat([torch.sin(x), torch.cos(x[:, :1]), torch.nn.functional.softplus(x[:, 1:])], 1)


def _points() -> tuple[Tensor]:
    return (normal(7, 2),)


def _functions_and_points() -> tuple[tuple[Tensor, ...]]:
    return ((normal(4, 6), normal(4, 2)),)


def _cartesian() -> tuple[tuple[Tensor, ...]]:
    return ((normal(4, 6), normal(5, 2)),)


def _two_functions() -> tuple[tuple[Tensor, ...]]:
    return ((normal(4, 6), normal(4, 5), normal(3, 2)),)


def _fnn(activation: Any, layers: list[int] | None = None, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: deepxde().nn.FNN(layers or [2, 8, 8, 1], activation, _NORMAL, **settings)


def _transformed(features: Any, output: Any, width: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = deepxde().nn.FNN([width, 8, 8, 1], "silu", _NORMAL)
        if features is not None:
            net.apply_feature_transform(features)
        if output is not None:
            net.apply_output_transform(output)
        return net

    return make


def _dense() -> Iterator[tuple[str, Callable[[], nn.Module], int | None]]:
    for name in ("elu", "gelu", "relu", "selu", "silu", "swish", "tanh"):
        yield f"FNN {name}", _fnn(name), None
    yield "FNN sin", _fnn("sin"), 0
    yield "FNN sigmoid", _fnn("sigmoid"), 0
    yield "FNN LAAF", _fnn("LAAF-10 tanh"), None
    yield "FNN module", _fnn(nn.Softplus(beta=2.0)), None
    yield "FNN lambda", _fnn(lambda x: x * torch.sigmoid(x)), None
    yield "FNN per layer", _fnn(["tanh", "silu", "relu", "sin"], [2, 8, 8, 8, 1]), None
    yield "FNN mixed list", _fnn(["sin", nn.GELU(), torch.nn.functional.mish, torch.sigmoid], [2, 8, 8, 8, 1]), None
    yield "FNN regularized", _fnn("tanh", regularization=["l2", 1e-3]), None
    yield "PFNN", lambda: deepxde().nn.PFNN([2, [6, 6], [6, 6], 2], "tanh", _NORMAL), None
    yield "PFNN shared", lambda: deepxde().nn.PFNN([2, 8, [6, 6], 2], "gelu", _NORMAL), None
    yield "FNN input transform", _transformed(periodic, None, 4), None
    yield "FNN feature object", _transformed(FourierFeatures(), None, 4), None
    yield "FNN output transform", _transformed(None, hard_boundary, 2), None
    yield "FNN both transforms", _transformed(periodic, hard_boundary, 4), None
    yield "FNN lambda transform", _transformed(None, lambda x, y: torch.relu(y) * x[:, :1], 2), None
    yield "FNN inside", lambda: Resized(deepxde().nn.FNN([2, 8, 1], "silu", _NORMAL)), None


def _operators() -> Iterator[tuple[str, Callable[[], nn.Module], Callable[[], Any]]]:
    branch, trunk = [6, 8, 8], [2, 8, 8]
    by_dict = {"branch": "relu", "trunk": "tanh"}
    yield "DeepONet", lambda: deepxde().nn.DeepONet(branch, trunk, "relu", _NORMAL), _functions_and_points
    yield "DeepONet dict", lambda: deepxde().nn.DeepONet(branch, trunk, by_dict, _NORMAL), _functions_and_points
    yield (
        "DeepONetCartesianProd",
        lambda: deepxde().nn.DeepONetCartesianProd(branch, trunk, by_dict, _NORMAL),
        _cartesian,
    )
    for strategy in ("independent", "split_both", "split_branch", "split_trunk"):
        yield (
            f"DeepONet {strategy}",
            lambda strategy=strategy: deepxde().nn.DeepONet(
                *_widths(strategy), "tanh", _NORMAL, num_outputs=2, multi_output_strategy=strategy
            ),
            _functions_and_points,
        )
    yield (
        "PODDeepONet",
        lambda: deepxde().nn.PODDeepONet(np.eye(5, 4), [6, 8, 4], "tanh", _NORMAL),
        lambda: ((normal(4, 6).float(), normal(5, 2).float()),),
    )
    for merge in ("mul", "cat"):
        yield (
            f"MIONet {merge}",
            lambda merge=merge: deepxde().nn.MIONetCartesianProd(
                [6, 8, 8],
                [5, 8, 8],
                [2, 8, 16 if merge == "cat" else 8],
                {"branch1": "tanh", "branch2": "relu", "trunk": "silu"},
                _NORMAL,
                trunk_last_activation=True,
                merge_operation=merge,
            ),
            _two_functions,
        )


def _widths(strategy: str) -> tuple[list[int], list[int]]:
    branch = [6, 8, 16 if strategy == "split_branch" else 8]
    trunk = [2, 8, 16 if strategy == "split_trunk" else 8]
    return branch, trunk


def pinn_cases() -> Iterator[Case]:
    """Yield dense networks and operator networks."""
    for name, model, edits in _dense():
        yield Case("DeepXDE", name, model, _points, edits=edits)
    for name, model, inputs in _operators():
        # The basis of PODDeepONet is a float32 tensor that a change of dtype does not reach.
        dtype = torch.float32 if name == "PODDeepONet" else torch.float64
        yield Case("DeepXDE", name, model, inputs, dtype=dtype)
