"""A DeepXDE script as people write them, and the same with one line more.

Does the network fit the equation better? The heat equation u_t = 0.1 u_xx on [-1, 1] x [0, 1] with u = 0 at both ends and u = -sin(πx) at first; the solution is
-exp(-0.1 π² t) sin(πx). The residual is measured on points that training does not see.

    python benchmarks/deepxde_script.py [--steps 3000] [--seeds 3] [--output FILE.md]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

import dcsurgery as dcs

os.environ.setdefault("DDE_BACKEND", "pytorch")

ACTIVATIONS = (None, "irelu", "integrated-softplus", "integrated-relu2", "integrated-silu", "integrated-tanh")
DIFFUSIVITY = 0.1


def heat(activation: str | None, seed: int, steps: int) -> tuple[float, float, float]:
    """Train once; return the root mean square of the residual, the relative L2 error, and seconds per step."""
    import deepxde as dde

    dde.config.set_random_seed(seed)

    def pde(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return dde.grad.jacobian(u, x, i=0, j=1) - DIFFUSIVITY * dde.grad.hessian(u, x, i=0, j=0)

    rod = dde.geometry.Interval(-1, 1)
    domain = dde.geometry.GeometryXTime(rod, dde.geometry.TimeDomain(0, 1))
    ends = dde.icbc.DirichletBC(domain, lambda _x: 0, lambda _x, on: on)
    start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _x, on: on)
    data = dde.data.TimePDE(domain, pde, [ends, start], num_domain=400, num_boundary=40, num_initial=80)
    net = dde.nn.FNN([2, 32, 32, 32, 1], "tanh", "Glorot normal")
    if activation is not None:
        # The one line that the script did not have before.
        net = dcs.transform(net, denorm=False, activation=activation, example_inputs=torch.rand(64, 2)).model
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3)
    begun = time.perf_counter()
    model.train(iterations=steps, display_every=steps, verbose=0)
    seconds = (time.perf_counter() - begun) / steps
    x, t = np.meshgrid(np.linspace(-1, 1, 101), np.linspace(0, 1, 51))
    points = np.stack([x.ravel(), t.ravel()], axis=1).astype("f4")
    exact = -np.exp(-DIFFUSIVITY * np.pi**2 * points[:, 1:]) * np.sin(np.pi * points[:, :1])
    residual = model.predict(points, operator=pde)
    error = np.linalg.norm(model.predict(points) - exact) / np.linalg.norm(exact)
    return float(np.sqrt(np.mean(residual**2))), float(error), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| activation | PDE residual (rms) | relative L2 error | ms/step |", "|---|---|---|---|"]
    for activation in ACTIVATIONS:
        with contextlib.redirect_stdout(io.StringIO()):  # DeepXDE prints
            found = np.array([heat(activation, seed, options.steps) for seed in range(options.seeds)])
        (residual, error, seconds), (residual_std, error_std, _) = found.mean(0), found.std(0, ddof=1)
        label = "tanh (as written)" if activation is None else activation
        lines.append(
            f"| {label} | {residual:.2e} ± {residual_std:.0e} | {error:.2e} ± {error_std:.0e} | {1e3 * seconds:.1f} |"
        )
        print(lines[-1], flush=True)
    head = f"# A DeepXDE script, transformed by one line\n\n{platform.machine()}, CPU, 1 thread, torch {torch.__version__}. "
    command = shlex.join(["python", "benchmarks/deepxde_script.py", *sys.argv[1:]])
    text = "\n".join([head + f"`{command}`\n", *lines, ""])
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
