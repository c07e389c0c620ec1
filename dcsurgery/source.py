"""Functions as source: find a function's syntax tree, find a call in it, compile a changed one.

A call is addressed by the position just behind its closing parenthesis: no two calls share it, and Python reports it
for every instruction that runs (PEP 657), so a call seen at run time and a call seen in the source are the same thing.
"""

from __future__ import annotations
import __future__

import ast
import functools
import hashlib
import importlib
import linecache
import operator
import sys
import types
from dataclasses import dataclass

from dcsurgery.errors import Refused
from dcsurgery.sites import Span

__all__ = [
    "CodeKey",
    "FunctionNode",
    "call_end",
    "calls_in",
    "code_key",
    "compile_function",
    "file_of",
    "function_node",
    "instruction_end",
    "instruction_span",
    "mangled",
    "parse",
    "running_call",
    "source_hash",
    "span_of",
]

_INNER = "_dcs_function"
_FUTURE = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class CodeKey:
    """What identifies a function's code across processes: ``module:qualname`` and its first line."""

    function: str
    first_line: int

    @property
    def module(self) -> str:
        """Name of the module that defines the function."""
        return self.function.partition(":")[0]

    @property
    def qualname(self) -> str:
        """Qualified name inside the module, ``Class.method``."""
        return self.function.partition(":")[2]

    def __str__(self) -> str:
        return f"{self.function} (line {self.first_line})"


@functools.lru_cache(maxsize=8192)
def _module_of_file(filename: str) -> str:
    # Frames know their file, not their module's name.
    return _names_by_file(len(sys.modules)).get(filename, filename)


@functools.lru_cache(maxsize=1)
def _names_by_file(_modules: int) -> dict[str, str]:
    """Return the name of each file's module, the first one; looked up anew when modules were imported since."""
    names: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            names.setdefault(file, name)
    return names


def code_key(code: types.CodeType, module: str | None = None) -> CodeKey:
    """Return the key of a code object; ``module`` is the defining module's name where it is known."""
    return CodeKey(f"{module or _module_of_file(code.co_filename)}:{code.co_qualname}", code.co_firstlineno)


def file_of(key: CodeKey) -> str:
    """Return the file that defines a function.

    Raises
    ------
    Refused
        If its module cannot be imported or has no source.
    """
    module = sys.modules.get(key.module)
    if module is None:
        if key.module in linecache.cache or key.module.endswith(".py") or key.module.startswith("<"):
            return key.module
        try:
            module = importlib.import_module(key.module)
        except ImportError as error:
            raise Refused(
                f"cannot import {key.module!r}: {error}", where=str(key), fix="install it or put it on the path"
            ) from None
    filename = getattr(module, "__file__", None)
    if filename is None:
        raise Refused("the function has no source file", where=str(key), fix="define it in a file")
    return str(filename)


_TREES: dict[str, tuple[list[str], ast.Module | None]] = {}


def parse(filename: str) -> ast.Module | None:
    """Return a file's syntax tree (shared: copy before changing), None where there is no source."""
    lines = linecache.getlines(filename)
    if not lines:
        return None
    known = _TREES.get(filename)
    if known is None or known[0] is not lines:  # linecache has one list per file until the file changes
        try:
            known = (lines, ast.parse("".join(lines)))
        except SyntaxError:
            known = (lines, None)
        _TREES[filename] = known
    return known[1]


