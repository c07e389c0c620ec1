"""Building by name, configs, and checkpoints in OCP's layout."""

import json
import subprocess
import sys

import pytest
import torch

from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo import backends, registry
from dcsurgery.zoo.ocp import fairchem
from dcsurgery.zoo.pde.variants import example_points
from dcsurgery.zoo.undrawn import undrawn

PYG = ["cgcnn", "cgconv-bn", "dimenet++", "forcenet", "schnet"]
PINNS = ["pinn-advection", "pinn-cfd", "pinn-diffusion-reaction"]
NAMES = [*PYG, "schnet-hoisted", *PINNS]
OCP = ["gemnet-dt", "gemnet-oc", "painn"]
HAS_OCP = (fairchem.version() or "").startswith("1.")


def test_available_lists_every_model_once_with_its_usual_backend():
    entries = zoo.available()
    assert [entry.name for entry in entries] == sorted([*NAMES, *(OCP if HAS_OCP else [])])
    for entry in entries:
        assert set(entry.sizes) == set(entry.counts) == {"small", "paper"}
        assert entry.description
        assert entry.missing is None
        others = {"schnet-hoisted": "torch", **dict.fromkeys(OCP, "fairchem"), **dict.fromkeys(PINNS, "deepxde")}
        assert entry.backend == others.get(entry.name, "pyg")
        assert (entry.force == "none") == (entry.name in PINNS)


def test_every_backend_of_every_model_is_listed():
    pairs = [(entry.name, entry.backend) for entry in zoo.entries()]
    assert len(set(pairs)) == len(pairs) == 15
    assert {("schnet", "fairchem"), ("dimenet++", "fairchem"), ("escn-md", "fairchem2")} <= set(pairs)
    assert all(entry.recipe["irelu"] for entry in zoo.entries())


@pytest.mark.parametrize(
    "entry", [e for e in zoo.entries() if e.missing is None], ids=lambda e: f"{e.name}-{e.backend}"
)
def test_classes_output_blocks_counts_and_names_are_those_of_the_built_model(entry):
    with undrawn():
        model = zoo.build(entry.name, backend=entry.backend)
    assert type(model) is entry.model_class
    assert all(hasattr(model, name) for name in entry.output_blocks)
    assert sum(p.numel() for p in model.parameters()) == entry.parameters("small")
    assert registry.name_of(model) == entry.name


@pytest.mark.exam
@pytest.mark.parametrize(
    "entry", [e for e in zoo.entries() if e.missing is None], ids=lambda e: f"{e.name}-{e.backend}"
)
def test_counts_at_paper_size_are_those_of_the_built_model(entry):
    with undrawn():
        model = zoo.build(entry.name, "paper", entry.backend)
    assert sum(p.numel() for p in model.parameters()) == entry.parameters("paper")


def test_parameter_counts_are_those_of_the_layers_shapes():
    entry = next(entry for entry in zoo.available() if entry.name == "schnet")
    for size, (hidden, filters, blocks, gaussians) in {
        "small": (32, 32, 2, 20),
        "paper": (1024, 256, 5, 200),
    }.items():
        block = (gaussians + 1) * filters + (filters + 1) * filters + hidden * filters + (filters + 1) * hidden
        block += (hidden + 1) * hidden
        expected = 100 * hidden + blocks * block + (hidden + 1) * (hidden // 2) + hidden // 2 + 1
        assert entry.parameters(size) == expected


def test_weights_follow_the_callers_seed_and_counting_does_not_disturb_it():
    torch.manual_seed(3)
    first = zoo.build("schnet").state_dict()
    torch.manual_seed(3)
    for entry in zoo.available():
        assert entry.parameters("small") > 0
    second = zoo.build("schnet").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("version", "name", "backend", "message"),
    [
        (None, "gemnet-dt", "auto", r"fairchem-core 1.x, which is not installed .*dcsurgery\[ocp\]"),
        ("2.22.0", "painn", "auto", r"version 2.22.0 is installed, .* environment of its own: .*dcsurgery\[ocp\]"),
        ("2.22.0", "schnet", "fairchem", r"version 2.22.0 is installed"),
        (None, "escn-md", "auto", r"fairchem-core 2.x, which is not installed .*dcsurgery\[uma\]"),
        ("1.3.0", "escn-md", "auto", r"dcsurgery\[uma\].* environment of its own: fairchem-core 1.3.0 is installed"),
    ],
)
def test_a_missing_fairchem_or_one_of_the_other_version_says_how_to_get_it(
    version, name, backend, message, monkeypatch
):
    monkeypatch.setattr(fairchem, "version", lambda: version)
    with pytest.raises(BadInput, match=message):
        zoo.build(name, backend=backend)
    assert registry.entry_of(name, backend).missing
    assert name == "schnet" or name not in [entry.name for entry in zoo.available()]
    zoo.build("schnet", hidden_channels=8)


def test_a_missing_package_of_pyg_is_named(monkeypatch):
    find = backends.importlib.util.find_spec
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None if name == "sympy" else find(name))
    assert backends.missing("pyg") == "pip install sympy"


