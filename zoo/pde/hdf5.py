"""PDEBench's HDF5 layouts: one array for the advection, three for compressible flow, a group per sample for reactions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.fields import Field

__all__ = ["LAYOUTS", "count", "read", "write"]

#: The arrays of each problem's file, as (channel by channel) names; reactions keep theirs in groups.
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "advection": ("tensor",),
    "cfd": ("density", "Vx", "pressure"),
    "diffusion-reaction": ("data",),
}


def read(path: str | os.PathLike[str], problem: str, sample: int | str = 0) -> Field:
    """Read one sample of a PDEBench file.

    Parameters
    ----------
    path
        ``1D_Advection_Sols_beta….hdf5``: ``tensor`` (n, n_times, n_x); ``1D_CFD_….hdf5``: ``density``, ``Vx``, ``pressure``
        of that shape; both with ``x-coordinate`` and ``t-coordinate``, which may hold one time more than there are
        frames. ``2D_diff-react_….h5``: groups ``0000``, … with ``data`` (n_times, n_y, n_x, 2) and ``grid/x``, ``grid/y``,
        ``grid/t``. Only the chosen sample is read.
    problem
        ``advection``, ``cfd`` or ``diffusion-reaction``.
    sample
        Index (negative ones count from the end), or a group's name.

    Raises
    ------
    BadInput
        If there is no such file or it is no HDF5 file, an array or sample is missing (what is there is listed), or
        shapes do not fit.
    """
    _known(problem)
    with _opened(path) as file:
        if problem == "diffusion-reaction":
            return _read_group(file, str(path), sample)
        return _read_arrays(file, str(path), LAYOUTS[problem], sample)


def count(path: str | os.PathLike[str], problem: str) -> int:
    """Return the number of samples in a file; errors as in `read`."""
    _known(problem)
    with _opened(path) as file:
        if problem == "diffusion-reaction":
            return len(_groups(file, str(path)))
        return int(_array(file, LAYOUTS[problem][0], str(path)).shape[0])


def write(
    path: str | os.PathLike[str], problem: str, fields: Sequence[Field], attributes: Mapping[str, Any] | None = None
) -> None:
    """Write samples on one grid in the layout that `read` and PDEBench's own readers read, as float32.

    Parameters
    ----------
    path
        File to write; replaced if it is there.
    problem
        As in `read`.
    fields
        The samples.
    attributes
        Attributes of the file. Each reaction's group gets the sample's own as its ``config`` (YAML), as PDEBench has it.
    """
    import h5py
    import yaml

    _known(problem)
    first = fields[0]
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes or {})
        if problem == "diffusion-reaction":
            for index, sample in enumerate(fields):
                group = file.create_group(f"{index:04d}")
                # The file's order is (t, y, x, channel).
                group.create_dataset("data", data=sample.values.swapaxes(1, 2).astype("f4"), compression="lzf")
                for name, axis in (("x", sample.space[0]), ("y", sample.space[1]), ("t", sample.t)):
                    group.create_dataset(f"grid/{name}", data=axis.astype("f4"), compression="lzf")
                group.attrs["config"] = yaml.safe_dump(dict(sample.attributes))
            return
        for channel, name in enumerate(LAYOUTS[problem]):
            file.create_dataset(name, data=np.stack([field.values[..., channel] for field in fields]).astype("f4"))
        file.create_dataset("x-coordinate", data=first.space[0].astype("f4"))
        # PDEBench's files have one time more than frames.
        after = first.t[-1] + (first.t[-1] - first.t[-2])
        file.create_dataset("t-coordinate", data=np.append(first.t, after).astype("f4"))


def _known(problem: str) -> None:
    if problem not in LAYOUTS:
        raise BadInput(f"unknown problem {problem!r}", fix=f"there are: {', '.join(LAYOUTS)}")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise BadInput("reading HDF5 needs h5py", fix='install it with pip install "dcsurgery[pde]"') from None
    where = Path(path)
    if not where.is_file():
        raise BadInput(
            "is a directory" if where.is_dir() else "no such file",
            where=str(path),
            fix="give a PDEBench file, or make one: dcsurgery zoo data pde NAME",
        )
    try:
        file = h5py.File(where, "r")
    except OSError as error:
        raise BadInput(f"not a readable HDF5 file ({str(error).splitlines()[0]})", where=str(path)) from None
    with file:
        yield file


def _array(group: Any, name: str, where: str) -> Any:
    import h5py

    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise BadInput(f"no array {name!r}; present: {_contents(group)}", where=where, fix=_guess(group))
    return found


def _contents(group: Any) -> str:
    import h5py

    names = [
        f"{name} {item.shape}" if isinstance(item, h5py.Dataset) else f"{name}/ ({', '.join(list(item)[:4])})"
        for name, item in list(group.items())[:8]
    ]
    more = len(group) - len(names)
    return (", ".join(names) or "nothing") + (f" and {more} more" if more > 0 else "")


def _guess(group: Any) -> str:
    for problem, names in LAYOUTS.items():
        if all(name in group for name in names) and problem != "diffusion-reaction":
            return f"this looks like a file of the problem {problem}"
    if any(name.isdigit() for name in group):
        return "this looks like a file of the problem diffusion-reaction"
    return "give a PDEBench file of this problem"


def _index(sample: int | str, length: int, where: str) -> int:
    if isinstance(sample, str):
        if not sample.lstrip("-").isdigit():
            raise BadInput(f"sample {sample!r} is no index", where=where)
        sample = int(sample)
    if not -length <= sample < length:
        raise BadInput(f"no sample {sample}: the file holds {length}", where=where)
    return sample % length


def _read_arrays(file: Any, where: str, names: tuple[str, ...], sample: int | str) -> Field:
    arrays = [_array(file, name, where) for name in names]
    axes = {name: np.asarray(_array(file, name, where)) for name in ("x-coordinate", "t-coordinate")}
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 3 or array.shape != arrays[0].shape:
            raise BadInput(
                f"{name} must have shape (samples, times, cells)"
                + (f", {arrays[0].shape} as {names[0]} has" if name != names[0] else "")
                + f", got {array.shape}",
                where=where,
            )
    length, times, cells = arrays[0].shape
    index = _index(sample, length, where)
    x, t = axes["x-coordinate"], axes["t-coordinate"]
    if x.shape != (cells,):
        raise BadInput(
            f"x-coordinate must have shape ({cells},) as {names[0]} has {cells} cells, got {x.shape}", where=where
        )
    if t.ndim != 1 or not times <= len(t) <= times + 1:
        raise BadInput(
            f"t-coordinate must hold the {times} times of {names[0]}, or one more, got shape {t.shape}", where=where
        )
    values = np.stack([np.asarray(array[index]) for array in arrays], axis=-1)
    attributes = {key: _plain(value) for key, value in file.attrs.items()}
    return Field((x,), t[:times], values, f"{where}, sample {index}", attributes)


def _groups(file: Any, where: str) -> list[str]:
    groups = sorted(name for name, item in file.items() if name.isdigit() and hasattr(item, "keys"))
    if not groups:
        raise BadInput(f"no groups 0000, 0001, …; present: {_contents(file)}", where=where, fix=_guess(file))
    return groups


def _read_group(file: Any, where: str, sample: int | str) -> Field:
    import yaml

    groups = _groups(file, where)
    name = sample if isinstance(sample, str) and sample in groups else groups[_index(sample, len(groups), where)]
    group, where = file[name], f"{where}, sample {name}"
    data = _array(group, "data", where)
    x, y, t = (np.asarray(_array(group, f"grid/{axis}", where)) for axis in "xyt")
    expected = (len(t), len(y), len(x), 2)
    if data.shape != expected:
        raise BadInput(f"data must have shape {expected} (times, y, x, u and v), got {data.shape}", where=where)
    config = yaml.safe_load(_plain(group.attrs["config"])) if "config" in group.attrs else {}
    return Field((x, y), t, np.asarray(data).swapaxes(1, 2), where, config or {})


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
