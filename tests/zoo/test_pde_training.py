"""Losses are DeepXDE's own, training resumes to the bit, variants start from the same weights, failures lose nothing."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

from dcsurgery import zoo
from dcsurgery.activations import activation_by_name
from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde import generators, runs, training, variants
from dcsurgery.zoo.pde.backend import deepxde, settings
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.losses import Loss
from dcsurgery.zoo.pde.problems import PROBLEMS, Points
from dcsurgery.zoo.pde.training import Diverged, train
from dcsurgery.zoo.runs import RunRecord

FEW = Points(domain=20, boundary=12, initial=20, data=30)
CELLS = {"advection": 32, "cfd": 32, "diffusion-reaction": 8}


@pytest.fixture(scope="module")
def fields():
    return {name: generators.make_sample(name, 1, cells, 23) for name, cells in CELLS.items()}


def network(name, norm="none", dtype=torch.float64, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return zoo.build(f"pinn-{name}", norm=norm).to(dtype)


# -- losses ------------------------------------------------------------------------------------------------------------

CORRECT = {
    "advection": ("f", "ic_u", "bc_u"),
    "cfd": ("f_mass", "f_momentum", "f_energy", "ic_rho", "ic_v", "ic_p", "bc_rho", "bc_v", "bc_p"),
    "diffusion-reaction": ("f_u", "f_v", "bc_u", "bc_v", "ic_u", "ic_v", "data_u", "data_v"),
}
PUBLISHED = {
    "advection": ("f", "ic_u", "bc_u"),
    "cfd": ("f", "ic_rho", "ic_v", "ic_p", "bc_rho", "bc_v", "bc_p"),
    "diffusion-reaction": ("f", "bc_u", "ic_u", "ic_v", "data_u", "data_v"),
}


@pytest.mark.parametrize("physics", ["correct", "published"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("name", CELLS)
def test_terms_are_what_deepxde_itself_computes(fields, name, norm, physics):
    model = network(name, norm)
    terms = PROBLEMS[name].terms(fields[name], physics=physics, points=FEW, dtype=torch.float64)
    assert terms.names == (CORRECT if physics == "correct" else PUBLISHED)[name]
    loss = Loss(terms, model, torch.float64)
    assert loss.joint == (norm == "batch" or (physics == "published" and name == "cfd"))
    with settings(torch.float64) as dde:
        theirs = dde.Model(terms.data, model)
        theirs.compile("adam", lr=1e-3)
        inputs = torch.as_tensor(terms.data.train_x)
        _, wanted = theirs.outputs_losses_train(inputs, None, None)
        found = loss(model.train())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    gradients = [
        torch.autograd.grad(values.sum(), list(model.parameters()), allow_unused=True) for values in (found, wanted)
    ]
    for mine, other in zip(*gradients, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


def test_points_are_the_published_numbers(fields):
    rows = {"advection": 1024 + 2000 + 7000, "cfd": 3 * 1024 + 3 * 2000 + 7000}
    for name, number in rows.items():
        field = fields[name]
        wide = Field(
            (np.linspace(*field.domain[0], 2049)[1::2],), field.t, np.zeros((len(field.t), 1024, field.channels))
        )
        terms = PROBLEMS[name].terms(wide, physics="published")
        assert len(terms.data.train_x) == number
    axis = np.linspace(-1, 1, 257)[1::2]
    field = Field((axis, axis), np.linspace(0, 5, 101), np.zeros((101, 128, 128, 2), "f4"))
    terms = PROBLEMS["diffusion-reaction"].terms(field, physics="published")
    assert len(terms.data.train_x) == 1000 + 2 * 16384 + 2 * 38 + 7000


def test_points_follow_the_seed_and_leave_global_numbers_alone(fields):
    np.random.seed(5)  # noqa: NPY002 - DeepXDE draws from these
    first, real = np.random.rand(), deepxde().config.real.precision  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002 - DeepXDE draws from these
    made = [PROBLEMS["advection"].terms(fields["advection"], points=FEW, seed=seed).data.train_x for seed in (0, 0, 1)]
    assert np.random.rand() == first and deepxde().config.real.precision == real  # noqa: NPY002
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])


def test_published_reactions_see_the_field_with_its_axes_exchanged(fields):
    field, of = fields["diffusion-reaction"], PROBLEMS["diffusion-reaction"]
    seen = of.seen(field, "published")
    assert np.array_equal(seen.values, field.values.swapaxes(1, 2))
    for physics, where in (("correct", field), ("published", seen)):
        data = of.terms(field, physics=physics, points=FEW).data
        shown = data.bcs[-2]
        rows = {
            tuple(np.round(row, 4)): value
            for row, value in zip(where.points(), where.values.reshape(-1, 2)[:, 0], strict=True)
        }
        for point, value in zip(shown.points, shown.values.flatten().tolist(), strict=True):
            assert rows[tuple(np.round(point, 4))] == pytest.approx(value, rel=1e-5)
        initial = data.bcs[-4]
        start = {
            tuple(np.round(row, 4)): v for row, v in zip(field.points(), field.values.reshape(-1, 2)[:, 0], strict=True)
        }
        for point, value in zip(initial.points, initial.values.flatten().tolist(), strict=True):
            assert start[tuple(np.round(point, 4))] == pytest.approx(value, rel=1e-5)


def test_a_field_that_solves_the_equations_has_no_loss():
    """The exact simple wave, as a network would give it, on a field sampled from it."""
    from dcsurgery.zoo.pde import exact

    of = PROBLEMS["cfd"]
    x, t = (np.linspace(-1, 1, 65)[1::2],), np.linspace(0, 1, 5)
    empty = Field(x, t, np.zeros((5, 32, 3)))
    values = exact.simple_wave(torch.tensor(empty.points(np.float64))).numpy().reshape(5, 32, 3)
    terms = of.terms(Field(x, t, values), points=FEW, dtype=torch.float64)

    class Exact(nn.Module):
        def forward(self, x):
            return exact.simple_wave(x)

    assert float(Loss(terms, Exact(), torch.float64)(Exact()).detach().max()) < 1e-20
    wrong = of.terms(Field(x, t, values), points=FEW, dtype=torch.float64, physics="published")
    assert float(Loss(wrong, Exact(), torch.float64)(Exact()).detach().max()) > 1e-3


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "norm"), [("advection", "batch"), ("cfd", "none"), ("diffusion-reaction", "none")])
def test_training_lowers_the_loss_and_counts_every_term(fields, tmp_path, name, norm):
    model = network(name, norm, torch.float32)
    history = train(model, PROBLEMS[name], fields[name], steps=60, lr=5e-3, points=FEW, folder=tmp_path)
    assert history.losses.shape == (60, len(CORRECT[name])) and np.isfinite(history.losses).all()
    assert history.total()[-1] < 0.9 * history.total()[0]
    assert set(history.final) == set(CORRECT[name])
    with open(tmp_path / "losses.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", *CORRECT[name]] and len(rows) == 61
    np.testing.assert_allclose(np.array(rows[1:], float)[:, 1:], history.losses, rtol=1e-5)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_an_interrupted_training_resumes_to_the_bit(fields, tmp_path, monkeypatch, norm):
    monkeypatch.setattr(training, "_LOOK_EVERY", 5)
    settings_ = {"steps": 25, "points": FEW, "lr": 2e-3}
    of, field = PROBLEMS["advection"], fields["advection"]
    whole = network("advection", norm, torch.float32)
    straight = train(whole, of, field, **settings_)

    def stop(step):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            network("advection", norm, torch.float32),
            of,
            field,
            folder=tmp_path,
            save_every=0,
            progress=stop,
            **settings_,
        )
    again = network("advection", norm, torch.float32, seed=9)  # its weights come from the checkpoint
    seen = []
    resumed = train(again, of, field, folder=tmp_path, resume=True, progress=seen.append, **settings_)
    assert seen[0] == 10 and np.array_equal(resumed.losses, straight.losses) and resumed.final == straight.final
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(BadInput, match=r"of a training of 25 steps .*asked for are 20 steps"):
        train(again, of, field, folder=tmp_path, resume=True, **{**settings_, "steps": 20})


class Breaks(nn.Module):
    """A network whose density becomes NaN after some calls."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = network("cfd", dtype=torch.float32), 0

    def forward(self, x):
        self.calls += self.training
        y = self.net(x)
        return torch.cat([y[:, :1] + (torch.nan if self.calls > 40 else 0), y[:, 1:]], 1)


