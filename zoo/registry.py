"""The models that can be built by name, and checkpoints from which they can be built again."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp import fairchem
from dcsurgery.zoo.pde.entries import PINN_ENTRIES
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
    "save_checkpoint",
]

#: Constructor values of type int that may be 0; all others are at least 1.
_MAY_BE_ZERO = frozenset(
    {"num_after_skip", "num_before_skip", "num_fc_layers", "num_interactions", "num_blocks", "num_output_layers"}
)


@dataclass(frozen=True)
class Entry:
    """A model that the zoo builds.

    Attributes
    ----------
    name
        What `build` and a checkpoint's ``config`` call it.
    backend
        Library whose layers it is made of.
    class_path
        ``module:class``.
    description
        One line.
    sizes
        Constructor values of each size.
    output_blocks
        Attributes of the model that hold its output blocks.
    """

    name: str
    backend: str
    class_path: str
    description: str
    sizes: Mapping[str, Mapping[str, Any]] = field(repr=False)
    output_blocks: tuple[str, ...] = ()

    @property
    def model_class(self) -> type[nn.Module]:
        """The class; its library is imported here."""
        module, name = self.class_path.split(":")
        return getattr(import_module(module), name)

    def parameters(self, size: str) -> int:
        """Return the number of parameters; the model is built for it, once, without touching the random numbers."""
        return _count(self.name, size)


@cache
def _count(name: str, size: str) -> int:
    with torch.random.fork_rng(devices=[]):
        return sum(parameter.numel() for parameter in build(name, size).parameters())


_SCHNET = "dcsurgery.zoo.ocp.pyg_models:SchNet"
_HOISTED = "dcsurgery.zoo.ocp.hoisted_schnet:HoistedSchNet"
_DIMENET = "dcsurgery.zoo.ocp.pyg_models:DimeNetPlusPlus"
_CGCONV = "dcsurgery.zoo.ocp.pyg_models:CGConvNet"

# "paper": the sizes of Lo & Huang, arXiv:2310.01649; "small": trains in seconds on a CPU.
_ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            name="schnet",
            backend="pyg",
            class_path=_SCHNET,
            description="SchNet: continuous-filter convolutions, shifted softplus, no normalization",
            sizes=MappingProxyType(
                {
                    "small": {
                        "hidden_channels": 32,
                        "num_filters": 32,
                        "num_interactions": 2,
                        "num_gaussians": 20,
                        "cutoff": 5.0,
                    },
                    "paper": {
                        "hidden_channels": 1024,
                        "num_filters": 256,
                        "num_interactions": 5,
                        "num_gaussians": 200,
                        "cutoff": 6.0,
                        "readout": "add",
                    },
                }
            ),
        ),
        Entry(
            name="schnet-hoisted",
            backend="torch",
            class_path=_HOISTED,
            description="SchNet with its edges as an input, for TorchScript, torch.export and torch.fx",
            sizes=MappingProxyType(
                {
                    "small": {
                        "hidden_channels": 32,
                        "num_filters": 32,
                        "num_interactions": 2,
                        "num_gaussians": 20,
                        "cutoff": 5.0,
                    },
                    "paper": {
                        "hidden_channels": 1024,
                        "num_filters": 256,
                        "num_interactions": 5,
                        "num_gaussians": 200,
                        "cutoff": 6.0,
                    },
                }
            ),
        ),
        Entry(
            name="dimenet++",
            backend="pyg",
            class_path=_DIMENET,
            description="DimeNet++: directional messages, Bessel and spherical bases, one shared SiLU",
            sizes=MappingProxyType(
                {
                    "small": {
                        "hidden_channels": 32,
                        "num_blocks": 2,
                        "int_emb_size": 16,
                        "basis_emb_size": 8,
                        "out_emb_channels": 32,
                        "num_spherical": 3,
                        "num_radial": 4,
                        "num_output_layers": 2,
                        "cutoff": 5.0,
                        # The published zeros make energy and forces 0, and every check on an untrained model void.
                        "output_initializer": "glorot_orthogonal",
                    },
                    "paper": {
                        "hidden_channels": 192,
                        "num_blocks": 3,
                        "int_emb_size": 64,
                        "basis_emb_size": 8,
                        "out_emb_channels": 192,
                        "num_spherical": 7,
                        "num_radial": 6,
                        "cutoff": 6.0,
                        "max_num_neighbors": 50,
                        "envelope_exponent": 5,
                        "num_before_skip": 1,
                        "num_after_skip": 2,
                        "num_output_layers": 3,
                    },
                }
            ),
            output_blocks=("output_blocks",),
        ),
        Entry(
            name="cgconv-bn",
            backend="pyg",
            class_path=_CGCONV,
            description="crystal-graph convolutions with batch normalization, softplus, dense head",
            sizes=MappingProxyType(
                {
                    "small": {
                        "atom_embedding_size": 32,
                        "num_graph_conv_layers": 2,
                        "fc_feat_size": 32,
                        "num_fc_layers": 2,
                        "num_gaussians": 20,
                    },
                    "paper": {
                        "atom_embedding_size": 512,
                        "num_graph_conv_layers": 3,
                        "fc_feat_size": 128,
                        "num_fc_layers": 3,
                        "num_gaussians": 100,
                        "cutoff": 6.0,
                    },
                }
            ),
            output_blocks=("head",),
        ),
        *(Entry(**entry) for entry in PINN_ENTRIES),
    )
}


def available() -> list[Entry]:
    """Return the models that can be built, sorted by name."""
    return [_ENTRIES[name] for name in sorted(_ENTRIES)]


def build(name: str, size: str = "small", **overrides: Any) -> nn.Module:
    """Build a model with fresh weights from torch's global random numbers.

    Parameters
    ----------
    name
        Name of a registry entry, for instance ``dimenet++``.
    size
        ``small`` or ``paper``.
    **overrides
        Constructor values that differ from that size.

    Returns
    -------
    nn.Module
        The model; its attribute ``dcsurgery_config`` holds what `build_from_config` needs to build it again.

    Raises
    ------
    BadInput
        If the name, the size or a constructor value is unknown or wrong; the message names near misses.
    """
    entry = _entry(name)
    if size not in entry.sizes:
        raise BadInput(f"unknown size {size!r} of {name}", fix=_near(size, entry.sizes))
    return _construct(entry, {**entry.sizes[size], **overrides})


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
        raise BadInput("no entry 'model' with a name", where="config", fix=f"there are: {', '.join(sorted(_ENTRIES))}")
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


def _entry(name: str) -> Entry:
    try:
        return _ENTRIES[name]
    except KeyError:
        raise BadInput(f"unknown model {name!r}", fix=_near(name, _ENTRIES)) from None


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
