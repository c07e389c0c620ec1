"""Pictures show every change once on each side, can be read without colour, and stay within what can be laid out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn

import dcsurgery as dcs
from dcsurgery.diffing import layout, svg
from dcsurgery.diffing.display import display
from dcsurgery.diffing.layout import has_dot
from dcsurgery.diffing.union import unite
from dcsurgery.errors import BadInput

NAMESPACE = {"s": "http://www.w3.org/2000/svg"}
needs_dot = pytest.mark.skipif(not has_dot(), reason="graphviz is not installed")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.norm, self.act = nn.Linear(4, 4), nn.LayerNorm(4), nn.SiLU()
        self.plain = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0), nn.Linear(4, 4))

    def forward(self, x):
        y = self.plain(x)
        y = (y * 2 + 1).sin().cos().exp()
        return x + self.act(self.norm(self.lin(y)))


class Net(nn.Module):
    def __init__(self, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


X = (torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),)


def diff_of(depth=2):
    torch.manual_seed(0)
    net = Net(depth)
    return dcs.apply(net, dcs.plan(net, rescale=1e3, example_inputs=X)).diff(X)


@pytest.fixture(scope="module")
def diff():
    return diff_of()


def panels(text):
    root = ET.fromstring(text)
    return [g for g in root.findall("s:g", NAMESPACE) if g.get("role") == "group"]


def boxes(panel):
    """Return label, state and rectangle of every box."""
    found = []
    for g in panel.findall("s:g", NAMESPACE):
        names = g.get("class").split()
        rect = g.find("s:rect", NAMESPACE)
        if names[0] == "box":
            label = " ".join(t.text for t in g.findall("s:text", NAMESPACE))
            found.append((label, names[2], tuple(float(rect.get(k)) for k in ("x", "y", "width", "height"))))
    return found


@needs_dot
def test_each_side_shows_its_own_and_paired_boxes_stand_at_the_same_place(diff):
    before, after = map(boxes, panels(diff.to_svg()))
    assert [label for label, state, _ in before if state == "deleted"] == ["- norm: LayerNorm"] * 2
    assert [label for label, state, _ in after if state == "deleted"] == []
    assert [label for label, state, _ in before if state == "replaced"] == ["~ act: SiLU"] * 2
    assert [label for label, state, _ in after if state == "replaced"] == ["~ act: IReLU"] * 2
    places = [{place for label, state, place in side if state == "replaced"} for side in (before, after)]
    assert places[0] == places[1]


@needs_dot
@pytest.mark.parametrize("rankdir", ["TB", "LR"])
def test_no_two_boxes_overlap_and_labels_fit(diff, rankdir):
    for panel in panels(diff.to_svg(rankdir=rankdir, full=True)):
        placed = boxes(panel)
        for i, (label, _, (x, y, w, h)) in enumerate(placed):
            assert w >= 5.6 * max(map(len, label.split("\n")))
            for _, _, (x2, y2, w2, h2) in placed[i + 1 :]:
                assert x + w <= x2 + 0.2 or x2 + w2 <= x + 0.2 or y + h <= y2 + 0.2 or y2 + h2 <= y + 0.2


@needs_dot
def test_a_screen_reader_gets_title_description_and_what_each_box_is(diff):
    root = ET.fromstring(diff.to_svg())
    assert root.get("role") == "img"
    title, description = (root.find(f"s:{tag}", NAMESPACE) for tag in ("title", "desc"))
    assert set(root.get("aria-labelledby").split()) == {title.get("id"), description.get("id")}
    assert title.text == diff.summary
    assert all(str(change) in description.text for change in diff)
    tips = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any("blocks.0.act" in t and "site blocks.0.act: activation" in t and ".py:" in t for t in tips)
    assert any("shape [3, 4]" in t for t in tips)


@needs_dot
def test_states_differ_in_sign_and_outline_and_not_in_colour_alone(diff):
    text = diff.to_svg()
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    outlines = re.findall(
        r"\.changed\.(\w+) rect \{ stroke-width: ([0-9.]+);(?: stroke-dasharray: ([0-9. ]+);)? \}", style
    )
    looks = {name: (width, dash) for name, width, dash in outlines if name != "renamed"}  # which is as moved
    assert set(looks) == {"replaced", "deleted", "inserted", "moved", "rewired"}
    assert len(set(looks.values())) == len(looks)
    assert "prefers-color-scheme: dark" in style


@needs_dot
def test_names_of_models_cannot_break_the_picture():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module('<b>&"x', nn.SiLU())

        def forward(self, x):
            return self._modules['<b>&"x'](x)

    Odd.__name__ = "O<d&d"
    model = Odd()
    text = dcs.apply(model, dcs.plan(model, example_inputs=X)).diff(X).to_svg()
    assert '~ <b>&"x: SiLU' in [label for label, _, _ in boxes(panels(text)[0])]


def test_unchanged_operators_are_gathered_and_every_arrow_still_points_down(diff):
    shown = display(unite(diff))
    gathered = [box for box in shown.boxes.values() if len(box.members) > 1]
    assert any("4 operators" in box.labels[0] or "5 operators" in box.labels[0] for box in gathered)
    order, pending = {}, list(shown.boxes)
    incoming = {id_: {s for s, t in shown.arrows if t == id_} for id_ in shown.boxes}
    while pending:
        ready = [id_ for id_ in pending if incoming[id_] <= order.keys()]
        assert ready, "gathering has tied a knot into the flow"
        order.update(dict.fromkeys(ready))
        pending = [id_ for id_ in pending if id_ not in order]


def test_depth_closes_modules_and_says_how_many_changes_they_hold(diff):
    shown = display(unite(diff), depth=1)
    labels = [box.labels[0] for box in shown.boxes.values() if box.labels[0]]
    assert "0: Block\n2 changes" in labels
    assert not any("SiLU" in label for label in labels)


def test_only_changes_leaves_neighbours_only(diff):
    some, every = display(unite(diff), only_changes=True), display(unite(diff), full=True)
    states = [box.state for box in some.boxes.values()]
    assert len(some.boxes) < len(display(unite(diff)).boxes) < len(every.boxes)
    assert states.count("replaced") == 2
    assert states.count("deleted") == 2


@needs_dot
def test_what_nobody_could_read_is_cut_and_said(monkeypatch):
    monkeypatch.setattr(svg, "MANY_BOXES", 12)
    text = diff_of(depth=8).to_svg(full=True)
    assert re.search(r"12 of \d+ boxes shown \(only changes, to depth 1\): --depth N", text)
    assert len(boxes(panels(text)[0])) <= 12


def test_without_graphviz_the_message_says_how_to_get_it(diff, monkeypatch):
    monkeypatch.setattr(layout.shutil, "which", lambda _: None)
    with pytest.raises(BadInput, match="apt install graphviz"):
        diff.to_svg()
    assert diff._repr_svg_() is None


@pytest.mark.parametrize("options", [{"rankdir": "up"}, {"depth": -1}])
def test_wrong_options_are_refused(diff, options):
    with pytest.raises(BadInput):
        diff.to_svg(**options)
