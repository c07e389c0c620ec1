"""State_dict keys before and after a surgery: old checkpoints into the edited model, new weights back into the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.files.checkpoints import prefix_of
from dcsurgery.folding import Fold

__all__ = ["KeyMap"]

_SHOWN = 3


@dataclass(frozen=True)
class KeyMap:
    """State_dict keys before and after, both ways.

    After several surgeries, one after the other, the maps are used one after the other, too.

    Attributes
    ----------
    kept
        Keys that both models have.
    deleted
        Keys of the original that went with deleted norms and replaced activations.
    added
        Keys that the edits brought (``label_scale``, a bias from a folded norm).
    folds
        Batch norms that went into other tensors, in the order in which they did.
    """

    kept: tuple[str, ...]
    deleted: tuple[str, ...]
    added: tuple[str, ...]
    folds: tuple[Fold, ...] = ()

    @staticmethod
    def between(before: Mapping[str, Any], after: Mapping[str, Any], folds: tuple[Fold, ...] = ()) -> KeyMap:
        """Return the map between two models' state_dicts."""
        return KeyMap(
            tuple(key for key in before if key in after),
            tuple(key for key in before if key not in after),
            tuple(key for key in after if key not in before),
            folds,
        )

    def forward(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return an original checkpoint's state_dict without the deleted keys, folded norms in their layers.

        Raises
        ------
        BadInput
            If a tensor of a folded norm or its layer is missing.
        """
        tensors = dict(state_dict)
        for fold in self.folds:
            needed = [f"{fold.layer}.weight", f"{fold.norm}.running_mean", f"{fold.norm}.running_var"]
            _refuse_missing([key for key in needed if key not in tensors], "the norm cannot be folded without them")
            fold.forward(tensors)
        deleted = set(self.deleted)
        return {key: value for key, value in tensors.items() if key not in deleted}

    def backward(self, state_dict: Mapping[str, Any], original: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return an edited model's state_dict for the original model.

        Parameters
        ----------
        state_dict
            Of the edited model.
        original
            Deleted tensors are taken from here. A folded norm is not: it comes back as one that changes nothing in
            evaluation mode, since what it did is in the layer now.

        Raises
        ------
        BadInput
            If a deleted tensor is needed and ``original`` does not have it.
        """
        tensors, added = dict(state_dict), set(self.added)
        of_norm: dict[str, list[str]] = {fold.norm: [] for fold in self.folds}
        rest: list[str] = []
        for key in self.deleted:
            of_norm.get(key.rpartition(".")[0], rest).append(key)
        for fold in reversed(self.folds):
            fold.backward(tensors, of_norm[fold.norm], bias_added=f"{fold.layer}.bias" in added)
        _refuse_missing(
            [key for key in rest if key not in (original or {})], "the original needs them: pass its state_dict"
        )
        deleted = {key: (original or {})[key] for key in rest}
        return {**{key: value for key, value in tensors.items() if key not in added}, **deleted}

    def load(self, model: nn.Module, state_dict: Mapping[str, Any]) -> None:
        """Load a checkpoint of the original into the edited model; what the edits added keeps its value.

        Parameters
        ----------
        model
            The edited model.
        state_dict
            Of the original, also with a parallel wrapper's ``module.`` or a compiled model's ``_orig_mod.`` on its keys.

        Raises
        ------
        BadInput
            If tensors are missing, unknown, or of another shape; the model is not changed then.
        """
        prefix = prefix_of(list(state_dict), [*self.kept, *self.deleted])
        given = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        _refuse_missing([key for key in self.kept if key not in given], "it is not of the original model")
        known = {*self.kept, *self.deleted}
        unknown = [key for key in given if key not in known]
        if unknown:
            raise BadInput(
                f"the checkpoint has {len(unknown)} tensors that the original does not have ({_few(unknown)})",
                fix="give a checkpoint of the original model; an edited model's own is loaded by load_state_dict",
            )
        now = model.state_dict()
        tensors = {**{key: now[key] for key in self.added if key in now}, **self.forward(given)}
        for key, value in tensors.items():
            if key in now and isinstance(value, torch.Tensor) and value.shape != now[key].shape:
                raise BadInput(
                    f"{key} must have the shape {list(now[key].shape)}, got {list(value.shape)}",
                    fix="give a checkpoint of the original model",
                )
        try:
            model.load_state_dict(tensors, strict=True)
        except (RuntimeError, TypeError) as error:
            line = str(error).strip().splitlines()[-1].strip()
            raise BadInput(
                f"the checkpoint does not fit the edited model: {line}", fix="is it the map of this model?"
            ) from None

    def export(self, model: nn.Module, original: nn.Module | Mapping[str, Any]) -> dict[str, Any]:
        """Return the edited model's weights as a state_dict that the original loads strictly.

        Parameters
        ----------
        model
            The edited model, trained meanwhile or not.
        original
            The original model or its state_dict: deleted tensors are taken from it.
        """
        tensors = original.state_dict() if isinstance(original, nn.Module) else original
        return self.backward(model.state_dict(), tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return the map as plain JSON types."""
        plain: dict[str, Any] = {"kept": list(self.kept), "deleted": list(self.deleted), "added": list(self.added)}
        return {**plain, "folds": [asdict(fold) for fold in self.folds]} if self.folds else plain

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> KeyMap:
        """Return the map that `to_dict` wrote, for instance into a checkpoint's record.

        Raises
        ------
        BadInput
            If it has another form.
        """
        try:
            keys = [tuple(str(key) for key in plain[name]) for name in ("kept", "deleted", "added")]
            folds = tuple(Fold(str(f["layer"]), str(f["norm"]), float(f["eps"])) for f in plain.get("folds", ()))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"not a key map: {type(error).__name__}: {error}", fix="take it from a surgery's record"
            ) from None
        return KeyMap(keys[0], keys[1], keys[2], folds)


def _refuse_missing(keys: list[str], why: str) -> None:
    if keys:
        raise BadInput(f"{len(keys)} tensors are missing ({_few(keys)}): {why}", fix="give the whole state_dict")


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")
