"""Random splits: reproducible, kept as JSON, and tied to the data they were drawn for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.molecules import random_split
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.writing import replacing

__all__ = ["Split"]

_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Disjoint parts of a data set.

    Attributes
    ----------
    parts
        Indices by name of the part: ``train``, ``validation``, ``test``.
    seed
        What they were drawn with.
    fingerprint
        Of the data.
    by_system
        Whether whole systems were drawn, so that no system is in two parts.
    """

    parts: Mapping[str, NDArray[Any]]
    seed: int
    fingerprint: str
    by_system: bool = False

    @classmethod
    def draw(cls, data: StructureSet, sizes: tuple[int, ...], seed: int, *, by_system: bool = False) -> Split:
        """Draw a split.

        Parameters
        ----------
        data
            What to split.
        sizes
            Of training, validation and test set; the last ones may be left out. Structures, or with ``by_system``
            systems.
        seed
            Seed; the same one draws the same parts.
        by_system
            Draw whole systems (files of a folder, relaxations of an LMDB): frames of one relaxation are near copies,
            and a test on copies of training structures says little.

        Raises
        ------
        BadInput
            If the sizes exceed the data, are negative, or there are none or more than three.
        """
        if not 1 <= len(sizes) <= len(_NAMES):
            raise BadInput(f"a split has one to three sizes, got {len(sizes)}", fix="such as 50000,6250,6250")
        if not by_system:
            drawn = random_split(len(data), sizes, seed)
        else:
            systems = np.unique(data.systems)
            if sum(sizes) > len(systems):
                raise BadInput(
                    f"cannot draw {' + '.join(map(str, sizes))} of {len(systems)} systems",
                    where=data.name,
                    fix="ask for fewer, or split by structures",
                )
            drawn = tuple(
                np.flatnonzero(np.isin(data.systems, systems[part])) for part in random_split(len(systems), sizes, seed)
            )
        return cls(dict(zip(_NAMES, drawn, strict=False)), seed, data.fingerprint(), by_system)

    def apply(self, data: StructureSet) -> dict[str, StructureSet]:
        """Return the parts of the data; empty ones are left out.

        Raises
        ------
        BadInput
            If the split was drawn for other data.
        """
        if data.fingerprint() != self.fingerprint:
            raise BadInput(
                f"the split was drawn for data {self.fingerprint}, and this is {data.fingerprint()}",
                where=data.name,
                fix="give the same data in the same units, or draw a new split",
            )
        return {name: data.subset(indices) for name, indices in self.parts.items() if len(indices)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON.

        Raises
        ------
        BadInput
            If the folder cannot be written to.
        """
        document = {
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "by_system": self.by_system,
            "parts": {name: indices.tolist() for name, indices in self.parts.items()},
        }
        with replacing(Path(path)) as file:
            file.write(json.dumps(document).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Split:
        """Read a split.

        Raises
        ------
        BadInput
            If the file is missing or is no split, or parts overlap.
        """
        fix = "write one with dcsurgery zoo data split"
        try:
            document = json.loads(Path(path).read_text("utf-8"))
            parts = {str(name): np.array(rows, dtype=np.int64).reshape(-1) for name, rows in document["parts"].items()}
            split = cls(parts, int(document["seed"]), str(document["fingerprint"]), bool(document.get("by_system")))
        except OSError as error:
            raise BadInput(f"cannot read: {error.strerror}", where=str(path), fix=fix) from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise BadInput(f"not a split ({type(error).__name__}: {error})", where=str(path), fix=fix) from None
        every = np.concatenate([np.zeros(0, dtype=np.int64), *parts.values()])
        if len(np.unique(every)) != len(every) or (every < 0).any():
            raise BadInput("an index is in it twice, or is negative", where=str(path), fix=fix)
        return split
