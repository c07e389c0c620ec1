"""A diff: two networks, which node is which, and the changes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dcsurgery.diffing.network import Network
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    import networkx as nx

    from dcsurgery.diffing.layout import Rankdir

__all__ = ["FORMAT", "STATES", "Change", "Diff", "State"]

FORMAT = 1
State = Literal["replaced", "deleted", "inserted", "moved", "renamed", "rewired"]
STATES: tuple[State, ...] = ("replaced", "deleted", "inserted", "moved", "renamed", "rewired")


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes
    ----------
    state
        What happened.
    name
        Name of the site that changed, otherwise the module path, or ``path::operator`` in a module's body.
    before, after
        What stood there and what stands there now; empty for nothing.
    nodes_before, nodes_after
        Ids of the nodes that it is about, in either network: a site may be applied often, or never.
    where
        ``file:line``, or an empty string.
    note
        What else there is to say.
    """

    state: State
    name: str
    before: str = ""
    after: str = ""
    nodes_before: tuple[str, ...] = ()
    nodes_after: tuple[str, ...] = ()
    where: str = ""
    note: str = ""

    @property
    def sign(self) -> str:
        """``~``, ``-`` or ``+``; ``>`` for what only has another place or name."""
        return {"replaced": "~", "rewired": "~", "deleted": "-", "inserted": "+"}.get(self.state, ">")

    @property
    def text(self) -> str:
        """``A => B``, or what went or came."""
        if self.state in ("deleted", "inserted"):
            return self.before or self.after
        return f"{self.before} => {self.after}"

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.sign} {self.name}: {self.text}{note}"


