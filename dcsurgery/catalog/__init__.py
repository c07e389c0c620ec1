"""The one table that says what an activation, a gate, a basis and a normalization is.

Every capture method, pass and report reads it; a new operator is one new row, in `activations`, `gates`,
`compounds`, `normalizations` or `bases`. Attention softmax, weight and spectral normalization and `torch.nn.functional.normalize` have no row.
"""

from __future__ import annotations

from dcsurgery.catalog.fused import FUSED_KERNELS, FUSED_MODULES
from dcsurgery.catalog.matching import (
    OPERATORS,
    is_norm_fusion,
    match_basis,
    match_class,
    match_function,
    match_kernel,
    match_method,
    match_module,
    operator_named,
)
from dcsurgery.catalog.rows import Match, Operator

__all__ = [
    "FUSED_KERNELS",
    "FUSED_MODULES",
    "OPERATORS",
    "Match",
    "Operator",
    "is_norm_fusion",
    "match_basis",
    "match_class",
    "match_function",
    "match_kernel",
    "match_method",
    "match_module",
    "operator_named",
]
