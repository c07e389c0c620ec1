"""Prove that a written file gives the model back: read it in a fresh process and compare every bit."""

from __future__ import annotations

import copy
import importlib.machinery
import importlib.util
import json
import pickle
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput, SurgeryError
from dcsurgery.exported import ProgramModule, module_of, program_of
from dcsurgery.files import checkpoints, recheck
from dcsurgery.files.reading import ModelFile, read
from dcsurgery.fresh_process import FreshProcess
from dcsurgery.torchscript.programs import is_program

__all__ = ["compare", "needs_this_process", "reread"]


def compare(
    model: nn.Module,
    temporary: Path,
    path: Path,
    written: str,
    like: ModelFile | None,
    inputs: Any,
    process: FreshProcess | None,
) -> None:
    """Raise BadInput unless the file at ``temporary`` gives the model back; ``path`` is its later name.

    Without a process the file is read in this one (see `needs_this_process`).
    """
    with tempfile.TemporaryDirectory(prefix="dcsurgery-") as folder:
        inputs_path = Path(folder) / "inputs.pt"
        if inputs is not None and written != "state-dict":
            _save_inputs(inputs, inputs_path)
            inputs = torch.load(inputs_path, map_location="cpu", weights_only=False)
        else:
            inputs = None
        job = _job(temporary, written, like, Path(folder), inputs_path if inputs is not None else None)
        if process is None and written != "torchscript":
            expected = _expected(model, written, inputs)
            found = _here(temporary, path, written, like, inputs)
        else:
            process = process or FreshProcess().start()
            process.send(job)
            expected = _expected(model, written, inputs)  # while the process reads
            found = _found(process, Path(job["answer"]), path)
        scripted = _script_outputs(Path(job["outputs"])) if written == "torchscript" else None
        if scripted is not None and _are_close(model, inputs, scripted):
            expected["output"] = found["output"]
    told = recheck.differences(expected, found)
    if told and recheck.differences({**expected, "output": {}}, {**found, "output": {}}) == []:
        # Only outputs differ: does the model itself repeat them?
        told = told if _expected(model, written, inputs) == expected else []
    if told:
        raise BadInput(
            f"what was written and read again differs in {', '.join(told)}; nothing was kept",
            where=str(path),
            fix=_why_different(written),
        )


def _script_outputs(path: Path) -> list[list[Any]] | None:
    """Return what the process left of a TorchScript model's outputs, None where it was not run."""
    if not path.exists():
        return None
    outputs: list[list[Any]] = torch.load(path, map_location="cpu", weights_only=False)  # our own process's
    return outputs


def _are_close(model: nn.Module, inputs: Any, found: list[list[Any]]) -> bool:
    """Say whether outputs agree to rounding: TorchScript may fuse operators that run one by one here."""
    expected = recheck.outputs_of(copy.deepcopy(model).to("cpu"), copy.deepcopy(inputs))
    for outputs in found:
        if len(outputs) != len(expected):
            return False
        for mine, theirs in zip(expected, outputs, strict=True):
            if isinstance(mine, torch.Tensor):
                try:
                    torch.testing.assert_close(theirs, mine, equal_nan=True)
                except AssertionError:
                    return False
            elif mine != theirs:
                return False
    return True


def _why_different(written: str) -> str:
    if written == "torchscript":
        return "report this model; format='module' writes it as a pickle"
    if written == "checkpoint":
        return "a checkpoint holds a config, weights and plans: other changes of the model need format='module'"
    if written == "program":
        return "torch.export.save loses something of this program: save the module with format='module'"
    return "the model's own pickling (__getstate__, __setstate__, __reduce__) loses something"


