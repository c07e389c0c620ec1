"""Read models and example inputs from files, without executing what a file says unless it is trusted."""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import torch
from torch import nn

from dcsurgery.collection import uncollected
from dcsurgery.errors import BadInput, SurgeryError, UnsafeFile
from dcsurgery.files import checkpoints
from dcsurgery.files.installed import import_files, import_module, looks_like_user_module
from dcsurgery.files.kinds import READABLE, Kind, kind_of, open_model_file, refusal
from dcsurgery.files.safe_globals import Policy
from dcsurgery.files.safe_pickle import Named, objections, rehearse, safe_load, safe_unpickle
from dcsurgery.files.safe_rules import Forbidden

__all__ = ["ModelFile", "import_named", "load", "load_value", "read"]

_TRUST = "pass --trust (trust=True) only if you trust whoever wrote it"


@dataclass
class ModelFile:
    """A model and what else its file holds.

    Attributes
    ----------
    path
        The file.
    kind
        ``module`` (a pickled nn.Module), ``graph-module`` (a pickled torch.fx GraphModule), ``program`` (a torch.export
        archive), ``checkpoint`` (a config and a state dict) or ``torchscript`` (an archive; its model is imported as
        plain modules).
    model
        The model, on the CPU, in the mode it was saved in.
    entries
        Every entry of a checkpoint but its ``state_dict``: config, optimizer, normalizers, epoch, …; of a TorchScript
        archive its ``extra_files``. Kept for writing.
    key_prefix
        What a parallel wrapper put before every key of a checkpoint's weights, ``module.`` for instance; restored on
        writing.
    trust, imports
        How it was read; what is written from it is checked in the same way.
    """

    path: Path
    kind: Literal["module", "graph-module", "program", "checkpoint", "torchscript"]
    model: nn.Module
    entries: dict[str, Any] = field(default_factory=dict)
    key_prefix: str = ""
    trust: bool = False
    imports: tuple[Path, ...] = ()


def load(path: str | Path, trust: bool = False, imports: Sequence[str | Path] = ()) -> nn.Module:
    """Return the model in a file; parameters and errors as in `read`."""
    return read(path, trust=trust, imports=imports).model


def read(
    path: str | Path, *, trust: bool = False, imports: Sequence[str | Path] = (), mapped: bool = False
) -> ModelFile:
    """Read a model from what torch.save or torch.export.save wrote.

    Parameters
    ----------
    path
        A saved nn.Module or GraphModule, an ExportedProgram (``.pt2``), or a checkpoint in OCP's layout. It is opened
        for reading only.
    trust
        Execute whatever the file says, as ``torch.load(weights_only=False)`` does.
    imports
        Python files that define the model's own classes; they are imported, and the file may use them.
    mapped
        Leave tensor data in the file until it is used. Only for a file that nobody changes meanwhile.

    Returns
    -------
    ModelFile
        The model on the CPU and everything needed to write the file again.

    Raises
    ------
    UnsafeFile
        If the file names anything that is not known to be safe; the message names all of it, and nothing has run.
    BadInput
        If the file is missing, damaged, of another kind, holds only weights, or holds something else than a model.
    """
    path = Path(path)
    origin: dict[str, Any] = {"trust": trust, "imports": tuple(Path(file) for file in imports)}
    kind = _kind_at(path)
    if kind is Kind.TORCHSCRIPT:
        from dcsurgery.torchscript.reading import read_archive

        import_files(imports)
        scripted, extra_files = _guarded(path, lambda: read_archive(path, trust=trust))
        return ModelFile(path, "torchscript", scripted, {"extra_files": extra_files}, **origin)
    if kind is Kind.PT2:
        with open_model_file(path) as file:
            import_files(imports)  # they may register operators
            return ModelFile(
                path, "program", _guarded(path, lambda: _program(file, trust), writer="torch.export.save"), **origin
            )
    value = load_value(path, trust=trust, imports=imports, mapped=mapped)
    if isinstance(value, torch.fx.GraphModule):
        return ModelFile(path, "graph-module", value, **origin)
    if isinstance(value, nn.Module):
        return ModelFile(path, "module", value, **origin)
    if checkpoints.is_checkpoint(value):
        entries = {key: item for key, item in value.items() if key != "state_dict"}
        with torch.random.fork_rng(devices=[]):  # building draws weights; the caller's random numbers are his
            model = checkpoints.build_model(entries, str(path))
        prefix = checkpoints.load_weights(model, value["state_dict"], str(path))
        return ModelFile(path, "checkpoint", model, entries, prefix, **origin)
    raise _no_model(path, value)


