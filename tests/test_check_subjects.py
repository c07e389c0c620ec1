"""Each check by itself: what it recognises, what it lets pass, what it fails, and what it leaves to others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import dcsurgery as dcs
from dcsurgery.checks.forces import check_forces, recognise_forces
from dcsurgery.checks.identity import check_identity, check_undo
from dcsurgery.checks.jets import check_jets
from dcsurgery.checks.modes import check_modes
from dcsurgery.checks.outputs import check_finite, named_tensors, refusal
from dcsurgery.checks.sizes import resized
from dcsurgery.checks.structure import check_keys, check_structure
from dcsurgery.checks.values import largest_deviation
from dcsurgery.cli.app import main
from dcsurgery.errors import BadInput
from dcsurgery.plans import Plan
from dcsurgery.profiling import profiled


def rows(count=6, width=2, seed=1):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def mlp(*middle, width=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 5), *middle, nn.Linear(5, 1))


# -- structure ---------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.a.register_forward_hook(lambda *_: None)

    def forward(self, x):
        return self.b(self.a(x))


def untie(model):
    model.b.weight = nn.Parameter(model.a.weight.detach().clone())


def drop_hook(model):
    model.a._forward_hooks.clear()


def freeze(model):
    model.b.bias.requires_grad_(False)


def widen(model):
    model.a.bias.data = model.a.bias.data.double()


def stay_in_eval(model):
    model.a.eval()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (untie, "a.weight and b.weight were one tensor and are two"),
        (drop_hook, "a: 1 forward hooks became 0"),
        (freeze, "requires_grad of b.bias: True became False"),
        (widen, "dtype of a.bias: torch.float32 became torch.float64"),
        (stay_in_eval, "a: train mode became the other"),
    ],
)
def test_structure_names_what_is_not_as_before(change, told):
    model = Tied()
    assert check_structure(model, copy.deepcopy(model)).status == "pass"
    other = copy.deepcopy(model)
    change(other)
    check = check_structure(model, other)
    assert (check.status, check.reason) == ("fail", told)


def test_keys_of_tensors_without_numbers_are_compared_by_shape():
    model = mlp().to("meta")
    assert check_keys(model, copy.deepcopy(model), ()).status == "pass"
    assert check_keys(model, mlp(width=3).to("meta"), ()).reason == "lost or changed: 0.weight"


# -- outputs -----------------------------------------------------------------------------------------------------------


def test_outputs_are_named_as_python_would_write_them():
    one = torch.ones(1)
    names = [name for name, _ in named_tensors({"a": [one, (one, 5)], "b": {"c": one}})]
    assert names == ["output['a'][0]", "output['a'][1][0]", "output['b']['c']"]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "there is no floating output"),
        ({"output": torch.zeros(3)}, "the output is zero"),
        ({"output": torch.full((3,), 1e-13)}, "the output is zero"),
        ({"output": torch.tensor([1.0, float("nan")])}, "output is not finite"),
        ({"output": torch.ones(3, device="meta")}, "the output holds no numbers"),
        ({"output": torch.ones(3)}, ""),
    ],
)
def test_a_reference_that_shows_nothing_is_refused(tensors, reason):
    assert refusal(tensors) == reason


def test_a_tensor_without_numbers_is_no_finite_output():
    with FakeTensorMode():
        fake = torch.ones(2)
    assert check_finite({"E": fake}).reason == "output['E'] is a FakeTensor: it holds no numbers"
    assert check_finite(torch.ones(2, device="meta")).reason == "output is a meta tensor: it holds no numbers"
    assert check_finite((torch.ones(2), torch.tensor([1.0, float("inf")]))).reason.startswith("output[1]: 1 values")


def test_the_largest_deviation_is_relative_to_its_tensor_and_names_the_element():
    right = {"a": torch.tensor([[1.0, 100.0]]), "b": torch.tensor([1e-9])}
    found = {"a": torch.tensor([[1.0, 101.0]]), "b": torch.tensor([2e-9])}
    deviation = largest_deviation(found, right)
    assert (deviation.place, deviation.figure) == ("a[0, 1]", pytest.approx(0.01))
    assert largest_deviation({"a": right["a"]}, right).place == "b is missing, expected (1,)"
    assert largest_deviation({**right, "b": torch.tensor([float("nan")])}, right).figure == float("inf")


# -- forces ------------------------------------------------------------------------------------------------------------


class Springs(nn.Module):
    """Energy and forces; ``wrong`` is what the forces of atom 2 are multiplied by."""

    def __init__(self, wrong=1.0, *, form="dict"):
        super().__init__()
        self.net = mlp(nn.Tanh(), width=3)
        self.wrong = wrong
        self.form = form

    def forward(self, pos):
        with torch.enable_grad():
            pos = pos if pos.requires_grad else pos.detach().requires_grad_()
            energy = self.net(pos).sum()
            (slope,) = torch.autograd.grad(energy, pos, create_graph=True)
        factor = torch.ones_like(pos)
        factor[2] = self.wrong
        forces = -slope * factor
        return {"energy": energy, "forces": forces} if self.form == "dict" else (energy[None], forces)


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_forces_are_compared_with_differences_of_the_energy(form):
    check = check_forces(Springs(form=form), (rows(5, 3),))
    assert check.status == "pass", check
    assert check.figure < 1e-8
    assert ("by the outputs' names" if form == "dict" else "has the shape of argument 0") in check.reason


@pytest.mark.parametrize("wrong", [0.5, -1.0, 1.001, 0.0])
def test_wrong_forces_of_one_atom_are_found_and_the_atom_is_named(wrong):
    check = check_forces(Springs(wrong), (rows(5, 3),))
    assert check.status == "fail"
    assert "is not -dE/dx: [2, " in check.reason


def test_forces_that_the_original_does_not_derive_either_are_not_the_edits_doing():
    assert check_forces(Springs(0.5), (rows(5, 3),), Springs(0.5)).status == "skip"
    assert check_forces(Springs(0.5), (rows(5, 3),), Springs()).status == "fail"


def test_forces_that_the_rounding_of_the_energy_hides_are_not_judged():
    """Differences of an energy of 1e9 know nothing of forces of 1e-3; of forces of 1e3 they do."""

    class Offset(Springs):
        def forward(self, pos):
            out = super().forward(pos)
            return {"energy": out["energy"] + 1e9, "forces": out["forces"]}

    quiet, loud = Offset(), Offset(0.5)
    loud.net[-1].weight.data *= 1e5
    assert check_forces(quiet, (rows(5, 3),)).status == "skip"
    assert "too small beside the energy" in check_forces(quiet, (rows(5, 3),)).reason
    assert check_forces(loud, (rows(5, 3),)).status == "fail"


class Kink(nn.Module):
    """Energies whose second derivative jumps from 0 to 2 half a step beside the positions."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, pos):
        beyond = torch.relu(pos + 5e-5)
        return {"energy": (beyond**2).sum(), "forces": -2 * self.factor * beyond}


