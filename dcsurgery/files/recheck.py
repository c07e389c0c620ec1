"""Load a written file and describe what is in it, bit by bit: run in a fresh process before the file is moved.

A process that edited a model has classes, patches and caches which the next one will not have; only a process that has
never seen the model can tell that the file stands on its own.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from dcsurgery import example_inputs
from dcsurgery.collection import uncollected
from dcsurgery.errors import SurgeryError
from dcsurgery.subclass import amendments_of, original_class
from dcsurgery.tree import Tree

__all__ = ["answer", "describe", "describe_script", "describe_weights", "differences", "outputs_of", "prepare"]

Description = dict[str, dict[str, str]]
_SEED = 0
_SHOWN = 3
_THREADS = torch.get_num_threads()


def describe(model: nn.Module, inputs: Any = None) -> Description:
    """Describe a model: its tensors, classes, code and outputs, as digests that are equal only for equal bits.

    Parameters
    ----------
    model
        The model; running it may change it, so pass a copy if there are ``inputs``.
    inputs
        Example inputs; None leaves the outputs out.
    """
    described = {"tensor": describe_weights(model.state_dict()), "class": dict(_classes(model)), "output": {}}
    if inputs is not None:
        described["output"] = _digests(outputs_of(model, inputs))
    return described


def outputs_of(model: nn.Module, inputs: Any) -> list[Any]:
    """Return the leaves of what a model returns, its random numbers seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return pytree.tree_leaves(_opened(example_inputs.call(model, inputs)))


def describe_script(model: nn.Module, outputs: list[Any] | None) -> Description:
    """Describe a model that is written as TorchScript: what TorchScript itself, too, can say of it."""
    modes = {path or "(model)": str(getattr(part, "training", False)) for path, part in model.named_modules()}
    weights = describe_weights(model.state_dict())
    return {"tensor": weights, "mode": modes, "output": _digests(outputs or [])}


def _digests(values: list[Any]) -> dict[str, str]:
    return {str(index): _digest(value) for index, value in enumerate(values)}


def describe_weights(weights: Any) -> dict[str, str]:
    """Describe a state dict: key to digest."""
    return {str(key): _digest(value) for key, value in weights.items()}


def _classes(model: nn.Module) -> Iterator[tuple[str, str]]:
    for path, module in model.named_modules(remove_duplicate=False):
        cls = original_class(module)
        edits = "".join(f" +{type(amendment).__name__}" for amendment in amendments_of(module))
        mode = "train" if module.training else "eval"
        # A GraphModule's class is made for the one instance; its graph is what it is.
        graph = f" {_digest(_graph(module))}" if isinstance(module, torch.fx.GraphModule) else ""
        yield path or "(model)", f"{cls.__qualname__}{edits} {mode}{graph}"
    # A patched forward, for instance, would pickle without complaint and come back as the original.
    for slot in Tree.of(model).slots:
        if not slot.registered:
            yield slot.path, _callable_name(slot.value)


def _graph(module: torch.fx.GraphModule) -> list[str]:
    """Return a graph's nodes; torch.fx names them anew when it loads a GraphModule, so they are numbered."""
    numbers = {node: f"%{number}" for number, node in enumerate(module.graph.nodes)}
    return [
        f"{node.op} {_callable_name(node.target)} {map_arg(node.args, numbers.get)} {map_arg(node.kwargs, numbers.get)}"
        for node in module.graph.nodes
    ]


def _callable_name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return f"partial {_callable_name(value.func)}"
    function = getattr(value, "__func__", value)
    line = getattr(getattr(function, "__code__", None), "co_firstlineno", "")
    if hasattr(function, "__qualname__"):
        return f"{function.__qualname__} {line}"
    return str(value) if isinstance(value, str | torch._ops.OpOverload) else type(value).__qualname__


def _opened(value: Any) -> Any:
    """Return an output's fields where it is an object: a dataclass, a PyG Data."""
    if hasattr(value, "to_dict") and not isinstance(value, torch.Tensor):
        return value.to_dict()
    return vars(value) if hasattr(value, "__dict__") and not isinstance(value, torch.Tensor | tuple | dict) else value


def _digest(value: Any) -> str:
    hasher = hashlib.sha256()
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        plain = plain.to_dense() if plain.layout is not torch.strided else plain
        hasher.update(f"{plain.dtype} {tuple(plain.shape)} ".encode())
        hasher.update(plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        hasher.update(repr(value).encode())
    return hasher.hexdigest()


def differences(before: Description, after: Description) -> list[str]:
    """Say what differs between two descriptions, in a few words each."""
    told = []
    for what, expected in before.items():
        found = after[what]
        keys = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
        if keys:
            shown = ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")
            plural = "" if len(keys) == 1 else "es" if what.endswith("s") else "s"
            told.append(f"{len(keys)} {what}{plural} ({shown})")
    return told


def prepare(expected: Mapping[str, Any] | None = None, modules: Iterable[str] = ()) -> None:
    """Import what the job will need; whatever fails here fails there again, and is reported there.

    Parameters
    ----------
    expected
        The file that the model comes from (``source``) and how it is read (``trust``, ``imports``).
    modules
        Modules to import.
    """
    from dcsurgery.files import installed, reading

    torch.set_num_threads(1)  # the other process is at work, too, and waiting threads would take its core
    with contextlib.suppress(Exception):
        if expected is not None and expected["source"] is not None:
            imports = [Path(file) for file in expected["imports"]]
            reading.import_named(Path(expected["source"]), trust=expected["trust"], imports=imports)
    for module in modules:
        with contextlib.suppress(Exception):
            installed.import_module(module)


@uncollected()
def answer(job: Mapping[str, Any]) -> None:
    """Do the job that `dcsurgery.files.proof` describes; write the answer to a file."""
    from dcsurgery.files import checkpoints, reading

    torch.set_num_threads(job["threads"] or _THREADS)
    torch.set_default_dtype(getattr(torch, job["dtype"]))
    told: dict[str, Any] = {}
    try:
        checkpoints.register_builder(_function(job["builder"]))
        checkpoints.register_replay(_function(job["replay"]))
        options = {"trust": job["trust"], "imports": [Path(file) for file in job["imports"]]}
        path = Path(job["path"])
        if job["weights"]:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            told["description"] = {"tensor": describe_weights(weights)}
        else:
            inputs = torch.load(job["inputs"], map_location="cpu", weights_only=False) if job["inputs"] else None
            model = reading.read(path, **options, mapped=True).model  # nobody else knows of the file yet
            told["description"] = (
                describe(model, inputs)
                if not job.get("script")
                else _told_of_script(model, path, inputs, job["outputs"])
            )
    except SurgeryError as error:
        told["error"] = error.message
    except Exception as error:  # noqa: BLE001 - a model's own code may raise anything; the parent reports it
        told["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    Path(job["answer"]).write_text(json.dumps(told))


def _told_of_script(model: nn.Module, path: Path, inputs: Any, outputs_path: str) -> Description:
    """Describe an archive as torch itself loads it; its outputs, and the imported model's, are left in a file."""
    loaded = torch.jit.load(path, map_location="cpu")
    outputs = None
    if inputs is not None:
        outputs = outputs_of(loaded, copy.deepcopy(inputs))
        torch.save([outputs, outputs_of(model, inputs)], outputs_path)
    return describe_script(loaded, outputs)


def _function(name: str | None) -> Any:
    if name is None:
        return None
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