def _kind_at(path: Path) -> Kind:
    with open_model_file(path) as file:
        return kind_of(file)


def _program(file: IO[bytes], trust: bool) -> nn.Module:
    from dcsurgery.exported import module_of
    from dcsurgery.files.programs import read_program

    return module_of(read_program(file, trust=trust))


@uncollected()
def load_value(
    path: Path,
    *,
    trust: bool = False,
    imports: Sequence[str | Path] = (),
    accept: frozenset[Kind] = READABLE,
    mapped: bool = False,
) -> Any:
    """Return whatever torch.save or pickle wrote to a file; parameters and errors as in `read`."""
    with open_model_file(path) as file:
        kind = kind_of(file)
        if kind not in accept:
            raise refusal(path, kind)
        modules = import_files(imports)
        if trust:
            return _guarded(path, lambda: _load_trusted(file, kind, modules))
        policy = Policy(modules)
        _refuse_unsafe(path, _guarded(path, lambda: _names(file, kind)), policy)
        file.seek(0)
        if kind is Kind.PICKLE:
            return _guarded(path, lambda: safe_unpickle(file, policy))
        return _guarded(path, lambda: safe_load(path if mapped and kind is Kind.TORCH_ZIP else file, policy))


def import_named(path: Path, *, trust: bool = False, imports: Sequence[str | Path] = ()) -> None:
    """Import the modules that a file names, as far as reading it may; parameters as in `read`.

    Nothing is loaded, but for a file that names no module and is not trusted: if it is a checkpoint, its config says
    what has to be imported, and building the model is how to find out; what was built serves the first reading.
    """
    with open_model_file(path) as file:
        kind = kind_of(file)
        if kind is Kind.PT2:
            importlib.import_module("torch.export._unlift")  # a program's module is made there
        if kind not in READABLE:
            return
        named = _names(file, kind)
        modules = import_files(imports)
        if trust:
            for module in {symbol.module for symbol in named}:
                with contextlib.suppress(Exception):
                    import_module(module)
            return
        bad = objections(named, Policy(modules))  # looks up every name, which imports its module if that is allowed
    if not bad and not any(_names_a_module(symbol) for symbol in named):
        value = load_value(path, imports=imports)
        if checkpoints.is_checkpoint(value):
            checkpoints.prebuild(value)


def _names_a_module(symbol: Named) -> bool:
    found = getattr(sys.modules.get(symbol.module), symbol.name.partition(".")[0], None)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _names(file: IO[bytes], kind: Kind) -> list[Named]:
    if kind is Kind.TORCH_ZIP:
        # torch's own reader: an archive may hold two entries of one name, and zipfile could find the other.
        return rehearse(io.BytesIO(torch._C.PyTorchFileReader(file).get_record("data.pkl")))
    return rehearse(file, legacy=kind is Kind.TORCH_LEGACY)


