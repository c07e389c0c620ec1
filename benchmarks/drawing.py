"""Time and size of pictures and pages of diffs, and how quickly the pages answer in a browser.

Each model is compared with its transformed self. ``SVG`` includes graphviz; ``page`` is the HTML file. The browser is a
headless Chromium without network: ``ready`` is the time on the wall from asking for the file until it is drawn and
answers, ``open`` that of opening the largest closed box, ``search`` that of looking for ``relu`` in all nodes, ``jump``
that of going to the last change; each ends with the frame that shows it. Figures of the browser are medians of ROUNDS
fresh pages. Where other programs take the processor, the clock on the wall measures them, too: ``work`` is processor
time, of the program with graphviz, or of the page's main thread. GemNet-dT is run on a periodic slab of 24 atoms, DimeNet++ and SchNet on ethanol; the synthetic graphs are
compared by what their code says.

    python benchmarks/drawing.py [--only NAME] [--sizes 10000 100000] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import platform
import shlex
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transform_time import GEMNET_DT, graph, modules

import dcsurgery as dcs

ROUNDS = 3
_FRAMES = "requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begin)))"
_TIMED = "const done = arguments[arguments.length - 1], begin = performance.now(); {does}; " + _FRAMES
_OPEN = """
const boxes = [...document.querySelectorAll('.box[aria-expanded=false]')];
const size = (element) => DCS.page.tree.nodes[Number(element.dataset.index)].children.length;
const box = boxes.sort((a, b) => size(b) - size(a))[0];
if (box) box.dispatchEvent(new MouseEvent('dblclick', { bubbles: true }))
"""
_SEARCH = """
const field = document.getElementById('search');
field.value = 'relu';
field.dispatchEvent(new Event('input'))
"""
_JUMP = "const all = document.querySelectorAll('#changes .jump'); if (all.length) all[all.length - 1].click()"


@dataclass(frozen=True)
class Case:
    """A model with inputs; None compares what the code says."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]


def gemnet() -> nn.Module:
    from dcsurgery.zoo.ocp import fairchem

    return fairchem.build({"model": GEMNET_DT, "optim": {}, "trainer": "ocp"}).eval()


def slab() -> Any:
    """Return a batch of one slab: copper (111), 2 x 2 x 4 atoms, with CO and water above it."""
    from ase.build import add_adsorbate, fcc111, molecule

    from dcsurgery.zoo.ocp.fairchem_batches import batch_of

    atoms = fcc111("Cu", (2, 2, 4), vacuum=10.0)
    add_adsorbate(atoms, molecule("CO"), 1.8, "ontop")
    add_adsorbate(atoms, molecule("CH3OH"), 2.5, "bridge")
    return batch_of([atoms])


def ethanol() -> Any:
    from dcsurgery.zoo.data.molecules import ethanol as frames

    data = frames()[:1]
    numbers = torch.as_tensor(data.numbers)
    pos = torch.as_tensor(data.positions.reshape(-1, 3), dtype=torch.float32)
    return numbers, pos, torch.zeros(len(numbers), dtype=torch.long)


