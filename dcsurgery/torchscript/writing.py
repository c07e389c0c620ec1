"""Imported and edited modules → a TorchScript archive.

The archive's own code is written again, with the edits in it: a call that was rewritten in the Python text is the same
call in the archive's, a child that was swapped has another type. Nothing is compiled from Python, so that what was not
edited is what the archive had.
"""

from __future__ import annotations

import ast
import enum
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dcsurgery.activations import IReLU
from dcsurgery.calls import GatedLinear
from dcsurgery.errors import Refused
from dcsurgery.rescale import LabelRescale
from dcsurgery.rewriting import CallEdit, RewriteCalls
from dcsurgery.standins import DeletedNorm, InPlace, ReplacedActivation
from dcsurgery.subclass import amendments_of, original_class
from dcsurgery.torchscript.additions import Additions, traced_activation
from dcsurgery.torchscript.call_edits import Edited, edits_of
from dcsurgery.torchscript.class_text import declare_class
from dcsurgery.torchscript.classes import ImportedModule, ImportedObject
from dcsurgery.torchscript.contents import read_contents
from dcsurgery.torchscript.declared import Declared, entity_in
from dcsurgery.torchscript.emission import Names, Source
from dcsurgery.torchscript.importing import import_contents, is_imported
from dcsurgery.torchscript.passed import passed_modules, read_from_outside
from dcsurgery.torchscript.pickling import Named, Pickled, pickled
from dcsurgery.torchscript.programs import Program
from dcsurgery.torchscript.reading import needed_version

