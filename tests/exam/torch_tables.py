"""Cases from the tables that PyTorch tests itself with: ``module_db`` and ``op_db``."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from exam.case import Case
from exam.running import equal_bits, tensors

__all__ = ["module_cases", "operator_cases"]

# What has to be edited, written out: not taken from the catalog, which is what is examined here.
ACTIVATION_MODULES = frozenset(
    [
        "CELU",
        "ELU",
        "GELU",
        "Hardshrink",
        "Hardswish",
        "Hardtanh",
        "LeakyReLU",
        "LogSigmoid",
        "Mish",
        "PReLU",
        "ReLU",
        "ReLU6",
        "SELU",
        "SiLU",
        "Softplus",
        "Softshrink",
        "Softsign",
        "Tanh",
        "Tanhshrink",
        "Threshold",
    ]
)
NORM_MODULES = frozenset(
    [
        "BatchNorm1d",
        "BatchNorm2d",
        "BatchNorm3d",
        "GroupNorm",
        "InstanceNorm1d",
        "InstanceNorm2d",
        "InstanceNorm3d",
        "LayerNorm",
        "LocalResponseNorm",
        "RMSNorm",
    ]
)
COMPOSED_MODULES = frozenset(
    [
        "GRU",
        "GRUCell",
        "LSTM",
        "LSTMCell",
        "RNN",
        "RNNCell",
        "Transformer",
        "TransformerDecoderLayer",
        "TransformerEncoder",
        "TransformerEncoderLayer",
    ]
)
ACTIVATION_OPERATORS = frozenset(
    [
        "celu",
        "elu",
        "gelu",
        "hardshrink",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "logsigmoid",
        "mish",
        "prelu",
        "relu",
        "relu6",
        "rrelu",
        "selu",
        "silu",
        "softplus",
        "softshrink",
        "softsign",
        "tanh",
        "tanhshrink",
        "threshold",
    ]
)
NORM_OPERATORS = frozenset(
    ["batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm"]
)
GATE_OPERATORS = frozenset(["sigmoid", "hardsigmoid", "glu"])


class Holder(nn.Module):
    """A model around one module, so that the module is a part and not the whole."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.part(*args, **kwargs)


def _seed() -> None:
    torch.default_generator.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - PyTorch's own tables draw from the global generators


def _chosen(count: int, most: int) -> list[int]:
    """Return up to ``most`` of ``count`` indices, evenly spread."""
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(min(most, count))})


# -- modules -----------------------------------------------------------------------------------------------------------


def module_cases() -> Iterator[Case]:
    """Yield every nn module with its sample inputs; of many samples, an even choice."""
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        name = info.name.removeprefix("nn.")
        edits: int | None = int(name in ACTIVATION_MODULES | NORM_MODULES)
        most = 6 if edits else 3
        if name in COMPOSED_MODULES:
            edits, most = None, 12
        both = info.train_and_eval_differ or name in COMPOSED_MODULES
        for training in (True, False) if both else (False,):
            _seed()
            samples = list(info.module_inputs_func(info, "cpu", torch.float64, requires_grad=False, training=training))
            samples = [samples[index] for index in _chosen(len(samples), 2 * most)]
            samples = [sample for sample in samples if _has_numbers(info.module_cls, sample)]
            for index in _chosen(len(samples), most):
                yield Case(
                    "torch modules",
                    f"{name} {index} {'train' if training else 'eval'}",
                    functools.partial(_module, info.module_cls, samples[index]),
                    functools.partial(_arguments, samples[index].forward_input),
                    edits=edits,
                    training=training,
                )


def _has_numbers(cls: type[nn.Module], sample: Any) -> bool:
    """Say whether a sample gives finite numbers: from NaN and from nothing follows nothing."""
    _seed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some samples are what torch warns of
        found = list(tensors(_module(cls, sample)(*_arguments(sample.forward_input))))
    return all(bool(t.isfinite().all()) and t.numel() for t in found)


def _module(cls: type[nn.Module], sample: Any) -> nn.Module:
    given = sample.constructor_input
    part = cls(*given.args, **given.kwargs).double()
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in part.parameters()):
        part(*sample.forward_input.args)  # a lazy one gets its shapes from a first run
    return Holder(part)


def _arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(given.args), dict(given.kwargs)


