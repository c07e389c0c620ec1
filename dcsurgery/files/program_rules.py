"""What the JSON of a torch.export archive may say.

torch turns much of it into code: names of nodes and attributes are written into the source of the module's ``forward``,
shapes are evaluated by sympy, guards are executed, operators are looked up by attribute. So every name must be a name,
every expression arithmetic, and every operator one that PyTorch's dispatcher knows.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["missing_operators", "offences"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"[A-Za-z0-9_\-@+ /:<>\[\]]*(\.[A-Za-z0-9_\-@+ /:<>\[\]]+)*")
_SYMBOL = re.compile(r"-?[a-z]+_?[0-9]+|oo|int_oo|True|False|zoo|nan")
_NUMBER = re.compile(r"-?[0-9.]+(e[+-]?[0-9]+)?")
_NAMES = frozenset({"name", "class_fqn"})
_PATHS = frozenset(
    {"parameter_name", "buffer_name", "tensor_constant_name", "custom_obj_name", "fqn", "user_input_name"}
)
#: What torch prints into shape expressions and guards.
_FUNCTIONS = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "CeilDiv",
        "CeilToInt",
        "CleanDiv",
        "Eq",
        "FloatPow",
        "FloatTrueDiv",
        "FloorDiv",
        "FloorToInt",
        "Ge",
        "Gt",
        "Identity",
        "IntTrueDiv",
        "Integer",
        "IsNonOverlappingAndDenseIndicator",
        "LShift",
        "Le",
        "Lt",
        "Max",
        "Min",
        "Mod",
        "ModularIndexing",
        "Mul",
        "Ne",
        "Not",
        "Or",
        "Pow",
        "PowByNatural",
        "PythonMod",
        "RShift",
        "Rational",
        "RoundDecimal",
        "RoundToInt",
        "ToFloat",
        "TruncToFloat",
        "TruncToInt",
        "Where",
        "ceiling",
        "floor",
    ]
)
_EXPRESSION = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
    ast.Load,
)  # fmt: skip
#: Tensor methods that guards ask.
_ASKED = frozenset({"size", "stride", "storage_offset", "dim", "ndim", "shape", "dtype", "device", "numel"})
_PYTHON = re.compile(
    r"_operator\.[a-z_]+|math\.[a-z]+|torch\.sym_[a-z]+|torch\.amp\.autocast_mode\._(enter|exit)_autocast"
)
_TORCH = frozenset(
    {
        "torch.autograd.grad_mode.set_grad_enabled",
        "torch._C._set_grad_enabled",
        "torch.fx.experimental.symbolic_shapes.cast_symbool_to_symint_guardless",
    }
)
#: Operators that reach outside of the model.
_OUTSIDE = frozenset({"aten.from_file", "image.read_file", "image.write_file", "profiler._record_function_enter"})


def offences(program: Any) -> list[str]:
    """Return what a program's JSON says that no program of torch's would say; nothing is executed."""
    found = list(dict.fromkeys(_offences(program)))
    return found + [f"the guard {guard!r}" for guard in program.get("guards_code") or [] if not _is_guard(guard)]


def missing_operators(program: Any) -> list[str]:
    """Return the operators that a program calls and nobody has registered in this process."""
    return sorted(
        {target for target in _targets(program) if target.startswith("torch.ops.") and _resolve(target) is None}
    )


def _offences(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _offences(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _about(key, item)
            yield from _offences(item)


def _about(key: str, item: Any) -> Iterator[str]:
    if key in ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "custom_obj_values"):
        yield from (f"the name {name!r}" for name in item if not _NAME.fullmatch(name))
    elif key == "range_constraints":
        yield from (f"the symbol {name!r}" for name in item if not _is_expression(name))
    elif key == "forward_arg_names":
        yield from (f"the argument {name!r}" for name in item or () if not _NAME.fullmatch(str(name)))
    elif key in ("in_spec", "out_spec"):
        yield from (f"the import of {name!r}" for name in _factories(item))
    if not isinstance(item, str):
        return
    if key == "expr_str":
        if not _is_expression(item):
            yield f"the expression {item!r}"
    elif key in ("target", "as_operator"):
        if not _is_operator(item):
            yield f"the operator {item!r}"
    elif key in _NAMES:
        if item and not _PATH.fullmatch(item) if key == "class_fqn" else item and not _NAME.fullmatch(item):
            yield f"the name {item!r}"
    elif key in _PATHS and not _PATH.fullmatch(item):
        yield f"the name {item!r}"


def _is_expression(text: str) -> bool:
    """Say whether a text is arithmetic on symbols, which sympy may evaluate."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    settings = {id(node) for call in ast.walk(tree) if _is_literal(call) for node in ast.walk(call)}
    return all(id(node) in settings or _is_arithmetic(node, called) for node in ast.walk(tree))


