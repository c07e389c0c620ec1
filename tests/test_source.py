"""A call seen in the source and the same call seen while it runs are told to be the same; recompiling changes nothing."""

from __future__ import annotations

import ast
import copy
import dis
import importlib
import inspect
import itertools
import sys
import types

import pytest
import torch
from models import attributes, calls, compounds, helpers, messages, norms, structure

from dcsurgery.errors import Refused
from dcsurgery.source import (
    CodeKey,
    call_end,
    calls_in,
    code_key,
    compile_function,
    file_of,
    function_node,
    instruction_end,
    mangled,
    parse,
    source_hash,
)

MODULES = (attributes, calls, compounds, helpers, messages, norms, structure)


def functions():
    """Yield every function of the hard cases, methods included."""
    for module in MODULES:
        for value in vars(module).values():
            members = vars(value).values() if isinstance(value, type) else [value]
            for member in members:
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                    # Decorators are looked through: wraps() lends its name to functions of another line.
                    found = inspect.unwrap(function)
                    if found.__code__.co_filename == module.__file__ and found.__code__.co_name == found.__name__:
                        yield found


FUNCTIONS = {f"{f.__module__}.{f.__qualname__}": f for f in functions()}


def instructions(code):
    """Return what code does: how Python calls an attribute depends on what the file imports, and is all the same."""
    same = {"LOAD_METHOD": "LOAD_ATTR"}
    listed = [i for i in dis.get_instructions(code) if i.opname != "PUSH_NULL"]
    jumps = {i.opcode for i in listed if i.opcode in dis.hasjrel or i.opcode in dis.hasjabs}
    return [
        (same.get(i.opname, i.opname), None if i.opcode in jumps or isinstance(i.argval, types.CodeType) else i.argval)
        for i in listed
    ]


def signature(code):
    # Being nested says nothing about how code runs.
    flags = code.co_flags & ~inspect.CO_NESTED
    return code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, flags


def test_there_are_functions_to_look_at():
    assert len(FUNCTIONS) > 150


@pytest.mark.parametrize("name", FUNCTIONS)
def test_recompiling_an_unchanged_function_gives_the_same_instructions(name):
    function = FUNCTIONS[name]
    code = function.__code__
    key = code_key(code)
    node, cls = function_node(code.co_filename, key, code)
    assert file_of(key) == code.co_filename
    again = compile_function(copy.deepcopy(node), cls, code, ())
    for field in ("co_names", "co_varnames", "co_freevars", "co_cellvars", "co_name", "co_qualname"):
        assert getattr(again, field) == getattr(code, field), field
    assert instructions(again) == instructions(code)
    assert signature(again) == signature(code)
    lines = [[line for line, _ in itertools.groupby(line for *_, line in c.co_lines())] for c in (again, code)]
    assert lines[0] == lines[1], "tracebacks name the same lines"
    assert [c for c in again.co_consts if not isinstance(c, types.CodeType)] == [
        c for c in code.co_consts if not isinstance(c, types.CodeType)
    ]


def where():
    """Return the end of the call that runs this function."""
    frame = sys._getframe(1)
    return instruction_end(frame.f_code, frame.f_lasti)


def add(*values):
    return values


class Ends:
    def one(self):
        return where()

    def several(self):
        return (
            add(where(), where()),
            [where() for _ in range(1)],
            add(
                where(),
            ),
        )

    def behind_non_ascii(self):
        return add("größe", "é", where())


def test_what_runs_is_found_in_the_source():
    for method in (Ends.one, Ends.several, Ends.behind_non_ascii):
        node, _ = function_node(__file__, code_key(method.__code__), method.__code__)
        wanted = {end for end, call in calls_in(node).items() if ast.unparse(call) == "where()"}
        found = set()
        pending = [method(Ends())]
        while pending:
            value = pending.pop()
            if isinstance(value, tuple | list) and not (len(value) == 2 and isinstance(value[0], int)):
                pending += [v for v in value if not isinstance(v, str)]
            else:
                found.add(value)
        assert found == wanted
        assert wanted


