"""Optimizer and moving average of a checkpoint, fitted to an edited model."""

import copy

import pytest
import torch
from torch import nn

import dcsurgery as dcs
from dcsurgery.files.training_state import fit_training_state, note_on_normalizers
from dcsurgery.passes import FoldBatchNorm, Pipeline


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def inputs(seed=0):
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))


def trained(net, optimizer=torch.optim.Adam, groups=None, steps=3):
    """Train a model; return what a trainer would write beside its weights."""
    optimizer = optimizer(groups(net) if groups else net.parameters(), lr=0.1)
    shadow = [parameter.detach().clone() for parameter in net.parameters() if parameter.requires_grad]
    for step in range(steps):
        optimizer.zero_grad()
        net(inputs(step)).square().sum().backward()
        optimizer.step()
        for mean, parameter in zip(shadow, (p for p in net.parameters() if p.requires_grad), strict=True):
            mean.lerp_(parameter.detach(), 0.1)
    ema = {"decay": 0.9, "num_updates": None, "shadow_params": shadow, "collected_params": []}
    return {"config": {}, "epoch": 3, "optimizer": optimizer.state_dict(), "ema": ema}


def moments(net, state):
    """Return each parameter's first moment after an optimizer took over the state."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    optimizer.load_state_dict(copy.deepcopy(state))
    return {name: optimizer.state[parameter]["exp_avg"] for name, parameter in net.named_parameters()}


def test_state_of_the_surviving_parameters_stays_with_them_when_norms_go():
    net = network()
    entries = trained(net)
    before = copy.deepcopy(entries)
    edited = dcs.transform(net, denorm=True).model
    fitted, notes = fit_training_state(entries, net, edited)
    original = moments(net, entries["optimizer"])
    kept = moments(edited, fitted["optimizer"])
    assert list(kept) == ["0.weight", "0.bias", "3.weight", "3.bias", "5.weight", "5.bias"]
    assert all(torch.equal(kept[name], original[name]) for name in kept)
    shadow = dict(zip(dict(net.named_parameters()), entries["ema"]["shadow_params"], strict=True))
    for name, mean in zip(kept, fitted["ema"]["shadow_params"], strict=True):
        assert mean is shadow[name]
    assert fitted["optimizer"]["param_groups"][0]["lr"] == 0.1
    # Numbered from 0, as every optimizer writes it.
    assert fitted["optimizer"]["param_groups"][0]["params"] == list(fitted["optimizer"]["state"]) == list(range(6))
    assert fitted["epoch"] == 3
    assert notes == (
        "the optimizer's state of 1.weight, 1.bias, 4.weight, … (4 in all) was left out",
        "the moving average of 1.weight, 1.bias, 4.weight, … (4 in all) was left out",
    )
    assert torch.equal(
        entries["ema"]["shadow_params"][2], before["ema"]["shadow_params"][2]
    )  # the input's are unchanged
    assert entries["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]


def test_training_goes_on_as_if_the_norms_had_never_been_there():
    net = network()
    entries = trained(net)
    edited = dcs.transform(net, denorm=True).model
    fitted, _ = fit_training_state(entries, net, edited)
    by_hand = nn.Sequential(*(copy.deepcopy(net[i]) for i in (0,)), copy.deepcopy(edited[2]), net[3], net[5])
    by_hand = copy.deepcopy(by_hand)
    old = torch.optim.Adam(net.parameters(), lr=0.1)
    old.load_state_dict(copy.deepcopy(entries["optimizer"]))
    results = []
    for model, state in ((edited, fitted["optimizer"]), (by_hand, None)):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        else:
            survivors = [p for name, p in net.named_parameters() if name.split(".")[0] in "035"]
            for parameter, source in zip(model.parameters(), survivors, strict=True):
                optimizer.state[parameter] = copy.deepcopy(old.state[source])
        model(inputs(9)).square().sum().backward()
        optimizer.step()
        results.append([parameter.detach() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_nothing_is_touched_where_the_parameters_are_the_same():
    net = network()
    entries = trained(net)
    fitted, notes = fit_training_state(entries, net, dcs.transform(net, denorm=False).model)
    assert notes == ()
    assert all(fitted[key] is entries[key] for key in entries)


def test_a_parameter_that_is_not_a_number_counts_as_unchanged():
    net = network()
    entries = trained(net)
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    assert fit_training_state(entries, net, copy.deepcopy(net))[1] == ()


def test_frozen_parameters_have_no_moving_average_and_keep_their_place_in_the_optimizer():
    net = network()
    net[0].requires_grad_(False)
    entries = trained(net)
    edited = dcs.transform(net, denorm=True).model
    fitted, _ = fit_training_state(entries, net, edited)
    assert len(fitted["ema"]["shadow_params"]) == 4
    assert fitted["ema"]["shadow_params"][0] is entries["ema"]["shadow_params"][2]  # 3.weight, after the first norm
    optimizer = torch.optim.Adam(edited.parameters())
    optimizer.load_state_dict(fitted["optimizer"])
    assert torch.equal(optimizer.state[edited[3].weight]["exp_avg"], entries["optimizer"]["state"][4]["exp_avg"])


def test_an_optimizer_of_trained_parameters_only_is_understood():
    net = network()
    net[0].requires_grad_(False)
    entries = trained(net, groups=lambda m: [p for p in m.parameters() if p.requires_grad])
    edited = dcs.transform(net, denorm=True).model
    fitted, _ = fit_training_state(entries, net, edited)
    optimizer = torch.optim.Adam([p for p in edited.parameters() if p.requires_grad])
    optimizer.load_state_dict(fitted["optimizer"])
    assert torch.equal(optimizer.state[edited[5].bias]["exp_avg"], entries["optimizer"]["state"][7]["exp_avg"])


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (lambda m: [{"params": list(m.parameters())[::2]}, {"params": list(m.parameters())[1::2]}], "its order of the"),
        (lambda m: list(m.parameters())[:3], "its order of the"),
    ],
    ids=["two groups", "some parameters"],
)
def test_an_optimizer_whose_order_is_not_known_is_left_out(groups, reason):
    net = network()
    entries = trained(net, groups=groups)
    fitted, notes = fit_training_state(entries, net, dcs.transform(net, denorm=True).model)
    assert "optimizer" not in fitted
    assert notes[0].startswith(f"the optimizer's state was left out: {reason}")
    assert "optimizer" in entries


def test_a_moving_average_that_does_not_fit_is_none_as_trainers_expect():
    net = network()
    entries = trained(net)
    entries["ema"]["shadow_params"].pop()
    fitted, notes = fit_training_state(entries, net, dcs.transform(net, denorm=True).model)
    assert fitted["ema"] is None
    assert notes[1] == "the moving average of the weights was left out: it does not fit the model"


def test_values_that_an_edit_changed_make_the_state_void():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.SiLU(), nn.Linear(4, 1))
    entries = trained(net)
    net.eval()
    edited = Pipeline([FoldBatchNorm()])(net, inputs()).model
    fitted, notes = fit_training_state(entries, net, edited)
    assert "optimizer" not in fitted
    assert fitted["ema"] is None
    assert all("the edits changed the values of 0.weight, 0.bias" in note for note in notes)


def test_parameters_that_an_edit_added_make_the_state_void():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.SiLU(), nn.Linear(4, 1))
    entries = trained(net)
    net.eval()
    _, notes = fit_training_state(entries, net, Pipeline([FoldBatchNorm()])(net, inputs()).model)
    assert notes[0] == "the optimizer's state was left out: the edits added 0.bias"


@pytest.mark.parametrize("entries", [{}, {"optimizer": None, "ema": None}, {"optimizer": {"mine": 1}, "ema": {}}])
def test_entries_of_another_form_stay_as_they_are(entries):
    net = network()
    fitted, _ = fit_training_state(entries, net, dcs.transform(net, denorm=True).model)
    assert fitted == entries


def test_normalizers_are_told_about():
    assert note_on_normalizers({"normalizers": {}}) == note_on_normalizers({}) == ()
    (note,) = note_on_normalizers({"normalizers": {"energy": {}, "forces": {}}})
    assert "normalizers scale energy, forces as well" in note
