"""Graph diffs: two models as networks of modules and operators, matched by what nodes are and not by where they stand."""

from dcsurgery.diffing.comparing import compare
from dcsurgery.diffing.diff import Change, Diff
from dcsurgery.diffing.network import Edge, Network, Node

__all__ = ["Change", "Diff", "Edge", "Network", "Node", "compare"]
