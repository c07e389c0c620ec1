"""The variants of the paper's Tables 3 to 5 and the higher-order ones: a network of the zoo, and an edit of it.

Every variant comes from the same weights: it is the network with or without batch normalization, edited by
`dcsurgery.transform`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.problems import Physics, Problem

__all__ = ["HIGHER_ORDER", "PAPER_VARIANTS", "VARIANTS", "Variant", "build", "example_points", "variant"]

# Rows of coordinates that an edit is checked on.
_ROWS = 64


@dataclass(frozen=True)
class Variant:
    """What is trained.

    Attributes
    ----------
    name
        For file names and options.
    label
        The row's name in the paper's tables, or one of our own.
    norm
        Whether the network has batch normalization before it is edited.
    denorm
        Whether that is deleted.
    activation
        What replaces tanh: None, or a name of `dcsurgery.activations.ACTIVATION_NAMES`.
    """

    name: str
    label: str
    norm: bool = False
    denorm: bool = False
    activation: str | None = None


PAPER_VARIANTS = (
    Variant("tanh-bn", "Tanh + BN", norm=True),
    Variant("irelu-bn", "IReLU + BN", norm=True, activation="irelu"),
    Variant("tanh", "Tanh (original)"),
    Variant("irelu", "IReLU (ours)", norm=True, denorm=True, activation="irelu"),
)
HIGHER_ORDER = tuple(
    Variant(name, f"∫{label}", norm=True, denorm=True, activation=name)
    for name, label in (
        ("integrated-relu2", "ReLU²"),
        ("integrated-softplus", "softplus"),
        ("integrated-silu", "SiLU"),
        ("integrated-tanh", "tanh"),
    )
)
VARIANTS: Mapping[str, Variant] = {one.name: one for one in (*PAPER_VARIANTS, *HIGHER_ORDER)}


def variant(name: str) -> Variant:
    """Return a variant by name.

    Raises
    ------
    BadInput
        If there is none.
    """
    if name not in VARIANTS:
        raise BadInput(f"unknown variant {name!r}", fix=f"there are: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def build(
    problem: Problem,
    chosen: Variant,
    *,
    size: str = "paper",
    seed: int = 0,
    physics: Physics = "correct",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Build a problem's network from a seed and edit it; the edit is checked, and fails rather than doing half.

    Parameters
    ----------
    problem, chosen
        What is solved, and with which variant of its network.
    size
        ``paper`` or ``small``.
    seed
        Of the weights; the same for all variants, so that they start from the same ones.
    physics
        ``published`` takes batch normalization as the published scripts compute it (see `dcsurgery.zoo.pde.network.NORMS`).
    dtype
        torch.float32 or torch.float64.
    """
    from dcsurgery.zoo.registry import build as build_network

    norm = "none" if not chosen.norm else "batch-fixed" if physics == "published" else "batch"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_network(f"pinn-{problem.name}", size=size, norm=norm).to(dtype)
        if chosen.activation is None and not chosen.denorm:
            return model
        edited = dcs.transform(
            model,
            irelu=chosen.activation is not None,
            denorm=chosen.denorm,
            activation=chosen.activation or "irelu",
            example_inputs=example_points(model),
        )
    return edited.model


def example_points(model: nn.Module) -> tuple[torch.Tensor]:
    """Return coordinates to run a PINN on, the same at every call: normal numbers, which are of the domains' size."""
    first = next(model.parameters())
    points = torch.randn(_ROWS, first.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (points.to(first),)