def _refuse_unsafe(path: Path, named: list[Named], policy: Policy) -> None:
    try:
        bad = objections(named, policy)
    except BadInput as error:
        raise BadInput(error.message, where=str(path), fix=error.fix) from None
    if not bad:
        return
    users = [symbol for symbol in bad if looks_like_user_module(symbol.module)]
    if len(users) == len(bad):
        modules = sorted({symbol.module.partition(".")[0] for symbol in users})
        files = " ".join(f"--import {'FILE' if name == '__main__' else name}.py" for name in modules)
        files = files.replace("FILE.py", "the_script_that_defines_it.py")
        fix = f"if that code is yours, add {files} (imports=[…]), if it is a package, install it; otherwise {_TRUST}"
    else:
        fix = _TRUST
    plural = "names that are" if len(bad) > 1 else "a name that is"
    raise UnsafeFile(
        f"uses {plural} not known to be safe: {', '.join(symbol.full.strip('.') for symbol in bad)}; nothing was loaded",
        where=str(path),
        fix=fix,
    )


def _guarded(path: Path, load: Callable[[], Any], writer: str = "torch.save") -> Any:
    """Run a loader; whatever it raises becomes one clear line."""
    where = str(path)
    try:
        return load()
    except SurgeryError as error:
        raise type(error)(error.message, where=error.where or where, fix=error.fix) from None
    except Forbidden as error:
        raise UnsafeFile(f"does something that is not known to be safe: {error}", where=where, fix=_TRUST) from None
    except ModuleNotFoundError as error:
        raise BadInput(
            f"needs the module {error.name!r}, which cannot be imported",
            where=where,
            fix=f"install it, or add --import {error.name}.py if it is a file of yours",
        ) from None
    except AttributeError as error:
        raise BadInput(
            f"does not fit the installed packages: {_line(error)}",
            where=where,
            fix="install the versions it was saved with, or add --import FILE for classes of your own",
        ) from None
    except MemoryError:
        raise BadInput("does not fit into memory", where=where, fix="use a machine with more of it") from None
    except Exception as error:  # noqa: BLE001 - damaged files make unpickling raise anything
        raise BadInput(
            f"is damaged or not what {writer} writes: {type(error).__name__}: {_line(error)}",
            where=where,
            fix="copy or save it again",
        ) from None


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no further reason"


def _load_trusted(file: IO[bytes], kind: Kind, modules: dict[str, types.ModuleType]) -> Any:
    class Unpickler(pickle.Unpickler):
        """Finds the classes of a script, pickled as ``__main__``, in the files that the user imported."""

        def find_class(self, module: str, name: str) -> Any:
            if module == "__main__":
                for holder in modules.values():
                    if hasattr(holder, name.partition(".")[0]):
                        return super().find_class(holder.__name__, name)
            if module.startswith("fairchem."):
                import_module(module)  # with what it imports and does not declare
            return super().find_class(module, name)

    if kind is Kind.PICKLE:
        return Unpickler(file).load()
    module = types.SimpleNamespace(
        __name__="pickle",
        Unpickler=Unpickler,
        load=lambda stream, **options: Unpickler(stream, **options).load(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", pickle_module=module, weights_only=False)


def _no_model(path: Path, value: Any) -> BadInput:
    where = str(path)
    weights = value.get("state_dict", value) if isinstance(value, dict) else value
    count, first = checkpoints.count_tensors(weights)
    if count:
        config = value.get("config") if isinstance(value, dict) else None
        has = "" if config is None else f"; its 'config' entry is a {type(config).__name__}, not a table"
        return BadInput(
            f"holds only weights ({count} tensor{'s' * (count != 1)}, e.g. {first!r}){has}; give me the model",
            where=where,
            fix="save the whole model with torch.save(model, path), or add a 'config' entry that names a zoo model",
        )
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, nn.Module):
                return BadInput(
                    f"holds a dict whose entry {key!r} is the model ({type(item).__name__})",
                    where=where,
                    fix=f"save the model alone: torch.save(torch.load(path)[{key!r}], new_path)",
                )
    what = type(value).__name__ if type(value).__module__ == "builtins" else _full_name(type(value))
    return BadInput(
        f"holds a {what}, not a model", where=where, fix="save the nn.Module itself with torch.save(model, path)"
    )


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
