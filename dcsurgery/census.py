"""The census: every activation and normalization site of a model, with the graphs it was found on."""

from __future__ import annotations

import contextlib
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from dcsurgery.blocks import BlockRules
from dcsurgery.capture.found_sites import call_sites, finished, node_sites, site_key, slot_site, with_sharers
from dcsurgery.capture.fused import fused_sites
from dcsurgery.capture.graphs import Key, ModuleGraph
from dcsurgery.capture.module_patches import patched_once
from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Event, Recording
from dcsurgery.capture.recording import Recorder
from dcsurgery.capture.scanning import scan
from dcsurgery.capture.symbolic import disagreement, trace
from dcsurgery.collection import uncollected
from dcsurgery.errors import BadInput, Refused
from dcsurgery.example_inputs import call, unfit
from dcsurgery.instance_functions import has_instance_functions, instance_edits
from dcsurgery.models import as_module
from dcsurgery.recurrent import wraps_recurrent_kernel
from dcsurgery.seeding import seeded
from dcsurgery.sites import Role, Site
from dcsurgery.source import call_end, code_key, function_node
from dcsurgery.subclass import amendments_of, original_class

if TYPE_CHECKING:
    from dcsurgery.diffing.layout import Rankdir

__all__ = ["Census", "site_key", "take_census"]

_STAND_INS = ("dcsurgery.activations", "dcsurgery.standins", "dcsurgery.calls")


@dataclass(frozen=True)
class Census:
    """Sites and captures of one model.

    Attributes
    ----------
    model
        Class name.
    sites
        Every site, in the order of the module tree.
    captures
        One `ModuleGraph` per module that does tensor work itself.
    inputs_given
        Whether example inputs were run; without them everything is static and ``runs`` is None.
    """

    model: str
    sites: tuple[Site, ...]
    captures: tuple[ModuleGraph, ...]
    inputs_given: bool
    _model: nn.Module | None = field(default=None, repr=False, compare=False)  # what pictures are drawn from

    @property
    def activations(self) -> tuple[Site, ...]:
        """The sites that ``irelu=True`` is about."""
        return tuple(site for site in self.sites if site.role == "activation")

    @property
    def normalizations(self) -> tuple[Site, ...]:
        """The sites that ``denorm=True`` is about."""
        return tuple(site for site in self.sites if site.role == "normalization")

    @property
    def gates(self) -> tuple[Site, ...]:
        """Gates and bases: listed with the reason, not rewritten by default."""
        return tuple(site for site in self.sites if site.role in ("gate", "basis"))

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, name: str) -> Site:
        """Return the site that has this name or alias."""
        for site in self.sites:
            if name in site.names:
                return site
        raise KeyError(name)

    def nodes(self) -> Iterator[tuple[ModuleGraph, fx.Node, Site]]:
        """Yield every captured graph node that is a site: what passes are planned on."""
        by_key = {key: site for site in self.sites for key in (site_key(site.place),)}
        for capture in self.captures:
            if capture.graph is not None:
                for node in capture.graph.nodes:
                    site = by_key.get(node.meta.get("dcs_key", ()))
                    if site is not None:
                        yield capture, node, site

    @property
    def counts(self) -> dict[str, int]:
        """Number of sites of each role."""
        return dict(Counter(site.role for site in self.sites))

    def to_dict(self) -> dict[str, Any]:
        """Return the census as plain JSON types."""
        return {
            "model": self.model,
            "inputs_given": self.inputs_given,
            "counts": self.counts,
            "sites": [site.to_dict() for site in self.sites],
            "captures": [
                {
                    "path": c.path,
                    "class": c.class_name,
                    "method": c.method,
                    "proven": c.proven,
                    "nodes": 0 if c.graph is None else len(c.graph.nodes),
                    "reason": c.reason,
                }
                for c in self.captures
            ],
        }

    def __str__(self) -> str:
        counts = Counter(site.role for site in self.sites)
        roles: tuple[Role, ...] = ("activation", "normalization", "gate", "basis")
        summary = ", ".join(f"{counts[r]} {_plural(r, counts[r])}" for r in roles if counts[r])
        return "\n".join([f"{self.model}: {summary or 'no sites'}", *(f"  {site}" for site in self.sites)])

    def to_svg(
        self, *, depth: int | None = None, only_sites: bool = False, full: bool = False, rankdir: Rankdir = "TB"
    ) -> str:
        """Return the model as SVG, its sites marked (see `dcsurgery.diffing.census_picture.render_census`).

        Raises
        ------
        BadInput
            If graphviz is not installed, or the census was not taken of a model at hand.
        """
        from dcsurgery.diffing.census_picture import render_census

        if self._model is None:
            raise BadInput("this census has no model to draw", fix="take it with dcs.inspect(model)")
        return render_census(self, self._model, depth=depth, only_sites=only_sites, full=full, rankdir=rankdir)

    def _repr_svg_(self) -> str | None:
        from dcsurgery.diffing.layout import has_dot

        return self.to_svg() if self._model is not None and has_dot() else None

    def _repr_html_(self) -> str:
        from dcsurgery.diffing.notebook import census_html

        return census_html(self)


def _plural(role: Role, count: int) -> str:
    if count == 1:
        return role
    return "bases" if role == "basis" else f"{role}s"


