"""What notebooks show of a census, a plan, a surgery and a diff: small, static, escaped, and complete."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn

import dcsurgery as dcs
from dcsurgery.diffing import layout, notebook
from dcsurgery.diffing.layout import has_dot

needs_dot = pytest.mark.skipif(not has_dot(), reason="graphviz is not installed")
X = (torch.randn(6, 3, generator=torch.Generator().manual_seed(1)),)


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1))


Net.__name__ = "Net<b>&"


@pytest.fixture(scope="module")
def shown():
    torch.manual_seed(0)
    net = Net()
    surgery = dcs.transform(net, example_inputs=X)
    return {"census": dcs.inspect(net, X), "plan": surgery.plan, "surgery": surgery, "diff": surgery.diff(X)}


NAMES = ("census", "plan", "surgery", "diff")


def cells(html):
    """Return the rows of all tables; reading it as XML shows that it is closed and escaped."""
    root = ET.fromstring(f"<div>{html}</div>")
    return [[cell.text or "" for cell in row] for row in root.iter("tr")]


@pytest.mark.parametrize("name", NAMES)
def test_a_display_is_well_formed_and_needs_no_script(shown, name):
    html = shown[name]._repr_html_()
    assert not re.search(r"<script|<link|https?://(?!www\.w3\.org)|\bon\w+=", html)
    assert len(html) < 20_000
    assert (
        ET.fromstring(f"<div>{html}</div>")
        .find(".//table/caption")
        .text.startswith("plan for Net<b>&" if name == "plan" else "Net<b>&")
    )


def test_each_table_says_what_its_object_says(shown):
    census, plan, surgery, diff = (cells(shown[name]._repr_html_()) for name in NAMES)
    assert [row[:3] for row in census[1:]] == [["1", "normalization", "batch_norm"], ["2", "activation", "silu"]]
    assert [row[0] + row[1] for row in plan[1:]] == [str(edit)[0] + edit.site for edit in shown["plan"]]
    report = shown["surgery"].report
    assert [row[:2] for row in surgery if row[0] in ("pass", "fail", "skip")] == [[c.status, c.name] for c in report]
    assert [row[1] for row in diff[1:]] == [change.name for change in shown["diff"]]


@needs_dot
@pytest.mark.parametrize("name", ["census", "surgery", "diff"])
def test_pictures_are_svg(shown, name):
    svg = shown[name]._repr_svg_()
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "<script" not in svg


@needs_dot
@pytest.mark.parametrize("name", ["census", "diff"])
def test_the_html_holds_the_picture_as_an_image_with_its_text(shown, name):
    image = ET.fromstring(f"<div>{shown[name]._repr_html_()}</div>").find("img")
    data = image.get("src").removeprefix("data:image/svg+xml;base64,")
    assert base64.b64decode(data).decode() == shown[name]._repr_svg_()
    assert image.get("alt").startswith("Net<b>&: ")


@needs_dot
def test_a_picture_that_is_too_large_is_left_out_and_said(shown, monkeypatch):
    monkeypatch.setattr(notebook, "_LARGE", 100)
    html = shown["diff"]._repr_html_()
    assert "<img" not in html
    assert "diff.to_svg(only_changes=True) returns it" in html
    assert "<details" not in html


def test_without_graphviz_there_are_tables(shown, monkeypatch):
    monkeypatch.setattr(layout.shutil, "which", lambda _: None)
    for name in NAMES:
        assert "<table>" in shown[name]._repr_html_()
        assert "<img" not in shown[name]._repr_html_()
    assert all(shown[name]._repr_svg_() is None for name in ("census", "surgery", "diff"))


def test_long_tables_are_cut_and_say_so(monkeypatch):
    model = nn.Sequential(*(nn.ReLU() for _ in range(203)))
    html = dcs.plan(model)._repr_html_()
    assert len(cells(html)) == 201
    assert "3 more: print(plan) shows them all" in html


def test_a_surgery_in_place_shows_its_tables():
    surgery = dcs.transform(Net(), example_inputs=X, inplace=True)
    assert surgery._repr_svg_() is None
    assert "SiLU" in surgery._repr_html_() or "silu" in surgery._repr_html_()
