"""Every model of the coverage table, edited through the API: rules 1 to 3 on real models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dcsurgery as dcs
from dcsurgery.zoo import coverage_table
from dcsurgery.zoo.coverage import CASES, Case
from dcsurgery.zoo.coverage_table import double_backward, is_identity

# GraphUNet squares a sparse matrix, and torch warns of what its sparse kernels do not check.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]

_IDS = [case.name for case in CASES]


@pytest.fixture(scope="module", params=CASES, ids=_IDS)
def operated(request):
    case: Case = request.param
    model = case.build().eval()
    inputs = case.inputs(model)
    before = copy.deepcopy(model.state_dict())
    surgery = dcs.transform(model, scope=case.scope, example_inputs=inputs)
    return case, model, inputs, before, surgery


def test_no_selected_operator_executes_any_more(operated):
    _, _, _, _, surgery = operated
    assert surgery.report["residual"].figure == 0
    assert surgery.report["known sites"].figure == 0
    assert len(surgery.plan) > 0


def test_every_check_passes_that_is_about_such_a_model(operated):
    *_, surgery = operated
    skipped = [check.name for check in surgery.report if check.status == "skip"]
    assert set(skipped) <= {"forces", "PDE order", "other size", "reached"}, surgery.report
    assert surgery.report.ok


def test_the_model_that_was_handed_in_is_untouched(operated):
    _, model, _, before, _ = operated
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_old_checkpoint_loads_strictly_without_the_deleted_keys(operated):
    case, _, _, before, surgery = operated
    fresh = copy.deepcopy(surgery.model)
    fresh.load_state_dict(surgery.key_map.forward(before), strict=True)
    fresh.load_state_dict(before, strict=True)  # deleted norms ignore their old keys, too
    assert set(surgery.key_map.kept) | set(surgery.key_map.deleted) == set(before), case.name


def test_double_backward_exists(operated):
    _, _, inputs, _, surgery = operated
    assert double_backward(surgery.model, inputs) == "yes"


def test_empty_plan_is_the_identity_bit_for_bit_in_train_and_eval(operated):
    case, _, inputs, _, _ = operated
    assert is_identity(case.build(), inputs)


class _Tape(TorchDispatchMode):
    """Keep what every kernel returned, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[str, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in (result if isinstance(result, tuple | list) else [result]) if isinstance(t, torch.Tensor)]
        self.entries.append((func._schema.name, [t.detach().clone() for t in tensors]))
        return result


def _interaction_outputs(model, inputs):
    """What every module outside the output blocks returned, in order of execution."""
    seen: list[tuple[str, list[torch.Tensor]]] = []
    hooks = []
    for path, module in model.named_modules():
        if path and not path.startswith("output_blocks"):

            def hook(_module, _args, output, path=path):
                found = output if isinstance(output, tuple | list) else [output]
                seen.append((path, [t.detach().clone() for t in found if isinstance(t, torch.Tensor)]))

            hooks.append(module.register_forward_hook(hook))
    model(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


def test_in_dimenet_only_the_output_blocks_change_and_nothing_before_them():
    case = next(case for case in CASES if case.name == "PyG DimeNet++")
    model = case.build().eval()
    inputs = case.inputs(model)
    surgery = dcs.transform(model, scope="output-blocks", example_inputs=inputs)
    assert {edit.site for edit in surgery.plan} == {f"output_blocks.{i}.act" for i in range(len(model.output_blocks))}

    before, after = _interaction_outputs(model, inputs), _interaction_outputs(surgery.model, inputs)
    assert [path for path, _ in before] == [path for path, _ in after]
    assert len(before) > 30
    for (path, old), (_, new) in zip(before, after, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True)), path

    # Kernel by kernel: what the two models do is the same up to the first activation of the first output block.
    with torch.no_grad(), _Tape() as old_tape:
        model(*inputs)
    with torch.no_grad(), _Tape() as new_tape:
        surgery.model(*inputs)
    common = 0
    for (name, old), (other, new) in zip(old_tape.entries, new_tape.entries, strict=False):
        if name != other or not all(torch.equal(a, b) for a, b in zip(old, new, strict=True)):
            break
        common += 1
    assert old_tape.entries[common][0].startswith("aten::sigmoid")  # swish is x * sigmoid(x)
    sigmoids = [name for name, _ in old_tape.entries].count("aten::sigmoid")
    still = [name for name, _ in new_tape.entries].count("aten::sigmoid")
    layers = sum(len(block.lins) for block in model.output_blocks)
    assert sigmoids - still == layers
    assert not torch.equal(model(*inputs), surgery.model(*inputs))


def test_the_table_goes_file_to_file_through_the_command_line(tmp_path, capsys):
    page = tmp_path / "coverage.md"
    assert coverage_table.main(["--only", "nn.Sequential", "-o", str(page)]) == 0
    assert "| nn.Sequential | pickled module | all | 3 of 3 | 0 | 4 + 5 deleted |" in page.read_text()
    assert "1 of 1 models pass every check" in capsys.readouterr().out


def test_the_table_reports_a_model_that_fails(monkeypatch, capsys):
    def broken(model, inputs):
        return "no derivative"

    monkeypatch.setattr(coverage_table, "double_backward", broken)
    assert coverage_table.main(["--only", "DeepXDE FNN"]) == 1
    assert "0 of 1 models pass every check" in capsys.readouterr().out
