"""Trace one module's own code with torch.fx, children as leaves, and prove the trace by re-running it."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from dcsurgery.activations import irelu
from dcsurgery.capture.graphs import call_key
from dcsurgery.capture.origin import is_library_file, origin_of, short_file, user_frame
from dcsurgery.capture.places import Places
from dcsurgery.capture.written import Position, RunningIdioms, is_part_of
from dcsurgery.catalog import match_function, match_method
from dcsurgery.example_inputs import preserved
from dcsurgery.idioms import Idiom
from dcsurgery.tree import join

__all__ = ["disagreement", "trace"]


class _ShallowTracer(fx.Tracer):
    """Every child is a leaf; each node keeps the key of the site it is."""

    def __init__(self, path: str, places: Places) -> None:
        super().__init__()
        self._autowrap_search = []  # Python's math: see `_math_seen`
        self._path = path
        self._places = places
        self._turns: Counter[int] = Counter()  # id(shared child) -> calls so far
        self._compounds: list[Any] = []  # calls of functions that are activations as a whole, evaluations of idioms
        self._idioms = RunningIdioms()
        self._evaluations: dict[tuple[types.FrameType, Idiom], int] = {}

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with _math_seen():
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        place = self._idiom(sys._getframe(1)) if kind.startswith("call_") and target is not irelu else None
        if place is not None and place[1].idiom is not None:
            self._mark_idiom(node, place[0], place[1].idiom, whole=place[1].is_whole)
        elif kind == "call_module":
            child = self.root.get_submodule(target)
            if self._places.match_of(child) is not None:
                node.meta["dcs_key"] = self._module_key(child, target)
        elif kind in ("call_function", "call_method") and target is not irelu:
            self._mark(node, kind, target)
            self._mark_compound(node)
        return node

    def _mark_compound(self, node: fx.Node) -> None:
        """Leave on a node of which call of a user's activation it is a part, as name and number."""
        frame = self._places.compound_frame(sys._getframe(2))
        if frame is not None:
            if frame not in self._compounds:
                self._compounds.append(frame)
            node.meta["dcs_compound"] = (frame.f_code.co_name, self._compounds.index(frame))

    def _idiom(self, frame: types.FrameType) -> tuple[types.FrameType, Position] | None:
        place = self._idioms.of(frame)
        compound = None if place is None else self._places.compound_frame(frame)
        if place is None or compound is None or self._idioms.are_in(compound, self._places):
            return place
        return None if is_part_of(compound, place[0]) else place

    def _mark_idiom(self, node: fx.Node, frame: types.FrameType, idiom: Idiom, *, whole: bool) -> None:
        """Leave on a node of which evaluation of an idiom it is a part; the last operation's is the site."""
        number = self._evaluations.setdefault((frame, idiom), len(self._compounds))
        if number == len(self._compounds):
            self._compounds.append(idiom)
        node.meta["dcs_compound"] = (idiom.match.operator.name, number)
        steps = origin_of(frame).steps
        if whole:
            del self._evaluations[frame, idiom]
        if whole and steps:
            last = replace(steps[-1], end=idiom.spans[0][2:], written=idiom.spans)
            node.meta["dcs_key"] = call_key(self._path, last)

    def _module_key(self, child: nn.Module, target: str) -> tuple[Any, ...]:
        """Return the slot that was called: torch.fx names the first path, whichever was used."""
        held = [slot for slot in self._places.slots_of(child) if self._places.belongs_to(slot, self._path)]
        if held:
            named = self._places.named_slot(user_frame(sys._getframe(2)), held)
            turn = self._turns[id(child)]
            self._turns[id(child)] += 1
            return self._places.slot_key(named or held[turn % len(held)])
        owner, _, name = target.rpartition(".")
        holder = self._places.tree.path_of(self.root.get_submodule(owner))
        return ("module", holder if holder is not None else join(self._path, owner), name)

    def _mark(self, node: fx.Node, kind: str, target: Any) -> None:
        listed = match_function(target) if kind == "call_function" else None
        operator = listed.operator if listed else (match_method(target) if kind == "call_method" else None)
        if operator is None:
            return
        origin = origin_of(sys._getframe(2))
        callers = [self._path]
        wrapped = self._places.recognised_frame(origin, callers)
        if wrapped is not None:
            key, _, outer = wrapped
            if key is not None:
                node.meta["dcs_key"] = key
                return
            origin = outer
        else:
            held = self._places.held_callables(target, origin, callers)
            if held:
                named = self._places.named_slot(origin.frames[0] if origin.frames else None, held)
                node.meta["dcs_key"] = self._places.slot_key(named or held[0])
                return
        if origin.steps:
            node.meta["dcs_key"] = call_key(self._path, origin.steps[-1])


