"""Write models: to a temporary file, read again in a fresh process, compared bit for bit, and only then moved.

A file that `write` leaves behind has been read by a process that knew nothing of the model. If anything fails, the
temporary file is removed and nothing else has been touched.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dcsurgery.errors import BadInput, SurgeryError
from dcsurgery.exported import ProgramModule, program_of
from dcsurgery.files import checkpoints
from dcsurgery.files.destination import check_output, temporary_beside
from dcsurgery.files.proof import compare, needs_this_process, reread
from dcsurgery.files.reading import ModelFile
from dcsurgery.files.training_state import fit_training_state
from dcsurgery.files.unpicklable import find_unpicklable
from dcsurgery.fresh_process import FreshProcess
from dcsurgery.identity import fingerprint_of
from dcsurgery.models import as_module
from dcsurgery.subclass import original_class
from dcsurgery.torchscript import import_module, is_imported

__all__ = ["FORMATS", "save", "write"]

Format = Literal["auto", "module", "program", "pt2", "checkpoint", "state-dict", "torchscript"]
FORMATS: tuple[str, ...] = ("auto", "module", "program", "pt2", "checkpoint", "state-dict", "torchscript")
Check = Callable[[nn.Module, nn.Module], None]


def write(
    model: nn.Module,
    path: str | Path,
    *,
    like: ModelFile | None = None,
    record: Mapping[str, Any] | None = None,
    force: bool = False,
    check: Check | None = None,
    example_inputs: Any = None,
    format: Format = "auto",
    process: FreshProcess | None = None,
) -> Path:
    """Write a model and prove that it can be read again.

    Parameters
    ----------
    model
        The model; unchanged.
    path
        The file to write; its folder exists.
    like
        The file that the model comes from: ``auto`` writes the same kind, a checkpoint keeps its other entries, and
        the new file is read back with the same trust and imports.
    record
        One surgery, for a checkpoint's record: ``plan`` (YAML) and plain values. A pickled module carries its edits
        itself and gets no record.
    force
        Replace an existing file.
    check
        Called with the model and with what the file gives back; what it raises stops the writing.
    example_inputs
        If given, the outputs of both must have equal bits.
    format
        ``auto`` (as ``like``, a program or TorchScript for a model that came from it, otherwise a module), ``module``,
        ``program`` (``pt2`` is another name of it), ``checkpoint``, ``state-dict`` or ``torchscript``.
    process
        The process that will read the file, if one was started beforehand; it has ended when this returns.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    BadInput
        If the output is refused (see `check_output`), the model cannot be pickled (the attribute is named), the disk
        is full, or what was read again differs.
    """
    path = Path(path)
    written = _format(model, like, format)
    check_output(path, like.path if like else None, force)
    value = _content(model, written, like, record)
    temporary = temporary_beside(path)
    try:
        with _reader(model, like, process) as reader, ThreadPoolExecutor(1) as beside:
            _dump(value, temporary, path, model)
            settled = beside.submit(_settle, temporary)  # a disk may take longer than the comparison
            compare(model, temporary, path, written, like, example_inputs, reader)
            with _telling_disk(path):
                settled.result()
        if check is not None:
            check(model, reread(temporary, path, like))
        if os.path.lexists(path) and not force:
            raise BadInput("appeared while the model was written", where=str(path), fix="choose another output")
        _move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save(model: Any, path: str | Path, format: Format = "auto", *, force: bool = False) -> Path:
    """Write a model or the result of a surgery; parameters and errors as in `write`.

    ``auto`` writes a checkpoint where the zoo can build the model from its config (and replay the surgery on it),
    because such a file does not depend on pickled classes, a torch.export archive where the model is an ExportedProgram,
    TorchScript where it came from it, and a pickled module otherwise.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = as_module(model)
    surgery = None if isinstance(model, nn.Module) else model
    module = model if surgery is None else getattr(model, "model", None)
    if isinstance(module, torch.jit.ScriptModule):
        module = import_module(module)
    if not isinstance(module, nn.Module):
        raise BadInput(f"can save a module or a Surgery, got {type(model).__name__}", fix="pass the model")
    record = None
    if surgery is not None:
        record = surgery.to_record()
    if format == "auto" and _can_rebuild(module, surgery):
        format = "checkpoint"
    return write(module, path, record=record, force=force, format=format)


