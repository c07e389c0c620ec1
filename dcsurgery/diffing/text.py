"""A diff as text: the module tree, changes in their places, unchanged branches folded.

Every changed line begins with its sign, so that colour is never the only one: ``~`` replaced or rewired, ``-`` deleted,
``+`` inserted, ``>`` moved or renamed.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from dcsurgery.diffing.diff import Change, Diff
from dcsurgery.diffing.network import ROOT, Network, Node

__all__ = ["render_text", "tree_lines"]

_STYLES = {"~": "yellow", "-": "red", "+": "green", ">": "cyan", " ": "dim"}
_INDENT = 2
_MANY, _FIRST = 200, 50  # changes in one place, from which on only the first are listed; how many these are
_KINDS = 4
_NARROW = 24  # columns that a name keeps, whatever stands behind it


@dataclass
class _Branch:
    """One module of either network, with what is to be said about it."""

    name: str
    label: str
    changes: list[Change] = field(default_factory=list)
    branches: dict[str, _Branch] = field(default_factory=dict)

    def changed(self) -> bool:
        return bool(self.changes) or any(branch.changed() for branch in self.branches.values())

    def all_changes(self) -> Iterator[Change]:
        yield from self.changes
        for branch in self.branches.values():
            yield from branch.all_changes()

    def size(self) -> int:
        return sum(1 + branch.size() for branch in self.branches.values())


def render_text(diff: Diff, *, full: bool = False, width: int = 80, color: bool = False) -> str:
    """Return a diff as text.

    Parameters
    ----------
    diff
        The diff.
    full
        Show unchanged modules as well, and all changes however many there are.
    width
        Columns; what does not fit is folded under its own column.
    color
        Add terminal colours.
    """
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=color, color_system="standard" if color else None)
    for line in tree_lines(diff, full=full, width=width):
        console.print(line, soft_wrap=True, highlight=False)
    return stream.getvalue().rstrip("\n")


def tree_lines(diff: Diff, *, full: bool = False, width: int = 80) -> list[Text]:
    """Return the lines of a diff, styled; the summary is the last one."""
    lines: list[Text] = []
    root = _tree(diff)
    if full or root.changed():
        rows = list(_rows(root, 0, full=full))
        column = min(max((len(left) for _, left, _ in rows), default=0) + 2, max(width // 2, _NARROW))
        for sign, left, right in rows:
            lines += _lines(sign, left, right, column, width)
        lines.append(Text(""))
    lines += [Text(f"note: {note}", style="dim") for note in diff.notes]
    lines.append(Text(diff.summary, style="bold"))
    return lines


def _tree(diff: Diff) -> _Branch:
    branches: dict[str, _Branch] = {}
    for network in (diff.before, diff.after):
        for node in network.nodes.values():
            if node.kind == "module" and node.id not in branches:
                known = diff.pairs.get(node.id) if network is diff.before else None
                branch = branches[node.id] = _Branch(_last(node, network), node.label)
                if node.parent is not None and node.parent in branches:
                    branches[node.parent].branches[node.id] = branch
                if known is not None and known != node.id:
                    branches[known] = branch  # one that moved is told once, where it was
    for change in diff.changes:
        branches[_home(change, diff, branches)].changes.append(change)
    return branches[ROOT]


def _last(node: Node, network: Network) -> str:
    """Return a module's name below its parent: ``mlp``, ``[0]``, or more where the parent holds it deeper."""
    if node.parent in (None, ROOT):
        return node.path or node.label
    parent = network.nodes[str(node.parent)].path
    if node.path.startswith((f"{parent}.", f"{parent}[")):
        return node.path.removeprefix(parent).removeprefix(".")
    return node.name


def _home(change: Change, diff: Diff, branches: dict[str, _Branch]) -> str:
    for network, ids in ((diff.before, change.nodes_before), (diff.after, change.nodes_after)):
        for id_ in ids[:1]:
            node = network.nodes[id_]
            home = node.id if node.kind == "module" else str(node.parent)
            if home in branches:
                return home
    path = change.name.partition("@")[0]
    while path and path not in branches:
        path = path.rpartition(".")[0] or ""
    return path or ROOT


