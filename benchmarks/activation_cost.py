"""Cost of IReLU relative to tanh: forward, backward and double backward on CPU, and the memory kept for backward.

Each round times every activation once on the same tensor, in an order that rotates, and is compared with tanh within
that round only, so that other work on the machine hits both alike. The figure is the median ratio over all rounds of
a block; several blocks show how well it repeats.

    python benchmarks/activation_cost.py [--rounds 200] [--blocks 9] [--threads 1 2] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dcsurgery.activations import irelu

Activation = Callable[[Tensor], Tensor]
SHAPE = (10_000, 40)
ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "IReLU": irelu,
    "0.5 * relu(x)**2": lambda x: 0.5 * F.relu(x) ** 2,
    "SiLU": F.silu,
    "softplus": F.softplus,
}
COST_LIMIT, MEMORY_LIMIT = 1.0, 2.0


@dataclass(frozen=True)
class Cost:
    """Time of each stage up to and including itself, in seconds."""

    forward: float
    backward: float
    double_backward: float


def measure(f: Activation, x: Tensor, g: Tensor, h: Tensor) -> Cost:
    """Time y = f(x), its gradient against ``g`` with a graph, and the gradient of that against ``h`` by x and g."""
    start = time.perf_counter()
    y = f(x)
    forward = time.perf_counter()
    (first,) = torch.autograd.grad(y, x, g, create_graph=True)
    backward = time.perf_counter()
    torch.autograd.grad(first, (x, g), h)
    return Cost(forward - start, backward - start, time.perf_counter() - start)


def block(rounds: int, x: Tensor, g: Tensor, h: Tensor) -> dict[str, list[Cost]]:
    """Return ``rounds`` interleaved measurements of every activation."""
    found: dict[str, list[Cost]] = {name: [] for name in ACTIVATIONS}
    names = list(ACTIVATIONS)
    for index in range(rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(measure(ACTIVATIONS[name], x, g, h))
    return found


def ratio(costs: list[Cost], reference: list[Cost], stage: str) -> float:
    """Return the median over rounds of time / tanh's time in the same round."""
    return statistics.median(getattr(a, stage) / getattr(b, stage) for a, b in zip(costs, reference, strict=True))


def kept_bytes(f: Activation, x: Tensor, g: Tensor | None) -> float:
    """Return the bytes of distinct tensors saved for backward over the input's bytes.

    Without ``g`` for the graph of f alone, with it for that graph and the one of its gradient (``create_graph``).
    """
    kept: dict[int, Tensor] = {}  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = f(x)
        if g is not None:
            torch.autograd.grad(y, x, g, create_graph=True)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / x.nbytes


def table(rows: list[tuple[str, ...]]) -> str:
    """Lay out rows, the first of which is the head, as Markdown that also reads well as text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


@dataclass(frozen=True)
class Result:
    """What one number of threads gave: the table's rows, and IReLU's cost and memory."""

    threads: int
    rows: list[tuple[str, ...]]
    cost: float
    memory: float


def compare(threads: int, rounds: int, blocks: int) -> Result:
    """Measure all activations with ``threads`` torch threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x, g = (torch.randn(SHAPE, requires_grad=True) for _ in range(2))
    h = torch.randn(SHAPE)
    block(20, x, g, h)  # warm up
    measured = [block(rounds, x, g, h) for _ in range(blocks)]

    rows: list[tuple[str, ...]] = [
        ("activation", "forward", "+ backward", "+ double backward", "blocks", "saved", "saved, create_graph", "ms")
    ]
    cost = memory = math.nan
    for name, f in ACTIVATIONS.items():
        stages = [
            [ratio(found[name], found["tanh"], stage) for found in measured]
            for stage in ("forward", "backward", "double_backward")
        ]
        saved = kept_bytes(f, x, None)
        milliseconds = 1e3 * statistics.median(each.double_backward for found in measured for each in found[name])
        rows.append((
            name,
            *(f"{statistics.median(ratios):.2f}" for ratios in stages),
            f"{min(stages[-1]):.2f} to {max(stages[-1]):.2f}",
            f"{saved:.2f}",
            f"{kept_bytes(f, x, g):.2f}",
            f"{milliseconds:.2f}",
        ))  # fmt: skip
        if f is irelu:
            cost, memory = statistics.median(stages[-1]), saved
    return Result(threads, rows, cost, memory)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Cost of IReLU relative to tanh on CPU.")
    parser.add_argument("--rounds", type=int, default=200, help="interleaved rounds in a block")
    parser.add_argument("--blocks", type=int, default=9, help="blocks; the reported figure is the median of theirs")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of torch threads")
    parser.add_argument("--output", type=Path, help="write the tables to this Markdown file as well")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.blocks, *options.threads) < 1:
        parser.error("--rounds, --blocks and --threads must be at least 1")
    if options.output and not options.output.parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.parent}")
    return options


def main(arguments: list[str]) -> int:
    """Measure, print, write; return 1 if a limit is exceeded."""
    options = parse(arguments)
    results = [compare(threads, options.rounds, options.blocks) for threads in options.threads]
    tables = "\n\n".join(
        f"{each.threads} torch thread{'s' * (each.threads > 1)}:\n\n{table(each.rows)}" for each in results
    )
    cost, memory = max(each.cost for each in results), max(each.memory for each in results)
    met = cost <= COST_LIMIT and memory <= MEMORY_LIMIT
    verdict = (
        f"IReLU: at most {cost:.2f} x tanh (limit {COST_LIMIT:.2f}), keeps {memory:.2f} x its input for backward "
        f"(limit {MEMORY_LIMIT:.2f}): {'met' if met else 'NOT MET'}."
    )
    print(tables, verdict, sep="\n\n")
    if options.output:
        command = shlex.join(["python", "benchmarks/activation_cost.py", *arguments])
        options.output.write_text(report(tables, verdict, command, options), encoding="utf-8")
    return 0 if met else 1


def report(tables: str, verdict: str, command: str, options: argparse.Namespace) -> str:
    """Return the Markdown page."""
    load = "/".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    return f"""# Cost of IReLU relative to tanh

{tables}

{verdict}

* Tensor {SHAPE[0]} x {SHAPE[1]}, float32, CPU. Columns 2 to 4: time up to and including that stage over tanh's in the
  same round, median of {options.rounds} interleaved rounds, median of {options.blocks} blocks; `blocks` is the range
  of the blocks' medians for all three stages. Double backward is by the input and by the incoming gradient.
* `saved`: bytes of distinct tensors that autograd keeps over the input's bytes, for the first-order graph, and with
  the graph of the gradient (which keeps the incoming gradient as well).
* `ms`: median time of all three stages; depends on the load, compare ratios only.
* Measured {dt.datetime.now(tz=dt.UTC).date()}; {os.cpu_count()} cores ({platform.machine()}), load average {load};
  torch {torch.__version__}, Python {platform.python_version()}.
* Command: `{command}`
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
