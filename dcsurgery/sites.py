"""Sites: the places where a model applies an activation or a normalization."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = [
    "AttributePlace",
    "CallPlace",
    "CallStep",
    "FusedPlace",
    "ModulePlace",
    "NodePlace",
    "Place",
    "Role",
    "Site",
    "Span",
]

Span = tuple[int, int, int, int]  # line (1-based), column (0-based, in UTF-8 bytes), and those of the end
Role = Literal["activation", "gate", "basis", "normalization"]


@dataclass(frozen=True)
class ModulePlace:
    """A child module: slot ``slot`` of the module at ``owner`` (``""`` is the model itself)."""

    owner: str
    slot: str
    kind: Literal["module"] = "module"


@dataclass(frozen=True)
class AttributePlace:
    """A callable (or hidden module) in a plain attribute of ``owner``: ``act``, ``acts[0]``, ``acts['a'].f``."""

    owner: str
    attribute: str
    kind: Literal["attribute"] = "attribute"


@dataclass(frozen=True, order=True)
class CallStep:
    """One call expression in a function's source, or an activation that is written out in it.

    ``function`` is ``module:qualname``, ``first_line`` the ``def`` line (1-based), ``end`` the line and
    column (0-based, in UTF-8 bytes) just behind the call's closing parenthesis: no two calls share it.
    ``written`` is empty for a call. For ``x * torch.sigmoid(x)`` and the like it says where the expression stands, where
    the tensor in it does that it is a function of, and which assignments, made for it alone, go with it.
    """

    function: str
    first_line: int
    end: tuple[int, int]
    written: tuple[Span, ...] = ()


@dataclass(frozen=True)
class CallPlace:
    """A call in the code that ``owner`` runs.

    ``chains`` holds every way down: the first step of a chain is a call in a method of ``owner``, each next one a
    call in the helper that the step before calls, the last one the site's own call (the same in every chain).
    """

    owner: str
    chains: tuple[tuple[CallStep, ...], ...]
    kind: Literal["call"] = "call"


@dataclass(frozen=True)
class NodePlace:
    """One or more nodes of the torch.fx GraphModule at ``owner``.

    ``node`` is the node whose value the site is, ``source`` the one that it is made of (``""`` for the node's own first
    input). ``more`` has further pairs ``(source, node)``, where one place in the source code runs several times.
    ``module`` is the path of the module that the site is as a whole, in the model that the graph was made from: its
    tensors go with it.
    """

    owner: str
    node: str
    source: str = ""
    more: tuple[tuple[str, str], ...] = ()
    module: str = ""
    kind: Literal["node"] = "node"


@dataclass(frozen=True)
class FusedPlace:
    """A site inside a fused kernel of the module at ``owner`` (LSTM, GRU, TorchScript, autograd.Function, …)."""

    owner: str
    inside: str
    kind: Literal["fused"] = "fused"


Place = ModulePlace | AttributePlace | CallPlace | NodePlace | FusedPlace


@dataclass(frozen=True)
class Site:
    """One place where an activation or a normalization is applied.

    Attributes
    ----------
    name
        Unique and stable: the slot's module path, ``path.attribute``, or ``path.method@operator`` (``#2`` for the
        second such call).
    role
        ``activation``, ``gate``, ``basis`` or ``normalization``.
    operator
        The catalog row, for instance ``silu`` or ``batch_norm``.
    how
        How it is written: ``module``, ``attribute``, ``function``, ``method``, ``idiom`` (written out in an expression),
        ``node``, ``fused``.
    place
        Where an edit has to act.
    aliases
        Every other module path under which the same place can be reached.
    shared_with
        Names of sites that hold the very same object in another slot.
    match
        ``listed`` when the catalog lists the operator, otherwise how its behaviour matches it, for instance
        ``behaves as 1.667 * silu(x)``.
    parameters
        The operator's settings, for instance ``{"negative_slope": 0.2}``.
    file, line
        Where the operator is called, or where the class is defined.
    block
        Path of the block that it belongs to.
    in_output_block, block_rule
        Whether that block is an output block and which rule decided (``registry``, ``name``, ``dataflow``, ``none``).
    runs
        How often it ran on the example inputs; None without example inputs.
    reason
        Why it is a gate or a basis, or why it cannot be edited.
    classes
        Import paths of the classes of the object that is applied, its own first; empty for functions.
    overwritten
        For normalizations: the output is changed in place later in the run, so that a deleted one has to copy its input.
    editable
        False where this version can see the site and not edit it; ``reason`` says why.
    """

    name: str
    role: Role
    operator: str
    how: str
    place: Place
    aliases: tuple[str, ...] = ()
    shared_with: tuple[str, ...] = ()
    match: str = "listed"
    parameters: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    line: int | None = None
    block: str = ""
    in_output_block: bool = False
    block_rule: str = "none"
    runs: int | None = None
    reason: str = ""
    classes: tuple[str, ...] = ()
    overwritten: bool = False
    editable: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The name and all aliases: what selectors are matched against."""
        return (self.name, *self.aliases)

    @property
    def where(self) -> str:
        """``file:line``, or an empty string."""
        return f"{self.file}:{self.line}" if self.file else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the site as plain JSON types."""
        entry = asdict(self)
        entry["place"] = asdict(self.place)
        return entry

    def __str__(self) -> str:
        block = f" [{self.block_rule}: output block]" if self.in_output_block else ""
        runs = "" if self.runs is None else f" ran {self.runs}x"
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.name}: {self.role} {self.operator} as {self.how}{block}{runs}{reason}"