def _rows(branch: _Branch, depth: int, *, full: bool) -> list[tuple[str, str, str]]:
    """Return sign, name and text of a branch and all that is shown below it."""
    indent = " " * (_INDENT * depth)
    own = [change for change in branch.changes if _is_about(change, branch)]
    rows = []
    if own:
        rows += [(change.sign, f"{indent}{branch.name}", _told(change)) for change in own]
    else:
        rows.append((" ", f"{indent}{branch.name}", branch.label if branch.label != branch.name else ""))
    inside = [change for change in branch.changes if change not in own]
    shown = len(inside) if full or len(inside) <= _MANY else _FIRST
    for change in inside[:shown]:
        rows.append((change.sign, f"{indent}  {_call(change)}", _told(change)))
    rows += _rest(inside[shown:], depth + 1)
    count = sum(full or child.changed() for child in branch.branches.values())
    shown = count if full or count <= _MANY else _FIRST
    folded: list[_Branch] = []
    rest: list[Change] = []
    for child in branch.branches.values():
        if not (full or child.changed()):
            folded.append(child)
        elif shown:
            shown -= 1
            rows += _fold(folded, depth + 1)
            rows += _rows(child, depth + 1, full=full)
        else:
            rest += child.all_changes()
    return rows + _fold(folded, depth + 1) + _rest(rest, depth + 1)


def _rest(changes: list[Change], depth: int) -> list[tuple[str, str, str]]:
    """Return one row for changes that are too many to be listed, counted by what they are."""
    if not changes:
        return []
    kinds = Counter(f"{change.sign} {change.text}" for change in changes)
    told = ", ".join(f"{count} {kind.removeprefix('~ ')}" for kind, count in kinds.most_common(_KINDS))
    more = ", …" if len(kinds) > _KINDS else ""
    return [("~", f"{' ' * (_INDENT * depth)}… {len(changes)} more", f"{told}{more}; --full lists all")]


def _is_about(change: Change, branch: _Branch) -> bool:
    del branch
    ids = change.nodes_before or change.nodes_after
    return bool(ids) and "::" not in ids[0]


def _call(change: Change) -> str:
    """Return what a change in a body is called there: ``forward@silu``, ``mul_1``."""
    name = change.name
    if "::" in name:
        return name.rpartition("::")[2]
    if "@" in name:
        head, _, tail = name.rpartition("@")
        return f"{head.rpartition('.')[2]}@{tail}"
    return name.rpartition(".")[2]


def _told(change: Change) -> str:
    notes = [
        note for note in (change.note, f"{len(change.nodes_before)}x" if len(change.nodes_before) > 1 else "") if note
    ]
    if change.state in ("moved", "renamed", "rewired"):
        notes.insert(0, change.state)
    told = f"  ({', '.join(notes)})" if notes else ""
    return f"{change.text}{told}"


def _fold(folded: list[_Branch], depth: int) -> list[tuple[str, str, str]]:
    """Return one row for neighbours that did not change, and forget them."""
    if not folded:
        return []
    count = sum(1 + branch.size() for branch in folded)
    names = folded[0].name if len(folded) == 1 else f"{folded[0].name} … {folded[-1].name}"
    folded.clear()
    return [(" ", f"{' ' * (_INDENT * depth)}{names}", f"{count} module{'s' * (count != 1)} unchanged")]


def _lines(sign: str, left: str, right: str, column: int, width: int) -> list[Text]:
    style = _STYLES[sign]
    room = max(width - column - 2, _NARROW)
    pieces = _wrapped(right, room)
    first = f"{sign} {left}"
    lines = []
    if len(left) + 2 > column:  # a long name has a line of its own
        lines.append(Text(first, style=style))
        first = ""
    for index, piece in enumerate(pieces or [""]):
        head = (first if index == 0 and first else " " if index else f"{sign if not first else ' '}").ljust(column + 2)
        lines.append(Text(f"{head}{piece}".rstrip(), style=style))
    return lines


def _wrapped(text: str, room: int) -> list[str]:
    lines: list[str] = []
    for word in text.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines += [word[i : i + room] for i in range(0, max(len(word), 1), room)]
    return lines