def _expected(model: nn.Module, written: str, inputs: Any) -> recheck.Description:
    if written == "state-dict":
        return {"tensor": recheck.describe_weights(model.state_dict())}
    if written == "torchscript":
        outputs = None if inputs is None else recheck.outputs_of(copy.deepcopy(model).to("cpu"), copy.deepcopy(inputs))
        return recheck.describe_script(model, outputs)
    if written == "program" and isinstance(model, ProgramModule):
        model = module_of(program_of(model))  # a program's own order of parameters
    if inputs is None:
        return recheck.describe(model)
    # Running a model in train mode changes its buffers.
    return recheck.describe(copy.deepcopy(model).to("cpu"), inputs)


def _save_inputs(inputs: Any, path: Path) -> None:
    try:
        torch.save(inputs, path)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BadInput(
            f"the example inputs cannot be pickled: {error}", fix="pass tensors, numbers, tuples, dicts or PyG data"
        ) from None


def needs_this_process(model: nn.Module, like: ModelFile | None) -> bool:
    """Return whether no fresh process can import the model's classes: those of a script or a notebook."""
    imported = {Path(file).stem for file in like.imports} if like is not None else set()
    for module in {cls.__module__ for part in model.modules() for cls in type(part).__mro__}:
        top = module.partition(".")[0]
        known = sys.modules.get(top)
        if top in imported or top in sys.builtin_module_names or known is None or is_program(top):
            continue
        if top == "__main__" or not _is_on_path(top, known):
            return True
    return False


def _is_on_path(top: str, module: types.ModuleType) -> bool:
    spec = importlib.util.find_spec(top) if getattr(module, "__spec__", None) else None
    found = importlib.machinery.PathFinder.find_spec(top)
    origin = getattr(module, "__file__", None)
    editable = spec is not None and found is None  # an editable installation has a finder of its own
    return editable if found is None else found.origin == origin or origin is None


def _here(temporary: Path, path: Path, written: str, like: ModelFile | None, inputs: Any) -> recheck.Description:
    if written == "state-dict":
        weights = torch.load(temporary, map_location="cpu", weights_only=True)
        return {"tensor": recheck.describe_weights(weights)}
    return recheck.describe(reread(temporary, path, like), inputs)


def reread(temporary: Path, path: Path, like: ModelFile | None) -> nn.Module:
    """Read a written file in this process."""
    trust, imports = _options(like)
    try:
        return read(temporary, trust=trust, imports=imports).model
    except SurgeryError as error:
        raise _unreadable(path, error.message) from None


def _options(like: ModelFile | None) -> tuple[bool, tuple[Path, ...]]:
    # A model that was not read from a file is live in this process, and so is everything its file can name.
    return (like.trust, like.imports) if like is not None else (True, ())


def _unreadable(path: Path, message: str) -> BadInput:
    return BadInput(
        f"what was written could not be read again: {message}; nothing was kept",
        where=str(path),
        fix="keep the model's classes and functions in modules that can be imported",
    )


def _job(temporary: Path, written: str, like: ModelFile | None, folder: Path, inputs: Path | None) -> dict[str, Any]:
    """Return what a process that knows nothing of this one needs to know to read and describe the written file."""
    trust, imports = _options(like)
    return {
        "path": str(temporary.resolve()),
        "answer": str(folder / "answer.json"),
        "inputs": str(inputs) if inputs else None,
        "weights": written == "state-dict",
        "script": written == "torchscript",
        "outputs": str(folder / "outputs.pt"),
        "trust": trust,
        "imports": [str(Path(file).resolve()) for file in imports],
        "threads": torch.get_num_threads() if inputs else None,  # outputs may depend on it
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "builder": _name(checkpoints.builder()),
        "replay": _name(checkpoints.replayer()),
    }


def _found(process: FreshProcess, answer: Path, path: Path) -> recheck.Description:
    """Wait for the description that the process makes."""
    complaint = process.wait()
    try:
        result = json.loads(answer.read_text())
    except (OSError, ValueError):
        raise _unreadable(path, f"the checking process failed: {complaint}") from None
    if "error" in result:
        raise _unreadable(path, result["error"])
    description: recheck.Description = result["description"]
    return description


def _name(function: Any) -> str | None:
    return None if function is None else f"{function.__module__}:{function.__qualname__}"
