"""A diff in the terminal fits, needs no colour, and folds what did not change."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import dcsurgery as dcs


def model():
    torch.manual_seed(0)
    long = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.SiLU())
    plain = nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(8, 8))
    return nn.ModuleDict({"a_module_with_quite_a_long_name": long, "plain": plain})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = model()
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        for part in self.parts.values():
            x = part(x)
        return self.head(x)


@pytest.fixture
def diff():
    net = Net().eval()
    inputs = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),)
    return dcs.apply(net, dcs.plan(net, rescale=1e3, example_inputs=inputs)).diff(inputs)


def test_every_change_has_its_sign_in_front_and_the_summary_is_last(diff):
    lines = diff.to_text().splitlines()
    signs = [line[0] for line in lines if line[:1] in ("~", "-", "+", ">")]
    assert sorted(signs) == ["+", "-", "~", "~"]
    assert lines[-1] == diff.summary or " ".join(lines[-2:]) == diff.summary
    assert "Net: 2 replaced, 1 deleted, 1 inserted" in diff.summary


def test_names_stand_at_their_depth_and_texts_in_one_column(diff):
    lines = diff.to_text().splitlines()
    silu = next(line for line in lines if "SiLU => IReLU" in line)
    tanh = next(line for line in lines if "Tanh => IReLU" in line)
    norm = next(line for line in lines if line.startswith("-"))
    assert silu.index("SiLU") == tanh.index("Tanh") == norm.index("BatchNorm1d")
    assert silu.startswith("~       2")
    assert tanh.startswith("~     1")


def test_unchanged_neighbours_are_one_line_and_full_shows_them(diff):
    text = diff.to_text()
    assert "plain" in text
    assert "4 modules unchanged" in text
    assert "Flatten" not in text
    assert "Flatten" in diff.to_text(full=True)
    assert "unchanged" not in diff.to_text(full=True)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_of_the_tree_is_wider_than_the_screen(diff, width):
    tree = diff.to_text(width=width).splitlines()[:-2]
    assert max(map(len, tree)) <= max(width, 46)  # the longest name alone needs 46 columns


def test_colour_adds_escapes_and_nothing_else(diff):
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", diff.to_text(color=True))
    assert plain == diff.to_text()
    assert plain != diff.to_text(color=True)


def test_equal_models_are_one_line():
    assert dcs.diff(Net(), Net()).to_text().splitlines()[-1] == "Net: no changes"


def test_str_is_the_text(diff):
    assert str(diff) == diff.to_text()


def test_very_many_changes_in_one_place_are_counted_and_full_lists_them():
    many = nn.Sequential(*(layer for _ in range(150) for layer in (nn.Linear(2, 2), nn.SiLU(), nn.LayerNorm(2))))
    found = dcs.apply(many, dcs.plan(many)).diff()
    lines = found.to_text(width=80).splitlines()
    assert [line[:1] for line in lines].count("~") == 26
    (rest,) = [line for line in lines if "more" in line]
    told = " ".join(rest.split())
    assert told == "~ … 250 more 125 SiLU => IReLU, 125 - LayerNorm; --full lists all"
    assert max(map(len, lines[:-1])) <= 80  # the last one is the summary
    full = found.to_text(full=True, width=80).splitlines()
    assert sum(line.startswith(("~", "-")) for line in full) == 300
    assert not any("more" in line for line in full)


def test_very_many_changes_in_one_body_are_counted():
    graph = fx.Graph()
    node = graph.placeholder("x")
    for index in range(450):
        node = graph.call_function(torch.tanh if index % 3 else torch.sigmoid, (node,))
    graph.output(node)
    many = fx.GraphModule(nn.Module(), graph)
    lines = dcs.apply(many, dcs.plan(many)).diff().to_text(width=80).splitlines()
    assert sum(line.startswith("~") for line in lines) == 51
    assert any("… 250 more" in line and "250 tanh => irelu" in line for line in lines)
