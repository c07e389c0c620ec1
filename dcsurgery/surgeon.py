"""The one who holds the knife: realise single edits on live modules, and undo them."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from dcsurgery.activations import IReLU, activation_by_name, irelu
from dcsurgery.calls import GatedLinear, HeldFunction, is_inplace, takes_more
from dcsurgery.catalog import is_norm_fusion, operator_named
from dcsurgery.errors import Refused
from dcsurgery.exported import ProgramModule
from dcsurgery.folding import Fold
from dcsurgery.graph_surgery import GraphSurgery
from dcsurgery.instance_functions import instance_roots, replace_instance_functions
from dcsurgery.interception import InterceptCalls
from dcsurgery.paths import lineage
from dcsurgery.recurrent import UnfuseRecurrent
from dcsurgery.rewriting import CallEdit, RewriteCalls
from dcsurgery.sites import AttributePlace, CallPlace, FusedPlace, ModulePlace, NodePlace, Place
from dcsurgery.source import CodeKey, code_key
from dcsurgery.standins import DeletedNorm, ForgetTensors, InPlace, ReplacedActivation, keep_hooks
from dcsurgery.subclass import Amendment, amend, amended, amendments_of, original_class, restore_class
from dcsurgery.tree import get_path, join, replace_slot

__all__ = ["Replacement", "Surgeon"]

Replacement = str | nn.Module
Undo = Callable[[], None]


class Surgeon:
    """Edits one live model. Calls in source are collected and rewritten together by `finish`.

    Parameters
    ----------
    model
        The model.
    intercepted
        Places of calls that are replaced while they run, not in the source.
    is_copy
        It was copied for this: nobody will want it back, and `undo` does nothing.

    Attributes
    ----------
    how
        Name of a site's place to the way its edit was realised, filled by `finish`.
    folds
        Batch norms whose tensors went into a layer.
    """

    def __init__(self, model: nn.Module, intercepted: frozenset[Place] = frozenset(), *, is_copy: bool = False) -> None:
        self.model = model
        self._intercepted = intercepted
        self._is_copy = is_copy
        self.how: dict[Place, str] = {}
        self.folds: list[Fold] = []
        self._undo: list[Undo] = []
        self._calls: defaultdict[str, list[tuple[CallPlace, CallEdit]]] = defaultdict(list)
        self._fused: defaultdict[str, list[tuple[str, Replacement]]] = defaultdict(list)
        self._graphs: dict[str, GraphSurgery] = {}
        self._whole: list[str] = []  # modules that graphs were made from, and that were edited as a whole
        self._touched: set[str] = set()

    def module(self, path: str) -> nn.Module:
        """Return the module at a path.

        Raises
        ------
        BadInput
            If there is none.
        """
        found = get_path(self.model, path) if path else self.model
        if not isinstance(found, nn.Module):
            raise Refused(f"{path!r} is a {type(found).__name__}, not a module", fix="plan again")
        return found

    def replace(self, place: Place, operator: str, replacement: Replacement) -> None:
        """Put an activation where ``operator`` is applied: ``act(x) → replacement(x)``."""
        match place:
            case ModulePlace(owner, slot):
                self._put(owner, slot, lambda old: _module_for(old, operator, replacement), "module swapped")
            case AttributePlace(owner, attribute):
                self._put(owner, attribute, lambda old: _callable_for(old, operator, replacement), "attribute swapped")
            case CallPlace(owner):
                edit = CallEdit(place.chains, operator, _without_parameters(replacement))
                self._calls[owner].append((place, edit))
            case NodePlace(owner):
                self._graph(owner).replace(place, operator, replacement)
                self._edited_nodes(place, "graph node replaced")
            case FusedPlace(owner, inside):
                self._fused[owner].append((inside, _without_parameters(replacement)))
        self._touched.add(place.owner)

    def delete(self, place: Place, operator: str, *, copied: bool = False) -> None:
        """Take a normalization out: ``norm(x) → x``, or a copy of ``x`` where the result is written into later."""
        returns = operator_named(operator).returns
        match place:
            case ModulePlace(owner, slot):
                self._put(owner, slot, lambda old: keep_hooks(old, DeletedNorm(old, returns, copied)), "module deleted")
            case AttributePlace(owner, attribute):
                self._put(owner, attribute, lambda old: _deleted(old, returns, copied), "attribute deleted")
            case CallPlace(owner):
                self._calls[owner].append((place, CallEdit(place.chains, operator, None, copied)))
            case NodePlace(owner):
                self._graph(owner).delete(place, copied=copied)
                self._edited_nodes(place, "graph node deleted")
            case FusedPlace():
                raise Refused(
                    f"the {operator} inside {place.inside} cannot be deleted", where=place.owner, fix="exclude it"
                )
        self._touched.add(place.owner)

    def put(self, owner: str, slot: str, new: Any) -> None:
        """Put anything into a slot; a module gets the mode of the one that it replaces."""
        old = get_path(self.model, join(owner, slot))
        if isinstance(old, nn.Module) and isinstance(new, nn.Module):
            new.train(old.training)
        undo = replace_slot(self.module(owner), slot, new)

        def back() -> None:
            undo()
            # What was put aside has missed every train() and eval() since.
            if isinstance(old, nn.Module) and isinstance(new, nn.Module) and old.training != new.training:
                old.train(new.training)

        self._undo.append(back)

    def amend(self, path: str, amendment: Amendment) -> None:
        """Give the module at a path an amended class."""
        self._undo.append(amend(self.module(path), amendment))

    def remember(self, undo: Undo) -> None:
        """Add an edit that the caller made itself to the undo log."""
        self._undo.append(undo)

    def finish(self) -> None:
        """Rewrite the collected calls, compile edited graphs, and switch off fast paths that would go around an edit."""
        for owner, entries in self._calls.items():
            self._rewrite(self.module(owner), entries)
        for owner, replacements in self._fused.items():
            self.amend(owner, UnfuseRecurrent(tuple(replacements)))
        self._finish_graphs()
        self._leave_fast_paths()
        self._calls.clear()
        self._fused.clear()

    def undo(self) -> None:
        """Take every edit back, last one first; a copy is not wanted back."""
        while self._undo and not self._is_copy:
            self._undo.pop()()

    # ----------------------------------------------------------------------------------------------------------------

    def _put(self, owner: str, slot: str, make: Callable[[Any], Any], how: str) -> None:
        old = get_path(self.model, join(owner, slot))
        self.put(owner, slot, self._like_its_surroundings(owner, make(old)))
        self.how[ModulePlace(owner, slot) if how.startswith("module") else AttributePlace(owner, slot)] = how

    def _like_its_surroundings(self, owner: str, new: Any) -> Any:
        """Give a replacement's own tensors the type and the device of the module that it gets into."""
        if not isinstance(new, nn.Module) or not any(t.is_floating_point() for t in _tensors_of(new)):
            return new
        around = itertools.chain(_tensors_of(self.module(owner)), _tensors_of(self.model))
        like = next((t for t in around if t.is_floating_point()), None)
        return new if like is None else new.to(device=like.device, dtype=like.dtype)

    def _rewrite(self, module: nn.Module, entries: list[tuple[CallPlace, CallEdit]]) -> None:
        own = {code_key(function.__code__) for function in instance_roots(module)}
        on_instance = [(p, e) for p, e in entries if CodeKey(p.chains[0][0].function, p.chains[0][0].first_line) in own]
        if on_instance:
            self._undo.append(replace_instance_functions(module, RewriteCalls.of([e for _, e in on_instance])))
            self.how.update({place: _rewritten(place) for place, _ in on_instance})
        in_class = [entry for entry in entries if entry not in on_instance]
        if in_class:
            self._rewrite_class(module, in_class)

    def _rewrite_class(self, module: nn.Module, entries: list[tuple[CallPlace, CallEdit]]) -> None:
        edits = [edit for _, edit in entries]
        before = type(module)
        earlier = amendments_of(module)
        # All rewriting starts from the author's class: what was rewritten before is rewritten again, then the rest.
        known = [edit for a in earlier if isinstance(a, RewriteCalls) for edit in a.edits]
        watched = self._not_rewritten(original_class(before), known, entries)
        rewritten = [*known, *(edit for edit in edits if edit not in watched)]
        cls = original_class(before)
        if rewritten:
            cls = amended(cls, RewriteCalls.of(rewritten))
        for other in earlier:
            if not isinstance(other, RewriteCalls):
                cls = amended(cls, other)
        if watched:
            cls = amended(cls, InterceptCalls(tuple(watched)))
        module.__class__ = cls
        self._undo.append(lambda: restore_class(module, before))
        for place, edit in entries:
            self.how[place] = "call intercepted" if edit in watched else _rewritten(place)
        if any(edit.replacement is None for edit in edits) and is_norm_fusion(module):
            self._forget_tensors(module)

    def _not_rewritten(
        self, cls: type[nn.Module], known: list[CallEdit], entries: list[tuple[CallPlace, CallEdit]]
    ) -> list[CallEdit]:
        """Return the edits that have to watch the run: as the plan says, or as there is no source to rewrite."""
        watched = [edit for place, edit in entries if place in self._intercepted]
        rest = [(place, edit) for place, edit in entries if edit not in watched]
        try:
            if rest:
                amended(cls, RewriteCalls.of([*known, *(edit for _, edit in rest)]))
        except Refused:
            for place, edit in rest:
                try:
                    RewriteCalls.of([*known, edit]).members(cls)
                except Refused:
                    if place.chains[0][-1].written:  # no call that could be watched
                        raise
                    watched.append(edit)
        return watched

    def _forget_tensors(self, module: nn.Module) -> None:
        """Drop the tensors of a norm whose body goes on without it; what else it holds stays."""
        parameters = {n: p for n, p in module._parameters.items() if p is not None}
        buffers = {n: b for n, b in module._buffers.items() if b is not None}
        for name in parameters:
            module._parameters[name] = None
        for name in buffers:
            module._buffers[name] = None

        def undo() -> None:
            module._parameters.update(parameters)
            module._buffers.update(buffers)

        self._undo.append(undo)
        self._undo.append(amend(module, ForgetTensors((*parameters, *buffers))))

    def _edited_nodes(self, place: NodePlace, how: str) -> None:
        if place.module:
            self._whole.append(place.module)
        self.how[place] = how

    def _graph(self, owner: str) -> GraphSurgery:
        """Return the one who edits the graph of the module at a path."""
        if owner not in self._graphs:
            module = self.module(owner)
            if not isinstance(module, fx.GraphModule):
                raise Refused("not a GraphModule", where=owner or "(model)", fix="plan again")
            above = [owner[:end] for end in range(len(owner)) if end == 0 or owner[end] == "."]
            programs = (self.module(path) for path in (*above, owner))
            program = next((m for m in programs if isinstance(m, ProgramModule)), None)
            self._graphs[owner] = GraphSurgery(module, owner, program, undoable=not self._is_copy)
            self._undo.append(self._graphs[owner].undo)
        return self._graphs[owner]

    def _finish_graphs(self) -> None:
        for owner, surgery in self._graphs.items():
            prefix = f"{owner}." if owner else ""
            whole = [path.removeprefix(prefix) for path in self._whole if path.startswith(prefix)]
            surgery.finish(whole)
        self._graphs.clear()
        self._whole.clear()

    def _leave_fast_paths(self) -> None:
        """Switch off the fused transformer kernels, which go around any edited activation or norm."""
        touched = {part for path in self._touched for part in ("", *lineage(path))}
        for path, module in self.model.named_modules():
            if path not in touched:
                continue
            if isinstance(module, nn.TransformerEncoderLayer):
                self._set(module, "activation_relu_or_gelu", 0)
            elif isinstance(module, nn.TransformerEncoder):
                self._set(module, "enable_nested_tensor", False)
                self._set(module, "use_nested_tensor", False)

    def _set(self, module: nn.Module, name: str, value: Any) -> None:
        missing = object()
        old = vars(module).get(name, missing)
        vars(module)[name] = value

        def undo() -> None:
            if old is missing:
                vars(module).pop(name, None)
            else:
                vars(module)[name] = old

        self._undo.append(undo)


