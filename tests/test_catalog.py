"""The catalog: complete, unambiguous, and right about what each operator executes as."""

from __future__ import annotations

import functools
import importlib
import inspect
import types
from pathlib import Path

import pytest
import torch
import torch_geometric.nn.models.dimenet as pyg_dimenet
import torch_geometric.nn.models.schnet as pyg_schnet
import torch_geometric.nn.models.visnet as pyg_visnet
import torch_geometric.nn.norm as pyg_norm
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dcsurgery.catalog import (
    FUSED_KERNELS,
    FUSED_MODULES,
    OPERATORS,
    is_norm_fusion,
    match_basis,
    match_function,
    match_kernel,
    match_method,
    match_module,
    operator_named,
)
from dcsurgery.catalog.table import main, markdown_table, with_table
from dcsurgery.errors import BadInput
from dcsurgery.subclass import amend

PAGE = Path(__file__).parents[1] / "docs" / "catalog.md"

#: Classes of torch.nn.modules.activation that are no row, and why.
NO_ACTIVATIONS = {
    "MultiheadAttention": "a layer; its softmax weights tokens",
    "Softmin": "normalizes over neighbours",
    "Softmax": "normalizes over neighbours",
    "Softmax2d": "normalizes over neighbours",
    "LogSoftmax": "normalizes over neighbours",
}

#: Functions of torch.nn.functional that have "norm" in their name and are no row, and why.
NO_NORMALIZATIONS = {"normalize": "scales vectors to length one"}

MODULES = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "prelu": nn.PReLU(),
    "rrelu": nn.RReLU(),
    "elu": nn.ELU(),
    "celu": nn.CELU(),
    "selu": nn.SELU(),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "gelu": nn.GELU(),
    "softplus": nn.Softplus(),
    "softsign": nn.Softsign(),
    "tanh": nn.Tanh(),
    "tanhshrink": nn.Tanhshrink(),
    "hardtanh": nn.Hardtanh(),
    "relu6": nn.ReLU6(),
    "hardswish": nn.Hardswish(),
    "hardshrink": nn.Hardshrink(),
    "softshrink": nn.Softshrink(),
    "threshold": nn.Threshold(0.1, 2.0),
    "logsigmoid": nn.LogSigmoid(),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "glu": nn.GLU(),
}

NORMS = {
    "batch_norm": [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.LazyBatchNorm1d(),
        nn.LazyBatchNorm2d(),
        nn.LazyBatchNorm3d(),
        pyg_norm.BatchNorm(4),
    ],
    "instance_norm": [
        nn.InstanceNorm1d(4),
        nn.InstanceNorm2d(4),
        nn.InstanceNorm3d(4),
        nn.LazyInstanceNorm1d(),
        nn.LazyInstanceNorm2d(),
        nn.LazyInstanceNorm3d(),
        pyg_norm.InstanceNorm(4),
    ],
    "layer_norm": [nn.LayerNorm(4), pyg_norm.LayerNorm(4)],
    "group_norm": [nn.GroupNorm(2, 4)],
    "rms_norm": [nn.RMSNorm(4)],
    "local_response_norm": [nn.LocalResponseNorm(2), nn.CrossMapLRN2d(2)],
    "hetero_batch_norm": [pyg_norm.HeteroBatchNorm(4, 2)],
    "hetero_layer_norm": [pyg_norm.HeteroLayerNorm(4, 2)],
    "graph_norm": [pyg_norm.GraphNorm(4)],
    "graph_size_norm": [pyg_norm.GraphSizeNorm()],
    "pair_norm": [pyg_norm.PairNorm()],
    "mean_subtraction_norm": [pyg_norm.MeanSubtractionNorm()],
    "message_norm": [pyg_norm.MessageNorm()],
    "diff_group_norm": [pyg_norm.DiffGroupNorm(4, 2)],
    "equivariant_norm": [pyg_visnet.VecLayerNorm(4, trainable=False)],
}

