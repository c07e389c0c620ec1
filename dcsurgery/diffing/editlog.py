"""What the live models say about edits: the stand-ins in their slots and the amendments of their classes.

An edited model carries its own log: what stands in a slot, which calls its classes have rewritten, whether its labels
are rescaled. Reading it off the model, and not from a `Surgery`, makes files comparable, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx, nn

from dcsurgery.capture.graphs import Key
from dcsurgery.diffing.diff import State
from dcsurgery.diffing.drawing import Drawn, is_stand_in, label_of
from dcsurgery.instance_functions import instance_edits
from dcsurgery.recurrent import UnfuseRecurrent
from dcsurgery.rescale import LabelRescale
from dcsurgery.rescale_graph import BUFFER
from dcsurgery.rewriting import CallEdit
from dcsurgery.sites import CallPlace, FusedPlace, Site
from dcsurgery.standins import DeletedNorm
from dcsurgery.subclass import amendments_of
from dcsurgery.tree import get_path, join

__all__ = ["Logged", "read_log"]


@dataclass(frozen=True)
class Logged:
    """One edit that the models show.

    Attributes
    ----------
    state
        ``replaced``, ``deleted`` or ``inserted``.
    before, after
        What stands there; empty for nothing.
    name, owner
        What it is called where it is no site, and the path of the module that it belongs to.
    """

    state: State
    before: str = ""
    after: str = ""
    name: str = ""
    owner: str = ""


def read_log(sites: Mapping[Key, Site], old: Drawn, new: Drawn) -> dict[Key, Logged]:
    """Return the edits by which ``new`` was made of ``old``, by the key of their site.

    Parameters
    ----------
    sites
        Sites of the model before.
    old, new
        The drawn models.
    """
    found: dict[Key, Logged] = {}
    for key, site in sites.items():
        logged = _of_slot(key, old, new) if key[0] in ("module", "attribute") else _of_class(site, old, new)
        if logged is not None:
            found[key] = logged
    found.update(_rescales(old, new))
    return found


def _of_slot(key: Key, old: Drawn, new: Drawn) -> Logged | None:
    path = join(str(key[1]), str(key[2]))
    values = []
    for drawn in (old, new):
        try:
            values.append(get_path(drawn.model, path))
        except Exception:  # noqa: BLE001 - a path of one model need not lead anywhere in another
            return None
    before, after = values
    if isinstance(after, DeletedNorm):
        return None if isinstance(before, DeletedNorm) else Logged("deleted", label_of(before))
    # A function in an attribute is known by its name; two modules are told apart by the networks, settings included.
    plain = not isinstance(before, nn.Module) and not isinstance(after, nn.Module)
    if is_stand_in(after) != is_stand_in(before) or (plain and label_of(before) != label_of(after)):
        return Logged("replaced", label_of(before), label_of(after))
    return None


def _of_class(site: Site, old: Drawn, new: Drawn) -> Logged | None:
    owners = [drawn.tree.modules.get(drawn.aliases.get(site.place.owner, "?")) for drawn in (old, new)]
    if owners[0] is None or owners[1] is None:
        return None
    if isinstance(site.place, CallPlace):
        chains = set(site.place.chains)
        done = {chain for edit in _call_edits(owners[0]) for chain in edit.chains}
        for edit in _call_edits(owners[1]):
            if chains & set(edit.chains) and not chains <= done:
                return _logged(site.operator, edit.replacement)
    if isinstance(site.place, FusedPlace):
        for amendment in amendments_of(owners[1]):
            if isinstance(amendment, UnfuseRecurrent) and amendment not in amendments_of(owners[0]):
                for operator, replacement in amendment.replacements:
                    if operator == site.place.inside:
                        return _logged(site.operator, replacement)
    return None


def _logged(operator: str, replacement: str | nn.Module | None) -> Logged:
    if replacement is None:
        return Logged("deleted", operator)
    return Logged("replaced", operator, replacement if isinstance(replacement, str) else label_of(replacement))


def _call_edits(module: nn.Module) -> Iterator[CallEdit]:
    for amendment in amendments_of(module):
        yield from getattr(amendment, "edits", ())
    yield from instance_edits(module)


def _rescales(old: Drawn, new: Drawn) -> Iterator[tuple[Key, Logged]]:
    for path, module in new.tree.modules.items():
        if _is_rescaled(module) and not _is_rescaled(old.tree.modules.get(path)):
            C = float(module.get_buffer(BUFFER))
            yield ("rescale", path), Logged("inserted", after=f"labels times {C:g}", name=path or "(model)", owner=path)


def _is_rescaled(module: nn.Module | None) -> bool:
    if isinstance(module, fx.GraphModule):
        return BUFFER in module._buffers
    return module is not None and any(isinstance(a, LabelRescale) for a in amendments_of(module))
