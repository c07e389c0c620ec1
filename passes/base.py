"""What a pass is: one kind of edit, planned on captured torch.fx nodes and realised on the live modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import fx, nn

from dcsurgery.census import Census
from dcsurgery.plans import Edit
from dcsurgery.selectors import Selection
from dcsurgery.sites import Role, Site
from dcsurgery.surgeon import Surgeon

__all__ = ["Candidate", "Pass", "PassPlan", "pass_for"]


@dataclass(frozen=True)
class Candidate:
    """A selected site with the graph node it was captured as; None for a branch that no graph shows."""

    site: Site
    node: fx.Node | None


@dataclass(frozen=True)
class PassPlan:
    """What one pass wants to do.

    Attributes
    ----------
    edits
        Its edits.
    notes
        Refusals with their reasons, and warnings.
    unedited
        Names of selected sites that cannot be edited.
    """

    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()
    unedited: tuple[str, ...] = ()


class Pass(ABC):
    """One kind of edit.

    A subclass names its ``action`` (what its edits are called in plans), what it ``preserves``: ``values`` (the
    model's function), ``derivatives`` (of that function) and ``keys`` (of every state_dict tensor that survives), and
    what stands at an edited site afterwards: it ``leaves`` something ``new``, the site's ``input`` passed on, or the
    ``operator`` that was there (wrapped, for instance). The checks expect exactly that.

    Parameters
    ----------
    where
        Include rule or rules, see `Selection`; ``"output-blocks"`` is the scope of that name.
    exclude
        Exclude rule or rules.
    """

    action: ClassVar[str]
    preserves: ClassVar[frozenset[str]]
    leaves: ClassVar[Literal["new", "input", "operator"]] = "new"

    def __init__(self, where: Any = None, exclude: Any = None) -> None:
        if isinstance(where, str) and where in ("all", "output-blocks"):
            self.selection = Selection.of(where, None, exclude)
        else:
            self.selection = Selection.of("all", where, exclude)

    @abstractmethod
    def plan(self, model: nn.Module, census: Census) -> PassPlan:
        """Return the edits; changes nothing.

        Parameters
        ----------
        model
            The live model.
        census
            Its sites and captured graphs.

        Raises
        ------
        NothingMatched
            If a selector matches no site at all.
        Refused
            If the pass cannot be applied to this model.
        """

    @classmethod
    @abstractmethod
    def realise(cls, surgeon: Surgeon, edit: Edit) -> None:
        """Make one edit on the surgeon's live model.

        Raises
        ------
        Refused
            If the place no longer is what the edit says.
        """

    def candidates(self, census: Census, role: Role) -> Iterator[Candidate]:
        """Yield the selected sites of a role, each with its node in the captured graphs, in the census's order."""
        nodes: dict[str, fx.Node] = {}
        for _, node, site in census.nodes():
            nodes.setdefault(site.name, node)
        for site in self.selection.select(census.sites, role):
            yield Candidate(site, nodes.get(site.name))


def pass_for(action: str) -> type[Pass] | None:
    """Return the pass whose edits are called ``action``, None if there is none."""
    pending = list(Pass.__subclasses__())
    while pending:
        cls = pending.pop()
        if vars(cls).get("action") == action:
            return cls
        pending += cls.__subclasses__()
    return None