def test_overrides_change_the_size():
    assert zoo.build("schnet", num_interactions=3).interactions[2] is not None
    assert zoo.config_of(zoo.build("schnet", num_interactions=3))["num_interactions"] == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_rebuilds_the_model(name, tmp_path):
    model = zoo.build(name)
    path = zoo.save_checkpoint(model, tmp_path / "model.pt")
    checkpoint = torch.load(path, weights_only=True)
    assert sorted(checkpoint) == ["config", "epoch", "state_dict"]
    assert checkpoint["config"]["model"] == name
    assert json.loads(json.dumps(checkpoint["config"])) == checkpoint["config"]
    other = zoo.build_from_config(checkpoint["config"])
    other.load_state_dict(checkpoint["state_dict"])
    assert zoo.config_of(other) == zoo.config_of(model)
    inputs = (torch.tensor([8, 1, 1]), torch.rand(3, 3), torch.zeros(3, dtype=torch.long))
    if name in PINNS:
        inputs = example_points(model)
    elif name == "schnet-hoisted":
        inputs += (torch.tensor([[1, 2, 0, 0], [0, 0, 1, 2]]), torch.tensor([3]))
    assert torch.equal(other.eval()(*inputs), model.eval()(*inputs))
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_model_attributes_are_read_and_entries_beside_them_are_not():
    values = {"num_interactions": 1, "hidden_channels": 8}
    flat = zoo.build_from_config({"model": "schnet", **values})
    nested = zoo.build_from_config({"model": "schnet", "model_attributes": values, "optim": {"lr": 1e-4}})
    assert zoo.config_of(flat) == zoo.config_of(nested)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dimenet",), r"unknown model 'dimenet' \(did you mean dimenet\+\+"),
        (("xyz",), "there are: cgcnn, cgconv-bn, dimenet"),
        (("schnet", "papr"), "unknown size 'papr'.*did you mean paper"),
        (("schnet", "small", "fairchm"), "unknown backend 'fairchm'.*did you mean fairchem"),
        (("cgcnn", "small", "fairchem"), "cgcnn does not come with the backend 'fairchem'.*there are: auto, pyg"),
    ],
)
def test_unknown_names_get_near_misses(arguments, message):
    with pytest.raises(BadInput, match=message):
        zoo.build(*arguments)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("schnet", {"hiden_channels": 8}, "no constructor value 'hiden_channels'.*did you mean hidden_channels"),
        ("schnet", {"hidden_channels": 8.0}, "schnet, hidden_channels: must be a whole number of at least 1, got 8.0"),
        ("schnet", {"hidden_channels": 0}, "at least 1, got 0"),
        ("schnet", {"num_interactions": -1}, "at least 0, got -1"),
        ("schnet", {"num_interactions": True}, "whole number"),
        ("schnet", {"cutoff": float("nan")}, "cutoff: must be a positive number"),
        ("schnet", {"cutoff": "6"}, "cutoff: must be a positive number"),
        ("schnet", {"readout": "median-ish"}, "cannot build schnet"),
        ("schnet", {"readout": 3}, "readout: must be a text"),
        ("cgconv-bn", {"batch_norm": 1}, "batch_norm: must be true or false"),
        ("cgconv-bn", {"pooling": "max"}, "pooling must be 'mean' or 'sum'"),
        ("dimenet++", {"num_spherical": 1}, "num_spherical must be at least 2"),
        ("dimenet++", {"output_initializer": "ones"}, "cannot build"),
        ("dimenet++", {"act": "swoosh"}, "cannot build"),
        ("schnet", {"hidden_channels": 10**9}, "cannot build"),
    ],
)
def test_wrong_constructor_values_are_named(name, values, message):
    with pytest.raises(BadInput, match=message):
        zoo.build(name, **values)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "config must be a mapping, got list"),
        ({}, "no entry 'model'"),
        ({"model": {"nme": "schnet"}}, "no entry 'model'"),
        ({"model": "schnet", "model_attributes": [1]}, "model_attributes must be a mapping"),
        ({"model": "schnet", "optim": 1}, "no constructor value 'optim'"),
    ],
)
def test_bad_configs_are_named(config, message):
    with pytest.raises(BadInput, match=message):
        zoo.build_from_config(config)


def test_a_foreign_model_has_no_config_and_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BadInput, match="Linear was not built by the zoo"):
        zoo.config_of(torch.nn.Linear(1, 1))
    with pytest.raises(BadInput, match="cannot write: No such file"):
        zoo.save_checkpoint(zoo.build("schnet"), tmp_path / "no" / "model.pt")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = zoo.save_checkpoint(zoo.build("schnet"), tmp_path / "model.pt")
    before = path.read_bytes()
    model = zoo.build("schnet")
    model.dcsurgery_config["bad"] = lambda: None  # cannot be pickled
    with pytest.raises(Exception, match=r"(?i)pickle|lambda"):
        zoo.save_checkpoint(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_importing_the_zoo_imports_no_heavy_package():
    code = (
        "import sys, dcsurgery.zoo as zoo; import dcsurgery.zoo.coverage; assert 'build' in dir(zoo); "
        "print([m for m in ('torch_geometric', 'deepxde', 'scipy', 'sympy', 'ase', 'tblite') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        zoo.biuld