def test_a_kink_beside_the_positions_is_no_wrong_force():
    # A step of 1e-4 goes over the kink, the next smaller one does not.
    assert check_forces(Kink(1.0), (torch.zeros(5, 3),)).status == "pass"
    assert check_forces(Kink(1.01), (torch.zeros(5, 3),)).status == "fail"


def test_an_output_without_forces_is_skipped_with_the_reason():
    assert "no energy and forces" in check_forces(mlp(nn.Tanh()), (rows(),)).reason


def test_energy_forces_and_positions_are_told_by_name_or_shape():
    inputs = {"charges": torch.ones(4, 3), "pos": torch.ones(4, 3)}
    one, forces = torch.ones(1), torch.ones(4, 3)
    named = recognise_forces({"output['total_energy']": one, "output['F']": forces}, inputs)
    assert (named.energy, named.forces, named.positions) == ("output['total_energy']", "output['F']", "pos")
    assert recognise_forces({"output[0]": one, "output[1]": forces}, inputs).forces == "output[1]"
    assert recognise_forces({"output": forces}, inputs) is None
    assert recognise_forces({"output[0]": one, "output[1]": torch.ones(5)}, inputs) is None


# -- orders of a residual ----------------------------------------------------------------------------------------------


class _Sine(torch.autograd.Function):
    """sin(x), whose derivative of order ``wrong`` is off by a thousandth; no forward mode."""

    @staticmethod
    def forward(ctx, x, order, wrong):
        ctx.save_for_backward(x)
        ctx.order, ctx.wrong = order, wrong
        return torch.sin(x + order * torch.pi / 2) * (1.001 if order == wrong else 1.0)

    @staticmethod
    def backward(ctx, grad):
        return grad * _Sine.apply(ctx.saved_tensors[0], ctx.order + 1, ctx.wrong), None, None


