"""Label scale: the smallest power of 10 above all labels, from arrays, files and texts; data sets that serve label / C."""

from __future__ import annotations

import sqlite3
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import ase
import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torch_geometric.data import Data

from dcsurgery.errors import BadInput, Refused
from dcsurgery.label_files import LABEL_KEYS
from dcsurgery.rescale import RescaledDataset, parse_rescale, read_labels, rescale_constant

# --- Eq. 4 ------------------------------------------------------------------------------------------------------------


@given(st.floats(min_value=1e-300, max_value=1e300), st.sampled_from([1.0, -1.0]))
def test_constant_is_the_smallest_power_of_10_that_bounds_the_label(size: float, sign: float) -> None:
    scale = rescale_constant(sign * size)
    exponent = Decimal(repr(scale)).log10()
    assert exponent == exponent.to_integral_value()
    assert size <= scale
    assert Fraction(size) > Fraction(10) ** (int(exponent) - 1) * (1 - Fraction(1, 10**15))


def test_powers_of_10_are_their_own_constant_and_their_neighbours_are_not() -> None:
    for exponent in range(-307, 308):
        power = float(f"1e{exponent}")
        assert rescale_constant(power) == power
        assert rescale_constant(-np.nextafter(power, 0)) == power
        assert rescale_constant(np.nextafter(power, np.inf)) == float(f"1e{exponent + 1}")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (([-406757.0], [[120.0, -3.0]]), 1e6),  # MD17 aspirin, kcal/mol
        ((np.array([[-97208.4]]), torch.tensor([21.0])), 1e5),
        ((1.0,), 1.0),
        ((0.5, 0, [0.0]), 1.0),
        ((torch.tensor([-1000], dtype=torch.int64),), 1e3),
        ((torch.tensor(3.0, dtype=torch.bfloat16, requires_grad=True),), 10.0),
        ((np.float16(0.02),), 0.1),
        ((np.array([np.iinfo(np.int64).min]),), 1e19),
        ((10**18 + 1,), 1e19),
        ((10**20,), 1e20),
        (([[], [0.2, [3]], (torch.ones(2), np.zeros(3))],), 10.0),
        ((range(12),), 100.0),
        ((np.array([np.ones(2), np.ones(3) * 20], dtype=object),), 100.0),
        ((5e-324,), 1e-323),
        ((sys.float_info.min,), 1e-307),
        ((1e308,), 1e308),
    ],
)
def test_constant_of_every_kind_of_label(labels: Any, expected: float) -> None:
    assert rescale_constant(*labels) == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "no labels"),
        (([],), "label argument 1: is empty"),
        ((1.0, torch.empty(0)), "label argument 2: is empty"),
        ((0.0, [0, 0]), "all labels are 0"),
        (([1.0, float("nan")],), "1 of its 1 values are NaN or infinite"),
        ((np.array([1, np.inf, np.nan]),), "2 of its 3 values are NaN"),
        ((torch.tensor([-float("inf")]),), "NaN or infinite"),
        ((1.7e308,), "use other units"),
        ((10**400,), "use other units"),
        (("12",), "is a str"),
        ((b"12",), "is a bytes"),
        ((None,), "is a NoneType"),
        ((True,), "is a bool"),
        (({"energy": 1.0},), "is a dict"),
        ((1j,), "is a complex"),
        ((object(),), "is a object"),
        ((torch.tensor([1j]),), "dtype complex64"),
        ((np.array(["1"]),), "dtype <U1"),
        (([1.0, None],), "is a NoneType"),
        ((torch.tensor([True]),), "dtype bool"),
    ],
)
def test_labels_without_a_constant_are_bad_input(labels: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        rescale_constant(*labels)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_rescale_text_is_a_number_or_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "labels.npz", E=[[-97208.0]], F=np.ones((1, 9, 3)))
    assert parse_rescale("1e6") == 1e6
    assert parse_rescale(" 250 ") == 250
    assert parse_rescale(1000) == 1e3
    assert parse_rescale(f"auto:{tmp_path / 'labels.npz'}") == 1e5


@pytest.mark.parametrize("text", ["0", "-1e6", "nan", "inf", "1e400", "", "ten", "auto", "auto:", 0, -1.0, True, None])
def test_rescale_text_that_is_no_scale_is_bad_input(text: Any) -> None:
    with pytest.raises(BadInput, match="auto:"):
        parse_rescale(text)


