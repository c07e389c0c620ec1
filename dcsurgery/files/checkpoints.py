"""Checkpoints in OCP's layout: ``{config: {model: NAME, …}, state_dict: …, …}``.

Such a file holds no module; the model is built anew from its config. An edited checkpoint keeps the layout and every
other entry, and records the edits under ``dcsurgery``, so that the edited model can be built anew as well: the original
from the config, then the recorded plans, then the weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from dcsurgery import __version__
from dcsurgery.errors import BadInput, SurgeryError

__all__ = [
    "RECORD",
    "add_record",
    "build_model",
    "builder",
    "config_of",
    "count_tensors",
    "is_checkpoint",
    "load_weights",
    "prebuild",
    "prefix_of",
    "register_builder",
    "register_replay",
    "replayer",
]

RECORD = "dcsurgery"
_FORMAT = 1
# What torch.compile and (Distributed)DataParallel, one around the other, leave before every key.
_WRAPPERS = ("module.", "_orig_mod.")
_SHOWN = 3

Builder = Callable[[dict[str, Any]], nn.Module]
Replay = Callable[[nn.Module, str], nn.Module]
_registered: dict[str, Any] = {}
_prebuilt: list[tuple[Builder, Any, nn.Module]] = []  # at most one: who built it, from what, and the model


def register_builder(build: Builder | None) -> None:
    """Build models of checkpoints with ``build(config)`` instead of the zoo's registry; None goes back to it.

    A module-level function can also be used by the fresh process that checks a written file.
    """
    _registered["build"] = build


def register_replay(replay: Replay | None) -> None:
    """Replay recorded plans with ``replay(model, plan_as_yaml)`` instead of `dcsurgery.apply`; None goes back to it."""
    _registered["replay"] = replay


def builder() -> Builder | None:
    """Return the builder that was registered, None for the zoo's."""
    return _registered.get("build")


def replayer() -> Replay | None:
    """Return the replay function that was registered, None for `dcsurgery.apply`."""
    return _registered.get("replay")


def is_checkpoint(value: Any) -> bool:
    """Return whether a loaded value has a checkpoint's layout."""
    return isinstance(value, dict) and isinstance(value.get("config"), dict) and "state_dict" in value


def count_tensors(value: Any) -> tuple[int, str]:
    """Return how many tensors a table of weights holds and the name of the first; 0 if it holds anything else."""
    if not isinstance(value, Mapping) or not value:
        return 0, ""
    named = [(str(key), item) for key, item in value.items() if isinstance(item, torch.Tensor)]
    # Extra state of a module may be in it, under its own key.
    others = [key for key, item in value.items() if not isinstance(item, torch.Tensor | int | float | None)]
    return (len(named), named[0][0]) if named and len(others) < len(named) else (0, "")


def build_model(entries: Mapping[str, Any], where: str) -> nn.Module:
    """Build the model of a checkpoint, without its weights.

    Parameters
    ----------
    entries
        The file's entries; ``config`` names the model, ``dcsurgery`` records edits.
    where
        The file, for messages.

    Raises
    ------
    BadInput
        If nothing can build the model, or a recorded edit does not fit it.
    """
    record = entries.get(RECORD)
    config = record.get("config", entries["config"]) if isinstance(record, dict) else entries["config"]
    try:
        model = _take_prebuilt(config)
        model = _builder()(config) if model is None else model
    except SurgeryError as error:
        raise BadInput(error.message, where=where, fix=error.fix) from None
    except (TypeError, ValueError, KeyError) as error:
        raise BadInput(
            f"its config does not build the model: {type(error).__name__}: {error}",
            where=where,
            fix="correct the file's 'config' entry",
        ) from None
    for plan in _plans(record, where):
        try:
            model = (replayer() or _apply)(model, plan)
        except SurgeryError as error:
            raise BadInput(f"its recorded surgery cannot be replayed: {error}", where=where) from None
    return model


def prebuild(entries: Mapping[str, Any]) -> None:
    """Build the model of a checkpoint that will be read later, once; parameters and errors as in `build_model`.

    Building imports a package and makes every module: a process that waits can do it meanwhile.
    """
    _prebuilt[:] = [(_builder(), entries["config"], build_model({"config": entries["config"]}, ""))]


def _take_prebuilt(config: Any) -> nn.Module | None:
    if not _prebuilt:
        return None
    build, built_from, model = _prebuilt.pop()
    return model if build is _builder() and built_from == config else None


def _builder() -> Builder:
    build: Builder = builder() or _zoo().build_to_load
    return build


def _zoo() -> Any:
    # By name: the core must not depend on the zoo, which uses the public API and can be left out.
    try:
        return importlib.import_module("dcsurgery.zoo.registry")
    except ImportError as error:
        raise BadInput(
            f"a checkpoint is built by the zoo, which cannot be imported: {error}",
            fix='install it with pip install "dcsurgery[zoo]"',
        ) from None


