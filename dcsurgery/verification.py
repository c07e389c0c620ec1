"""Check a surgery: nothing selected still runs, nothing else changed, derivatives are right."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dcsurgery.capture.graphs import Key, graph_lines
from dcsurgery.census import Census, site_key
from dcsurgery.derivatives import check_derivatives
from dcsurgery.errors import BadInput
from dcsurgery.example_inputs import call, preserved, unfit
from dcsurgery.oracle import Watched, fused_kernels, kernels_of, watch
from dcsurgery.plans import Edit, Plan
from dcsurgery.report import Check, Report
from dcsurgery.surgery import Surgery
from dcsurgery.tree import join

__all__ = ["check_surgery", "verify"]


def check_surgery(
    original: nn.Module, surgery: Surgery, census: Census, example_inputs: Any
) -> tuple[list[Check], list[str]]:
    """Run every check that the inputs allow.

    Parameters
    ----------
    original
        The model before the edits.
    surgery
        The applied plan.
    census
        The original's census.
    example_inputs
        See `take_census`; None skips what needs a run.

    Returns
    -------
    checks, warnings
    """
    edited, plan = surgery.model, surgery.plan
    checks = [_keys(original, surgery)]
    if example_inputs is None:
        reason = "no example inputs"
        names = ("residual", "known sites", "other sites", "graph equals plan", "finite", "gradcheck")
        checks += [Check(name, "skip", reason=reason) for name in names]
        if plan.unedited:  # known without a run: they are still there
            left = "; ".join(f"{name} (not edited)" for name in plan.unedited)
            checks[1] = Check("residual", "fail", len(plan.unedited), 0, left)
        warnings = ["nothing was run: give example inputs (--inputs FILE) to prove the edit"]
        return checks, warnings
    before = _watched(original, example_inputs)
    try:
        after = _watched(edited, example_inputs, before.recording.calls)
    except BadInput as error:
        return [*checks, Check("runs", "fail", reason=str(error))], []
    edited_sites = {site_key(e.place) for e in plan.edits if e.place is not None}
    selected = {site_key(e.place) for e in plan.edits if e.place is not None and _leaves(e) != "operator"}
    checks += [
        _residual(before, after, selected, plan, edited, example_inputs),
        _known(before, after, census),
        _others(before, after, edited_sites),
        _graphs(before, after, plan),
        _finite(after.output),
    ]
    checks += _derivatives(original, edited, example_inputs, order=1)
    checks.append(_reload(edited, example_inputs))
    return checks, []


def verify(original: nn.Module, edited: nn.Module, example_inputs: Any, order: int = 2) -> Report:
    """Compare an edited model with its original.

    Parameters
    ----------
    original, edited
        The models.
    example_inputs
        See `take_census`.
    order
        Highest derivative that is checked against finite differences, 1 to 3, in float64.

    Returns
    -------
    Report
        Tensors that changed, finite outputs, derivatives.

    Raises
    ------
    BadInput
        If a model does not accept the inputs, or the order is not 1, 2 or 3.
    """
    if order not in (1, 2, 3):
        raise BadInput(f"no derivative order {order!r}", fix="use 1, 2 or 3")
    _run(original, example_inputs)
    checks = [_shared_tensors(original, edited), _finite(_run(edited, example_inputs))]
    checks += _derivatives(original, edited, example_inputs, order=order)
    return Report(tuple(checks))


def _derivatives(original: nn.Module, edited: nn.Module, example_inputs: Any, order: int) -> list[Check]:
    """Check the edited model; a kink that the original has at these very inputs (``abs`` at 0) is not the edit's."""
    checks = check_derivatives(edited, example_inputs, order)
    if all(check.status != "fail" for check in checks):
        return checks
    before = {check.name: check for check in check_derivatives(original, example_inputs, order)}
    return [
        Check(check.name, "skip", reason=f"the original fails it, too: {before[check.name].reason}")
        if check.status == "fail" and before[check.name].status == "fail"
        else check
        for check in checks
    ]


def _run(model: nn.Module, example_inputs: Any) -> Any:
    try:
        with preserved(model):
            return call(model, example_inputs)
    except Exception as error:
        raise unfit(model, example_inputs, error) from error