@functools.lru_cache(maxsize=512)
def _functions(tree: ast.Module) -> dict[int, list[tuple[FunctionNode, str | None]]]:
    """Map a first line to the functions (and the class each stands in) that begin there."""
    found: dict[int, list[tuple[FunctionNode, str | None]]] = {}

    def visit(node: ast.AST, cls: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                line = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                found.setdefault(line, []).append((child, cls))
            elif isinstance(child, ast.Lambda):
                found.setdefault(child.lineno, []).append((child, cls))
            visit(child, child.name if isinstance(child, ast.ClassDef) else cls)

    visit(tree, None)
    return found


def function_node(filename: str, key: CodeKey, code: types.CodeType | None = None) -> tuple[FunctionNode, str | None]:
    """Return a function's syntax tree and the name of the class around it.

    Raises
    ------
    Refused
        If the source is missing or no longer fits.
    """
    linecache.checkcache(filename)  # the file may have been edited, and its module reloaded
    tree = parse(filename)
    if tree is None:
        raise Refused("its source is not available", where=str(key), fix="the site needs its Python source")
    name = key.qualname.rpartition(".")[2]
    nodes = [
        (node, cls)
        for node, cls in _functions(tree).get(key.first_line, [])
        if (name == "<lambda>") == isinstance(node, ast.Lambda) and (isinstance(node, ast.Lambda) or node.name == name)
    ]
    if len(nodes) > 1 and code is not None:  # two lambdas on one line: told apart by where their code lies
        columns = [p[2] for p in code.co_positions() if p[2] is not None and p[0] is not None]
        inside = [n for n in nodes if n[0].col_offset <= max(columns) <= (n[0].end_col_offset or 0)]
        nodes = sorted(inside or nodes, key=lambda n: (n[0].end_col_offset or 0) - n[0].col_offset)
    if not nodes:
        raise Refused(
            "its source has changed since the plan was made or the model was edited", where=str(key), fix="plan again"
        )
    return nodes[0]


def source_hash(filename: str, key: CodeKey) -> str:
    """Return a hash of a function's syntax and its place in the file, by which calls are addressed."""
    node, _ = function_node(filename, key)
    return hashlib.sha256(ast.dump(node, include_attributes=True).encode()).hexdigest()[:16]


def call_end(call: ast.expr | ast.stmt) -> tuple[int, int]:
    """Return the position behind a call's closing parenthesis: line (1-based), column (0-based, UTF-8 bytes)."""
    return (call.end_lineno or 0, call.end_col_offset or 0)


def mangled(name: str, cls: str | None) -> str:
    """Return an attribute's name as Python knows it: ``__private`` ones in a class bear the class's name."""
    owner = (cls or "").lstrip("_")
    private = bool(owner) and name.startswith("__") and not name.endswith("__")
    return f"_{owner}{name}" if private else name


def calls_in(node: ast.AST) -> dict[tuple[int, int], ast.Call]:
    """Return every call inside a syntax tree by its end."""
    return {call_end(child): child for child in ast.walk(node) if isinstance(child, ast.Call)}


@functools.lru_cache(maxsize=256)
def _calls(tree: ast.Module) -> dict[tuple[int, int], ast.Call]:
    return calls_in(tree)


def running_call(frame: types.FrameType) -> ast.Call | None:
    """Return the call that a frame is at, as its source has it."""
    end = instruction_end(frame.f_code, frame.f_lasti)
    tree = None if end is None else parse(frame.f_code.co_filename)
    return None if end is None or tree is None else _calls(tree).get(end)


@functools.lru_cache(maxsize=4096)
def _positions(code: types.CodeType) -> tuple[tuple[int | None, int | None, int | None, int | None], ...]:
    return tuple(code.co_positions())


def instruction_end(code: types.CodeType, offset: int) -> tuple[int, int] | None:
    """Return where the expression that an instruction belongs to ends, None without position information."""
    if offset < 0:
        return None
    _, end_line, _, end_column = _positions(code)[offset // 2]
    return None if end_line is None or end_column is None else (end_line, end_column)


def instruction_span(code: types.CodeType, offset: int) -> Span | None:
    """Return where the expression that an instruction belongs to begins and ends, None without position information."""
    if offset < 0:
        return None
    line, end_line, column, end_column = _positions(code)[offset // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    return line, column, end_line, end_column


def span_of(node: ast.AST) -> Span:
    """Return where a piece of syntax begins and ends."""
    begin = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
    return *begin, getattr(node, "end_lineno", None) or 0, getattr(node, "end_col_offset", None) or 0


def compile_function(
    node: FunctionNode, cls: str | None, original: types.CodeType, helpers: tuple[str, ...]
) -> types.CodeType:
    """Compile a changed function; return its code, whose free variables are the original's plus ``helpers``.

    Parameters
    ----------
    node
        The changed tree, with its original line numbers, so that tracebacks and debuggers stay right.
    cls
        Name of the class it was written in: ``__private`` names are mangled with it.
    original
        The code it is made from: it says the file, the free variables and the ``from __future__`` imports.
    helpers
        Names that the changes refer to.
    """
    inner: ast.stmt
    if isinstance(node, ast.Lambda):
        inner = ast.Expr(node)
    else:
        # They are not run, but a function's first line is its first decorator's.
        node.decorator_list = [ast.copy_location(ast.Constant(None), entry) for entry in node.decorator_list]
        node.returns = None
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None  # evaluated at definition, in names that need not exist here
        for extra in (node.args.vararg, node.args.kwarg):
            if extra is not None:
                extra.annotation = None
        node.name = _INNER  # its own name would hide a global of that name, which it may call
        inner = node
    # Defaults are taken over from the live function, so any value keeps the signature compiling.
    node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
    node.args.kw_defaults = [None if d is None else ast.Constant(None) for d in node.args.kw_defaults]
    if cls is not None and cls.strip("_"):
        # Leading underscores do not matter to the mangling of private names, and nobody refers to this name.
        name = "________" + cls.lstrip("_")
        inner = ast.ClassDef(name=name, bases=[], keywords=[], body=[inner], decorator_list=[])
    parameters = [ast.arg(name) for name in (*original.co_freevars, *helpers)]
    outer = ast.FunctionDef(
        name="__dcs_outer__",
        args=ast.arguments(
            posonlyargs=[], args=parameters, vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=[]
        ),
        body=[inner],
        decorator_list=[],
    )
    tree = ast.fix_missing_locations(ast.Module(body=[outer], type_ignores=[]))
    flags = original.co_flags & _FUTURE
    pending = [compile(tree, original.co_filename, "exec", flags=flags, dont_inherit=True)]
    while pending:
        code = pending.pop(0)
        nested = [c for c in code.co_consts if isinstance(c, types.CodeType)]
        for candidate in nested:
            if candidate.co_name == (
                _INNER if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else "<lambda>"
            ):
                return candidate.replace(co_name=original.co_name, co_qualname=original.co_qualname)
        pending += nested
    raise Refused("the changed function could not be compiled", where=original.co_filename, fix="report this model")
