"""Rebuild the graph of a large pickled GraphModule from its source, line by line.

torch.fx executes that source and traces it, which takes longer for a graph of 100 000 nodes than everything else that is
done with the file. But the lines of such a graph are few: hundreds of ``silu_7 = torch.nn.functional.silu(layer_7)``
that differ in the names of their values. Here each kind of line is checked and traced once, by the same means as a whole
program, and its node is then made for every line of that kind. Whatever is not such a line (attributes of values, tensors
of the model, annotations) sends the whole program the usual way.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx import graph_module
from torch.fx.node import map_arg

from dcsurgery import compiling_later
from dcsurgery.files.graph_code import check_graph_code
from dcsurgery.files.safe_rules import Forbidden

__all__ = ["MANY", "built"]

#: Lines from which on it pays.
MANY = 1000
_KINDS = 4  # fewer lines of a kind than this on average are traced as they are
_HEADER = re.compile(r"\s*def forward\(self((?:, \w+)*)\):")
_LINE = re.compile(r"    (\w+) = ([^;#\\]+?)(?:;  ((?:\w+ = )+)None)?")
_FREED = re.compile(r"    (?:\w+ = )+None")
_STRING = r"""("[^"\\]*"|'[^'\\]*')"""
# A string, or a name that is neither an attribute nor a keyword's: `.name`, `name = value`.
_TOKEN = re.compile(_STRING + r"|(?<![\w.])([^\W\d]\w*)(?!\w|\s*=(?!=))")
# What is left of an expression without its strings must have no quotes, no prefixes of strings, no space around dots.
_STRANGE = re.compile(r"""["'\n]|\w<|>\w|\.\s|\s\.""")
_HOLE = "dcs_value_{}"


@dataclass
class _Source:
    """A program of plain lines: its arguments, (name, kind, values) of each line, and what it returns."""

    arguments: list[str]
    lines: list[tuple[str, str, tuple[str, ...]]]
    returned: ast.expr


def built(
    body: Mapping[str, Any], imports: str, allows_module: Callable[[str], bool], many: int = MANY
) -> fx.GraphModule | None:
    """Return the GraphModule that torch.fx would load, None where this is not the way.

    Parameters
    ----------
    body, imports, allows_module
        As `check_graph_code` takes them; nothing is executed that it would refuse.
    many
        Lines from which on to try.

    Raises
    ------
    Forbidden
        If a kind of line is not allowed.
    """
    text = body.get("_code")
    if type(text) is not str or text.count("\n") < many or "_graphmodule_graph_node_meta_stack_trace" in body:
        return None
    source = _read(text)
    if source is None:
        return None
    kinds = {kind: None for _, kind, _ in source.lines}
    if len(kinds) * _KINDS > len(source.lines):
        return None
    nodes = _nodes_of(list(kinds), source, body, imports, allows_module)
    graph = None if nodes is None else _graph(source, nodes)
    return None if graph is None else _module(body, graph)


def _read(text: str) -> _Source | None:
    """Split a program into lines, None if one of them is of another form."""
    first, *rest = text.strip("\n").rstrip().split("\n")
    header = _HEADER.fullmatch(first)
    last = rest.pop() if rest else ""
    plain = text.isascii() and _HOLE.format("") not in text
    if header is None or not last.startswith("    return ") or not plain:
        return None
    arguments = header[1].split(", ")[1:]
    known = set(arguments)
    elsewhere: set[str] = set()  # names that are no values yet: modules, builtins
    lines = []
    for line in rest:
        parts = _LINE.fullmatch(line)
        if parts is None or _STRANGE.search(re.sub(_STRING, "<>", parts[2])):
            if _FREED.fullmatch(line) or not line.strip():
                continue
            return None
        values: dict[str, str] = {}

        def hole(token: re.Match[str], values: dict[str, str] = values) -> str:
            name = token[2]
            if name is None or name not in known:
                elsewhere.add(name or "")
                return token[0]
            return values.setdefault(name, _HOLE.format(len(values)))

        kind = _TOKEN.sub(hole, parts[2])
        lines.append((parts[1], kind, tuple(values)))
        known.add(parts[1])
    if known & elsewhere:  # used before it is assigned: in a small program it would be the builtin of that name
        return None
    try:
        returned = ast.parse(last.strip().removeprefix("return "), mode="eval").body
    except SyntaxError:
        return None
    return _Source(arguments, lines, returned)