def test_a_term_that_is_not_finite_is_named_with_its_step(fields, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_LOOK_EVERY", 5)
    with pytest.raises(Diverged, match=r"the term f_mass is nan at step 20 .*last checkpoint") as caught:
        train(Breaks(), PROBLEMS["cfd"], fields["cfd"], steps=50, points=FEW, folder=tmp_path, save_every=0)
    assert caught.value.history.steps == 20
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(kept["losses"]) == 20 and all(value.isfinite().all() for value in kept["model"].values())
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 22


@pytest.mark.parametrize(("change", "message"), [
    ({"steps": -1}, "steps must not be negative"), ({"lr": 0.0}, "lr must be a positive number"),
    ({"lr": float("nan")}, "lr must be a positive number"), ({"physics": "fake"}, "unknown physics 'fake'"),
    ({"weights": {"ic": 1.0}}, "no term is named 'ic'.*f, ic_u, bc_u"),
    ({"weights": {"ic_u": -1.0}}, "weights must be numbers of at least 0"),
])  # fmt: skip
def test_bad_arguments(fields, change, message):
    with pytest.raises(BadInput, match=message):
        train(network("advection"), PROBLEMS["advection"], fields["advection"], **{"steps": 1, "points": FEW, **change})


def test_a_network_of_another_problem_is_refused(fields):
    with pytest.raises(BadInput, match=r"cannot take the coordinates x, t"):
        train(network("diffusion-reaction"), PROBLEMS["cfd"], fields["cfd"], steps=1, points=FEW)
    with pytest.raises(BadInput, match=r"must return rho, v, p for each point, shape \(2, 3\) for two, got \(2, 1\)"):
        train(network("advection"), PROBLEMS["cfd"], fields["cfd"], steps=1, points=FEW)


def test_batch_norm_cannot_work_on_one_point():
    model = network("advection", "batch")
    with pytest.raises(BadInput, match="batch normalization needs at least 2 points in a batch, got 1"):
        model.train()(torch.zeros(1, 2, dtype=torch.float64))
    model.eval()(torch.zeros(1, 2, dtype=torch.float64))
    with pytest.raises(BadInput, match="number of points 'boundary' must be at least 1, got 0"):
        Points(boundary=0)


def test_weights_change_what_is_minimized_and_not_what_is_logged(fields):
    of, field = PROBLEMS["advection"], fields["advection"]
    runs_ = [
        train(network("advection"), of, field, steps=2, points=FEW, weights=weights)
        for weights in (None, {"ic_u": 10.0})
    ]
    assert np.array_equal(runs_[0].losses[0], runs_[1].losses[0])
    assert not np.array_equal(runs_[0].losses[1], runs_[1].losses[1])


# -- the network and its variants --------------------------------------------------------------------------------------


def test_the_networks_have_the_published_sizes():
    sizes = {"advection": 8361, "cfd": 8443, "diffusion-reaction": 8442}
    for name, parameters in sizes.items():
        model = zoo.build(f"pinn-{name}", size="paper")
        assert sum(p.numel() for p in model.parameters()) == parameters
        normed = zoo.build(f"pinn-{name}", size="paper", norm="batch")
        # Registered: they are parameters and buffers of the model.
        assert sum(p.numel() for p in normed.parameters()) == parameters + 6 * 80
        assert len(list(normed.buffers())) == 6 * 3
    with pytest.raises(BadInput, match=r"unknown norm 'layer'.*none, batch, batch-fixed"):
        zoo.build("pinn-cfd", norm="layer")


def test_batch_fixed_uses_the_batch_in_evaluation_as_the_published_lists_did():
    model, x = network("advection", "batch-fixed"), torch.rand(10, 2, dtype=torch.float64)
    assert torch.equal(model.train()(x), model.eval()(x))
    assert not [name for name, _ in model.named_parameters() if "norms" in name]


_OTHERS = [name for name in variants.VARIANTS if name not in ("tanh-bn", "irelu")]


@pytest.mark.parametrize("name", ["tanh-bn", "irelu", *(pytest.param(n, marks=pytest.mark.exam) for n in _OTHERS)])
def test_variants_start_from_the_same_weights(name):
    of = PROBLEMS["advection"]
    plain = variants.build(of, variants.variant("tanh"), size="small", seed=3).state_dict()
    model = variants.build(of, variants.variant(name), size="small", seed=3)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.items())
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("BatchNorm1d" in kinds) == name.endswith("-bn")


