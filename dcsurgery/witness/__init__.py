"""The value witness: the original model with other kernels, which has to compute what the edited model computes."""

from __future__ import annotations

from dcsurgery.witness.witness import Witness

__all__ = ["Witness"]