#: Every form of the functional norms, on (2, 4, 5).
NORM_CALLS = {
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)),
    "instance_norm": F.instance_norm,
    "layer_norm": lambda x: F.layer_norm(x, (5,)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "rms_norm": lambda x: F.rms_norm(x, (5,)),
    "local_response_norm": lambda x: F.local_response_norm(x, 2),
}

#: Arithmetic and bookkeeping that composite operators also execute.
PLUMBING = {
    *("abs", "add", "avg_pool2d", "clone", "constant_pad_nd", "detach", "div", "empty", "empty_like", "lift_fresh"),
    *("mean", "mul", "ones", "pad", "pow", "rsqrt", "squeeze", "sub", "unsqueeze", "view", "zeros"),
}

#: Functions that a package composes from other operators, and as what these execute.
COMPOSED = {"torch_geometric.nn.resolver.swish": ("sigmoid",)}


class Executed(TorchDispatchMode):
    """Names of the ATen operators that execute, without overload and in-place underscore."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name.removeprefix("aten::").rstrip("_"))
        return func(*args, **(kwargs or {}))


def resolved(path: str) -> object:
    """Import and return the object at a path: torch's own functions and those of installed packages."""
    module, _, name = path.rpartition(".")
    if path.startswith("torch._C.") or module in {"torch", "torch.special"}:
        return functools.reduce(getattr, path.split(".")[1:], torch)
    return getattr(importlib.import_module(module), name)


def installed(path: str) -> bool:
    return importlib.util.find_spec(path.split(".", maxsplit=1)[0]) is not None


def arguments(name: str, x: torch.Tensor) -> tuple[torch.Tensor | float, ...]:
    """Return the arguments of an activation in one of its forms."""
    more = {
        "prelu": (torch.tensor([0.25]),),
        "_prelu_kernel": (torch.tensor([[0.25]]),),
        "threshold": (0.1, 2.0),
        "rrelu_with_noise": (torch.ones_like(x),),
    }
    return (x, *more.get(name.rstrip("_"), ()))


FUNCTIONS = [
    (row, path) for row in OPERATORS if row.role in {"activation", "gate"} for path in row.functions if installed(path)
]


# --- completeness -----------------------------------------------------------------------------------------------------


def test_every_activation_class_of_torch_has_a_row_or_a_reason() -> None:
    classes = {
        name
        for name, cls in vars(nn.modules.activation).items()
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls is not nn.Module
    }
    classes.discard("NonDynamicallyQuantizableLinear")  # a linear layer, imported there for attention
    listed = {path.rpartition(".")[2] for row in OPERATORS for path in row.modules if path.startswith("torch.nn.")}
    assert classes - listed == set(NO_ACTIVATIONS)


@pytest.mark.filterwarnings("ignore::UserWarning")  # functions that want further arguments
def test_every_elementwise_nonlinear_function_of_torch_has_a_row() -> None:
    x = torch.linspace(-8, 8, 33, dtype=torch.float64)
    seen = set()
    for name, fn in vars(F).items():
        if name.startswith(("_", "dropout")) or not callable(fn) or isinstance(fn, type):
            continue
        try:
            y, half = fn(x.clone()), fn(x[8:24].clone())
            elementwise = y.shape == x.shape and torch.equal(y[8:24], half) and torch.equal(fn(x.clone()), y)
        except (TypeError, RuntimeError, ValueError, AttributeError, IndexError, AssertionError, NotImplementedError):
            continue
        if elementwise and float(torch.diff(y, n=2).abs().max()) > 1e-9:
            seen.add(name)
            match = match_function(fn)
            assert match is not None, name
            assert match.operator.role in {"activation", "gate"}, name
    assert len(seen) >= 20
    assert {"relu", "relu_", "silu", "gelu", "softsign", "hardsigmoid", "selu_"} <= seen


