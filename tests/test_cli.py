"""The command line: what each command does, prints, writes, and how it ends."""

import contextlib
import gc
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import dcsurgery as dcs
from dcsurgery import files
from dcsurgery.cli import tables
from dcsurgery.cli.app import app, main
from dcsurgery.cli.documents import to_json
from dcsurgery.cli.screen import Screen
from dcsurgery.files import checkpoints
from dcsurgery.plans import Edit

COMMAND = str(Path(sys.executable).with_name("dcsurgery"))
COMMANDS = ("inspect", "plan", "apply", "transform", "verify", "diff")

USER_CODE = """
import warnings
import torch
from torch import nn

class Talkative(nn.Module):
    def __init__(self):
        super().__init__()
        self.out_blocks = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.SiLU()) for _ in range(2)])

    def forward(self, x):
        print("a model that prints")
        warnings.warn("a model that warns")
        for block in self.out_blocks:
            x = block(x)
        return {"energy": x.sum(), "mask": x}
"""


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 4), nn.Sigmoid(), nn.Linear(4, 1))


def irelu(x):
    return 0.5 * torch.relu(x) ** 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a model, inputs, and a model without any site."""
    monkeypatch.chdir(tmp_path)
    torch.save(network(), "model.pt")
    torch.save((torch.linspace(-2, 2, 48).reshape(16, 3),), "inputs.pt")
    torch.save(nn.Sequential(nn.Linear(3, 3)), "plain.pt")
    return tmp_path


@pytest.fixture
def user_code(folder, monkeypatch):
    """A model of a class in a file of the user's."""
    (folder / "my_models.py").write_text(USER_CODE)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(".")
        torch.save(importlib.import_module("my_models").Talkative(), "mine.pt")
    sys.modules.pop("my_models")
    yield ("mine.pt", "--import", "my_models.py")
    sys.modules.pop("my_models", None)


@pytest.fixture
def quick(monkeypatch):
    """Read what was written in this process: the fresh process is shown where a real program runs."""
    monkeypatch.setattr("dcsurgery.files.writing.needs_this_process", lambda *_: True)
    monkeypatch.setattr("dcsurgery.fresh_process.FreshProcess.start", lambda self: self)


def run(*arguments, code=0, env=None):
    result = CliRunner(env=env).invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.exit_code}\n{result.output}"
    assert "Traceback" not in result.output
    return result


