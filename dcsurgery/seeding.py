"""Random numbers that are the same in every run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["seeded"]


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Run with a fixed random state and leave the caller's as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the generators of other devices, too
        yield
