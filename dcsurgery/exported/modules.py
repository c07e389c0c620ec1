"""An ExportedProgram as a module: its graph with parameters and buffers as attributes, and all else that it is made of.

torch's own ``program.module()`` makes the graph. What it returns loses its checks of the inputs when it is copied, and
cannot be pickled; `ProgramModule` can be copied, pickled, edited, and turned back into a program (`program_of`).
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind
from torch.fx.graph_module import _get_attr

from dcsurgery.copying import without_torch_warnings
from dcsurgery.errors import BadInput

__all__ = ["LIFTED", "ProgramFrame", "ProgramModule", "frame_of", "module_of"]

#: Inputs of a program's graph that are attributes of its module.
LIFTED = frozenset({InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR, InputKind.CUSTOM_OBJ})
_GUARDS = "_guards_fn"
_FRAME = "_dcs_frame"


@dataclass(frozen=True, eq=False)
class ProgramFrame:
    """What a program has besides its graph and its tensors; never changed, so that copies share it.

    Attributes
    ----------
    name
        Class name of the model that was exported.
    signature
        What each input and output of the original graph is.
    range_constraints, module_call_graph, example_inputs, verifiers, guards_code, meta
        The program's own.
    keys
        Keys of its state dict, in their order.
    lifted
        For each parameter, buffer and constant, the metadata of its input node.
    guards
        Checks the flat inputs against the shapes that were exported; None where the program has no example inputs.
    """

    name: str
    signature: ExportGraphSignature
    range_constraints: Mapping[Any, Any]
    module_call_graph: tuple[Any, ...]
    example_inputs: Any
    verifiers: tuple[Any, ...]
    guards_code: tuple[str, ...]
    meta: Mapping[str, Any]
    keys: tuple[str, ...]
    lifted: Mapping[str, Mapping[str, Any]] = field(repr=False)
    guards: Callable[..., None] | None = field(default=None, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class ProgramModule(fx.GraphModule):
    """The GraphModule of an ExportedProgram; made by `module_of`, turned back by `program_of`.

    Called like the model that was exported. Whether dropout drops and batch norms count was decided when the program
    was exported, so `train` and `eval` raise NotImplementedError, as in torch.
    """

    def train(self, mode: bool = True) -> Self:
        """Return self in the mode that it is in.

        Raises
        ------
        NotImplementedError
            For the other mode.
        """
        if mode == self.training:
            return self
        raise NotImplementedError("a program's mode is fixed when it is exported: export the model in the other mode")

    def _apply(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Self:
        """Move or convert the tensors, and with their type the type that export has written into the graph.

        A ``zeros_like(n, dtype=h.dtype)`` is exported as float32: without this, ``.double()`` would give a program
        that mixes both.
        """
        before = _floating_type(self)
        super()._apply(fn, *args, **kwargs)
        after = _floating_type(self)
        if before is not None and after is not None and before is not after:
            _retype(self, before, after)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = _blank(type(self).__name__)
        memo[id(self)] = new
        with without_torch_warnings():
            graph = copy.deepcopy(self._graph, memo)
            new.__dict__.update(
                {name: copy.deepcopy(value, memo) for name, value in vars(self).items() if name != "_graph"}
            )
        _own(new, graph)
        return new  # type: ignore[return-value]

    def __reduce__(self) -> Any:
        return _from_bytes, (_to_bytes(self),)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


def module_of(program: ExportedProgram) -> ProgramModule:
    """Return a program as a module that shares its tensors.

    Raises
    ------
    BadInput
        If torch cannot make a module of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constants that require gradients are detached, as torch does
            made: Any = program.module()
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the program cannot be run as a module: {line}", fix="export the model again") from error
    guards = made._modules.pop(_GUARDS, None)
    for node in [node for node in made.graph.nodes if node.op == "call_module" and node.target == _GUARDS]:
        made.graph.erase_node(node)
    for graph in [m.graph for m in made.modules() if isinstance(m, fx.GraphModule)]:
        for node in graph.nodes:
            node.meta.pop("from_node", None)  # keeps every earlier graph alive
    frame = ProgramFrame(
        _name_of(program),
        program.graph_signature,
        dict(program.range_constraints),
        tuple(program.module_call_graph),
        program.example_inputs,
        tuple(program.verifiers),
        tuple(program._guards_code),
        dict(program.graph_module.meta),
        tuple(program.state_dict),
        _metadata_of_lifted(program),
        None if guards is None else guards.forward,
    )
    # torch's class brings a train() that always raises, and hooks that are lost in a copy.
    module = _blank(frame.name)
    leave_out = {"train", "eval", "_graph", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks"}
    leave_out |= {"_forward_hooks_always_called", "validate_inputs", "shape_env"}
    module.__dict__.update({name: value for name, value in vars(made).items() if name not in leave_out})
    module.__dict__[_FRAME] = frame
    _own(module, made._graph)
    module.register_forward_pre_hook(_check_inputs, with_kwargs=True)
    return module


def frame_of(module: ProgramModule) -> ProgramFrame:
    """Return what a module's program has besides graph and tensors."""
    frame: ProgramFrame = vars(module)[_FRAME]
    return frame


def _blank(name: str) -> ProgramModule:
    """Return an instance without a graph; each has a class of its own, which holds its code."""
    cls = type(
        "GraphModuleImpl", (ProgramModule,), {"__module__": __name__, "__qualname__": ProgramModule.__qualname__}
    )
    cls.__name__ = name
    module: ProgramModule = object.__new__(cls)
    torch.nn.Module.__init__(module)
    return module


def _floating_type(module: torch.nn.Module) -> torch.dtype | None:
    tensors = (*module.parameters(), *module.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def _retype(module: torch.nn.Module, before: torch.dtype, after: torch.dtype) -> None:
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                node.args = fx.node.map_aggregate(node.args, lambda a: after if a is before else a)
                node.kwargs = fx.node.map_aggregate(node.kwargs, lambda a: after if a is before else a)
            part.recompile()


def _own(module: ProgramModule, graph: fx.Graph) -> None:
    module.__dict__["_graph"] = graph
    graph.owning_module = module
    module.recompile()


def _name_of(program: ExportedProgram) -> str:
    for node in program.graph.nodes:
        for path, cls in node.meta.get("nn_module_stack", {}).values():
            if path == "":
                name = cls.rpartition(".")[2] if isinstance(cls, str) else cls.__name__
                return name if name.isidentifier() else ProgramModule.__name__
    return ProgramModule.__name__


def _metadata_of_lifted(program: ExportedProgram) -> dict[str, Mapping[str, Any]]:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind in LIFTED]
    return {str(spec.target): dict(nodes[spec.arg.name].meta) for spec in specs if spec.arg.name in nodes}


def _check_inputs(module: ProgramModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse inputs of other structure or shape than the program was exported for, as torch's own module does."""
    from torch._export.utils import _check_input_constraints_for_graph
    from torch.export._unlift import _check_inputs_match

    frame = frame_of(module)
    flat = _check_inputs_match(args, kwargs, module._in_spec)
    if frame.guards is not None:
        frame.guards(*(value for _, value in flat))
    elif not torch.compiler.is_dynamo_compiling():
        _check_input_constraints_for_graph(
            module.graph.find_nodes(op="placeholder"), flat, dict(frame.range_constraints)
        )


def _to_bytes(module: ProgramModule) -> bytes:
    from dcsurgery.exported.lifting import program_of

    stream = io.BytesIO()
    torch.export.save(program_of(module), stream)
    return stream.getvalue()


def _from_bytes(data: bytes) -> ProgramModule:
    return module_of(torch.export.load(io.BytesIO(data)))


def tensor_at(module: torch.nn.Module, target: str) -> Any:
    """Return the tensor or object that a ``get_attr`` node fetches, None where there is none."""
    try:
        return _get_attr(module, target)
    except (AttributeError, RuntimeError):
        return None
