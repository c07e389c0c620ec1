"""Sites as the census lists them: made of what captures have found, then told where in the model they are."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from dcsurgery.blocks import BlockRules, block_of
from dcsurgery.capture.graphs import Key, call_key
from dcsurgery.capture.origin import short_file
from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Event, Recording
from dcsurgery.catalog import match_basis
from dcsurgery.sites import AttributePlace, CallPlace, FusedPlace, ModulePlace, NodePlace, Place, Role, Site
from dcsurgery.source import CodeKey
from dcsurgery.subclass import original_class
from dcsurgery.tree import join

__all__ = ["call_sites", "finished", "node_sites", "site_key", "slot_site", "with_sharers"]


def slot_site(places: Places, slot: Any, recording: Recording, ran: bool) -> Site:
    """Return the site of a slot that holds an activation or a norm."""
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


def node_sites(places: Places, recording: Recording | None) -> Iterator[Site]:
    """Yield the sites of a model's GraphModules; ``recording`` is None where nothing was run."""
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


def call_sites(places: Places, events: dict[Key, Event], ran: bool) -> list[Site]:
    """Return the sites of calls, numbered within their method from top to bottom."""
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


def finished(site: Site, places: Places, rules: BlockRules) -> Site:
    """Add what the surroundings say: the block, whether it is an output block, whether the site belongs to a basis."""
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


def with_sharers(sites: list[Site], places: Places) -> Iterator[Site]:
    """Name the other sites that hold the same module."""
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
