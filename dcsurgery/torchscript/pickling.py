"""Write a value as TorchScript pickles it: protocol 2, tensors by reference, containers with their types.

Python's own pickler cannot: the classes are names of the archive, which nothing can import.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dcsurgery.errors import Refused

__all__ = ["Named", "Pickled", "pickled"]

_BUILDERS = {
    "int": "build_intlist",
    "float": "build_doublelist",
    "bool": "build_boollist",
    "Tensor": "build_tensorlist",
}


@dataclass(eq=False)
class Named:
    """An object of the archive: its class's final name, and its attributes with their types.

    ``value`` is set instead of ``state`` for a member of an enumeration.
    """

    name: str
    state: dict[str, tuple[Any, ast.expr | None]] = field(default_factory=dict)
    value: Any = None


@dataclass
class Pickled:
    """A pickle and the tensor data that it refers to, by number."""

    data: bytes
    storages: list[torch.UntypedStorage]


def pickled(value: Any, annotation: ast.expr | None, folder: str) -> Pickled:
    """Pickle a value of a type; ``folder`` (``data``, ``constants``) is what an error calls it."""
    writer = _Writer(folder)
    writer.write(value, annotation)
    return Pickled(b"\x80\x02" + bytes(writer.out) + b".", writer.storages)


class _Writer:
    def __init__(self, folder: str) -> None:
        self.out = bytearray()
        self.storages: list[torch.UntypedStorage] = []
        self._folder = folder
        self._memo: dict[int, tuple[int, Any]] = {}  # id -> number; the object is kept, so that its id stays its own
        self._keys: dict[int, int] = {}

    def write(self, value: Any, annotation: ast.expr | None = None) -> None:
        """Write one value."""
        annotation = _unwrapped(annotation)
        if value is None:
            self.out += b"N"
        elif isinstance(value, bool):
            self.out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, torch.Tensor):
            self._once(value, lambda: self._tensor(value))
        elif isinstance(value, torch.device):
            self._reduced("torch", "device", lambda: self._tuple(lambda: self._text(str(value))))
        elif isinstance(value, Named):
            self._once(value, lambda: self._object(value))
        elif isinstance(value, list):
            self._once(value, lambda: self._list(value, annotation))
        elif isinstance(value, dict):
            self._once(value, lambda: self._dict(value, annotation))
        elif isinstance(value, tuple):
            kinds = _arguments(annotation, "Tuple") or [None] * len(value)
            self._tuple(
                *(lambda item=item, kind=kind: self.write(item, kind) for item, kind in zip(value, kinds, strict=False))
            )
        else:
            raise Refused(
                f"TorchScript cannot hold a {type(value).__name__}",
                where=self._folder,
                fix="write it as format='module'",
            )

    def _once(self, value: Any, write: Callable[[], None]) -> None:
        known = self._memo.get(id(value))
        if known is not None:
            self.out += b"j" + struct.pack("<I", known[0])
            return
        write()
        number = len(self._memo)
        self._memo[id(value)] = (number, value)
        self.out += b"r" + struct.pack("<I", number)

    def _integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes([value])
        elif -(2**31) <= value < 2**31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            self.out += b"\x8a\x08" + struct.pack("<q", value)

    def _text(self, text: str) -> None:
        data = text.encode()
        self.out += b"X" + struct.pack("<I", len(data)) + data

    def _global(self, module: str, name: str) -> None:
        self.out += f"c{module}\n{name}\n".encode()

    def _tuple(self, *items: Callable[[], None]) -> None:
        self.out += b"("
        for item in items:
            item()
        self.out += b"t"

    def _reduced(self, module: str, name: str, arguments: Callable[[], None]) -> None:
        self._global(module, name)
        arguments()
        self.out += b"R"

    def _object(self, value: Named) -> None:
        module, _, name = value.name.rpartition(".")
        if value.value is not None:
            self._reduced(module, name, lambda: self.write(value.value))
            return
        self._global(module, name)
        self.out += b")\x81}("
        for key, (item, annotation) in value.state.items():
            self._text(key)
            self.write(item, annotation)
        self.out += b"ub"

    def _list(self, value: list[Any], annotation: ast.expr | None) -> None:
        kind = (_arguments(annotation, "List") or [None])[0]

        def items() -> None:
            self.out += b"]("
            for item in value:
                self.write(item, kind)
            self.out += b"e"

        builder = _BUILDERS.get("" if kind is None else ast.unparse(kind))
        if builder is not None:
            self._reduced("torch.jit._pickle", builder, lambda: self._tuple(items))
        else:
            self._tagged(items, annotation, "List[Tensor]")

    def _dict(self, value: dict[Any, Any], annotation: ast.expr | None) -> None:
        kinds = _arguments(annotation, "Dict") or [None, None]

        def items() -> None:
            self.out += b"}("
            for key, item in value.items():
                self.write(key, kinds[0])
                self.write(item, kinds[1])
            self.out += b"u"

        self._tagged(items, annotation, "Dict[str, Tensor]")

    def _tagged(self, items: Callable[[], None], annotation: ast.expr | None, default: str) -> None:
        text = default if annotation is None else ast.unparse(annotation)
        self._reduced("torch.jit._pickle", "restore_type_tag", lambda: self._tuple(items, lambda: self._text(text)))

    def _tensor(self, tensor: torch.Tensor) -> None:
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise Refused(
                f"a {tensor.layout if not tensor.is_meta else 'meta'} tensor is not written",
                where=self._folder,
                fix="convert it to a dense one",
            )
        plain = tensor.detach().cpu()
        plain = plain.resolve_conj().resolve_neg()
        storage = plain.untyped_storage()
        # What other tensors share, they share in the archive, too; the original's storage is what says so.
        shared = tensor.untyped_storage()._cdata if tensor.device.type == "cpu" else storage._cdata
        if shared not in self._keys:
            self._keys[shared] = len(self.storages)
            self.storages.append(storage)
        kind = torch.storage._dtype_to_storage_type_map()[plain.dtype]
        count = storage.nbytes() // plain.element_size()

        def reference() -> None:
            self._tuple(
                lambda: self._text("storage"),
                lambda: self._global("torch", kind),
                lambda: self._text(str(self._keys[shared])),
                lambda: self._text("cpu"),
                lambda: self._integer(count),
            )
            self.out += b"Q"

        def numbers(values: Any) -> Callable[[], None]:
            return lambda: self._tuple(*(lambda n=n: self._integer(n) for n in values))

        self._reduced(
            "torch._utils",
            "_rebuild_tensor_v2",
            lambda: self._tuple(
                reference,
                lambda: self._integer(int(plain.storage_offset())),
                numbers(plain.shape),
                numbers(plain.stride()),
                lambda: self.write(bool(tensor.requires_grad)),
                lambda: self._reduced("collections", "OrderedDict", self._tuple),
            ),
        )


def _unwrapped(annotation: ast.expr | None) -> ast.expr | None:
    inner = _arguments(annotation, "Optional")
    return inner[0] if inner else annotation


def _arguments(annotation: ast.expr | None, name: str) -> Sequence[ast.expr | None] | None:
    """Return the arguments of ``List[…]``, ``Dict[…]``, ``Tuple[…]``; None for other types."""
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.value, ast.Name):
        return None
    if annotation.value.id != name:
        return None
    return list(annotation.slice.elts) if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
