"""Training, validation and test set of a run: which file, which structures of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.loading import load
from dcsurgery.zoo.data.molecules import ethanol_path
from dcsurgery.zoo.data.splits import Split
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
    by_system
        Draw whole systems (files of a folder): frames of one relaxation are near copies of each other.
    split
        JSON file with a saved split, instead of ``sizes`` and ``seed``.
    limit
        Use only so many structures of the training set, and of each of the others; fewer of them are some of more.
    periodic
        False forgets cells and periodicity, as the paper's programs do.
    references
        File of reference energies of the elements, which are taken off the energies.
    """

    path: str
    units: str | None = None
    sizes: tuple[int, int, int] | None = None
    seed: int = 0
    by_system: bool = False
    split: str | None = None
    limit: int | None = None
    periodic: bool = True
    references: str | None = None


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
        If the file cannot be read, a value is not finite, the sizes exceed what there is, or the split is of other data.
    """
    data = _load(choice)
    split = _split(data, choice)
    indices = [split.parts.get(name, np.zeros(0, dtype=np.int64)) for name in ("train", "validation", "test")]
    if choice.limit is not None:
        if choice.limit < 1:
            raise BadInput(f"limit must be at least 1, got {choice.limit}")
        if split.by_system:  # whose structures lie in order, system by system
            shuffled = np.random.Generator(np.random.PCG64([choice.seed, 2]))
            indices = [shuffled.permutation(part) for part in indices]
        indices = [part[: choice.limit] for part in indices]
    train, valid, test = indices
    if not (len(train) and len(test)):
        raise BadInput(
            f"split into {len(train)} structures for training, {len(valid)} for validation, {len(test)} for test",
            where=choice.split or data.name,
            fix="training and test set need at least one structure each",
        )
    description = {
        "name": data.name,
        "fingerprint": data.fingerprint(),
        "structures": len(data),
        "train": len(train),
        "valid": len(valid),
        "test": len(test),
        "split": Path(choice.split).name if choice.split else f"seed {split.seed}",
        "by_system": split.by_system,
        "periodic": choice.periodic and bool(data.pbc.any()),
        "references": Path(choice.references).name if choice.references else None,
        "units": {"energy": data.units.energy, "length": data.units.length},
    }
    data = data.to(Units(data.units.energy, "Angstrom"))
    if not choice.periodic:
        data = replace(data, cells=np.zeros_like(data.cells), pbc=np.zeros_like(data.pbc))
    return Parts(data.subset(train), data.subset(valid) if len(valid) else None, data.subset(test), description)


def _load(choice: DataChoice) -> StructureSet:
    packaged = choice.path == PACKAGED and not Path(PACKAGED).exists()
    data = load(ethanol_path() if packaged else choice.path, units=choice.units, references=choice.references)
    return replace(data, name=PACKAGED) if packaged else data


def _split(data: StructureSet, choice: DataChoice) -> Split:
    if choice.split is not None:
        if choice.sizes is not None:
            raise BadInput("both a split and sizes are given", where=choice.split, fix="leave --sizes out")
        split = Split.load(choice.split)
        split.apply(data)  # tells if it was drawn for other data
        return split
    n = len(np.unique(data.systems)) if choice.by_system else len(data)
    sizes = choice.sizes
    if sizes is None:
        tenth = max(n // 10, 1)
        sizes = PAPER_SIZES if sum(PAPER_SIZES) <= n else (n - 2 * tenth, tenth, tenth)
    if sizes[0] < 1 or sizes[2] < 1 or sizes[1] < 0:
        raise BadInput(
            f"cannot split {n} {'systems' if choice.by_system else 'structures'} into {sizes[0]} for training, "
            f"{sizes[1]} for validation and {sizes[2]} for test",
            where=data.name,
            fix="training and test set need at least one each",
        )
    return Split.draw(data, sizes, choice.seed, by_system=choice.by_system)