def test_file_of_useless_labels_is_named(tmp_path: Path) -> None:
    path = tmp_path / "zero.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(BadInput, match=r"zero.npy: no label scale from this file: all labels are 0"):
        parse_rescale(f"auto:{path}")


# --- files ------------------------------------------------------------------------------------------------------------

ENERGIES = np.array([[-97208.4], [-97195.1]])
FORCES = np.arange(12.0).reshape(2, 2, 3)


def frames() -> list[ase.Atoms]:
    made = []
    for energy, forces in zip(ENERGIES[:, 0], FORCES, strict=True):
        atoms = ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        made.append(atoms)
    return made


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.db"])
def test_energies_and_forces_come_back_from_ase_files(tmp_path: Path, name: str) -> None:
    ase.io.write(tmp_path / name, frames())
    energies, forces = sorted(read_labels(tmp_path / name), key=np.ndim)
    np.testing.assert_allclose(energies, ENERGIES[:, 0], rtol=1e-12)
    np.testing.assert_allclose(forces, FORCES, atol=1e-8)


def test_frames_of_different_size_are_joined(tmp_path: Path) -> None:
    small = ase.Atoms("H", [[0, 0, 0]])
    small.calc = SinglePointCalculator(small, energy=-1.0, forces=[[1.0, 2.0, 3.0]])
    ase.io.write(tmp_path / "a.traj", [*frames(), small])
    assert sorted(array.shape for array in read_labels(tmp_path / "a.traj")) == [(3,), (5, 3)]


def test_labels_under_other_names_are_found_in_xyz_comments(tmp_path: Path) -> None:
    atoms = ase.Atoms("H", [[0, 0, 0]])
    atoms.info["y"] = -3.5
    ase.io.write(tmp_path / "a.extxyz", atoms)
    assert read_labels(tmp_path / "a.extxyz")[0].tolist() == [-3.5]


def test_arrays_come_back_from_npz_and_npy(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", E=ENERGIES, F=FORCES.astype(np.float32), R=FORCES, z=[6, 8], name="CO")
    energies, forces = read_labels(tmp_path / "a.npz")
    np.testing.assert_array_equal(energies, ENERGIES)
    np.testing.assert_array_equal(forces, FORCES)
    assert forces.dtype == np.float64
    np.save(tmp_path / "a.npy", [[1, 2], [3, 4]])
    np.testing.assert_array_equal(read_labels(tmp_path / "a.npy")[0], [[1, 2], [3, 4]])


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (torch.tensor([1.5, 2.5], dtype=torch.bfloat16), [[1.5, 2.5]]),
        ({"energy": torch.tensor([3.0]), "pos": torch.ones(9)}, [[3.0]]),
        ((torch.tensor(1), [torch.ones(1, 3), torch.ones(2, 3)]), [1.0, [[1.0] * 3] * 3]),
        ({"y": torch.eye(2).to_sparse()}, [[[1.0, 0.0], [0.0, 1.0]]]),
        ({"forces": [torch.ones(2), torch.ones(2, 2)]}, [[1.0] * 6]),
        ([2.5], [2.5]),
    ],
)
def test_tensors_come_back_from_torch_files(tmp_path: Path, suffix: str, content: Any, expected: Any) -> None:
    torch.save(content, tmp_path / f"a{suffix}")
    assert [array.tolist() for array in read_labels(tmp_path / f"a{suffix}")] == expected


def test_columns_come_back_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x, energy ,F\n1,-2.5,3\n\n4,5,-6e1\n")
    assert [array.tolist() for array in read_labels(path)] == [[-2.5, 5.0], [3.0, -60.0]]
    path.write_text("1,2\n3,4\n")
    assert [array.tolist() for array in read_labels(path)] == [[1.0, 3.0], [2.0, 4.0]]


class Opaque:
    pass


