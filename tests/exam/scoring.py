"""The score: every verdict of a run, and the table that is printed at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from exam.case import Case
from exam.examining import JUDGEMENTS, Judgement, Verdict, judge
from exam.explained import EXPLAINED

__all__ = ["SCORES", "Scores", "sit"]


class Scores:
    """Verdicts by family."""

    def __init__(self, explained: dict[str, str]) -> None:
        self._explained = explained
        self._verdicts: list[Verdict] = []

    def add(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self._verdicts.append(verdict)

    def standing(self, verdict: Verdict) -> str:
        """Return ``passed``, ``failed`` or ``explained``."""
        if not verdict.failures:
            return "passed"
        return "explained" if verdict.case.title in self._explained else "failed"

    def lines(self) -> Iterator[str]:
        """Yield the table: families, judgements, what was skipped and why, what is explained."""
        if not self._verdicts:
            return
        yield from self._table()
        yield ""
        yield f"{'judgement':<18}{'pass':>7}{'fail':>7}{'skip':>7}"
        found = [j for verdict in self._verdicts for j in verdict.judgements]
        for name in JUDGEMENTS:
            count = Counter(j.status for j in found if j.name == name)
            yield f"{name:<18}{count['pass']:>7}{count['fail']:>7}{count['skip']:>7}"
        yield from _counted("skipped", (f"{j.name}: {_short(j)}" for j in found if j.status == "skip"))
        reasons = (self._explained[v.case.title] for v in self._verdicts if self.standing(v) == "explained")
        yield from _counted("explained", reasons)
        slowest = sorted(self._verdicts, key=lambda v: -v.seconds)[:5]
        yield "slowest: " + ", ".join(f"{v.case.title} {v.seconds:.0f} s" for v in slowest)

    def _table(self) -> Iterator[str]:
        rows: defaultdict[str, Counter[str]] = defaultdict(Counter)
        seconds: Counter[str] = Counter()
        for verdict in self._verdicts:
            for family in (verdict.case.family, "total"):
                rows[family][self.standing(verdict)] += 1
                seconds[family] += verdict.seconds
        rows["total"] = rows.pop("total")
        yield f"{'family':<30}{'cases':>7}{'passed':>8}{'failed':>8}{'explained':>11}{'score':>8}{'time':>9}"
        for family, count in rows.items():
            runs = count["passed"] + count["failed"]
            score = f"{100 * count['passed'] / runs:.1f} %" if runs else "-"
            numbers = f"{count['passed']:>8}{count['failed']:>8}{count['explained']:>11}"
            yield f"{family:<30}{count.total():>7}{numbers}{score:>8}{seconds[family]:>7.0f} s"


def _short(judgement: Judgement) -> str:
    return judgement.reason if len(judgement.reason) < 90 else f"{judgement.reason[:87]}..."


def _counted(title: str, reasons: Iterator[str]) -> Iterator[str]:
    counts = Counter(reasons)
    if counts:
        yield ""
        yield f"{title}:"
        yield from (f"{count:>7}  {reason}" for reason, count in counts.most_common(25))


#: Of this run.
SCORES = Scores(EXPLAINED)


def sit(case: Case) -> None:
    """Judge a case, count it, and fail the test where a judgement fails that nothing explains."""
    verdict = judge(case)
    SCORES.add(verdict)
    reason = EXPLAINED.get(case.title)
    if reason is not None and not verdict.failures:
        pytest.fail(f"{case.title} is listed as a case that cannot pass ({reason}), and passes: take it off the list")
    failures = "\n".join(f"{j.name}: {j.reason}" for j in verdict.failures)
    if reason is not None:
        pytest.xfail(f"{reason}\n{failures}")
    if failures:
        pytest.fail(f"{case.title}\n{failures}", pytrace=False)
