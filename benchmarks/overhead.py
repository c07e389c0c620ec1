"""Overhead of an edited model against the same model edited by hand, for each way in which an edit is realised.

Both models have the same weights and give the same bits. A round times one step of each, in an order that alternates;
the figure is the median over rounds of edited / by hand. The same ratio for two copies of the model that was edited by
hand shows the noise. A step is the forward pass and the gradient of a loss on first derivatives, as in training on forces.

    python benchmarks/overhead.py [--rounds 400] [--threads 1] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import platform
import shlex
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import dcsurgery as dcs
from dcsurgery.activations import IReLU, irelu

WIDTH, DEPTH = 64, 6


class Layers(nn.Module):
    """``DEPTH`` linear layers and a head, for activations to stand between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, 1)


class WithModules(Layers):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.acts = nn.ModuleList(make() for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer, act in zip(self.layers, self.acts, strict=True):
            x = act(layer(x))
        return self.head(x)


class WithAttribute(Layers):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x)


class WithCalls(Layers):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.silu(layer(x))
        return self.head(x)


class WithCallsByHand(Layers):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = irelu(layer(x))
        return self.head(x)


class WithIdiom(Layers):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x)
            x = y * torch.sigmoid(y)
        return self.head(x)


class WithIdiomByHand(Layers):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x)
            x = irelu(y)
        return self.head(x)


class Unrolled(Layers):
    """Straight-line code, so that torch.fx can trace it."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x)


def without_source(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a class whose forward has no source: its calls can be changed only while they run."""
    forward: Any = cls.forward
    code = forward.__code__.replace(co_filename="<no source>")
    hidden = types.FunctionType(code, forward.__globals__, "forward", forward.__defaults__, forward.__closure__)
    return type(f"{cls.__name__}WithoutSource", (cls,), {"forward": hidden, "__module__": cls.__module__})


@dataclass(frozen=True)
class Pair:
    """A model to edit and the same model edited by hand."""

    name: str
    original: Callable[[], nn.Module]
    by_hand: Callable[[], nn.Module]
    limit: float | None = 1.0  # None: documented only


PAIRS = (
    Pair("module swapped", lambda: WithModules(nn.SiLU), lambda: WithModules(IReLU)),
    Pair("attribute swapped", lambda: WithAttribute(F.silu), lambda: WithAttribute(irelu)),
    Pair(
        "graph node replaced (traced body)",
        lambda: fx.symbolic_trace(Unrolled(F.silu)),
        lambda: fx.symbolic_trace(Unrolled(irelu)),
    ),
    Pair("call rewritten", WithCalls, WithCallsByHand, None),
    Pair("expression rewritten", WithIdiom, WithIdiomByHand, None),
    Pair("call intercepted", without_source(WithCalls), without_source(WithCallsByHand), None),
)


def step(model: nn.Module, x: Tensor) -> None:
    """Run one training step on values and first derivatives."""
    y = model(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (y.square().mean() + slope.square().mean()).backward()


def timed(model: nn.Module, x: Tensor) -> float:
    """Return the seconds of one step."""
    start = time.perf_counter()
    step(model, x)
    return time.perf_counter() - start


def ratio(first: nn.Module, second: nn.Module, x: Tensor, rounds: int) -> tuple[float, float]:
    """Return the median over rounds of first / second, and half the width of its 95 % interval."""
    for model in (first, second):
        for _ in range(20):
            step(model, x)
    found = []
    for index in range(rounds):
        if index % 2:
            a = timed(first, x)
            b = timed(second, x)
        else:
            b = timed(second, x)
            a = timed(first, x)
        found.append(a / b)
    found.sort()
    # The order statistics around the median that hold it with 95 % probability (binomial).
    half = int(0.98 * rounds**0.5)
    low, high = found[max(0, rounds // 2 - half)], found[min(rounds - 1, rounds // 2 + half)]
    return statistics.median(found), (high - low) / 2


def prepared(pair: Pair, x: Tensor) -> tuple[nn.Module, nn.Module, str]:
    """Return the edited model, the one edited by hand with the same weights, and how the edits were realised."""
    torch.manual_seed(0)
    original = pair.original()
    surgery = dcs.transform(original, denorm=False, example_inputs=(x.detach(),))
    by_hand = pair.by_hand()
    by_hand.load_state_dict(surgery.model.state_dict(), strict=True)
    if not torch.equal(by_hand(x), surgery.model(x)):
        sys.exit(f"{pair.name}: the two models differ, so that a comparison would show nothing")
    return (
        surgery.model,
        by_hand,
        "; ".join(sorted({line.rpartition(" (")[2].rstrip(")") for line in surgery.report.done})),
    )


def table(rounds: int, batch: int) -> tuple[list[str], bool]:
    """Return the rows, and whether every limit holds within the noise."""
    x = torch.randn(batch, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows, good = [], True
    for pair in PAIRS:
        edited, by_hand, realised = prepared(pair, x)
        figure, spread = ratio(edited, by_hand, x, rounds)
        noise, noise_spread = ratio(copy.deepcopy(by_hand), by_hand, x, rounds)
        within = figure - spread <= (pair.limit or figure) + abs(noise - 1) + noise_spread
        good &= within
        verdict = (
            "documented"
            if pair.limit is None
            else f"at most {pair.limit:.2f} within noise: {'yes' if within else 'NO'}"
        )
        rows.append(
            f"| {pair.name} | {realised} | {batch} | {figure:.3f} ± {spread:.3f} | {noise:.3f} ± {noise_spread:.3f} | {verdict} |"
        )
    return rows, good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 512])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines, good = [], True
    for batch in options.batches:
        rows, fine = table(options.rounds, batch)
        lines += rows
        good &= fine
    command = shlex.join(["python", *sys.argv])
    machine = f"{dt.datetime.now(tz=dt.UTC).date()}, {platform.processor() or platform.machine()}, CPU"
    text = "\n".join(
        [
            "# Overhead of edited models",
            "",
            f"{machine}, {options.threads} thread(s), torch {torch.__version__}. `{command}`",
            "",
            f"{DEPTH} activations between linear layers of width {WIDTH}; forward, first derivatives, and their gradient.",
            "",
            "| edit | how it was realised | batch | edited / by hand | by hand / by hand (noise) | |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
