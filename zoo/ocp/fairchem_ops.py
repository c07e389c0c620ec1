"""What fairchem-core 1.x takes from torch_scatter, torch_sparse and pyg-lib, in plain torch.

fairchem imports these packages and does not declare them, and they have no wheels for current versions of torch.
`install` puts the stand-ins where the real packages are missing, and nowhere else. All of it can be differentiated twice.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import torch
from torch import Tensor

__all__ = ["SparseTensor", "install", "radius_graph", "scatter", "segment_coo", "segment_csr"]

_REDUCE = {"mean": "mean", "min": "amin", "max": "amax", "mul": "prod"}


def broadcast(src: Tensor, other: Tensor, dim: int) -> Tensor:
    """Return ``src`` (n,) or of the shape of ``other``, expanded along every dimension of ``other`` but ``dim``."""
    if src.dim() == 1:
        shape = [1] * other.dim()
        shape[dim] = -1
        src = src.view(shape)
    return src.expand_as(other)


def scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Tensor:
    """Return the entries of ``src`` reduced over equal values of ``index`` along ``dim``, as ``torch_scatter.scatter``.

    Parameters
    ----------
    src
        The values.
    index
        (n,) or the shape of ``src``, int64.
    dim
        The dimension that is reduced.
    out
        What the sums are added to.
    dim_size
        Length of the result along ``dim``; the largest index and one more by default.
    reduce
        ``sum``, ``add``, ``mean``, ``min``, ``max`` or ``mul``.
    """
    dim = dim % src.dim()
    if out is None:
        if dim_size is None:
            dim_size = int(index.max()) + 1 if index.numel() else 0
        out = src.new_zeros([*src.shape[:dim], int(dim_size), *src.shape[dim + 1 :]])
    index = broadcast(index, src, dim)
    if reduce in ("sum", "add"):
        return out.scatter_add(dim, index, src)
    return out.scatter_reduce(dim, index, src, reduce=_REDUCE[reduce], include_self=False)


def scatter_add(
    src: Tensor, index: Tensor, dim: int = -1, out: Tensor | None = None, dim_size: int | None = None
) -> Tensor:
    """Return `scatter` with ``reduce="sum"``."""
    return scatter(src, index, dim, out, dim_size)


def segment_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None, reduce: str = "sum"
) -> Tensor:
    """Return `scatter` along the last dimension of a sorted ``index``."""
    return scatter(src, index, index.dim() - 1, out, dim_size, reduce)


def segment_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None, reduce: str = "sum") -> Tensor:
    """Return ``src`` reduced over the rows that ``indptr`` (n_segments + 1,) delimits."""
    number = indptr.numel() - 1
    index = torch.repeat_interleave(torch.arange(number, device=src.device), indptr[1:] - indptr[:-1])
    return scatter(src[int(indptr[0]) : int(indptr[-1])], index, 0, out, number, reduce)


class _Storage:
    def __init__(self, row: Tensor, col: Tensor, value: Tensor | None) -> None:
        self._row, self._col, self._value = row, col, value

    def row(self) -> Tensor:
        return self._row

    def col(self) -> Tensor:
        return self._col

    def value(self) -> Tensor | None:
        return self._value


class SparseTensor:
    """A sparse matrix by coordinates, sorted by row and then column, duplicates kept, as ``torch_sparse.SparseTensor``.

    Parameters
    ----------
    row, col
        (n,) coordinates, int64.
    value
        (n, ...) values, or None for ones.
    sparse_sizes
        Rows and columns.
    is_sorted
        Whether the coordinates are sorted already.
    """

    def __init__(
        self,
        row: Tensor,
        col: Tensor,
        value: Tensor | None = None,
        sparse_sizes: tuple[int, int] | None = None,
        is_sorted: bool = False,
    ) -> None:
        if sparse_sizes is None:
            sparse_sizes = (int(row.max()) + 1, int(col.max()) + 1) if row.numel() else (0, 0)
        self._sizes = (int(sparse_sizes[0]), int(sparse_sizes[1]))
        if not is_sorted:
            order = torch.argsort(row * max(self._sizes[1], 1) + col, stable=True)
            row, col, value = row[order], col[order], None if value is None else value[order]
        self.storage = _Storage(row, col, value)

    def coo(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return rows, columns and values."""
        return self.storage.row(), self.storage.col(), self.storage.value()

    def sparse_sizes(self) -> tuple[int, int]:
        """Return the numbers of rows and columns."""
        return self._sizes

    def set_value(self, value: Tensor | None, layout: str | None = None) -> SparseTensor:
        """Return a matrix of the same entries with other values, in sorted order; any ``layout`` is that order."""
        del layout
        return SparseTensor(self.storage.row(), self.storage.col(), value, self._sizes, is_sorted=True)

    def set_value_(self, value: Tensor | None, layout: str | None = None) -> SparseTensor:
        """Replace the values, in sorted order; any ``layout`` is that order."""
        del layout
        self.storage = _Storage(self.storage.row(), self.storage.col(), value)
        return self

    def sum(self, dim: int) -> Tensor:
        """Return the sums over the rows (``dim=0``) or the columns (``dim=1``)."""
        row, col, value = self.coo()
        index = (col, row)[dim]
        return scatter(torch.ones_like(row) if value is None else value, index, 0, None, self._sizes[1 - dim])

    def __getitem__(self, rows: Tensor) -> SparseTensor:
        """Return the rows with the given numbers (n,), in their order; a row may be taken more than once."""
        row, col, value = self.coo()
        counts = torch.bincount(row, minlength=self._sizes[0])
        starts = counts.cumsum(0) - counts
        taken = counts[rows]
        new_row = torch.repeat_interleave(torch.arange(rows.numel(), device=rows.device), taken)
        within = torch.arange(new_row.numel(), device=rows.device) - (taken.cumsum(0) - taken)[new_row]
        source = starts[rows][new_row] + within
        chosen = None if value is None else value[source]
        return SparseTensor(new_row, col[source], chosen, (rows.numel(), self._sizes[1]), is_sorted=True)


