"""The models that can be built by name, and checkpoints from which they can be built again."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.backends import BACKENDS
from dcsurgery.zoo.families import ENTRIES, Entry
from dcsurgery.zoo.ocp import fairchem
from dcsurgery.zoo.undrawn import undrawn
from dcsurgery.zoo.writing import replacing

__all__ = [
    "Entry",
    "available",
    "build",
    "build_from_config",
    "build_to_load",
    "config_of",
    "edited_config",
    "entries",
    "entry_of",
    "name_of",
    "save_checkpoint",
]

#: Constructor values of type int that may be 0; all others are at least 1.
_MAY_BE_ZERO = frozenset(
    {"num_after_skip", "num_before_skip", "num_fc_layers", "num_interactions", "num_blocks", "num_output_layers"}
)


def available() -> list[Entry]:
    """Return the models that can be built here, sorted by name, each with its usual backend."""
    return [found[0] for name in _names() if (found := [entry for entry in _of(name) if entry.missing is None])]


def entries() -> list[Entry]:
    """Return every model with every backend, also those whose backend is not installed, sorted by name."""
    return [entry for name in _names() for entry in _of(name)]


def entry_of(name: str, backend: str = "auto") -> Entry:
    """Return what the zoo knows of a model.

    Parameters
    ----------
    name, backend
        As for `build`.

    Raises
    ------
    BadInput
        If there is no such model, or it does not come with that backend.
    """
    found = _of(name)
    if not found:
        raise BadInput(f"unknown model {name!r}", fix=_near(name, _names()))
    if backend == "auto":
        return next((entry for entry in found if entry.missing is None), found[0])
    if backend not in BACKENDS:
        raise BadInput(f"unknown backend {backend!r}", fix=_near(backend, ["auto", *BACKENDS]))
    for entry in found:
        if entry.backend == backend:
            return entry
    there = ", ".join(entry.backend for entry in found)
    raise BadInput(f"{name} does not come with the backend {backend!r}", fix=f"there are: auto, {there}")


def build(name: str, size: str = "small", backend: str = "auto", **overrides: Any) -> nn.Module:
    """Build a model with fresh weights from torch's global random numbers.

    Parameters
    ----------
    name
        Name of a registry entry, for instance ``dimenet++``.
    size
        ``small`` or ``paper``.
    backend
        Library that its layers come from (`dcsurgery.zoo.backends.BACKENDS`). ``auto`` takes the first of the model's
        that is installed; for SchNet and DimeNet++ that is PyG, so the same everywhere.
    **overrides
        Constructor values that differ from that size.

    Returns
    -------
    nn.Module
        The model; its attribute ``dcsurgery_config`` holds what `build_from_config` needs to build it again.

    Raises
    ------
    BadInput
        If the name, the size, the backend or a constructor value is unknown or wrong, the message then names near misses;
        or if the backend is not installed, the message then says how to get it.
    """
    entry = entry_of(name, backend)
    if size not in entry.sizes:
        raise BadInput(f"unknown size {size!r} of {name}", fix=_near(size, entry.sizes))
    values = {**entry.sizes[size], **overrides}
    if entry.fairchem_name:
        return fairchem.build({"model": {"name": entry.fairchem_name, **_plain(values)}})
    return _construct(entry, values)


def build_from_config(config: Mapping[str, Any]) -> nn.Module:
    """Build the model that a checkpoint's ``config`` describes, with fresh weights.

    Parameters
    ----------
    config
        ``{"model": NAME, ...constructor values}`` or ``{"model": NAME, "model_attributes": {...}, ...}``; in the second
        form, entries beside ``model_attributes`` are not read. The config of a fairchem trainer is recognized by its
        other entries and builds fairchem's own model (`dcsurgery.zoo.ocp.fairchem`).

    Raises
    ------
    BadInput
        If the config has no known model name, or a constructor value is unknown or wrong.
    """
    if not isinstance(config, Mapping):
        raise BadInput(f"config must be a mapping, got {type(config).__name__}", where="config")
    if fairchem.is_trainer_config(config):
        return fairchem.build(config)
    if not isinstance(config.get("model"), str):
        raise BadInput("no entry 'model' with a name", where="config", fix=f"there are: {', '.join(_names())}")
    # With model_attributes, the entries beside it are the trainer's (optimizer, data set, ...).
    values = config.get("model_attributes", {key: value for key, value in config.items() if key != "model"})
    if not isinstance(values, Mapping):
        raise BadInput(f"model_attributes must be a mapping, got {type(values).__name__}", where="config")
    return _construct(_entry(config["model"]), dict(values))


def build_to_load(config: Mapping[str, Any]) -> nn.Module:
    """Build the model of a checkpoint whose weights will be loaded next, strictly; parameters and errors as above.

    No weights are drawn, which is what building a large model takes longest for.
    """
    with undrawn():
        return build_from_config(config)


def edited_config(config: Mapping[str, Any], plans: Sequence[str]) -> Mapping[str, Any]:
    """Return the config that an edited checkpoint gets.

    A fairchem trainer's is changed, so that fairchem's own loaders build the edited model, too; any other stays, since
    only `dcsurgery.load` reads it, which repeats the recorded ``plans`` (YAML) itself.
    """
    return fairchem.edited_config(config, plans) if fairchem.is_trainer_config(config) else config


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return the config of a model that the zoo built: its name and all constructor values.

    Raises
    ------
    BadInput
        If the zoo did not build the model.
    """
    config = getattr(model, "dcsurgery_config", None)
    if not isinstance(config, dict):
        raise BadInput(
            f"{type(model).__name__} was not built by the zoo, so its constructor values are not known",
            fix="build it with dcsurgery.zoo.build, or save the whole model with torch.save",
        )
    return dict(config)


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a checkpoint in OCP's layout: ``{"config": {"model": NAME, ...}, "state_dict": ..., "epoch": 0}``.

    Raises
    ------
    BadInput
        If the zoo did not build the model, or the file cannot be written.
    """
    path = Path(path)
    checkpoint = {"config": config_of(model), "state_dict": model.state_dict(), "epoch": 0}
    with replacing(path) as file:
        torch.save(checkpoint, file)
    return path


def name_of(model: nn.Module) -> str | None:
    """Return the name in the registry of a model that the zoo built or loaded, edited or not; None of any other."""
    named = getattr(model, "dcsurgery_config", {}).get("model")
    if isinstance(named, str):
        return named if _of(named) else None
    if not isinstance(named, Mapping):
        return None
    inner = named.get("name")
    if inner == fairchem.EDITED:
        inner = named.get("dcsurgery", {}).get("edits_of")
    return next((entry.name for entry in ENTRIES if inner and entry.fairchem_name == inner), None)


def _names() -> list[str]:
    return sorted({entry.name for entry in ENTRIES})


def _of(name: str) -> list[Entry]:
    return [entry for entry in ENTRIES if entry.name == name]


def _entry(name: str) -> Entry:
    """Return the entry whose constructor values a config without the mark of fairchem holds."""
    found = [entry for entry in _of(name) if not entry.fairchem_name]
    if not found:
        names = sorted({entry.name for entry in ENTRIES if not entry.fairchem_name})
        raise BadInput(f"unknown model {name!r}", fix=_near(name, names))
    return found[0]


def _plain(value: Any) -> Any:
    """Return a value whose mappings and lists nobody else holds: a config may be changed by its owner."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _near(word: str, known: Any) -> str:
    near = difflib.get_close_matches(str(word).lower(), list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(known))}"


