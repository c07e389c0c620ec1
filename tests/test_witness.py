"""The value witness: it computes what an edited model has to compute, sees every deviation, and leaves no trace."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import dcsurgery as dcs
from dcsurgery.activations import ACTIVATION_NAMES, activation_by_name
from dcsurgery.checks.functional import derivatives_of
from dcsurgery.checks.running import watched
from dcsurgery.checks.values import check_values
from dcsurgery.plans import Edit
from dcsurgery.sites import ModulePlace
from dcsurgery.witness import Witness
from dcsurgery.witness.functions import replaced_autograd_function, replaced_code
from dcsurgery.witness.kernels import displaced
from dcsurgery.witness.references import reference_of


def grid():
    return torch.linspace(-9, 9, 61, dtype=torch.float64)


def rows(count=5, width=3, seed=1):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def checked(model, x=None, sabotage=None, **options):
    """Edit a model, let ``sabotage`` loose on the result, and return what the witness says."""
    inputs = (rows(),) if x is None else x
    surgery = dcs.apply(model, dcs.plan(model, example_inputs=inputs, **options))
    if sabotage is not None:
        sabotage(surgery.model)
    recording = watched(model, inputs).recording
    return check_values(model, surgery.model, surgery.plan.edits, recording, inputs)


class Around(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self, act=None, between=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.act = act
        self.between = between

    def forward(self, x):
        x = self.a(x)
        return self.b(self.act(x) if self.between is None else self.between(self, x))


def single(self, x):
    """Compute in float32, whatever is given: in another order of operations, other bits are rounded away."""
    return self.act(x).float().exp().log().to(x.dtype)


def test_a_model_that_rounds_to_float32_inside_is_compared_as_finely_as_it_rounds():
    class Reordered(nn.Module):
        def forward(self, x):
            return 0.5 * (x.clamp(min=0) * (1 + 1e-10)) ** 2

    def other_bits(model):
        model.act = Reordered()

    assert checked(Around(nn.SiLU(), lambda m, x: m.act(x)), sabotage=other_bits).status == "fail"
    check = checked(Around(nn.SiLU(), single), sabotage=other_bits)
    assert check.status == "pass"
    assert "rounds to 1.2e-07 inside" in check.reason

    def wrong(model):
        model.act = nn.ReLU()

    assert checked(Around(nn.SiLU(), single), sabotage=wrong).status == "fail"


class Cubed(torch.autograd.Function):
    """SiLU with a derivative of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s + x * s * (1 - s))


def swish(x):
    return x * torch.sigmoid(x)


