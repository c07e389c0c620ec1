"""Time of `dcsurgery transform` against import + load + save of the same file, and its growth with the model.

Both are new processes, timed from outside by the clock on the wall. ``load + save`` imports the same packages, reads the
file, a pickled model with ``torch.load(weights_only=False)`` as a user would and a checkpoint by building the model of its
config, and writes it with torch.save; ``transform`` reads it in the safe way, finds, plans, edits, checks, writes, and has
the written file read again by another process and compared. Rounds alternate which goes first; figures are medians, and
ratios are medians of the rounds' own ratios; models of LARGE nodes and more take a third of the rounds. ``limit`` is what
any transform needs that reads its result once more after it was written, if all else took no time and reading were no
faster: import + load + save + load, over import + load + save.

    python benchmarks/transform_time.py [--rounds 5] [--sizes 1000 10000 100000] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import fx, nn

import dcsurgery as dcs

LOAD_AND_SAVE = """
import sys
import time
from pathlib import Path
import torch
import dcsurgery.api
begun = time.perf_counter()
if sys.argv[3] == "checkpoint":
    from dcsurgery.files import reading
    file = reading.read(Path(sys.argv[1]))
    whole = {**file.entries, "state_dict": file.model.state_dict()}
else:
    whole = torch.load(sys.argv[1], weights_only=False)
print(time.perf_counter() - begun)
torch.save(whole, sys.argv[2])
"""
EDITS = ("--irelu", "--denorm")
WIDTH = 4
LARGE = 50_000  # nodes
NOISE = 0.05  # seconds
SMALLEST = 12  # nodes of the synthetic model whose time is that of everything but its nodes


def modules(count: int) -> nn.Module:
    """Return a model of ``count`` modules: linear layers, each with an activation and a norm."""
    made = [(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.LayerNorm(WIDTH)) for _ in range(count // 3)]
    return nn.Sequential(*(module for block in made for module in block))


def graph(count: int) -> fx.GraphModule:
    """Return a torch.fx graph of ``count`` nodes, half of them activations."""
    root = nn.Module()
    root.layer = nn.Linear(WIDTH, WIDTH)
    drawn = fx.Graph()
    x = drawn.placeholder("x")
    for _ in range(count // 4):
        y = drawn.call_module("layer", (x,))
        y = drawn.call_function(F.silu, (y,))
        y = drawn.call_method("tanh", (y,))
        x = drawn.call_function(torch.add, (x, y))
    drawn.output(x)
    return fx.GraphModule(root, drawn)


def save_pickled(make: Callable[[], nn.Module], path: Path) -> None:
    torch.save(make(), path)


def save_dimenet(path: Path) -> None:
    dcs.save(dcs.zoo.build("dimenet++", size="paper"), path, format="checkpoint", force=True)


# GemNet-dT as published for OC20 (direct forces): 31 million parameters.
GEMNET_DT = {
    "name": "gemnet_t",
    "num_spherical": 7,
    "num_radial": 128,
    "num_blocks": 3,
    "emb_size_atom": 512,
    "emb_size_edge": 512,
    "emb_size_trip": 64,
    "emb_size_rbf": 16,
    "emb_size_cbf": 16,
    "emb_size_bil_trip": 64,
    "num_before_skip": 1,
    "num_after_skip": 2,
    "num_concat": 1,
    "num_atom": 3,
    "cutoff": 6.0,
    "max_neighbors": 50,
    "direct_forces": True,
    "regress_forces": True,
    "otf_graph": True,
    "use_pbc": True,
}


def save_gemnet(path: Path) -> None:
    """Write what fairchem's trainer writes: config, weights under its wrapper's prefix, optimizer."""
    from dcsurgery.zoo.ocp import fairchem

    config = {"model": GEMNET_DT, "optim": {"optimizer": "AdamW"}, "trainer": "ocp"}
    model = fairchem.build(config)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    weights = {f"module.module.{key}": value for key, value in model.state_dict().items()}
    entries = {"epoch": 1.0, "step": 1, "normalizers": {}, "optimizer": optimizer.state_dict()}
    torch.save({**entries, "config": config, "state_dict": weights}, path)


@dataclass(frozen=True)
class Case:
    """A file to be transformed; ``nodes`` for the synthetic ones."""

    name: str
    prepare: Callable[[Path], None]
    nodes: int | None = None


def cases(sizes: list[int]) -> Iterator[Case]:
    yield Case("GemNet-dT, paper size, trainer's checkpoint", save_gemnet)
    yield Case("DimeNet++, paper size, checkpoint", save_dimenet)
    for name, make in (("modules", modules), ("torch.fx graph", graph)):
        for size in (SMALLEST, *sizes):
            yield Case(f"{name}, {size:,} nodes", lambda path, m=make, n=size: save_pickled(lambda: m(n), path), size)


@dataclass(frozen=True)
class Figures:
    """Seconds of one case, medians over the rounds."""

    base: float
    transform: float
    ratio: float
    limit: float
    base_work: float
    work: float


def timed(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return its seconds on the wall, its seconds of work on all cores, and what it printed."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, work, done.stdout


def measure(case: Case, folder: Path, rounds: int) -> Figures:
    """Time one case."""
    source, saved, edited = folder / "model.pt", folder / "saved.pt", folder / "edited.pt"
    torch.manual_seed(0)
    case.prepare(source)
    kind = "checkpoint" if case.nodes is None else "pickle"
    load_and_save = [sys.executable, "-c", LOAD_AND_SAVE, str(source), str(saved), kind]
    transform = [sys.executable, "-m", "dcsurgery.cli.app", "transform", str(source), *EDITS]
    transform += ["-o", str(edited), "--force", "--quiet"]
    base: list[float] = []
    whole: list[float] = []
    limits: list[float] = []
    base_work: list[float] = []
    work: list[float] = []
    for index in range(rounds):
        for second in (index % 2, 1 - index % 2):
            if second:
                wall, cpu, _ = timed(transform)
                whole.append(wall)
                work.append(cpu)
            else:
                wall, cpu, loading = timed(load_and_save)
                base.append(wall)
                base_work.append(cpu)
                limits.append((wall + float(loading)) / wall)
    ratios = [a / b for a, b in zip(whole, base, strict=True)]
    median = statistics.median
    return Figures(median(base), median(whole), median(ratios), median(limits), median(base_work), median(work))


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Return p of the power law seconds ~ sizes^p that fits best (least squares of the logarithms).

    Times that do not stand out of the noise of a process's start are left out; NaN if fewer than two are left.
    """
    points = [(math.log(size), math.log(second)) for size, second in zip(sizes, seconds, strict=True) if second > NOISE]
    if len(points) < 2:
        return math.nan
    x, y = [point[0] for point in points], [point[1] for point in points]
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def growth(found: dict[str, tuple[Case, Figures]]) -> Iterator[str]:
    """Yield how the time beyond that of the smallest model grows, for each kind of synthetic model."""
    kinds: dict[str, list[tuple[int, Figures]]] = {}
    for name, (case, figures) in found.items():
        if case.nodes is not None:
            kinds.setdefault(name.partition(",")[0], []).append((case.nodes, figures))
    for kind, points in kinds.items():
        (_, fixed), *rest = sorted(points, key=lambda point: point[0])
        sizes = [size for size, _ in rest]
        if len(sizes) > 1:
            whole = exponent(sizes, [figures.transform - fixed.transform for _, figures in rest])
            base = exponent(sizes, [figures.base - fixed.base for _, figures in rest])
            yield f"| {kind} | {whole:.2f} | {base:.2f} |"


