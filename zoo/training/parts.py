"""Training, validation and test set of a run: which file, which structures of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.loading import load
from dcsurgery.zoo.data.molecules import ethanol_path, random_split
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.units import Units

__all__ = ["PAPER_SIZES", "DataChoice", "Parts", "load_parts"]

#: Training, validation and test structures of each molecule in the paper.
PAPER_SIZES = (50_000, 6_250, 6_250)


#: Stands for the data set that ships with the package.
PACKAGED = "ethanol"


@dataclass(frozen=True)
class DataChoice:
    """Which structures a run uses.

    Attributes
    ----------
    path
        File or folder that `dcsurgery.zoo.data.loading.load` reads; ``ethanol`` is the packaged set.
    units
        Of its energies and lengths, where the file does not say.
    sizes
        Structures for training, validation and test. By default the paper's 50 000, 6 250 and 6 250 where there are as
        many, otherwise 80, 10 and 10 % of what there is.
    seed
        Of the random split.
    split
        JSON file with a saved split, instead of ``sizes`` and ``seed``.
    limit
        Use only the first so many structures of the training set, and of each of the others.
    periodic
        False forgets cells and periodicity, as the paper's programs do.
    """

    path: str
    units: str | None = None
    sizes: tuple[int, int, int] | None = None
    seed: int = 0
    split: str | None = None
    limit: int | None = None
    periodic: bool = True


@dataclass(frozen=True)
class Parts:
    """The three sets of a run, in Å.

    Attributes
    ----------
    train, valid, test
        Disjoint; validation may be None.
    description
        What a run record says of them.
    """

    train: StructureSet
    valid: StructureSet | None
    test: StructureSet
    description: dict[str, Any]


def load_parts(choice: DataChoice) -> Parts:
    """Read and split the data of a run.

    Raises
    ------
    BadInput
        If the file cannot be read, a value is not finite, or the sizes exceed what there is.
    """
    data = _load(choice)
    data = data.to(Units(data.units.energy, "Angstrom"))
    fingerprint = data.fingerprint()
    if not choice.periodic:
        data = replace(data, cells=np.zeros_like(data.cells), pbc=np.zeros_like(data.pbc))
    indices = _split(data, choice)
    if choice.limit is not None:
        if choice.limit < 1:
            raise BadInput(f"limit must be at least 1, got {choice.limit}")
        indices = tuple(part[: choice.limit] for part in indices)
    train, valid, test = indices
    description = {
        "name": Path(choice.path).stem if choice.path else data.name,
        "fingerprint": fingerprint,
        "structures": len(data),
        "train": len(train),
        "valid": len(valid),
        "test": len(test),
        "split_seed": None if choice.split else choice.seed,
        "split_file": Path(choice.split).name if choice.split else None,
        "periodic": bool(data.pbc.any()),
        "units": {"energy": data.units.energy, "length": data.units.length},
    }
    return Parts(data.subset(train), data.subset(valid) if len(valid) else None, data.subset(test), description)


def _load(choice: DataChoice) -> StructureSet:
    if choice.path == PACKAGED and not Path(PACKAGED).exists():
        return load(ethanol_path(), units=choice.units)
    return load(choice.path, units=choice.units)


def _split(data: StructureSet, choice: DataChoice) -> tuple[Any, ...]:
    if choice.split is not None:
        return _read_split(choice.split, data)
    n = len(data)
    sizes = choice.sizes
    if sizes is None:
        tenth = max(n // 10, 1)
        sizes = PAPER_SIZES if sum(PAPER_SIZES) <= n else (n - 2 * tenth, tenth, tenth)
    if sizes[0] < 1 or sizes[2] < 1 or sizes[1] < 0:
        raise BadInput(
            f"cannot split {n} structures into {sizes[0]} for training, {sizes[1]} for validation, {sizes[2]} for test",
            where=data.name,
            fix="training and test set need at least one structure each",
        )
    if sum(sizes) > n:
        raise BadInput(
            f"{' + '.join(map(str, sizes))} structures asked for, {n} there",
            where=data.name,
            fix="ask for fewer with --sizes",
        )
    return random_split(n, sizes, choice.seed)


def _read_split(path: str, data: StructureSet) -> tuple[Any, ...]:
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        parts = tuple(np.asarray(document[key], dtype=np.int64) for key in ("train", "valid", "test"))
        fingerprint = document["fingerprint"]
    except OSError as error:
        raise BadInput(f"cannot read the split: {error.strerror}", where=path) from None
    except (ValueError, KeyError, TypeError):
        fix = "it needs lists of indices train, valid and test, and the data's fingerprint"
        raise BadInput("not a saved split", where=path, fix=fix) from None
    if fingerprint != data.fingerprint():
        raise BadInput(
            f"the split was made for other data ({fingerprint}, and {data.name} has {data.fingerprint()})", where=path
        )
    return parts
