"""Nothing that was to go still runs, and nothing else runs otherwise than before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from torch import nn

from dcsurgery.capture.graphs import Key
from dcsurgery.census import Census, site_key
from dcsurgery.checks.failing import first_line
from dcsurgery.oracle import Watched, fused_kernels, kernels_of
from dcsurgery.paths import PathSet, lineage
from dcsurgery.plans import Plan
from dcsurgery.profiling import profiled
from dcsurgery.report import Check
from dcsurgery.tree import join

__all__ = ["check_known", "check_others", "check_profiler", "check_reached", "check_residual", "left_running"]


def check_residual(
    before: Watched, after: Watched, selected: set[Key], plan: Plan, edited: nn.Module, example_inputs: Any
) -> Check:
    """No selected operator executes at its site any more (rule 1)."""
    running = left_running(after, selected, plan)
    left = [f"{_named(key)}: {kernels}" for key, kernels in running.items()]
    left += [f"{name} (not edited)" for name in plan.unedited]
    left += [str(kernel) for kernel in after.unknown if kernel not in before.unknown]
    if selected:
        touched = {part for key in selected for part in ("", *lineage(str(key[1])))}
        transformers = any(
            isinstance(m, nn.TransformerEncoderLayer) and path in touched for path, m in edited.named_modules()
        )
        if transformers and "_transformer_encoder_layer_fwd" in fused_kernels(edited, example_inputs):
            left.append("_transformer_encoder_layer_fwd goes around the edits")
    reason = "; ".join(left[:5]) if left else f"{len(selected)} selected sites, none still runs its operator"
    counts: dict[str, float] = {e.site: 0 for e in plan.edits if e.place is not None and site_key(e.place) in selected}
    home_of = _Homes(selected)
    names = {site_key(e.place): e.site for e in plan.edits if e.place is not None}
    for key, kernels in running.items():
        counts[names[home_of(key) or key]] += sum(kernels.values())
    return Check("residual", "fail" if left else "pass", len(left), 0, reason, tuple(counts.items()))


def left_running(after: Watched, selected: set[Key], plan: Plan) -> dict[Key, dict[str, int]]:
    """Return the sites at which selected operators still run, with their kernels; a new activation's own do not count."""
    own = {site_key(e.place): kernels_of(e.settings.get("module")) for e in plan.edits if e.place is not None}
    home_of = _Homes(selected)
    left = {}
    for key, counts in after.by_site.items():
        home = home_of(key)
        kernels = {} if home is None else {name: count for name, count in counts.items() if name not in own[home]}
        if kernels:
            left[key] = kernels
    return left


def check_known(before: Watched, after: Watched, census: Census) -> Check:
    """Every activation and norm kernel that ran belongs to a site that capture found."""
    del after
    unknown = [str(kernel) for kernel in before.unknown]
    known = {site_key(site.place) for site in census}
    unknown += [_named(key) for key in before.by_site if key not in known and key[0] != "fused"]
    reason = "; ".join(unknown[:5]) if unknown else f"{sum(sum(c.values()) for c in before.by_site.values())} kernels"
    return Check("known sites", "fail" if unknown else "pass", len(unknown), 0, reason)


def check_profiler(
    before: Watched, original: nn.Module, after: Watched, edited: nn.Module, plan: Plan, example_inputs: Any
) -> Check:
    """Count kernels a second time, by a profiler: nothing runs that the watching modes did not see.

    What it sees more of than they did, and more than the original leaves over when the edited sites are taken out, runs
    where they cannot look.
    """
    try:
        old, new = profiled(original, example_inputs), profiled(edited, example_inputs)
    except RuntimeError as error:  # another profiler is running, or the model refuses to run without gradients
        return Check("profiler", "skip", reason=first_line(error))
    removed: Counter[str] = Counter()
    own: set[str] = set()
    for edit in plan.edits:
        if edit.place is not None:
            removed.update({_plain(k): n for k, n in before.by_site.get(site_key(edit.place), {}).items()})
            own |= {_plain(name) for name in kernels_of(edit.settings.get("module"))}
    seen: Counter[str] = Counter()
    for name, count in after.kernels.items():
        seen[_plain(name)] += count
    totals, most = _by_kernel(new), _by_kernel(old)
    wrong = []
    for name, count in totals.items():
        allowed = max(seen[name], most[name] - removed[name])
        if name not in own and count > allowed:
            paths = sorted({path or "the model" for kernel, path in new if kernel == name})
            wrong.append(f"{name} runs {count} times, {allowed} expected, in {', '.join(paths[:3])}")
    reason = "; ".join(wrong[:3]) if wrong else f"{sum(totals.values())} kernels, none that was not seen before"
    return Check("profiler", "fail" if wrong else "pass", len(wrong), 0, reason)


def _plain(kernel: str) -> str:
    return kernel.rstrip("_")


def _by_kernel(counted: Counter[tuple[str, str]]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for (name, _), count in counted.items():
        totals[name] += count
    return totals


def check_reached(census: Census, plan: Plan) -> Check:
    """Every selected site ran: an edit at one that did not is made and not proven."""
    selected = {edit.site for edit in plan.edits}
    idle = [site for site in census if site.runs == 0 and site.name in selected]
    others = sum(site.runs == 0 for site in census) - len(idle)
    runs = tuple((site.name, float(site.runs)) for site in census if site.runs is not None and site.name in selected)
    if idle:
        told = ", ".join(f"{site.name} ({site.where})" if site.where else site.name for site in idle[:5])
        return Check("reached", "skip", len(idle), 0, f"edited, but never run by these inputs: {told}", runs)
    return Check("reached", "pass", 0, 0, f"every selected site ran; {others} others did not", runs)


def check_others(before: Watched, after: Watched, selected: set[Key]) -> Check:
    """Sites that were not selected execute as often as before."""
    home_of = _Homes(selected)
    wrong = []
    for key in set(before.by_site) | set(after.by_site):
        if key[0] == "fused" or home_of(key) is not None:
            continue
        if before.by_site.get(key) != after.by_site.get(key):
            wrong.append(f"{_named(key)}: {before.by_site.get(key)} became {after.by_site.get(key)}")
    reason = "; ".join(wrong[:5]) if wrong else f"{len(set(before.by_site) - selected)} sites unchanged"
    return Check("other sites", "fail" if wrong else "pass", len(wrong), 0, reason)


def _named(key: Key) -> str:
    """Return a place as a reader would look for it: a module path, or a function with the line of the call."""
    kind, owner, what = key[:3]
    if kind == "call":
        function = str(what).rpartition(":")[2]
        return f"{owner or 'the model'}, {function}, line {key[4][0]}"
    return join(str(owner), str(what)) if kind in ("module", "attribute") else f"{owner or 'the model'}, {what}"


class _Homes:
    """Finds the edited site that a place is, or lies in: what stands in an edited slot may have sites of its own."""

    def __init__(self, edited: Collection[Key]) -> None:
        self._edited = edited
        self._slots = {join(str(key[1]), str(key[2])): key for key in edited if key[0] in ("module", "attribute")}
        self._paths = PathSet(self._slots)

    def __call__(self, key: Key) -> Key | None:
        if key in self._edited:
            return key
        slot = self._paths.above(str(key[1]))
        return None if slot is None else self._slots[slot]