# -- operators ---------------------------------------------------------------------------------------------------------

_SOURCE = """
class {name}(nn.Module):
    def __init__(self):
        super().__init__(){attribute}

    def forward(self, x, args, kwargs):
        {body}
"""


def _forms(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield the ways in which users write an operator: what it is called, an attribute, the body of ``forward``."""
    base = name.rpartition(".")[2]
    paths = [f"torch.{name}", *([f"torch.{base}"] if name != base else [])]
    for path in paths:
        yield f"function {path}", "", f"return {path}(x, *args, **kwargs)"
        yield f"attribute {path}", f"\n        self.act = {path}", "return self.act(x, *args, **kwargs)"
    yield "method", "", f"return x.{base}(*args, **kwargs)"
    yield "in-place method", "", f"y = x * 1\n        y.{base}_(*args, **kwargs)\n        return y"
    function = f"torch.{name}(y, *args, inplace=True, **kwargs)"
    yield "in-place function", "", f"y = x * 1\n        {function}\n        return y"


def _infos() -> Iterator[tuple[Any, torch.dtype]]:
    """Yield the rows of the table that are examined, each with a dtype that it takes."""
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.opinfo.core import UnaryUfuncInfo

    named = ACTIVATION_OPERATORS | NORM_OPERATORS | GATE_OPERATORS
    for info in op_db:
        if isinstance(info, UnaryUfuncInfo) or info.name.rpartition(".")[2] in named:
            dtypes = [d for d in (torch.float64, torch.complex128, torch.int64, torch.bool) if d in info.dtypes]
            if dtypes and info.name != "jiterator_unary":  # that one runs on GPUs only
                yield info, dtypes[0]


def operator_cases() -> Iterator[Case]:
    """Yield models that call an activation, gate, norm or pointwise operator in every way in which it can be written."""
    kinds: list[tuple[str, str, Any, list[Any]]] = []
    source = ["import torch\nfrom torch import nn\n"]
    for info, dtype in _infos():
        base = info.name.rpartition(".")[2]
        _seed()
        samples = [s for s in info.sample_inputs("cpu", dtype, requires_grad=False) if _gives_numbers(info, s)]
        edited = base in ACTIVATION_OPERATORS | NORM_OPERATORS
        chosen = [samples[index] for index in _chosen(len(samples), 3 if edited else 1)]
        for title, attribute, body in _forms(info.name):
            name = f"Model{len(kinds)}"
            source.append(_SOURCE.format(name=name, attribute=attribute, body=body))
            kinds.append(
                (name, f"{info.name}{info.variant_test_name and ' '}{info.variant_test_name}, {title}", info, chosen)
            )
    module = _imported("".join(source))
    for name, title, info, samples in kinds:
        cls = getattr(module, name)
        for index, sample in enumerate(samples):
            if _agrees(cls, info, sample):
                edits = int(info.name.rpartition(".")[2] in ACTIVATION_OPERATORS | NORM_OPERATORS)
                inputs = (sample.input, tuple(sample.args), dict(sample.kwargs))
                yield Case("torch operators", f"{title} {index}", cls, functools.partial(_same, inputs), edits=edits)


def _gives_numbers(info: Any, sample: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half precision is experimental
        found = list(tensors(info(sample.input.clone(), *sample.args, **sample.kwargs)))
    return all(bool(torch.isfinite(t.cfloat() if t.is_complex() else t).all()) and t.numel() for t in found)


def _same(inputs: Any) -> Any:
    return inputs


def _agrees(cls: type[nn.Module], info: Any, sample: Any) -> bool:
    """Say whether a way of writing exists and is this operator: what the table itself calls is the reference."""
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # half precision is experimental
            torch.default_generator.manual_seed(0)
            expected = list(tensors(info(sample.input, *sample.args, **sample.kwargs)))
            torch.default_generator.manual_seed(0)
            found = list(tensors(cls()(sample.input, tuple(sample.args), dict(sample.kwargs))))
    except (TypeError, AttributeError, RuntimeError, NotImplementedError):
        return False
    return equal_bits(list(expected), list(found))


def _imported(source: str) -> ModuleType:
    """Import source from a file of its own, so that its classes can be read, pickled and rewritten like a user's."""
    folder = Path(tempfile.mkdtemp(prefix="exam"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "exam_operators.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