def _seen(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def seen(*args: Any, **kwargs: Any) -> Any:
        proxy = next((value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, fx.Proxy)), None)
        if proxy is None:
            return function(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", function, args, kwargs)

    return seen


_MATH = {name: value for name, value in vars(math).items() if callable(value) and not name.startswith("_")}
_SEEN = {name: _seen(function) for name, function in _MATH.items()}


@contextlib.contextmanager
def _math_seen() -> Iterator[None]:
    """Let Python's math take Proxies. torch.fx does so, too, but makes new wrappers of all of it in every trace."""
    vars(math).update(_SEEN)
    try:
        yield
    finally:
        vars(math).update(_MATH)


def trace(module: nn.Module, path: str, places: Places) -> tuple[fx.Graph | None, str]:
    """Trace a module; return its graph, or None and why not (exception and file:line)."""
    try:
        with preserved(module):  # a module that keeps its last output would keep a Proxy
            return _ShallowTracer(path, places).trace(module), ""
    except Exception as error:  # noqa: BLE001 - whatever user code does with a Proxy
        message = str(error).strip().splitlines()
        place = _place(error)
        return None, f"{type(error).__name__}: {message[0][:120] if message else ''}{f' at {place}' if place else ''}"


def _place(error: BaseException) -> str:
    traceback, place = error.__traceback__, ""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if not is_library_file(filename):
            place = f"{short_file(filename)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


class _ShapeKeeper(fx.Interpreter):
    """Leaves the shape of every tensor on its node, for passes that need it."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            n.meta["dcs_shape"] = tuple(value.shape)
        return value


def disagreement(
    module: nn.Module, graph: fx.Graph, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any, rng: torch.Tensor
) -> str:
    """Re-run a traced graph on recorded inputs; return how it differs from the recorded output, '' if it does not."""
    copies = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), args)
    try:
        with torch.random.fork_rng(devices=[]), preserved(module):
            torch.random.set_rng_state(rng)
            placeholders = [n for n in graph.nodes if n.op == "placeholder"]
            inputs = _bound(placeholders, copies, kwargs)
            actual = _ShapeKeeper(module, garbage_collect_values=False, graph=graph).run(*inputs)
        return "" if _same(actual, expected) else "the re-run of its trace gave another output"
    except Exception as error:  # noqa: BLE001 - a specialised trace may fail in any way, quantized tensors do in _same
        return f"the re-run of its trace failed with {type(error).__name__}"


def _bound(placeholders: list[fx.Node], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    values: list[Any] = []
    for index, node in enumerate(placeholders):
        name = str(node.target)
        if name.startswith("*"):
            values.append(args[index:] if not name.startswith("**") else kwargs)
        elif index < len(args):
            values.append(args[index])
        elif name in kwargs:
            values.append(kwargs[name])
        else:
            values.append(node.args[0] if node.args else None)
    return values


def _same(a: Any, b: Any) -> bool:
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    if len(left) != len(right):
        return False
    for x, y in zip(left, right, strict=True):
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            if x.shape != y.shape or x.dtype != y.dtype or not torch.equal(x.nan_to_num(), y.nan_to_num()):
                return False
        elif isinstance(x, torch.Tensor) != isinstance(y, torch.Tensor):
            return False
    return True