def radius_graph(
    x: Tensor,
    r: float,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_neighbors: int | None = 32,
    flow: str = "source_to_target",
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Return the edges (2, n_edges) between points (n, 3) that are at most ``r`` apart, the nearest if there are more.

    ``num_workers`` and ``batch_size`` are part of PyG's signature and have no influence on the result there, either.
    """
    del num_workers, batch_size
    with torch.no_grad():
        distance = torch.cdist(x, x)
        near = distance <= r
        if batch is not None:
            near &= batch[:, None] == batch[None, :]
        if not loop:
            near.fill_diagonal_(False)
        if max_num_neighbors is not None:
            rank = distance.masked_fill(~near, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
            near &= rank < max_num_neighbors
        target, source = near.nonzero(as_tuple=True)
    return torch.stack([source, target] if flow == "source_to_target" else [target, source])


def install() -> list[str]:
    """Put the stand-ins where the real packages are missing; return the names of those that were replaced now."""
    importlib.import_module("torch_geometric.typing")  # first, so that PyG's own search finds no torch_scatter
    replaced = []
    if _is_missing("torch_scatter"):
        functions: dict[str, Any] = {"scatter": scatter, "scatter_add": scatter_add, "scatter_sum": scatter_add}
        utils = _module("torch_scatter.utils", {"broadcast": broadcast})
        _module("torch_scatter", {**functions, "segment_coo": segment_coo, "segment_csr": segment_csr, "utils": utils})
        replaced.append("torch_scatter")
    if _is_missing("torch_sparse"):
        _module("torch_sparse", {"SparseTensor": SparseTensor})
        replaced.append("torch_sparse")
    return replaced


def replace_radius_graph() -> bool:
    """Give PyG's SchNet, as fairchem subclasses it, a neighbour search if it has none that works; return whether."""
    schnet = importlib.import_module("torch_geometric.nn.models.schnet")
    if schnet.radius_graph is radius_graph:
        return False
    try:
        schnet.radius_graph(torch.zeros(2, 3), 1.0)
    except ImportError:
        fairchem = importlib.import_module("fairchem.core.models.base")
        for module in (schnet, fairchem):
            vars(module)["radius_graph"] = radius_graph
        return True
    return False


def _is_missing(name: str) -> bool:
    return name not in sys.modules and importlib.util.find_spec(name) is None


def _module(name: str, contents: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name, "A stand-in in plain torch, by dcsurgery.")
    vars(module).update(contents, __version__="0", __path__=[])
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    return module
