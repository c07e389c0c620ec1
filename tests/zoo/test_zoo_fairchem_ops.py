"""The stand-ins for torch_scatter, torch_sparse and pyg-lib against dense formulas and torch's own functions."""

import subprocess
import sys

import pytest
import torch

from dcsurgery.zoo.ocp import fairchem_ops as ops
from dcsurgery.zoo.ocp import graph


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


INDEX = torch.tensor([2, 0, 2, 2, 0, 4])


@pytest.mark.parametrize("reduce", ["sum", "add", "mean", "min", "max", "mul"])
@pytest.mark.parametrize("dim", [0, -2, 1])
def test_scatter_reduces_what_a_loop_over_the_indices_reduces(reduce, dim):
    src = random(6, 3) if dim != 1 else random(3, 6)
    rows = src if dim != 1 else src.T
    by = {"sum": sum, "add": sum, "mean": lambda r: sum(r) / len(r), "mul": lambda r: torch.stack(r).prod(0)}
    by |= {"min": lambda r: torch.stack(r).amin(0), "max": lambda r: torch.stack(r).amax(0)}
    expected = torch.zeros(6, 3, dtype=torch.float64)
    for group in (0, 2, 4):
        expected[group] = by[reduce]([row for row, i in zip(rows, INDEX, strict=True) if i == group])
    got = ops.scatter(src, INDEX, dim, dim_size=6, reduce=reduce)
    torch.testing.assert_close(got if dim != 1 else got.T, expected)


def test_scatter_finds_its_size_and_adds_to_what_is_there():
    src = random(6)
    assert ops.scatter(src, INDEX).shape == (5,)
    assert ops.scatter(src[:0], INDEX[:0]).shape == (0,)
    there = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(ops.scatter_add(src, INDEX, out=there), 1 + ops.scatter(src, INDEX))
    assert torch.equal(there, torch.ones(5, dtype=torch.float64))


def test_segments_are_scatters_of_sorted_indices():
    src, index = random(6, 2), torch.tensor([0, 0, 1, 3, 3, 3])
    expected = ops.scatter(src, index, 0, dim_size=4)
    torch.testing.assert_close(ops.segment_coo(src, index, dim_size=4), expected)
    torch.testing.assert_close(ops.segment_csr(src, torch.tensor([0, 2, 3, 3, 6])), expected)
    torch.testing.assert_close(
        ops.segment_csr(src, torch.tensor([2, 3, 6]), reduce="mean"), torch.stack([src[2], src[3:].mean(0)])
    )


def test_scatter_has_second_derivatives():
    def function(src):
        return ops.scatter(src**3, INDEX, 0).square().sum() + ops.scatter(src, INDEX, 0, reduce="mean").pow(3).sum()

    src = random(6, 2).requires_grad_()
    assert torch.autograd.gradcheck(function, src)
    assert torch.autograd.gradgradcheck(function, src)


def dense(matrix):
    row, col, value = matrix.coo()
    out = torch.zeros(matrix.sparse_sizes(), dtype=torch.float64)
    return out.index_put((row, col), value, accumulate=True)


def test_a_sparse_matrix_is_its_dense_form():
    row, col, value = torch.tensor([2, 0, 1, 0, 2]), torch.tensor([1, 3, 0, 1, 1]), random(5)
    matrix = ops.SparseTensor(row, col, value, (4, 5))
    expected = torch.zeros(4, 5, dtype=torch.float64).index_put((row, col), value, accumulate=True)
    assert torch.equal(dense(matrix), expected)
    assert matrix.storage.row().tolist() == [0, 0, 1, 2, 2]
    assert matrix.storage.col().tolist() == [1, 3, 0, 1, 1]
    torch.testing.assert_close(matrix.sum(1), expected.sum(1))
    torch.testing.assert_close(matrix.sum(0), expected.sum(0))
    rows = torch.tensor([2, 3, 0, 2])
    assert torch.equal(dense(matrix[rows]), expected[rows])
    doubled = matrix.set_value(2 * matrix.storage.value(), layout="coo")
    assert torch.equal(dense(doubled), 2 * expected)
    assert torch.equal(dense(matrix), expected)
    assert matrix.set_value_(None) is matrix
    assert matrix.sum(1).tolist() == [2, 1, 2, 0]
    assert ops.SparseTensor(row, col).sparse_sizes() == (3, 4)
    assert ops.SparseTensor(row[:0], col[:0]).sparse_sizes() == (0, 0)


@pytest.mark.parametrize("limit", [32, 3])
def test_the_neighbour_search_finds_the_edges_of_the_zoos_own(limit):
    pos, batch = 2 * random(20, 3), torch.arange(20) // 7
    expected = graph.radius_graph(pos, 4.0, batch, max_num_neighbors=limit)
    got = ops.radius_graph(pos, 4.0, batch, max_num_neighbors=limit)
    assert torch.equal(got, expected)
    backwards = ops.radius_graph(pos, 4.0, batch, max_num_neighbors=limit, flow="target_to_source")
    assert torch.equal(backwards.flip(0), expected)
    looped = ops.radius_graph(pos, 4.0, loop=True, max_num_neighbors=None)
    assert (looped[0] == looped[1]).sum() == 20


def test_stand_ins_are_put_only_where_the_real_packages_are_missing():
    code = """
import importlib.util, sys, types
real = types.ModuleType("torch_scatter"); real.__version__ = "2.1.2"
sys.modules["torch_scatter"] = real
missing = importlib.util.find_spec("torch_sparse") is None
from dcsurgery.zoo.ocp import fairchem_ops as ops
print(ops.install() == (["torch_sparse"] if missing else []), sys.modules["torch_scatter"] is real, ops.install() == [])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
