"""What edits bring into an archive: new activations and deleted norms as TorchScript's own code.

Activations that have no state become functions. They are traced on a tensor of their own, in float64, so that whatever
they are made of is recorded as elementwise operators; that the trace computes the same for another dtype and shape is
tried before it is used.
"""

from __future__ import annotations

import ast
import io
import re
import warnings
from typing import Any

import torch
from torch import nn

from dcsurgery.activations import IReLU
from dcsurgery.activations.names import activation_by_name, name_of
from dcsurgery.errors import Refused
from dcsurgery.torchscript.contents import Contents, read_contents
from dcsurgery.torchscript.declared import Declared
from dcsurgery.torchscript.emission import Names, Source, chain, written
from dcsurgery.torchscript.syntax import parse_code

__all__ = ["IRELU_TEXT", "Additions"]

#: Where the functions stand; `dcsurgery.torchscript.programs` knows them by it when it reads the archive again.
HOME = "__torch__.dcsurgery.activations"
IRELU_TEXT = """def irelu(x: Tensor) -> Tensor:
  positive = torch.relu(x)
  return torch.mul(torch.mul(positive, 0.5), positive)
"""
_OPTIONAL = """def {name}(x: Tensor, inplace: bool) -> Tensor:
  if inplace:
    result = torch.copy_(x, {function}(torch.clone(x), ))
  else:
    result = {function}(x, )
  return result
"""
_GATED = """def {name}(x: Tensor, dim: int) -> Tensor:
  parts = torch.chunk(x, 2, dim)
  return torch.mul(parts[0], {function}(parts[1], ))
"""
_MODULE = """class {name}(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  _is_full_backward_hook : NoneType
  def forward(self: {type}, {argument}: Tensor) -> Tensor:
    return {value}
"""


