"""Checkpoints of fairchem's own trainer, edited, and read again by fairchem's own loaders."""

import contextlib
import io
import json
import logging
import re
import warnings

import fairchem_runs as runs
import pytest
import torch
from torch import nn
from torch_geometric.nn.models.schnet import ShiftedSoftplus

import dcsurgery as dcs
from dcsurgery import files
from dcsurgery.activations import IReLU
from dcsurgery.cli.app import main
from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp import fairchem, fairchem_batches

pytestmark = [
    pytest.mark.skipif(
        not (fairchem.version() or "").startswith("1."), reason='fairchem-core 1.x is not installed ("dcsurgery[ocp]")'
    ),
    # What fairchem still calls.
    pytest.mark.filterwarnings(
        "ignore:Using torch.cross:UserWarning", "ignore:.*torch.cuda.amp.autocast:FutureWarning"
    ),
]

OLD = {nn.SiLU, ShiftedSoftplus}
CASES = {
    "schnet": [],
    "painn": ["--denorm"],
    "dimenetplusplus": ["--scope", "output-blocks"],
    "gemnet_t": ["--scope", "output-blocks"],
    "gemnet_oc": [],
}
SLOW = {"dimenetplusplus", "gemnet_t", "gemnet_oc"}


def run(*arguments):
    """Run the program in this process; return its exit code and what it printed."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), error.getvalue()


def fairchem_loads(path):
    """Return the model that fairchem's own loader builds from a file alone."""
    from fairchem.core.common.utils import load_model_and_weights_from_checkpoint

    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyG and torch, about what fairchem still calls
            return load_model_and_weights_from_checkpoint(str(path))
    finally:
        logging.disable(logging.NOTSET)


def same(one, other):
    """Return whether two values from checkpoints are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints by fairchem's trainer, one per model and training, made when they are asked for."""
    made = {}

    def get(name, **changes):
        key = (name, *sorted(changes.items()))
        if key not in made:
            made[key] = runs.checkpoint(name, tmp_path_factory.mktemp(name), **changes)
        return made[key]

    return get


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    fairchem.require()
    path = tmp_path_factory.mktemp("inputs") / "batch.pt"
    torch.save(runs.molecules(), path)
    return path


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.exam] if n in SLOW else []) for n in CASES])
def test_the_command_line_edits_a_trained_checkpoint_and_fairchem_loads_the_result(name, written, inputs, tmp_path):
    path, out = written(name), tmp_path / "edited.pt"
    before = path.read_bytes()
    code, _, error = run("transform", path, "--irelu", *CASES[name], "--inputs", inputs, "-o", out)
    assert code == 0, error
    assert path.read_bytes() == before
    old, new = torch.load(path), torch.load(out)  # by weights_only=True, as fairchem does
    deleted = [key for key in old["state_dict"] if "layernorm" in key]
    assert bool(deleted) == ("--denorm" in CASES[name])
    assert list(new["state_dict"]) == [key for key in old["state_dict"] if key not in deleted]
    assert all(same(value, old["state_dict"][key]) for key, value in new["state_dict"].items())
    kept = set(old) - {"state_dict", "config"} - ({"optimizer", "ema"} if deleted else set())
    assert kept >= {"normalizers", "val_metrics", "epoch", "step", "scheduler", "amp", "primary_metric"}
    assert all(same(old[key], new[key]) for key in kept)
    assert set(new) == {*old, "dcsurgery"}

    mine, theirs = dcs.load(out), fairchem_loads(out)
    edits = dcs.Plan.from_yaml(new["dcsurgery"]["surgeries"][0]["plan"]).edits
    put = {path for path, module in theirs.named_modules(remove_duplicate=False) if isinstance(module, IReLU)}
    left = {path for path, module in theirs.named_modules(remove_duplicate=False) if type(module) in OLD}
    assert {edit.site for edit in edits if edit.action == "replace"} <= put
    assert bool(left) == ("output-blocks" in CASES[name])
    assert not left or {path.partition(".")[0] for path in put} <= {"output_blocks", "out_blocks"}
    assert not any(path.partition(".")[0] in ("output_blocks", "out_blocks") for path in left)
    assert not any(isinstance(module, nn.LayerNorm) for module in theirs.modules())
    one, other = mine(runs.molecules()), theirs(runs.molecules())
    assert torch.equal(one["energy"], other["energy"])
    assert torch.equal(one["forces"], other["forces"])
    with torch.no_grad():
        original = dcs.load(path)(runs.molecules())["energy"]
    assert not torch.allclose(original, one["energy"], rtol=1e-3)


