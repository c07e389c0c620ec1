"""PDEBench's layouts: what is written is read, what is missing or does not fit is said, an interrupted data set goes on."""

import h5py
import numpy as np
import pytest
import yaml

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde import generators, hdf5
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.problems import PROBLEMS

SMALL = {"advection": (32, 21), "cfd": (32, 6), "diffusion-reaction": (8, 6)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def files(folder):
    made = {}
    for name, (cells, frames) in SMALL.items():
        made[name] = folder / f"{name}.h5"
        generators.generate(made[name], name, samples=2, seed=4, cells=cells, frames=frames)
    return made


@pytest.mark.parametrize("name", SMALL)
def test_a_sample_comes_back_from_its_file(files, name):
    cells, frames = SMALL[name]
    assert hdf5.count(files[name], name) == 2
    for index in (0, 1, -1):
        read = hdf5.read(files[name], name, index)
        made = generators.make_sample(name, 4 + index % 2, cells, frames)
        assert np.array_equal(read.values, made.values.astype("f4"))
        np.testing.assert_allclose(read.t, made.t, rtol=1e-6)
        assert [len(axis) for axis in read.space] == [cells] * len(made.space)
        PROBLEMS[name].check(read)


def test_the_arrays_are_where_pdebench_has_them(files):
    """Read as PDEBench's documentation describes its files, without our reader."""
    with h5py.File(files["advection"]) as file:
        assert file["tensor"].shape == (2, 21, 32) and file["tensor"].dtype == "f4"
        assert file["x-coordinate"].shape == (32,) and file["t-coordinate"].shape == (22,)
        assert file["x-coordinate"][0] == pytest.approx(0.5 / 32) and file.attrs["beta"] == 0.1
        assert list(file.attrs["seeds"]) == [4, 5]
        start, end = file["tensor"][0, 0], file["tensor"][0, -1]
    with h5py.File(files["cfd"]) as file:
        assert all(file[key].shape == (2, 6, 32) for key in ("density", "Vx", "pressure"))
        assert file["x-coordinate"][0] == pytest.approx(-1 + 1 / 32)
        assert (file["density"][:] > 0).all() and (file["pressure"][:] > 0).all()
    with h5py.File(files["diffusion-reaction"]) as file:
        assert list(file) == ["0000", "0001"] and file["0001/data"].shape == (6, 8, 8, 2)
        config = yaml.safe_load(file["0001"].attrs["config"])
        assert config["sim"]["seed"] == 5 and config["sim"]["xdim"] == 8
        np.random.seed(5)  # noqa: NPY002
        # y is the first space axis of the file, and the numbers are drawn with y slow.
        np.testing.assert_allclose(file["0001/data"][0, :, :, 0], np.random.randn(8, 8), rtol=1e-6)  # noqa: NPY002
    # 2 β = 0.2 of the period: the wave has moved by a fifth, which is no whole number of 32 cells.
    assert not np.allclose(start, end)


def test_the_advection_data_moves_at_beta():
    field = generators.make_sample("advection", 3, 40, 21)
    assert np.allclose(np.roll(field.values[0, :, 0], 8), field.values[-1, :, 0], atol=1e-12)  # 0.1 * 2 * 40 cells


def test_space_axes_are_x_then_y(tmp_path):
    x, t = np.linspace(-0.75, 0.75, 4), np.array([0.0, 5.0])
    values = np.zeros((2, 4, 4, 2))
    values[:, 3, 0, 0] = 1  # large x, small y
    hdf5.write(tmp_path / "a.h5", "diffusion-reaction", [Field((x, x), t, values)])
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["0000/data"][0, 0, 3, 0] == 1  # [t, y, x]
    field = hdf5.read(tmp_path / "a.h5", "diffusion-reaction")
    assert field.values[0, 3, 0, 0] == 1
    row = field.points()[field.values[..., 0].ravel() == 1][0]
    assert row == pytest.approx([0.75, -0.75, 0.0])


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_an_interrupted_data_set_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path, whole = tmp_path / "a.h5", tmp_path / "b.h5"
    settings = {"samples": 3, "seed": 1, "cells": 16, "frames": 5}
    generators.generate(whole, "advection", **settings)
    made, make = [], generators.make_sample

    def stops(name, seed, *args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(seed)
        return make(name, seed, *args)

    monkeypatch.setattr(generators, "make_sample", stops)
    with pytest.raises(KeyboardInterrupt):
        generators.generate(path, "advection", **settings)
    assert not path.exists() and made == [1, 2]
    made.clear()
    (tmp_path / "a.h5.parts" / "000000.npz").write_bytes(b"damaged")
    with pytest.raises(BadInput, match="unfinished samples with another first_seed"):
        generators.generate(path, "advection", **{**settings, "seed": 2})
    generators.generate(path, "advection", **settings)
    assert made == [1, 3]  # the damaged one and the missing one
    assert not (tmp_path / "a.h5.parts").exists()
    for sample in range(3):
        assert np.array_equal(hdf5.read(path, "advection", sample).values, hdf5.read(whole, "advection", sample).values)


def test_an_existing_file_is_left_alone(tmp_path):
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(BadInput, match="there is such a file"):
        generators.generate(tmp_path / "a.h5", "advection", cells=16, frames=5)
    assert (tmp_path / "a.h5").read_text() == "mine"


@pytest.mark.parametrize(("change", "message"), [
    ({"samples": 0}, "at least 1 sample"), ({"seed": -1}, "must not be negative"), ({"cells": 4}, "at least 8 cells"),
    ({"frames": 1}, "2 frames"),
])  # fmt: skip
def test_bad_numbers(tmp_path, change, message):
    with pytest.raises(BadInput, match=message):
        generators.generate(tmp_path / "a.h5", "advection", **{"cells": 16, "frames": 5, **change})
    assert not (tmp_path / "a.h5").exists()


# -- bad files ---------------------------------------------------------------------------------------------------------


def write(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace("_", "-") if "coordinate" in name else name] = array
    return path


X, T = np.linspace(0.05, 0.95, 10), np.linspace(0, 2, 5)


def test_missing_arrays_are_named_with_what_is_there(tmp_path, files):
    path = write(tmp_path / "a.h5", velocity=np.zeros((1, 5, 10)), x_coordinate=X)
    with pytest.raises(
        BadInput, match=r"a.h5: no array 'tensor'; present: velocity \(1, 5, 10\), x-coordinate \(10,\)"
    ):
        hdf5.read(path, "advection")
    with pytest.raises(BadInput, match="this looks like a file of the problem cfd"):
        hdf5.read(files["cfd"], "advection")
    with pytest.raises(BadInput, match=r"no groups 0000.*present: Vx .*problem cfd"):
        hdf5.read(files["cfd"], "diffusion-reaction")
    with pytest.raises(BadInput, match=r"no array 'density'; present: 0000/ \(data, grid\).*diffusion-reaction"):
        hdf5.read(files["diffusion-reaction"], "cfd")
    with pytest.raises(BadInput, match="no sample 7: the file holds 2"):
        hdf5.read(files["advection"], "advection", 7)
    with pytest.raises(BadInput, match="'first' is no index"):
        hdf5.read(files["advection"], "advection", "first")


@pytest.mark.parametrize(("arrays", "message"), [
    ({"tensor": np.zeros((5, 10))}, r"tensor must have shape \(samples, times, cells\), got \(5, 10\)"),
    ({"tensor": np.zeros((1, 5, 9))}, r"x-coordinate must have shape \(9,\)"),
    ({"tensor": np.zeros((1, 3, 10))}, r"t-coordinate must hold the 3 times of tensor, or one more"),
    ({"tensor": np.full((1, 5, 10), np.nan)}, r"values are not finite, first at index \[0, 0, 0\]"),
    ({"x_coordinate": X**2}, "cell centres x must be evenly spaced"),
    ({"t_coordinate": -T}, "times must ascend"),
])  # fmt: skip
def test_shapes_and_values_that_do_not_fit(tmp_path, arrays, message):
    good = {"tensor": np.zeros((1, 5, 10)), "x_coordinate": X, "t_coordinate": T}
    path = write(tmp_path / "a.h5", **{**good, **arrays})
    with pytest.raises(BadInput, match=message):
        hdf5.read(path, "advection")


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.h5").write_text("no HDF5")
    with pytest.raises(BadInput, match="not a readable HDF5 file"):
        hdf5.read(tmp_path / "a.h5", "advection")
    with pytest.raises(BadInput, match=r"no such file.*zoo data pde"):
        hdf5.read(tmp_path / "b.h5", "advection")
    with pytest.raises(BadInput, match="is a directory"):
        hdf5.read(tmp_path, "advection")
    with pytest.raises(BadInput, match=r"unknown problem 'burgers'.*advection"):
        hdf5.read(tmp_path, "burgers")


def test_a_domain_that_is_not_the_problems_is_refused(tmp_path):
    of = PROBLEMS["cfd"]
    field = generators.make_sample("cfd", 0, 16, 3)
    half = Field((0.5 * (field.space[0] + 1),), field.t, field.values)
    with pytest.raises(BadInput, match=r"cells of x cover \[0, 1\], and 1D compressible flow is solved on \[-1, 1\]"):
        of.check(half)
    of.check(half, "published")
    late = Field(field.space, 2 * field.t, field.values)
    with pytest.raises(BadInput, match="times run from 0 to 2, and 1D compressible flow from 0 to 1"):
        of.check(late)
    with pytest.raises(BadInput, match="has the fields u over 1 space axes, got 3 fields"):
        PROBLEMS["advection"].check(field)
