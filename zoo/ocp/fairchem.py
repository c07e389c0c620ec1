"""Models of fairchem-core 1.x (OCP), built from what its trainers keep as ``config``, and edited ones as well.

fairchem's loaders build the model that a checkpoint's config names and then load the weights. An edited checkpoint that
named the original would give them the original with weights that were meant for another function, and no error. So its
config names `edited_model`, which fairchem's registry finds by that path, and which repeats the edits.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.metadata
import inspect
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from torch import nn

from dcsurgery.errors import BadInput

__all__ = [
    "MODELS",
    "build",
    "edited_config",
    "edited_model",
    "is_trainer_config",
    "model_config",
    "require",
    "version",
]

#: Registry name of each model, and the module that registers it.
MODELS = {
    "schnet": "fairchem.core.models.schnet",
    "dimenetplusplus": "fairchem.core.models.dimenet_plus_plus",
    "gemnet_t": "fairchem.core.models.gemnet.gemnet",
    "gemnet_oc": "fairchem.core.models.gemnet_oc.gemnet_oc",
    "painn": "fairchem.core.models.painn.painn",
}
#: What an edited checkpoint's config names instead, and the constructor value that says what was edited.
EDITED = "dcsurgery.zoo.ocp.fairchem.edited_model"
_EDITS = "dcsurgery"
_INSTALL = 'pip install "dcsurgery[ocp]"'
# Arguments that 1.0 still asks for and does not use.
_DEAD = {"num_atoms": None, "bond_feat_dim": None, "num_targets": 1}
# Entries of a config that only a trainer writes.
_TRAINER_ENTRIES = ("cmd", "trainer")
# Constructor values by which every model of fairchem is told how to find neighbours and whether to return forces.
_GRAPH_VALUES = frozenset({"otf_graph", "use_pbc", "regress_forces"})


def version() -> str | None:
    """Return the version of fairchem-core, None without it; nothing is imported."""
    try:
        return importlib.metadata.version("fairchem-core")
    except importlib.metadata.PackageNotFoundError:
        return None


def require() -> str:
    """Make fairchem-core 1.x importable and return its version.

    Raises
    ------
    BadInput
        If it is not installed, is version 2 (which has none of these models), or cannot be imported.
    """
    found = version()
    if found is None:
        raise BadInput("models of OCP need fairchem-core 1.x, which is not installed", fix=f"install it: {_INSTALL}")
    if found.partition(".")[0] != "1":
        raise BadInput(
            f"models of OCP need fairchem-core 1.x; version {found} is installed, which no longer has them",
            fix=f"in an environment of its own: {_INSTALL}",
        )
    _import()
    return found


@cache
def _import() -> None:
    try:
        from dcsurgery.zoo.ocp import fairchem_ops

        with _quiet():
            fairchem_ops.install()
            importlib.import_module("fairchem.core.models.base")
            fairchem_ops.replace_radius_graph()
    except ImportError as error:
        raise BadInput(f"fairchem-core cannot be imported: {error}", fix=f"install it again: {_INSTALL}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # fairchem prints and warns on import; --json promises one document on standard output.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_trainer_config(config: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's ``config`` is of a fairchem trainer, of this or an older layout."""
    model, values = config.get("model"), config.get("model_attributes")
    if isinstance(model, Mapping):
        return "name" in model
    if not isinstance(model, str):
        return False
    if any(key in config for key in _TRAINER_ENTRIES) or model == EDITED:
        return True
    # SchNet is also a model of the zoo's registry, with other constructor values.
    return (
        model in MODELS and isinstance(values, Mapping) and (model != "schnet" or not _GRAPH_VALUES.isdisjoint(values))
    )


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"name": NAME, ...constructor values}`` of a trainer's config.

    fairchem 1.x keeps exactly that under ``model``; before, ``model`` was the name and ``model_attributes`` held the
    values.

    Raises
    ------
    BadInput
        If the entries have another form.
    """
    model = config.get("model")
    if isinstance(model, str):
        values = config.get("model_attributes", {})
        model = {"name": model, **values} if isinstance(values, Mapping) else values
    if not isinstance(model, Mapping) or not isinstance(model.get("name"), str):
        raise BadInput(
            "its trainer's config names no model", where="config", fix="it needs {'model': {'name': NAME, ...}}"
        )
    return dict(model)


def build(config: Mapping[str, Any]) -> nn.Module:
    """Build the model of a trainer's config, with fresh weights.

    Parameters
    ----------
    config
        As fairchem's trainers keep it (see `model_config`). Entries other than the model's are not read. A
        ``scale_file`` is not read, either: its factors are part of the weights that such a model is given.

    Returns
    -------
    nn.Module
        An instance of fairchem's class; its attribute ``dcsurgery_config`` holds the model's part of the config.

    Raises
    ------
    BadInput
        If fairchem-core 1.x is missing, the name is unknown, or the constructor values do not fit.
    """
    values = model_config(config)
    name = values.pop("name")
    if name == EDITED:
        model = edited_model(**values)
        model.dcsurgery_config = {"model": {"name": name, **values}}  # type: ignore[assignment]
        return model
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(MODELS))}"
        raise BadInput(f"unknown fairchem model {name!r}", where="config", fix=fix)
    require()
    model_class = _class(name, periodic=bool(values.get("use_pbc", True)))
    given = {key: value for key, value in values.items() if key != "scale_file"}
    arguments = {**_dead_arguments(model_class), **given}
    _check_arguments(name, model_class, arguments)
    try:
        with _quiet():
            model = model_class(**arguments)
    except (
        TypeError,
        ValueError,
        KeyError,
        AssertionError,
        RuntimeError,
        AttributeError,
        NotImplementedError,
    ) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise BadInput(f"fairchem cannot build {name}: {reason}", where="config", fix="correct the config") from None
    model.dcsurgery_config = {"model": {"name": name, **given}}  # type: ignore[assignment]
    return model


def edited_config(config: Mapping[str, Any], plans: Sequence[str]) -> dict[str, Any]:
    """Return a trainer's config that builds the edited model, in fairchem as here.

    Parameters
    ----------
    config
        As the trainer wrote it, in either layout; unchanged.
    plans
        The surgeries in their order, as YAML.
    """
    name = model_config(config)["name"]
    edits = {_EDITS: {"edits_of": name, "plans": list(plans)}}
    if isinstance(config["model"], str):
        return {**config, "model": EDITED, "model_attributes": {**config.get("model_attributes", {}), **edits}}
    return {**config, "model": {**config["model"], "name": EDITED, **edits}}


def edited_model(**values: Any) -> nn.Module:
    """Build a fairchem model with fresh weights and repeat the surgeries on it.

    Parameters
    ----------
    **values
        The original's constructor values, and under ``dcsurgery`` its name (``edits_of``) and the ``plans`` as YAML.

    Raises
    ------
    BadInput
        If that entry is missing or not one of `edited_config`, or the original cannot be built.
    PlanMismatch
        If a plan was made for another structure.
    """
    from dcsurgery import Plan, apply

    given = dict(values)
    edits = given.pop(_EDITS, None)
    if not isinstance(edits, Mapping) or "edits_of" not in edits or not isinstance(edits.get("plans"), list):
        raise BadInput(
            f"the config of an edited model has no entry {_EDITS!r} with edits_of and plans",
            where="config",
            fix="edit the original again",
        )
    model = build({"model": {"name": edits["edits_of"], **given}})
    for plan in edits["plans"]:
        model = apply(model, Plan.from_yaml(plan), inplace=True).model
    return model


def _class(name: str, *, periodic: bool) -> type[nn.Module]:
    with _quiet():
        if name == "painn" and not periodic:
            mended: type[nn.Module] = importlib.import_module("dcsurgery.zoo.ocp.fairchem_painn").PaiNN
            return mended
        importlib.import_module(MODELS[name])
        registry = importlib.import_module("fairchem.core.common.registry").registry
    model_class: type[nn.Module] = registry.get_model_class(name)
    return model_class


def _dead_arguments(model_class: type[nn.Module]) -> dict[str, Any]:
    known = inspect.signature(model_class).parameters
    return {key: value for key, value in _DEAD.items() if key in known}


def _check_arguments(name: str, model_class: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    parameters = inspect.signature(model_class).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in arguments:
            if key not in parameters:
                near = difflib.get_close_matches(key, parameters, n=1)
                raise BadInput(
                    f"{name} of fairchem-core {version()} has no constructor value {key!r}",
                    where="config",
                    fix=f"did you mean {near[0]}?"
                    if near
                    else "install the version that trained it, or remove the value",
                )
    missing = [
        key
        for key, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and key not in arguments
    ]
    if missing:
        raise BadInput(
            f"the config of {name} lacks {', '.join(missing)}",
            where="config",
            fix="add what the model was trained with",
        )
