"""Models whose forward differentiates an energy: they are edited inside the shell, and the shell stays.

Each style is a small model written as that code base writes it, once with SiLU (to be edited) and once by hand with
IReLU and without norms (what the edited one must equal).
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data

import dcsurgery as dcs
from dcsurgery.activations import IReLU, irelu

SIZES = (4, 3)


def graph(sizes=SIZES, seed=0):
    """Return positions (n, 3), numbers, structure of each atom, and all edges inside the structures."""
    generator = torch.Generator().manual_seed(seed)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    pos = torch.randn(len(batch), 3, generator=generator, dtype=torch.float64)
    z = torch.randint(0, 5, (len(batch),), generator=generator)
    pairs = (batch[:, None] == batch[None, :]) & ~torch.eye(len(batch), dtype=torch.bool)
    return pos, z, batch, pairs.nonzero().T.contiguous()


class Messages(nn.Module):
    """One message-passing layer on distances, with a norm and an activation."""

    def __init__(self, act, norm=True):
        super().__init__()
        self.filters = nn.Sequential(nn.Linear(4, 8), act(), nn.Linear(8, 8))
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.update = nn.Linear(8, 8)
        self.act = act()

    def forward(self, h, distance, edges):
        basis = torch.exp(-(distance[:, None] - torch.linspace(0, 3, 4, dtype=distance.dtype)).square())
        sent = h[edges[0]] * self.filters(basis)
        received = torch.zeros_like(h).index_add(0, edges[1], sent)
        return h + self.act(self.update(self.norm(received)))


def distances(pos, edges):
    return (pos[edges[0]] - pos[edges[1]]).norm(dim=-1)


def per_structure(atomic, batch):
    return atomic.new_zeros(int(batch.max()) + 1).index_add(0, batch, atomic)


class OcpStyle(nn.Module):
    """Forces in the model's own forward, with create_graph in every mode, from a method wrapped in enable_grad."""

    def __init__(self, act=nn.SiLU, norm=True, regress_forces=True):
        super().__init__()
        self.regress_forces = regress_forces
        self.embedding = nn.Embedding(5, 8)
        self.blocks = nn.ModuleList([Messages(act, norm) for _ in range(2)])
        self.out = nn.Sequential(nn.Linear(8, 8), act(), nn.Linear(8, 1))

    @torch.enable_grad()
    def _forward(self, data):
        h = self.embedding(data.z)
        d = distances(data.pos, data.edges)
        for block in self.blocks:
            h = block(h, d, data.edges)
        return per_structure(self.out(h).squeeze(-1), data.batch)

    def forward(self, data):
        if self.regress_forces:
            data.pos.requires_grad_(True)
        energy = self._forward(data)
        outputs = {"energy": energy}
        if self.regress_forces:
            forces = -1 * (torch.autograd.grad(energy, data.pos, torch.ones_like(energy), create_graph=True)[0])
            outputs["forces"] = forces
        return outputs


def compute_forces(energy, positions, training):
    """As MACE does: one function for all, the graph is kept in training only."""
    (gradient,) = torch.autograd.grad(
        outputs=[energy],
        inputs=[positions],
        grad_outputs=[torch.ones_like(energy)],
        retain_graph=training,
        create_graph=training,
        allow_unused=True,
    )
    return torch.zeros_like(positions) if gradient is None else -1 * gradient


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class MaceStyle(nn.Module):
    """An energy module inside a wrapper; a dict of tensors in; a readout that calls its gate by attribute."""

    class Energy(nn.Module):
        def __init__(self, act, gate, norm):
            super().__init__()
            self.node_embedding = nn.Linear(5, 8, bias=False)
            self.interactions = nn.ModuleList([Messages(act, norm) for _ in range(2)])
            self.linear = nn.Linear(8, 8)
            self.readout = nn.Linear(8, 1)
            self.non_linearity = gate

        def forward(self, data):
            h = self.node_embedding(F.one_hot(data["z"], 5).to(data["pos"].dtype))
            d = distances(data["pos"], data["edges"])
            energies = []
            for interaction in self.interactions:
                h = interaction(h, d, data["edges"])
                energies.append(self.readout(self.non_linearity(self.linear(h))).squeeze(-1))
            return per_structure(torch.stack(energies).sum(0), data["batch"])

    def __init__(self, act=Swish, gate=F.silu, norm=True):
        super().__init__()
        self.model = self.Energy(act, gate, norm)

    def forward(self, data, training=None, compute_force=True):
        training = self.training if training is None else training
        data["pos"].requires_grad_(True)
        energy = self.model(data)
        forces = compute_forces(energy, data["pos"], training) if compute_force else None
        return {"energy": energy, "forces": forces}


