"""``program.module() → program``: a module's graph with its parameters and buffers as inputs again.

Dynamic shapes, range constraints, guards, verifiers, example inputs and the call signature are those of the program that
the module was made from; inputs whose tensors are gone leave the signature, and so do mutations whose nodes are gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from dcsurgery.copying import without_torch_warnings
from dcsurgery.errors import Refused
from dcsurgery.exported.modules import LIFTED, ProgramFrame, ProgramModule, frame_of, tensor_at

__all__ = ["program_of"]

_MUTATIONS = frozenset({OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION, OutputKind.PARAMETER_MUTATION})


def program_of(module: ProgramModule) -> ExportedProgram:
    """Return a module of `module_of`, as it is now, as an ExportedProgram that shares its tensors.

    Raises
    ------
    Refused
        If the graph holds what no program can hold; the message is torch's.
    """
    frame = frame_of(module)
    if any(spec.kind is InputKind.TOKEN for spec in frame.signature.input_specs):
        raise Refused(
            "the program orders side effects with tokens, which are lost in its module",
            fix="export the model without operators that have side effects",
        )
    lifted = _Lifting(module, frame)
    try:
        with without_torch_warnings():
            program = ExportedProgram(
                root=module,
                graph=lifted.graph,
                graph_signature=ExportGraphSignature(lifted.inputs, lifted.outputs),
                state_dict=_state_of(module, frame, lifted.inputs),
                range_constraints=dict(frame.range_constraints),
                module_call_graph=[_still_there(entry, lifted.graph) for entry in frame.module_call_graph],
                example_inputs=frame.example_inputs,
                constants=_constants_of(module, lifted.inputs),
                verifiers=list(frame.verifiers),
            )
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refused(f"the module is no program any more: {line}", fix="edit it with dcsurgery's passes") from error
    program.graph_module.meta.update(frame.meta)
    program._guards_code = list(frame.guards_code)
    return program


class _Lifting:
    """Builds a program's graph and signature from its module's graph."""

    def __init__(self, module: ProgramModule, frame: ProgramFrame) -> None:
        self._module = module
        self._frame = frame
        self._new: dict[fx.Node, Any] = {}
        self._by_target: dict[str, fx.Node] = {}
        self.graph = fx.Graph()
        nodes = list(module.graph.nodes)
        self._mutations = dict(self._find_mutations(nodes))
        self.inputs = list(self._make_inputs(nodes))
        output = nodes[-1]
        for node in nodes[:-1]:
            self._move(node)
        self.outputs = list(self._make_outputs(output))

    def _find_mutations(self, nodes: list[fx.Node]) -> Iterator[tuple[fx.Node, OutputSpec]]:
        """Yield the ``copy_`` nodes into which the module's graph had turned outputs that write to an input."""
        specs = {str(spec.target): spec for spec in self._frame.signature.output_specs if spec.kind in _MUTATIONS}
        for node in reversed(nodes):
            if not specs:
                return
            if node.op == "call_function" and node.target is torch.ops.aten.copy_.default:
                written = node.args[0]
                spec = specs.pop(str(written.target), None) if isinstance(written, fx.Node) else None
                if spec is not None:
                    yield node, spec

    def _make_inputs(self, nodes: list[fx.Node]) -> Iterator[InputSpec]:
        specs = self._frame.signature.input_specs
        known = {str(spec.target) for spec in specs if spec.kind in LIFTED}
        added = list(self._added([n for n in nodes if n.op == "get_attr" and str(n.target) not in known]))
        given = iter([node for node in nodes if node.op == "placeholder"])
        for spec in specs:
            if spec.kind is InputKind.USER_INPUT:
                for new, node in added:  # before the first user input
                    yield self._lift(new, node.meta)
                added = []
                node = next(given)
                self._new[node] = self._placeholder(spec.arg.name, node.meta)
                yield spec
            elif tensor_at(self._module, str(spec.target)) is not None:
                yield self._lift(spec, self._frame.lifted[str(spec.target)])
        for new, node in added:
            yield self._lift(new, node.meta)

    def _added(self, nodes: list[fx.Node]) -> Iterator[tuple[InputSpec, fx.Node]]:
        """Yield the specs of tensors that edits brought."""
        seen: set[str] = set()
        taken = {node.name for node in self._module.graph.nodes}
        taken |= {spec.arg.name for spec in self._frame.signature.input_specs}

        def named(prefix: str, target: str) -> TensorArgument:
            name = f"{prefix}_{target.replace('.', '_')}"
            while name in taken:
                name = f"{name}_"
            taken.add(name)
            return TensorArgument(name)

        for node in nodes:
            target = str(node.target)
            value = tensor_at(self._module, target)
            if target in seen or not isinstance(value, torch.Tensor):
                continue
            seen.add(target)
            if isinstance(value, torch.nn.Parameter):
                yield InputSpec(InputKind.PARAMETER, named("p", target), target), node
            else:
                holder = self._module.get_submodule(target.rpartition(".")[0])
                persistent = target.rpartition(".")[2] not in holder._non_persistent_buffers_set
                yield InputSpec(InputKind.BUFFER, named("b", target), target, persistent), node

    def _lift(self, spec: InputSpec, meta: Any) -> InputSpec:
        node = self._by_target[str(spec.target)] = self._placeholder(spec.arg.name, meta)
        return dataclasses.replace(spec, arg=dataclasses.replace(spec.arg, name=node.name))

    def _placeholder(self, name: str, meta: Any) -> fx.Node:
        node = self.graph.placeholder(name)
        node.name = name  # also one that fx avoids, like ``input``
        node.meta.update(meta)
        return node

    def _move(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            return
        if node.op == "get_attr" and str(node.target) in self._by_target:
            self._new[node] = self._by_target[str(node.target)]
        elif node in self._mutations:
            self._new[node] = self._mapped(node.args[1])
        else:
            self._new[node] = self.graph.node_copy(node, self._new.__getitem__)

    def _mapped(self, value: Any) -> Any:
        return self._new[value] if isinstance(value, fx.Node) else value

    def _make_outputs(self, output: fx.Node) -> Iterator[OutputSpec]:
        values = {str(spec.target): self._new[node] for node, spec in self._mutations.items()}
        given = iter(pytree.tree_leaves(output.args[0]))
        flat: list[Any] = []
        for spec in self._frame.signature.output_specs:
            if spec.kind in _MUTATIONS:
                if str(spec.target) not in values:
                    continue
                value = values[str(spec.target)]
            else:
                value = self._mapped(next(given))
            flat.append(value)
            arg = dataclasses.replace(spec.arg, name=value.name) if isinstance(value, fx.Node) else spec.arg
            yield dataclasses.replace(spec, arg=arg)
        self.graph.output(tuple(flat)).meta.update(output.meta)


def _state_of(module: ProgramModule, frame: ProgramFrame, inputs: list[InputSpec]) -> dict[str, Any]:
    """Return parameters and persistent buffers, those of the original program in their order first."""
    held = module.state_dict(keep_vars=True)
    lifted = [str(s.target) for s in inputs if s.kind in (InputKind.PARAMETER, InputKind.BUFFER)]
    keys = dict.fromkeys(key for key in (*frame.keys, *lifted, *held) if key in held)
    return {key: held[key] for key in keys}


def _constants_of(module: ProgramModule, inputs: list[InputSpec]) -> dict[str, Any]:
    constants = [
        str(spec.target)
        for spec in inputs
        if spec.kind in (InputKind.CONSTANT_TENSOR, InputKind.CUSTOM_OBJ)
        or (spec.kind is InputKind.BUFFER and not spec.persistent)
    ]
    return {target: tensor_at(module, target) for target in constants}


def _still_there(entry: Any, graph: fx.Graph) -> Any:
    """Return a called module's entry; one whose boundary was edited away has no signature any more."""
    signature = entry.signature
    if signature is None:
        return entry
    names = {node.name for node in graph.nodes}
    arguments = (*signature.inputs, *signature.outputs)
    lost = any(getattr(argument, "name", None) and argument.name not in names for argument in arguments)
    return dataclasses.replace(entry, signature=None) if lost and entry.fqn else entry
