"""One way to energies and forces for every potential: PyG's, fairchem's, edited ones, a user's own."""

import pytest
import torch
from torch import nn

import dcsurgery as dcs
from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo.batch_checks import check_batch
from dcsurgery.zoo.examples import example_batch
from dcsurgery.zoo.model_table import wake
from dcsurgery.zoo.ocp import fairchem

HAS_OCP = (fairchem.version() or "").startswith("1.")
ocp = pytest.mark.skipif(not HAS_OCP, reason='fairchem-core 1.x is not installed ("dcsurgery[ocp]")')
quiet = pytest.mark.filterwarnings(
    "ignore:Using torch.cross:UserWarning", "ignore:.*torch.cuda.amp.autocast:FutureWarning"
)
OCP = [("painn", "auto"), ("gemnet-dt", "auto"), ("schnet", "fairchem"), ("dimenet++", "fairchem")]
PYG = [("schnet", "pyg"), ("dimenet++", "pyg"), ("cgcnn", "auto"), ("forcenet", "auto")]


def model_of(name, backend="auto", **values):
    torch.manual_seed(0)
    model = zoo.build(name, backend=backend, **values)
    wake(model)
    return model


def slope(model, batch, direction, step=1e-4):
    energies = []
    for sign in (1, -1):
        moved = batch.clone()
        moved.pos = batch.pos + sign * step * direction
        energies.append(float(zoo.energy(model, moved).sum().detach()))
    return (energies[0] - energies[1]) / (2 * step)


@quiet
@pytest.mark.parametrize("kind", ["molecule", "slab"])
@pytest.mark.parametrize(
    ("name", "backend"), [*PYG, *(pytest.param(*case, marks=ocp) for case in OCP)], ids=lambda v: v
)
def test_consistent_forces_are_the_differences_of_the_energy(name, backend, kind):
    model, batch = model_of(name, backend).double().eval(), example_batch(kind, dtype=torch.float64)
    before = {key: batch[key].clone() for key in batch.keys()}  # noqa: SIM118 - a Batch is no mapping
    energy, forces = zoo.energy_and_forces(model, batch, consistent=True)
    assert energy.shape == (2,)
    assert not energy.requires_grad
    assert forces.shape == batch.pos.shape
    direction = torch.randn(batch.pos.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = -slope(model, batch, direction)
    assert abs(exact) > 1e-6
    assert float((forces * direction).sum()) == pytest.approx(exact, rel=2e-5)
    assert all(torch.equal(batch[key], value) for key, value in before.items())
    assert not batch.pos.requires_grad


@ocp
@quiet
def test_the_registry_says_where_forces_are_not_the_gradient():
    model, batch = model_of("dimenet++", "fairchem").double(), example_batch(dtype=torch.float64)
    plain, true = (zoo.energy_and_forces(model, batch, consistent=c)[1] for c in (False, True))
    assert (plain - true).norm() > 1e-2 * true.norm()
    torch.testing.assert_close(plain, model(*zoo.example_inputs(model, batch))["forces"].detach())
    assert "_forward" not in model.__dict__
    kinds = {(entry.name, entry.backend): entry.force for entry in zoo.entries()}
    assert kinds["dimenet++", "fairchem"] == "detached-angles"
    assert kinds["painn", "fairchem"] == "feature-gradient"
    assert {kinds[entry.name, "pyg"] for entry in zoo.entries() if entry.backend == "pyg"} == {"exact"}


@ocp
@quiet
def test_inputs_for_fairchem_are_structures_that_can_be_taken_apart():
    (inputs,) = zoo.example_inputs(model_of("schnet", "fairchem"), example_batch(dtype=torch.float64))
    assert (inputs.cell.dtype, inputs.pos.dtype) == (torch.float32, torch.float64)
    single = inputs.get_example(1)
    assert single.tags.shape == single.atomic_numbers.shape == (9,)
    bare = example_batch()
    del bare.cell, bare.pbc
    single = zoo.example_inputs(model_of("schnet", "fairchem"), bare)[0].get_example(0)
    assert (single.cell.shape, single.pbc.shape) == ((1, 3, 3), (1, 3))


@ocp
@quiet
def test_consistent_forces_of_an_edited_dimenet_are_exact():
    model, batch = model_of("dimenet++", "fairchem").double(), example_batch(dtype=torch.float64)
    edited = dcs.apply(model, dcs.plan(model, **zoo.recipe(model), rescale=10.0)).model
    direction = torch.randn(batch.pos.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, forces = zoo.energy_and_forces(edited, batch, consistent=True)
    assert float((forces * direction).sum()) == pytest.approx(-slope(edited, batch, direction), rel=1e-5)


@ocp
@quiet
@pytest.mark.parametrize(("ours", "theirs"), [("schnet", "schnet"), ("dimenet++", "dimenet++")])
@pytest.mark.parametrize("kind", ["molecule", "slab"])
def test_models_on_pyg_have_the_energies_and_forces_of_ocps(ours, theirs, kind):
    # Few neighbours more than there are: which of equally near ones are kept is not the same in both.
    own = model_of(ours, "pyg", **({"max_num_neighbors": 100} if kind == "slab" else {})).double()
    other = model_of(theirs, "fairchem").double()
    other.max_neighbors = 100
    missing, unexpected = other.load_state_dict(own.state_dict(), strict=False)
    assert not unexpected
    for key in missing:  # of OCP's DimeNet++ one layer has a bias, of PyG's it has none
        assert key.endswith("lin_up.bias")
        other.get_parameter(key).data.zero_()
    batch = example_batch(kind, dtype=torch.float64)
    got, expected = (zoo.energy_and_forces(model, batch, consistent=True) for model in (own, other))
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5 * float(expected[1].abs().max()))


@pytest.mark.parametrize("name", ["schnet", "cgcnn"])
def test_raw_outputs_times_the_scale_are_the_physical_ones(name):
    model, batch = model_of(name).double().eval(), example_batch(dtype=torch.float64)
    edited = dcs.apply(model, dcs.plan(model, denorm=False, irelu=False, rescale=1e3)).model
    raw, physical = (zoo.energy_and_forces(edited, batch, scaled=scaled) for scaled in (True, False))
    torch.testing.assert_close(raw, zoo.energy_and_forces(model, batch))
    torch.testing.assert_close(tuple(1e3 * value for value in raw), physical)
    torch.testing.assert_close(zoo.energy(model, batch, scaled=True), zoo.energy(model, batch))


@ocp
@quiet
@pytest.mark.parametrize(("name", "backend"), [*OCP, ("gemnet-oc", "auto")])
def test_use_pbc_selects_in_fairchems_models_too(name, backend):
    model, cut = (model_of(name, backend, use_pbc=use) for use in (True, False))
    slab = example_batch("slab")
    free = slab.clone()
    free.pbc = torch.zeros_like(slab.pbc)
    got, expected = (zoo.energy_and_forces(m, b) for m, b in ((cut, slab), (model, free)))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected[1].abs().max()))
    assert not torch.allclose(zoo.energy(model, slab), got[0], rtol=1e-4)
    training = zoo.energy_and_forces(cut, slab, create_graph=True)
    sum(value.square().sum() for value in training).backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in cut.parameters())