def test_every_form_of_a_listed_function_in_torch_has_the_same_row() -> None:
    names = {path.rpartition(".")[2].rstrip("_") for row, path in FUNCTIONS if path.startswith("torch.")}
    spaces = (F, torch, torch._C._nn, torch._C._VariableFunctions, torch.special, torch.Tensor)
    for name in names:
        forms = [getattr(space, form) for space in spaces for form in (name, f"{name}_") if hasattr(space, form)]
        found = {match and match.operator.name for match in map(match_function, forms)}
        assert len(found) == 1, (name, found)
        assert None not in found, name


def test_every_normalization_class_of_torch_has_a_row() -> None:
    names = [
        name for name in dir(nn) if name.endswith("Norm") or "Norm1d" in name or "Norm2d" in name or "Norm3d" in name
    ]
    names += ["CrossMapLRN2d"]
    covered = {type(module).__name__ for modules in NORMS.values() for module in modules}
    assert set(names) <= covered
    assert len(names) >= 18


def test_every_normalization_of_pyg_has_a_row() -> None:
    covered = {type(module) for modules in NORMS.values() for module in modules}
    assert {getattr(pyg_norm, name) for name in pyg_norm.__all__} <= covered


def test_every_function_with_norm_in_its_name_has_a_row_or_a_reason() -> None:
    names = {n for n, fn in vars(F).items() if "norm" in n and n[0] != "_" and isinstance(fn, types.FunctionType)}
    assert {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"} <= names
    missing = {name for name in names if match_function(getattr(F, name)) is None}
    assert missing == set(NO_NORMALIZATIONS)


def test_names_are_unique_and_every_gate_and_basis_has_a_reason() -> None:
    assert len({row.name for row in OPERATORS}) == len(OPERATORS)
    for row in OPERATORS:
        assert bool(row.reason) == (row.role in {"gate", "basis"}), row.name
    paths = [path for row in OPERATORS for path in (*row.modules, *row.functions)]
    assert len(set(paths)) == len(paths)


# --- every form of an operator is the same row ------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_the_module_is_the_row(name: str) -> None:
    match = match_module(MODULES[name])
    assert match is not None
    assert (match.operator.name, match.match) == (name, "listed")


@pytest.mark.parametrize(("name", "module"), [(name, module) for name, modules in NORMS.items() for module in modules])
def test_the_normalization_is_the_row(name: str, module: nn.Module) -> None:
    match = match_module(module)
    assert match is not None
    assert match.operator.name == name
    assert match.operator.role == "normalization"
    assert not is_norm_fusion(module)


def test_every_path_of_torch_and_of_installed_packages_leads_somewhere() -> None:
    for row in OPERATORS:
        for path in row.functions:
            if installed(path):
                match = match_function(resolved(path))
                assert match is not None, path
                assert match.operator is row, path
        for path in row.modules:
            if "*" not in path and installed(path):
                assert issubclass(resolved(path), nn.Module), path  # type: ignore[arg-type]
        for name in row.methods:
            assert match_method(name) is row
            assert match_function(getattr(torch.Tensor, name)).operator is row  # type: ignore[union-attr]
        for kernel in row.kernels:
            assert hasattr(torch.ops.aten, kernel), kernel


@pytest.mark.parametrize(("row", "path"), FUNCTIONS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("mode", ["plain", "grad", "inference"])
def test_a_function_executes_as_the_kernels_of_its_row(row, path: str, mode: str) -> None:
    x = torch.randn(4, 6, requires_grad=mode == "grad")
    x = x * 1 if mode == "grad" else x  # in-place operators want no leaf
    given = arguments(path.rpartition(".")[2], x)
    with torch.inference_mode(mode == "inference"), Executed() as executed:
        resolved(path)(*given)
    kernels = COMPOSED.get(path, row.kernels)
    assert executed.names - PLUMBING <= set(kernels)
    assert executed.names & set(kernels) or not kernels


@pytest.mark.parametrize("name", [name for name, row in MODULES.items() if name != "threshold"])
def test_a_module_executes_as_the_kernels_of_its_row(name: str) -> None:
    x = torch.randn(4, 6)
    with torch.no_grad(), Executed() as executed:
        MODULES[name](x)
    assert executed.names - PLUMBING <= set(operator_named(name).kernels)


@pytest.mark.parametrize("name", NORM_CALLS)
@pytest.mark.parametrize("inference", [False, True])
def test_a_functional_norm_executes_as_the_kernels_of_its_row(name: str, inference: bool) -> None:
    x = torch.randn(2, 4, 5)
    with torch.inference_mode(inference), Executed() as executed:
        NORM_CALLS[name](x)
    assert executed.names - PLUMBING <= set(operator_named(name).kernels)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in {"softsign", "tanhshrink"}])