def _rewritten(place: CallPlace) -> str:
    return "expression rewritten" if place.chains[0][-1].written else "call rewritten"


def _tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _fresh(replacement: Replacement) -> nn.Module:
    return copy.deepcopy(replacement) if isinstance(replacement, nn.Module) else activation_by_name(replacement)


def _module_for(old: Any, operator: str, replacement: Replacement) -> nn.Module:
    new = _fresh(replacement)
    if operator == "glu":
        new = GatedLinear(new, getattr(old, "dim", -1))
    elif getattr(old, "inplace", False) is True:
        new = IReLU(inplace=True) if isinstance(new, IReLU) else InPlace(new)
    keys = old.state_dict().keys() if isinstance(old, nn.Module) else ()
    if keys:
        new = ReplacedActivation(new, keys)
    return keep_hooks(old, new) if isinstance(old, nn.Module) else new


def _callable_for(old: Any, operator: str, replacement: Replacement) -> Any:
    if isinstance(old, nn.Module):
        return _module_for(old, "", replacement)
    keywords = getattr(old, "keywords", {})
    inner = getattr(old, "func", old)
    if is_inplace(inner, (), keywords):
        return InPlace(_fresh(replacement))
    stateful = isinstance(replacement, nn.Module) and replacement.state_dict()
    if takes_more(old) and not stateful:
        return HeldFunction(operator, replacement, old)
    return irelu if replacement == "irelu" else _fresh(replacement)


def _deleted(old: Any, returns: int, copied: bool) -> nn.Module:
    if isinstance(old, nn.Module):
        return keep_hooks(old, DeletedNorm(old, returns, copied))
    return DeletedNorm(None, returns, copied)


def _without_parameters(replacement: Replacement) -> Replacement:
    if isinstance(replacement, nn.Module) and replacement.state_dict():
        raise Refused(
            f"{type(replacement).__name__} has parameters or buffers, and a call in source code has no place for them",
            fix="use an activation without parameters, or select module sites only",
        )
    return replacement