def take_census(model: nn.Module, example_inputs: Any = None, *, graphs: bool = True) -> Census:
    """Capture a model and list its sites.

    Parameters
    ----------
    model
        Any module; it is run in the mode it is in, its buffers are put back afterwards.
    example_inputs
        A tuple (positional arguments), a dict (keyword arguments) or any other object (the one argument). Without
        it, sites are found statically.
    graphs
        False skips the symbolic traces (sites only).

    Raises
    ------
    BadInput
        If the model is no nn.Module or its forward raises on the example inputs.
    """
    model = as_module(model)
    places = Places(model)
    recording = Recording() if example_inputs is None else _record(model, places, example_inputs)
    # With inputs, traces are run, and their tensors may be garbage.
    with uncollected() if example_inputs is None else contextlib.nullcontext():
        return _census(model, places, recording, graphs=graphs, ran=example_inputs is not None)


def _census(model: nn.Module, places: Places, recording: Recording, *, graphs: bool, ran: bool) -> Census:
    events = _merge(recording, _static_events(places))
    with patched_once():
        captures = _captures(places, recording, trace_all=graphs)
    in_graphs = list(node_sites(places, recording if ran else None))  # marks their nodes
    rules = BlockRules(model, places.tree.modules, {c.path: c for c in captures})
    sites = [slot_site(places, slot, recording, ran) for slot in places.slots if places.match_of(slot.value)]
    sites += call_sites(places, events, ran)
    sites += fused_sites(places, recording if ran else None)
    sites += in_graphs
    order = {path: index for index, path in enumerate(places.tree.modules)}
    placed = [finished(site, places, rules) for site in sites]
    placed.sort(key=lambda s: (order.get(s.place.owner, len(order)),))
    return Census(original_class(model).__name__, tuple(with_sharers(placed, places)), tuple(captures), ran, model)


def _record(model: nn.Module, places: Places, example_inputs: Any) -> Recording:
    try:
        with seeded(), Recorder(model, places) as recorder:
            call(model, example_inputs)
    except Exception as error:
        raise unfit(model, example_inputs, error) from error
    return recorder.recording


def _static_events(places: Places) -> dict[Key, Event]:
    found: dict[Key, Event] = {}
    for path, module in places.tree.modules.items():
        recognised = places.match_of(module) is not None
        below = places.closed.is_above(path)
        ours = original_class(module).__module__.startswith(_STAND_INS)
        leaf = places.is_leaf(module) and not wraps_recurrent_kernel(module)
        opened = not (recognised or below or ours or leaf or isinstance(module, fx.GraphModule))
        if opened or has_instance_functions(module):
            # An edited module's source is still its author's: what was rewritten in it is no site any more.
            edits = [edit for a in amendments_of(module) for edit in getattr(a, "edits", ())]
            done = {chain for edit in (*edits, *instance_edits(module)) for chain in edit.chains}
            events = scan(module, path, places, only_hooks=not opened)
            found.update({key: event for key, event in events.items() if not event.chains <= done})
    return found


def _merge(recording: Recording, static: dict[Key, Event]) -> dict[Key, Event]:
    merged = {key: event for key, event in recording.events.items() if key[0] == "call"}
    whole = [f.__code__ for f in recording.functions.values() if isinstance(f, types.FunctionType)]
    for key, event in static.items():
        if key in merged:
            merged[key].chains |= event.chains
        elif not any(_lies_in(key, code) for code in whole):
            merged[key] = event
    return merged


def _lies_in(key: Key, code: types.CodeType) -> bool:
    """Say whether a call stands in a local function: those exist in a run only, which found that one to be a site."""
    own = code_key(code)
    enclosing, _, _ = own.function.rpartition(".<locals>.")
    if not enclosing or key[2] != enclosing:
        return False
    try:
        node, _ = function_node(code.co_filename, own, code)
    except Refused:
        return False
    begin = (node.lineno, node.col_offset)
    return begin < key[4] <= call_end(node)


def _captures(places: Places, recording: Recording, *, trace_all: bool) -> list[ModuleGraph]:
    found = []
    for path, module in places.tree.modules.items():
        if places.closed.covers(path) or places.is_leaf(module) or isinstance(module, nn.ModuleList | nn.ModuleDict):
            continue
        aliases = tuple(places.tree.paths[id(module)][1:])
        name = original_class(module).__name__
        if isinstance(module, fx.GraphModule):
            found.append(ModuleGraph(path, name, module.graph, "exact", proven=True, aliases=aliases))
            continue
        recorded = recording.graphs.get(path)
        graph, reason = trace(module, path, places) if trace_all else (None, "symbolic tracing was not asked for")
        if graph is not None and path in recording.outputs:
            args, kwargs = recording.inputs[path]
            reason = disagreement(module, graph, args, kwargs, recording.outputs[path], recording.rng[path])
        if graph is not None and not reason:
            found.append(ModuleGraph(path, name, graph, "symbolic", proven=path in recording.outputs, aliases=aliases))
        elif recorded is not None:
            found.append(ModuleGraph(path, name, recorded, "recorded", proven=True, reason=reason, aliases=aliases))
        else:
            found.append(ModuleGraph(path, name, None, "opaque", proven=False, reason=reason, aliases=aliases))
    return found
