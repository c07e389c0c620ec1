"""Splits and statistics of data sets."""

import json

import numpy as np
import pytest

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.loading import load
from dcsurgery.zoo.data.molecules import ethanol_path
from dcsurgery.zoo.data.splits import Split
from dcsurgery.zoo.data.statistics import PAPER_TABLE_6, formula, paper_row, statistics
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.systems import MD17_MOLECULES, starting_structure


@pytest.fixture(scope="module")
def data():
    return load(ethanol_path())


def test_a_split_comes_back_from_its_file_and_gives_the_same_parts(data, tmp_path):
    drawn = Split.draw(data, (400, 100, 50), seed=3)
    drawn.save(tmp_path / "s.json")
    read = Split.load(tmp_path / "s.json")
    parts = read.apply(data)
    assert [len(part) for part in parts.values()] == [400, 100, 50]
    for name, part in drawn.apply(data).items():
        assert part.fingerprint() == parts[name].fingerprint()
    every = np.concatenate([*drawn.parts.values()])
    assert len(np.unique(every)) == 550
    assert not np.array_equal(Split.draw(data, (400,), seed=4).parts["train"], drawn.parts["train"])


def test_a_split_of_other_data_is_refused(data, tmp_path):
    Split.draw(data, (4, 1), 0).save(tmp_path / "s.json")
    read = Split.load(tmp_path / "s.json")
    for other in (data.subset(slice(599)), data.to("eV")):
        with pytest.raises(BadInput, match=r"the split was drawn for data .* same data in the same units"):
            read.apply(other)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((500, 101), "cannot draw 500"), ((-1,), "cannot draw"), ((), "one to three"), ((1,) * 4, "got 4")],
)
def test_splits_larger_than_the_data_are_refused(data, sizes, message):
    with pytest.raises(BadInput, match=message):
        Split.draw(data, sizes, 0)


def test_systems_stay_together(data):
    joined = StructureSet.joined([data.subset(slice(k, k + 3 + k)) for k in range(6)])
    drawn = Split.draw(joined, (3, 2), 0, by_system=True)
    systems = [{*joined.systems[rows].tolist()} for rows in drawn.parts.values()]
    assert [len(found) for found in systems] == [3, 2]
    assert not systems[0] & systems[1]
    for rows, found in zip(drawn.parts.values(), systems, strict=True):
        assert len(rows) == np.isin(joined.systems, [*found]).sum()
    with pytest.raises(BadInput, match=r"cannot draw 5 \+ 2 of 6 systems"):
        Split.draw(joined, (5, 2), 0, by_system=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a split"),
        ("[]", "not a split"),
        (json.dumps({"seed": 0, "parts": {}}), "not a split.*fingerprint"),
        (json.dumps({"seed": 0, "fingerprint": "x", "parts": {"train": [1, 2], "test": [2]}}), "in it twice"),
        (json.dumps({"seed": 0, "fingerprint": "x", "parts": {"train": ["a"]}}), "not a split"),
        (None, "cannot read"),
    ],
)
def test_bad_split_files_are_named(tmp_path, content, message):
    path = tmp_path / "s.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=message):
        Split.load(path)


def test_statistics_are_those_of_the_arrays(data):
    found = data.statistics()
    assert (found.name, found.abbreviation, found.formula) == ("Ethanol", "Eth.", "C2H6O")
    assert found.atoms == (9, 9)
    assert found.conformations == 600
    assert found.energy_mean == pytest.approx(np.mean(data.energies))
    assert found.force_rms == pytest.approx(np.sqrt(np.mean(np.square(data.forces))))
    assert found.rescale == 10_000.0  # energies of about -7136 kcal/mol
    assert statistics(data.to("meV")).rescale == 1_000_000.0


def test_the_papers_molecules_have_their_formula_and_atoms_and_are_at_rest():
    tblite = pytest.importorskip("tblite.ase")
    for row, name in zip(PAPER_TABLE_6, MD17_MOLECULES, strict=True):
        atoms = starting_structure(name)
        assert row.molecule.lower() == name
        assert formula(atoms.numbers) == row.formula
        assert len(atoms) == row.atoms
        assert paper_row(row.formula) is row
        atoms.calc = tblite.TBLite(method="GFN2-xTB", verbosity=0)
        relaxed_here = name not in ("benzene", "ethanol")  # those two are ASE's, from another method
        assert np.abs(atoms.get_forces()).max() < (0.01 if relaxed_here else 1.0)  # eV/Å


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("asprin", "did you mean aspirin"),
        ("Fe111", "no slab of Fe111"),
        ("MgO111", "no slab of MgO111"),
        ("Cu111+CO2", "unknown adsorbate 'CO2'"),
    ],
)
def test_unknown_systems_are_named(name, message):
    with pytest.raises(BadInput, match=message):
        starting_structure(name)


def test_slabs_have_their_size_and_a_fixed_lower_half():
    slab = starting_structure("Pt111+CO", (3, 2, 4))
    assert len(slab) == 3 * 2 * 4 + 2
    assert slab.pbc.all()
    assert len(slab.constraints[0].index) == 12
    oxide = starting_structure("MgO100+H2O")
    assert formula(oxide.numbers[:-3]) == "Mg16O16"
    apart = oxide.get_all_distances(mic=True)
    np.fill_diagonal(apart, 9)
    assert apart.min() > 0.9
    with pytest.raises(BadInput, match="size must be three numbers"):
        starting_structure("Cu111", (0, 1, 1))
