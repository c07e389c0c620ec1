"""The paper's Tables 3 to 5, printed beside what runs here gave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.problems import PROBLEMS, Problem
from dcsurgery.zoo.pde.variants import HIGHER_ORDER, PAPER_VARIANTS, Variant
from dcsurgery.zoo.runs import RunRecord

__all__ = ["NUMBERS", "PAPER", "Cell", "Row", "columns", "notes", "problem_of", "rows", "variants_of"]

#: Problem of each table.
NUMBERS: Mapping[int, str] = {3: "advection", 4: "cfd", 5: "diffusion-reaction"}

#: Columns of the paper after its score: terms of the loss.
_TERMS: Mapping[int, tuple[str, ...]] = {
    3: ("f", "ic_u", "bc_u"),
    4: ("f", "ic_p", "ic_rho", "ic_v", "bc_p", "bc_rho", "bc_v"),
    5: ("f", "ic_u", "ic_v", "bc_u", "data_u", "data_v"),
}
#: What the paper prints, in that order. "<e-45" is 0 in single precision.
PAPER: Mapping[int, Mapping[str, tuple[float, ...]]] = {
    3: {
        "tanh-bn": (1.70, 8e-16, 5e-5, 3e-5),
        "irelu-bn": (2.42, 9e-12, 8e-6, 2e-6),
        "tanh": (1.59, 1e-5, 3e-6, 6e-6),
        "irelu": (0.99, 0.0, 0.08, 0.0),
    },
    4: {
        "tanh-bn": (1.11, 271.94, 2910.32, 11.37, 0.25, 0.15, 0.15, 0.15),
        "irelu-bn": (1.66, 2e7, 4656.73, 32.97, 0.87, 1.96, 1.96, 1.96),
        "tanh": (0.87, 7.96, 4694.60, 16.01, 0.27, 0.11, 0.11, 0.11),
        "irelu": (0.40, 0.11, 88.78, 0.21, 0.17, 1e-6, 1e-6, 1e-6),
    },
    5: {
        "tanh-bn": (4.94, 0.46, 1.18, 1.06, 2e-15, 0.08, 0.008),
        "irelu-bn": (8.03, 7e4, 0.98, 1.00, 2e-10, 4.44, 4.34),
        "tanh": (1.35, 2e-4, 0.97, 0.99, 1e-4, 1e-4, 3e-5),
        "irelu": (1.13, 1e-4, 0.98, 1.00, 3e-14, 0.004, 3e-4),
    },
}

_SCORE = (
    "The paper's column MSE is the normalized RMSE of the last 20 frames (the published script logs, as RMSE, whatever its"
    " loop over the metrics ended with: nRMSE). Predicting 0 everywhere has nRMSE 1"
)
_NOTES: Mapping[int, tuple[str, ...]] = {
    3: (
        (
            "Not comparable: the paper's data file moves at twice the stated speed (2 β), so that its scores measure the"
            " distance of two different waves; the exact solution at β has nRMSE 1.6 on it, and 0 on correct data."
        ),
        (
            "A row whose L_f and L_BC vanish together with a large L_IC is a constant network: it satisfies the equation and"
            " the periodic condition exactly, and predicts nothing. The paper's last row (L_f and L_BC below 1e-45, L_IC 0.08,"
            " score 0.99) is one."
        ),
    ),
    4: (
        (
            "Not comparable: the paper's L_f is not the equation (p_x has the wrong sign, and the energy flux mixes all"
            " points), its domain is half of the data's, and its three L_BC are all of the density, hence equal. In correct"
            " mode L_f is the sum of the three equations' terms."
        ),
    ),
    5: (
        (
            "Not comparable in L_f (a sum of residuals that can cancel; here the sum of both equations' terms) and in the"
            " errors: the paper's test data has x and y exchanged against its initial values. L_IC near 1 is the variance of"
            " white noise, which no smooth network can fit. L_BCu and L_BCv of the paper are the shown values (data)."
        ),
    ),
}


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation over seeds; NaN where there is none."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell:
        """Return mean and sample standard deviation of some values."""
        if not values:
            return cls(math.nan, math.nan)
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.3g}" + ("" if math.isnan(self.std) else f" ± {self.std:.1g}")


@dataclass(frozen=True)
class Row:
    """One variant of a table.

    Attributes
    ----------
    variant
        Which.
    seeds
        Seeds of the runs.
    diverged
        How many of them diverged; they count in no mean.
    constant
        How many ended as a constant network.
    paper
        The paper's numbers, empty for variants that it does not have.
    cells
        Our numbers, by column.
    """

    variant: Variant
    seeds: tuple[int, ...]
    diverged: int
    constant: int
    paper: tuple[float, ...]
    cells: Mapping[str, Cell]


def problem_of(number: int) -> Problem:
    """Return the problem of a table.

    Raises
    ------
    BadInput
        If the table is none of 3, 4 and 5.
    """
    if number not in NUMBERS:
        raise BadInput(f"Table {number} is none of the PINNs'", fix="they are 3, 4 and 5")
    return PROBLEMS[NUMBERS[number]]


def variants_of(number: int) -> tuple[Variant, ...]:
    """Return the paper's four variants, and the higher-order ones for the problem of second order."""
    return (*PAPER_VARIANTS, *(HIGHER_ORDER if number == 5 else ()))


def columns(number: int) -> tuple[str, ...]:
    """Return the names of the columns: the paper's, its score first, then the RMSE, which it does not have."""
    return ("nrmse", *_TERMS[number], "rmse")


def notes(number: int) -> tuple[str, ...]:
    """Return why the paper's numbers and ours cannot be compared."""
    return (f"{_SCORE}.", *_NOTES[number])


def rows(number: int, records: Iterable[RunRecord]) -> list[Row]:
    """Return the rows of a table from finished runs.

    Raises
    ------
    BadInput
        If runs of one table had different settings or data (means over them would mean nothing).
    """
    name = f"pinn-{problem_of(number).name}"
    mine = [record for record in records if record.name == name and record.ended]
    settings = {str((dict(record.settings), record.data.get("fingerprint"))) for record in mine}
    if len(settings) > 1:
        raise BadInput(
            f"the runs of {name} have {len(settings)} different settings or fields",
            where="runs",
            fix="give a folder with the runs of one set of settings",
        )
    table = []
    for variant in variants_of(number):
        runs = sorted((record for record in mine if record.variant == variant.name), key=lambda record: record.seed)
        good = [record for record in runs if record.status == "finished"]
        table.append(
            Row(
                variant,
                tuple(record.seed for record in runs),
                len(runs) - len(good),
                sum(record.note.startswith("the network is constant") for record in good),
                PAPER[number].get(variant.name, ()),
                {column: Cell.of([_value(record, column) for record in good]) for column in columns(number)},
            )
        )
    return table


def _value(record: RunRecord, column: str) -> float:
    metrics = record.metrics
    if column in ("rmse", "nrmse"):
        return float(metrics[column])
    if column == "f":
        return float(sum(value for key, value in metrics.items() if key == "loss_f" or key.startswith("loss_f_")))
    return float(metrics.get(f"loss_{column}", math.nan))