class Sine(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, x):
        return _Sine.apply(x, 0, self.wrong)


def test_fields_are_differentiated_backward_and_forward():
    check = check_jets(mlp(nn.Tanh()), (rows(),))
    assert check.status == "pass"
    assert check.figure < 1e-12
    assert check.reason == "derivatives 1 to 3 of 6 points, by jets"


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_the_order_that_is_wrong_is_named(wrong):
    assert check_jets(mlp(Sine(None)), (rows(),)).status == "pass"
    check = check_jets(mlp(Sine(wrong)), (rows(),))
    assert check.status == "fail"
    assert check.reason.startswith(f"derivative {wrong} along a line, at point ")


def test_what_the_original_fails_is_not_the_edits_doing():
    check = check_jets(mlp(Sine(2)), (rows(),), mlp(Sine(2)))
    assert (check.status, check.reason.partition(":")[0]) == ("skip", "the original fails it, too")


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (mlp(nn.BatchNorm1d(5)), (rows(),), "a point's value depends on the other points"),
        (mlp(width=7), (rows(6, 7),), "the input has shape (6, 7)"),
        (nn.Bilinear(2, 2, 1), (rows(), rows()), "it has other arguments than coordinates"),
    ],
)
def test_what_is_no_field_is_skipped_with_the_reason(model, inputs, reason):
    check = check_jets(model, inputs)
    assert check.status == "skip"
    assert reason in check.reason


# -- the other mode, other sizes ---------------------------------------------------------------------------------------


def modes(change=None, *middle):
    model = mlp(*(middle or (nn.SiLU(), nn.Dropout(0.5))))
    x = (rows(),)
    surgery = dcs.apply(model, dcs.plan(model, denorm=False, example_inputs=x))
    if change is not None:
        change(surgery.model)
    sites = {("module", "", "1")}
    return check_modes(model, surgery.model, surgery.plan, sites, sites, x)


def test_the_other_mode_runs_the_same_sites_and_random_kernels():
    assert modes().reason == "eval mode: same sites and 0 random kernels"
    model = mlp(nn.SiLU(), nn.Dropout(0.5)).eval()
    edited = dcs.transform(model, example_inputs=(rows(),))
    assert edited.report["other mode"].reason == "train mode: same sites and 1 random kernels"


def test_a_dropout_that_died_is_seen_from_eval_mode():
    model = mlp(nn.SiLU(), nn.Dropout(0.5)).eval()
    surgery = dcs.apply(model, dcs.plan(model, example_inputs=(rows(),)))
    surgery.model[2] = nn.Identity()
    check = check_modes(model, surgery.model, surgery.plan, set(), {("module", "", "1")}, (rows(),))
    assert check.status == "fail"
    assert "dropout is not what it was" in check.reason
    assert not model.training


def test_an_edit_that_is_missing_in_the_other_mode_is_seen():
    class Moody(nn.Module):
        def forward(self, x):
            return x.relu().square() / 2 if self.training else nn.functional.silu(x)

    def change(model):
        model[1] = Moody()

    check = modes(change)
    assert check.status == "fail"
    assert "silu" in check.reason


def test_a_module_that_does_not_follow_train_is_named():
    class Stubborn(nn.Linear):
        def train(self, mode=True):
            return self

    def change(model):
        model[3].__class__ = Stubborn

    assert modes(change).reason == "3: does not follow .eval()"


def test_other_sizes_are_half_a_batch_or_twice_a_row():
    (half,), what = resized((rows(6),))
    assert (half.shape, what) == ((3, 2), "3 rows instead of 6")
    (twice,), what = resized((rows(1),))
    assert (twice.shape, what) == ((2, 2), "2 rows instead of 1")
    assert resized({"x": rows(4), "y": rows(4)})[0]["y"].shape == (2, 2)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [((rows(4), rows(6)), "first dimensions differ (4, 6)"), ((torch.ones(()),), "single number"), ((5,), "no tensor")],
)
def test_where_no_other_size_can_be_derived_the_reason_is_told(inputs, reason):
    found, told = resized(inputs)
    assert found is None
    assert reason in told