def _nodes_of(
    kinds: list[str], source: _Source, body: Mapping[str, Any], imports: str, allows_module: Callable[[str], bool]
) -> dict[str, fx.Node] | None:
    """Check and trace one line of each kind, all in one small program; return the node of each, if each is one node."""
    holes = [_HOLE.format(index) for index in range(max((len(values) for _, _, values in source.lines), default=0))]
    results = [f"dcs_result_{index}" for index in range(len(kinds))]
    # Every name that is assigned is bound once, so that none of them hides an import or a builtin.
    names = dict.fromkeys(itertools.chain(source.arguments, (name for name, _, _ in source.lines)))
    lines = [
        *(f"    {result} = {kind}" for result, kind in zip(results, kinds, strict=True)),
        f"    return [{', '.join(results)}]\n",
    ]

    def program(arguments: list[str]) -> str:
        return "\n".join([f"\ndef forward(self, {', '.join(arguments)}):", *lines])

    try:
        check_graph_code({**body, "_code": program([*holes, *names])}, imports, allows_module)
        traced = _trace(program(holes), imports, body)
    except Forbidden:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, torch.fx says it better of the program as it stands
        return None
    *others, output = traced.nodes
    made = [node for node in others if node.op != "placeholder"]
    found = output.args[0]
    if len(made) != len(kinds) or list(found) != made or not all(map(_is_plain, made)):
        return None
    return dict(zip(kinds, made, strict=True))


def _is_plain(node: fx.Node) -> bool:
    """Say whether a node is made where its line stands: attributes of values are made where they are used."""
    known = {"nn_module_stack"} if node.op == "call_module" else set()
    listed = node.op in ("call_function", "call_method", "call_module") and node.target is not getattr
    return listed and node.meta.keys() == known


class _KeepModules(fx.Tracer):
    """A GraphModule calls its submodules, whatever they are."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True


def _trace(program: str, imports: str, body: Mapping[str, Any]) -> fx.Graph:
    graph_module._CodeOnlyModule.forward = graph_module._forward_from_src(imports + program, {})
    return _KeepModules().trace(graph_module._CodeOnlyModule(dict(body)))


def _graph(source: _Source, nodes: Mapping[str, fx.Node]) -> fx.Graph | None:
    graph = fx.Graph(tracer_cls=fx.Tracer)
    calls: Counter[Any] = Counter()
    values = {name: graph.create_node("placeholder", name) for name in source.arguments}
    for name, kind, names in source.lines:
        pattern = nodes[kind]
        holes = {_HOLE.format(index): values[value] for index, value in enumerate(names)}
        node = values[name] = graph.create_node(pattern.op, pattern.target)
        # Arguments that are given at once are searched for symbolic numbers, which code does not hold.
        node.args = _filled(pattern.args, holes)
        if pattern.kwargs:
            node.kwargs = _filled(pattern.kwargs, holes)
        if pattern.op == "call_module":  # torch.fx numbers the calls of a module
            (where,) = pattern.meta["nn_module_stack"].values()
            number = f"@{calls[pattern.target]}" if calls[pattern.target] else ""
            values[name].meta["nn_module_stack"] = OrderedDict({f"{pattern.target}{number}": where})
            calls[pattern.target] += 1
    try:
        graph.output(_returned(source.returned, values))
    except LookupError:
        return None
    return graph


def _filled(arguments: Any, holes: Mapping[str, fx.Node]) -> Any:
    return map_arg(arguments, lambda hole: holes[hole.name])


def _returned(value: ast.expr, values: Mapping[str, fx.Node]) -> Any:
    """Return what an expression of values, constants, tuples, lists and dicts stands for."""
    match value:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=constant) if constant is not Ellipsis:
            return constant
        case ast.Tuple(elts=items):
            return tuple(_returned(item, values) for item in items)
        case ast.List(elts=items):
            return [_returned(item, values) for item in items]
        case ast.Dict(keys=keys, values=items):
            return {_key(key): _returned(item, values) for key, item in zip(keys, items, strict=True)}
    raise LookupError


def _key(key: ast.expr | None) -> Any:
    if isinstance(key, ast.Constant):
        return key.value
    raise LookupError


def _module(body: Mapping[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """Do what torch.fx does with a graph that it has traced from a pickled GraphModule's code."""
    attributes = dict(body)
    code = graph_module._CodeOnlyModule(attributes)
    name = attributes.get("_graphmodule_cls_name", "GraphModule")
    module = compiling_later.graph_module(code, graph, name)
    for key, value in attributes.items():
        if key not in compiling_later.LEFT and not hasattr(module, key):
            setattr(module, key, value)
    return module
