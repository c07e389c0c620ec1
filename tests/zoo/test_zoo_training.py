"""Training with derivative constraints: the loss of Eq. 5, exact scaling by C, honest errors."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.rescale import rescale_labels
from dcsurgery.zoo.data.molecules import MoleculeData, ethanol
from dcsurgery.zoo.training import evaluate, train


class Springs(nn.Module):
    """E = k/2 sum |pos - centre|^2 + e per structure: errors and gradients in closed form."""

    def __init__(self, k=1.0, e=0.0, squeeze=False):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))
        self.e = nn.Parameter(torch.tensor(e, dtype=torch.float64))
        self.squeeze = squeeze

    def forward(self, z, pos, batch):
        energy = pos.new_zeros(int(batch.max()) + 1).index_add(0, batch, 0.5 * self.k * pos.square().sum(-1)) + self.e
        return energy if self.squeeze else energy[:, None]


def springs_data(frames=12, k=3.0, e=-7000.0):
    positions = np.random.default_rng(0).normal(size=(frames, 2, 3))
    return MoleculeData(np.array([1, 1]), positions, 0.5 * k * (positions**2).sum((1, 2)) + e, -k * positions)


def first_frames(count):
    return ethanol()[:count]


def model_of(name="schnet"):
    torch.manual_seed(0)
    return zoo.build(name)


@pytest.mark.parametrize("squeeze", [True, False])
def test_errors_are_mean_absolute_errors_in_physical_units(squeeze):
    data = springs_data()
    errors = evaluate(Springs(k=1.0, e=-70.0, squeeze=squeeze), data, C=2.0, batch_size=5)
    squares = (data.positions**2).sum((1, 2))
    assert errors.energy == pytest.approx(np.abs(2.0 * (0.5 * squares - 70.0) - data.energies).mean())
    assert errors.force == pytest.approx(np.abs(-2.0 * data.positions + 3.0 * data.positions).mean())
    assert evaluate(Springs(3.0, 0.0), data, reference=-7000.0).energy == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("loss", ["absolute", "squared"])
def test_the_loss_is_equation_5(loss):
    data = springs_data()
    history = train(
        Springs(1.0, 1.0),
        data,
        steps=1,
        batch_size=100,
        alpha=2.0,
        beta=7.0,
        loss=loss,
        C=10.0,
        held_out=2,
    )
    rest = np.delete(np.arange(12), history.held_out)
    power = 1 if loss == "absolute" else 2
    energy = 0.5 * (data.positions[rest] ** 2).sum((1, 2)) + 1.0 - data.energies[rest] / 10.0
    force = -data.positions[rest] - data.forces[rest] / 10.0
    expected = 2.0 * (np.abs(energy) ** power).mean() + 7.0 * (np.abs(force) ** power).mean()
    assert history.losses[0] == pytest.approx(expected, rel=1e-9)
    assert history.scale == 10.0


def test_forces_alone_are_learnt_through_the_second_derivative():
    model = Springs(1.0)
    data = springs_data()
    history = train(model, data, steps=400, lr=0.05, alpha=0.0, beta=1.0, loss="squared", held_out=4)
    assert model.k.item() == pytest.approx(3.0, abs=1e-2)
    assert model.e.item() == 0.0
    assert history.after.force < 1e-2 < history.before.force


def test_the_mean_reference_changes_energies_and_no_force():
    data = springs_data()
    history = train(Springs(3.0, 0.0), data, steps=0, reference="mean", held_out=4)
    rest = np.delete(np.arange(12), history.held_out)
    assert history.reference == pytest.approx(data.energies[rest].mean())
    assert history.before.force == pytest.approx(0.0, abs=1e-9)
    raw = train(Springs(3.0, 0.0), data, steps=0, held_out=4)
    assert raw.reference == 0.0
    assert raw.before.energy == pytest.approx(7000.0)
    assert history.before.energy < 10.0


@pytest.mark.parametrize("name", ["schnet", "dimenet++", "cgconv-bn"])
def test_training_lowers_the_errors_on_held_out_frames(name):
    history = train(
        model_of(name), first_frames(30), steps=15, batch_size=5, held_out=8, lr=3e-3, reference="mean", C=100.0
    )
    assert len(history.losses) == 15
    assert history.after.energy < 0.9 * history.before.energy
    assert "15 steps: energy" in str(history)


def test_training_is_reproducible_and_leaves_mode_and_random_numbers_alone():
    data = first_frames(12)
    runs = []
    for noise in (0, 1):
        model = model_of("cgconv-bn").eval()
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        runs.append(train(model, data, steps=2, batch_size=4, held_out=4, seed=5).losses)
        assert torch.equal(state, torch.random.get_rng_state())
        assert not model.training
        assert all(parameter.grad is None for parameter in model.parameters())
    assert runs[0] == runs[1]
    assert train(model_of("cgconv-bn"), data, steps=2, batch_size=4, held_out=4, seed=6).losses != runs[0]


def test_dropout_follows_the_seed_and_not_the_callers_random_numbers():
    class Dropped(Springs):
        def forward(self, z, pos, batch):
            return super().forward(z, nn.functional.dropout(pos, 0.5, self.training), batch)

    losses = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        losses.append(train(Dropped(), springs_data(), steps=2, held_out=3, seed=4).losses)
    assert losses[0] == losses[1]


def test_errors_are_measured_in_eval_mode():
    model, data = model_of("cgconv-bn").train(), first_frames(12)
    one = evaluate(model, data, batch_size=12)
    each = evaluate(model, data, batch_size=1)  # batch statistics would differ
    assert model.training
    assert one.energy == pytest.approx(each.energy, rel=1e-5)
    assert one.force == pytest.approx(each.force, rel=1e-4)


def test_a_rescaled_model_trains_as_a_plain_one_with_the_same_c():
    data = first_frames(30)
    plain = model_of()
    rescaled = copy.deepcopy(plain)
    rescale_labels(rescaled, 1e4)
    first = train(plain, data, steps=3, held_out=10, C=1e4)
    second = train(rescaled, data, steps=3, held_out=10)
    assert second.scale == 1e4
    assert first.losses == pytest.approx(second.losses, rel=1e-6)
    assert first.after.energy == pytest.approx(second.after.energy, rel=1e-6)
    with pytest.raises(BadInput, match="would scale them twice"):
        train(rescaled, data, steps=1, held_out=10, C=1e6)


def test_progress_is_called_after_every_step():
    calls = []
    train(Springs(), springs_data(), steps=4, held_out=3, progress=lambda: calls.append(1))
    assert len(calls) == 4


class Explodes(Springs):
    def __init__(self, after):
        super().__init__()
        self.calls, self.after, self.inner = 0, after, nn.Softplus()

    def forward(self, z, pos, batch):
        self.calls += self.training
        infinite = float("nan") if self.calls > self.after else 1.0
        return super().forward(z, pos, batch) + self.inner(pos.sum() * infinite)


def test_a_loss_that_is_not_finite_names_step_and_module():
    with pytest.raises(
        BadInput, match=r"Explodes: the loss is nan at step 2: first in the output of inner \(Softplus\)"
    ):
        train(Explodes(after=2), springs_data(), steps=5, held_out=3)


def test_a_parameter_that_is_not_finite_is_named():
    model = Springs()
    model.k.data.fill_(torch.inf)
    with pytest.raises(BadInput, match="at step 0: parameter k is not finite"):
        train(model, springs_data(), steps=1, held_out=3)


def test_forces_that_are_not_finite_are_told_from_energies():
    class Root(Springs):
        def forward(self, z, pos, batch):
            # The derivative of the root is infinite at 0, and infinity times 0 is no number.
            return super().forward(z, pos, batch) + (pos * 0).square().sum().sqrt()

    with pytest.raises(BadInput, match="energies are finite, the forces are not"):
        train(Root(), springs_data(), steps=1, held_out=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must not be negative"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": 0.0}, "lr must be a positive number"),
        ({"lr": float("nan")}, "lr must be a positive number"),
        ({"alpha": -1.0}, "alpha"),
        ({"beta": float("inf")}, "beta"),
        ({"loss": "huber"}, "unknown loss 'huber'.*'absolute'"),
        ({"reference": "median"}, "unknown reference"),
        ({"C": 0.0}, "label scale C must be a positive number"),
        ({"held_out": 12}, "12 of 12 structures held out"),
        ({"held_out": 0}, "0 of 12 structures held out"),
        ({"held_out": 13}, "cannot draw 13"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(BadInput, match=message):
        train(Springs(), springs_data(), **{"steps": 1, "held_out": 3, **options})


class Returns(Springs):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z, pos, batch):
        return self.output(super().forward(z, pos, batch), pos)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda energy, pos: pos, r"one energy per structure, shape \(3,\) or \(3, 1\), got \(6, 3\)"),
        (lambda energy, pos: "energy", "got str"),
        (lambda energy, pos: energy.detach(), "does not depend on the positions"),
    ],
)
def test_outputs_that_are_no_energies_are_named(output, message):
    with pytest.raises(BadInput, match=message):
        evaluate(Returns(output), springs_data()[:3])


def test_an_energy_of_parameters_alone_is_named():
    class Constant(Springs):
        def forward(self, z, pos, batch):
            return self.e.expand(int(batch.max()) + 1)

    with pytest.raises(BadInput, match="does not depend on the positions"):
        evaluate(Constant(), springs_data()[:3])
    with pytest.raises(BadInput, match="no structures"):
        evaluate(Springs(), springs_data()[:0])