def report(found: dict[str, tuple[Case, Figures]], rounds: int, busy: float) -> str:
    """Return the result as Markdown."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    command = shlex.join(["python", *sys.argv])
    rows = [
        f"| {name} | {f.base:.2f} | {f.transform:.2f} | {f.ratio:.2f} | {f.limit:.2f} | {f.base_work:.2f} | {f.work:.2f} |"
        for name, (_, f) in found.items()
    ]
    return "\n".join(
        [
            "# Time of transform",
            "",
            f"{dt.datetime.now(tz=dt.UTC).date()}, {machine}, {versions}, {rounds} rounds. `{command}`",
            "",
            f"{busy:.1f} other programs wanted a core when this began (load average).",
            "Work is the processor time of all processes together: what is not hidden when no second core is free.",
            "",
            "| file | import + load + save / s | transform / s | ratio | limit | work of the first / s | of transform / s |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Growth: seconds beyond those of the {SMALLEST}-node model ~ nodes^p.",
            "",
            "| model | p of transform | p of import + load + save |",
            "|---|---|---|",
            *growth(found),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found: dict[str, tuple[Case, Figures]] = {}
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(options.sizes):
            if options.only in case.name:
                large = case.nodes is not None and case.nodes >= LARGE
                figures = measure(case, Path(folder), max(1, options.rounds // 3) if large else options.rounds)
                found[case.name] = case, figures
                print(f"{case.name}: {figures}", file=sys.stderr)
    text = report(found, options.rounds, busy)
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