class SchNetPackStyle(nn.Module):
    """A dict goes through modules that add entries; a response module at the end differentiates one of them."""

    class Distances(nn.Module):
        def forward(self, inputs):
            inputs["_d"] = distances(inputs["pos"], inputs["edges"])
            return inputs

    class Representation(nn.Module):
        def __init__(self, act, norm):
            super().__init__()
            self.embedding = nn.Embedding(5, 8)
            self.interactions = nn.ModuleList([Messages(act, norm) for _ in range(2)])

        def forward(self, inputs):
            x = self.embedding(inputs["z"])
            for interaction in self.interactions:
                x = interaction(x, inputs["_d"], inputs["edges"])
            inputs["scalar_representation"] = x
            return inputs

    class Atomwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.outnet = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 1)])

        def forward(self, inputs):
            y = self.outnet[1](F.silu(self.outnet[0](inputs["scalar_representation"])))
            inputs["energy"] = per_structure(y.squeeze(-1), inputs["batch"])
            return inputs

    class AtomwiseByHand(Atomwise):
        def forward(self, inputs):
            y = self.outnet[1](irelu(self.outnet[0](inputs["scalar_representation"])))
            inputs["energy"] = per_structure(y.squeeze(-1), inputs["batch"])
            return inputs

    class Forces(nn.Module):
        def forward(self, inputs):
            go = [torch.ones_like(inputs["energy"])]
            grads = torch.autograd.grad([inputs["energy"]], [inputs["pos"]], go, create_graph=self.training)
            inputs["forces"] = -grads[0]
            return inputs

    def __init__(self, act=nn.SiLU, norm=True, by_hand=False):
        super().__init__()
        self.required_derivatives = ["pos"]
        self.input_modules = nn.ModuleList([self.Distances()])
        self.representation = self.Representation(act, norm)
        head = self.AtomwiseByHand() if by_hand else self.Atomwise()
        self.output_modules = nn.ModuleList([head, self.Forces()])
        self.model_outputs = ["energy", "forces"]

    def forward(self, inputs):
        for name in self.required_derivatives:
            inputs[name].requires_grad_()
        for module in self.input_modules:
            inputs = module(inputs)
        inputs = self.representation(inputs)
        for module in self.output_modules:
            inputs = module(inputs)
        return {name: inputs[name] for name in self.model_outputs}


class FunctionalStyle(nn.Module):
    """torch.func.grad_and_value of a closure over the module."""

    def __init__(self, act=nn.SiLU, norm=True, final=torch.tanh):
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.block = Messages(act, norm)
        self.final = final
        self.head = nn.Linear(8, 1)

    def energies(self, pos, data):
        h = self.block(self.embedding(data["z"]), distances(pos, data["edges"]), data["edges"])
        atomic = self.head(self.final(h)).squeeze(-1)
        return atomic.new_zeros(len(SIZES)).index_add(0, data["batch"], atomic)

    def forward(self, data):
        def total(pos):
            energy = self.energies(pos, data)
            return energy.sum(), energy

        gradient, energy = torch.func.grad(total, has_aux=True)(data["pos"])
        return {"energy": energy, "forces": -gradient}


STYLES = {
    "ocp": (OcpStyle, lambda: OcpStyle(IReLU, norm=False)),
    "mace": (MaceStyle, lambda: MaceStyle(IReLU, irelu, norm=False)),
    "schnetpack": (SchNetPackStyle, lambda: SchNetPackStyle(IReLU, norm=False, by_hand=True)),
    "func": (FunctionalStyle, lambda: FunctionalStyle(IReLU, norm=False, final=irelu)),
}
# Activations and norms of each.
SITES = {"ocp": (5, 2), "mace": (5, 2), "schnetpack": (5, 2), "func": (3, 1)}
KEEPS_GRAPH_IN_EVAL = {"ocp", "func"}


def inputs(style, **options):
    pos, z, batch, edges = graph(**options)
    data = {"pos": pos, "z": z, "batch": batch, "edges": edges}
    return Data(**data) if style == "ocp" else data


def arguments(style, **options):
    """Return example inputs: a dict alone would mean keyword arguments."""
    return (inputs(style, **options),)


@pytest.fixture(params=STYLES, scope="module")
def style(request):
    return request.param


@pytest.fixture(scope="module")
def surgery(style):
    torch.manual_seed(0)
    original = STYLES[style][0]().double()
    return dcs.transform(original, denorm=True, example_inputs=arguments(style))


