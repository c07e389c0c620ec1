"""The catalog as a Markdown table: ``python -m dcsurgery.catalog.table docs/catalog.md`` brings the page up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from dcsurgery.catalog import OPERATORS, Operator
from dcsurgery.errors import BadInput

__all__ = ["main", "markdown_table", "with_table"]

_BEGIN = "<!-- table: begin (generated from dcsurgery/catalog) -->"
_END = "<!-- table: end -->"
_HEADER = ("operator", "role", "classes", "functions and methods", "ATen kernels", "settings", "by behaviour")


def markdown_table() -> str:
    """Return one line per row of the catalog."""
    lines = [_line(*_HEADER), _line(*("---" for _ in _HEADER)), *(_row(operator) for operator in OPERATORS)]
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return a page with the table between its two marks renewed.

    Raises
    ------
    BadInput
        If the page lacks one of the marks.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise BadInput("the page has no place for the table", fix=f"put the lines {_BEGIN!r} and {_END!r} into it")
    return f"{before}{_BEGIN}\n\n{markdown_table()}\n\n{_END}{after}"


def main(arguments: list[str]) -> None:
    """Renew the table in each of the pages named."""
    for name in arguments:
        path = Path(name)
        path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


def _row(operator: Operator) -> str:
    callables = [*operator.functions, *(f"Tensor.{name}" for name in operator.methods)]
    return _line(
        _code(operator.name),
        operator.role,
        _codes(operator.modules),
        _codes(callables),
        _codes(operator.kernels),
        _codes(operator.parameters),
        "yes" if operator.reference is not None else "",
    )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _codes(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(_code(_shortened(name)) for name in names)


def _code(name: str) -> str:
    return f"`{name}`"


def _shortened(path: str) -> str:
    """Return ``torch.nn.SiLU`` and ``F.silu`` for the long paths of what everybody knows under these names."""
    if path.startswith("torch.nn.modules."):
        return f"nn.{path.rsplit('.', 1)[1]}"
    return path.replace("torch.nn.functional.", "F.")


if __name__ == "__main__":
    main(sys.argv[1:])