def test_aten_overloads_and_packets_are_the_row(name: str) -> None:
    row = operator_named(name)
    own = {"logsigmoid": "log_sigmoid", "prelu": "prelu"}.get(name, name)
    assert own in row.kernels
    for form in (own, f"{own}_"):
        packet = getattr(torch.ops.aten, form, None)
        if packet is None:
            continue
        assert match_function(packet).operator is row  # type: ignore[union-attr]
        for overload in packet.overloads():
            assert match_function(getattr(packet, overload)).operator is row  # type: ignore[union-attr]


def test_aten_norms_are_matched_and_their_backwards_are_not() -> None:
    aten = torch.ops.aten
    for name in (
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
    ):
        assert match_function(getattr(aten, name)).operator.name == "batch_norm"  # type: ignore[union-attr]
    assert match_function(aten.native_layer_norm.default).operator.name == "layer_norm"  # type: ignore[union-attr]
    assert match_function(aten.native_group_norm.default).operator.name == "group_norm"  # type: ignore[union-attr]
    assert match_function(aten._fused_rms_norm.default).operator.name == "rms_norm"  # type: ignore[union-attr]
    for name in (
        "tanh_backward",
        "silu_backward",
        "threshold_backward",
        "native_layer_norm_backward",
        "linalg_vector_norm",
    ):
        assert match_function(getattr(aten, name)) is None, name
        assert match_kernel(name) is None, name


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("hardtanh", "hardtanh"),
        ("elu", "elu"),
        ("tanh", "tanh"),
        ("sigmoid", "sigmoid"),
        ("native_batch_norm", "batch_norm"),
        ("silu_", "silu"),
        ("aten::gelu.default", "gelu"),
        ("relu6", "relu6"),
    ],
)
def test_a_shared_kernel_is_named_after_the_most_general_row(kernel: str, name: str) -> None:
    assert match_kernel(kernel) is operator_named(name)


@pytest.mark.parametrize(
    "fn",
    [
        *(torch.sin, torch.exp, torch.softmax, torch.abs, torch.clamp, F.softmax, F.normalize, F.linear, F.dropout),
        *(
            torch.Tensor.softmax,
            torch.ops.aten.mul.Tensor,
            torch.ops.aten._softmax.default,
            torch.nn.utils.spectral_norm,
        ),
        *(print, len, [], {}, None, 3, "relu", nn.ReLU, lambda x: x),
    ],
    ids=lambda fn: getattr(fn, "__name__", repr(fn)),  # an address differs from process to process
)
def test_what_is_no_row_is_not_matched(fn: object) -> None:
    assert match_function(fn) is None


