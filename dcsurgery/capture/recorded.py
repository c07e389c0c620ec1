"""What the record of a run consists of: events, graphs, and the calls that are in progress."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from dcsurgery.capture.graphs import Key
from dcsurgery.capture.tape import Tape
from dcsurgery.catalog import Match
from dcsurgery.sites import CallStep

__all__ = ["Evaluation", "Event", "Frame", "Recording", "detached", "tensors_in"]


@dataclass
class Event:
    """One place where a catalogued operator ran."""

    key: Key
    match: Match
    how: str
    chains: set[tuple[CallStep, ...]] = field(default_factory=set)
    file: str | None = None
    line: int | None = None
    runs: int = 0
    reason: str = ""
    overwritten: bool = False  # its output was changed in place afterwards


@dataclass
class Recording:
    """What a run left behind."""

    graphs: dict[str, fx.Graph] = field(default_factory=dict)
    events: dict[Key, Event] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)  # opened modules
    fused_calls: Counter[str] = field(default_factory=Counter)  # torch's own leaves
    inputs: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    rng: dict[str, torch.Tensor] = field(default_factory=dict)
    functions: dict[Key, Any] = field(default_factory=dict)  # what was called at calls of recognised functions


@dataclass
class Frame:
    """One module call in progress."""

    module: nn.Module
    path: str
    leaf: bool
    kwargs: dict[str, Any]
    site: bool = False
    key: Key | None = None
    tape: Tape | None = None
    turns: Counter[int] = field(default_factory=Counter)  # id(shared callable) -> calls so far
    evaluation: Evaluation | None = None  # of the idiom that it is called in
    task: int = field(default_factory=torch._C._current_graph_task_id)  # the backward pass that it is called in, or -1

    @property
    def open_tape(self) -> Tape | None:
        """The tape, except inside vmap, grad and a backward pass.

        What vmap and grad hand down are layers around tensors that no node made; what a backward pass calls, the second
        run of a checkpoint above all, makes nothing that the module hands on.
        """
        if torch._C._are_functorch_transforms_active() or torch._C._current_graph_task_id() != self.task:
            return None
        return self.tape


@dataclass
class Evaluation:
    """One evaluation of an idiom in progress: its key, and the tensors that it began with and has made."""

    key: Key
    steps: tuple[CallStep, ...]
    source: list[torch.Tensor] = field(default_factory=list)
    made: list[torch.Tensor] = field(default_factory=list)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def detached(value: Any) -> Any:
    """Copy the tensors of a value: the model may go on to change them in place."""
    return pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), value)