def test_a_batch_of_graphs_loses_the_last_ones():
    from torch_geometric.data import Batch, Data

    batch = Batch.from_data_list(
        [Data(x=rows(n), edge_index=torch.zeros(2, 1, dtype=torch.long)) for n in (2, 3, 4, 5)]
    )
    (fewer,), what = resized((batch,))
    assert (fewer.num_graphs, fewer.x.shape[0], what) == (2, 5, "2 graphs instead of 4")
    assert resized(Data(x=rows()))[0] is None


def test_a_model_that_only_fits_the_size_it_was_edited_with_is_seen():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([1.0, 1, 1, 0, 0, 0])[:, None], persistent=False)

        def forward(self, x):
            y = torch.relu(x).square() / 2
            return y if len(x) == len(self.mask) else 2 * y

    model = mlp(nn.SiLU())
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    edited[1] = Frozen()
    report = dcs.verify(model, edited, (rows(),), order=1)
    assert report["value witness"].status == "pass", report
    assert report["other size"].status == "fail"


# -- identity and undo -------------------------------------------------------------------------------------------------


def test_an_empty_plan_and_an_undone_one_are_the_original():
    model = mlp(nn.BatchNorm1d(5), nn.SiLU(), nn.Dropout(0.2))
    plan = dcs.plan(model, example_inputs=(rows(),))
    before = copy.deepcopy(model.state_dict())
    assert check_identity(model, (rows(),)).status == "pass"
    assert check_undo(model, plan, (rows(),)).status == "pass"
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Drifting(nn.Module):
    """Every copy of it is another model."""

    def __init__(self):
        super().__init__()
        self.lin, self.act = nn.Linear(2, 2), nn.SiLU()

    def __deepcopy__(self, memo):
        copied = Drifting()
        copied.load_state_dict(self.state_dict())
        with torch.no_grad():
            copied.lin.bias.add_(1)
        return copied

    def forward(self, x):
        return self.act(self.lin(x))


def test_a_copy_that_is_another_model_is_seen_by_both():
    model = Drifting()
    assert check_identity(model, (rows(),)).reason == "without any edit, output is another one in train mode"
    assert check_undo(model, Plan(), (rows(),)).reason == "output is another one"


def test_an_undo_that_forgets_an_edit_is_seen(monkeypatch):
    from dcsurgery.surgeon import Surgeon

    monkeypatch.setattr(Surgeon, "undo", lambda self: None)
    model = mlp(nn.SiLU())
    check = check_undo(model, dcs.plan(model, example_inputs=(rows(),)), (rows(),))
    assert check.status == "fail"
    assert "1 is a IReLU" in check.reason


def test_a_model_that_does_not_repeat_itself_cannot_be_compared():
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            Counting.calls += 1
            return x * Counting.calls

    assert check_identity(Counting(), (rows(),)).reason == "the original does not repeat itself"


# -- the second counter ------------------------------------------------------------------------------------------------


def test_the_profiler_counts_forward_kernels_by_module_and_not_those_of_a_backward():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.SiLU()

        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                y = torch.sigmoid(self.act(x)).sum()
                torch.autograd.grad(y, x, create_graph=True)
            return self.act(x)

    assert profiled(Twice(), (rows(),)) == {("silu", "act"): 2, ("sigmoid", ""): 1}


def test_the_profiler_sees_inside_torchscript_and_fused_kernels():
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    assert sum(profiled(scripted, (rows(),)).values()) == 1
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert {name for name, _ in profiled(layer, (torch.randn(2, 3, 8),))} == {"_transformer_encoder_layer_fwd"}


def test_a_kernel_that_no_mode_can_see_fails_the_check():
    class Hidden(nn.Module):
        def forward(self, x):
            if torch.utils._python_dispatch._get_current_dispatch_mode() is None and not torch.is_grad_enabled():
                torch.nn.functional.silu(x)
            return torch.relu(x).square() / 2

    model = mlp(nn.SiLU())
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    edited[1] = Hidden()
    check = dcs.verify(model, edited, (rows(),), order=1)["profiler"]
    assert (check.status, check.reason) == ("fail", "silu runs 1 times, 0 expected, in 1")


