"""Checks: every planted fault is caught by the check that is there for it, and its message names the place."""

from __future__ import annotations

import types
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dcsurgery as dcs
from dcsurgery.census import take_census
from dcsurgery.checks.derivatives import check_derivatives
from dcsurgery.checks.outputs import equal
from dcsurgery.errors import BadInput
from dcsurgery.report import Check, Report
from dcsurgery.surgery import examine

CHECKS = {
    "keys": "pass",
    "structure": "pass",
    "residual": "pass",
    "known sites": "pass",
    "reached": "pass",
    "other sites": "pass",
    "profiler": "pass",
    "graph equals plan": "pass",
    "finite": "pass",
    "value witness": "pass",
    "gradcheck": "pass",
    "forces": "skip",  # there are none
    "PDE order": "pass",
    "other mode": "pass",
    "other size": "pass",
    "identity": "pass",
    "undo": "pass",
    "reload": "pass",
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.act = nn.SiLU()
        self.second = nn.Linear(4, 4)
        self.third = nn.Linear(4, 4)
        self.spare = nn.Tanh()

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        x = F.softplus(self.second(x))
        return self.spare(self.third(x))


class WrongSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 0.5 * x * x

    @staticmethod
    def backward(ctx, grad):
        return 1.01 * grad * ctx.saved_tensors[0]


class NoCurvature(torch.autograd.Function):
    """``x³``: its first derivative is right, the second is not."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return grad * 3 * ctx.saved_tensors[0].detach() ** 2


class Square3(torch.autograd.Function):
    """``3 x²`` without a second derivative of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 3 * x**2

    @staticmethod
    def backward(ctx, grad):
        return grad * 6 * ctx.saved_tensors[0].detach()


class NoThird(torch.autograd.Function):
    """``x³``: two derivatives are right, the third is not."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return grad * Square3.apply(ctx.saved_tensors[0])


class Cube(nn.Module):
    def __init__(self, cube=lambda x: x**3):
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.cube = cube

    def forward(self, x):
        return self.cube(self.lin(x))


class Zero(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.act = nn.Linear(3, 3), nn.SiLU()

    def forward(self, x):
        return 0 * self.act(self.lin(x))


class Forgetful(nn.Module):
    """Loses its weight on the way through a file."""

    def __init__(self):
        super().__init__()
        self.lin, self.act = nn.Linear(3, 3), nn.SiLU()

    def __setstate__(self, state):
        super().__setstate__(state)
        self.lin.weight = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x):
        return self.act(self.lin(x))


class Local(Zero):
    def __init__(self):
        super().__init__()
        self.rule = lambda x: (x, x)

    def forward(self, x):
        return self.act(self.lin(x))


class Fixed(nn.Module):
    """Does not run in float64."""

    def __init__(self):
        super().__init__()
        self.lin, self.act = nn.Linear(3, 3), nn.SiLU()

    def forward(self, x):
        return self.act(self.lin(x)) @ torch.ones(3, 1)


class Integers(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(x.float()).round().long()


def net():
    torch.manual_seed(0)
    return Net()


def inputs():
    return (torch.randn(5, 3, generator=torch.Generator().manual_seed(1)),)


def examined(model, sabotage=None, x=None, census=None, **options):
    """Plan and apply, let ``sabotage`` loose on the result, and return what the checks say."""
    x = inputs() if x is None else x
    census = census or dcs.inspect(model, x)
    surgery = dcs.apply(model, dcs.plan(model, example_inputs=x, **options))
    if sabotage is not None:
        sabotage(surgery.model)
    return examine(model, surgery, census, x)


def subclassed(model, forward):
    """Give a live model a forward of ours around its own."""
    cls = type(model)
    model.__class__ = type(
        cls.__name__, (cls,), {"forward": lambda self, x: forward(self, x, super(model.__class__, self))}
    )


def test_a_sound_edit_passes_every_check():
    report = examined(net(), exclude="spare")
    assert {check.name: check.status for check in report} == CHECKS
    assert [check.name for check in report] == list(CHECKS)
    assert report.ok
    assert report.failures == ()


# -- planted faults ----------------------------------------------------------------------------------------------------


def test_residual_sees_an_edit_that_was_taken_out():
    def sabotage(model):
        model.act = nn.SiLU()

    check = examined(net(), sabotage, exclude="spare")["residual"]
    assert (check.status, check.figure, check.reason) == ("fail", 1, "act: {'silu': 1}")


def test_residual_sees_a_norm_that_came_back():
    def sabotage(model):
        model.norm = nn.LayerNorm(4)

    check = examined(net(), sabotage, exclude="spare")["residual"]
    assert (check.status, check.reason) == ("fail", "norm: {'native_layer_norm': 1}")


def test_residual_sees_an_activation_that_was_only_wrapped():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.gain = nn.SiLU(), nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.gain * self.inner(x)

    def sabotage(model):
        model.act = Wrapped()

    check = examined(net(), sabotage, exclude="spare")["residual"]
    assert (check.status, check.reason) == ("fail", "act.inner: {'silu': 1}")


def test_residual_sees_a_call_that_was_not_rewritten_and_names_the_line():
    def sabotage(model):
        model.__class__ = Net

    check = examined(net(), sabotage, exclude="spare")["residual"]
    line = Net.forward.__code__.co_firstlineno + 2
    assert (check.status, check.reason) == ("fail", f"the model, Net.forward, line {line}: {{'softplus': 1}}")


def test_a_stray_activation_is_seen_with_its_file_and_line():
    def stray(self, x, above):
        return above.forward(F.silu(x))

    report = examined(net(), lambda model: subclassed(model, stray), exclude="spare")
    line = stray.__code__.co_firstlineno + 1
    assert (
        report["other sites"].reason
        == f"the model, {stray.__qualname__}, line {line}: None became Counter({{'silu': 1}})"
    )


def test_other_sites_sees_a_site_that_nobody_selected():
    def sabotage(model):
        model.spare = nn.Identity()

    check = examined(net(), sabotage, exclude="spare")["other sites"]
    assert (check.status, check.reason) == ("fail", "spare: Counter({'tanh': 1}) became None")


def test_other_sites_sees_a_site_that_runs_twice():
    report = examined(
        net(), lambda m: subclassed(m, lambda self, x, above: self.spare(above.forward(x))), exclude="spare"
    )
    assert report["other sites"].status == "fail"
    assert "spare" in report["other sites"].reason


def test_keys_sees_swapped_parameters():
    def sabotage(model):
        model.second.weight, model.third.weight = model.third.weight, model.second.weight

    check = examined(net(), sabotage, exclude="spare")["keys"]
    assert (check.status, check.figure) == ("fail", 2)
    assert check.reason == "lost or changed: second.weight, third.weight"


def test_keys_sees_a_dtype_that_changed():
    check = examined(net(), lambda model: model.second.to(torch.bfloat16).float().to(torch.float64), exclude="spare")
    assert "second.weight" in check["keys"].reason


def test_finite_counts_nan_and_infinity():
    def sabotage(model):
        with torch.no_grad():
            model.third.bias[0], model.third.bias[1] = float("nan"), float("inf")
        model.spare = nn.Identity()

    report = examined(net(), sabotage, exclude="spare")
    assert report["finite"].status == "fail"
    assert report["finite"].figure == 10
    assert report["gradcheck"].status == "skip"
    assert report["gradcheck"].reason == "the output is not finite"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.lp_pool1d(x, 2.0, 2),
        lambda x: F.multilabel_soft_margin_loss(x, (x > 0).double()),
    ],
    ids=["lp_pool1d", "multilabel_soft_margin_loss"],
)
def test_what_a_function_of_torch_does_inside_is_no_site(function):
    class Loss(nn.Module):
        def forward(self, x):
            return function(torch.tanh(x))

    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    census = take_census(Loss(), (x,))
    assert [site.operator for site in census] == ["tanh"]
    assert dcs.transform(Loss(), example_inputs=(x,)).report.ok
    assert dcs.transform(Loss(), irelu=False, example_inputs=(x,), allow_empty=True).report.ok


class SameTwice(nn.Module):
    """Without the norm, the child's two inputs are one tensor."""

    def __init__(self):
        super().__init__()
        self.norm, self.child = nn.LayerNorm(4), Both()

    def forward(self, x):
        return self.child(self.norm(x), x, 2 * x)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.layer = nn.Tanh(), nn.Linear(4, 4)

    def forward(self, x, y, z):
        return self.act(self.layer(x)) - y * z


def test_the_planned_graph_holds_where_two_inputs_become_one_tensor():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    surgery = dcs.transform(SameTwice(), example_inputs=(x,))
    assert surgery.report["graph equals plan"].status == "pass"
    assert len(surgery.plan.edits) == 2


def test_one_input_in_place_of_another_is_not_the_planned_graph():
    class Swapped(SameTwice):
        def forward(self, x):
            return self.child(self.norm(x), 2 * x, x)

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    model, census = SameTwice(), take_census(SameTwice(), (x,))
    surgery = dcs.apply(model, dcs.plan(model, example_inputs=(x,)))
    surgery.model.forward = types.MethodType(Swapped.forward, surgery.model)
    assert examine(model, surgery, census, (x,))["graph equals plan"].status == "fail"


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_equality_is_that_of_bits_in_every_type():
    for dtype in (torch.float16, torch.complex32, torch.complex64, torch.complex128, torch.int8, torch.bool):
        a = torch.tensor([1.0, 0.0]).to(dtype)
        assert equal(a, a.clone())
        assert not equal(a, torch.tensor([1.0, 1.0]).to(dtype))
        assert not equal(a, torch.tensor([1.0, 0.0], dtype=torch.float64))
        assert not equal(a, a[:1])
    nan = torch.tensor([complex(float("nan"), 1.0)])
    assert equal(nan, nan.clone())
    assert not equal(nan, torch.tensor([complex(float("nan"), 2.0)]))
    assert equal(nan.conj(), nan.conj().clone())
    assert not equal(nan.conj(), nan)


def test_an_empty_output_is_no_error():
    model, x = nn.Sequential(nn.Linear(3, 2), nn.SiLU()), torch.zeros(0, 3)
    report = dcs.transform(model, example_inputs=(x,)).report
    assert report["gradcheck"].reason == "the output is empty"


def test_a_failed_gradcheck_does_not_run_a_large_model_for_every_parameter():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(100, 100)

        def forward(self, x):
            return self.layer(x) + self.layer(x).detach()

    model = Large()
    counted = []
    model.layer.register_forward_hook(lambda *_: counted.append(1))
    check = check_derivatives(model, (torch.randn(2, 100, generator=torch.Generator().manual_seed(0)),))[0]
    assert check.status == "fail"
    assert "along a random direction" in check.reason
    assert len(counted) < 200


def test_gradcheck_sees_a_wrong_backward():
    class Wrong(nn.Module):
        def forward(self, x):
            return WrongSlope.apply(x)

    def sabotage(model):
        model.act = Wrong()

    check = examined(net(), sabotage, exclude=["spare", "forward"])["gradcheck"]
    assert check.status == "fail"
    assert "analytical and numerical derivative differ" in check.reason


def test_the_graph_has_to_be_the_planned_one():
    sabotage = lambda model: subclassed(model, lambda self, x, above: above.forward(x) + 0)
    report = examined(net(), sabotage, exclude=["spare", "forward"])
    check = report["graph equals plan"]
    assert check.status == "fail"
    assert check.reason.startswith("the model: planned")
    assert [entry.name for entry in report.failures] == ["graph equals plan"]


def test_the_graph_sees_arguments_that_were_exchanged():
    class Swapped(Net):
        def forward(self, x):
            x = self.act(self.norm(self.first(x)))
            return self.spare(self.third(F.softplus(self.third(x))))

    def sabotage(model):
        model.__class__ = Swapped

    assert "third" in examined(net(), sabotage, exclude=["spare", "forward"])["graph equals plan"].reason


def test_known_sites_sees_what_capture_missed():
    census = dcs.inspect(net(), inputs())
    blind = replace(census, sites=tuple(site for site in census if site.name != "spare"))
    check = examined(net(), census=blind, exclude="spare")["known sites"]
    assert (check.status, check.reason) == ("fail", "spare")


def test_reload_sees_a_model_that_forgets():
    def sabotage(model):  # copying it forgets, too
        nn.init.ones_(model.lin.weight)

    check = examined(Forgetful(), sabotage)["reload"]
    assert (check.status, check.reason) == ("fail", "outputs differ after reload")


def test_a_model_that_does_not_run_any_more_fails():
    def sabotage(model):
        model.second = nn.Linear(5, 4)

    report = examined(net(), sabotage, exclude="spare")
    assert report["runs"].status == "fail"
    assert "mat1 and mat2" in report["runs"].reason


def test_the_fast_path_of_a_transformer_is_seen_when_it_goes_around_the_edits():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    x = (torch.randn(2, 3, 8),)
    assert examined(model, x=x, denorm=False).ok

    def sabotage(edited):
        edited.layers[0].activation_relu_or_gelu = 1

    check = examined(model, sabotage, x=x, denorm=False)["residual"]
    assert check.status == "fail"
    assert "_transformer_encoder_layer_fwd goes around the edits" in check.reason


def test_a_site_that_cannot_be_edited_fails_the_residual_check():
    surgery = dcs.apply(net(), replace(dcs.plan(net(), exclude="spare"), unedited=("rnn@tanh",)))
    report = examine(net(), surgery, dcs.inspect(net(), inputs()), inputs())
    assert report["residual"].reason == "rnn@tanh (not edited)"


def test_an_activation_of_the_users_own_is_no_residue_whatever_it_is_made_of():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.gain * F.silu(x)

    for activation in (Own(), nn.PReLU(), nn.Softplus(beta=2.0)):
        report = examined(net(), activation=activation, include="act", denorm=False)
        assert not report.failures, report


# -- what is skipped, and why ------------------------------------------------------------------------------------------


def test_a_zero_output_proves_nothing():
    check = examined(Zero())["gradcheck"]
    assert (check.status, check.reason) == ("skip", "the output is zero: a comparison would show nothing")


def test_without_inputs_everything_that_needs_a_run_is_skipped():
    result = dcs.transform(net(), exclude="spare")
    assert result.report["keys"].status == "pass"
    assert {check.status for check in result.report if check.name not in ("keys", "structure")} == {"skip"}
    assert {check.reason for check in result.report if check.status == "skip"} == {"no example inputs"}
    assert any("give example inputs" in warning for warning in result.report.warnings)


def test_a_model_that_does_not_run_in_float64_says_so():
    check = examined(Fixed())["gradcheck"]
    assert check.status == "skip"
    assert check.reason.startswith("the model does not run in float64 (RuntimeError: ")


def test_an_output_without_derivative_says_so():
    report = examined(Integers())
    assert report["gradcheck"].reason == "no output depends on a differentiable tensor"
    assert report["finite"].status == "pass"


def test_a_model_that_cannot_be_pickled_says_so():
    check = examined(Local())["reload"]
    assert check.status == "skip"
    assert "cannot be pickled" in check.reason


# -- verify ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3])
def test_verify_checks_derivatives_up_to_the_order(order):
    edited = dcs.transform(net(), example_inputs=inputs()).model
    report = dcs.verify(net(), edited, inputs(), order=order)
    names = ["gradcheck", "gradgradcheck", "third derivative"]
    assert [check.name for check in report if check.name in names] == names[:order]
    assert report.ok, report


@pytest.mark.parametrize(
    ("wrong", "failing"),
    [(WrongSlope, "gradcheck"), (NoCurvature, "gradgradcheck"), (NoThird, "third derivative")],
)
def test_verify_finds_the_order_at_which_a_derivative_is_wrong(wrong, failing):
    torch.manual_seed(0)
    right, bad = Cube(), Cube(wrong.apply)
    bad.load_state_dict(right.state_dict())
    report = dcs.verify(right, bad, (torch.randn(3, 2),), order=3)
    names = ["gradcheck", "gradgradcheck", "third derivative"]
    assert report[failing].status == "fail"
    assert all(report[name].status == "pass" for name in names[: names.index(failing)])


def test_verify_compares_the_tensors_that_both_have():
    edited = dcs.transform(net(), example_inputs=inputs()).model
    with torch.no_grad():
        edited.second.bias[0] += 1
    assert dcs.verify(net(), edited, inputs(), order=1)["keys"].reason == "lost or changed: second.bias"


@pytest.mark.parametrize("order", [0, 4, "two", None, True and 5])
def test_an_order_that_is_none_is_bad_input(order):
    with pytest.raises(BadInput, match="no derivative order"):
        dcs.verify(net(), net(), inputs(), order=order)


def test_verify_says_which_inputs_do_not_fit():
    with pytest.raises(BadInput, match=r"float32\[5, 7\]"):
        dcs.verify(net(), net(), (torch.ones(5, 7),))


# -- reports -----------------------------------------------------------------------------------------------------------


def test_a_report_is_read_by_name_and_prints_one_line_per_check():
    report = Report((Check("a", "pass", 1.0, 2.0), Check("b", "fail", reason="here")), ("did",), ("left",), ("hm",))
    assert report["b"].reason == "here"
    assert [check.name for check in report] == ["a", "b"]
    assert str(report).splitlines() == [
        "pass a 1 (limit 2)",
        "fail b: here",
        "done did",
        "left alone left",
        "warning hm",
    ]
    assert report.to_dict()["ok"] is False
    longer = report.extended([Check("c", "skip")], ["more"])
    assert len(longer.checks) == 3
    assert longer.warnings == ("hm", "more")
    with pytest.raises(KeyError, match="there are: a, b"):
        report["c"]