@dataclass(frozen=True)
class Diff:
    """What `dcs.diff` returns.

    Attributes
    ----------
    before, after
        The two networks.
    changes
        In the order of the module tree; none for equal models.
    pairs
        Id of a node before to the id of the same node after.
    notes
        What a reader should know: unrelated models, modules that could not be captured.
    figures
        What a report measured at single sites: site to check to figure; empty without a report.
    """

    before: Network
    after: Network
    changes: tuple[Change, ...] = ()
    pairs: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __bool__(self) -> bool:
        return bool(self.changes)

    @property
    def counts(self) -> dict[str, int]:
        """How many changes there are of each state that occurs."""
        counted = Counter(change.state for change in self.changes)
        return {state: counted[state] for state in STATES if counted[state]}

    @property
    def totals(self) -> dict[str, tuple[int | None, int | None]]:
        """Modules, operators, parameters and FLOPs, before and after."""
        sides = (self.before, self.after)
        modules = [sum(node.kind == "module" for node in side.nodes.values()) for side in sides]
        operators = [side.operators.total() for side in sides]
        return {
            "modules": (modules[0], modules[1]),
            "operators": (operators[0], operators[1]),
            "parameters": (self.before.parameters, self.after.parameters),
            "flops": (self.before.flops, self.after.flops),
        }

    def states(self) -> tuple[dict[str, State], dict[str, State]]:
        """Return the state of every changed node, by id, before and after."""
        before: dict[str, State] = {}
        after: dict[str, State] = {}
        for change in self.changes:
            before.update(dict.fromkeys(change.nodes_before, change.state))
            after.update(dict.fromkeys(change.nodes_after, change.state))
        return before, after

    @property
    def summary(self) -> str:
        """The diff in one line."""
        name = (
            self.before.model if self.before.model == self.after.model else f"{self.before.model} => {self.after.model}"
        )
        if not self.changes:
            return f"{name}: no changes"
        counted = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        moved = [
            f"{what} {_number(old)} => {_number(new)}"
            for what, (old, new) in self.totals.items()
            if old is not None and new is not None and old != new
        ]
        return f"{name}: {counted}{'; ' if moved else ''}{', '.join(moved)}"

    def to_text(self, *, full: bool = False, width: int = 80, color: bool = False) -> str:
        """Return the module tree with the changes, unchanged branches folded (see `dcsurgery.diffing.text`)."""
        from dcsurgery.diffing.text import render_text

        return render_text(self, full=full, width=width, color=color)

    def __str__(self) -> str:
        return self.to_text()

    def to_svg(
        self, *, depth: int | None = None, only_changes: bool = False, full: bool = False, rankdir: Rankdir = "TB"
    ) -> str:
        """Return both models side by side as SVG (see `dcsurgery.diffing.svg.render_svg`)."""
        from dcsurgery.diffing.svg import render_svg

        return render_svg(self, depth=depth, only_changes=only_changes, full=full, rankdir=rankdir)

    def to_html(self) -> str:
        """Return both models as one self-contained page (see `dcsurgery.diffing.page.render_page`)."""
        from dcsurgery.diffing.page import render_page

        return render_page(self)

    def to_dot(self, *, depth: int | None = None, only_changes: bool = False, full: bool = False) -> str:
        """Return what the SVG shows, as one graph in graphviz's language."""
        from dcsurgery.diffing.exports import to_dot

        return to_dot(self, depth=depth, only_changes=only_changes, full=full)

    def to_networkx(self) -> nx.MultiDiGraph[str]:
        """Return both models as one graph (see `dcsurgery.diffing.exports.to_networkx`)."""
        from dcsurgery.diffing.exports import to_networkx

        return to_networkx(self)

    def to_graphml(self) -> str:
        """Return `to_networkx`'s graph as GraphML."""
        from dcsurgery.diffing.exports import to_graphml

        return to_graphml(self)

    def to_model_explorer(self) -> dict[str, str]:
        """Return files for Google's model-explorer, name to text (see `dcsurgery.diffing.exports`)."""
        from dcsurgery.diffing.exports import to_model_explorer

        return to_model_explorer(self)

    def _repr_html_(self) -> str:
        from dcsurgery.diffing.notebook import diff_html

        return diff_html(self)

    def _repr_svg_(self) -> str | None:
        from dcsurgery.diffing.layout import has_dot

        return self.to_svg() if has_dot() else None

    def to_dict(self) -> dict[str, Any]:
        """Return the diff as plain JSON types."""
        changes = [{k: v for k, v in asdict(change).items() if v not in ("", ())} for change in self.changes]
        return {
            "dcsurgery_diff": FORMAT,
            "summary": self.summary,
            "counts": self.counts,
            "totals": {name: list(pair) for name, pair in self.totals.items()},
            "notes": list(self.notes),
            "figures": self.figures,
            "changes": changes,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            # Most nodes keep their id; only the others are written out.
            "pairs": {old: new for old, new in self.pairs.items() if old != new},
            "unpaired": [id_ for id_ in self.before.nodes if id_ not in self.pairs],
        }

    def to_json(self) -> str:
        """Return the diff as JSON; `from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    @staticmethod
    def from_json(text: str, *, source: str | None = None) -> Diff:
        """Read what `to_json` wrote.

        Parameters
        ----------
        text
            The document.
        source
            Name of the file, for error messages.

        Raises
        ------
        BadInput
            If it is no such document.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise BadInput(
                f"not JSON: {error}", where=source, fix="write it with dcsurgery diff -o FILE.json"
            ) from None
        if not isinstance(raw, dict) or raw.get("dcsurgery_diff") != FORMAT:
            raise BadInput("not a diff of this version", where=source, fix="write it with dcsurgery diff -o FILE.json")
        try:
            before, after = Network.from_dict(raw["before"]), Network.from_dict(raw["after"])
            changes = [_change(entry) for entry in raw["changes"]]
            unpaired = set(raw["unpaired"])
            pairs = {id_: raw["pairs"].get(id_, id_) for id_ in before.nodes if id_ not in unpaired}
            figures = {site: {c: float(x) for c, x in of.items()} for site, of in raw.get("figures", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"a damaged diff: {error}", where=source, fix="write it again") from None
        return Diff(before, after, tuple(changes), pairs, tuple(raw.get("notes", ())), figures)


def _change(entry: dict[str, Any]) -> Change:
    ids = {name: tuple(entry.get(name, ())) for name in ("nodes_before", "nodes_after")}
    return Change(**{**entry, **ids})


def _number(value: int) -> str:
    return f"{value:,}".replace(",", " ") if value >= 10_000 else str(value)
