"""Forces of fairchem's models after an edit: the derivative of the edited energy, where they were that before."""

import fairchem_runs as runs
import pytest
import torch

import dcsurgery as dcs
from dcsurgery.activations import IReLU
from dcsurgery.zoo.ocp import fairchem

pytestmark = [
    pytest.mark.skipif(
        not (fairchem.version() or "").startswith("1."), reason='fairchem-core 1.x is not installed ("dcsurgery[ocp]")'
    ),
    pytest.mark.filterwarnings("ignore:Using torch.cross:UserWarning"),
]


@pytest.fixture(scope="module", params=["schnet", "dimenetplusplus", "gemnet_t"])
def models(request):
    """A model in float64, and the same with IReLU."""
    torch.manual_seed(0)
    original = fairchem.build({"model": runs.config_of(request.param)}).double()
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            if request.param == "dimenetplusplus" and name.endswith("lin.weight") and not parameter.any():
                parameter.normal_(std=0.1)  # untrained, its energy is 0
    # Of DimeNet++ the paper edits the output blocks; with all of it edited, an untrained one hardly feels its angles.
    scope = "output-blocks" if request.param == "dimenetplusplus" else "all"
    return request.param, original, dcs.apply(original, dcs.plan(original, denorm=False, scope=scope)).model


def slopes(model, directions, step=1e-4):
    """Return the central differences of the energy, in all atoms at once, along each direction."""
    found = []
    for direction in directions:
        energies = []
        for sign in (1, -1):
            batch = runs.molecules(torch.float64)
            batch.pos = batch.pos + sign * step * direction
            energies.append(float(model(batch)["energy"].sum().detach()))
        found.append((energies[0] - energies[1]) / (2 * step))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_forces_are_exact_after_the_edit_where_they_were_before(models, mode):
    name, original, edited = models
    assert any(isinstance(module, IReLU) for module in edited.modules())
    generator = torch.Generator().manual_seed(1)
    shape = runs.molecules().pos.shape
    directions = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    errors = []
    for model in (original, edited):
        forces = model.train(mode == "train")(runs.molecules(torch.float64))["forces"].detach()
        assert forces.abs().max() > 1e-6
        exact = -slopes(model, directions)
        along = torch.stack([(forces * direction).sum() for direction in directions])
        errors.append(float((along - exact).abs().max() / exact.abs().max()))
    if name == "dimenetplusplus":  # its angles are made of detached positions, in fairchem and after the edit alike
        assert min(errors) > 1e-4
    else:
        assert max(errors) < 1e-5


def test_a_loss_on_forces_reaches_every_parameter_that_it_reached_before(models):
    _, original, edited = models
    reached = []
    for model in (original, edited):
        model.zero_grad()
        model.train()(runs.molecules(torch.float64))["forces"].square().sum().backward()
        reached.append({n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().max() > 0)})
    assert reached[0]
    assert reached[0] <= reached[1]


def test_the_gradient_of_a_force_loss_is_the_slope_of_that_loss(models):
    _, _, edited = models
    edited.zero_grad()

    def loss():
        return edited(runs.molecules(torch.float64))["forces"].square().sum()

    loss().backward()
    parameter = max(
        (p for p in edited.parameters() if p.grad is not None and p.dim() == 2), key=lambda p: float(p.grad.abs().max())
    )
    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slope, values = float((parameter.grad * direction).sum()), []
    for step in (1e-5, -2e-5, 1e-5):
        values.append(float(loss().detach()))
        with torch.no_grad():
            parameter += step * direction
    assert slope == pytest.approx((values[1] - values[2]) / 2e-5, rel=1e-4)
