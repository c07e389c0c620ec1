"""``dcsurgery zoo list`` and ``build``, and ``--recipe paper``: from a name to an edited, verified model."""

import contextlib
import io
import json

import pytest
import torch

import dcsurgery as dcs
from dcsurgery import zoo
from dcsurgery.cli.app import main
from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp import fairchem

HAS_OCP = (fairchem.version() or "").startswith("1.")


def run(*arguments):
    """Run the program in this process; return its exit code and what it printed."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), error.getvalue()


def test_list_shows_every_model_and_how_to_get_what_is_missing():
    code, text, _ = run("zoo", "list")
    assert code == 0
    for entry in zoo.entries():
        assert entry.name in text
    assert "3,611,649" in text
    assert "dcsurgery[uma]" in text or HAS_OCP is False
    code, text, _ = run("zoo", "list", "--json")
    models = json.loads(text)["models"]
    assert [(m["name"], m["backend"]) for m in models] == [(e.name, e.backend) for e in zoo.entries()]
    escn = next(m for m in models if m["name"] == "escn-md")
    assert escn["available"] is (escn["install"] is None)
    assert next(m for m in models if m["name"] == "forcenet")["parameters"]["paper"] == 12_168_470


MODELS = [
    ("cgcnn", "molecule"),
    pytest.param("forcenet", "slab", marks=pytest.mark.exam),
    pytest.param(
        *("painn", "molecule"),
        marks=[pytest.mark.exam, pytest.mark.skipif(not HAS_OCP, reason="fairchem-core 1.x is missing")],
    ),
]


@pytest.mark.parametrize(("name", "structure"), MODELS)
def test_a_built_model_is_transformed_by_the_recipe_and_verified(name, structure, tmp_path):
    model, inputs, edited = (tmp_path / file for file in ("model.pt", "inputs.pt", "edited.pt"))
    code, text, error = run(
        "zoo", "build", name, "-o", model, "--inputs", inputs, "--structure", structure, "--seed", 3
    )
    assert (code, error) == (0, "")
    assert "parameters" in text
    assert sorted(torch.load(model, weights_only=True)) == ["config", "epoch", "state_dict"]
    code, text, error = run(
        "transform", model, "--recipe", "paper", "--rescale", "1e6", "--inputs", inputs, "-o", edited, "--json"
    )
    assert code == 0, error
    actions = {edit["do"] for edit in json.loads(text)["plan"]["edits"]}
    assert actions == {"replace", "delete", "rescale"}
    code, text, error = run("verify", model, edited, "--inputs", inputs, "--json")
    assert code == 0, error
    torch.manual_seed(3)
    same = zoo.build(name)
    loaded = dcs.load(model)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in same.state_dict().items())


def test_constructor_values_and_sizes_are_options(tmp_path):
    path = tmp_path / "model.pt"
    words = ("zoo", "build", "schnet", "-o", path, "--set", "num_interactions=1", "--set", "readout=mean", "--json")
    code, text, _ = run(*words)
    assert code == 0
    document = json.loads(text)
    model = dcs.load(path)
    assert (len(model.interactions), document["parameters"]) == (1, sum(p.numel() for p in model.parameters()))
    code, _, error = run(*words)
    assert code == 2
    assert "exists already" in error
    assert run(*words, "--force")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("schnett",), "unknown model 'schnett' (did you mean schnet"),
        (("schnet", "--size", "large"), "unknown size 'large' of schnet"),
        (("schnet", "--backend", "pygg"), "unknown backend 'pygg' (did you mean pyg?)"),
        (("schnet", "--set", "cutoff"), "--set cutoff: that is not KEY=VALUE"),
        (("schnet", "--set", "cutoff=[1"), "the value cannot be read"),
        (("schnet", "--set", "cutof=5.0"), "no constructor value 'cutof' (did you mean cutoff?)"),
        (("schnet", "--set", "cutoff=-1"), "cutoff: must be a positive number"),
        (("schnet", "--inputs", "IN", "--structure", "crystal"), "unknown kind of structure 'crystal'"),
    ],
)
def test_bad_words_are_one_line_and_nothing_is_written(words, message, tmp_path):
    words = [tmp_path / "inputs.pt" if word == "IN" else word for word in words]
    code, out, error = run("zoo", "build", *words, "-o", tmp_path / "model.pt")
    assert (code, out) == (2, "")
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_recipes_are_the_papers():
    for name in ("schnet", "cgcnn", "forcenet"):
        assert zoo.recipe(name)["scope"] == "all"
    assert zoo.recipe("dimenet++")["scope"] == zoo.recipe("gemnet-dt")["scope"] == "output-blocks"
    assert [name for name in ("schnet", "dimenet++", "cgcnn", "forcenet") if zoo.recipe(name)["denorm"]] == [
        "cgcnn",
        "forcenet",
    ]
    labels = torch.tensor([-97_000.0, 12.0]), torch.tensor([[3.0, -150.0]])
    assert zoo.recipe("schnet", labels=labels)["rescale"] == 1e5
    model = zoo.build("dimenet++")
    plan = dcs.plan(model, **zoo.recipe(model))
    assert {edit.site.split(".")[0] for edit in plan.edits} == {"output_blocks"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recipe", "papr"), "unknown recipe 'papr' (did you mean paper?)"),
        (("--recipe", "paper", "--irelu"), "--irelu and --recipe exclude each other"),
        (("--recipe", "paper", "--scope", "output-blocks"), "--scope and --recipe exclude each other"),
    ],
)
def test_wrong_recipes_are_told(words, message, tmp_path):
    zoo.save_checkpoint(zoo.build("schnet"), tmp_path / "model.pt")
    code, _, error = run("plan", tmp_path / "model.pt", *words)
    assert code == 2
    assert message in error


def test_models_that_are_not_the_zoos_have_no_recipe(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU()), tmp_path / "model.pt")
    code, _, error = run("plan", tmp_path / "model.pt", "--recipe", "paper")
    assert code == 2
    assert "there is no recipe for Sequential" in error
    with pytest.raises(BadInput, match="unknown model 'schnett'"):
        zoo.recipe("schnett")


def test_a_plan_by_recipe_is_that_of_its_options(tmp_path):
    zoo.save_checkpoint(zoo.build("cgcnn"), tmp_path / "model.pt")
    by_recipe = run("plan", tmp_path / "model.pt", "--recipe", "paper", "--rescale", "1000")
    assert by_recipe == run("plan", tmp_path / "model.pt", "--irelu", "--denorm", "--rescale", "1000")
    assert by_recipe[0] == 0