def cases(sizes: list[int]) -> list[Case]:
    found = [
        Case("GemNet-dT, paper size", gemnet, slab),
        Case("DimeNet++, paper size", lambda: dcs.zoo.build("dimenet++", size="paper"), ethanol),
        Case("SchNet, paper size", lambda: dcs.zoo.build("schnet", size="paper"), ethanol),
    ]
    for size in sizes:
        found.append(Case(f"one graph, {size:,} nodes", lambda size=size: graph(size), lambda: None))
        found.append(Case(f"modules, {size:,} nodes", lambda size=size: modules(size), lambda: None))
    return found


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return seconds on the wall, seconds of processor time with that of child processes, and the result."""
    before, begin = os.times(), time.perf_counter()
    result = work()
    wall, after = time.perf_counter() - begin, os.times()
    return wall, sum(after[:4]) - sum(before[:4]), result


class Browser:
    """A headless Chromium that has no network."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
            options.add_argument(argument)
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        self.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        self.driver.set_script_timeout(120)

    def measure(self, path: Path) -> dict[str, float]:
        """Return seconds of one fresh page."""
        self.driver.get("about:blank")
        begin = self._work()
        ready, _, _ = timed(lambda: self._open(path))
        found = {"ready": ready, "ready work": self._work() - begin}
        for name, does in (("open", _OPEN), ("search", _SEARCH), ("jump", _JUMP)):
            begin = self._work()
            found[name] = self.driver.execute_async_script(_TIMED.replace("{does}", does)) / 1000
            found[f"{name} work"] = self._work() - begin
        found["nodes"] = self.driver.execute_script("return DCS.page.tree.nodes.length")
        found["shown"] = self.driver.execute_script("return document.querySelectorAll('.pane [data-index]').length")
        return found

    def _work(self) -> float:
        """Return seconds of processor time that the page's main thread has used."""
        metrics = self.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(entry["value"] for entry in metrics if entry["name"] == "TaskDuration")

    def _open(self, path: Path) -> None:
        self.driver.get(path.as_uri())  # returns when the page's own code has run
        if not self.driver.execute_script("return document.documentElement.dataset.ready === 'true'"):
            sys.exit(f"the page of {path} is not ready")
        self.driver.execute_async_script(_TIMED.replace("{does}", ""))

    def close(self) -> None:
        self.driver.quit()


def measure(case: Case, folder: Path, browser: Browser) -> dict[str, float]:
    """Measure one case."""
    torch.manual_seed(0)
    model, inputs = case.make(), case.inputs()
    surgery = dcs.apply(model, dcs.plan(model, example_inputs=inputs))
    found: dict[str, float] = {}
    found["compare"], found["compare work"], diff = timed(lambda: dcs.diff(model, surgery.model, inputs))
    found["svg"], found["svg work"], svg = timed(diff.to_svg)
    found["page"], found["page work"], page = timed(diff.to_html)
    found["drawn"] = len(diff.before.nodes)
    found["changes"] = len(diff)
    found["svg MB"], found["page MB"] = len(svg.encode()) / 1e6, len(page.encode()) / 1e6
    path = folder / "diff.html"
    path.write_text(page, encoding="utf-8")
    rounds = [browser.measure(path) for _ in range(ROUNDS)]
    return found | {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}


def report(found: dict[str, dict[str, float]], busy: float) -> str:
    """Return the result as Markdown."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    command = shlex.join(["python", *sys.argv])
    first, second = ("compare", "svg", "page"), ("ready", "open", "search", "jump")

    def cells(f: dict[str, float], names: tuple[str, ...]) -> str:
        return " | ".join(f"{f[name]:.2f} ({f[f'{name} work']:.2f})" for name in names)

    return "\n".join(
        [
            "# Time of pictures and pages",
            "",
            f"{dt.datetime.now(tz=dt.UTC).date()}, {machine}, {versions}, {ROUNDS} rounds in the browser. `{command}`",
            "",
            f"{busy:.1f} other programs wanted a core when this began (load average). Seconds on the wall, work in brackets.",
            "",
            "| model | nodes | changes | compare / s | SVG / s | page / s | SVG / MB | page / MB |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {name} | {f['drawn']:,} | {f['changes']} | {cells(f, first)} | {f['svg MB']:.2f} | {f['page MB']:.2f} |"
                for name, f in found.items()
            ),
            "",
            "| model | boxes shown | ready / s | open / s | search / s | jump / s |",
            "|---|---|---|---|---|---|",
            *(f"| {name} | {f['shown']:.0f} | {cells(f, second)} |" for name, f in found.items()),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000], help="nodes of the synthetic models")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found: dict[str, dict[str, float]] = {}
    busy = os.getloadavg()[0]
    browser = Browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for case in cases(options.sizes):
                if options.only in case.name:
                    found[case.name] = measure(case, Path(folder), browser)
                    print(case.name, {k: round(v, 2) for k, v in found[case.name].items()}, file=sys.stderr, flush=True)
    finally:
        browser.close()
    text = report(found, busy)
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