def _watched(model: nn.Module, example_inputs: Any, opened: Collection[str] = ()) -> Watched:
    try:
        return watch(model, example_inputs, opened)
    except Exception as error:
        raise unfit(model, example_inputs, error) from error


def _keys(original: nn.Module, surgery: Surgery) -> Check:
    """Every surviving tensor has its key and its value; nothing but norms' and replaced activations' tensors went."""
    old, new = original.state_dict(), surgery.model.state_dict()
    folded = {str(e.settings.get("into")) for e in surgery.plan.edits if e.action == "fold"}
    gone = [e for e in surgery.plan.edits if e.action in ("delete", "fold", "replace") and e.place is not None]
    owners = {_slot_path(edit) for edit in gone}
    lost = [k for k in surgery.key_map.deleted if not any(k.startswith(f"{o}.") or not o for o in owners)]
    changed = [
        key
        for key in surgery.key_map.kept
        if key.rpartition(".")[0] not in folded
        and isinstance(old[key], torch.Tensor)
        and not _equal(old[key], new[key])
    ]
    wrong = lost + changed
    reason = (
        f"lost or changed: {', '.join(wrong[:5])}"
        if wrong
        else (
            f"{len(surgery.key_map.kept)} kept, {len(surgery.key_map.deleted)} deleted, {len(surgery.key_map.added)} added"
        )
    )
    return Check("keys", "fail" if wrong else "pass", len(wrong), 0, reason)


def _slot_path(edit: Edit) -> str:
    place: Any = edit.place
    slot = getattr(place, "slot", getattr(place, "attribute", None))
    return f"{place.owner}.{slot}".lstrip(".") if slot is not None else place.owner


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def _named(key: Key) -> str:
    """Return a place as a reader would look for it: a module path, or a function with the line of the call."""
    kind, owner, what = key[:3]
    if kind == "call":
        function = str(what).rpartition(":")[2]
        return f"{owner or 'the model'}, {function}, line {key[4][0]}"
    return join(str(owner), str(what)) if kind in ("module", "attribute") else f"{owner or 'the model'}, {what}"


def _home(key: Key, edited: Collection[Key]) -> Key | None:
    """Return the edited site that a place is, or lies in: what stands in an edited slot may have sites of its own."""
    if key in edited:
        return key
    for site in edited:
        if site[0] in ("module", "attribute"):
            slot = join(str(site[1]), str(site[2]))
            if str(key[1]) == slot or str(key[1]).startswith((f"{slot}.", f"{slot}[")):
                return site
    return None


def _residual(
    before: Watched, after: Watched, selected: set[Key], plan: Plan, edited: nn.Module, example_inputs: Any
) -> Check:
    """No selected operator executes at its site any more (rule 1)."""
    own = {site_key(e.place): kernels_of(e.settings.get("module")) for e in plan.edits if e.place is not None}
    left = []
    for key, counts in after.by_site.items():
        home = _home(key, selected)
        kernels = {} if home is None else {name: count for name, count in counts.items() if name not in own[home]}
        if kernels:
            left.append(f"{_named(key)}: {kernels}")
    left += [f"{name} (not edited)" for name in plan.unedited]
    left += [str(kernel) for kernel in after.unknown if kernel not in before.unknown]
    if selected:
        touched = {str(key[1]) for key in selected}
        transformers = any(
            isinstance(m, nn.TransformerEncoderLayer) and any(t == p or t.startswith(f"{p}.") for t in touched)
            for p, m in edited.named_modules()
        )
        if transformers and "_transformer_encoder_layer_fwd" in fused_kernels(edited, example_inputs):
            left.append("_transformer_encoder_layer_fwd goes around the edits")
    reason = "; ".join(left[:5]) if left else f"{len(selected)} selected sites, none still runs its operator"
    return Check("residual", "fail" if left else "pass", len(left), 0, reason)


def _known(before: Watched, after: Watched, census: Census) -> Check:
    """Every activation and norm kernel that ran belongs to a site that capture found."""
    del after
    unknown = [str(kernel) for kernel in before.unknown]
    known = {site_key(site.place) for site in census}
    unknown += [_named(key) for key in before.by_site if key not in known and key[0] != "fused"]
    reason = "; ".join(unknown[:5]) if unknown else f"{sum(sum(c.values()) for c in before.by_site.values())} kernels"
    return Check("known sites", "fail" if unknown else "pass", len(unknown), 0, reason)


