"""The rows for bases: functions of distances and angles that describe the geometry.

These are told by class name alone, in whatever package the class lives: models carry copies of them around.
"""

from __future__ import annotations

from dcsurgery.catalog.rows import Operator

__all__ = ["BASES"]


def _basis(name: str, reason: str, *classes: str) -> Operator:
    return Operator(name, "basis", modules=tuple(f"*.{cls}" for cls in classes), reason=reason)


_RADIAL = "it expands distances in fixed functions; its nonlinearity is the description of the geometry"
_ANGULAR = "it expands angles in fixed functions; its nonlinearity is the description of the geometry"
_CUTOFF = "it takes the interaction smoothly to zero at the cutoff; anything else makes the forces discontinuous"

BASES: tuple[Operator, ...] = (
    _basis(
        "gaussian_basis",
        _RADIAL,
        "GaussianSmearing",
        "GaussianBasis",
        "GaussianRBF",
        "GaussianRBFCentered",
        "GaussianRadialBasisLayer",
        "RBFExpansion",
    ),
    _basis("exp_normal_basis", _RADIAL, "ExpNormalSmearing"),
    _basis("bessel_basis", _RADIAL, "BesselBasisLayer", "BesselBasis", "BesselRBF", "SphericalBesselBasis"),
    _basis("bernstein_basis", _RADIAL, "BernsteinBasis"),
    _basis("sine_basis", _RADIAL, "SINESmearing", "FourierSmearing"),
    _basis("radial_basis", _RADIAL, "RadialBasis"),
    _basis(
        "spherical_basis",
        _ANGULAR,
        "SphericalBasisLayer",
        "CircularBasisLayer",
        "SphericalSmearing",
        "SphericalHarmonics",
    ),
    _basis("envelope", _CUTOFF, "Envelope", "PolynomialEnvelope", "ExponentialEnvelope"),
    _basis("cutoff", _CUTOFF, "CosineCutoff", "PolynomialCutoff", "MollifierCutoff"),
)
