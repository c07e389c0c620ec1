"""The census: every activation and normalization site of a model, with the graphs it was found on."""

from __future__ import annotations

import contextlib
import re
import types
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from dcsurgery.blocks import BlockRules, block_of
from dcsurgery.capture.fused import fused_sites
from dcsurgery.capture.graphs import Key, ModuleGraph, call_key
from dcsurgery.capture.module_patches import patched_once
from dcsurgery.capture.origin import short_file
from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Event, Recording
from dcsurgery.capture.recording import Recorder
from dcsurgery.capture.scanning import scan
from dcsurgery.capture.symbolic import disagreement, trace
from dcsurgery.catalog import match_basis
from dcsurgery.collection import uncollected
from dcsurgery.errors import BadInput, Refused
from dcsurgery.example_inputs import call, unfit
from dcsurgery.instance_functions import has_instance_functions, instance_edits
from dcsurgery.models import as_module
from dcsurgery.recurrent import wraps_recurrent_kernel
from dcsurgery.seeding import seeded
from dcsurgery.sites import AttributePlace, CallPlace, FusedPlace, ModulePlace, NodePlace, Place, Role, Site
from dcsurgery.source import CodeKey, call_end, code_key, function_node
from dcsurgery.subclass import amendments_of, original_class
from dcsurgery.tree import join

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
    in_graphs = list(_node_sites(places, recording if ran else None))  # marks their nodes
    rules = BlockRules(model, places.tree.modules, {c.path: c for c in captures})
    sites = [_slot_site(places, slot, recording, ran) for slot in places.slots if places.match_of(slot.value)]
    sites += _call_sites(places, events, ran)
    sites += fused_sites(places, recording if ran else None)
    sites += in_graphs
    order = {path: index for index, path in enumerate(places.tree.modules)}
    placed = [_finish(site, places, rules) for site in sites]
    placed.sort(key=lambda s: (order.get(s.place.owner, len(order)),))
    return Census(original_class(model).__name__, tuple(_shared(placed, places)), tuple(captures), ran, model)


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


def _slot_site(places: Places, slot: Any, recording: Recording, ran: bool) -> Site:
    match = places.match_of(slot.value)
    assert match is not None
    event = recording.events.get(places.slot_key(slot))
    kind = ModulePlace if slot.registered else AttributePlace
    file, line = _definition(slot.value)
    return Site(
        name=slot.path,
        role=match.operator.role,
        operator=match.operator.name,
        how="module" if isinstance(slot.value, nn.Module) and slot.registered else "attribute",
        place=kind(slot.owner, slot.name),
        aliases=places.tree.aliases_of(slot),
        match=match.match,
        parameters=dict(match.parameters),
        file=file if event is None or event.file is None else event.file,
        line=line if event is None or event.file is None else event.line,
        runs=(event.runs if event else 0) if ran else None,
        reason=match.operator.reason,
        classes=_classes(slot.value),
        overwritten=event is not None and event.overwritten,
    )


def _node_sites(places: Places, recording: Recording | None) -> Iterator[Site]:
    for path, module in places.tree.modules.items():
        if isinstance(module, fx.GraphModule):
            calls = 0 if recording is None else recording.calls[path]
            for site in places.graph(path).sites:
                runs = None if recording is None else calls * (1 + len(site.place.more))  # type: ignore[union-attr]
                yield replace(site, runs=runs)


def _classes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, nn.Module):
        return ()
    mro = original_class(value).__mro__
    return tuple(f"{cls.__module__}.{cls.__qualname__}" for cls in mro if cls not in (nn.Module, object))


def _definition(value: Any) -> tuple[str | None, int | None]:
    code = getattr(getattr(value, "forward", value), "__code__", None)
    return (None, None) if code is None else (short_file(code.co_filename), code.co_firstlineno)


