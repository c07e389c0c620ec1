"""Output blocks: the part of a model between its interaction trunk and its energy or solution head.

Three rules, the first that applies decides: the model class's own entry (``registry``), the names of the modules on
the path (``name``), and dataflow over the captured graph (``dataflow``): what runs after the last repeated block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from dcsurgery.capture.graphs import ModuleGraph
from dcsurgery.capture.stacks import stack_of
from dcsurgery.paths import PathSet, lineage
from dcsurgery.recognition import is_library_code
from dcsurgery.subclass import original_class

__all__ = ["BlockRules", "block_of"]

# Class name -> child modules that are output blocks, from the classes' own definitions (PyG, OCP).
REGISTRY: Mapping[str, tuple[str, ...]] = {
    "DimeNet": ("output_blocks",),
    "DimeNetPlusPlus": ("output_blocks",),
    "DimeNetPlusPlusWrap": ("output_blocks",),
    "CGConvNet": ("head",),
    "GemNetT": ("out_blocks",),
    "GemNetOC": ("out_blocks", "out_mlp_E", "out_mlp_F", "out_energy", "out_forces"),
}
NAMES = re.compile(r"(out(put)?_?blocks?|heads?|readout|decoder|output_network|output_model)(_\d+)?")


@dataclass
class BlockRules:
    """Decide for every module path of one model whether it belongs to an output block."""

    root: nn.Module
    paths: Mapping[str, nn.Module]
    graphs: Mapping[str, ModuleGraph]

    def __post_init__(self) -> None:
        self._registry = PathSet(
            f"{path}.{name}" if path else name
            for path, module in self.paths.items()
            for cls in original_class(module).__mro__
            for name in REGISTRY.get(cls.__name__, ())
        )
        after, self._trunk = _after_trunk(self.graphs.get(""), self.root)
        self._modules_after = PathSet(place for place in after if isinstance(place, str))
        self._keys_after = {place for place in after if not isinstance(place, str)}

    def decide(self, path: str, key: tuple[object, ...] | None = None) -> tuple[bool, str]:
        """Return whether a path is in an output block, and the rule that decided."""
        if self._registry:
            return self._registry.covers(path), "registry"
        parts = re.split(r"[.\[]", path)
        if any(NAMES.fullmatch(part.strip("]'")) for part in parts):
            return True, "name"
        if self._trunk and (self._modules_after.covers(path) or key in self._keys_after):
            return True, "dataflow"
        return False, "none"


def block_of(path: str) -> str:
    """Return the block a path belongs to: up to the first numbered part, or the first part."""
    parts = path.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return parts[0]


def _repeated(root: nn.Module) -> set[str]:
    """Return the paths of blocks that occur at least twice: user-written siblings of one class in one container."""
    found: set[str] = set()
    for path, module in root.named_modules():
        if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            classes: dict[type, list[str]] = {}
            for name, child in module.named_children():
                if next(child.children(), None) is not None or not is_library_code(original_class(child).__module__):
                    classes.setdefault(original_class(child), []).append(f"{path}.{name}" if path else name)
            for siblings in classes.values():
                if len(siblings) > 1:
                    found.update(siblings)
    return found


def _repeated_in(graph: fx.Graph) -> set[str]:
    """Return the same of the model that a graph was made from, as far as its nodes tell."""
    classes: dict[str, type | str] = {}
    for node in graph.nodes:
        classes.update({called.path: called.cls for called in stack_of(node) if called.path})
    holders = {path.rpartition(".")[0] for path in classes}
    siblings: dict[tuple[str, str], list[str]] = {}
    for path, cls in classes.items():
        name = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"
        above = path.rpartition(".")[0]
        in_container = above not in classes or str(classes[above]).rpartition(".")[2].strip("'>") == "Sequential"
        if above and in_container and (path in holders or not is_library_code(name)):
            siblings.setdefault((above, name), []).append(path)
    return {path for group in siblings.values() if len(group) > 1 for path in group}


def _after_trunk(graph: ModuleGraph | None, root: nn.Module) -> tuple[set[object], bool]:
    """Return targets and site keys of the nodes from which no path to the output passes a repeated block."""
    if graph is None or graph.graph is None:
        return set(), False
    named = _repeated(root) | _repeated_in(graph.graph)
    # A call of a block, or of a container that holds one.
    repeated = {part for path in named for part in lineage(path)}

    def is_block(node: fx.Node) -> bool:
        if node.op == "call_module" and str(node.target) in repeated:
            return True
        return any(called.path in named for called in stack_of(node))

    blocks = [node for node in graph.graph.nodes if is_block(node)]
    if not blocks:
        return set(), False
    before: set[fx.Node] = set(blocks)
    for node in reversed(list(graph.graph.nodes)):
        if any(user in before for user in node.users):
            before.add(node)
    # A module that also runs before the trunk (a shared activation) belongs to no output block.
    both: set[object] = {str(n.target) for n in before if n.op == "call_module"}
    both |= {n.meta["dcs_key"] for n in before if "dcs_key" in n.meta}
    after: set[object] = set()
    for node in graph.graph.nodes:
        if node not in before:
            after |= {str(node.target)} if node.op == "call_module" else set()
            after |= {node.meta["dcs_key"]} if "dcs_key" in node.meta else set()
    return after - both, True
