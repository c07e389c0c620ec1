"""The shipped ethanol data, its consistency, and the reading of npz files."""

import json

import numpy as np
import pytest

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.molecules import ethanol, ethanol_path, load_npz, random_split


@pytest.fixture(scope="module")
def data():
    return ethanol()


@pytest.fixture(scope="module")
def stored():
    with np.load(ethanol_path()) as file:
        return {key: file[key] for key in file.files}


def test_the_file_is_small_and_says_where_it_is_from(stored):
    assert ethanol_path().stat().st_size < 300_000
    provenance = json.loads(str(stored["provenance"]))
    assert provenance["settings"]["method"] == "GFN2-xTB"
    assert provenance["settings"]["seed"] == 0
    assert provenance["settings"]["temperature"] == 500.0
    assert provenance["calculator"] == "TBLite"
    assert set(provenance["versions"]) == {"ase", "tblite", "numpy"}


def test_frames_are_ethanol(data):
    assert len(data) == 600
    assert data.positions.shape == data.forces.shape == (600, 9, 3)
    assert sorted(data.numbers.tolist()) == [1] * 6 + [6] * 2 + [8]
    separation = np.linalg.norm(data.positions[:, :, None] - data.positions[:, None], axis=-1)
    bonds = (separation < np.where(np.add.outer(data.numbers, data.numbers) > 9, 1.9, 1.4)).sum(axis=(1, 2)) - 9
    assert (bonds == 16).all()  # 8 bonds, seen from both ends, in every frame


def test_energies_are_those_of_a_molecule_at_500_kelvin(data):
    # 21 harmonic modes at 500 K: the potential energy spreads by kT sqrt(21 / 2).
    expected = 0.0019872 * 500 * np.sqrt(21 / 2)
    assert np.isfinite(data.energies).all()
    assert 0.85 * expected < data.energies.std() < 1.15 * expected
    centred = data.energies - data.energies.mean()
    assert (centred[1:] * centred[:-1]).mean() < 0.2 * centred.var()


def test_net_force_and_net_torque_vanish(data):
    assert np.abs(data.forces.sum(axis=1)).max() < 1e-4
    assert np.abs(np.cross(data.positions, data.forces).sum(axis=1)).max() < 1e-3


def test_forces_are_minus_the_derivative_of_the_energy(data, stored):
    displaced, energies, frames = stored["fd_R"], stored["fd_E"], stored["fd_frame"]
    assert len(energies) == 12
    for ahead, behind in zip(range(0, 12, 2), range(1, 12, 2), strict=True):
        frame = frames[ahead]
        assert frame == frames[behind]
        step = displaced[ahead] - displaced[behind]
        assert np.allclose((displaced[ahead] + displaced[behind]) / 2, data.positions[frame], atol=1e-9)
        work = (data.forces[frame] * step).sum()
        assert -(energies[ahead] - energies[behind]) == pytest.approx(work, abs=5e-3 * np.linalg.norm(step))


def test_frames_can_be_selected(data):
    assert len(data[:3]) == 3
    some = data[np.array([5, 2])]
    assert np.array_equal(some.energies, data.energies[[5, 2]])
    assert np.array_equal(some.positions, data.positions[[5, 2]])
    assert np.array_equal(some.numbers, data.numbers)


def good():
    generator = np.random.default_rng(0)
    return {
        "R": generator.normal(size=(4, 2, 3)),
        "E": generator.normal(size=(4, 1)),
        "F": generator.normal(size=(4, 2, 3)),
        "z": np.array([8.0, 1.0]),
    }


def write(path, **changes):
    arrays = {**good(), **changes}
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


def test_energies_may_be_a_column_and_numbers_floats(tmp_path):
    read = load_npz(write(tmp_path / "a.npz", name=np.array("extra")))
    assert read.energies.shape == (4,)
    assert read.numbers.dtype == np.int64
    assert np.array_equal(read.energies, good()["E"][:, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"F": None, "z": None}, r"no array F, z; present: R, E \(needed are R"),
        ({"E": np.array([1.0, np.nan, 0, 0])}, r"E is not finite at index \[1\]"),
        ({"F": np.full((4, 2, 3), np.inf)}, r"F is not finite at index \[0, 0, 0\]"),
        ({"E": np.zeros(5)}, r"E must have shape \(4,\)"),
        ({"F": np.zeros((4, 3, 2))}, r"F must have the shape of R, \(4, 2, 3\), got \(4, 3, 2\)"),
        ({"R": np.zeros((4, 6))}, r"R must have shape \(n_frames, n_atoms, 3\)"),
        ({"R": np.zeros((0, 2, 3))}, "R holds no positions"),
        ({"z": np.array([8])}, r"z must have shape \(2,\)"),
        ({"z": np.array([8, 0])}, "atomic numbers"),
        ({"z": np.array([8, 1.5])}, "atomic numbers"),
        ({"z": np.array(["O", "H"])}, "z must hold real numbers"),
        ({"E": np.array([None] * 4)}, "not a readable npz file"),
    ],
)
def test_bad_arrays_are_named(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        load_npz(write(tmp_path / "a.npz", **changes))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(BadInput, match="is a directory"):
        load_npz(tmp_path)
    for name, content in (("text.npz", b"hello"), ("empty.npz", b""), ("half.npz", None)):
        path = tmp_path / name
        path.write_bytes(content if content is not None else write(tmp_path / "a.npz").read_bytes()[:300])
        with pytest.raises(BadInput, match="not a readable npz file"):
            load_npz(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(BadInput, match="a single array"):
        load_npz(tmp_path / "one.npy")


def test_splits_are_disjoint_and_follow_the_seed():
    first, second = random_split(20, (12, 5), seed=1)
    assert len(first) == 12
    assert len(second) == 5
    assert len({*first.tolist(), *second.tolist()}) == 17
    assert np.array_equal(first, random_split(20, (12, 5), seed=1)[0])
    assert not np.array_equal(first, random_split(20, (12, 5), seed=2)[0])
    for sizes in ((15, 6), (-1, 3)):
        with pytest.raises(BadInput, match="cannot draw"):
            random_split(20, sizes, seed=0)
