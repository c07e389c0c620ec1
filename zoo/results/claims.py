"""Claims of the paper, and the rule by which finished runs bear them out. Written down before the runs.

The rule. A claim says that one variant's error is lower than another's. It is

* ``reproduced`` where the mean over seeds is lower by more than the pooled standard deviation,
  sqrt((s1² + s2²) / 2);
* ``not reproduced`` where it is not;
* ``not run`` where either variant has fewer than two finished seeds in the same setting (model, size, data, split,
  budget, loss, ...).

A variant with a diverged run has an infinite error. What was trained less than in the paper (a smaller model, fewer
structures, fewer epochs) is said beside the verdict: such a verdict is about that budget and no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dcsurgery.zoo.results.groups import Cell, Setting, Statistic, figure

__all__ = ["CLAIMS", "MINIMUM_SEEDS", "Claim", "Verdict", "judge", "pooled_std"]

MINIMUM_SEEDS = 2

Outcome = Literal["reproduced", "not reproduced", "not run"]
_ALL = "irelu+denorm+rescale"


@dataclass(frozen=True)
class Claim:
    """``lower`` has a lower error than ``higher``, for each of some models.

    Attributes
    ----------
    table
        Where the paper shows it.
    text
        In words.
    quantity
        ``energy`` or ``force``.
    lower, higher
        Variants.
    models
        For which the paper claims it.
    """

    table: int
    text: str
    quantity: Literal["energy", "force"]
    lower: str
    higher: str
    models: tuple[str, ...]


_FIVE = ("schnet", "cgcnn", "dimenet++", "forcenet", "gemnet-dt")
_GAIN_ON_FORCES = ("cgcnn", "dimenet++", "forcenet")

#: From Sec. 5.1.1, 5.1.2, C.1 and C.2. Table 7 claims no consistent change, so there is nothing to test in it.
CLAIMS = (
    Claim(1, "all three edits lower the energy error", "energy", _ALL, "original", _FIVE),
    Claim(1, "all three edits lower the force error", "force", _ALL, "original", _GAIN_ON_FORCES),
    Claim(2, "all three edits lower the energy error", "energy", _ALL, "original", ("cgcnn", "dimenet++")),
    Claim(2, "all three edits lower the force error", "force", _ALL, "original", _GAIN_ON_FORCES),
    Claim(8, "given denorm and rescale, IReLU lowers the energy error", "energy", _ALL, "denorm+rescale", _FIVE),
    Claim(8, "given denorm and rescale, IReLU lowers the force error", "force", _ALL, "denorm+rescale", ("forcenet",)),
    Claim(9, "denorm and rescale lower the force error", "force", "denorm+rescale", "original", ("cgcnn", "forcenet")),
    Claim(9, "denorm and rescale raise the energy error", "energy", "original", "denorm+rescale", ("cgcnn",)),
)


@dataclass(frozen=True)
class Verdict:
    """What finished runs say about a claim.

    Attributes
    ----------
    claim, model
        About what.
    outcome
        ``reproduced``, ``not reproduced`` or ``not run``.
    reason
        The figures, or what is missing.
    setting
        Where it was measured; None if it was not run.
    """

    claim: Claim
    model: str
    outcome: Outcome
    reason: str
    setting: Setting | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain JSON types."""
        return {
            "table": self.claim.table,
            "claim": self.claim.text,
            "model": self.model,
            "outcome": self.outcome,
            "reason": self.reason,
            "where": None if self.setting is None else str(self.setting),
            "reduced": None if self.setting is None else self.setting.reduced,
        }


def pooled_std(first: Statistic, second: Statistic) -> float:
    """Return sqrt((s1² + s2²) / 2)."""
    return math.sqrt((first.std**2 + second.std**2) / 2)


def judge(table: int, cells: Sequence[Cell]) -> list[Verdict]:
    """Return a verdict for every claim of a table, every model, and every setting in which it was run."""
    verdicts = []
    for claim in (claim for claim in CLAIMS if claim.table == table):
        for model in claim.models:
            settings = {cell.setting.key: cell.setting for cell in cells if cell.setting.model == model}
            found = [_verdict(claim, setting, cells) for setting in settings.values()]
            run = [verdict for verdict in found if verdict.outcome != "not run"]
            missing = Verdict(claim, model, "not run", "no finished runs of both variants")
            verdicts += run or found[:1] or [missing]
    return verdicts


def _verdict(claim: Claim, setting: Setting, cells: Sequence[Cell]) -> Verdict:
    pair = []
    for variant in (claim.lower, claim.higher):
        cell = next((cell for cell in cells if cell.setting.key == setting.key and cell.variant == variant), None)
        seeds = len(cell.seeds) if cell else 0
        if cell is None or seeds < MINIMUM_SEEDS:
            reason = f"{variant}: {seeds} finished seeds, {MINIMUM_SEEDS} needed"
            return Verdict(claim, setting.model, "not run", reason, setting)
        pair.append(cell)
    lower, higher = (getattr(cell, claim.quantity) for cell in pair)
    if math.isnan(lower.mean):
        return Verdict(claim, setting.model, "not reproduced", f"{claim.lower} diverged", setting)
    if math.isnan(higher.mean):
        return Verdict(claim, setting.model, "reproduced", f"{claim.higher} diverged, {claim.lower} did not", setting)
    spread = pooled_std(lower, higher)
    gain = higher.mean - lower.mean
    outcome: Outcome = "reproduced" if gain > spread else "not reproduced"
    change = f"{'lower' if gain >= 0 else 'higher'} by {figure(abs(gain), 3)}, pooled std {figure(spread, 3)}"
    reason = f"{claim.lower} {lower}, {claim.higher} {higher}: {change}"
    return Verdict(claim, setting.model, outcome, reason, setting)