def _others(before: Watched, after: Watched, selected: set[Key]) -> Check:
    """Sites that were not selected execute as often as before."""
    wrong = []
    for key in set(before.by_site) | set(after.by_site):
        if key[0] == "fused" or _home(key, selected) is not None:
            continue
        if before.by_site.get(key) != after.by_site.get(key):
            wrong.append(f"{_named(key)}: {before.by_site.get(key)} became {after.by_site.get(key)}")
    reason = "; ".join(wrong[:5]) if wrong else f"{len(set(before.by_site) - selected)} sites unchanged"
    return Check("other sites", "fail" if wrong else "pass", len(wrong), 0, reason)


def _graphs(before: Watched, after: Watched, plan: Plan) -> Check:
    """Compare the graphs captured after the edit with the ones that the plan describes."""
    renamed = {site_key(e.place): _label(e) for e in plan.edits if e.place is not None}
    rescaled = any(edit.action == "rescale" for edit in plan.edits)
    wrong = []
    for path, graph in before.recording.graphs.items():
        planned = graph_lines(graph, renamed, path=path)
        found = after.recording.graphs.get(path)
        actual = [] if found is None else graph_lines(found, renamed, path=path)
        if rescaled and path == "":
            planned = planned[:-1]  # what follows is the rescale
            actual = actual[: len(planned)]
        for mine, theirs in zip(planned, actual, strict=False):
            if mine != theirs:
                wrong.append(f"{path or 'the model'}: planned {mine!r}, found {theirs!r}")
                break
        else:
            if len(planned) != len(actual):
                wrong.append(f"{path or 'the model'}: {len(planned)} nodes planned, {len(actual)} found")
    reason = "; ".join(wrong[:3]) if wrong else f"{len(before.recording.graphs)} graphs"
    return Check("graph equals plan", "fail" if wrong else "pass", len(wrong), 0, reason)


def _leaves(edit: Edit) -> str:
    from dcsurgery.passes.base import pass_for

    owner = pass_for(edit.action)
    return "new" if owner is None else owner.leaves


def _label(edit: Edit) -> str:
    return "" if _leaves(edit) == "input" else "=> new"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    plain = dict(value) if hasattr(value, "keys") and not isinstance(value, dict) else value
    return (leaf for leaf in pytree.tree_leaves(plain) if isinstance(leaf, torch.Tensor))


def _finite(output: Any) -> Check:
    tensors = list(_tensors(output))
    bad = sum(int((~torch.isfinite(t)).sum()) for t in tensors if t.is_floating_point())
    if not tensors:
        return Check("finite", "skip", reason="the model returns no tensor")
    return Check(
        "finite", "fail" if bad else "pass", bad, 0, f"{bad} values of the output are NaN or infinite" if bad else ""
    )


def _shared_tensors(original: nn.Module, edited: nn.Module) -> Check:
    old, new = original.state_dict(), edited.state_dict()
    wrong = [k for k in old if k in new and isinstance(old[k], torch.Tensor) and not _equal(old[k], new[k])]
    reason = f"differ: {', '.join(wrong[:5])}" if wrong else f"{len(set(old) & set(new))} shared keys"
    return Check("keys", "fail" if wrong else "pass", len(wrong), 0, reason)


def _reload(edited: nn.Module, example_inputs: Any) -> Check:
    """Compare a pickled and restored model's outputs with the model's, bit for bit."""
    stream = io.BytesIO()
    try:
        torch.save(edited, stream)
        stream.seek(0)
        restored = torch.load(stream, weights_only=False)  # our own bytes of a moment ago
    except Exception as error:  # noqa: BLE001 - user classes pickle in any way
        text = (str(error).splitlines() or [""])[0]
        return Check(
            "reload", "skip", reason=f"the model's class cannot be pickled ({type(error).__name__}: {text[:100]})"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with preserved(edited):
            first = list(_tensors(call(edited, example_inputs)))
        torch.manual_seed(0)
        second = list(_tensors(call(restored, example_inputs)))
    same = len(first) == len(second) and all(_equal(a, b) for a, b in zip(first, second, strict=True))
    return Check(
        "reload", "pass" if same else "fail", 0 if same else 1, 0, "" if same else "outputs differ after reload"
    )