@pytest.fixture
def unproven(monkeypatch):
    """Leave out the fresh process that reads a written file again: it imports fairchem, and other tests show it."""
    monkeypatch.setattr("dcsurgery.files.writing.compare", lambda *_: None)


def edited(path, out, **options):
    """Edit a checkpoint by the Python functions; return the surgery."""
    read = files.read(path)
    surgery = dcs.transform(read.model, **options)
    files.write(surgery.model, out, like=read, record={"plan": surgery.plan.to_yaml()})
    return surgery


def changed(path, out, change):
    """Write a changed copy of a checkpoint."""
    entries = torch.load(path)
    change(entries)
    torch.save(entries, out)
    return out


def test_fairchems_trainer_goes_on_with_an_edited_checkpoint_and_its_file_is_read_again(written, unproven, tmp_path):
    out = tmp_path / "edited.pt"
    edited(written("schnet"), out)
    trainer = runs.trainer_of(torch.load(out)["config"]["model"], tmp_path)
    trainer.load_checkpoint(str(out))
    assert (trainer.epoch, trainer.step) == (1, 2)
    assert float(trainer.normalizers["energy"].rmsd) == 2.0
    old = torch.load(written("schnet"))
    assert same(trainer.ema.state_dict()["shadow_params"], old["ema"]["shadow_params"])
    assert same(trainer.optimizer.state_dict()["state"], old["optimizer"]["state"])
    losses = runs.train(trainer, steps=12)
    assert losses[-1] < losses[0]
    again = runs.write(trainer, tmp_path / "trained.pt")
    model, trained = dcs.load(again), trainer.model.eval()
    assert torch.equal(model(runs.molecules())["energy"], trained(runs.molecules())["energy"])
    assert any(isinstance(module, IReLU) for module in model.modules())


def test_fairchems_trainer_takes_the_state_of_the_parameters_that_survive_deleted_norms(written, unproven, tmp_path):
    out = tmp_path / "edited.pt"
    surgery = edited(written("painn"), out, denorm=True)
    entries = torch.load(out)
    trainer = runs.trainer_of(entries["config"]["model"], tmp_path)
    trainer.load_checkpoint(str(out))
    names = [name for name, _ in surgery.model.named_parameters()]
    assert len(trainer.optimizer.param_groups[0]["params"]) == len(names)
    old = torch.load(written("painn"))
    before = [name for name, _ in dcs.load(written("painn")).named_parameters()]
    for name, parameter in trainer.model.named_parameters():
        state = old["optimizer"]["state"].get(before.index(name))
        assert same(dict(trainer.optimizer.state[parameter]), state or {})
    assert all(torch.isfinite(torch.tensor(runs.train(trainer))))


def test_fairchems_calculator_runs_the_edited_model(written, unproven, tmp_path):
    from ase.build import molecule
    from fairchem.core.common.relaxation.ase_utils import OCPCalculator

    out = tmp_path / "edited.pt"
    edited(written("schnet"), out)
    changed(out, out, lambda entries: entries["config"]["dataset"].update(src="train.lmdb"))
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = molecule("CH3CH2OH")
            atoms.calc = OCPCalculator(checkpoint_path=str(out), cpu=True)
            energy = atoms.get_potential_energy()
    finally:
        logging.disable(logging.NOTSET)
    batch = fairchem_batches.batch_of([molecule("CH3CH2OH")])
    assert energy == pytest.approx(2.0 * float(dcs.load(out)(batch)["energy"].detach()) - 1.0, rel=1e-6)


def test_a_second_surgery_adds_to_the_record_and_fairchem_builds_both(written, unproven, tmp_path):
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    edited(written("schnet"), first)
    edited(first, second, irelu=False, denorm=False, rescale=100.0)
    entries = torch.load(second)
    assert len(entries["dcsurgery"]["surgeries"]) == 2
    assert entries["dcsurgery"]["config"] == torch.load(written("schnet"))["config"]
    assert entries["config"]["model"]["dcsurgery"]["edits_of"] == "schnet"
    energies = [
        load(path)(runs.molecules())["energy"] for path in (first, second) for load in (dcs.load, fairchem_loads)
    ]
    assert torch.equal(energies[0], energies[1])
    assert torch.equal(energies[2], energies[3])
    torch.testing.assert_close(energies[2], 100.0 * energies[0])