__all__ = ["write_archive"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_BARE: dict[str, tuple[Any, ast.expr | None]] = {"_is_full_backward_hook": (None, None)}


def write_archive(model: nn.Module, extra_files: Mapping[str, bytes] | None = None) -> bytes:
    """Return a TorchScript archive of an imported module, with its edits.

    Parameters
    ----------
    model
        What `import_module` returned, edited or not; it is not changed.
    extra_files
        What the archive keeps beside the model, by name.

    Raises
    ------
    Refused
        If an edit, or something that was put into the model, has no form in TorchScript; the message names it.
    """
    if not is_imported(model):
        raise Refused(
            f"a {type(model).__name__} did not come from TorchScript",
            fix="write it as format='module', or make it TorchScript first: torch.jit.script(model)",
        )
    return _Writer().archive(model, extra_files or {})


class _Writer:
    def __init__(self) -> None:
        self._names = Names()
        self._constants: list[Any] = []
        self._additions = Additions(self._names, self._constants)
        self._sources: dict[str, Source] = {}
        self._made: dict[int, tuple[Any, Named]] = {}
        self._passed: dict[int, dict[tuple[str, str], nn.Module]] = {}

    def archive(self, model: nn.Module, extra_files: Mapping[str, bytes]) -> bytes:
        self._passed = passed_modules(model)
        root = self._module(model, "(model)")
        data = pickled(root, None, "data")
        constants = pickled(tuple(self._value(c, "constants") for c in self._constants), None, "constants")
        stream = io.BytesIO()
        writer: Any = torch._C.PyTorchFileWriter(stream)
        texts = self._names.texts()
        writer.set_min_version(needed_version(texts.values()))
        for folder, part in (("data", data), ("constants", constants)):
            self._part(writer, folder, part)
        for file, text in texts.items():
            encoded = text.encode()
            writer.write_record(f"code/{file}", encoded, len(encoded))
        for name, content in extra_files.items():
            writer.write_record(f"extra/{name}", content, len(content))
        writer.write_end_of_file()
        return stream.getvalue()

    @staticmethod
    def _part(writer: Any, folder: str, part: Pickled) -> None:
        for number, storage in enumerate(part.storages):
            raw = bytes(torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes())
            writer.write_record(f"{folder}/{number}", raw, len(raw))
        writer.write_record(f"{folder}.pkl", part.data, len(part.data))

    # -- modules ------------------------------------------------------------------------------------------------------

    def _module(self, module: nn.Module, path: str, before: tuple[Declared, Source] | None = None) -> Named:
        """Return a module as an object of the archive; ``before`` is what its place is declared to hold."""
        known = self._made.get(id(module))
        if known is not None:
            return known[1]
        if any(vars(module).get(name) for name in _HOOKS):
            raise Refused(
                "has hooks, which TorchScript cannot hold", where=path, fix="remove them before it is written"
            )
        made = Named("")
        self._made[id(module)] = (module, made)
        if isinstance(module, ImportedModule):
            self._imported(module, made, path)
        elif isinstance(module, DeletedNorm) and before is not None:
            read = read_from_outside(*before)
            made.name = self._additions.deleted_norm(*before, module.returns, read, copied=module.copied)
            made.state = {**_BARE, "training": (module.training, None)}
            made.state.update((name, (torch.empty(0), None)) for name in read)
        else:
            forward = before[0].methods.get("forward") if before is not None else None
            argument = forward.args.args[1].arg if forward is not None and len(forward.args.args) > 1 else "x"
            self._activation(module, made, argument, path)
        return made

    def _activation(self, module: nn.Module, made: Named, argument: str, path: str) -> None:
        if isinstance(module, ReplacedActivation):
            module = module.activation
        if isinstance(module, InPlace | GatedLinear):
            inner, dim = module.activation, getattr(module, "dim", None)
            made.name = self._additions.module(inner, argument, inplace=dim is None, gate_dim=dim)
        elif isinstance(module, IReLU) and module.inplace:
            made.name = self._additions.module(IReLU(), argument, inplace=True)
        elif module.state_dict():
            contents = read_contents(traced_activation(module), path)
            copied = import_contents(contents, where=path)
            copied.load_state_dict(module.state_dict())
            self._imported(copied.train(module.training), made, path)
            return
        else:
            made.name = self._additions.module(module, argument)
        made.state = {**_BARE, "training": (module.training, None)}

    def _imported(self, module: Any, made: Named, path: str) -> None:
        cls: Any = original_class(module)
        program: Program = cls._program
        entry: Declared = cls._declared
        source = self._source(program)
        edits, rescale = _amendments(module, program, path)
        strange = [n for n in module._modules if n not in entry.fields]
        if strange:
            raise Refused(
                f"has a child {strange[0]!r} that the archive did not have",
                where=path,
                fix="write it as format='module'",
            )
        types: dict[str, str] = {}
        handed = {place: self._module(given, path).name for place, given in self._passed.get(id(module), {}).items()}
        for name, annotation in entry.fields.items():
            child = module._modules.get(name)
            if child is not None:
                found = entity_in(annotation, source.declared)
                before = (found[0], source) if found is not None else None
                inner = self._module(child, name if path == "(model)" else f"{path}.{name}", before)
                types[name] = inner.name
                made.state[name] = (inner, None)
            else:
                made.state[name] = self._field(module, entry, name, annotation, path)
        if rescale is not None:
            made.state["label_scale"] = (module.label_scale, None)
        gone = frozenset(n for n in (*entry.parameters, *entry.buffers) if made.state[n][0] is None)
        key = (id(source), entry.name, edits.key, tuple(types.items()), tuple(handed.items()), gone, rescale)
        known = self._names.of(key)
        made.name = known or declare_class(
            self._names, self._additions, key, source, entry, edits, types, handed, gone, rescale, path
        )

    def _field(
        self, module: nn.Module, entry: Declared, name: str, annotation: ast.expr, path: str
    ) -> tuple[Any, ast.expr | None]:
        if name == "training":
            return module.training, None
        if name == "_is_full_backward_hook":
            return None, None
        if name in entry.parameters or name in entry.buffers:
            tensor = module._parameters.get(name, module._buffers.get(name))
            return tensor, None
        if name not in vars(module):
            raise Refused(f"has no {name!r}, which the archive declares", where=path, fix="put it back")
        return self._value(vars(module)[name], f"{path}.{name}"), annotation

    def _source(self, program: Program) -> Source:
        known = self._sources.get(program.name)
        if known is None:
            known = self._sources[program.name] = Source(program.declared, program.constants, len(self._constants))
            self._constants.extend(program.constants)
        return known

    # -- values -------------------------------------------------------------------------------------------------------

    def _value(self, value: Any, where: str) -> Any:
        """Return a value with the archive's objects in place of the imported ones."""
        if isinstance(value, nn.Module):
            return self._module(value, where)
        if isinstance(value, enum.Enum | ImportedObject):
            return self._object(value, where)
        if isinstance(value, list):
            return [self._value(item, where) for item in value]
        if isinstance(value, dict):
            return {key: self._value(item, where) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(self._value(item, where) for item in value)
        if value is None or isinstance(value, bool | int | float | str | torch.Tensor | torch.device):
            return value
        raise Refused(
            f"TorchScript cannot hold a {type(value).__name__}", where=where, fix="write it as format='module'"
        )

    def _object(self, value: Any, where: str) -> Named:
        known = self._made.get(id(value))
        if known is not None:
            return known[1]
        program, entry = _home_of(value, self._programs(), where)
        source = self._source(program)
        made = Named(self._names.plain(source, entry))
        self._made[id(value)] = (value, made)
        if isinstance(value, enum.Enum):
            made.value = value.value
        else:
            for name, annotation in entry.fields.items():
                made.state[name] = (self._value(getattr(value, name), where), annotation)
        return made

    def _programs(self) -> list[Program]:
        modules = (original_class(m) for m, _ in self._made.values() if isinstance(m, ImportedModule))
        return list({cls._program.name: cls._program for cls in modules}.values())  # type: ignore[attr-defined]


def _amendments(module: nn.Module, program: Program, path: str) -> tuple[Edited, LabelRescale | None]:
    calls: list[CallEdit] = []
    rescale = None
    for amendment in amendments_of(module):
        if isinstance(amendment, RewriteCalls):
            calls += amendment.edits
        elif isinstance(amendment, LabelRescale):
            rescale = amendment
        else:
            raise Refused(
                f"was edited by {type(amendment).__name__}, which has no form in TorchScript",
                where=path,
                fix="leave that site out with --exclude, or write the model as format='module'",
            )
    return edits_of(calls, program, path), rescale


def _home_of(value: Any, programs: list[Program], where: str) -> tuple[Program, Declared]:
    for program in programs:
        for qualified in program.translation.names:
            if program.find_or_none(qualified) is type(value):
                return program, program.declared[qualified]
    raise Refused(
        f"holds a {type(value).__name__} that is none of the archive's", where=where, fix="put back what it held"
    )