def test_softmax_and_containers_are_not_matched() -> None:
    others = (nn.Softmax(-1), nn.MultiheadAttention(4, 2), nn.Linear(2, 2), nn.Dropout(), nn.Identity(), nn.LSTM(2, 2))
    containers = (nn.Sequential(nn.ReLU()), nn.ModuleList([nn.ReLU()]), nn.ModuleDict({"a": nn.ReLU()}))
    assert [match_module(module) for module in (*others, *containers)] == [None] * 9
    assert match_method("softmax") is None
    assert match_kernel("_softmax") is None


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (nn.LeakyReLU(0.2), {"negative_slope": 0.2}),
        (nn.GELU("tanh"), {"approximate": "tanh"}),
        (nn.Softplus(2.0, 30.0), {"beta": 2.0, "threshold": 30.0}),
        (nn.Hardtanh(-2, 3), {"min_val": -2, "max_val": 3}),
        (nn.Threshold(0.1, 2.0), {"threshold": 0.1, "value": 2.0}),
        (nn.LayerNorm((3, 4), eps=1e-3), {"normalized_shape": [3, 4], "eps": 1e-3, "elementwise_affine": True}),
        (nn.GroupNorm(2, 4), {"num_groups": 2, "num_channels": 4, "eps": 1e-5, "affine": True}),
        (nn.ReLU(inplace=True), {}),
    ],
)
def test_settings_of_modules_are_plain_values(module: nn.Module, parameters: dict) -> None:
    match = match_module(module)
    assert match is not None
    assert match.parameters == parameters


def test_keywords_of_partials_are_parameters_and_the_outer_ones_win() -> None:
    inner = functools.partial(F.leaky_relu, negative_slope=0.2, inplace=True)
    inner.note = "a partial with attributes is not merged into the outer one"  # type: ignore[attr-defined]
    match = match_function(functools.partial(inner, negative_slope=0.3))
    assert match is not None
    assert (match.operator.name, match.parameters) == ("leaky_relu", {"negative_slope": 0.3})
    assert match_function(functools.partial(F.gelu, approximate="tanh")).parameters == {"approximate": "tanh"}  # type: ignore[union-attr]


def test_a_partial_that_binds_the_input_is_no_activation() -> None:
    assert match_function(functools.partial(F.leaky_relu, torch.zeros(1))) is None


def test_message_norm_returns_the_message() -> None:
    x, message = torch.randn(3, 4), torch.randn(3, 4)
    signature = list(inspect.signature(pyg_norm.MessageNorm.forward).parameters)
    assert signature[1 + operator_named("message_norm").returns] == "msg"
    out = pyg_norm.MessageNorm()(x, message)
    # What comes out points along the message, so that the message is what a deletion has to return.
    assert torch.allclose(F.normalize(out), F.normalize(message), atol=1e-6)
    assert all(row.returns == 0 for row in OPERATORS if row.name != "message_norm")


# --- subclasses -------------------------------------------------------------------------------------------------------


class Named(nn.SiLU):
    def extra_repr(self) -> str:
        return "mine"


class NormAct(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(x))


