"""``dcsurgery diff`` and ``--diff``: files in, a picture out, whole or not at all."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from dcsurgery.cli.app import main
from dcsurgery.diffing import Diff
from dcsurgery.diffing.layout import has_dot


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1)), "a.pt")
    torch.save((torch.randn(4, 3),), "x.pt")
    assert main(["transform", "a.pt", "--irelu", "--denorm", "-o", "b.pt", "--inputs", "x.pt", "-q"]) == 0
    return tmp_path


def test_it_prints_the_tree_and_ends_with_the_summary(files, capsys):
    assert main(["diff", "a.pt", "b.pt", "--inputs", "x.pt"]) == 0
    out = capsys.readouterr().out
    assert "-   1" in out
    assert "SiLU => IReLU" in out
    assert "Sequential: 1 replaced, 1 deleted" in out.splitlines()[-2] + out.splitlines()[-1]


def test_json_is_one_document_that_reads_back(files, capsys):
    assert main(["diff", "a.pt", "b.pt", "--inputs", "x.pt", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "diff"
    assert Diff.from_json(json.dumps(document)).counts == {"replaced": 1, "deleted": 1}


@pytest.mark.parametrize(
    "suffix",
    [
        "json",
        "txt",
        "dot",
        "graphml",
        pytest.param("svg", marks=pytest.mark.skipif(not has_dot(), reason="no graphviz")),
    ],
)
def test_each_suffix_writes_its_kind(files, suffix, capsys):
    assert main(["diff", "a.pt", "b.pt", "-o", f"d.{suffix}"]) == 0
    text = (files / f"d.{suffix}").read_text()
    assert {"json": '"dcsurgery_diff"', "txt": "=> IReLU", "dot": "digraph", "graphml": "<graphml", "svg": "<svg"}[
        suffix
    ] in text


def test_transform_shows_and_writes_its_diff(files, capsys):
    words = ["transform", "a.pt", "--irelu", "--inputs", "x.pt"]
    assert main([*words, "-o", "c.pt", "--diff", "c.json"]) == 0
    assert Diff.from_json((files / "c.json").read_text()).counts == {"replaced": 1}
    capsys.readouterr()
    assert main([*words, "--dry-run", "--diff", "-"]) == 0
    assert "SiLU => IReLU" in capsys.readouterr().out


def test_model_explorer_gets_three_files(files):
    (files / "out").mkdir()
    assert main(["diff", "a.pt", "b.pt", "--model-explorer", "out"]) == 0
    assert sorted(p.name for p in (files / "out").iterdir()) == ["after.json", "before.json", "mapping.json"]
    assert main(["diff", "a.pt", "b.pt", "--model-explorer", "out"]) == 2
    assert main(["diff", "a.pt", "b.pt", "--model-explorer", "out", "--force"]) == 0


def test_a_report_gives_its_figures_of_single_sites(files):
    words = ["transform", "a.pt", "--irelu", "--denorm", "--inputs", "x.pt", "-o", "c.pt", "-q"]
    assert main([*words, "--report", "r.json", "--diff", "of_surgery.json"]) == 0
    assert main(["diff", "a.pt", "c.pt", "--inputs", "x.pt", "--report", "r.json", "-o", "of_files.json"]) == 0
    for name in ("of_surgery.json", "of_files.json"):
        figures = Diff.from_json((files / name).read_text()).figures
        assert figures == {"1": {"residual": 0, "reached": 1}, "2": {"residual": 0, "reached": 1}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diff", "a.pt", "b.pt", "-o", "d.xyz"], "no diff is written as .xyz (use .svg"),
        (["diff", "a.pt", "b.pt", "-o", "d"], "a file without suffix"),
        (["diff", "a.pt", "b.pt", "-o", "a.pt"], "no diff is written as .pt"),
        (["diff", "a.pt", "b.pt", "-o", "none/d.json"], "does not exist"),
        (["diff", "a.pt", "none.pt"], "no such file"),
        (["diff", "a.pt", "b.pt", "--rankdir", "UP"], "no direction 'UP'"),
        (["diff", "a.pt", "b.pt", "--model-explorer", "none"], "no such folder"),
        (["diff", "a.pt", "x.pt"], "not a model"),
        (["diff", "a.pt", "b.pt", "--report", "none.json"], "No such file"),
        (["diff", "a.pt", "b.pt", "--report", "x.pt"], "is no report"),
        (["transform", "a.pt", "--irelu", "--diff", "d.xyz"], "no diff is written as .xyz"),
        (["transform", "a.pt", "--irelu", "--dry-run", "--diff", "d.json"], "--dry-run writes nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[3:]),
)
def test_bad_input_is_one_line_and_nothing_is_written(files, words, said, capsys):
    before = sorted(files.iterdir())
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(files.iterdir()) == before


def test_without_graphviz_an_svg_is_refused_before_any_work(files, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert main(["transform", "a.pt", "--irelu", "-o", "c.pt", "--diff", "d.svg"]) == 2
    assert "install graphviz" in capsys.readouterr().err
    assert not (files / "c.pt").exists()