@pytest.mark.parametrize(
    "prefix", ["module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_wrappers_are_taken_off_and_put_back(prefix, written, unproven, tmp_path):
    def wrap(entries):
        entries["state_dict"] = {f"{prefix}{key}": value for key, value in entries["state_dict"].items()}

    path, out = changed(written("schnet"), tmp_path / "wrapped.pt", wrap), tmp_path / "edited.pt"
    surgery = edited(path, out)
    weights = torch.load(out)["state_dict"]
    assert same(weights, torch.load(path)["state_dict"])
    if "_orig_mod" not in prefix:  # which fairchem does not know of
        assert same(dict(fairchem_loads(out).state_dict()), dict(surgery.model.state_dict()))
    assert same(dict(dcs.load(out).state_dict()), dict(surgery.model.state_dict()))


def test_the_older_layout_with_model_attributes_is_kept(written, unproven, tmp_path):
    def old_layout(entries):
        values = entries["config"]["model"]
        entries["config"]["model"] = values.pop("name")
        entries["config"]["model_attributes"] = values

    path, out = changed(written("schnet"), tmp_path / "old.pt", old_layout), tmp_path / "edited.pt"
    surgery = edited(path, out)
    config = torch.load(out)["config"]
    assert config["model"] == fairchem.EDITED
    assert config["model_attributes"]["hidden_channels"] == 16
    assert same(dict(dcs.load(out).state_dict()), dict(surgery.model.state_dict()))
    # What fairchem's calculator makes of that layout.
    config["model_attributes"]["name"] = config.pop("model")
    changed(out, out, lambda entries: entries.update(config={"model": config["model_attributes"]}))
    assert any(isinstance(module, IReLU) for module in fairchem_loads(out).modules())


def test_plan_and_apply_do_what_transform_does(written, inputs, unproven, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written("schnet")
    assert run("plan", path, "--irelu", "--rescale", "10", "--inputs", inputs, "-o", "plan.yaml")[0] == 0
    code, _, error = run("apply", path, "plan.yaml", "-o", "edited.pt", "--inputs", inputs)
    assert code == 0, error
    assert "trainer's normalizers scale energy, forces as well" in " ".join(error.split())
    out = dcs.load("edited.pt")
    surgery = dcs.transform(dcs.load(path), rescale=10.0)
    assert torch.equal(out(runs.molecules())["forces"], surgery.model(runs.molecules())["forces"])


def test_inspect_sees_what_a_checkpoint_holds(written, inputs):
    code, out, _ = run("inspect", written("schnet"), "--inputs", inputs, "--json")
    census = json.loads(out)
    assert code == 0
    assert {site["operator"] for site in census["sites"]} == {"shifted_softplus"}
    assert len(census["sites"]) == 5


def test_the_weights_must_be_those_of_the_config(written, tmp_path):
    path = changed(
        written("schnet"), tmp_path / "c.pt", lambda entries: entries["config"]["model"].update(hidden_channels=8)
    )
    with pytest.raises(BadInput, match=r"its weights do not fit the model of its config.*size mismatch"):
        dcs.load(path)


def _name(name):
    return lambda config: config["model"].update(name=name)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_name("schnett"), "unknown fairchem model 'schnett'.*did you mean schnet"),
        (_name("cgcnn"), "unknown fairchem model 'cgcnn'.*there are: dimenetplusplus, gemnet_oc"),
        (_name(3), "its trainer's config names no model"),
        (lambda config: config["model"].update(num_filter=3), "schnet .*no constructor value 'num_filter'.*num_filters"),
        (lambda config: config["model"].update(cutoff="six"), "fairchem cannot build schnet"),
        (lambda config: config.update(model="gemnet_t", model_attributes={}), "config of gemnet_t lacks num_spherical"),
        (lambda config: config.update(model="schnet", model_attributes=[1]), "its trainer's config names no model"),
        (_name(fairchem.EDITED), "config of an edited model has no entry 'dcsurgery'"),
        (lambda config: config.pop("model"), "no entry 'model'"),
    ],
    ids=["misspelt", "of another time", "no name", "unknown value", "wrong value", "missing value", "attributes",
         "edits gone", "no model"],
)  # fmt: skip
def test_a_config_that_builds_no_model_is_one_line_and_exit_2(change, told, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed(written("schnet"), "c.pt", lambda entries: change(entries["config"]))
    code, out, error = run("transform", "c.pt", "--irelu")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert re.search(told, error)
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize(
    ("version", "told"),
    [(None, "which is not installed"), ("2.22.0", "version 2.22.0 is installed, which no longer has them")],
)
def test_without_fairchem_or_with_its_other_major_version_the_line_says_what_to_install(
    version, told, written, tmp_path, monkeypatch
):
    path = written("schnet")
    monkeypatch.setattr(fairchem, "version", lambda: version)
    code, out, error = run("inspect", path)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert told in error
    assert 'pip install "dcsurgery[ocp]"' in error