def _reader(
    model: nn.Module, like: ModelFile | None, process: FreshProcess | None
) -> contextlib.AbstractContextManager[FreshProcess | None]:
    """Return the process that reads what is written, None where only this one can; it imports while this one writes."""
    if needs_this_process(model, like):
        return contextlib.nullcontext()
    if process is None:
        process = FreshProcess().start()
    process.prepare({cls.__module__ for module in model.modules() for cls in {original_class(module)}})
    return process


def _can_rebuild(model: nn.Module, surgery: Any) -> bool:
    """Return whether a checkpoint of the model could be read again: same structure, edits included."""
    if not isinstance(getattr(model, "dcsurgery_config", None), dict):
        return False
    with torch.random.fork_rng(devices=[]):
        try:
            original = checkpoints.build_model({"config": checkpoints.config_of(model)}, "")
        except BadInput:
            return False
    return fingerprint_of(original) == (fingerprint_of(model) if surgery is None else surgery.plan.fingerprint)


def _format(model: nn.Module, like: ModelFile | None, format: str) -> str:
    if format not in FORMATS:
        raise BadInput(f"unknown format {format!r}", fix=f"choose one of {', '.join(FORMATS)}")
    is_program = isinstance(model, ProgramModule)
    if format in ("program", "pt2") and not is_program:
        raise BadInput(
            f"{type(model).__name__} is no ExportedProgram", fix="export it with torch.export.export, and save that"
        )
    if format == "auto":
        if like is not None and like.kind == "checkpoint":
            return "checkpoint"
        from_script = is_imported(model) if like is None else like.kind == "torchscript"
        return "torchscript" if from_script else "program" if is_program else "module"
    return "program" if format == "pt2" else format


def _content(model: nn.Module, written: str, like: ModelFile | None, record: Mapping[str, Any] | None) -> Any:
    if written == "module":
        return model
    if written == "torchscript":
        from dcsurgery.torchscript.writing import write_archive

        return write_archive(model, like.entries.get("extra_files") if like is not None else None)
    if written == "program":
        assert isinstance(model, ProgramModule)  # so `_format` has found
        return program_of(model)
    if written == "state-dict":
        return model.state_dict()
    from_checkpoint = like is not None and like.kind == "checkpoint"
    if like is not None and from_checkpoint:
        entries, _ = fit_training_state(like.entries, like.model, model)
    else:
        entries = {"config": checkpoints.config_of(model)}
    if record is not None:
        checkpoints.add_record(entries, record)
    prefix = like.key_prefix if like is not None else ""
    weights = model.state_dict()
    if prefix:
        weights = type(weights)((f"{prefix}{key}", value) for key, value in weights.items())
    config = {"config": entries.pop("config")}
    return {**config, "state_dict": weights, **entries}


def _dump(value: Any, temporary: Path, path: Path, model: nn.Module) -> None:
    with _telling_disk(path):
        try:
            with temporary.open("wb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if isinstance(value, bytes):
                    file.write(value)
                elif isinstance(value, torch.export.ExportedProgram):
                    from dcsurgery.files.programs import write_program  # imports torch's compiler, for seconds

                    write_program(value, file)
                else:
                    torch.save(value, file)
        except (pickle.PicklingError, AttributeError, TypeError, SurgeryError, RecursionError) as error:
            raise _not_picklable(model, path, error) from None
        except RuntimeError as error:  # torch's archive writer reports a full disk so
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInput(f"cannot be written: {line}", where=str(path), fix="is the disk full?") from None


def _settle(temporary: Path) -> None:
    """Wait until a file is on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _telling_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            fix="free some space, or choose another disk",
        ) from None


def _not_picklable(model: nn.Module, path: Path, error: Exception) -> BadInput:
    found = find_unpicklable(model)
    reason = f"{found[0]} holds {found[1]}" if found else (str(error).splitlines() or [""])[0]
    return BadInput(
        f"the model cannot be pickled: {reason}",
        where=str(path),
        fix="use a module-level function or class there; models of the zoo can be saved as checkpoints "
        "(format='checkpoint'), weights alone with format='state-dict'",
    )


def _move(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    with_folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(with_folder)  # the name, too, survives a power failure
    finally:
        os.close(with_folder)