def _construct(entry: Entry, values: dict[str, Any]) -> nn.Module:
    model_class = entry.model_class
    parameters = {
        key: p for key, p in inspect.signature(model_class).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD
    }
    for key, value in values.items():
        if key not in parameters:
            raise BadInput(f"{entry.name} has no constructor value {key!r}", fix=_near(key, parameters))
        _check_value(entry.name, key, value, parameters[key].default)
    complete = {key: values.get(key, parameter.default) for key, parameter in parameters.items()}
    try:
        model = model_class(**complete)
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"cannot build {entry.name}: {reason}", fix="change the constructor values") from None
    model.dcsurgery_config = {"model": entry.name, **complete}  # type: ignore[assignment]
    return model


def _check_value(name: str, key: str, value: Any, default: Any) -> None:
    """Compare a value with the default: every constructor value has one, and its type is the expected one."""
    where = f"{name}, {key}"
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise BadInput(f"must be true or false, got {value!r}", where=where)
    elif isinstance(default, int):
        least = 0 if key in _MAY_BE_ZERO else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise BadInput(f"must be a whole number of at least {least}, got {value!r}", where=where)
    elif isinstance(default, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise BadInput(f"must be a positive number, got {value!r}", where=where)
    elif not isinstance(value, str):
        raise BadInput(f"must be a text, got {value!r}", where=where)
