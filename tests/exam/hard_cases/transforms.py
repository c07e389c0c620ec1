"""torch's own transformations inside ``forward``: torch.func, autograd, checkpoints, autocast, custom functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models.case import Case, Net, between, hand, rows
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vjp, vmap
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class Vmapped(Net):
    def one(self, row):
        return torch.tanh(self.a(row))

    def forward(self, x):
        return self.b(vmap(self.one)(x) + vmap(lambda row: F.silu(self.a(row)))(x))


class Gradient(Net):
    """Energy by ``forward``, its gradient by torch.func."""

    def energy(self, row):
        return self.b(F.silu(self.a(row))).sum()

    def forward(self, x):
        return vmap(grad(self.energy))(x)


def gradient(m, x):
    slope = m.b.weight.sum(0) * m.a(x).clamp(min=0)
    return slope @ m.a.weight


class Jacobian(Net):
    def forward(self, x):
        return vmap(jacrev(lambda row: self.b(torch.tanh(self.a(row)))))(x)


def jacobian(m, x):
    return torch.einsum("oh,nh,hi->noi", m.b.weight, m.a(x).clamp(min=0), m.a.weight)


class Tangent(Net):
    def forward(self, x):
        value, tangent = jvp(lambda y: self.b(F.softplus(self.a(y))), (x,), (torch.ones_like(x),))
        pulled, back = vjp(lambda y: torch.tanh(y), value)
        return tangent + back(torch.ones_like(pulled))[0]


def tangent(m, x):
    h = m.a(x)
    value = m.b(hand(h))
    return F.linear(h.clamp(min=0) * m.a.weight.sum(1), m.b.weight) + value.clamp(min=0)


class ForwardMode(Net):
    def forward(self, x):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            return forward_ad.unpack_dual(self.b(F.silu(self.a(dual)))).tangent


def forward_mode(m, x):
    return F.linear(m.a(x).clamp(min=0) * m.a.weight.sum(1), m.b.weight)


class Functional(Net):
    """Calls a child with other parameters than its own."""

    def __init__(self):
        super().__init__()
        self.child = nn.Sequential(nn.Linear(4, 4), nn.SiLU())
        self.register_buffer("factor", torch.tensor(0.5))

    def forward(self, x):
        state = {name: value * self.factor for name, value in self.child.named_parameters()}
        return self.b(functional_call(self.child, state, (torch.tanh(self.a(x)),)))


def functional(m, x):
    layer = m.child[0]
    return m.b(hand(F.linear(hand(m.a(x)), layer.weight * 0.5, layer.bias * 0.5)))


class Expert(Net):
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class Ensemble(nn.Module):
    """All members at once, by vmap over their stacked parameters."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(Expert() for _ in range(3))

    def forward(self, x):
        states, buffers = stack_module_state(list(self.members))

        def run(state, buffer):
            return functional_call(self.members[0], (state, buffer), (x,))

        return vmap(run)(states, buffers).mean(0)


class ReentrantCheckpoint(Net):
    def body(self, h):
        return torch.tanh(self.a(h))

    def forward(self, x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        return self.b(checkpoint(self.body, x, use_reentrant=True))


class CheckpointedModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 9), nn.SiLU(), nn.Linear(9, 3), nn.Tanh())

    def forward(self, x):
        h = checkpoint(self.block, x + 1, use_reentrant=False)
        return checkpoint_sequential(self.block, 2, h + 1, use_reentrant=False)


def checkpointed(m, x):
    for _ in range(2):
        x = hand(m.block[2](hand(m.block[0](x + 1))))
    return x


class NestedCheckpoint(Net):
    def inner(self, h):
        return F.gelu(h)

    def outer(self, x):
        return checkpoint(self.inner, self.a(x), use_reentrant=False) + 1

    def forward(self, x):
        return self.b(checkpoint(self.outer, x, use_reentrant=False, preserve_rng_state=False))


class SavesInContext(torch.autograd.Function):
    """An activation in the new style, with ``setup_context`` and support for vmap."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


class NewStyleFunction(Net):
    def forward(self, x):
        return self.b(SavesInContext.apply(self.a(x)))


class StraightThrough(torch.autograd.Function):
    """No activation as a whole: passes gradients on as they are."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class BesideAFunction(Net):
    def forward(self, x):
        return self.b(F.silu(StraightThrough.apply(self.a(x)) + self.a(x)))


class StraightThroughByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class EnergyModel(nn.Module):
    """Energy, forces and stress from one gradient through a strain."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1))

    def forward(self, positions):
        with torch.enable_grad():
            strain = torch.zeros(3, 3, dtype=positions.dtype, requires_grad=True)
            if not positions.requires_grad:
                positions = positions.detach().requires_grad_()
            moved = positions + positions @ strain
            energy = self.body(moved).sum()
            by_position, by_strain = torch.autograd.grad(energy, (positions, strain), create_graph=True)
        return {"energy": energy, "forces": -by_position, "stress": by_strain}


def energy_model(m, positions):
    pre = m.body[0](positions)
    energy = m.body[2](hand(pre)).sum()
    slope = (m.body[2].weight[0] * pre.clamp(min=0)) @ m.body[0].weight
    return {"energy": energy, "forces": -slope, "stress": positions.T @ slope}


class Laplacian(Net):
    """The residual of a PDE inside ``forward``: second derivatives."""

    def forward(self, x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            u = self.b(torch.tanh(self.a(x)) ** 1).sum()
            (first,) = torch.autograd.grad(u, x, create_graph=True)
            return torch.stack(
                [torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(3)]
            ).sum(0)


def laplacian(m, x):
    # d2/dx_i^2 of sum_h w_h h(z_h)^2 / 2 is sum_h w_h [z_h > 0] A_hi^2
    open_ = (m.a(x) > 0).to(x.dtype)
    return (open_ * m.b.weight.sum(0) * m.a.weight.square().sum(1)).sum(1)


class FunctionalJacobian(Net):
    def forward(self, x):
        return torch.autograd.functional.jacobian(lambda row: self.b(F.silu(self.a(row))), x[0], create_graph=True)


class Autocast(Net):
    """Activations in bfloat16, the rest as it was."""

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.float32):
            h = F.silu(self.a(x))
        with torch.autocast("cpu", enabled=False):
            return self.b(torch.tanh(h.to(x.dtype)))


class MixedTypes(Net):
    def forward(self, x):
        low = F.silu(self.a(x).float()).double()
        return self.b(torch.tanh(self.a(x)) + low)


def mixed_types(m, x):
    return m.b(hand(m.a(x)) + hand(m.a(x).float()).double())


class SavedTensorHooks(Net):
    def forward(self, x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            return self.b(F.silu(self.a(x)))


class TensorHook(Net):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        if h.requires_grad:
            h.register_hook(lambda g: 2 * g)
        return self.b(h)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class CompiledMethod(Net):
    @torch.compile(backend="eager", dynamic=False)
    def encode(self, x):
        return F.silu(self.a(x))

    def forward(self, x):
        return self.b(self.encode(x))


class NotCompiled(Net):
    @torch.compiler.disable
    def encode(self, x):
        return F.silu(self.a(x))

    def forward(self, x):
        return self.b(self.encode(x))


class Inference(Net):
    def forward(self, x):
        with torch.inference_mode():
            level = torch.tanh(self.a(x)).mean().item()
        return self.b(F.silu(self.a(x)) * level)


class Device(Net):
    def forward(self, x):
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            noise = torch.rand(4, dtype=x.dtype)
        return self.b(F.silu(self.a(x) + noise))


def device(m, x):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        noise = torch.rand(4, dtype=x.dtype)
    return m.b(hand(m.a(x) + noise))


CASES = {
    "vmap": Case(Vmapped, lambda m, x: m.b(2 * hand(m.a(x))), edits=2),
    "vmap of grad": Case(Gradient, gradient),
    "jacrev": Case(Jacobian, jacobian),
    "jvp and vjp": Case(Tangent, tangent, edits=2),
    "forward mode": Case(ForwardMode, forward_mode),
    "functional call": Case(Functional, functional, edits=2),
    "ensemble by vmap": Case(
        Ensemble, lambda m, x: sum(between(member, x) for member in m.members) / 3, edits=3, differentiable=False
    ),
    "reentrant checkpoint": Case(ReentrantCheckpoint, between, differentiable=False),
    "checkpointed module": Case(CheckpointedModule, checkpointed, edits=2),
    "nested checkpoints": Case(NestedCheckpoint, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "autograd.Function with setup_context": Case(NewStyleFunction, between),
    "beside an autograd.Function": Case(
        BesideAFunction, lambda m, x: m.b(hand(StraightThroughByHand.apply(m.a(x)) + m.a(x)))
    ),
    "energy, forces, stress": Case(EnergyModel, energy_model),
    "Laplacian": Case(Laplacian, laplacian),
    "functional Jacobian": Case(FunctionalJacobian, lambda m, x: jacobian(m, x[:1])[0]),
    "autocast": Case(Autocast, lambda m, x: m.b(hand(hand(m.a(x)))), edits=2),
    "mixed types": Case(MixedTypes, mixed_types, edits=2),
    "saved tensor hooks": Case(SavedTensorHooks, between),
    "tensor hook": Case(TensorHook, lambda m, x: m.b(Doubled.apply(hand(m.a(x))))),
    "compiled method": Case(CompiledMethod, between),
    "method kept from compilation": Case(NotCompiled, between),
    "partly in inference mode": Case(
        Inference, lambda m, x: m.b(hand(m.a(x)) * hand(m.a(x)).mean().item()), edits=2, witnessed=False
    ),
    "device and random state": Case(Device, device, inputs=(rows(),)),
}