@ocp
@quiet
def test_gemnet_oc_gives_forces_in_float32_and_says_that_it_has_no_other_precision():
    model, batch = model_of("gemnet-oc"), example_batch()
    energy, forces = zoo.energy_and_forces(model, batch)
    own = model(*zoo.example_inputs(model, batch))
    torch.testing.assert_close((energy, forces), (own["energy"].detach(), own["forces"].detach()), rtol=1e-4, atol=1e-5)
    with pytest.raises(BadInput, match="float32 only"):
        zoo.energy(model.double(), example_batch(dtype=torch.float64))
    assert torch.get_default_dtype() == torch.float32


class Own(nn.Module):
    """A potential of either convention, as users write it."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, data):
        energy = torch.zeros(2).index_add(0, data.batch, self.scale * data.pos.square().sum(dim=1))
        return {"tuple": (energy, data.pos), "mapping": {"energy": energy[:, None]}, "both": energy.repeat(2)}[
            self.form
        ]


@pytest.mark.parametrize("form", ["tuple", "mapping"])
def test_a_users_own_model_may_return_energies_in_any_usual_form(form):
    batch = example_batch()
    energy, forces = zoo.energy_and_forces(Own(form), batch, create_graph=True)
    assert energy.requires_grad
    torch.testing.assert_close(forces, -2 * batch.pos)
    wrapped = nn.DataParallel(Own(form))
    torch.testing.assert_close(zoo.energy(wrapped, batch), energy)


def test_what_is_not_one_energy_per_structure_is_named():
    with pytest.raises(BadInput, match=r"one energy per structure, shape \(2,\) or \(2, 1\), got \(4,\)"):
        zoo.energy(Own("both"), example_batch())


@pytest.mark.parametrize("name", ["schnet", "dimenet++", "cgcnn", "forcenet"])
def test_an_element_without_an_embedding_is_named(name):
    batch = example_batch()
    batch.atomic_numbers[3] = {"forcenet": 54}.get(name, 101)
    with pytest.raises(BadInput, match=r"atomic numbers (54|101) are outside of what the model knows \(1 to \d+\)"):
        zoo.energy(zoo.build(name), batch)


@ocp
def test_an_element_without_an_embedding_is_named_in_fairchems_models_too():
    batch = example_batch()
    batch.atomic_numbers[3] = 84
    with pytest.raises(BadInput, match=r"atomic numbers 84 are .*\(1 to 83\)"):
        zoo.energy(zoo.build("gemnet-dt"), batch)


@pytest.mark.parametrize("name", ["schnet", "dimenet++", "cgcnn", "forcenet"])
def test_a_cutoff_that_leaves_atoms_alone_is_named(name):
    model, batch = model_of(name, cutoff=0.5), example_batch()
    with pytest.raises(BadInput, match=r"18 of 18 atoms have no neighbour within the cutoff of 0.5 Å.*larger cutoff"):
        zoo.energy_and_forces(model, batch)
    batch.pos[4] += 100.0
    with pytest.raises(BadInput, match=r"1 of 18 atoms .* the first is atom 4 of structure 0"):
        check_batch(model_of(name), batch)
    check_batch(model_of(name), example_batch("slab"))


def test_unknown_examples_are_named():
    with pytest.raises(BadInput, match="unknown kind of structure 'crystal'"):
        example_batch("crystal")
    with pytest.raises(BadInput, match="structures must be at least 1"):
        example_batch(structures=0)
