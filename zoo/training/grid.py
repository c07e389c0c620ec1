"""Many runs: every model, variant, force weight, training set size and seed; in several processes; finished ones skipped."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dcsurgery.errors import BadInput, SurgeryError
from dcsurgery.zoo.runs import RunRecord
from dcsurgery.zoo.training.jobs import Job, run_job
from dcsurgery.zoo.training.variants import Variant

__all__ = ["Done", "grid", "run_grid"]


@dataclass(frozen=True)
class Done:
    """What became of one run of a grid.

    Attributes
    ----------
    job
        What was to be run.
    record
        What came out; None where it failed.
    error
        Why it failed.
    """

    job: Job
    record: RunRecord | None
    error: str = ""


def grid(
    base: Job,
    models: Sequence[str],
    variants: Sequence[Variant],
    seeds: Sequence[int],
    betas: Sequence[float] = (),
    limits: Sequence[int] = (),
) -> list[Job]:
    """Return all runs of a grid, seeds outermost, so that what is there first covers everything once.

    Parameters
    ----------
    base
        What they have in common; ``folder`` is the folder of all, in which each gets ``MODEL/VARIANT/[betaB/][nN/]seedS``.
    models, variants, seeds
        At least one each.
    betas, limits
        Force weights and sizes of the training set; none for the base's.
    """
    jobs = []
    weights = betas or [base.settings.beta]
    numbers: Sequence[int | None] = limits or [base.data.limit]
    for seed, model, beta, limit, variant in itertools.product(seeds, models, weights, numbers, variants):
        folder = Path(base.folder) / model / variant.name
        if len(betas) > 1:
            folder /= f"beta{beta:g}"
        if len(limits) > 1:
            folder /= f"n{limit}"
        changed = replace(
            base,
            model=model,
            variant=variant,
            settings=replace(base.settings, seed=seed, beta=beta),
            data=replace(base.data, limit=limit),
            folder=str(folder / f"seed{seed}"),
        )
        jobs.append(changed)
    return jobs


def run_grid(jobs: Sequence[Job], workers: int = 1, told: Callable[[Done], object] | None = None) -> list[Done]:
    """Do all runs, each resumed where it was killed; one that fails does not stop the others.

    Parameters
    ----------
    jobs
        Runs with folders of their own.
    workers
        Processes; each gets its share of the CPU's cores.
    told
        Called after every run.

    Raises
    ------
    BadInput
        If ``workers`` is below 1.
    """
    if workers < 1:
        raise BadInput(f"workers must be at least 1, got {workers}")
    done = []
    for one in _in_turn(jobs) if workers == 1 else _side_by_side(jobs, workers):
        done.append(one)
        if told is not None:
            told(one)
    return done


def _in_turn(jobs: Sequence[Job]) -> Iterator[Done]:
    for job in jobs:
        yield _run(job)


def _side_by_side(jobs: Sequence[Job], workers: int) -> Iterator[Done]:
    threads = max((os.cpu_count() or 1) // workers, 1)
    # Spawned: a forked process cannot use CUDA, nor torch's threads safely.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        futures = [pool.submit(_run, replace(job, shown=False)) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(job: Job) -> Done:
    try:
        return Done(job, run_job(job, resume=True))
    except SurgeryError as error:
        return Done(job, None, str(error))
