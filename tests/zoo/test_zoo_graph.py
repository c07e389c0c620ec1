"""Neighbour graphs and triplets, against ASE's neighbour list and hand-written loops."""

import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp.graph import RadiusDistance, RadiusGraph, distances, radius_graph, triplets


def cloud(atoms, seed=0, size=4.0):
    return torch.rand(atoms, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


def pairs(edge_index):
    return list(map(tuple, edge_index.T.tolist()))


def test_edges_are_those_of_the_ase_neighbour_list_in_order():
    pos = cloud(40)
    i, j = neighbor_list("ij", Atoms("H40", positions=pos.numpy()), 1.7)
    expected = sorted(zip(i.tolist(), j.tolist(), strict=True))  # by target, then by source
    found = radius_graph(pos, 1.7, max_num_neighbors=40)
    assert len(expected) > 100
    assert pairs(found.flip(0)) == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_edges_stay_within_structures_in_any_order_of_atoms(seed):
    pos = cloud(30, seed)
    batch = torch.randint(0, 4, (30,), generator=torch.Generator().manual_seed(seed))
    expected = [
        (j, i)
        for i in range(30)
        for j in range(30)
        if i != j and batch[i] == batch[j] and (pos[i] - pos[j]).norm() < 2.5
    ]
    assert pairs(radius_graph(pos, 2.5, batch)) == expected


def test_the_nearest_neighbours_are_kept():
    pos = cloud(25)
    found = pairs(radius_graph(pos, 3.0, max_num_neighbors=4))
    separation = np.linalg.norm(pos.numpy()[:, None] - pos.numpy(), axis=-1)
    for i in range(25):
        near = [j for j in np.argsort(separation[i]) if j != i and separation[i, j] < 3.0][:4]
        assert [j for j, target in found if target == i] == sorted(near)


def test_loops_count_as_neighbours_when_asked_for():
    pos = cloud(10)
    with_loops = pairs(radius_graph(pos, 2.0, loop=True))
    assert [edge for edge in with_loops if edge[0] != edge[1]] == pairs(radius_graph(pos, 2.0))
    assert {(i, i) for i in range(10)} < set(with_loops)
    assert pairs(radius_graph(pos, 2.0, loop=True, max_num_neighbors=1)) == [(i, i) for i in range(10)]


def test_an_empty_set_of_atoms_and_a_lone_atom_have_no_edges():
    assert radius_graph(torch.empty(0, 3), 1.0).shape == (2, 0)
    assert radius_graph(torch.zeros(1, 3), 1.0, torch.tensor([0])).shape == (2, 0)


def test_a_position_that_is_not_finite_is_not_lost():
    pos = cloud(4)
    pos[2, 1] = torch.nan
    assert {(2, 0), (0, 2)} < set(pairs(radius_graph(pos, 0.1)))


def test_triplets_are_those_of_a_hand_written_loop():
    pos, batch = cloud(14), torch.tensor([0] * 8 + [1] * 6)
    edge_index = radius_graph(pos, 2.2, batch)
    edges = pairs(edge_index)
    expected = []
    for ji, (j, i) in enumerate(edges):
        incoming = sorted((k, kj) for kj, (k, target) in enumerate(edges) if target == j)
        expected += [(i, j, k, kj, ji) for k, kj in incoming if k != i]
    target, source, *found = triplets(edge_index, 14)
    assert len(expected) > 50
    assert list(zip(*(index.tolist() for index in found), strict=True)) == expected
    assert torch.equal(torch.stack([source, target]), edge_index)


def test_triplets_do_not_need_sorted_edges():
    edge_index = radius_graph(cloud(9), 2.5)
    order = torch.randperm(edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    _, _, *sorted_atoms, _, _ = triplets(edge_index, 9)
    _, _, *atoms, idx_kj, idx_ji = triplets(edge_index[:, order], 9)
    assert sorted(zip(*map(torch.Tensor.tolist, atoms), strict=True)) == sorted(
        zip(*map(torch.Tensor.tolist, sorted_atoms), strict=True)
    )
    shuffled = edge_index[:, order]
    assert torch.equal(shuffled[1, idx_kj], shuffled[0, idx_ji])


def test_distances_are_exact_and_their_derivatives_finite_at_zero():
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1e-3, 0.0]], requires_grad=True)
    length = distances(vectors)
    assert torch.equal(length.detach(), torch.tensor([5.0, 0.0, 1e-3]))
    (first,) = torch.autograd.grad(length.sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), vectors)
    assert first[1].abs().max() == 0
    assert first.isfinite().all()
    assert second.isfinite().all()


def test_graph_modules_pickle_and_give_lengths_and_vectors():
    pos = cloud(8).requires_grad_()
    graph = pickle.loads(pickle.dumps(RadiusGraph(2.5)))
    edge_index, length = graph(pos, torch.zeros(8, dtype=torch.long))
    j, i = edge_index
    assert torch.allclose(length, (pos[j] - pos[i]).norm(dim=-1))
    assert not list(graph.state_dict())
    edges, lengths, vectors = RadiusDistance(2.5)(pos, None)
    assert lengths.dtype == torch.float64
    assert torch.allclose(lengths, vectors.norm(dim=-1))
    assert (lengths == 0).sum() == 8
    vectors.mul_(2.0)  # as ViSNet does
    assert torch.autograd.grad(lengths.sum(), pos)[0].isfinite().all()
    assert edges.shape[1] == edge_index.shape[1] + 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), 1.0), "n_atoms, 3"),
        ((torch.zeros(3, 3), 0.0), "cutoff must be positive"),
        ((torch.zeros(3, 3), float("nan")), "cutoff must be positive"),
        ((torch.zeros(3, 3), 1.0, torch.zeros(2, dtype=torch.long)), r"batch must have shape \(3,\)"),
        ((torch.zeros(3, 3), 1.0, None, False, 0), "max_num_neighbors"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(BadInput, match=message):
        radius_graph(*arguments)