def test_no_two_calls_share_an_end():
    for module in MODULES:
        every = [call_end(n) for n in ast.walk(parse(module.__file__)) if isinstance(n, ast.Call)]
        assert len(every) == len(set(every))


class WithoutColumns:
    """Like code under ``python -X no_debug_ranges``."""

    def co_positions(self):
        return iter([(1, 1, None, None)])


def test_positions_are_unknown_where_python_does_not_keep_them():
    assert instruction_end(WithoutColumns(), 0) is None
    assert instruction_end(where.__code__, -1) is None, "a frame that has not started"


class _Mangles:
    def __private(self):
        return None

    def __special__(self):
        return None


def test_private_names_are_mangled_as_python_does_it():
    for cls in (_Mangles, type("__Twice", (), {})):
        scope: dict = {}
        exec(f"class {cls.__name__}:\n def __private(self): pass\n def __special__(self): pass", scope)
        for name in ("__private", "__special__", "_single", "plain"):
            python = [n for n in vars(scope[cls.__name__]) if n.endswith(name)]
            assert not python or mangled(name, cls.__name__) == python[0]
    assert "_Mangles__private" in vars(_Mangles)
    assert mangled("__private", None) == "__private"
    assert mangled("__private", "__") == "__private", "a class of underscores only does not mangle"


def value(self, x):
    return x + (self if self < 3 else value(1, x))


def test_a_helper_can_be_called_from_the_new_code():
    """The added name is a free variable, and the function's own name still is the global."""
    code = value.__code__
    node, cls = function_node(__file__, code_key(code), code)
    node = copy.deepcopy(node)
    node.body = ast.parse("return helper(x) + value(self, x)").body
    new = compile_function(node, cls, code, ("helper",))
    assert new.co_freevars == ("helper",)
    function = types.FunctionType(new, globals(), "value", None, (types.CellType(lambda x: 100 * x),))
    assert function(1, 2) == 200 + 3


two = (lambda x: x + 1, lambda x: x + 2), (lambda x: x * 3)


def test_functions_on_one_line_are_told_apart():
    every = (*two[0], two[1])
    found = [function_node(__file__, code_key(f.__code__), f.__code__)[0] for f in every]
    assert [ast.unparse(node.body) for node in found] == ["x + 1", "x + 2", "x * 3"]


def test_a_missing_module_is_refused():
    with pytest.raises(Refused, match=r"cannot import 'no_such_module'.*install it"):
        file_of(CodeKey("no_such_module:f", 1))


def test_a_module_without_a_file_is_refused():
    with pytest.raises(Refused, match="no source file"):
        file_of(CodeKey("sys:f", 1))


def test_code_that_was_executed_has_no_source():
    scope: dict = {}
    exec(compile("def f(x):\n    return x", "<executed>", "exec"), scope)
    key = code_key(scope["f"].__code__)
    assert key == CodeKey("<executed>:f", 1)
    assert parse("<executed>") is None
    with pytest.raises(Refused, match="source is not available"):
        function_node(file_of(key), key)


def test_a_function_that_moved_is_refused():
    with pytest.raises(Refused, match=r"source has changed.*plan again"):
        function_node(__file__, CodeKey(f"{__name__}:where", 1))


def test_a_changed_file_is_read_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "read_again.py"
    hashes = []
    for text in ("def f(x):\n    return abs(x)\n", "def f(x):\n    return max(x)\n", "def f(x):\n    return abs(x)\n"):
        file.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        sys.modules.pop("read_again", None)
        key = code_key(importlib.import_module("read_again").f.__code__)
        hashes.append(source_hash(file_of(key), key))
    sys.modules.pop("read_again")
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_file_that_is_no_python_has_no_tree(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def f(:", encoding="utf-8")
    assert parse(str(file)) is None
    assert parse(str(tmp_path / "missing.py")) is None


def test_keys_are_the_same_in_every_process():
    key = code_key(torch.nn.functional.silu.__code__)
    assert (key.module, key.qualname) == ("torch.nn.functional", "silu")
    assert str(key) == f"torch.nn.functional:silu (line {key.first_line})"
    assert code_key(torch.nn.functional.silu.__code__, "elsewhere").module == "elsewhere"