class Noisy(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def test_a_subclass_that_inherits_forward_is_the_listed_class() -> None:
    assert match_module(Named()).operator.name == "silu"  # type: ignore[union-attr]


def test_a_subclass_with_its_own_forward_is_not_matched() -> None:
    assert match_module(Noisy()) is None
    assert match_module(NormAct(3)) is None
    assert is_norm_fusion(NormAct(3))
    assert not is_norm_fusion(Noisy())
    assert not is_norm_fusion(nn.Linear(2, 2))


def test_an_instance_with_a_replaced_forward_is_not_matched() -> None:
    module = nn.SiLU()
    module.forward = lambda x: x + 1  # type: ignore[method-assign]
    assert match_module(module) is None


class Unchanged:
    """An amendment that leaves forward alone, or deletes the norm."""

    def __init__(self, *, deletes: bool) -> None:
        self.deletes = deletes

    def members(self, cls: type[nn.Module]) -> dict:
        return {"forward": lambda self, x: x} if self.deletes else {"label": 1}


def test_an_amended_module_is_what_its_forward_says() -> None:
    deleted, labelled = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    undo = amend(deleted, Unchanged(deletes=True))
    amend(labelled, Unchanged(deletes=False))
    assert match_module(deleted) is None
    assert not is_norm_fusion(deleted)
    assert match_module(labelled).operator.name == "batch_norm"  # type: ignore[union-attr]
    undo()
    assert match_module(deleted).operator.name == "batch_norm"  # type: ignore[union-attr]


# --- packages ---------------------------------------------------------------------------------------------------------


def stand_in(path: str, base: type[nn.Module] = nn.Module) -> nn.Module:
    """Return an instance of a class that bears the name of one in a package that need not be installed."""
    module, _, name = path.rpartition(".")
    return type(name, (base,), {"__module__": module, "forward": lambda self, x: x})()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("fairchem.core.models.gemnet.layers.base_layers.ScaledSiLU", "scaled_silu"),
        ("ocpmodels.models.gemnet.layers.base_layers.SiQU", "siqu"),
        ("fairchem.core.models.equiformer_v2.activation.SmoothLeakyReLU", "smooth_leaky_relu"),
        ("transformers.activations.QuickGELUActivation", "quick_gelu"),
        ("transformers.activations.NewGELUActivation", "gelu_tanh"),
        ("transformers.models.llama.modeling_llama.LlamaRMSNorm", "rms_norm"),
        ("timm.layers.norm.LayerNorm2d", "layer_norm"),
        ("e3nn.nn._batchnorm.BatchNorm", "equivariant_norm"),
        ("nets.equiformer_v2.layer_norm.EquivariantRMSNormArraySphericalHarmonicsV2", "equivariant_norm"),
    ],
)
def test_optional_packages_are_told_by_name_alone(path: str, name: str) -> None:
    assert match_module(stand_in(path)).operator.name == name  # type: ignore[union-attr]


def test_names_of_other_packages_are_not_matched() -> None:
    for path in (
        "mine.ScaledSiLU",
        "mine.ReLU",
        "torch.nn.modules.activation.ReLU2",
        "transformers.models.x.RMSNormGated",
    ):
        assert match_module(stand_in(path)) is None, path


def test_a_norm_fusion_of_another_package_is_seen_without_importing_it() -> None:
    fused = type("BatchNormAct2d", (nn.BatchNorm2d,), {"__module__": "timm.layers.norm_act", "forward": lambda s, x: x})
    assert is_norm_fusion(fused(3))
    assert match_module(fused(3)) is None


def test_a_function_that_only_bears_a_listed_name_is_not_matched() -> None:
    def swish(x: torch.Tensor) -> torch.Tensor:
        return x

    swish.__module__, swish.__qualname__ = "torch_geometric.nn.resolver", "swish"
    assert match_function(swish) is None


def test_shifted_softplus_of_pyg_is_listed_with_its_shift() -> None:
    match = match_module(pyg_schnet.ShiftedSoftplus())
    assert match is not None
    assert match.operator.name == "shifted_softplus"
    assert match.parameters["shift"] == pytest.approx(0.6931, abs=1e-4)


def test_deepxde_activations_are_listed_and_its_sine_is_not() -> None:
    activations = pytest.importorskip("deepxde.nn.activations")
    names = {"elu": "elu", "gelu": "gelu", "relu": "relu", "selu": "selu", "sigmoid": "sigmoid", "silu": "silu"}
    for given, name in {**names, "swish": "silu", "tanh": "tanh"}.items():
        assert match_function(activations.get(given)).operator.name == name  # type: ignore[union-attr]
    assert match_function(activations.get("sin")) is None
    adaptive = activations.get("LAAF-10 tanh")
    assert match_module(adaptive) is None  # its trainable slope stays; the call inside is the site
    assert match_function(adaptive.activation).operator.name == "tanh"  # type: ignore[union-attr]


