"""Other programs can read a diff: their own parsers, or their published rules, accept what is written."""

from __future__ import annotations

import io
import json

import networkx as nx
import pytest
import torch
from torch import nn

import dcsurgery as dcs
from dcsurgery.diffing.layout import has_dot


@pytest.fixture(scope="module")
def diff():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Sequential(nn.SiLU(), nn.Linear(8, 1)))
    inputs = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),)
    return dcs.apply(net, dcs.plan(net, example_inputs=inputs)).diff(inputs)


def test_networkx_has_every_node_once_with_its_state_and_every_edge_with_its_sides(diff):
    graph = diff.to_networkx()
    assert graph.nodes["1"]["state"] == "deleted"
    assert (
        graph.nodes["2.0"] | {"label_before": "SiLU", "label_after": "IReLU", "state": "replaced"} == graph.nodes["2.0"]
    )
    assert {data["side"] for _, _, data in graph.edges(data=True)} == {"both", "before", "after"}
    assert graph.has_edge("0", "1")
    assert [d["side"] for d in graph["0"]["1"].values()] == ["before"]
    assert nx.is_directed_acyclic_graph(graph)


def test_graphml_is_read_back_as_the_same_graph(diff):
    back = nx.read_graphml(io.BytesIO(diff.to_graphml().encode()))
    assert dict(back.nodes(data=True)) == {n: dict(d) for n, d in diff.to_networkx().nodes(data=True)}
    assert back.number_of_edges() == diff.to_networkx().number_of_edges()


@pytest.mark.skipif(not has_dot(), reason="graphviz is not installed")
def test_graphviz_draws_the_dot_file(diff):
    import graphviz

    drawn = graphviz.Source(diff.to_dot()).pipe("svg").decode()
    assert "~ 0: SiLU" in drawn
    assert "&#45; 1: BatchNorm1d" in drawn


def test_model_explorers_files_keep_its_rules(diff):
    files = {name: json.loads(text) for name, text in diff.to_model_explorer().items()}
    assert set(files) == {"before.json", "after.json", "mapping.json"}
    ids = {}
    for side in ("before", "after"):
        (collection,) = files[f"{side}.json"]["graphCollections"]
        (graph,) = collection["graphs"]
        nodes = graph["nodes"]
        ids[side] = {node["id"] for node in nodes}
        assert len(ids[side]) == len(nodes)
        for node in nodes:
            assert set(node) == {"id", "label", "namespace", "incomingEdges", "attrs"}
        assert all(edge["sourceNodeId"] in ids[side] for node in nodes for edge in node["incomingEdges"])
        assert next(node for node in nodes if node["id"] == "2.0")["namespace"] == "2"
    mapping = files["mapping.json"]["mapping"]
    assert mapping["2.0"] == "2.0"
    assert "1" not in mapping
    assert set(mapping) <= ids["before"]
    assert set(mapping.values()) <= ids["after"]
    assert files["mapping.json"]["disableMappingFallback"] is True


def test_the_flow_of_a_model_survives_in_model_explorers_form(diff):
    (graph,) = json.loads(diff.to_model_explorer()["after.json"])["graphCollections"][0]["graphs"]
    sources = {node["id"]: [edge["sourceNodeId"] for edge in node["incomingEdges"]] for node in graph["nodes"]}
    assert sources["2.0"] == ["2::input_0"]
    assert sources["2::input_0"] == ["0"]
    assert sources["2.1"] == ["2.0"]
    assert sources["::output"] == ["2.1"]