def _is_literal(node: ast.AST) -> bool:
    """Say whether a call is how sympy prints a symbol or a number: ``Symbol('s7', integer=True)``, ``Float('0.5')``."""
    match node:
        case ast.Call(func=ast.Name(id="Symbol" | "Float" as name), args=[ast.Constant(value=str(text))]):
            plain = all(isinstance(k.value, ast.Constant) and (k.arg or "").isidentifier() for k in node.keywords)
            return plain and (_SYMBOL if name == "Symbol" else _NUMBER).fullmatch(text) is not None
        case _:
            return False


def _is_arithmetic(node: ast.AST, called: set[int]) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in _FUNCTIONS
        case ast.Name(id=name):
            return id(node) in called or _SYMBOL.fullmatch(name) is not None
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float)
        case _:
            return isinstance(node, _EXPRESSION)


def _is_guard(text: Any) -> bool:
    """Say whether a guard only compares sizes of inputs: ``L['x'].size()[0] >= 2``."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, TypeError, RecursionError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return all(_is_question(node, called) for node in ast.walk(tree))


def _is_question(node: ast.AST, called: set[int]) -> bool:
    match node:
        case ast.Name(id="L") | ast.Subscript():
            return True
        case ast.Attribute(attr=name):
            return name in _ASKED
        case ast.Call(func=ast.Attribute(attr=name), args=[], keywords=[]):
            return name in _ASKED
        case ast.Constant(value=value):
            return value is None or isinstance(value, bool | int | float | str)
        case _:
            return _is_arithmetic(node, called)


def _is_operator(target: str) -> bool:
    if _PYTHON.fullmatch(target) or target in _TORCH:
        return True
    parts = target.split(".")
    if parts[:2] != ["torch", "ops"] or len(parts) < 4 or not all(_NAME.fullmatch(part) for part in parts):
        return False
    if ".".join(parts[2:4]) in _OUTSIDE:
        return False
    found = _resolve(target)  # one that is not registered is told by `missing_operators`
    return found is None or isinstance(found, torch._ops.OpOverload | torch._ops.HigherOrderOperator)


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _targets(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "target" and isinstance(item, str):
                yield item
            else:
                yield from _targets(item)


def _resolve(target: str) -> Any:
    found: Any = torch
    for part in target.split(".")[1:]:
        found = getattr(found, part, None)
        if found is None:
            return None
    return found


def _factories(spec: Any) -> Iterator[str]:
    """Yield modules that a tree spec would import: those of a defaultdict's factory and of enumerations."""
    try:
        value = json.loads(spec)
    except (TypeError, ValueError):
        yield str(spec)[:80]
        return
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if item.get("default_factory_module") not in (None, "builtins"):
                yield str(item["default_factory_module"])
            if "__enum__" in item and str(item.get("fqn")).partition(":")[0] not in sys.modules:
                yield str(item.get("fqn"))
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str) and item.startswith(("{", "[")):
            try:
                pending.append(json.loads(item))
            except ValueError:
                continue
