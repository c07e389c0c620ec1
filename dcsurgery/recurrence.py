"""The recurrences of torch's documentation in separate operations: LSTM, GRU, RNN and their cells.

Each activation in them is looked up by name in the module's ``_dcsurgery_functions``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from dcsurgery.errors import BadInput

__all__ = ["Activation", "cell_forward", "kind_of", "sequence_forward", "step"]

Activation = Callable[[Tensor], Tensor]
_State = tuple[Tensor, ...]  # (h,), or (h, c) of an LSTM


def kind_of(module: nn.Module) -> str:
    """Return ``LSTM``, ``GRU``, or the name of an RNN's nonlinearity."""
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return "LSTM"
    if isinstance(module, nn.GRU | nn.GRUCell):
        return "GRU"
    return module.mode.removeprefix("RNN_").lower() if isinstance(module, nn.RNN) else str(module.nonlinearity)


class _Weights(NamedTuple):
    """The weights of one layer and direction, or of a cell; a gate's rows follow those of the gate before."""

    ih: Tensor  # (gates * hidden, input)
    hh: Tensor  # (gates * hidden, output)
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    hr: Tensor | None = None  # (output, hidden): the projection of an LSTM


def _weights_of(module: nn.RNNBase, layer: int, reverse: bool) -> _Weights:
    # By name, so that parametrizations, functional_call and replicas are followed.
    suffix = f"_l{layer}{'_reverse' if reverse else ''}"
    return _Weights(
        getattr(module, f"weight_ih{suffix}"),
        getattr(module, f"weight_hh{suffix}"),
        getattr(module, f"bias_ih{suffix}") if module.bias else None,
        getattr(module, f"bias_hh{suffix}") if module.bias else None,
        getattr(module, f"weight_hr{suffix}") if module.proj_size else None,
    )


def step(kind: str, f: Mapping[str, Activation], gates: Tensor, state: _State, w: _Weights) -> _State:
    """Return the next state from W_ih x + b_ih of one step and the state before it."""
    h = state[0]
    recurrent = F.linear(h, w.hh, w.bias_hh)  # (batch, gates * hidden)
    if kind == "LSTM":
        i, forget, g, o = (gates + recurrent).chunk(4, -1)
        c = f["sigmoid"](forget) * state[1] + f["sigmoid"](i) * f["tanh"](g)
        h = f["sigmoid"](o) * f["tanh"](c)
        return (h if w.hr is None else F.linear(h, w.hr)), c
    if kind == "GRU":
        r_x, z_x, n_x = gates.chunk(3, -1)
        r_h, z_h, n_h = recurrent.chunk(3, -1)
        z = f["sigmoid"](z_x + z_h)
        n = f["tanh"](n_x + f["sigmoid"](r_x + r_h) * n_h)
        return (n + z * (h - n),)
    return (f[kind](gates + recurrent),)


def _scan(
    kind: str,
    f: Mapping[str, Activation],
    data: Tensor,
    sizes: list[int] | None,
    state: _State,
    w: _Weights,
    reverse: bool,
) -> tuple[Tensor, _State]:
    """Run one layer in one direction.

    ``data`` is (steps, batch, features), or packed (sum of ``sizes``, features) where step t holds the first
    ``sizes[t]`` sequences of the batch. Returns the outputs in the same layout, and the last state of each sequence.
    """
    gates = F.linear(data, w.ih, w.bias_ih)
    steps: list[Any] = [(g, None) for g in gates.unbind(0)]
    if sizes is not None:
        steps = list(zip(gates.split(sizes), sizes, strict=True))
    outputs = []
    for gate, size in reversed(steps) if reverse else steps:
        if size is None:
            state = step(kind, f, gate, state, w)
            outputs.append(state[0])
            continue
        # The other sequences have ended or, backwards, not begun: their state stays as it is.
        new = step(kind, f, gate, tuple(s[:size] for s in state), w)
        outputs.append(new[0])
        state = tuple(torch.cat((a, s[size:])) for a, s in zip(new, state, strict=True))
    if reverse:
        outputs.reverse()
    return (torch.stack(outputs) if sizes is None else torch.cat(outputs)), state