def listing(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def outputs_of(path, **options):
    with warnings.catch_warnings(action="ignore"):
        return dcs.load(path, **options)(*torch.load("inputs.pt"))


def expected_output(scale=1.0):
    model, x = network(), torch.load("inputs.pt")[0]
    return scale * model[5](torch.sigmoid(model[3](irelu(model[0](x)))))


# The program


def test_the_program_transforms_file_to_file_and_leaves_the_input_alone(folder):
    before = (folder / "model.pt").read_bytes()
    done = subprocess.run(
        [COMMAND, "transform", "model.pt", "--irelu", "--denorm", "--inputs", "inputs.pt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert listing(folder) == ["inputs.pt", "model.dcs.pt", "model.pt", "plain.pt"]
    assert (folder / "model.pt").read_bytes() == before
    torch.testing.assert_close(outputs_of("model.dcs.pt"), expected_output())
    assert "wrote model.dcs.pt" in done.stdout


def test_version_help_and_completion_do_not_wait_for_torch():
    code = """
import contextlib, io, sys
from dcsurgery.cli.app import app, main
for arguments in (["--version"], ["--help"], ["transform", "--help"], [], ["nonsense"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(arguments)
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version_is_the_package_version():
    assert run("--version").stdout == f"dcsurgery {dcs.__version__}\n"


def test_help_names_what_there_is_and_nothing_else():
    for arguments in (["--help"], []):
        text = run(*arguments).stdout
        words = [line.split()[1] for line in text.partition("Commands")[2].splitlines() if line.startswith("│ ")]
        assert [word for word in words if word in COMMANDS] == list(COMMANDS)
        assert "zoo" in words
    for command in COMMANDS:
        text = run(command, "--help").stdout
        assert max(map(len, text.splitlines())) <= 80


def test_shell_completion_knows_commands_options_and_values():
    def complete(words):
        env = {
            "_DCSURGERY_COMPLETE": "complete_bash",
            "COMP_WORDS": f"dcsurgery {words}",
            "COMP_CWORD": str(len(words.split(" "))),
        }
        return CliRunner(env=env).invoke(app, []).stdout.split()

    assert complete("tr") == ["transform"]
    assert complete("transform --den") == ["--denorm"]
    assert complete("transform m.pt --scope out") == ["output-blocks"]
    assert "integrated-silu" in complete("transform m.pt --activation integrated-s")


def test_main_returns_the_exit_code(folder, capsys):
    assert main(["inspect", "model.pt"]) == 0
    assert main(["inspect", "nothing.pt"]) == 2
    assert main(["plan", "plain.pt", "--irelu"]) == 3
    capsys.readouterr()


# inspect


def test_inspect_lists_every_site_with_its_role_operator_place_and_runs(folder):
    text = run("inspect", "model.pt", "--inputs", "inputs.pt").stdout
    census = dcs.inspect(network(), torch.load("inputs.pt"))
    lines = text.splitlines()
    for site in census:
        row = next(line for line in lines if line.split()[:1] == [site.name])
        assert site.operator in row
        assert row.split()[-1] == str(site.runs) == "1"
    for title in ("Activations: 1", "Normalizations: 1", "Gates (edited with --gates only): 1"):
        assert title in lines or any(line.startswith(title) for line in lines)
    assert "Sequential: 1 activation, 1 normalization, 1 gate" in text


def test_inspect_without_inputs_says_that_nothing_ran(folder):
    result = run("inspect", "model.pt")
    assert "runs" not in result.stdout
    assert "--inputs" in result.stderr


def test_inspect_json_is_the_census(folder):
    document = json.loads(run("inspect", "model.pt", "--inputs", "inputs.pt", "--json").stdout)
    census = dcs.inspect(network(), torch.load("inputs.pt"))
    assert [site["name"] for site in document["sites"]] == [site.name for site in census]
    assert document["counts"] == {"normalization": 1, "activation": 1, "gate": 1}
    assert document["file"] == {"path": "model.pt", "kind": "module", "inputs": "inputs.pt"}
    assert document["captures"]


def test_inspect_verbose_says_how_each_module_was_captured(folder):
    text = run("inspect", "model.pt", "-v").stdout
    assert "Captured graphs" in text
    assert "symbolic" in text


# plan and apply


def test_plan_and_apply_do_what_transform_does(folder, quick):
    run("transform", "model.pt", "--irelu", "--denorm", "--rescale", "1e3", "-o", "one.pt", "--inputs", "inputs.pt")
    edits = ("--irelu", "--denorm", "--rescale", "1e3", "--inputs", "inputs.pt")
    shown = run("plan", "model.pt", *edits, "-o", "plan.yaml").stdout
    assert "silu" in shown
    assert "wrote plan.yaml" in shown
    assert not (folder / "two.pt").exists()
    run("apply", "model.pt", "plan.yaml", "-o", "two.pt", "--inputs", "inputs.pt")
    assert torch.equal(outputs_of("one.pt"), outputs_of("two.pt"))
    torch.testing.assert_close(outputs_of("two.pt"), expected_output(1e3))


def test_plan_without_output_prints_yaml_and_nothing_else(folder):
    text = run("plan", "model.pt", "--denorm").stdout
    assert [(edit.site, edit.action) for edit in dcs.Plan.from_yaml(text)] == [("1", "delete")]
    assert yaml.safe_load(text)["model"] == "Sequential"
    assert listing(folder) == ["inputs.pt", "model.pt", "plain.pt"]


def test_a_plan_changed_by_hand_is_applied_as_it_stands(folder, quick):
    raw = yaml.safe_load(run("plan", "model.pt", "--irelu", "--gates").stdout)
    assert [edit["site"] for edit in raw["edits"]] == ["2", "4"]
    raw["edits"] = raw["edits"][1:]
    Path("plan.yaml").write_text(yaml.safe_dump(raw))
    run("apply", "model.pt", "plan.yaml")
    model = dcs.load("model.dcs.pt")
    assert [type(layer).__name__ for layer in model] == ["Linear", "BatchNorm1d", "SiLU", "Linear", "IReLU", "Linear"]


def test_an_empty_plan_is_the_identity(folder, quick):
    run("plan", "model.pt", "-o", "plan.yaml")
    run("apply", "model.pt", "plan.yaml")
    assert torch.equal(outputs_of("model.dcs.pt"), outputs_of("model.pt"))


# transform


def test_asking_for_no_edit_writes_a_copy(folder, quick):
    text = run("transform", "model.pt", "--inputs", "inputs.pt").stdout
    assert "no edits, so the result is a copy" in text
    assert torch.equal(outputs_of("model.dcs.pt"), outputs_of("model.pt"))
    assert repr(dcs.load("model.dcs.pt")) == repr(dcs.load("model.pt"))


@pytest.mark.parametrize(
    ("name", "default"), [("net.pth", "net.dcs.pth"), ("net", "net.dcs"), ("a.b.pt", "a.b.dcs.pt")]
)
def test_the_default_output_lies_beside_the_input(folder, quick, name, default):
    (folder / "deep").mkdir()
    (folder / "plain.pt").rename(folder / "deep" / name)
    run("transform", f"deep/{name}")
    assert listing(folder / "deep") == sorted([name, default])


def test_dry_run_shows_the_plan_and_writes_nothing(folder):
    result = run("transform", "model.pt", "--irelu", "--denorm", "--dry-run", "--report", "r.json", "-q")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["~", "2", "silu", "irelu"] in rows
    assert ["-", "1", "batch_norm", "deleted"] in rows
    assert listing(folder) == ["inputs.pt", "model.pt", "plain.pt"]


def test_rescale_takes_a_number_or_a_file_of_labels(folder, quick):
    torch.save({"energy": torch.tensor([-97208.4, 3.0])}, "labels.pt")
    run("transform", "model.pt", "--rescale", "auto:labels.pt", "-o", "auto.pt")
    run("transform", "model.pt", "--rescale", "1e5", "-o", "number.pt")
    assert torch.equal(outputs_of("auto.pt"), outputs_of("number.pt"))
    torch.testing.assert_close(outputs_of("auto.pt"), 1e5 * outputs_of("model.pt"))


def test_outputs_chooses_what_is_rescaled(user_code, quick):
    model, *imports = user_code
    run("transform", model, *imports, "--rescale", "10", "--outputs", "mask", "-o", "mask.pt")
    before, after = (outputs_of(path, imports=["my_models.py"]) for path in (model, "mask.pt"))
    assert torch.equal(after["energy"], before["energy"])
    torch.testing.assert_close(after["mask"], 10 * before["mask"])


def test_outputs_may_be_positions(folder):
    planned = run("plan", "model.pt", "--rescale", "10", "--outputs", "0", "--outputs", "energy").stdout
    assert dcs.Plan.from_yaml(planned).edits[0].settings["outputs"] == [0, "energy"]


def test_activation_and_gates_choose_what_is_put_where(folder):
    planned = dcs.Plan.from_yaml(run("plan", "model.pt", "--activation", "integrated-silu", "--gates").stdout)
    assert [(edit.site, edit.replacement) for edit in planned] == [("2", "integrated-silu"), ("4", "integrated-silu")]
    assert [edit.site for edit in dcs.Plan.from_yaml(run("plan", "model.pt", "--irelu").stdout)] == ["2"]


def test_scope_include_and_exclude_choose_sites(user_code):
    def sites(*options):
        return [edit.site for edit in dcs.Plan.from_yaml(run("plan", *user_code, "--irelu", *options).stdout)]

    both = ["out_blocks.0.1", "out_blocks.1.1"]
    assert sites("--scope", "output-blocks") == both
    assert sites("--include", "out_blocks.0.*") == both[:1]
    assert sites("--include", "out_blocks.0.*", "--include", "re:1\\.1$") == both
    assert sites("--exclude", "out_blocks.0.*") == both[1:]


def test_a_kind_without_a_match_is_a_warning_while_another_matched(folder, quick):
    torch.save(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), "no_norm.pt")
    result = run("transform", "no_norm.pt", "--irelu", "--denorm")
    assert "warning: Denormalize matched nothing" in result.stderr
    assert (folder / "no_norm.dcs.pt").exists()


@pytest.mark.parametrize("command", ["transform", "plan"])
def test_nothing_matched_is_exit_3_unless_that_is_allowed(folder, quick, command):
    options = [command, "plain.pt", "--irelu", "--denorm", "-o", "out"]
    result = run(*options, code=3)
    assert result.stderr.startswith("dcsurgery: Sequential: no site matched")
    assert "--allow-empty" in result.stderr
    assert not (folder / "out").exists()
    run(*options, "--allow-empty")
    assert (folder / "out").exists()


def test_a_near_miss_names_what_was_meant_and_how_many_sites_that_are(user_code):
    result = run("transform", *user_code, "--irelu", "--include", "output_blocks.*", code=3)
    assert result.stderr.count("\n") == 1
    assert "'output_blocks.*': did you mean 'out_blocks.*' (2 sites)" in result.stderr


def test_allow_empty_leaves_out_rules_without_a_match_and_says_so(folder):
    asked = ("plan", "model.pt", "--irelu", "--denorm", "--allow-empty")
    missed = run(*asked, "--include", "heads.*")
    assert dcs.Plan.from_yaml(missed.stdout).edits == ()
    assert "'heads.*'" in missed.stderr
    kept = run(*asked, "--exclude", "heads.*", "--exclude", "1")
    assert [edit.site for edit in dcs.Plan.from_yaml(kept.stdout)] == ["2"]
    assert "'heads.*'" in kept.stderr


def test_a_checkpoint_stays_one_and_records_its_surgery(folder, quick, monkeypatch):
    checkpoints.register_builder(lambda config: network())
    monkeypatch.setattr(checkpoints, "_registered", checkpoints._registered)
    try:
        torch.save({"config": {"model": "mine"}, "state_dict": network().state_dict(), "epoch": 7}, "c.pt")
        run("transform", "c.pt", "--irelu", "--denorm", "--inputs", "inputs.pt")
        run("transform", "c.pt", "-o", "copy.pt")
        saved = torch.load("c.dcs.pt", weights_only=True)
        torch.testing.assert_close(outputs_of("c.dcs.pt"), expected_output())
    finally:
        checkpoints.register_builder(None)
    assert saved["epoch"] == 7
    [surgery] = saved["dcsurgery"]["surgeries"]
    assert [edit.site for edit in dcs.Plan.from_yaml(surgery["plan"])] == ["2", "1"]
    assert all(key.startswith("1.") for key in surgery["key_map"]["deleted"])
    assert surgery["version"] == dcs.__version__
    assert "dcsurgery" not in torch.load("copy.pt", weights_only=True)


# Checks


@pytest.fixture
def overflowing(folder):
    """A model whose output overflows with IReLU: the check of finite outputs fails."""
    model = nn.Sequential(nn.Linear(3, 3), nn.SiLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.fill_(1e25)
    torch.save(model, "large.pt")
    return ("large.pt", "--irelu", "--inputs", "inputs.pt")


def test_a_failed_check_is_exit_1_and_no_model_is_written(overflowing, folder):
    result = run("transform", *overflowing, "--report", "r.json", code=1)
    assert "check 'finite' failed" in result.stderr
    assert "no model was written; --keep-failed" in result.stderr
    assert any(line.split()[:2] == ["fail", "finite"] for line in result.stdout.splitlines())
    assert listing(folder) == ["inputs.pt", "large.pt", "model.pt", "plain.pt", "r.json"]
    report = json.loads((folder / "r.json").read_text())
    assert (report["ok"], report["exit_code"], report["file"]["output"]) == (False, 1, None)


def test_keep_failed_writes_the_model_and_still_fails(overflowing, folder, quick):
    result = run("transform", *overflowing, "--keep-failed", "--json", code=1)
    assert "large.dcs.pt was written all the same" in result.stderr
    assert (folder / "large.dcs.pt").exists()
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["file"]["output"] == "large.dcs.pt"


def test_no_verify_checks_nothing_and_warns(overflowing, folder, quick):
    result = run("transform", *overflowing, "--no-verify", "--report", "r.json")
    assert "warning: nothing was checked" in result.stderr
    assert "Checks" not in result.stdout
    assert json.loads((folder / "r.json").read_text())["report"]["checks"] == []


def test_without_inputs_it_says_that_nothing_was_proven(folder, quick):
    result = run("transform", "model.pt", "--irelu")
    assert "nothing was run" in result.stderr
    assert any(line.split()[:2] == ["skip", "residual"] for line in result.stdout.splitlines())


# Documents


def test_the_report_holds_plan_checks_census_key_map_and_versions(folder, quick):
    options = ("--irelu", "--denorm", "--inputs", "inputs.pt", "--report", "r.json", "--json")
    result = run("transform", "model.pt", *options)
    report = json.loads((folder / "r.json").read_text())
    assert report == json.loads(result.stdout)
    assert report["ok"] is report["report"]["ok"] is True
    skipped = {check["name"] for check in report["report"]["checks"] if check["status"] == "skip"}
    assert skipped <= {"forces", "PDE order"}  # about models of another kind
    assert all(check["reason"] for check in report["report"]["checks"] if check["status"] == "skip")
    assert report["versions"]["torch"] == torch.__version__
    assert report["census"]["counts"] == {"normalization": 1, "activation": 1, "gate": 1}
    assert set(report["key_map"]["deleted"]) == {key for key in network().state_dict() if key.startswith("1.")}
    assert [edit["site"] for edit in report["plan"]["edits"]] == ["2", "1"]
    assert report["file"] == {"path": "model.pt", "kind": "module", "inputs": "inputs.pt", "output": "model.dcs.pt"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect",),
        ("plan", "--irelu"),
        ("transform", "--irelu", "--dry-run"),
        ("transform", "--irelu"),
        ("transform", "--irelu", "--include", "nothing"),
        ("transform", "--no-such-option"),
        ("inspect", "--trust", "--inputs", "nothing.pt"),
    ],
    ids=" ".join,
)
def test_json_is_one_document_whatever_happens(user_code, quick, arguments):
    command, *options = arguments
    inputs = [] if "--inputs" in options else ["--inputs", "inputs.pt"]
    result = CliRunner().invoke(app, [command, *user_code, *inputs, *options, "--json"])
    document = json.loads(result.stdout)
    assert document["ok"] is (result.exit_code == 0)
    assert document["exit_code"] == result.exit_code
    if not document["ok"]:
        assert result.stderr == f"dcsurgery: {document['error']}\n"


def test_json_has_no_nan_and_no_python_objects():
    document = to_json({"figure": float("nan"), "limit": float("-inf"), 1: (Path("a"), nn.ReLU, True, 0.5, None)})
    assert json.loads(document, parse_constant=pytest.fail) == {
        "figure": None,
        "limit": None,
        "1": ["a", repr(nn.ReLU), True, 0.5, None],
    }


# Streams


def test_what_a_model_prints_is_shown_with_verbose_only_and_never_on_stdout(user_code):
    assert "a model that prints" not in run("inspect", *user_code, "--inputs", "inputs.pt").output
    with pytest.warns(UserWarning, match="a model that warns"):
        result = run("inspect", *user_code, "--inputs", "inputs.pt", "--verbose")
    assert "a model that prints" not in result.stdout
    assert "a model that prints" in result.stderr
    assert "dcsurgery: reading mine.pt" in result.stderr


def test_library_warnings_are_shown_with_verbose_only(user_code):
    with warnings.catch_warnings(record=True, action="always") as seen:
        run("inspect", *user_code, "--inputs", "inputs.pt")
        assert seen == []
        run("inspect", *user_code, "--inputs", "inputs.pt", "-v")
    assert "a model that warns" in [str(warning.message) for warning in seen]


def test_a_run_leaves_the_filters_of_its_process_alone(folder):
    before = list(warnings.filters)
    run("inspect", "model.pt")
    assert warnings.filters == before


def test_quiet_prints_nothing_when_all_is_well(folder, quick):
    result = run("transform", "model.pt", "--irelu", "--denorm", "-q")
    assert result.output == ""
    assert run("transform", "model.pt", "--irelu", "-q", code=2).output.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "options", "shown"),
    [
        (Terminal, {}, True),
        (io.StringIO, {}, False),
        (Terminal, {"quiet": True}, False),
        (Terminal, {"as_json": True}, False),
    ],
)
def test_progress_is_shown_on_a_terminal_only(monkeypatch, stream, options, shown):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", stream())
    screen = Screen(**{"quiet": False, "verbose": False, "as_json": False, **options})
    with screen.steps(2) as begin:
        begin("reading [model].pt")
        begin("finding the sites")
    assert ("finding the sites" in sys.stderr.getvalue()) is shown


def test_tables_fit_80_columns_and_keep_names_whole(folder):
    model = nn.ModuleDict({"interaction_blocks": nn.ModuleList([nn.ModuleDict({"layers_after": nn.SiLU()})])})
    model["output_blocks"] = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.SiLU())])
    model.acts = [nn.Tanh()]
    torch.save(model, "deep.pt")
    lines = run("inspect", "deep.pt", env={"COLUMNS": "80"}).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    names = {line.split()[0] for line in lines if line.strip()}
    assert {"interaction_blocks.0.layers_after", "output_blocks.0.2", "acts[0]"} <= names
    assert any("by name" in line for line in lines)
    wide = run("inspect", "deep.pt", env={"COLUMNS": "160"}).stdout
    assert "torch/nn/modules/activation.py:" in wide


def test_names_are_never_taken_for_markup():
    plan = dcs.Plan((Edit("acts[bold]", "delete", "[red]"),), "Model")
    assert {"acts[bold]", "[red]"} <= set(_cells(tables.edits_table(plan)))


def test_very_many_edits_are_folded_and_counted_by_kind():
    edits = [Edit(f"a{index}", "replace", "silu" if index % 3 else "[tanh]", None, "irelu") for index in range(300)]
    few, many = (tables.edits_table(dcs.Plan(tuple(edits[:count]), "Model")) for count in (200, 300))
    assert (few.row_count, few.caption) == (200, None)
    assert many.row_count == 50
    assert str(many.caption) == "and 250 more (167 silu: irelu, 83 [tanh]: irelu); --json lists them all"


def test_tables_say_what_shares_a_place_and_why_a_site_stays(folder):
    shared = nn.SiLU()
    census = dcs.inspect(nn.Sequential(shared, nn.Linear(2, 2), shared, nn.Sigmoid()))
    text = str([str(part) for part in tables.census_tables(census, 80) if not hasattr(part, "columns")])
    assert "not a feature" in text
    cells = [cell for part in tables.census_tables(census, 80) for cell in _cells(part)]
    assert any("also 2" in cell for cell in cells)


def _cells(part):
    return [str(cell) for column in getattr(part, "columns", ()) for cell in column.cells]


# Ends


def test_an_interrupt_is_one_line_and_leaves_nothing_behind(folder, monkeypatch):
    def interrupt(*arguments, **options):
        assert any(name.endswith(".tmp") for name in listing(folder))
        raise KeyboardInterrupt

    monkeypatch.setattr("dcsurgery.files.writing.compare", interrupt)
    result = run("transform", "model.pt", "--irelu", code=130)
    assert result.stderr.splitlines()[-1] == "dcsurgery: interrupted"
    assert listing(folder) == ["inputs.pt", "model.pt", "plain.pt"]


def test_ctrl_c_ends_the_program(folder):
    (folder / "slow.py").write_text("import pathlib, time\npathlib.Path('reached').touch()\ntime.sleep(600)\n")
    program = subprocess.Popen(
        [COMMAND, "transform", "model.pt", "--irelu", "--import", "slow.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever runs the tests in the background may have made this process, and so its children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (folder / "reached").exists():
            assert program.poll() is None, program.stderr.read()
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert (program.returncode, out, err) == (130, "", "dcsurgery: interrupted\n")
    assert not [name for name in listing(folder) if ".dcs" in name]


def test_a_surprise_is_one_line_and_a_traceback_only_on_demand(folder, monkeypatch):
    def surprise(*arguments, **options):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("dcsurgery.census.take_census", surprise)
    result = run("inspect", "model.pt", code=2)
    assert result.stderr.count("\n") == 1
    assert "unexpected RuntimeError" in result.stderr
    assert "--verbose" in result.stderr
    verbose = CliRunner().invoke(app, ["inspect", "model.pt", "--verbose"])
    assert "Traceback" in verbose.stderr
    assert verbose.stderr.splitlines()[-1].startswith("dcsurgery: unexpected RuntimeError")


def test_verbose_shows_the_traceback_of_the_users_own_code(folder):
    torch.save((torch.ones(2, 5),), "wrong.pt")
    assert "Traceback" not in run("inspect", "model.pt", "--inputs", "wrong.pt", code=2).stderr
    verbose = CliRunner().invoke(app, ["inspect", "model.pt", "--inputs", "wrong.pt", "-v"])
    assert verbose.exit_code == 2
    assert "Traceback" in verbose.stderr
    assert "torch/nn/modules/linear.py" in verbose.stderr


def test_names_that_the_terminal_cannot_show_are_no_error(folder):
    model = nn.Module()
    model.add_module("schicht_\u00e4\u2192", nn.SiLU())
    torch.save(model, "odd.pt")
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, encoding="ascii")) as stream:
        assert main(["inspect", "odd.pt", "-q"]) == 0
        stream.flush()
        assert b"schicht_\\xe4\\u2192" in raw.getvalue()


def test_files_written_are_complete_or_not_there(folder, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    result = run("plan", "model.pt", "--irelu", "-o", "plan.yaml", code=2)
    assert "plan.yaml: cannot be written: No space left" in result.stderr
    assert listing(folder) == ["inputs.pt", "model.pt", "plain.pt"]


def test_a_file_that_appears_meanwhile_is_not_replaced(folder, monkeypatch):
    monkeypatch.setattr("dcsurgery.files.writing.compare", lambda *_: (folder / "model.dcs.pt").write_text("theirs"))
    assert "appeared while" in run("transform", "model.pt", "--irelu", code=2).stderr
    assert (folder / "model.dcs.pt").read_text() == "theirs"
    assert listing(folder) == ["inputs.pt", "model.dcs.pt", "model.pt", "plain.pt"]


def test_force_replaces_the_output_and_never_an_input(folder, quick):
    (folder / "model.dcs.pt").write_text("old")
    run("transform", "model.pt", "--irelu", "--force")
    assert files.read("model.dcs.pt").kind == "module"


@pytest.mark.parametrize("inputs", [[], ["--inputs", "x.pt"]], ids=["nothing runs", "inputs"])
def test_threads_and_garbage_collection_are_given_back(folder, monkeypatch, inputs):
    torch.save(nn.Sequential(nn.Linear(3, 3), nn.SiLU()), "model.pt")
    torch.save((torch.randn(2, 3),), "x.pt")
    seen = []
    original = dcs.apply
    monkeypatch.setattr(
        dcs, "apply", lambda *a: (seen.append((torch.get_num_threads(), gc.isenabled())), original(*a))[1]
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert main(["transform", "model.pt", "--irelu", "--quiet", "-o", "edited.pt", *inputs]) == 0
        assert main(["transform", "nothing.pt", "--irelu", "--quiet", "-o", "other.pt", *inputs]) == 2
        assert (torch.get_num_threads(), gc.isenabled()) == (2, True)
    finally:
        torch.set_num_threads(before)
    assert seen == [(2, True)] if inputs else seen == [(1, False)]
