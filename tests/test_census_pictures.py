"""The picture of a census marks every site once and each output block, for eyes, screen readers and pointers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dcsurgery as dcs
from dcsurgery.cli.app import main
from dcsurgery.diffing import layout
from dcsurgery.diffing.layout import has_dot
from dcsurgery.errors import BadInput
from dcsurgery.zoo.coverage import CASES

NAMESPACE = {"s": "http://www.w3.org/2000/svg"}
needs_dot = pytest.mark.skipif(not has_dot(), reason="graphviz is not installed")
X = (torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.gate, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.plain = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0))

    def forward(self, h):
        h = self.norm(self.lin(self.plain(h)))
        return F.silu(h) * torch.sigmoid(self.gate(h))


class Net(nn.Module):
    def __init__(self, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, pos):
        for block in self.blocks:
            pos = block(pos)
        return self.head(pos)


@pytest.fixture(scope="module")
def census():
    torch.manual_seed(0)
    return dcs.inspect(Net(), X)


def items(text, what):
    """Return class names and label of every box or frame."""
    (panel,) = (g for g in ET.fromstring(text).findall("s:g", NAMESPACE) if g.get("role") == "group")
    found = []
    for g in panel.findall("s:g", NAMESPACE):
        names = g.get("class").split()
        label = " / ".join(t.text for t in g.findall("s:text", NAMESPACE))
        if names[0] == what and label:
            found.append((names, label))
    return found


def marked(text):
    names = {"activation", "normalization", "gate", "basis"}
    return Counter(role for classes, _ in items(text, "box") for role in names & set(classes))


@needs_dot
@pytest.mark.parametrize("options", [{}, {"full": True}, {"only_sites": True}, {"rankdir": "LR"}], ids=str)
def test_every_site_is_marked_once_by_its_role(census, options):
    text = census.to_svg(**options)
    assert marked(text) == {"activation": 3, "normalization": 2, "gate": 2}
    labels = {label for _, label in items(text, "box")}
    assert {"ƒ silu", "\N{MULTIPLICATION SIGN} sigmoid", "‖ norm: LayerNorm", "ƒ 1: Tanh"} <= labels


@needs_dot
@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_a_zoo_model_shows_each_site_as_often_as_it_is_applied(case):
    model = case.build()
    census = dcs.inspect(model, case.inputs(model))
    text = census.to_svg(full=True)
    tips = [t.text for t in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}title")]
    named = {
        m[1]
        for tip in tips
        if (m := re.search(r"^site (.+): (activation|normalization|gate|basis)", tip, re.MULTILINE))
    }
    assert named == {site.name for site in census}
    assert set(marked(text)) == {site.role for site in census}


@needs_dot
def test_output_blocks_are_framed_and_named(census):
    frames = items(census.to_svg(), "frame")
    assert [label for classes, label in frames if "output-block" in classes] == ["head: Sequential · output block"]
    closed = [label for classes, label in items(census.to_svg(depth=0), "box") if "output-block" in classes]
    assert closed == ["head: Sequential / 1 site / output block"]


@needs_dot
def test_branches_without_sites_are_closed_and_depth_closes_more(census):
    labels = [label for _, label in items(census.to_svg(), "box")]
    assert "plain: Sequential / 2 modules" in labels
    assert not any("Dropout" in label for label in labels)
    assert any("Dropout" in label for _, label in items(census.to_svg(full=True), "box"))
    assert "0: Block / 3 sites" in [label for _, label in items(census.to_svg(depth=1), "box")]
    assert "… " in " ".join(labels) or len(labels) > len(items(census.to_svg(only_sites=True), "box"))


@needs_dot
def test_a_reader_is_told_what_the_picture_shows(census):
    root = ET.fromstring(census.to_svg())
    title, description = (root.find(f"s:{tag}", NAMESPACE).text for tag in ("title", "desc"))
    assert title == "Net: 3 activations, 2 normalizations, 2 gates"
    assert all(str(site) in description for site in census)
    tips = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any("site blocks.0.norm: normalization" in t and ".py:" in t and "shape [3, 4]" in t for t in tips)
    assert any("site head.1: activation, in an output block" in t for t in tips)


@needs_dot
def test_inputs_are_called_as_forward_calls_them(census):
    assert tuple(label for c, label in items(census.to_svg(), "box") if {"input", "output"} & set(c)) == (
        "pos",
        "output",
    )


@needs_dot
def test_roles_differ_in_sign_and_outline_and_not_in_colour_alone(census):
    style = re.search(r"<style>(.*?)</style>", census.to_svg(), re.DOTALL)[1]
    outlines = re.findall(
        r"\.changed\.([\w-]+) rect \{ stroke-width: ([0-9.]+);(?: stroke-dasharray: ([0-9. ]+);)? \}", style
    )
    assert {name for name, _, _ in outlines} == {"activation", "normalization", "gate", "basis", "output-block"}
    assert len({(width, dash) for _, width, dash in outlines}) == 5


@needs_dot
def test_sites_without_a_box_are_told_where_they_run():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.act = nn.LSTM(4, 4), nn.ReLU()

        def forward(self, x):
            return self.act(self.lstm(x)[0])

    census = dcs.inspect(Recurrent(), (torch.randn(2, 3, 4),))
    assert "ƒ lstm: LSTM / holds 1 activation, 1 gate" in [label for _, label in items(census.to_svg(), "box")]


@needs_dot
def test_what_could_not_be_captured_is_said():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x) if x.sum() > 0 else x

    text = dcs.inspect(nn.Sequential(Branching(), nn.Linear(4, 4))).to_svg()
    assert "not shown: the body of 0: " in text
    assert marked(text) == {"activation": 1}


@needs_dot
def test_what_nobody_could_read_is_cut_and_said(monkeypatch):
    from dcsurgery.diffing import census_picture

    monkeypatch.setattr(census_picture, "MANY_BOXES", 10)
    text = dcs.inspect(Net(8), X).to_svg(full=True)
    assert len(items(text, "box")) <= 10
    assert re.search(r"10 of \d+ boxes shown: --depth N", text)


@pytest.mark.parametrize("options", [{"rankdir": "up"}, {"depth": -1}], ids=str)
def test_wrong_options_are_refused(census, options):
    with pytest.raises(BadInput):
        census.to_svg(**options)


def test_without_graphviz_the_message_says_how_to_get_it(census, monkeypatch):
    monkeypatch.setattr(layout.shutil, "which", lambda _: None)
    with pytest.raises(BadInput, match="apt install graphviz"):
        census.to_svg()
    assert census._repr_svg_() is None


# -- the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1)), "m.pt")
    torch.save(X, "x.pt")
    return tmp_path


@needs_dot
def test_the_command_draws_beside_the_model_or_where_it_is_told(files, capsys):
    assert main(["inspect", "m.pt", "--svg", "--inputs", "x.pt"]) == 0
    assert "wrote m.svg" in capsys.readouterr().out
    assert marked((files / "m.svg").read_text()) == {"activation": 1, "normalization": 1}
    assert main(["inspect", "m.pt", "--svg", "p.svg", "--depth", "0", "--rankdir", "LR", "--only-sites"]) == 0
    assert (files / "p.svg").exists()
    assert main(["inspect", "m.pt", "--svg"]) == 2
    assert "m.svg" in capsys.readouterr().err
    assert main(["inspect", "m.pt", "--svg", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"activation": 1, "normalization": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m.pt", "p.png", "--svg"], "a picture of a model is an .svg"),
        (["m.pt", "none/p.svg", "--svg"], "does not exist"),
        (["m.pt", "p.svg"], "add --svg"),
        (["m.pt", "--depth", "1"], "--depth is about the picture"),
        (["m.pt", "--svg", "--rankdir", "UP"], "no direction 'UP'"),
        (["m.pt", "--svg", "--depth", "-1"], "greater than or equal to 0"),
        (["none.pt", "--svg"], "no such file"),
        (["x.pt", "--svg"], "not a model"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
@needs_dot
def test_bad_input_is_one_line_and_nothing_is_written(files, words, said, capsys):
    before = sorted(files.iterdir())
    assert main(["inspect", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(files.iterdir()) == before


def test_without_graphviz_nothing_is_read(files, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert main(["inspect", "m.pt", "--svg"]) == 2
    assert "install graphviz" in capsys.readouterr().err
