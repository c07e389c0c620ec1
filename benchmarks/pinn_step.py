"""Steps per second of the zoo's PINN training against plain DeepXDE, on the same problem, network and points.

Both train the network of the paper's size on one made sample, in turns; a step's time is the median over all rounds.
Plain DeepXDE is ``dde.Model(data, net).compile("adam")`` and ``.train``, with the same ``TimePDE`` and equations. Both
compute the same terms (tests/zoo/test_pde_training.py compares them in float64).

    python benchmarks/pinn_step.py [--rounds 5] [--steps 6] [--points 1] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dcsurgery.zoo.pde import variants
from dcsurgery.zoo.pde.backend import deepxde, settings
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.problems import PROBLEMS, Points, Problem
from dcsurgery.zoo.pde.training import train

VARIANTS = ("tanh", "irelu", "tanh-bn")
CELLS = {"advection": 1024, "cfd": 1024, "diffusion-reaction": 128}


class Stamps:
    """Seconds of the processor between calls, which other programs on the machine disturb less than the clock's."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._last: float | None = None

    def __call__(self, *_: object) -> None:
        now = time.process_time()
        if self._last is not None:
            self.times.append(now - self._last)
        self._last = now

    def pause(self) -> None:
        self._last = None


def sample(problem: Problem) -> Field:
    """Return a field on PDEBench's grid: its values do not matter for the time."""
    cells = CELLS[problem.name]
    space = tuple(low + (high - low) * (np.arange(cells) + 0.5) / cells for low, high in problem.domain)
    t = np.linspace(0, problem.end, 21)
    shape = (21, *[cells] * len(space), len(problem.fields))
    return Field(space, t, np.random.default_rng(0).normal(1, 0.1, shape).astype("f4"))


def plain(problem: Problem, field: Field, points: Points, net: nn.Module, stamps: Stamps) -> Callable[[int], None]:
    dde = deepxde()
    terms = problem.terms(field, points=points)

    class Clock(dde.callbacks.Callback):
        def on_epoch_begin(self) -> None:
            stamps()

        def on_train_end(self) -> None:
            stamps.pause()

    with settings(torch.float32):
        model = dde.Model(terms.data, net)
        model.compile("adam", lr=1e-3)

    def steps(n: int) -> None:
        with settings(torch.float32):
            model.train(iterations=n + 1, display_every=10**9, verbose=0, callbacks=[Clock()])

    return steps


def ours(problem: Problem, field: Field, points: Points, net: nn.Module, stamps: Stamps) -> Callable[[int], None]:
    def steps(n: int) -> None:
        train(net, problem, field, steps=n, points=points, progress=stamps)
        stamps.pause()

    return steps


def measure(problem: Problem, name: str, points: Points, rounds: int, count: int) -> tuple[float, float, float]:
    """Return seconds per step of DeepXDE and of ours, and the median over rounds of their ratio."""
    field = sample(problem)
    runs, stamps = [], (Stamps(), Stamps())
    for make, stamp in zip((plain, ours), stamps, strict=True):
        runs.append(make(problem, field, points, variants.build(problem, variants.variant(name)), stamp))
    ratios = []
    for turn in range(rounds + 1):
        taken = {}
        for which in (0, 1) if turn % 2 else (1, 0):
            before = len(stamps[which].times)
            runs[which](count)
            taken[which] = statistics.median(stamps[which].times[before:])
        if turn:  # the first round warms up
            ratios.append(taken[1] / taken[0])
    return *(statistics.median(stamp.times) for stamp in stamps), statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps of each in a round")
    parser.add_argument("--points", type=float, default=1.0, help="part of the published numbers of points")
    parser.add_argument("--only", help="a problem")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    points = Points().fraction(options.points)
    lines = [
        "| problem | variant | DeepXDE, steps/s | dcsurgery, steps/s | time / DeepXDE's |",
        "|---|---|---|---|---|",
    ]
    for problem in PROBLEMS.values():
        if options.only in (None, problem.name):
            for name in VARIANTS:
                theirs, mine, ratio = measure(problem, name, points, options.rounds, options.steps)
                label = variants.variant(name).label
                lines.append(f"| {problem.title} | {label} | {1 / theirs:.3g} | {1 / mine:.3g} | {ratio:.2f} |")
                print(lines[-1], flush=True)
    machine = f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, {platform.machine()}, CPU, 1 thread, torch {torch.__version__}"
    command = shlex.join(["python", "benchmarks/pinn_step.py", *sys.argv[1:]])
    head = f"# Steps per second of PINN training\n\n{machine}, DeepXDE {deepxde().__version__}. `{command}`\n"
    note = (
        "In turns, processor time, median of all steps; the last column is the median over rounds of the ratio within a round. With batch"
        " normalization both evaluate all points together; without it the zoo's training evaluates the equations only"
        " where they count, and points that conditions share once."
    )
    text = "\n".join([head, *lines, "", note, ""])
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
