"""Accuracy of the zoo's Euler solver on initial conditions of PDEBench's family, against a much finer grid.

Each sample is solved on several grids and on a fine one, whose conserved fields are averaged over the coarse cells. The
smooth case, against an exact solution, is a test (tests/zoo/test_pde_solvers.py).

    python benchmarks/euler_accuracy.py [--reference 4096] [--seeds 0 1] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.zoo.pde import euler
from dcsurgery.zoo.pde.generators import make_sample

GRIDS = (256, 512, 1024)
FRAMES = 6  # times 0, 0.2, … 1
FIELDS = ("ρ", "v", "p")


def coarsened(fine: NDArray[Any], cells: int) -> NDArray[Any]:
    """Average (n_times, n_cells, 3) over groups of cells."""
    state = euler.conserved(np.moveaxis(fine, -1, 0))
    state = state.reshape(3, len(fine), cells, -1).mean(-1)
    return np.moveaxis(euler.primitive(state), 0, -1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=int, default=4096, help="cells, a multiple of 1024")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    columns = [f"{norm} {name}" for norm in ("L1", "L2") for name in FIELDS]
    lines = [f"| seed | cells | CPU s | t | {' | '.join(columns)} |", "|" + "---|" * (4 + len(columns))]
    for seed in options.seeds:
        fine = make_sample("cfd", seed, options.reference, FRAMES).values
        for cells in (cells for cells in GRIDS if cells < options.reference):
            begun = time.process_time()
            found = make_sample("cfd", seed, cells, FRAMES).values
            seconds, wanted = time.process_time() - begun, coarsened(fine, cells)
            for frame in (1, FRAMES - 1):
                off, size = found[frame] - wanted[frame], wanted[frame]
                first = np.abs(off).mean(0) / np.abs(size).mean(0)
                second = np.sqrt((off**2).mean(0) / (size**2).mean(0))
                errors = " | ".join(f"{value:.1e}" for value in (*first, *second))
                lines.append(f"| {seed} | {cells} | {seconds:.1f} | {frame / (FRAMES - 1):g} | {errors} |")
                print(lines[-1], flush=True)
    command = shlex.join(["python", "benchmarks/euler_accuracy.py", *sys.argv[1:]])
    head = (
        f"# Accuracy of the Euler solver\n\nRelative errors against {options.reference} cells; t = 0.2 and t = 1, shocks"
        f" form in between. {platform.machine()}. `{command}`\n"
    )
    if options.output:
        options.output.write_text("\n".join([head, *lines, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
