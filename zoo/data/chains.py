"""Several independent trajectories at once, in worker processes; the data do not depend on how many there are."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.systems import starting_structure
from dcsurgery.zoo.data.xtb import Settings, _calculator, _plain, _write_npz, generate

__all__ = ["generate_chains"]

_NOTE = "run.json"


def generate_chains(
    settings: Settings,
    output: str | os.PathLike[str],
    *,
    chains: int,
    workers: int,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Run ``chains`` trajectories of `dcsurgery.zoo.data.xtb.generate` and join their frames, one chain after another.

    Parameters
    ----------
    settings
        What to run; ``frames`` are shared among the chains, and each equilibrates on its own.
    output
        The npz file to write. Unfinished and finished chains lie in ``NAME.parts`` meanwhile.
    chains
        Number of trajectories; chain k is seeded with the seed and k.
    workers
        Processes that run them, one thread each.
    force
        Replace an existing output file.
    progress
        Called with the number of finished frames.

    Raises
    ------
    BadInput
        As `generate`, or if ``chains`` or ``workers`` is less than 1 or there are more chains than frames.
    """
    output = Path(output)
    for name, value in (("chains", chains), ("workers", workers)):
        if value < 1:
            raise BadInput(f"{name} must be at least 1, got {value}")
    if chains > settings.frames:
        raise BadInput(f"{chains} chains cannot share {settings.frames} frames", fix="ask for fewer chains")
    if chains == 1:
        return generate(settings, output, force=force, progress=progress)
    if output.exists() and not force:
        raise BadInput("the file exists", where=str(output), fix="choose another name or add --force")
    if not output.parent.is_dir():
        raise BadInput(f"no folder {output.parent}", where=str(output), fix="make the folder first")
    starting_structure(
        settings.molecule, settings.size
    )  # what is wrong with the settings shows before a folder is made
    _calculator(settings.method)
    parts = output.with_name(output.name + ".parts")
    share = [len(part) for part in np.array_split(np.arange(settings.frames), chains)]
    tasks = [
        (replace(settings, frames=frames, chain=chain), parts / f"chain-{chain:03d}.npz")
        for chain, frames in enumerate(share)
    ]
    parts.mkdir(exist_ok=True)
    _same_run(parts, {**_plain(settings), "chains": chains})
    try:
        _run_all(tasks, min(workers, chains), progress)
    except BaseException:
        if [one.name for one in parts.iterdir()] == [_NOTE]:
            shutil.rmtree(parts)  # nothing to go on from
        raise
    _write_npz(output, _joined([path for _, path in tasks], settings, chains))
    shutil.rmtree(parts)
    return output


def _same_run(parts: Path, run: dict[str, Any]) -> None:
    """Refuse a folder of another run; its frames would be mixed with these."""
    note = parts / _NOTE
    if note.exists() and json.loads(note.read_text("utf-8")) != run:
        raise BadInput(
            "an unfinished run with other settings lies here",
            where=str(parts),
            fix="repeat its settings to finish it, or remove the folder",
        )
    note.write_text(json.dumps(run), "utf-8")


def _run_all(tasks: list[tuple[Settings, Path]], workers: int, progress: Callable[[int], None] | None) -> None:
    context = multiprocessing.get_context("spawn")  # threads of a forked torch or tblite hang
    reports, stop = context.Queue(), context.Event()
    done: dict[int, int] = {}
    with (
        _one_thread(),
        ProcessPoolExecutor(workers, context, initializer=_adopt, initargs=(reports, stop, os.getpid())) as pool,
    ):
        futures = [pool.submit(_chain, settings, path) for settings, path in tasks]
        try:
            waiting = set(futures)
            while waiting:
                finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                while True:
                    try:
                        chain, frames = reports.get_nowait()
                    except queue.Empty:
                        break
                    done[chain] = frames
                if progress is not None:
                    progress(sum(done.values()))
                for future in finished:
                    future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if progress is not None:
        progress(sum(settings.frames for settings, _ in tasks))


@contextmanager
def _one_thread() -> Iterator[None]:
    # A library reads it when it is loaded, so the workers must be born with it.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


_WORKER: dict[str, Any] = {}


def _adopt(reports: Any, stop: Any, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent tells the others what to do
    _WORKER.update(reports=reports, stop=stop)
    threading.Thread(target=_outlive_nobody, args=(parent,), daemon=True).start()


def _outlive_nobody(parent: int) -> None:
    # A parent that is killed cannot tell its workers, and an idle one would wait for work for ever. Chains are saved
    # every few seconds.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _chain(settings: Settings, path: Path) -> None:
    """Run one chain in a worker; its file is there already if an earlier run finished it."""

    def alive() -> None:
        if _WORKER["stop"].is_set():
            raise KeyboardInterrupt  # saves the chain

    def report(frames: int) -> None:
        alive()
        _WORKER["reports"].put((settings.chain, frames))

    if path.exists():
        report(settings.frames)
    else:
        generate(settings, path, progress=report, alive=alive)


def _joined(paths: list[Path], settings: Settings, chains: int) -> dict[str, Any]:
    joined: dict[str, list[Any]] = {}
    start = 0
    provenance: dict[str, Any] = {}
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            stored = {key: file[key] for key in file.files}
        provenance = json.loads(str(stored.pop("provenance")))
        stored["fd_frame"] = stored["fd_frame"] + start
        start += len(stored["E"])
        for key, array in stored.items():
            joined.setdefault(key, []).append(array)
    provenance["settings"] = {**_plain(settings), "chains": chains}
    single = ("z", "cell", "pbc", "fixed")
    arrays = {key: rows[0] if key in single else np.concatenate(rows) for key, rows in joined.items()}
    return {**arrays, "provenance": np.array(json.dumps(provenance, sort_keys=True))}