def _apply(model: nn.Module, plan: str) -> nn.Module:
    # By name: the API is built on this package, not the other way round.
    api = importlib.import_module("dcsurgery.api")
    plans = importlib.import_module("dcsurgery.plans")
    # The model was built for this: no copy is needed.
    edited: nn.Module = api.apply(model, plans.Plan.from_yaml(plan), inplace=True).model
    return edited


def _plans(record: Any, where: str) -> list[str]:
    if record is None:
        return []
    surgeries = record.get("surgeries") if isinstance(record, dict) else None
    if not isinstance(surgeries, list) or not all(
        isinstance(s, dict) and type(s.get("plan")) is str for s in surgeries
    ):
        raise BadInput(f"its {RECORD!r} entry is not a record of surgery", where=where, fix="edit the original again")
    if record.get("format") != _FORMAT:
        raise BadInput(
            f"its {RECORD!r} entry has format {record.get('format')!r}, this version reads {_FORMAT}",
            where=where,
            fix="install the version of dcsurgery that wrote it",
        )
    return [surgery["plan"] for surgery in surgeries]


def add_record(entries: dict[str, Any], record: Mapping[str, Any]) -> None:
    """Add one surgery to a checkpoint's record.

    Parameters
    ----------
    entries
        The checkpoint's entries; changed. A config by which other programs build the model becomes one of the edited
        model, and the record keeps the original's.
    record
        Plain values; ``plan`` is the plan as YAML, the rest (``key_map``, ``log``) is for the reader.

    Raises
    ------
    BadInput
        If there is no plan in it.
    """
    if type(record.get("plan")) is not str:
        raise BadInput("the record of a surgery needs its plan", fix="pass {'plan': plan.to_yaml(), …}")
    old = entries.get(RECORD)
    surgeries = [*(old["surgeries"] if old else []), dict(record)]
    entries[RECORD] = {"format": _FORMAT, "version": __version__, "surgeries": surgeries}
    if builder() is None:
        config = (old or {}).get("config", entries["config"])
        edited = _zoo().edited_config(config, [surgery["plan"] for surgery in surgeries])
        if edited is not config:
            entries["config"] = edited
            entries[RECORD]["config"] = config


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return the config that builds a model of the zoo.

    Raises
    ------
    BadInput
        If the zoo did not build it.
    """
    config = getattr(model, "dcsurgery_config", None)
    if isinstance(config, dict):
        return dict(config)
    raise BadInput(
        f"{type(model).__name__} was not built by the zoo, so a checkpoint could not be read again",
        fix="save it as a module, or save only its weights with format='state-dict'",
    )


def prefix_of(keys: list[str], expected: list[str]) -> str:
    """Return the prefix that a parallel wrapper left on a state dict's keys."""
    given, prefix = set(keys), ""
    while {f"{prefix}{key}" for key in expected} != given:
        longer = [f"{prefix}{wrapper}" for wrapper in _WRAPPERS]
        found = [candidate for candidate in longer if given and all(key.startswith(candidate) for key in given)]
        if not found:
            # Nothing fits; what is certainly a wrapper's is stripped, so that the message names the real difference.
            return "" if any(key.startswith(_WRAPPERS) for key in expected) else prefix
        (prefix,) = found
    return prefix


def load_weights(model: nn.Module, weights: Any, where: str) -> str:
    """Load a checkpoint's weights strictly; return the prefix that was taken from the keys.

    The model, built in float32, takes on the weights' floating type if they all have the same one; otherwise each tensor
    takes on that of its own.

    Raises
    ------
    BadInput
        If keys are missing, unexpected, or have another shape.
    """
    if not isinstance(weights, Mapping):
        raise BadInput(
            f"its 'state_dict' entry is a {type(weights).__name__}, not a table", where=where, fix="save it again"
        )
    expected = list(model.state_dict())
    prefix = prefix_of(list(weights), expected)
    stripped = {key.removeprefix(prefix): value for key, value in weights.items()}
    missing = [key for key in expected if key not in stripped]
    unexpected = [key for key in stripped if key not in set(expected)]
    if missing or unexpected:
        differences = (("missing", missing), ("unexpected", unexpected))
        told = [f"{len(keys)} {what} ({_few(keys)})" for what, keys in differences if keys]
        raise BadInput(
            f"its weights do not fit the model of its config: {' and '.join(told)}",
            where=where,
            fix="correct the file's 'config' entry",
        )
    # load_state_dict would round what was trained in float64.
    types = {value.dtype for value in stripped.values() if _is_float(value)}
    try:
        if len(types) == 1:
            model.to(dtype=types.pop())
        for key, tensor in model.state_dict(keep_vars=True).items():
            given = stripped[key]
            if _is_float(given) and _is_float(tensor):
                tensor.data = tensor.data.to(given.dtype)
        model.load_state_dict(stripped, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise BadInput(
            f"its weights do not fit the model of its config: {line}",
            where=where,
            fix="correct the file's 'config' entry",
        ) from None
    return prefix


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _few(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    return f"{shown}, …" if len(keys) > _SHOWN else shown