BASES = [
    (pyg_schnet.GaussianSmearing(), "gaussian_basis"),
    (pyg_dimenet.BesselBasisLayer(3), "bessel_basis"),
    (pyg_dimenet.SphericalBasisLayer(2, 2), "spherical_basis"),
    (pyg_dimenet.Envelope(5), "envelope"),
    (pyg_visnet.ExpNormalSmearing(trainable=False), "exp_normal_basis"),
    (pyg_visnet.CosineCutoff(5.0), "cutoff"),
    (stand_in("ocpmodels.models.gemnet.layers.radial_basis.PolynomialEnvelope"), "envelope"),
    (stand_in("somebody.copy.RadialBasis"), "radial_basis"),
    (stand_in("schnetpack.nn.radial.GaussianRBF"), "gaussian_basis"),
]


@pytest.mark.parametrize(("module", "name"), BASES)
def test_bases_are_told_by_their_class_name(module: nn.Module, name: str) -> None:
    row = match_basis(module)
    assert row is not None
    assert (row.name, row.role) == (name, "basis")
    assert match_module(module) is None


def test_other_modules_are_no_bases() -> None:
    assert [match_basis(module) for module in (nn.SiLU(), nn.BatchNorm1d(2), nn.Linear(2, 2))] == [None] * 3


# --- fused kernels ----------------------------------------------------------------------------------------------------


def test_fused_kernels_exist_and_are_no_rows() -> None:
    for kernel, content in FUSED_KERNELS.items():
        assert hasattr(torch.ops.aten, kernel), kernel
        assert match_kernel(kernel) is None
        assert content
    assert "_native_multi_head_attention" not in FUSED_KERNELS


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.LSTM(3, 4), torch.randn(2, 1, 3)),
        (nn.GRU(3, 4), torch.randn(2, 1, 3)),
        (nn.RNN(3, 4), torch.randn(2, 1, 3)),
        (nn.RNN(3, 4, nonlinearity="relu"), torch.randn(2, 1, 3)),
        (nn.LSTMCell(3, 4), torch.randn(2, 3)),
        (nn.GRUCell(3, 4), torch.randn(2, 3)),
        (nn.RNNCell(3, 4, nonlinearity="relu"), torch.randn(2, 3)),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), torch.randn(2, 3, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_a_recurrent_or_transformer_layer_executes_is_known(
    module: nn.Module, x: torch.Tensor, inference: bool
) -> None:
    with torch.inference_mode(inference), torch.no_grad(), Executed() as executed:
        module(x)
    fused = executed.names & set(FUSED_KERNELS)
    inside = {row.name for row in map(match_kernel, executed.names) if row is not None}
    assert fused or inside
    listed = FUSED_MODULES.get(f"{type(module).__module__}.{type(module).__qualname__}")
    if listed is not None:
        assert inside <= set(listed)


def test_operators_inside_fused_modules_have_rows() -> None:
    for path, names in FUSED_MODULES.items():
        assert issubclass(resolved(path), nn.Module)  # type: ignore[arg-type]
        for name in names:
            assert operator_named(name).role in {"activation", "gate"}


# --- names and the page -----------------------------------------------------------------------------------------------


def test_an_unknown_operator_is_refused_with_near_misses() -> None:
    with pytest.raises(BadInput, match=r"no operator is called 'sillu'.*did you mean 'silu'"):
        operator_named("sillu")
    with pytest.raises(BadInput, match="lists all operators"):
        operator_named("?")


def test_the_page_has_the_table_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "run: python -m dcsurgery.catalog.table docs/catalog.md"
    for row in OPERATORS:
        assert f"| `{row.name}` | {row.role} |" in page


def test_renewing_the_table_leaves_the_rest_of_a_page_alone(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    stale = page.replace(markdown_table(), "stale")
    assert stale != page
    path = tmp_path / "page.md"
    path.write_text(stale, encoding="utf-8")
    main([str(path)])
    assert path.read_text(encoding="utf-8") == page


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(BadInput, match="no place for the table"):
        with_table("# a page")
