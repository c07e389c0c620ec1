"""Compile a GraphModule when somebody first wants its code, not each time its graph is made, copied or edited.

torch.fx writes and compiles a graph's Python code on all these occasions. A file that is read, copied, edited and written
would be compiled four times and not run once; for a large graph that is most of the work. Here the class of the module,
which torch.fx makes for each instance, gets members that compile it, and loses them when that is done; those that stand for
attributes stay, as whoever gives a module back the attributes that it had before a run takes these away again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import fx, nn
from torch.fx.graph import PythonCode

__all__ = ["LEFT", "compile_later", "copies_compile_later", "graph_module"]

#: What compiling leaves in the module's attributes, the last two only where inputs and outputs are nested.
LEFT = ("_code", "_lineno_map", "_prologue_start", "_in_spec", "_out_spec")
_MEMBERS = ("forward", "__reduce_package__")


class _Later:
    """A member of a class: compiles the module, and is then what the module or its class has under that name."""

    def __init__(self, module: fx.GraphModule, name: str) -> None:
        self._module = module
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if self._name not in LEFT:
            _compile(self._module)
            return getattr(owner if instance is None else instance, self._name)
        if "_code" not in vars(self._module):
            _compile(self._module)
        if self._name in vars(self._module):
            return vars(self._module)[self._name]
        raise AttributeError(self._name)  # no specs of inputs and outputs that are not nested


def compile_later(module: fx.GraphModule) -> None:
    """Let a module be compiled when it is called, pickled, or asked for its code; a subclass of GraphModule is now."""
    cls: Any = type(module)
    if not _is_plain(cls):
        module.recompile()
        return
    for name in LEFT:
        vars(module).pop(name, None)
    for name in (*LEFT, *_MEMBERS):
        setattr(cls, name, _Later(module, name))
    cls.recompile = _compile
    cls.__reduce__ = _reduce


def graph_module(root: nn.Module, graph: fx.Graph, name: str = "GraphModule") -> fx.GraphModule:
    """Return a GraphModule that is compiled later."""
    module = fx.GraphModule.__new__(fx.GraphModule, root, graph)
    _initialize(module, root, graph, name)
    return module


@contextlib.contextmanager
def copies_compile_later(model: nn.Module) -> Iterator[None]:
    """Let deep copies of a model's GraphModules be compiled later."""
    modules = (module for module in model.modules() if isinstance(module, fx.GraphModule))
    classes: dict[Any, None] = dict.fromkeys(type(module) for module in modules if _is_plain(type(module)))
    for cls in classes:
        cls._deepcopy_init = lambda _: _initialize
    try:
        yield
    finally:
        for cls in classes:
            del cls._deepcopy_init


def _initialize(module: fx.GraphModule, *arguments: Any) -> None:
    cls: Any = type(module)
    cls.recompile = compile_later
    fx.GraphModule.__init__(module, *arguments)


def _compile(module: fx.GraphModule) -> PythonCode:
    for cls in type(module).__mro__:
        for name, member in list(vars(cls).items()):
            if name not in LEFT and (isinstance(member, _Later) or member is _compile or member is _reduce):
                delattr(cls, name)
    return module.recompile()


def _reduce(module: fx.GraphModule) -> Any:
    """Pickle the module as torch.fx does, which compiles it once more, with the code that was made for this."""
    code = _compile(module)
    cls: Any = type(module)
    cls.recompile = lambda _: code
    try:
        return module.__reduce__()
    finally:
        del cls.recompile


def _is_plain(cls: type) -> bool:
    """Say whether a class is the one that torch.fx has made for one instance of GraphModule itself."""
    return cls.__bases__ == (fx.GraphModule,) and cls.__qualname__.endswith(".GraphModuleImpl")