# -- inputs that do not fit, memory that runs out ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "inputs", "told"),
    [
        (mlp(), (rows(3, 7),), "0 (Linear) expects […, 2], it was given [3, 7]"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), (torch.ones(1, 5, 8, 8),), "0 (Conv2d) expects [batch, 3, …]"),
        (nn.Sequential(nn.LSTM(3, 4)), (torch.ones(2, 2, 5),), "0 (LSTM) expects […, 3], it was given [2, 2, 5]"),
        (mlp(), (rows().to("meta"),), "the model is on cpu, the inputs are on meta"),
    ],
)
def test_inputs_that_do_not_fit_are_told_with_what_is_expected(model, inputs, told):
    for function in (dcs.inspect, lambda m, x: dcs.verify(m, m, x)):
        with pytest.raises(BadInput) as error:
            function(model, inputs)
        assert told in str(error.value)
        assert "\n" not in str(error.value)


class Greedy(nn.Module):
    """Uses up the memory after some runs."""

    def __init__(self, runs, error):
        super().__init__()
        self.lin, self.act = nn.Linear(2, 2), nn.SiLU()
        self.runs, self.error, self.count = runs, error, [0]

    def __deepcopy__(self, memo):
        copied = Greedy(self.runs, self.error)
        copied.count = self.count
        copied.load_state_dict(self.state_dict())
        copied.lin.to(self.lin.weight.dtype)
        return copied

    def forward(self, x):
        self.count[0] += 1
        if self.count[0] > self.runs:
            raise self.error
        return self.act(self.lin(x))


@pytest.mark.parametrize("runs", [0, 1, 4])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("cannot allocate"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_is_one_line_whenever_it_does(runs, error):
    with pytest.raises(BadInput, match="not enough memory") as told:
        dcs.transform(Greedy(runs, error), example_inputs=(rows(),))
    assert "\n" not in str(told.value)


def test_the_command_line_refuses_what_does_not_fit_and_writes_nothing(tmp_path, capsys):
    paths = {name: str(tmp_path / f"{name}.pt") for name in ("model", "inputs")}
    torch.save(mlp(nn.SiLU()), paths["model"])
    torch.save((rows(3, 7),), paths["inputs"])
    before = sorted(path.name for path in tmp_path.iterdir())
    for command in (["transform", paths["model"], "--irelu"], ["verify", paths["model"], paths["model"]]):
        assert main([*command, "--inputs", paths["inputs"]]) == 2
        error = capsys.readouterr().err
        assert "expects […, 2], it was given [3, 7]" in error
        assert len(error.strip().splitlines()) == 1
    assert main(["verify", paths["model"], paths["model"], "--order", "4"]) == 2
    assert "--order is 4" in capsys.readouterr().err
    assert main(["verify", paths["model"], str(tmp_path / "missing.pt")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_outputs_that_are_not_numbers_fail_the_transform_and_nothing_is_written(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    nn.init.constant_(model[0].weight, 1e30)
    torch.save(model, tmp_path / "model.pt")
    torch.save((torch.full((3, 2), 1e10),), tmp_path / "inputs.pt")
    assert main(["transform", str(tmp_path / "model.pt"), "--irelu", "--inputs", str(tmp_path / "inputs.pt")]) == 1
    assert "check 'finite' failed: output: 6 values are NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "model.dcs.pt").exists()


class Frees(torch.autograd.Function):
    """As reversible layers do: the backward pass frees the memory of what the forward pass returned."""

    @staticmethod
    def forward(ctx, x):
        ctx.y = (2 * x).detach()
        return ctx.y.view_as(ctx.y)

    @staticmethod
    def backward(ctx, gradient):
        ctx.y.untyped_storage().resize_(0)
        return 2 * gradient


def test_outputs_whose_memory_the_backward_pass_frees_are_compared():
    class Reversible(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act = nn.Linear(3, 3), nn.Tanh()

        def forward(self, x):
            return Frees.apply(self.act(self.layer(x)))

    torch.manual_seed(0)
    report = dcs.transform(Reversible(), example_inputs=(torch.randn(4, 3),)).report
    assert report["value witness"].status == "pass"
    assert report["gradcheck"].status == "pass"
