"""Output blocks are found by the model's own entry, by name, or by dataflow, and the census says by which."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dcsurgery as dcs
from dcsurgery.blocks import block_of
from dcsurgery.errors import NothingMatched


def mlp(width=4):
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = mlp()

    def forward(self, x):
        return x + self.layers(x)


class DimeNet(nn.Module):
    """The name of a registered class; ``head`` would be one by name."""

    def __init__(self):
        super().__init__()
        self.output_blocks = nn.ModuleList([mlp(), mlp()])
        self.interaction_blocks = nn.ModuleList([Residual(), Residual()])
        self.head = mlp()

    def forward(self, x):
        out = self.output_blocks[0](x)
        for interaction, output in zip(self.interaction_blocks, [self.output_blocks[1]] * 2, strict=True):
            x = interaction(x)
            out = out + output(x)
        return self.head(out)


class DimeNetChild(DimeNet):
    """A subclass of a registered class."""


class Named(nn.Module):
    """Its output part has one of the usual names."""

    def __init__(self, name):
        super().__init__()
        self.body = mlp()
        self.name = name
        self.add_module(name, mlp())

    def forward(self, x):
        return getattr(self, self.name)(self.body(x))


class Trunk(nn.Module):
    """Repeated blocks; what runs behind the last one has unusual names."""

    def __init__(self):
        super().__init__()
        self.embedding = mlp()
        self.interactions = nn.ModuleList([Residual(), Residual()])
        self.lin1 = nn.Linear(4, 4)
        self.act = nn.Softplus()
        self.lin2 = nn.Linear(4, 4)
        self.readoff = mlp()

    def forward(self, x):
        x = F.relu(self.embedding(x))
        for block in self.interactions:
            x = block(x)
        return self.readoff(torch.tanh(self.lin2(self.act(self.lin1(x)))))


class Skipping(nn.Module):
    """What feeds both a block and the output is not behind the trunk."""

    def __init__(self):
        super().__init__()
        self.before = nn.SiLU()
        self.blocks = nn.ModuleList([Residual(), Residual()])
        self.beside = nn.Tanh()

    def forward(self, x):
        x = self.before(x)
        y = self.beside(x)
        for block in self.blocks:
            x = block(x)
        return x + y


class SharedAct(nn.Module):
    """One activation object, used before and behind the trunk."""

    def __init__(self):
        super().__init__()
        self.act, self.last = nn.SiLU(), nn.Tanh()
        self.blocks = nn.ModuleList([Residual(), Residual()])

    def forward(self, x):
        x = self.act(x)
        for block in self.blocks:
            x = block(x)
        return self.last(self.act(x))


def output_sites(model, x=None):
    census = dcs.inspect(model, x)
    return {site.name: site.block_rule for site in census if site.in_output_block}


INPUTS = (torch.ones(2, 4),)


@pytest.mark.parametrize("cls", [DimeNet, DimeNetChild])
@pytest.mark.parametrize("x", [None, INPUTS], ids=["static", "run"])
def test_a_registered_class_decides_alone(cls, x):
    assert output_sites(cls(), x) == {"output_blocks.0.1": "registry", "output_blocks.1.1": "registry"}


def test_a_registered_class_decides_wherever_it_stands():
    wrapped = nn.Sequential(mlp(), DimeNet())
    assert set(output_sites(wrapped, INPUTS)) == {"1.output_blocks.0.1", "1.output_blocks.1.1"}


@pytest.mark.parametrize(
    "name", ["out_blocks", "output_block", "head", "heads", "readout", "decoder", "head_2", "output_network"]
)
def test_the_usual_names_decide(name):
    assert output_sites(Named(name), INPUTS) == {f"{name}.1": "name"}


@pytest.mark.parametrize("name", ["ahead", "headroom", "outer", "blocks", "decoders_in"])
def test_a_part_of_a_usual_name_does_not(name):
    assert output_sites(Named(name), INPUTS) == {}


@pytest.mark.parametrize("x", [None, INPUTS], ids=["static", "run"])
def test_what_runs_behind_the_last_repeated_block_is_output(x):
    found = output_sites(Trunk(), x)
    assert found == dict.fromkeys(["act", "forward@tanh", "readoff.1"], "dataflow")


def test_what_also_feeds_a_block_is_not_output():
    assert set(output_sites(Skipping(), INPUTS)) == {"beside"}


def test_what_runs_both_before_and_behind_the_trunk_is_not_output():
    assert set(output_sites(SharedAct(), INPUTS)) == {"last"}


def test_every_other_site_says_that_no_rule_took_it():
    rules = {site.name: site.block_rule for site in dcs.inspect(Trunk(), INPUTS) if not site.in_output_block}
    assert rules == dict.fromkeys(
        ["embedding.1", "forward@relu", "interactions.0.layers.1", "interactions.1.layers.1"], "none"
    )


def test_the_scope_edits_output_blocks_only():
    edited = dcs.transform(Trunk(), scope="output-blocks", example_inputs=INPUTS)
    assert {edit.site for edit in edited.plan} == {"act", "forward@tanh", "readoff.1"}
    assert isinstance(edited.model.interactions[0].layers[1], nn.SiLU)
    assert edited.report.ok


@pytest.mark.parametrize("x", [None, INPUTS], ids=["static", "run"])
def test_a_model_without_output_blocks_says_so_and_how_to_name_them(x):
    with pytest.raises(NothingMatched) as error:
        dcs.transform(mlp(), scope="output-blocks", example_inputs=x)
    assert "no output block was found" in str(error.value)
    assert "include='head.*'" in str(error.value)
    with pytest.raises(NothingMatched, match="no output block was found"):
        dcs.plan(mlp(), include="output-blocks")
    assert len(dcs.plan(mlp(), scope="output-blocks", allow_empty=True)) == 0


@pytest.mark.parametrize(
    ("path", "block"),
    [("", ""), ("act", "act"), ("blocks.3.layers.1.act", "blocks.3"), ("net.body.act", "net"), ("0.act", "0")],
)
def test_a_block_is_the_path_up_to_the_first_number(path, block):
    assert block_of(path) == block
