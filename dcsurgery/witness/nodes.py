"""Run a torch.fx graph node by node, and put other values where nodes are sites."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from dcsurgery.calls import is_inplace
from dcsurgery.witness.stands import Stand

__all__ = ["Interpreted"]


class Interpreted(fx.Interpreter):
    """A GraphModule's forward with stands at some of its nodes.

    Parameters
    ----------
    module
        The GraphModule.
    stands
        Name of a node to what stands there, and the name of the node that it is made of: ``""`` for its own argument.
    apply
        Computes a stand's value, and takes note that it did.
    """

    def __init__(
        self, module: fx.GraphModule, stands: Mapping[str, tuple[Stand, str]], apply: Callable[..., Any]
    ) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._sources = {node.name: node for node in module.graph.nodes}
        self._stands = stands
        self._apply = apply
        self._signature = inspect.signature(module.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph on what the module was called with."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self.run(*bound.args, *bound.kwargs.values())

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, or compute what stands there."""
        stand, source = self._stands.get(n.name, (None, ""))
        if stand is None:
            return super().run_node(n)
        if source:  # several nodes make the value; what they do besides is done
            super().run_node(n)
            return self._apply(stand, self.env[self._sources[source]])
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x = args[stand.returns] if len(args) > stand.returns else next(iter(kwargs.values()))
        target = getattr(torch.Tensor, str(n.target), None) if n.op == "call_method" else n.target
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        value = self._apply(stand, x, dim=dim, inplace=is_inplace(target, args, kwargs))
        returns = getattr(getattr(n.target, "_schema", None), "returns", ())
        return (value, *[None] * (len(returns) - 1)) if len(returns) > 1 else value