def test_the_irelu_network_of_six_layers_starts_constant_in_single_precision():
    """½x² six times over: what the published weights make of it, and why the paper's L_f is below 1e-45."""
    torch.manual_seed(0)
    model, x = zoo.build("pinn-advection", size="paper"), torch.rand(100, 2, requires_grad=True)
    spread = {}
    for name in ("tanh", "irelu", "integrated-relu2", "integrated-softplus"):
        model.activation = torch.tanh if name == "tanh" else activation_by_name(name)
        y = model(x)
        spread[name] = float(y.detach().std())
        if name == "irelu":
            assert float(torch.autograd.grad(y.sum(), x)[0].abs().max()) < 1e-30
    assert max(spread["irelu"], spread["integrated-relu2"]) < 1e-30
    assert min(spread["tanh"], spread["integrated-softplus"]) > 1e-4


# -- runs --------------------------------------------------------------------------------------------------------------


def request(**changes):
    settings_ = {"steps": 12, "size": "small", "points": FEW, **changes}
    return runs.Request(PROBLEMS["advection"], variants.variant(settings_.pop("variant", "tanh")), **settings_)


def test_a_run_leaves_record_weights_losses_and_pictures(fields, tmp_path):
    import dcsurgery as dcs

    result = runs.run(request(variant="irelu-bn"), fields["advection"], tmp_path / "a")
    assert {p.name for p in result.folder.iterdir()} == {
        "run.json", "model.pt", "checkpoint.pt", "losses.csv", "field.png", "losses.png",
    }  # fmt: skip
    record = RunRecord.load(tmp_path / "a")
    assert record.status == "finished" and record.variant == "irelu-bn" and record.name == "pinn-advection"
    assert {"rmse", "nrmse", "max", "boundary", "conserved", "fourier_low", "loss_f", "field_rmse"} <= set(
        record.metrics
    )
    model = dcs.load(tmp_path / "a" / "model.pt")  # safely
    x = torch.rand(5, 2)
    assert model.eval()(x).shape == (5, 1)
    again = runs.run(request(variant="irelu-bn"), fields["advection"], tmp_path / "a", resume=True)
    assert again.history is None and again.record == record
    with pytest.raises(BadInput, match="holds a run already"):
        runs.run(request(), fields["advection"], tmp_path / "a")
    with pytest.raises(BadInput, match=r"other settings: .*steps: 12 -> 13"):
        runs.run(request(variant="irelu-bn", steps=13), fields["advection"], tmp_path / "a", resume=True)


@pytest.mark.exam
def test_a_constant_network_is_called_one(fields, tmp_path):
    result = runs.run(request(variant="irelu", size="paper"), fields["advection"], tmp_path / "a")
    assert result.record.note.startswith("the network is constant") and result.record.metrics["spread"] < 1e-6


def test_a_diverged_run_says_so_in_its_record(fields, tmp_path):
    with pytest.raises(Diverged):
        runs.run(request(lr=1e30, steps=60), fields["advection"], tmp_path / "a")
    assert RunRecord.load(tmp_path / "a").status == "diverged"
