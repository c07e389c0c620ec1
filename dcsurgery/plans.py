"""Plans: the list of edits as a YAML file that a person can read, change and replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

import pydantic
import yaml

from dcsurgery.errors import BadInput
from dcsurgery.sites import AttributePlace, CallPlace, FusedPlace, ModulePlace, NodePlace, Place

__all__ = ["Action", "Edit", "Plan"]

Action = str  # the ``action`` of the pass that makes the edit: replace, delete, rescale, fold, …
FORMAT = 1
# YAML in C is ten times as fast; a Python without libyaml has only the other one.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Edit:
    """One edit.

    Attributes
    ----------
    site
        Name of the site, or ``""`` for an edit of the whole model (label rescaling).
    action
        ``replace``, ``delete``, ``rescale``, ``fold`` or what another pass calls its edits.
    operator
        The operator that is there now.
    place
        Where the edit acts; None for the whole model.
    replacement
        For ``replace``, the new activation's name, for instance ``irelu``.
    settings
        Settings of the edit, for instance ``{"C": 1000000.0}`` or the layer a norm is folded into.
    """

    site: str
    action: Action
    operator: str = ""
    place: Place | None = None
    replacement: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        target = self.site or "the model"
        match self.action:
            case "replace":
                return f"~ {target}: {self.operator} => {self.replacement}"
            case "delete":
                return f"- {target}: {self.operator}"
            case "fold":
                return f"~ {target}: {self.operator} => folded into {self.settings.get('into', 'the layer before')}"
            case "rescale":
                C = self.settings.get("C")  # a plan may be written by hand
                return f"+ {target}: labels rescaled by C = {f'{C:g}' if isinstance(C, int | float) else C}"
            case _:
                return f"~ {target}: {self.action} {self.operator}".rstrip()


@dataclass(frozen=True)
class Plan:
    """Edits for one model, in the order in which they are made.

    Attributes
    ----------
    edits
        The edits.
    model
        Class name of the model it was made for.
    fingerprint
        Hash of the model's structure; ``apply`` refuses another one.
    options
        What was asked for, for the reader.
    notes
        Warnings and reasons found while planning, for instance a kind of edit that matched nothing.
    unedited
        Names of sites that were selected and that this version cannot edit: a transform with them fails its check.
    """

    edits: tuple[Edit, ...] = ()
    model: str = ""
    fingerprint: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unedited: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def __str__(self) -> str:
        head = f"plan for {self.model}: {len(self.edits)} edit{'s' * (len(self.edits) != 1)}"
        return "\n".join([head, *(f"  {edit}" for edit in self.edits), *(f"  note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        from dcsurgery.diffing.notebook import plan_html

        return plan_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON and YAML types."""
        return {
            "dcsurgery_plan": FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "options": self.options,
            "notes": list(self.notes),
            "unedited": list(self.unedited),
            "edits": [_edit_to_dict(edit) for edit in self.edits],
        }

    def to_yaml(self) -> str:
        """Return the plan as YAML; `from_yaml` reads it back.

        Raises
        ------
        BadInput
            If an edit holds something that no text can hold, for instance a user's own activation module.
        """
        try:
            return yaml.dump(self.to_dict(), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        except yaml.representer.RepresenterError as error:
            held = type(error.args[-1]).__name__
            raise BadInput(
                f"the plan holds a {held}, which YAML cannot",
                fix="name an activation that has a name, or apply the plan without writing it",
            ) from None

    @staticmethod
    def from_yaml(text: str, *, source: str | None = None) -> Plan:
        """Read a plan.

        Parameters
        ----------
        text
            What `to_yaml` wrote, possibly changed by hand.
        source
            Name of the file, for error messages.

        Raises
        ------
        BadInput
            If the text is not YAML or not a plan; the message names the entry.
        """
        try:
            raw = yaml.load(text, Loader=_Loader)  # noqa: S506 - the safe one, in C where there is that
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f"line {mark.line + 1}: " if mark else ""
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise BadInput(
                f"not YAML: {line}{problem}",
                where=source,
                fix="write the plan anew with dcsurgery plan",
            ) from None
        if not isinstance(raw, dict) or "dcsurgery_plan" not in raw:
            raise BadInput(
                "not a dcsurgery plan: no 'dcsurgery_plan' entry", where=source, fix="make one with dcsurgery plan"
            )
        return Plan.from_dict(raw, source=source)

    @staticmethod
    def from_dict(raw: Any, *, source: str | None = None) -> Plan:
        """Read what `to_dict` returned; errors as in `from_yaml`."""
        try:
            return _PlanFile.model_validate(raw).to_plan()
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise BadInput(
                f"the plan's entry {place!r} is wrong: {first['msg']}", where=source, fix="correct that entry"
            ) from None


def _edit_to_dict(edit: Edit) -> dict[str, Any]:
    entry: dict[str, Any] = {"site": edit.site, "do": edit.action}
    if edit.operator:
        entry["operator"] = edit.operator
    if edit.replacement:
        entry["with"] = edit.replacement
    if edit.settings:
        entry["settings"] = edit.settings
    if edit.place is not None:
        entry["place"] = _plain(_asdict(edit.place))
    return entry


def _asdict(place: Place) -> dict[str, Any]:
    if not isinstance(place, CallPlace):  # there may be many thousands, and nothing in them is to be taken apart
        return {entry.name: getattr(place, entry.name) for entry in fields(place)}
    entry = asdict(place)
    for chain in entry.get("chains", ()):
        for step in chain:
            if not step["written"]:  # a call: what most steps are
                del step["written"]
    return entry


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


class _EditFile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", populate_by_name=True)

    site: str
    action: Action = pydantic.Field(alias="do")
    operator: str = ""
    replacement: str | None = pydantic.Field(default=None, alias="with")
    settings: dict[str, Any] = {}
    place: (
        Annotated[
            ModulePlace | AttributePlace | CallPlace | NodePlace | FusedPlace, pydantic.Field(discriminator="kind")
        ]
        | None
    ) = None

    def to_edit(self) -> Edit:
        return Edit(self.site, self.action, self.operator, self.place, self.replacement, self.settings)


class _PlanFile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    dcsurgery_plan: Literal[1]
    model: str = ""
    fingerprint: str = ""
    options: dict[str, Any] = {}
    notes: list[str] = []
    unedited: list[str] = []
    edits: list[_EditFile] = []

    def to_plan(self) -> Plan:
        edits = tuple(edit.to_edit() for edit in self.edits)
        return Plan(edits, self.model, self.fingerprint, self.options, tuple(self.notes), tuple(self.unedited))