@pytest.fixture
def edited(surgery):
    return copy.deepcopy(surgery.model)


@pytest.fixture
def by_hand(style, surgery):
    model = STYLES[style][1]().double()
    model.load_state_dict(surgery.model.state_dict(), strict=True)
    return model


def force_loss(output):
    return output["forces"].pow(2).sum() + output["energy"].pow(2).sum()


def test_every_site_inside_the_shell_is_edited_and_every_check_passes(style, surgery):
    activations, norms = SITES[style]
    assert [edit.action for edit in surgery.plan].count("replace") == activations
    assert [edit.action for edit in surgery.plan].count("delete") == norms
    assert surgery.report.ok
    status = {check.name: check.status for check in surgery.report.checks}
    assert status["residual"] == status["known sites"] == "pass"


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_energies_and_forces_are_those_of_the_model_edited_by_hand(mode, style, edited, by_hand):
    for seed, sizes in ((0, SIZES), (5, (2, 6))):
        mine = edited.train(mode == "train")(inputs(style, seed=seed, sizes=sizes))
        theirs = by_hand.train(mode == "train")(inputs(style, seed=seed, sizes=sizes))
        torch.testing.assert_close(mine["energy"], theirs["energy"], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(mine["forces"], theirs["forces"], rtol=1e-12, atol=1e-14)
        assert mine["forces"].abs().max() > 1e-5


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_forces_are_minus_the_slope_of_the_edited_energy(mode, style, edited):
    model = edited.train(mode == "train")
    forces = model(inputs(style))["forces"].detach()
    numeric, step = torch.zeros_like(forces), 1e-5
    for atom in range(len(forces)):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = inputs(style)
                moved["pos"][atom, axis] += sign * step
                energies.append(float(model(moved)["energy"].sum().detach()))
            numeric[atom, axis] = -(energies[0] - energies[1]) / (2 * step)
    torch.testing.assert_close(forces, numeric, rtol=1e-6, atol=1e-10)


def test_a_loss_on_forces_trains_the_edited_model_as_it_trains_the_one_edited_by_hand(style, edited, by_hand):
    gradients = []
    for model in (edited.train(), by_hand.train()):
        force_loss(model(inputs(style))).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        if gradient is None:
            assert gradients[1][name] is None
        else:
            torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-10, atol=1e-12)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in gradients[0].values()) >= len(gradients[0]) - 1


def test_that_gradient_is_the_slope_of_the_loss(style, edited):
    model = edited.train()
    parameter = next(p for name, p in model.named_parameters() if name.endswith("filters.0.weight"))
    force_loss(model(inputs(style))).backward()
    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=parameter.dtype)
    slope, losses = float((parameter.grad * direction).sum()), []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            parameter += step * direction
        losses.append(float(force_loss(model(inputs(style))).detach()))
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5)


def test_the_graph_of_the_forces_is_kept_where_the_original_keeps_it(style, surgery, edited):
    for training in (True, False):
        for model in (copy.deepcopy(surgery.undo()), edited):
            forces = model.train(training)(inputs(style))["forces"]
            assert (forces.grad_fn is not None) == (training or style in KEEPS_GRAPH_IN_EVAL)


def test_forces_come_out_of_no_grad_as_before(style, surgery, edited):
    with torch.no_grad():
        for model in (copy.deepcopy(surgery.undo()).eval(), edited.eval()):
            if style in ("mace", "schnetpack"):
                with pytest.raises(RuntimeError, match="does not require grad"):
                    model(inputs(style))
            elif style == "ocp":  # differentiates outside of its enable_grad, which autograd allows
                assert model(inputs(style))["forces"].abs().max() > 0
            else:
                assert model(inputs(style))["forces"].abs().max() > 0


def test_label_rescaling_multiplies_energies_and_forces_alike(style):
    torch.manual_seed(0)
    original = STYLES[style][0]().double()
    scaled = dcs.transform(original, irelu=False, denorm=False, rescale=100.0, example_inputs=arguments(style)).model
    before, after = original(inputs(style)), scaled(inputs(style))
    torch.testing.assert_close(after["energy"], 100 * before["energy"])
    torch.testing.assert_close(after["forces"], 100 * before["forces"])


def test_the_edited_model_survives_copying_and_pickling(style, surgery, tmp_path):
    torch.save(surgery.model, tmp_path / "model.pt")
    for other in (copy.deepcopy(surgery.model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(other(inputs(style))["forces"], surgery.model(inputs(style))["forces"])
