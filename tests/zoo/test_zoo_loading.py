"""Files of every format that is read: what comes out, and what is said about bad ones."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from torch_geometric.data import Data

from dcsurgery.errors import BadInput, UnsafeFile
from dcsurgery.zoo.data import downloads
from dcsurgery.zoo.data.converting import write_data
from dcsurgery.zoo.data.loading import load
from dcsurgery.zoo.data.molecules import ethanol, ethanol_path
from dcsurgery.zoo.data.references import fit_references, without_references
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.systems import starting_structure
from dcsurgery.zoo.data.units import Units


@pytest.fixture(scope="module")
def molecules():
    return load(ethanol_path()).subset(slice(30))


@pytest.fixture(scope="module")
def slabs():
    """Frames of two slabs, near a minimum, labelled by EMT."""
    from ase.calculators.emt import EMT

    frames = []
    generator = np.random.default_rng(0)
    for system, name in enumerate(("Cu111+CO", "Al100")):
        atoms = starting_structure(name)
        for _ in range(3):
            atoms.positions += generator.normal(scale=0.02, size=(len(atoms), 3))
            copy = atoms.copy()
            copy.calc = EMT()
            labels = {"energy": copy.get_potential_energy(), "forces": copy.get_forces(apply_constraint=False)}
            copy.calc = SinglePointCalculator(copy, **labels)
            copy.info["system"] = system
            frames.append(copy)
    return frames


def same(first, second, rtol=0.0):
    for key in ("numbers", "natoms", "pbc", "fixed", "systems"):
        assert np.array_equal(getattr(first, key), getattr(second, key)), key
    for key in ("positions", "energies", "forces", "cells"):
        assert np.allclose(getattr(first, key), getattr(second, key), rtol=rtol, atol=rtol), key


def test_both_npz_layouts_read_the_same(tmp_path, molecules):
    data = ethanol()[:30]
    np.savez(
        tmp_path / "rmd17.npz",
        coords=data.positions, energies=data.energies, forces=data.forces, nuclear_charges=data.numbers,
        old_indices=np.arange(30),
    )  # fmt: skip
    read = load(tmp_path / "rmd17.npz")
    same(read, molecules)
    assert read.units == Units("kcal/mol")
    assert read.fingerprint() == molecules.fingerprint()


@pytest.mark.parametrize("suffix", [".npz", ".extxyz", ".traj", ".db"])
def test_what_is_written_is_read_again(tmp_path, molecules, suffix):
    path = write_data(molecules, tmp_path / f"m{suffix}")
    read = load(path)
    assert read.units == (molecules.units if suffix in (".npz", ".extxyz") else Units())
    same(read.to("kcal/mol"), molecules, rtol=1e-7)
    with pytest.raises(BadInput, match="the file exists"):
        write_data(molecules, path)


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
def test_slabs_keep_cells_fixed_atoms_and_systems(tmp_path, slabs, suffix):
    from dcsurgery.zoo.data.ase_files import from_atoms

    data = from_atoms(slabs, Units(), where="slabs", name="slabs")
    assert data.pbc.all()
    assert data.fixed[: len(slabs[0])].sum() == len(slabs[0].constraints[0].index)
    assert data.systems.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.allclose(data.forces[: len(slabs[0])], slabs[0].get_forces(apply_constraint=False))
    same(load(write_data(data, tmp_path / f"s{suffix}")), data, rtol=1e-7)
    with pytest.raises(BadInput, match="structures differ: 12 to 14 atoms"):
        write_data(data, tmp_path / "s.npz")
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"s{suffix}"]


def test_a_folder_is_a_set_whose_systems_are_its_files(tmp_path, slabs):
    (tmp_path / "SOURCE.txt").write_text("not data")
    write(tmp_path / "a.traj", slabs[:3])
    write(tmp_path / "b.traj", slabs[3:])
    read = load(tmp_path)
    assert len(read) == 6
    assert len(np.unique(read.systems)) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="the folder has no data file; it has nothing"):
        load(tmp_path / "empty")


# -- LMDB ---------------------------------------------------------------------------------------------------------


def graph_of(atoms, sid):
    return Data(
        pos=torch.tensor(atoms.positions, dtype=torch.float32),
        cell=torch.tensor(np.asarray(atoms.cell)[None], dtype=torch.float32),
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.float32),
        natoms=len(atoms),
        y=atoms.get_potential_energy(),
        force=torch.tensor(atoms.get_forces(apply_constraint=False), dtype=torch.float32),
        fixed=torch.tensor([float(i in atoms.constraints[0].index) for i in range(len(atoms))]),
        tags=torch.zeros(len(atoms)),
        sid=sid,
        fid=0,
    )


def write_lmdb(path, objects, length=True):
    lmdb = pytest.importorskip("lmdb")
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 26, meminit=False)
    with environment.begin(write=True) as transaction:
        for number, value in enumerate(objects):
            transaction.put(
                str(number).encode(), value if isinstance(value, bytes) else pickle.dumps(value, protocol=-1)
            )
        if length:
            transaction.put(b"length", pickle.dumps(len(objects), protocol=-1))
    environment.close()
    path.with_name(path.name + "-lock").unlink(missing_ok=True)
    return path


@pytest.mark.parametrize("length", [True, False])
def test_graphs_of_an_lmdb_are_read_without_running_what_they_name(tmp_path, slabs, length):
    path = write_lmdb(tmp_path / "data.0000.lmdb", [graph_of(atoms, atoms.info["system"]) for atoms in slabs], length)
    read = load(path)
    assert read.units == Units()
    assert read.pbc.all()
    assert read.systems.tolist() == [0, 0, 0, 1, 1, 1]
    start = 0
    for atoms, energy in zip(slabs, read.energies, strict=True):
        rows = slice(start, start := start + len(atoms))
        assert energy == pytest.approx(atoms.get_potential_energy())
        assert np.allclose(read.forces[rows], atoms.get_forces(apply_constraint=False), atol=1e-6)
        assert np.array_equal(np.flatnonzero(read.fixed[rows]), atoms.constraints[0].index)
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]


def test_fairchem_reads_the_same_from_an_lmdb(tmp_path, slabs):
    pytest.importorskip("lmdb")
    from dcsurgery.zoo.ocp import fairchem

    try:
        fairchem.require()
    except BadInput:
        pytest.skip("needs fairchem-core 1.x")
    from fairchem.core.datasets import LmdbDataset

    path = write_lmdb(tmp_path / "data.lmdb", [graph_of(atoms, 0) for atoms in slabs])
    read, dataset = load(path), LmdbDataset({"src": str(path)})
    assert len(dataset) == len(read)
    for index in range(len(read)):
        batch, graph = read.batch([index]), dataset[index]
        assert torch.equal(batch.pos, graph.pos)
        assert torch.equal(batch.forces, graph.force.double())
        assert torch.equal(batch.cell, graph.cell)
        assert batch.energy.item() == graph.y
    dataset.env.close()


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_graph_that_names_anything_else_is_refused_and_nothing_runs(tmp_path, slabs, capsys):
    graph = graph_of(slabs[0], 0)
    graph.note = Evil()
    with pytest.raises(UnsafeFile, match=r"names builtins\.print, which no graph needs"):
        load(write_lmdb(tmp_path / "evil.lmdb", [graph]))
    assert not capsys.readouterr().out


def test_damaged_lmdbs_are_refused(tmp_path, slabs):
    good = write_lmdb(tmp_path / "good.lmdb", [graph_of(atoms, 0) for atoms in slabs * 5])
    content = good.read_bytes()
    cut = tmp_path / "cut.lmdb"
    for size in (0, 100, 5000, 10_000, len(content) // 2, len(content) - 4096):
        cut.write_bytes(content[:size])
        with pytest.raises(BadInput, match="not a readable LMDB"):
            load(cut)
    cut.write_bytes(b"x" * len(content))
    with pytest.raises(BadInput, match="not an LMDB file"):
        load(cut)
    half = pickle.dumps(graph_of(slabs[0], 0), protocol=-1)
    for bad, message in ((half[:200], "not a readable graph"), ({"a": 1}, "holds a dict, not a PyG graph")):
        with pytest.raises(BadInput, match=message):
            load(write_lmdb(tmp_path / f"{type(bad).__name__}.lmdb", [half, bad]))
    with pytest.raises(BadInput, match="no structures"):
        load(write_lmdb(tmp_path / "empty.lmdb", []))
    relaxed = graph_of(slabs[0], 0)
    del relaxed.force
    with pytest.raises(BadInput, match=r"graph 0: no force or forces; it has .*S2EF"):
        load(write_lmdb(tmp_path / "relaxed.lmdb", [relaxed]))


# -- files that ASE reads ----------------------------------------------------------------------------------------


def test_bad_files_are_named(tmp_path, molecules):
    whole = write_data(molecules, tmp_path / "m.traj").read_bytes()
    path = tmp_path / "cut.traj"
    for size in (10, 200, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput, match="ASE cannot read it"):
            load(path)
    text = write_data(molecules, tmp_path / "m.extxyz").read_text().splitlines()
    path = tmp_path / "cut.xyz"
    path.write_text("\n".join(text[:20]))
    with pytest.raises(BadInput, match="ASE cannot read it after 1 structures"):
        load(path)
    path.write_text("")
    with pytest.raises(BadInput, match="the file is empty"):
        load(path)
    (tmp_path / "bad.db").write_bytes(b"no database" * 100)
    with pytest.raises(BadInput, match="ASE cannot read it"):
        load(tmp_path / "bad.db")
    with connect(tmp_path / "empty.db", use_lock_file=False) as database:
        database.write(Atoms("H"))
        del database[1]
    with pytest.raises(BadInput, match="no structures"):
        load(tmp_path / "empty.db")
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "none.npz")


def test_missing_and_nan_labels_are_named(tmp_path):
    water = Atoms("OH2", [(0, 0, 0), (0.96, 0, 0), (-0.24, 0.93, 0)])
    write(tmp_path / "bare.extxyz", [water])
    with pytest.raises(BadInput, match="structure 0 has no energy and no forces; it has positions only"):
        load(tmp_path / "bare.extxyz")
    water.calc = SinglePointCalculator(water, energy=-1.0)
    write(tmp_path / "energy.traj", [water])
    with pytest.raises(BadInput, match="structure 0 has no forces"):
        load(tmp_path / "energy.traj")
    bad = water.copy()
    bad.calc = SinglePointCalculator(bad, energy=float("nan"), forces=np.zeros((3, 3)))
    water.calc = SinglePointCalculator(water, energy=-1.0, forces=np.zeros((3, 3)))
    write(tmp_path / "nan.traj", [water, bad])
    with pytest.raises(BadInput, match="energies of structure 1 are not finite"):
        load(tmp_path / "nan.traj")


def test_an_npz_without_its_arrays_says_what_it_has(tmp_path):
    np.savez(tmp_path / "a.npz", R=np.zeros((2, 3, 3)), z=np.ones(3))
    with pytest.raises(BadInput, match=r"no array E, F; present: R, z \(needed are R .*nuclear_charges"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "m.npz", R_desc=np.zeros((3, 2)), R_d_desc_alpha=np.zeros((2, 3)))
    with pytest.raises(BadInput, match="an sGDML force field, not a data set"):
        load(tmp_path / "m.npz")


# -- units --------------------------------------------------------------------------------------------------------


def relabelled(path, units):
    """Write kcal/mol numbers without saying so, as most files do."""
    data = ethanol()[:60]
    np.savez(path, R=data.positions, E=data.energies, F=data.forces, z=data.numbers)
    return load(path, units=units)


@pytest.mark.parametrize("units", ["eV", "meV", "hartree", "kcal/mol, bohr", "kcal/mol, nm", "hartree, bohr"])
def test_numbers_that_cannot_be_in_the_units_are_questioned(tmp_path, units):
    with pytest.raises(BadInput, match=r'these can hardly be .*kcal/mol, Angstrom".*--trust-units'):
        relabelled(tmp_path / "e.npz", units)
    trusted = load(tmp_path / "e.npz", units=units, check_units=False)
    assert trusted.units == Units.of(units)


def test_the_energy_zero_does_not_enter_the_question(tmp_path):
    data = ethanol()[:60]
    for zero in (0.0, data.energies.mean(), data.energies.mean() + 381_900 / 4):
        np.savez(tmp_path / "e.npz", R=data.positions, E=data.energies - zero, F=data.forces, z=data.numbers)
        load(tmp_path / "e.npz", units="kcal/mol")
        with pytest.raises(BadInput, match="stiffness"):
            load(tmp_path / "e.npz", units="meV")


@pytest.mark.parametrize("factor", [23.06, 1 / 23.06, 1000.0, 4.184])
def test_forces_in_other_units_than_the_energies_are_questioned(tmp_path, factor, slabs):
    """A slow trajectory of a slab, where the work of the forces is known to the energies."""
    from ase.calculators.emt import EMT

    atoms = starting_structure("Cu111+O")
    atoms.calc = EMT()
    frames = []
    for _ in range(12):
        atoms.positions += 0.01 * atoms.get_forces()
        copy = atoms.copy()
        labels = {"energy": atoms.get_potential_energy(), "forces": factor * atoms.get_forces(apply_constraint=False)}
        copy.calc = SinglePointCalculator(copy, **labels)
        frames.append(copy)
    write(tmp_path / "s.traj", frames)
    with pytest.raises(BadInput, match="the work of the forces is"):
        load(tmp_path / "s.traj")


def test_a_file_that_states_its_units_is_not_overruled():
    with pytest.raises(BadInput, match="the file states kcal/mol, Angstrom, not eV"):
        load(ethanol_path(), units="eV")


# -- references ---------------------------------------------------------------------------------------------------


def test_reference_energies_come_off_by_composition(tmp_path, slabs):
    write(tmp_path / "s.traj", slabs)
    table = np.linspace(-1, -10, 100)
    np.savez(tmp_path / "linref.npz", coeff=table)
    plain, shifted = load(tmp_path / "s.traj"), load(tmp_path / "s.traj", references=tmp_path / "linref.npz")
    for index, atoms in enumerate(slabs):
        assert plain.energies[index] - shifted.energies[index] == pytest.approx(table[atoms.numbers].sum())
    assert np.array_equal(plain.forces, shifted.forces)
    fitted = without_references(plain, fit_references(plain))
    assert np.abs(fitted.energies).max() < 0.1 * np.abs(plain.energies).max() + 1
    np.savez(tmp_path / "short.npz", coeff=np.ones(9))
    with pytest.raises(BadInput, match=r"no reference energy for atomic numbers \[13, 29\]"):
        load(tmp_path / "s.traj", references=tmp_path / "short.npz")
    np.savez(tmp_path / "other.npz", x=np.ones(9))
    with pytest.raises(BadInput, match="no array coeff; present: x"):
        load(tmp_path / "s.traj", references=tmp_path / "other.npz")


# -- downloads ----------------------------------------------------------------------------------------------------


def test_a_download_is_kept_and_used_again(tmp_path, monkeypatch):
    calls = []

    def fetch(url, folder):
        calls.append(url)
        return Path(shutil.copy(ethanol_path(), f"{folder}/md17_ethanol.npz"))

    monkeypatch.setenv("DCSURGERY_CACHE", str(tmp_path))
    monkeypatch.setattr(downloads, "_download", fetch)
    assert len(load("md17:ethanol")) == len(load("md17:ethanol")) == 600
    assert len(calls) == 1
    assert calls[0].endswith("/md17_ethanol.npz")
    assert [file.name for file in (tmp_path / "md17").iterdir()] == ["md17_ethanol.npz"]


@pytest.mark.parametrize("error", [OSError("connection lost"), KeyboardInterrupt()])
def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch, error):
    def broken(url, folder):
        with open(f"{folder}/md17_ethanol.npz", "wb") as file:
            file.write(b"half")
        raise error

    monkeypatch.setenv("DCSURGERY_CACHE", str(tmp_path))
    monkeypatch.setattr(downloads, "_download", broken)
    with pytest.raises((BadInput, KeyboardInterrupt)) as raised:
        load("md17:ethanol")
    if isinstance(error, OSError):
        assert "the download failed (OSError: connection lost)" in str(raised.value)
    assert not list((tmp_path / "md17").iterdir())


def test_unknown_molecules_are_not_downloaded():
    with pytest.raises(BadInput, match=r"unknown molecule 'etanol'.*ethanol"):
        load("md17:etanol")


def test_molecules_sets_are_structure_sets_too():
    data = ethanol()
    assert StructureSet.of_molecule(
        data.numbers, data.positions, data.energies, data.forces, "kcal/mol"
    ).fingerprint() == (load(ethanol_path()).fingerprint())
