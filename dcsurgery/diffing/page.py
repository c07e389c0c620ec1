"""A diff as one HTML file that needs no network: data, layout library, styles and code are all inside."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from dcsurgery.diffing.diff import STATES, Diff
from dcsurgery.diffing.folding import fold
from dcsurgery.diffing.marks import SIGNS
from dcsurgery.diffing.network import Node
from dcsurgery.diffing.templates import render
from dcsurgery.diffing.union import Both, Union, unite

__all__ = ["page_data", "render_page"]

_SCRIPTS = ("tree.js", "layout.js", "scene.js", "panels.js", "main.js")


def render_page(diff: Diff) -> str:
    """Return a diff as HTML.

    The page opens changed modules, and lays others out when they are opened; it has a split and an overlay view,
    search, filters, a table of changes and one of sites, and links to single nodes (``#node=…``).
    """
    folder = files("dcsurgery.diffing")
    data = json.dumps(page_data(diff), ensure_ascii=False, separators=(",", ":"))
    return render(
        "diff.html.j2",
        title=diff.summary,
        before=diff.before.model,
        after=diff.after.model,
        notes=diff.notes,
        changes=diff.changes,
        states=[(state, SIGNS[state], diff.counts.get(state, 0)) for state in STATES],
        style=Markup((folder / "page_files" / "style.css").read_text("utf-8")),  # noqa: S704 - our own file
        library=Markup((folder / "vendor" / "dagre.min.js").read_text("utf-8")),  # noqa: S704 - likewise
        scripts=[Markup((folder / "page_files" / name).read_text("utf-8")) for name in _SCRIPTS],  # noqa: S704
        # A name in a model could hold "</script>".
        data=Markup(data.replace("<", "\\u003c")),  # noqa: S704 - escaped in this line
    )


def page_data(diff: Diff) -> dict[str, Any]:
    """Return what the page's code works on: nodes as short-keyed entries, arrows by the nodes' numbers."""
    union = unite(diff)
    folded = fold(union)
    shown = [id_ for id_ in union.nodes if id_ in folded.parents]
    ids = [*shown, *folded.folds]
    number = {id_: index for index, id_ in enumerate(ids)}
    change_of = {id(change): index for index, change in enumerate(diff.changes)}
    nodes = [_entry(union.nodes[id_], change_of) for id_ in shown]
    nodes += [{"i": id_, "k": "fold", "b": _count(union, members), "s": 3} for id_, members in folded.folds.items()]
    for id_, entry in zip(ids, nodes, strict=True):
        parent = folded.parents.get(id_)
        entry["p"] = -1 if parent is None else number[parent]
    arrows: dict[tuple[int, int], int] = {}
    for side, sources in enumerate(union.sources):
        for target, given in sources.items():
            for source in given:
                if source not in number or target not in number:
                    continue
                ends = (number[source], number[target])
                arrows[ends] = arrows.get(ends, 0) | (side + 1)
    nodes_of: dict[int, list[int]] = {}
    for id_, index in number.items():
        change = union.nodes[id_].change if id_ in union.nodes else None
        if change is not None:
            nodes_of.setdefault(id(change), []).append(index)
    return {
        "summary": diff.summary,
        "models": [diff.before.model, diff.after.model],
        "totals": {name: list(pair) for name, pair in diff.totals.items()},
        "nodes": nodes,
        "arrows": [[source, target, sides] for (source, target), sides in arrows.items()],
        "changes": [
            {
                "state": change.state,
                "name": change.name,
                "text": change.text,
                "where": change.where,
                "note": change.note,
                "nodes": nodes_of.get(id(change), []),
            }
            for change in diff.changes
        ],
        "figures": diff.figures,
        "code": {**diff.after.code, **diff.before.code},
    }


def _count(union: Union, members: list[str]) -> str:
    modules = sum(union.nodes[id_].kind == "module" for id_ in members if id_ in union.nodes)
    rest = sum(id_ in union.nodes for id_ in members) - modules
    folds = len(members) - modules - rest
    counts = ((modules, "module"), (rest, "operator"), (folds, "part"))
    return "… " + ", ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts if n)


def _entry(both: Both, change_of: dict[int, int]) -> dict[str, Any]:
    """Return one node: ``i`` id, ``k`` kind, ``b`` and ``a`` labels before and after, ``s`` sides, ``c`` its change."""
    node = both.any
    entry: dict[str, Any] = {"i": both.id, "k": both.kind, "n": node.name}
    entry["s"] = (both.before is not None) + 2 * (both.after is not None)
    if both.before is not None:
        entry["b"] = both.before.label
    if both.after is not None and (both.before is None or both.after.label != both.before.label):
        entry["a"] = both.after.label
    if both.change is not None:
        entry["c"] = change_of[id(both.change)]
    entry["d"] = [_details(one) if one is not None else None for one in (both.before, both.after)]
    if entry["d"][0] == entry["d"][1]:
        entry["d"] = entry["d"][:1]
    return entry


def _details(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": node.path if node.kind in ("module", "call") else "",
        "given": node.detail,
        "site": node.site,
        "role": node.role,
        "block": "output block" if node.in_output_block else "",
        "where": node.where,
        "shape": list(node.shape) if node.shape is not None else None,
        "numbers": node.parameters or "",
        "tensors": [[name, list(shape)] for name, shape in node.tensors],
        "capture": node.method,
        "reason": node.reason,
    }
    return {name: value for name, value in found.items() if value not in ("", None, [])}