def write_bytes(content: bytes) -> Any:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npz", None, "no such file"),
        ("a.npz", Path.mkdir, "is a directory"),
        ("a.npz", write_bytes(b""), "the file is empty"),
        ("a.txt", write_bytes(b"1"), r"cannot be read from '.txt' \(use one of .csv"),
        ("labels", write_bytes(b"1"), "file without suffix"),
        ("a.npz", write_bytes(b"junk"), "not a readable .npz"),
        ("a.npy", write_bytes(b"junk"), "not a readable .npy"),
        ("a.pt", write_bytes(b"junk"), "not a readable .pt"),
        ("a.xyz", write_bytes(b"junk"), "not a readable .xyz"),
        ("a.traj", write_bytes(b"junk"), "not a readable .traj"),
        ("a.db", write_bytes(b"junk"), "not a readable .db"),
        ("a.csv", write_bytes(b"\xff\xfe\x00"), "not a readable .csv"),
        ("a.npz", lambda p: np.savez(p, R=[1.0], z=[2]), "no labels among: R, z; looked for E, F, energy"),
        ("a.npz", lambda p: np.savez(p, **{f"a{i:02}": 1 for i in range(25)}), "a19 and 5 more"),
        ("a.npz", lambda p: np.savez(p, E=np.array([None])), "not a readable .npz"),
        ("a.npz", lambda p: np.savez(p, E=[]), "no label values"),
        ("a.npy", lambda p: np.save(p, [True]), "dtype bool"),
        ("a.npy", lambda p: np.save(p, ["one"]), "not numeric"),
        ("a.pt", lambda p: torch.save(Opaque(), p), "not a readable .pt of tensors"),
        ("a.pt", lambda p: torch.save({"pos": torch.ones(1)}, p), "no labels among: pos"),
        ("a.pt", lambda p: torch.save({"y": torch.ones(1) * 1j}, p), "dtype complex64"),
        ("a.pt", lambda p: torch.save({"y": "text"}, p), "not numeric"),
        ("a.pt", lambda p: torch.save([], p), "no label values"),
        ("a.pt", lambda p: torch.save({"y": []}, p), "no label values"),
        ("a.csv", write_bytes(b"x,t\n1,2\n"), "no labels among: t, x"),
        ("a.csv", write_bytes(b"x,u\n1,2\n3\n"), "row 3 has 1 columns, expected 2"),
        ("a.csv", write_bytes(b"x,u\n1,two\n"), "column 2 is not numeric"),
        ("a.csv", write_bytes(b"\n\n"), "no label values"),
        ("a.xyz", write_bytes(b"1\ncomment\nH 0 0 0\n"), "no labels among: .*positions"),
    ],
)
def test_file_without_labels_says_so(tmp_path: Path, name: str, write: Any, message: str) -> None:
    path = tmp_path / name
    if write is not None:
        write(path)
    with pytest.raises(BadInput, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_ase_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ase.io.write(tmp_path / "a.xyz", frames())
    monkeypatch.setitem(sys.modules, "ase.io", None)
    with pytest.raises(BadInput, match="pip install ase"):
        read_labels(tmp_path / "a.xyz")


def test_reading_changes_no_file(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.db", frames())
    before = (tmp_path / "a.db").read_bytes()
    read_labels(str(tmp_path / "a.db"))
    assert (tmp_path / "a.db").read_bytes() == before
    assert sqlite3.connect(tmp_path / "a.db").execute("select count(*) from systems").fetchone() == (2,)


def test_every_name_that_is_looked_for_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **dict.fromkeys(LABEL_KEYS, np.ones(1)))
    assert len(read_labels(tmp_path / "a.npz")) == len(LABEL_KEYS)


# --- data sets --------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    x: Any
    energy: Any


def test_tuples_are_divided_by_position_and_stay_what_they_are() -> None:
    x, y = torch.ones(4, 2), torch.arange(4.0)
    data = TensorDataset(x, y)
    scaled = RescaledDataset(data, 10.0, keys=(-1,))
    assert len(scaled) == 4
    assert [item[1].item() for item in scaled] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert y.tolist() == [0, 1, 2, 3]
    assert scaled[3][1].dtype == torch.float32
    assert torch.equal(scaled[0][0], x[0])
    pair = RescaledDataset([Pair(1.0, 5.0)], 10.0, keys="energy")[0]
    assert pair == Pair(1.0, 0.5)
    assert isinstance(pair, Pair)
    assert RescaledDataset([[1.0, 5.0]], 10.0, keys=1)[0] == [1.0, 0.5]


def test_mappings_are_divided_by_key_without_touching_the_original() -> None:
    item = {"energy": np.float32(5), "forces": np.ones(3, np.float32), "z": 6}
    scaled = RescaledDataset([item], 10.0)[0]
    assert scaled["energy"] == pytest.approx(0.5)
    assert scaled["forces"].dtype == np.float32
    np.testing.assert_allclose(scaled["forces"], 0.1)
    assert item["energy"] == 5
    assert item["forces"].tolist() == [1, 1, 1]
    assert scaled["z"] == 6


@pytest.mark.parametrize(("energy", "force"), [("y", "force"), ("energy", "forces"), ("E", "F")])
def test_graphs_are_divided_by_attribute_without_touching_the_original(energy: str, force: str) -> None:
    data = Data(z=torch.tensor([1, 8]), pos=torch.ones(2, 3), **{energy: torch.tensor([5.0]), force: torch.ones(2, 3)})
    scaled = RescaledDataset([data], 10.0)[0]
    assert isinstance(scaled, Data)
    assert scaled[energy].item() == pytest.approx(0.5)
    assert torch.allclose(scaled[force], torch.full((2, 3), 0.1))
    assert torch.equal(scaled.pos, data.pos)
    assert data[energy].item() == 5
    assert torch.equal(data[force], torch.ones(2, 3))


def test_objects_with_attributes_are_divided() -> None:
    class Item:
        def __init__(self) -> None:
            self.energy = 5.0
            self.force = torch.ones(2)

    item = Item()
    scaled = RescaledDataset([item], 10.0)[0]
    assert (scaled.energy, item.energy) == (0.5, 5.0)


def test_subsets_and_loaders_serve_divided_labels() -> None:
    scaled = RescaledDataset(TensorDataset(torch.ones(6, 2), torch.arange(6.0)), 10.0, keys=(1,))
    batch = next(iter(DataLoader(scaled, batch_size=6)))
    assert batch[1].tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    part = RescaledDataset([(0, 1.0), (0, 2.0), (0, 3.0)], 10.0, keys=(1,))[1:]
    assert isinstance(part, RescaledDataset)
    assert [item[1] for item in part] == pytest.approx([0.2, 0.3])
    assert "C=10" in repr(part)


def test_a_model_in_scaled_mode_fits_what_the_data_set_serves() -> None:
    # One label and one factor: raw / C agree when the physical values do.
    energies = torch.tensor([-97208.4, -97195.1], dtype=torch.float64)
    scale = rescale_constant(energies)
    scaled = RescaledDataset(TensorDataset(energies), scale, keys=(0,))
    served = torch.stack([item[0] for item in scaled])
    assert served.abs().max() <= 1
    torch.testing.assert_close(served * scale, energies)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data,
        lambda data: Subset(data, [0]),
        lambda data: ConcatDataset([Subset(data, [0]), Subset(data, [1])]),
        lambda data: data[0:1],
    ],
)
def test_second_division_is_refused(wrap: Any) -> None:
    data = RescaledDataset([(0, 1.0), (0, 2.0)], 10.0, keys=(1,))
    with pytest.raises(Refused, match="already divided by C=10"):
        RescaledDataset(wrap(data), 10.0, keys=(1,))


