"""A rescaled model as TorchScript: ``forward`` returns raw output · C, the method ``scaled`` the raw output.

Which outputs are labels is decided when the code is written, by the declared type of what ``forward`` returns; it is
the choice that `dcsurgery.label_outputs` makes at run time.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from typing import Any

from dcsurgery.errors import Refused
from dcsurgery.label_outputs import Outputs, is_label_name
from dcsurgery.torchscript.declared import Declared
from dcsurgery.torchscript.emission import Names

__all__ = ["rescaled_methods"]

_HOME = "__torch__.dcsurgery.rescale"
_TEXTS = {
    "times": """def times(label: Tensor, scale: Tensor) -> Tensor:
  if torch.__or__(torch.is_floating_point(label), torch.is_complex(label)):
    kind = ops.prim.dtype(label)
    if torch.__or__(torch.eq(kind, 5), torch.eq(kind, 15)):
      result = torch.to(torch.mul(torch.to(label, 6), torch.to(scale, 6)), kind)
    else:
      result = torch.mul(label, torch.to(scale, kind))
    result0 = result
  else:
    result0 = label
  return result0
""",
    "times_optional": """def times_optional(label: Optional[Tensor], scale: Tensor) -> Optional[Tensor]:
  if torch.__isnot__(label, None):
    label0 = unchecked_cast(Tensor, label)
    result: Optional[Tensor] = {times}(label0, scale, )
  else:
    result = label
  return result
""",
    "times_list": """def times_list(labels: List[Tensor], scale: Tensor) -> List[Tensor]:
  result = annotate(List[Tensor], [])
  for i in range(torch.len(labels)):
    _0 = torch.append(result, {times}(labels[i], scale, ))
  return result
""",
    "times_entry": """def times_entry(labels: Dict[str, Tensor], scale: Tensor, name: str) -> Dict[str, Tensor]:
  result = torch.copy(labels)
  torch._set_item(result, name, {times}(labels[name], scale, ))
  return result
""",
}
_FIX = "choose with outputs=, for instance outputs=('energy', 'forces'), or write it as format='module'"


def rescaled_methods(
    names: Names,
    forward: ast.FunctionDef,
    outputs: Outputs | None,
    record: Callable[[ast.expr], tuple[str, Declared] | None],
    where: str,
) -> list[ast.FunctionDef]:
    """Return ``scaled`` and the new ``forward``.

    Parameters
    ----------
    names
        Where the helpers are declared.
    forward
        The raw ``forward``, written already.
    outputs
        Which outputs are labels.
    record
        Gives the written name and the declaration of a NamedTuple type.
    where
        What an error calls the model.

    Raises
    ------
    Refused
        If the type does not say which outputs are labels, or is none of tensors.
    """
    raw = copy.deepcopy(forward)
    raw.name = "scaled"
    arguments = [argument.arg for argument in forward.args.args]
    made = _Scaling(names, record, where).top(forward.returns, outputs)
    call = f"({arguments[0]}).scaled({''.join(f'{name}, ' for name in arguments[1:])})"
    new = copy.deepcopy(forward)
    new.body = ast.parse(f"raw = {call}\nscale = {arguments[0]}.label_scale\nreturn {made}").body
    return [raw, new]


class _Scaling:
    """Writes the expression that scales the labels in ``raw``."""

    def __init__(self, names: Names, record: Callable[[ast.expr], tuple[str, Declared] | None], where: str) -> None:
        self._names = names
        self._record = record
        self._where = where

    def top(self, kind: ast.expr | None, outputs: Outputs | None) -> str:
        if _head(kind) == "Tensor":
            if outputs is not None:
                raise Refused("the model returns one tensor, so it has no outputs to choose", where=self._where)
            return self._all("raw", kind)
        parts = self._parts(kind)
        if parts is None:
            if _head(kind) == "Dict" and outputs is not None:
                made = "raw"
                for name in outputs:
                    made = f"{self._helper('times_entry')}({made}, scale, {name!r}, )"
                return made
            raise Refused(
                f"which parts of a {_text(kind)} are labels is known only when it runs", where=self._where, fix=_FIX
            )
        types, fields, build = parts
        if outputs is None:
            chosen = [
                n for n, t in enumerate(types) if _head(t) == "Tensor" and (not fields or is_label_name(fields[n]))
            ]
            if fields:  # a record's names decide, whatever its type; a plain tuple's tensors all are
                chosen = [n for n, name in enumerate(fields) if is_label_name(name)] or chosen
        else:
            chosen = [fields.index(o) if o in fields else range(len(types))[int(o)] for o in outputs]
        if not chosen:
            raise Refused(f"no part of a {_text(kind)} is a label by its name", where=self._where, fix=_FIX)
        items = [self._all(f"(raw)[{n}]", t) if n in chosen else f"(raw)[{n}]" for n, t in enumerate(types)]
        return build(items)

    def _all(self, value: str, kind: ast.expr | None) -> str:
        """Scale every tensor in a value."""
        text = _text(kind)
        if text == "Tensor":
            return f"{self._helper('times')}({value}, scale, )"
        if text == "Optional[Tensor]":
            return f"{self._helper('times_optional')}({value}, scale, )"
        if text == "List[Tensor]":
            return f"{self._helper('times_list')}({value}, scale, )"
        parts = self._parts(kind)
        if parts is None:
            if text in ("int", "float", "bool", "str", "NoneType"):
                return value
            raise Refused(f"a {text} is not rescaled in TorchScript", where=self._where, fix=_FIX)
        types, _, build = parts
        return build([self._all(f"({value})[{n}]", t) for n, t in enumerate(types)])

    def _parts(self, kind: ast.expr | None) -> tuple[list[ast.expr], list[str], Callable[[list[str]], str]] | None:
        if kind is None:
            return None
        if _head(kind) == "Tuple" and isinstance(kind, ast.Subscript):
            types = list(kind.slice.elts) if isinstance(kind.slice, ast.Tuple) else [kind.slice]
            return types, [], lambda items: f"({', '.join(items)},)"
        found = self._record(kind)
        if found is None:
            return None
        name, entry = found
        return list(entry.fields.values()), list(entry.fields), lambda items: f"{name}({', '.join(items)})"

    def _helper(self, name: str) -> str:
        key = ("rescale", name)
        known = self._names.of(key)
        if known is None:
            known = self._names.choose(key, f"{_HOME}.{name}")
            times = known if name == "times" else self._helper("times")
            node: Any = ast.parse(_TEXTS[name].format(times=times)).body[0]
            node.name = known.rpartition(".")[2]
            self._names.add(known, node)
        return known


def _head(kind: ast.expr | None) -> str:
    value = kind.value if isinstance(kind, ast.Subscript) else kind
    return value.id if isinstance(value, ast.Name) else ""


def _text(kind: ast.expr | None) -> str:
    return "value without a type" if kind is None else ast.unparse(kind)