def _call_sites(places: Places, events: dict[Key, Event], ran: bool) -> list[Site]:
    named: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events.values():
        first = min(event.chains)[0]
        method = CodeKey(first.function, first.first_line).qualname.rpartition(".")[2]
        owner = str(event.key[1])
        named[f"{owner}.{method}" if owner else method].append(event)
    sites = []
    for prefix, group in named.items():
        group.sort(key=lambda e: (min(e.chains)[0].end, e.key[2], e.key[4]))
        count: Counter[str] = Counter()
        for event in group:
            operator = event.match.operator.name
            count[operator] += 1
            suffix = f"#{count[operator]}" if count[operator] > 1 else ""
            sites.append(_call_site(f"{prefix}@{operator}{suffix}", event, places, ran))
    return sites


def _call_site(name: str, event: Event, places: Places, ran: bool) -> Site:
    owner = str(event.key[1])
    own = places.tree.modules[owner]
    tail = name[len(owner) :].lstrip(".") if owner else name
    return Site(
        name=name,
        role=event.match.operator.role,
        operator=event.match.operator.name,
        how=event.how,
        place=CallPlace(owner, tuple(sorted(event.chains))),
        aliases=tuple(join(path, tail) for path in places.tree.paths[id(own)][1:]),
        match=event.match.match,
        parameters=dict(event.match.parameters),
        file=event.file,
        line=event.line,
        runs=event.runs if ran else None,
        reason=event.match.operator.reason or event.reason,
        overwritten=event.overwritten,
    )


def _finish(site: Site, places: Places, rules: BlockRules) -> Site:
    path = site.name if isinstance(site.place, ModulePlace | AttributePlace) else site.place.owner
    if isinstance(site.place, NodePlace):  # the graph knows the modules that it was made from
        path = site.place.module or site.name.partition("@")[0].rpartition(".")[0]
    inside, rule = rules.decide(path, site_key(site.place))
    role: Role = site.role
    reason = site.reason
    if _is_of_a_weight(site, places):
        role, reason = "basis", "it shapes a parametrized weight, and is applied to no data"
    elif role == "activation":
        basis = _basis_above(site, places)
        if basis is not None:
            role, reason = "basis", basis
    return replace(site, block=block_of(path), in_output_block=inside, block_rule=rule, role=role, reason=reason)


def _is_of_a_weight(site: Site, places: Places) -> bool:
    owner, inside, _ = f"{site.place.owner}.".partition("parametrizations.")
    module = places.tree.modules.get(owner.rstrip(".")) if inside else None
    return module is not None and is_parametrized(module)


def _basis_above(site: Site, places: Places) -> str | None:
    parts = re.findall(r"[^.\[]+|\[[^\]]*\]", site.place.owner)
    path = ""
    for part in ["", *parts]:
        path = join(path, part) if part else path
        module = places.tree.modules.get(path)
        operator = match_basis(module) if module is not None else None
        if operator is not None:
            return f"part of {original_class(module).__name__}: {operator.reason}"  # type: ignore[arg-type]
    return None


def _shared(sites: list[Site], places: Places) -> Iterator[Site]:
    slots = {slot.path: slot for slot in places.slots}
    names: dict[int, list[str]] = defaultdict(list)
    for site in sites:
        slot = slots.get(site.name)
        if slot is not None and isinstance(slot.value, nn.Module):
            names[id(slot.value)].append(site.name)
    for site in sites:
        slot = slots.get(site.name)
        others = names[id(slot.value)] if slot is not None and isinstance(slot.value, nn.Module) else []
        yield replace(site, shared_with=tuple(n for n in others if n != site.name)) if len(others) > 1 else site


def site_key(place: Place) -> Key:
    """Return the key under which captures and runs know a place."""
    match place:
        case ModulePlace(owner, slot):
            return ("module", owner, slot)
        case AttributePlace(owner, attribute):
            return ("attribute", owner, attribute)
        case CallPlace(owner, chains):
            return call_key(owner, chains[0][-1])
        case NodePlace(owner, node):
            return ("node", owner, node)
        case FusedPlace(owner, inside):
            return ("fused", owner, inside)
