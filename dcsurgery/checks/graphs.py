"""The graph captured after the edit is the one that the plan describes."""

from __future__ import annotations

import re

from dcsurgery.capture.graphs import graph_lines, same_inputs
from dcsurgery.census import site_key
from dcsurgery.oracle import Watched
from dcsurgery.plans import Edit, Plan
from dcsurgery.report import Check

__all__ = ["check_graphs", "leaves_of"]

_PARTS = re.compile(r" = call_function (getitem|outside)\(")


def check_graphs(before: Watched, after: Watched, plan: Plan) -> Check:
    """Compare the graphs captured after the edit with the ones that the plan describes."""
    renamed = {site_key(e.place): _label(e) for e in plan.edits if e.place is not None}
    rescaled = any(edit.action == "rescale" for edit in plan.edits)
    wrong = []
    for path, graph in before.recording.graphs.items():
        found = after.recording.graphs.get(path)
        same = {**same_inputs(graph), **({} if found is None else same_inputs(found))}
        planned = graph_lines(graph, renamed, path=path, same=same)
        actual = [] if found is None else graph_lines(found, renamed, path=path, same=same)
        if rescaled and path == "":
            planned = _without_end(planned)  # what follows is the rescale
            actual = actual[: len(planned)]
        for mine, theirs in zip(planned, actual, strict=False):
            if not _agree(mine, theirs):
                wrong.append(f"{path or 'the model'}: planned {mine!r}, found {theirs!r}")
                break
        else:
            if len(planned) != len(actual):
                wrong.append(f"{path or 'the model'}: {len(planned)} nodes planned, {len(actual)} found")
    reason = "; ".join(wrong[:3]) if wrong else f"{len(before.recording.graphs)} graphs"
    return Check("graph equals plan", "fail" if wrong else "pass", len(wrong), 0, reason)


def _without_end(lines: list[str]) -> list[str]:
    """Leave out a graph's output, and what only takes that output apart: the entries of a child's dict, for instance."""
    end = len(lines) - 1
    while end and _PARTS.search(lines[end - 1]):
        end -= 1
    return lines[:end]


def _agree(planned: str, found: str) -> bool:
    """Compare two lines; where capture could not see an input, as inside vmap, any will do."""
    head, _, arguments = planned.partition("(")
    other_head, _, others = found.partition("(")
    pairs = zip(arguments.rstrip(")").split(", "), others.rstrip(")").split(", "), strict=False)
    return head == other_head and all(mine in ("outside", theirs) for mine, theirs in pairs)


def leaves_of(edit: Edit) -> str:
    """Return what stands at a place after its edit: ``new``, ``input`` or ``operator``."""
    from dcsurgery.passes.base import pass_for

    owner = pass_for(edit.action)
    return "new" if owner is None else owner.leaves


def _label(edit: Edit) -> str:
    return "" if leaves_of(edit) == "input" else "=> new"
