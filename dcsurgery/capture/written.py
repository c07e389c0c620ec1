"""Which activation that is written out (see `dcsurgery.idioms`) a running function is at."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from dcsurgery.capture.origin import BOUNDARIES, is_library_file
from dcsurgery.capture.places import Places
from dcsurgery.errors import Refused
from dcsurgery.idioms import Idiom, Surroundings, idioms_in
from dcsurgery.source import FunctionNode, code_key, function_node, instruction_span

__all__ = ["Position", "RunningIdioms", "idioms_of_node", "is_part_of"]


@dataclass(frozen=True)
class Position:
    """Where a frame is.

    Attributes
    ----------
    idiom
        The idiom whose operation runs, if any.
    is_whole
        Whether that is its last operation, which makes its value.
    source_of
        The idiom whose source that operation makes, if any; it may be another idiom's value.
    """

    idiom: Idiom | None
    is_whole: bool
    source_of: Idiom | None


@dataclass
class _Table:
    idioms: list[Idiom]
    asked: dict[tuple[str, str], Any]
    positions: dict[int, Position | None] = field(default_factory=dict)  # by instruction


_TABLES: dict[types.CodeType, list[_Table]] = {}
_COMPREHENSIONS = frozenset({"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"})
_MANY = 16  # of one function, for modules with other settings


def idioms_of_node(code: types.CodeType, node: FunctionNode, surroundings: Surroundings) -> list[Idiom]:
    """Return the idioms of a function; those of the same code in the same surroundings are found once."""
    return _table(code, surroundings, node).idioms


def _table(code: types.CodeType, surroundings: Surroundings, node: FunctionNode | None) -> _Table:
    known = _TABLES.setdefault(code, [])
    for table in known:
        if surroundings.is_same(table.asked):
            return table
    surroundings.asked.clear()
    table = _Table([] if node is None else idioms_in(node, surroundings), dict(surroundings.asked))
    known.insert(0, table)
    del known[_MANY:]
    return table


class RunningIdioms:
    """Looks up the idioms of the functions that run in one recording."""

    def __init__(self) -> None:
        self._by_code: dict[types.CodeType, _Table] = {}  # where the module does not matter
        self._by_module: dict[tuple[types.CodeType, int], _Table] = {}

    def of(self, frame: types.FrameType | None) -> tuple[types.FrameType, Position] | None:
        """Return the outermost frame, up to the module call, that is at an idiom, and where in it."""
        frames = []
        while frame is not None and frame.f_code not in BOUNDARIES:
            if not is_library_file(frame.f_code.co_filename):
                frames.append(frame)
            frame = frame.f_back
        if frame is None:  # no module runs: whoever called this is not the model
            return None
        places = ((user, self._at(user)) for user in reversed(frames))
        return next(((user, position) for user, position in places if position is not None), None)

    def are_in(self, compound: types.FrameType, places: Places) -> bool:
        """Say whether a function that is recognised as a whole is local to one that runs, and has idioms itself.

        It is read with the function around it, and its idioms are sites there.
        """
        enclosing = compound.f_code.co_qualname.rpartition(".<locals>.")[0]
        around = compound.f_back
        while enclosing and around is not None and around.f_code not in BOUNDARIES:
            if around.f_code.co_qualname == enclosing:
                return not places.is_held(compound.f_code) and bool(self._table_of(compound).idioms)
            around = around.f_back
        return False

    def _at(self, frame: types.FrameType) -> Position | None:
        table = self._by_code.get(frame.f_code) or self._table_of(frame)
        if not table.idioms:
            return None
        offset = frame.f_lasti
        if offset not in table.positions:
            table.positions[offset] = _position(table.idioms, frame.f_code, offset)
        return table.positions[offset]

    def _table_of(self, frame: types.FrameType) -> _Table:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        key = (code, id(first) if isinstance(first, nn.Module) else 0)
        table = self._by_module.get(key)
        if table is None:
            table = self._by_module[key] = _of_frame(frame, first)
            if not table.asked and not isinstance(first, fx.GraphModule):
                self._by_code[code] = table
        return table


def is_part_of(outer: types.FrameType | None, frame: types.FrameType | None) -> bool:
    """Say whether a frame is another, or was called by it."""
    while outer is not None and frame is not None and frame is not outer:
        frame = frame.f_back
    return outer is not None and frame is outer


def _of_frame(frame: types.FrameType, first: Any) -> _Table:
    if isinstance(first, fx.GraphModule):  # its nodes are what is looked at
        return _Table([], {})
    code, around = frame.f_code, frame
    if code.co_name in _COMPREHENSIONS:  # no function in the source: the one around it is
        enclosing = code.co_qualname.rpartition(".<locals>.")[0]
        while around.f_code.co_qualname != enclosing:
            if around.f_back is None or around.f_back.f_code in BOUNDARIES:
                return _Table([], {})
            around = around.f_back
    code = around.f_code
    try:
        node, _ = function_node(code.co_filename, code_key(code), code)
    except Refused:
        return _Table([], {})
    table = _table(code, Surroundings.of_frame(around), node)
    return table if around is frame else _Table(table.idioms, table.asked)


def _position(idioms: list[Idiom], code: types.CodeType, offset: int) -> Position | None:
    span = instruction_span(code, offset)
    if span is None:
        return None
    # Of two, one in the source of the other, only the inner one covers what is in there.
    idiom = next((idiom for idiom in idioms if idiom.covers(span)), None)
    source_of = next((idiom for idiom in idioms if span == idiom.spans[1]), None)
    if idiom is None and source_of is None:
        return None
    return Position(idiom, idiom is not None and span == idiom.spans[0], source_of)
