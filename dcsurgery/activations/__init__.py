"""Activations whose derivatives are wanted: IReLU, and the antiderivatives of the usual activations."""

from __future__ import annotations

from dcsurgery.activations.functional import (
    integrated_elu,
    integrated_gelu,
    integrated_leaky_relu,
    integrated_relu2,
    integrated_sigmoid,
    integrated_silu,
    integrated_softplus,
    integrated_tanh,
)
from dcsurgery.activations.integrals import Integrated, integrate
from dcsurgery.activations.integrated_relu import IReLU, irelu
from dcsurgery.activations.names import ACTIVATION_NAMES, activation_by_name, name_of

__all__ = [
    "ACTIVATION_NAMES",
    "IReLU",
    "Integrated",
    "activation_by_name",
    "integrate",
    "integrated_elu",
    "integrated_gelu",
    "integrated_leaky_relu",
    "integrated_relu2",
    "integrated_sigmoid",
    "integrated_silu",
    "integrated_softplus",
    "integrated_tanh",
    "irelu",
    "name_of",
]