# -- references --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *ACTIVATION_NAMES,
        "integrated-softplus(beta=2.0)",
        'integrated-gelu(approximate="tanh")',
        "integrated-elu(alpha=0.3)",
    ],
)
def test_a_reference_agrees_with_the_activation_that_is_put_in(name):
    x = grid().requires_grad_()
    value, expected = activation_by_name(name)(x), reference_of(name)(x)
    assert torch.allclose(value, expected, rtol=1e-13, atol=1e-13)
    slope, expected = (torch.autograd.grad(y.sum(), x)[0] for y in (value, expected))
    assert torch.allclose(slope, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_a_reference_is_as_exact_for_small_values_as_for_large_ones(name):
    # The activations of deep networks shrink, and a network's values are compared relative to themselves.
    sizes = torch.logspace(-9, 0, 91, dtype=torch.float64)
    x = torch.cat([sizes, -sizes])
    assert torch.allclose(reference_of(name)(x), activation_by_name(name)(x), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_a_reference_is_an_antiderivative_of_its_activation(name):
    x, h = grid() + 0.013, 1e-4
    function = reference_of(name)
    slope = (function(x + h) - function(x - h)) / (2 * h)
    plain = "relu" if name == "irelu" else name.removeprefix("integrated-").replace("-", "_")
    activation = (lambda t: F.relu(t) ** 2) if plain == "relu2" else getattr(F, plain)
    assert torch.allclose(slope, activation(x), rtol=1e-6, atol=1e-6)
    assert float(function(torch.zeros(1, dtype=torch.float64))) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", ["integrated-cosine", "integrated-elu(0.3)", "integrated-elu(alpha=", "plain"])
def test_a_name_without_a_second_formula_has_no_reference(name):
    assert reference_of(name) is None


# -- it agrees with every way of editing -------------------------------------------------------------------------------


class Checkpointed(Around):
    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)

    def body(self, x):
        return self.b(torch.tanh(self.act(self.a(x))))


MODELS = {
    "a module": lambda: Around(nn.SiLU()),
    "a module in place": lambda: Around(nn.ReLU(inplace=True)),
    "a function of torch in an attribute": lambda: Around(F.softplus),
    "a lambda in an attribute": lambda: Around(lambda x: 1.667 * F.silu(x)),
    "a function of several kernels": lambda: Around(between=lambda self, x: F.tanhshrink(F.softsign(x))),
    "a swish": lambda: Around(between=lambda self, x: swish(x) + swish(x)),
    "a method": lambda: Around(between=lambda self, x: x.tanh().relu_()),
    "an autograd.Function in an attribute": lambda: Around(Cubed.apply),
    "GLU": lambda: Around(nn.Sequential(nn.Linear(4, 8), nn.GLU())),
    "a norm": lambda: Around(nn.Sequential(nn.BatchNorm1d(4), nn.Tanh(), nn.LayerNorm(4))),
    "a norm of one's own kind": lambda: Around(between=lambda self, x: F.local_response_norm(x[None], 2)[0].relu()),
    "dropout": lambda: Around(nn.Sequential(nn.Dropout(0.3), nn.SiLU(), nn.Dropout(0.5))),
    "a checkpoint": lambda: Checkpointed(F.silu),
    "a checkpoint with a lambda": lambda: Checkpointed(lambda x: x * torch.sigmoid(x)),
    "a graph": lambda: torch.fx.symbolic_trace(Around(nn.Sequential(nn.SiLU(), nn.LayerNorm(4)))),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_edited_model_agrees_to_third_order(name):
    check = checked(MODELS[name](), gates=True)
    assert (check.status, check.limit) == ("pass", 1e-12), check
    assert check.reason.count("e-") + check.reason.count("0.0e+00") == 4


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_kernels_are_opened_by_the_dispatcher_alone(cls):
    torch.manual_seed(0)
    check = checked(cls(3, 4, 2, bidirectional=True), (torch.randn(4, 2, 3),), gates=cls is not nn.RNN)
    assert check.status == "pass", check


def test_only_the_selected_slot_of_a_shared_module_is_replaced():
    act = nn.SiLU()
    model = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act)
    assert checked(model, include="1").status == "pass"


def test_a_rescaled_model_returns_C_times_the_witness():
    assert checked(Around(nn.SiLU()), rescale=1e3).status == "pass"

    def other(model):
        model.label_scale.fill_(100.0)

    check = checked(Around(nn.SiLU()), rescale=1e3, sabotage=other)
    assert check.figure == pytest.approx(0.9)


def test_an_activation_of_the_users_own_is_its_own_reference():
    assert checked(Around(nn.SiLU()), activation=nn.Softplus(beta=2.0)).status == "pass"


# -- it sees what deviates ---------------------------------------------------------------------------------------------


class _Shaky(torch.autograd.Function):
    """IReLU whose derivative of order ``wrong`` is off by a hundredth."""

    @staticmethod
    def forward(ctx, x, order, wrong):
        ctx.save_for_backward(x)
        ctx.order, ctx.wrong = order, wrong
        value = (torch.relu(x) ** 2 / 2, torch.relu(x), (x > 0).to(x))[order]
        return value * (1.01 if order == wrong else 1.0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        if ctx.order == 2:
            return torch.zeros_like(x), None, None
        return grad * _Shaky.apply(x, ctx.order + 1, ctx.wrong), None, None


class Shaky(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, x):
        return _Shaky.apply(x, 0, self.wrong)


@pytest.mark.parametrize(("wrong", "what"), [(0, "values"), (1, "1st derivatives"), (2, "2nd derivatives")])
def test_it_names_the_order_and_the_tensor_that_deviate(wrong, what):
    def sabotage(model):
        model.act = Shaky(wrong)

    check = checked(Around(nn.SiLU()), sabotage=sabotage)
    assert check.status == "fail"
    assert check.reason.startswith(f"{what} differ at ")
    assert check.reason.partition(" at ")[2].startswith("output" if wrong == 0 else ("argument 0", "a.", "b."))
    assert 1e-4 < check.figure < 0.1


def test_a_second_derivative_that_is_cut_off_is_seen():
    class Cut(nn.Module):
        def forward(self, x):
            return torch.relu(x).detach() * x - 0.5 * torch.relu(x).detach() ** 2

    def sabotage(model):
        model.act = Cut()

    check = checked(Around(nn.SiLU()), sabotage=sabotage)
    assert check.status == "fail"
    assert "2nd derivatives" in check.reason


def test_a_norm_whose_result_is_written_into_needs_a_copy():
    def between(self, x):
        y = self.act(x)
        y.add_(1)
        return x * y

    def sabotage(model):
        model.act.copied = False

    assert checked(Around(nn.LayerNorm(4), between), irelu=False).status == "pass"
    assert checked(Around(nn.LayerNorm(4), between), irelu=False, sabotage=sabotage).status == "fail"


def test_outputs_that_are_missing_are_named():
    class Two(Around):
        def forward(self, x):
            y = super().forward(x)
            return {"energy": y.sum(), "rows": y}

    class One(Around):
        def forward(self, x):
            return {"energy": super().forward(x).sum()}

    def sabotage(model):
        model.__class__ = One

    assert "output['rows'] is missing" in checked(Two(nn.SiLU()), sabotage=sabotage).reason


# -- what it cannot tell -----------------------------------------------------------------------------------------------


def test_a_site_without_a_witness_is_named_and_nothing_is_claimed():
    def between(self, x):
        act = lambda t: 1.5 * torch.nn.functional.silu(t)
        return act(x)

    check = checked(Around(between=between))
    assert check.status == "skip"
    assert "1 sites have no witness" in check.reason
    assert "stood in 0 of 1 times" in check.reason


def test_an_edit_that_nobody_can_repeat_is_named():
    model = Around(nn.SiLU())
    edits = (Edit("act", "sharpen", "silu", ModulePlace("", "act")),)
    check = check_values(model, model, edits, watched(model, (rows(),)).recording, (rows(),))
    assert check.reason == "1 sites have no witness: act: what the edit 'sharpen' computes is not known"


def test_a_zero_reference_is_refused():
    check = checked(
        Around(between=lambda self, x: 0 * self.act(x), act=nn.SiLU()), sabotage=lambda m: m.b.bias.data.zero_()
    )
    assert check.status in ("fail", "skip")
    model = nn.Sequential(nn.Linear(3, 3), nn.SiLU())
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    check = checked(model)
    assert (check.status, check.reason) == ("skip", "the output is zero: a comparison would show nothing")


def test_a_reference_that_is_not_finite_is_refused():
    model = Around(nn.SiLU(), between=lambda self, x: torch.log(-self.act(x).square()))
    assert checked(model).reason == "output is not finite: a comparison would show nothing"


def test_a_model_that_does_not_run_in_float64_says_so():
    model = Around(nn.SiLU(), between=lambda self, x: self.act(x) @ torch.eye(4, dtype=torch.float32))
    check = checked(model)
    assert check.status == "skip"
    assert check.reason.startswith("the original does not run in float64 (RuntimeError: ")


# -- it leaves no trace ------------------------------------------------------------------------------------------------


def test_everything_is_put_back_also_after_an_exception():
    def broken(self, x):
        raise RuntimeError("broken")

    model = Around(swish)
    code = swish.__code__
    plan = dcs.plan(model, example_inputs=(rows(),))
    recording = watched(model, (rows(),)).recording
    forwards = {name: module.forward for name, module in model.named_modules()}
    for fails in (False, True):
        model.between = broken if fails else None
        expected = pytest.raises(RuntimeError, match="broken") if fails else torch.no_grad()
        with expected, Witness(model, plan.edits, recording) as witness:
            assert swish.__code__ is not code
            witness(rows())
        assert swish.__code__ is code
        assert float(F.silu(torch.ones(()))) == pytest.approx(0.7310586)
        assert {name: module.forward for name, module in model.named_modules()} == forwards
        assert swish(torch.ones(())) == torch.sigmoid(torch.ones(()))


def test_other_threads_keep_their_kernels_and_functions():
    found = {}

    def work():
        found["kernel"] = F.silu(torch.ones(())).item()
        found["function"] = swish(torch.ones(())).item()

    with (
        displaced({"silu"}, {"cpu"}, lambda name, args, kwargs, original: args[0] * 0),
        replaced_code(swish, lambda *_: 5),
    ):
        assert F.silu(torch.ones(())) == 0
        assert swish(torch.ones(())) == 5
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == pytest.approx({"kernel": 0.7310586, "function": 0.7310586})


def test_witnesses_can_be_nested():
    def outer(name, args, kwargs, original):
        return original() + 1

    def inner(name, args, kwargs, original):
        return original() + 10

    x = torch.zeros(())
    with displaced({"tanh"}, {"cpu"}, outer), replaced_code(swish, lambda *_: 1):
        with displaced({"tanh", "silu"}, {"cpu"}, inner), replaced_code(swish, lambda *_: 2):
            assert torch.tanh(x) == 10
            assert F.silu(x) == 10
            assert swish(x) == 2
        assert torch.tanh(x) == 1
        assert F.silu(x) == 0
        assert swish(x) == 1
    assert torch.tanh(x) == 0
    assert swish(x) == 0


def test_a_displaced_kernel_is_torchs_own_again_afterwards():
    def registered():
        return repr(torch.library.get_kernel(torch.ops.aten.silu.default, "AutogradCPU"))

    before = registered()
    with displaced({"silu"}, {"cpu"}, lambda name, args, kwargs, original: original()):
        assert registered() != before
    assert registered() == before


def test_a_displaced_kernel_keeps_every_derivative():
    with displaced({"silu"}, {"cpu"}, lambda name, args, kwargs, original: original()):
        x = grid().requires_grad_()
        passed = derivatives_of({"y": F.silu(x)}, {"x": x}, 3)
    plain = derivatives_of({"y": F.silu(x)}, {"x": x}, 3)
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(passed.orders, plain.orders, strict=True))


def test_code_with_free_variables_defaults_and_keywords_can_be_replaced():
    factor = 3

    def function(x, a=2, *, b=1):
        return factor * a * b * x

    with replaced_code(function, lambda args, kwargs, original: original(*args, **kwargs) + 1):
        assert function(1) == 7
        assert function(1, a=3, b=2) == 19
    assert function(1) == 6


def test_an_autograd_function_gets_a_forward_and_every_derivative_of_a_reference():
    class Split(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad * ctx.saved_tensors[0]

    x = grid().requires_grad_()
    for cls in (Cubed, Split):
        own = dict(vars(cls))
        before = derivatives_of({"y": cls.apply(x)}, {"x": x}, 2)
        with replaced_autograd_function(cls, lambda args: torch.sin):
            found = derivatives_of({"y": cls.apply(x)}, {"x": x}, 3)
        with replaced_autograd_function(cls, lambda args: None):
            passed = derivatives_of({"y": cls.apply(x)}, {"x": x}, 2)
        expected = derivatives_of({"y": torch.sin(x)}, {"x": x}, 3)
        assert torch.equal(found.values["y"], expected.values["y"])
        for mine, theirs in zip(found.orders, expected.orders, strict=True):
            assert torch.allclose(mine["x"], theirs["x"], rtol=1e-14, atol=1e-14)
        assert torch.equal(passed.orders[1]["x"], before.orders[1]["x"])
        assert {name: vars(cls)[name] for name in own} == own


# -- rounding ----------------------------------------------------------------------------------------------------------


def about_the_mean(self, x):
    """Of rows that are nearly the same, nothing is left but their last digits."""
    y = F.silu(x)
    return y - y.mean(0)


@pytest.mark.parametrize("size", [1e-10, 1e-7, 1e-4])
def test_a_small_fault_of_a_well_conditioned_model_is_no_rounding(size):
    def slightly_wrong(model):
        model.b.weight.data *= 1 + size

    check = checked(Around(nn.SiLU()).double(), (rows().double(),), slightly_wrong)
    assert check.status == "fail", str(check)


def test_what_the_last_bit_of_the_weights_decides_is_rounding():
    """Where numbers cancel, a fault of one rounding shows as a large one, and is none."""

    def one_rounding(model):
        model.a.weight.data *= 1 + 2**-52

    model, x = Around(between=about_the_mean).double(), 1 + 1e-6 * rows().double()
    model.b.bias.data.zero_()
    check = checked(model, (x,), one_rounding)
    assert check.status == "pass", str(check)
    assert check.figure > 1e-12
    assert check.reason.endswith("by no more than what the last bit of the weights changes there")