def _layers(module: nn.RNNBase, data: Tensor, sizes: list[int] | None, start: _State) -> tuple[Tensor, _State]:
    """Run all layers and directions; ``start`` and the returned state are (layers * directions, batch, hidden)."""
    kind = kind_of(module)
    functions: Mapping[str, Activation] = module._dcsurgery_functions  # type: ignore[assignment]
    last: list[_State] = []
    for layer in range(module.num_layers):
        outputs = []
        for reverse in (False, True) if module.bidirectional else (False,):
            state = tuple(s[len(last)] for s in start)
            output, state = _scan(kind, functions, data, sizes, state, _weights_of(module, layer, reverse), reverse)
            outputs.append(output)
            last.append(state)
        data = torch.cat(outputs, -1) if module.bidirectional else outputs[0]
        if module.dropout and layer < module.num_layers - 1:
            data = F.dropout(data, module.dropout, module.training)
    return data, tuple(torch.stack(parts) for parts in zip(*last, strict=True))


def sequence_forward(self: Any, input: Any, hx: Any = None) -> Any:
    """Run all layers over a sequence; arguments and results are those of `torch.nn.LSTM`, ``GRU`` or ``RNN``."""
    lstm = isinstance(self, nn.LSTM)
    packed = isinstance(input, PackedSequence)
    data, batch_sizes, order, original_order = input if packed else (input, None, None, None)
    batch_dim = 0 if self.batch_first else 1
    unbatched = not packed and data.dim() == 2
    if unbatched:
        data = data.unsqueeze(batch_dim)
    self.check_input(data, batch_sizes)

    if hx is None:
        depth = self.num_layers * (2 if self.bidirectional else 1)
        batch = data.size(batch_dim) if batch_sizes is None else int(batch_sizes[0])
        widths = (self.proj_size or self.hidden_size, self.hidden_size) if lstm else (self.hidden_size,)
        state = tuple(data.new_zeros(depth, batch, width) for width in widths)
    else:
        hx = self.permute_hidden(hx, order)
        state = tuple(hx) if lstm else (hx,)
        if unbatched:
            state = tuple(s.unsqueeze(1) for s in state)
    self.check_forward_args(data, state if lstm else state[0], batch_sizes)

    swapped = self.batch_first and not packed
    data = data.transpose(0, 1) if swapped else data
    if data.size(0) == 0:
        raise BadInput(f"{type(self).__name__} got a sequence without any step", fix="leave out empty sequences")
    data, state = _layers(self, data, None if batch_sizes is None else batch_sizes.tolist(), state)
    data = data.transpose(0, 1) if swapped else data
    if unbatched:
        data, state = data.squeeze(batch_dim), tuple(s.squeeze(1) for s in state)
    hidden = self.permute_hidden(state if lstm else state[0], original_order)
    return (PackedSequence(data, batch_sizes, order, original_order) if packed else data), hidden


def cell_forward(self: Any, input: Tensor, hx: Any = None) -> Any:
    """Run one step; arguments and results are those of `torch.nn.LSTMCell`, ``GRUCell`` or ``RNNCell``."""
    kind = kind_of(self)
    if input.dim() not in (1, 2) or input.size(-1) != self.input_size:
        raise BadInput(
            f"{type(self).__name__} got an input of shape {tuple(input.shape)}",
            fix=f"give it one of shape (batch, {self.input_size}) or ({self.input_size},)",
        )
    shape = (*input.shape[:-1], self.hidden_size)
    if hx is None:
        state = (input.new_zeros(shape),) * (2 if kind == "LSTM" else 1)
    else:
        state = tuple(hx) if kind == "LSTM" else (hx,)
    # A state of batch size 1 would be broadcast, which the kernel refuses.
    for part in state:
        if part.shape != shape:
            raise BadInput(
                f"{type(self).__name__} got a state of shape {tuple(part.shape)}", fix=f"its shape must be {shape}"
            )
    weights = _Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
    new = step(kind, self._dcsurgery_functions, F.linear(input, weights.ih, weights.bias_ih), state, weights)
    return new if kind == "LSTM" else new[0]