@pytest.mark.parametrize(
    ("data", "scale", "keys", "message"),
    [
        ([{"energy": 1.0}], 10.0, ("energy", "forces"), "item 0: no label 'forces'; there: energy .*keys="),
        ([(1.0, 2.0)], 10.0, ("energy",), "item 0: no label 'energy'; there: positions 0 to 1"),
        ([(1.0, 2.0)], 10.0, (2,), "no label 2"),
        ([Pair(1, 2)], 10.0, ("forces",), "there: x, energy, positions"),
        ([Data(x=torch.ones(1))], 10.0, ("energy",), "no label 'energy'; there: x"),
        ([object()], 10.0, ("energy",), "there: nothing"),
        ([{"energy": "1"}], 10.0, ("energy",), "item 0, energy: a label must be a tensor"),
        ([{"energy": None}], 10.0, ("energy",), "got NoneType"),
        ([{"energy": True}], 10.0, ("energy",), "got bool"),
        ([{"energy": 1.0}], 0, ("energy",), "positive"),
        ([{"energy": 1.0}], float("nan"), ("energy",), "positive"),
        ([{"energy": 1.0}], "10", ("energy",), "must be a number"),
        ([], 10.0, ("energy",), "data set is empty"),
        (iter([1]), 10.0, (0,), "has no length"),
        ([{"energy": 1.0}], 10.0, (), "keys must be"),
        ([{"energy": 1.0}], 10.0, (None,), "keys must be"),
    ],
)
def test_data_set_that_cannot_be_divided_is_bad_input(data: Any, scale: Any, keys: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        RescaledDataset(data, scale, keys)
