"""Periodic neighbour lists: those of ASE, inside and outside the cell, and smooth in positions and cell."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.neighborlist import neighbor_list

from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo.examples import example_batch
from dcsurgery.zoo.ocp.periodic import periodic_edges, periodic_triplets


def structures():
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    add_adsorbate(slab, "O", 1.3, "fcc")
    slab.pbc = True
    slab.rattle(0.05, seed=0)
    slab.positions[0] += 2 * slab.cell[0] - slab.cell[1]  # outside the cell
    sheet = fcc111("Cu", (1, 1, 2))
    sheet.cell[2] = 0  # no vector in the direction that is not periodic
    sheet.pbc = (True, True, False)
    wire = Atoms("CH", [[0, 0, 0], [0.3, 1.0, 0.2]], cell=[1.9, 0, 0], pbc=(True, False, False))
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    return [slab, sheet, wire, crystal, Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])]


def tensors(atoms_list):
    pos = torch.as_tensor(np.concatenate([a.positions for a in atoms_list]))
    batch = torch.cat([torch.full((len(a),), i) for i, a in enumerate(atoms_list)])
    cell = torch.as_tensor(np.stack([np.asarray(a.cell) for a in atoms_list]))
    return pos, batch, cell, torch.as_tensor(np.stack([a.pbc for a in atoms_list]))


def sorted_edges(target, source, vectors):
    rows = np.column_stack([target, source, np.round(vectors, 6) + 0.0])
    return rows[np.lexsort(rows.T[::-1])]


def test_edges_are_those_of_ase():
    atoms_list = structures()
    pos, batch, cell, pbc = tensors(atoms_list)
    edges, vectors = periodic_edges(pos, 5.0, batch, cell, pbc, 10_000)
    first = 0
    for index, atoms in enumerate(atoms_list):
        own = batch[edges[1]] == index
        i, j, d = neighbor_list("ijD", atoms, 5.0)
        mine = sorted_edges(*(edges[[1, 0]][:, own] - first).numpy(), vectors[own].numpy())
        assert len(mine) == len(i) > 0
        np.testing.assert_allclose(mine, sorted_edges(i, j, d), atol=2e-6)
        first += len(atoms)


def test_of_too_many_neighbours_the_nearest_are_kept():
    pos, batch, cell, pbc = tensors(structures()[:1])
    _, every = periodic_edges(pos, 5.0, batch, cell, pbc, 10_000)
    edges, vectors = periodic_edges(pos, 5.0, batch, cell, pbc, 4)
    assert torch.bincount(edges[1]).tolist() == [4] * len(pos)
    everyone, _ = periodic_edges(pos, 5.0, batch, cell, pbc, 10_000)
    for atom in range(len(pos)):
        nearest = every[everyone[1] == atom].norm(dim=1).sort().values[:4]
        torch.testing.assert_close(vectors[edges[1] == atom].norm(dim=1).sort().values, nearest)


def test_triplets_leave_out_the_way_back_and_keep_images():
    pos, batch, cell, pbc = tensors([Atoms("C", cell=[2.0, 2.0, 2.0], pbc=True)])
    edges, vectors = periodic_edges(pos, 2.1, batch, cell, pbc, 100)
    assert edges.shape[1] == 6
    _, _, idx_kj, idx_ji = periodic_triplets(edges, -vectors, 1)
    # Every one of 6 edges goes on in 6 directions, one of which is back to where it came from.
    assert len(idx_kj) == 30
    assert (vectors[idx_kj] + vectors[idx_ji]).norm(dim=1).min() > 1.0


@pytest.mark.parametrize("name", ["schnet", "dimenet++", "cgcnn", "cgconv-bn", "forcenet"])
def test_use_pbc_selects_and_supercells_have_the_energy_of_their_parts(name):
    torch.manual_seed(0)
    model = zoo.build(name, cutoff=3.0).double().eval()
    cut = zoo.build(name, cutoff=3.0, use_pbc=False).double().eval()
    cut.load_state_dict(model.state_dict())
    batch = example_batch("slab", 1, torch.float64)
    energy = zoo.energy(model, batch)
    free = batch.clone()
    free.pbc = torch.zeros_like(batch.pbc)
    assert torch.equal(zoo.energy(cut, batch), zoo.energy(model, free))
    assert (zoo.energy(cut, batch) - energy).abs().max() > 1e-6
    double = batch.clone()
    double.pos = torch.cat([batch.pos, batch.pos + batch.cell[0, 0]])
    double.atomic_numbers = batch.atomic_numbers.repeat(2)
    double.batch = batch.batch.repeat(2)
    double.natoms = batch.natoms * 2
    double.cell = batch.cell * torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)[:, None]
    factor = 1 if name in ("cgcnn", "cgconv-bn") else 2  # CGCNN's energy is that of a mean atom
    start = model.energy_mlp.bias if name == "forcenet" else 0.0  # one for all atoms of a structure together
    torch.testing.assert_close(zoo.energy(model, double) - start, factor * (energy - start), rtol=1e-9, atol=0)


def test_the_derivative_by_the_cell_is_that_of_finite_differences():
    torch.manual_seed(0)
    model, batch = zoo.build("schnet").double(), example_batch("slab", 1, torch.float64)

    def energy(strain):
        grow = torch.eye(3, dtype=torch.float64) + strain
        z, pos, index = batch.atomic_numbers, batch.pos @ grow, batch.batch
        return model(z, pos, index, batch.cell @ grow, batch.pbc).sum()

    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (stress,) = torch.autograd.grad(energy(strain), strain)
    step = 1e-5 * torch.tensor([[1.0, 0.3, 0], [0.3, -0.5, 0], [0, 0, 0.2]], dtype=torch.float64)
    slope = float((energy(step) - energy(-step)).detach()) / 2
    assert float((stress * step).sum()) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (torch.zeros(1, 3, 3), "structure 0: a periodic direction has no cell vector"),
        (torch.ones(1, 3, 3), "cell vectors lie in one plane"),
        (torch.eye(3), r"cell must have shape \(n_structures, 3, 3\)"),
    ],
)
def test_impossible_cells_are_named(cell, message):
    with pytest.raises(BadInput, match=message):
        periodic_edges(torch.zeros(1, 3), 5.0, torch.zeros(1, dtype=torch.long), cell, torch.ones(1, 3).bool(), 5)