class Additions:
    """Declares what the edits of one archive need, each once."""

    def __init__(self, names: Names, constants: list[Any]) -> None:
        self._names = names
        self._constants = constants
        self._sources: list[Source] = []  # kept: names are known by their ids

    def function(self, activation: str | nn.Module) -> str:
        """Return the name of the function that applies an activation.

        Raises
        ------
        Refused
            If TorchScript cannot hold the activation as a function.
        """
        module = activation_by_name(activation) if isinstance(activation, str) else activation
        label = name_of(module).removesuffix("(inplace=True)")
        key = (
            "function",
            label if isinstance(activation, str) or label.startswith(("irelu", "integrated")) else id(module),
        )
        known = self._names.of(key)
        if known is not None:
            return known
        wanted = f"{HOME}.{re.sub(r'[^A-Za-z0-9]+', '_', label).strip('_')}"
        name = self._names.choose(key, wanted)
        if isinstance(module, IReLU):
            self._declare(name, IRELU_TEXT)
        else:
            self._traced(name, module)
        return name

    def optional(self, activation: str | nn.Module) -> str:
        """Return the name of the function that applies an activation in place, or not, as it is told."""
        return self._around(_OPTIONAL, "optional", activation)

    def gated(self, activation: str | nn.Module) -> str:
        """Return the name of the function that gates one half of a tensor with the other."""
        return self._around(_GATED, "gated", activation)

    def module(
        self, activation: nn.Module, argument: str = "x", *, inplace: bool = False, gate_dim: int | None = None
    ) -> str:
        """Return the name of the class of a module that applies an activation.

        ``argument`` is what ``forward`` calls its tensor: an interface compares that, too.
        """
        if gate_dim is not None:
            value, label = f"{self.gated(activation)}({argument}, {gate_dim}, )", f"Gated_{gate_dim}"
        elif inplace:
            value, label = f"{self.optional(activation)}({argument}, True, )", "InPlace"
        else:
            value, label = f"{self.function(activation)}({argument}, )", "Activation"
        key = ("class", value)
        known = self._names.of(key)
        if known is not None:
            return known
        plain = isinstance(activation, IReLU) and gate_dim is None and not inplace
        wanted = f"{HOME}.{'IReLU' if plain else re.sub(r'[^A-Za-z0-9]+', '_', label)}"
        name = self._names.choose(key, wanted)
        text = _MODULE.format(name=name.rpartition(".")[2], type=name, argument=argument, value=value)
        self._names.add(name, ast.parse(text).body[0])
        return name

    def deleted_norm(self, norm: Declared, source: Source, returns: int, read: tuple[str, ...], *, copied: bool) -> str:
        """Return the name of the class that stands for a deleted norm: called as it, it passes its input on.

        ``read`` are tensors of the norm that other code looks at (TransformerEncoderLayer does, for its fast path).
        """
        forward = norm.methods.get("forward")
        key = ("deleted", id(source), norm.name, returns, read, copied)
        known = self._names.of(key)
        if known is not None or forward is None:
            return known or ""
        name = self._names.choose(key, "__torch__.dcsurgery.standins.DeletedNorm")
        head = written(forward, source, self._names.referring(source, {norm.name: name}))
        argument: ast.expr = ast.Name(forward.args.args[returns + 1].arg, ast.Load())
        if copied:
            argument = ast.Call(chain("torch.clone"), [argument], [])
        head.body = [ast.Return(argument)]
        text = _MODULE.format(name="DeletedNorm", type=name, argument="x", value="x")
        node: Any = ast.parse(text).body[0]
        node.body[-1:] = [*(ast.parse(f"{field} : Tensor").body[0] for field in read), head]
        self._names.add(name, node)
        return name

    def source(self, contents: Contents, declared: dict[str, Declared]) -> Source:
        """Take in another archive's code and constants."""
        made = Source(declared, contents.constants, len(self._constants))
        self._constants.extend(contents.constants)
        self._sources.append(made)
        return made

    def _around(self, form: str, label: str, activation: str | nn.Module) -> str:
        function = self.function(activation)
        key = (label, function)
        known = self._names.of(key)
        if known is None:
            known = self._names.choose(key, f"__torch__.dcsurgery.calls.{function.rpartition('.')[2]}_{label}")
            self._declare(known, form.format(name=known.rpartition(".")[2], function=function))
        return known

    def _declare(self, name: str, text: str) -> None:
        node: Any = ast.parse(text).body[0]
        node.name = name.rpartition(".")[2]
        self._names.add(name, node)

    def _traced(self, name: str, module: nn.Module) -> None:
        contents = read_contents(traced_activation(module), type(module).__name__)
        declared = parse_code(contents.code, type(module).__name__)
        source = self.source(contents, declared)
        entry = declared[contents.root.name]
        forward = entry.methods["forward"]
        own = forward.args.args[0].arg
        if any(isinstance(n, ast.Name) and n.id == own for n in ast.walk(forward)):
            raise Refused(
                f"{type(module).__name__} has parts of its own, and a call has no place for them",
                fix="use an activation without parameters and submodules, or select module sites only",
            )
        node = written(forward, source, self._names.referring(source, {}))
        del node.args.args[0]
        node.name = name.rpartition(".")[2]
        self._names.add(name, node)


def traced_activation(module: nn.Module) -> bytes:
    """Return the archive of an activation.

    Raises
    ------
    Refused
        If a trace does not compute what the module does.
    """
    buffer = io.BytesIO()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    other = torch.randn(5, generator=generator)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            made = torch.jit.trace(module, (sample,), check_trace=False)
            same = torch.equal(made(other), module(other)) and made(other).dtype == other.dtype
            torch.jit.save(made, buffer)
    except Exception as error:  # noqa: BLE001 - a user's activation may raise anything
        line = (str(error).splitlines() or [""])[0]
        raise Refused(
            f"{type(module).__name__} cannot be written as TorchScript: {line}", fix="use another one"
        ) from None
    if not same:
        raise Refused(
            f"{type(module).__name__} cannot be written as TorchScript: its trace depends on shape or dtype",
            fix="use another activation, or write the model as format='module'",
        )
    return buffer.getvalue()
