"""Edits of calls, from the Python text that was imported back to the archive's own code."""

from __future__ import annotations

import ast
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from dcsurgery.catalog import operator_named
from dcsurgery.errors import Refused
from dcsurgery.rewriting import CallEdit
from dcsurgery.torchscript.additions import Additions
from dcsurgery.torchscript.declared import Declared, entity_in
from dcsurgery.torchscript.emission import Change, Names, Source, chain, written
from dcsurgery.torchscript.programs import Program
from dcsurgery.torchscript.translation import Link

__all__ = ["Edited", "edits_of"]


@dataclass(eq=False)
class Edited:
    """The edited calls of one class or function, and below each call those of the function that it calls.

    Attributes
    ----------
    calls
        Position in the Python text to the archive's call, what is done to it, and what is done inside.
    """

    calls: dict[tuple[int, int], tuple[Link, CallEdit | None, Edited]] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """What is equal for equal edits."""
        return tuple(
            (end, None if edit is None else _key(edit), inside.key)
            for end, (_, edit, inside) in sorted(self.calls.items(), key=lambda item: item[0])
        )

    def changes(self, names: Names, additions: Additions, source: Source) -> dict[int, Change]:
        """Return what makes the new calls, by the old ones' ids."""
        made: dict[int, Change] = {}
        for link, edit, inside in self.calls.values():
            if edit is not None:
                made[id(link.call)] = _site(edit, link, additions, source)
            else:
                made[id(link.call)] = _through(inside, names, additions, source)
        return made


def edits_of(edits: list[CallEdit], program: Program, where: str) -> Edited:
    """Find the archive's calls that were edited in the Python text.

    Raises
    ------
    Refused
        If an edited call is not in the archive's code.
    """
    top = Edited()
    for edit in edits:
        for steps in edit.chains:
            table = top
            for position, step in enumerate(steps):
                link = program.translation.links.get(step.end)
                if link is None or not step.function.startswith(f"{program.name}:"):
                    raise Refused(
                        f"the edited call {step.function} is none of the archive's", where=where, fix="plan again"
                    )
                last = position == len(steps) - 1
                known = table.calls.get(step.end)
                inside = known[2] if known is not None else Edited()
                done = edit if last else (known[1] if known is not None else None)
                table.calls[step.end] = (link, done, inside)
                table = inside
    return top


def _key(edit: CallEdit) -> Hashable:
    new = edit.replacement
    return edit.operator, new if new is None or isinstance(new, str) else id(new), edit.copied


def _site(edit: CallEdit, link: Link, additions: Additions, source: Source) -> Change:
    """Return what replaces the operator's own call."""

    def change(before: ast.Call, call: ast.Call) -> ast.expr:
        if edit.replacement is None:
            argument = call.args[operator_named(edit.operator).returns]
            return _call("torch.clone", argument) if edit.copied else argument
        callee = _callee(before, link, source)
        if edit.operator == "glu":
            dim = call.args[1] if len(call.args) > 1 else ast.UnaryOp(ast.USub(), ast.Constant(1))
            return _call(additions.gated(edit.replacement), call.args[0], dim)
        inplace = _inplace(call, callee)
        if inplace is not None:
            return _call(additions.optional(edit.replacement), call.args[0], inplace)
        return _call(additions.function(edit.replacement), call.args[0])

    return change


def _through(inside: Edited, names: Names, additions: Additions, source: Source) -> Change:
    """Return what calls a copy of the function in which something is edited."""
    owners = {id(link.owner): link.owner for link, _, _ in inside.calls.values()}

    def change(_: ast.Call, call: ast.Call) -> ast.expr:
        owner = next(iter(owners.values()))
        if len(owners) != 1 or owner.kind != "function":
            raise Refused(
                f"an edited call is inside {owner.source_name}, a scripted class",
                fix="leave that site out with --exclude, or write the model as format='module'",
            )
        key = (id(source), owner.name, inside.key)
        name = names.of(key)
        if name is None:
            name = names.choose(key, owner.name)
            node = written(
                owner.node,
                source,
                names.referring(source, {owner.name: name}),
                inside.changes(names, additions, source),
            )
            node.name = name.rpartition(".")[2]
            names.add(name, node)
        return ast.Call(chain(name), call.args, call.keywords)

    return change


def _callee(call: ast.Call, link: Link, source: Source) -> Declared | str:
    """Return the archive's function that a call is of, or the operator's name."""
    target: Any = call.func
    if isinstance(target, ast.Name):  # _0 = __torch__.torch.nn.functional.relu
        alias = target.id
        for node in ast.walk(link.function):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == alias:
                target = node.value
    found = entity_in(target, source.declared)
    return found[0] if found is not None else ast.unparse(target).rpartition(".")[2]


def _inplace(call: ast.Call, callee: Declared | str) -> ast.expr | None:
    """Return the argument that says whether the call writes into its input, None where it does not."""
    if isinstance(callee, str):
        writes = callee.endswith("_") and not callee.endswith("__")
        return ast.Constant(True) if writes else None
    if callee.kind != "function":
        return None
    names = [argument.arg for argument in callee.functions[0].args.args]
    if "inplace" not in names:
        return None
    position = names.index("inplace")
    keyword = next((k.value for k in call.keywords if k.arg == "inplace"), None)
    found = call.args[position] if len(call.args) > position else keyword
    plain = isinstance(found, ast.Constant) and found.value is False
    return None if plain else found


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(chain(name), list(arguments), [])
