"""PDEBench's PINNs: Takamoto et al., arXiv:2210.07182, fully connected networks on DeepXDE."""

from __future__ import annotations

from dcsurgery.zoo.families.entry import Entry, frozen, frozen_counts

__all__ = ["ENTRIES"]

_SMALL = {"width": 16, "depth": 3}
_PAPER = {"width": 40, "depth": 6}


def _pinn(problem: str, title: str, inputs: int, outputs: int, **counts: int) -> Entry:
    ends = {"inputs": inputs, "outputs": outputs}
    return Entry(
        name=f"pinn-{problem}",
        backend="deepxde",
        class_path="dcsurgery.zoo.pde.network:PINN",
        description=f"PINN, fully connected tanh network for {title}",
        sizes=frozen(small={**ends, **_SMALL}, paper={**ends, **_PAPER}),
        counts=frozen_counts(**counts),
        force="none",
        recipe={"irelu": True, "denorm": True, "scope": "all"},
    )


ENTRIES = (
    _pinn("advection", "advection in one dimension: (x, t) -> u", 2, 1, small=609, paper=8_361),
    _pinn(
        "cfd", "compressible flow in one dimension: (x, t) -> density, velocity, pressure", 2, 3, small=643, paper=8_443
    ),
    _pinn(
        "diffusion-reaction", "diffusion-reaction in two dimensions: (x, y, t) -> u, v", 3, 2, small=642, paper=8_442
    ),
)
