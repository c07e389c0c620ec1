"""Sets of structures: batches, subsets, units, joining."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.units import Units


def mixed(n=5, seed=0, units="eV"):
    generator = np.random.default_rng(seed)
    natoms = generator.integers(1, 5, size=n)
    atoms = natoms.sum()
    return StructureSet(
        generator.integers(1, 9, atoms),
        generator.normal(size=(atoms, 3)),
        natoms,
        generator.normal(size=n),
        generator.normal(size=(atoms, 3)),
        Units.of(units),
        cells=generator.normal(size=(n, 3, 3)),
        pbc=np.ones((n, 3), bool),
        fixed=generator.integers(0, 2, atoms),
        name="mixed",
    )


def test_a_batch_is_what_pyg_makes_of_single_graphs():
    data = mixed()
    order = [3, 0, 3, -1]
    graphs = []
    for index in order:
        one = data.subset([index])
        graphs.append(
            Data(
                pos=torch.tensor(one.positions),
                atomic_numbers=torch.tensor(one.numbers),
                natoms=torch.tensor(one.natoms),
                cell=torch.tensor(one.cells),
                pbc=torch.tensor(one.pbc),
                energy=torch.tensor(one.energies),
                forces=torch.tensor(one.forces),
                fixed=torch.tensor(one.fixed),
            )
        )
    expected, batch = Batch.from_data_list(graphs), data.batch(order, dtype=torch.float64)
    assert set(batch.keys()) == set(expected.keys())
    for key in expected.keys():  # noqa: SIM118 - a Batch's keys are a method's result
        assert torch.equal(batch[key], expected[key]), key
        assert batch[key].dtype == expected[key].dtype
    assert batch.num_graphs == 4
    for single, graph in zip(batch.to_data_list(), graphs, strict=True):
        for key in graph.keys():  # noqa: SIM118
            assert torch.equal(single[key], graph[key]), key


def test_positions_take_the_dtype_and_labels_stay_float64():
    batch = mixed().batch([0, 1], dtype=torch.float32)
    assert batch.pos.dtype == batch.cell.dtype == torch.float32
    assert batch.energy.dtype == batch.forces.dtype == torch.float64


def test_a_subset_keeps_atoms_with_their_structure():
    data = mixed()
    part = data.subset([4, 1])
    assert np.array_equal(part.energies, data.energies[[4, 1]])
    rows = slice(data.offsets[1], data.offsets[2])
    assert np.array_equal(part.forces[part.offsets[1] :], data.forces[rows])
    assert np.array_equal(data.subset(slice(1, 3)).natoms, data.natoms[1:3])
    assert len(data.subset(np.arange(5) > 2)) == 2
    with pytest.raises(BadInput, match="no structure 5: there are 5"):
        data.subset([5])
    with pytest.raises(BadInput, match="no structures"):
        data.subset([])


def test_units_are_those_of_ase():
    from ase import units

    data = mixed()
    other = data.to("kcal/mol")
    assert np.allclose(other.energies * units.kcal / units.mol, data.energies, rtol=1e-7)
    assert np.array_equal(other.positions, data.positions)
    atomic = data.to("hartree, bohr")
    assert np.allclose(atomic.positions * units.Bohr, data.positions, rtol=1e-7)
    assert np.allclose(atomic.forces * units.Hartree / units.Bohr, data.forces, rtol=1e-7)
    assert np.allclose(atomic.cells * units.Bohr, data.cells, rtol=1e-7)
    assert data.to("eV") is data
    assert str(atomic.units) == "hartree, bohr"
    assert Units.of(str(atomic.units)) == atomic.units


@pytest.mark.parametrize("units", ["", "MeV", "ev/A", "eV, foot", "eV, Angstrom, fs", 3])
def test_unknown_units_are_refused(units):
    with pytest.raises(BadInput, match="unit"):
        Units.of(units)


def test_the_fingerprint_is_that_of_the_contents():
    assert mixed().fingerprint() == mixed().fingerprint()
    assert mixed().fingerprint() == StructureSet.joined([mixed()], "other name").fingerprint()
    assert mixed().fingerprint() != mixed(seed=1).fingerprint()
    assert mixed().fingerprint() != mixed().to("meV").fingerprint()
    assert mixed().fingerprint() != mixed().subset([1, 0, 2, 3, 4]).fingerprint()


def test_joined_sets_keep_their_systems_and_take_the_first_units():
    joined = StructureSet.joined([mixed(3), mixed(4, seed=1).to("meV"), mixed(2, seed=2)])
    assert joined.systems.tolist() == [0] * 3 + [1] * 4 + [2] * 2
    assert np.allclose(joined.energies[3:7], mixed(4, seed=1).energies)
    with pytest.raises(BadInput, match="no sets"):
        StructureSet.joined([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energies": [np.nan, 0]}, "energies of structure 0 are not finite"),
        ({"forces": [[0, 0, 0], [0, np.inf, 0], [0, 0, 0]]}, "forces of structure 1 are not finite"),
        ({"numbers": [1, 0, 1]}, "between 1 and 118"),
        ({"natoms": [1, 1]}, "there are 3 atoms"),
        ({"forces": [[0, 0, 0]]}, r"forces must have shape \(3, 3\), got \(1, 3\)"),
        ({"natoms": [], "energies": []}, "no structures"),
    ],
)
def test_bad_arrays_are_named(change, message):
    arrays = {"numbers": [1, 1, 1], "positions": np.zeros((3, 3)), "natoms": [1, 2], "energies": [0, 0]}
    with pytest.raises(BadInput, match=message):
        StructureSet(**{**arrays, "forces": np.zeros((3, 3)), **change}, units=Units())


def test_public_names():
    assert zoo.StructureSet is StructureSet
    assert zoo.load_data(zoo.data.molecules.ethanol_path()).units == Units("kcal/mol")
    assert len(zoo.random_split(10, (3, 2), seed=0)) == 2
