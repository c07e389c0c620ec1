"""Checkpoints that fairchem's own trainer writes, after real training steps on two molecules."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch

from dcsurgery.zoo.ocp import fairchem, fairchem_batches

COMMON = {"otf_graph": True, "use_pbc": True, "regress_forces": True, "cutoff": 4.0}
GEMNET = {
    "num_spherical": 3,
    "num_radial": 6,
    "num_blocks": 1,
    "emb_size_atom": 8,
    "emb_size_edge": 8,
    "emb_size_rbf": 4,
    "emb_size_cbf": 4,
    "num_before_skip": 1,
    "num_after_skip": 1,
    "num_concat": 1,
    "num_atom": 1,
}
#: The smallest sizes that have every kind of layer.
VALUES = {
    "schnet": {"hidden_channels": 16, "num_filters": 16, "num_interactions": 2, "num_gaussians": 10},
    "painn": {"hidden_channels": 16, "num_layers": 2, "num_rbf": 8, "direct_forces": False},
    "dimenetplusplus": {
        "hidden_channels": 16,
        "num_blocks": 1,
        "int_emb_size": 8,
        "basis_emb_size": 4,
        "out_emb_channels": 16,
        "num_spherical": 3,
        "num_radial": 4,
        "num_output_layers": 1,
    },
    "gemnet_t": {**GEMNET, "emb_size_trip": 8, "emb_size_bil_trip": 8, "direct_forces": False},
    "gemnet_oc": {
        **GEMNET,
        **{f"emb_size_{kind}_{side}": 8 for kind in ("trip", "quad", "aint") for side in ("in", "out")},
        "emb_size_sbf": 4,
        "num_output_afteratom": 1,
        "quad_interaction": True,
        "atom_edge_interaction": True,
        "edge_atom_interaction": True,
        "atom_interaction": True,
        "qint_tags": [0, 1, 2],
        "cbf": {"name": "spherical_harmonics"},
        "sbf": {"name": "legendre_outer"},
        "direct_forces": False,
    },
}


def config_of(name, **changes):
    return {"name": name, **COMMON, **VALUES[name], **changes}


def molecules(dtype=torch.float32):
    from ase.build import molecule

    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.02, seed=0)
    moved = ethanol.copy()
    moved.rattle(0.05, seed=1)
    return fairchem_batches.batch_of([ethanol, moved], dtype)


def trainer_of(model, folder, **optimizer):
    """Return fairchem's OCPTrainer for a model's part of a config."""
    fairchem.require()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from fairchem.core.common.utils import setup_imports

        # It imports every model, and scipy 1.17 has no sph_harm any more, which one of the helpers wants.
        with contextlib.suppress(ImportError):
            setup_imports()
        for module in fairchem.MODELS.values():
            __import__(module)
        from fairchem.core.trainers import OCPTrainer

        logging.disable(logging.WARNING)
        try:
            return OCPTrainer(
                task={},
                model=model,
                outputs={
                    "energy": {"level": "system"},
                    "forces": {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True},
                },
                dataset={
                    "train": {
                        "format": "lmdb",
                        "transforms": {
                            "normalizer": {
                                "energy": {"mean": -1.0, "stdev": 2.0},
                                "forces": {"mean": 0.0, "stdev": 2.0},
                            }
                        },
                    }
                },
                optimizer={
                    "batch_size": 2,
                    "lr_initial": 1e-2,
                    "max_epochs": 1,
                    "ema_decay": 0.9,
                    "num_workers": 0,
                    "lr_milestones": [1000],
                    "warmup_steps": 10,
                    "warmup_factor": 0.2,
                    "lr_gamma": 0.1,
                    **optimizer,
                },
                loss_functions=[
                    {"energy": {"fn": "mae", "coefficient": 1}},
                    {"forces": {"fn": "l2mae", "coefficient": 10}},
                ],
                evaluation_metrics={
                    "metrics": {"energy": ["mae"], "forces": ["mae"]},
                    "primary_metric": "forces_mae",
                },
                identifier="test",
                local_rank=0,
                is_debug=True,  # no logger; `save` is told otherwise
                cpu=True,
                name="ocp",
                seed=0,
                run_dir=str(folder),
            )
        finally:
            logging.disable(logging.NOTSET)


def train(trainer, steps=2):
    """Take training steps by the trainer's own methods."""
    batch = molecules()
    batch.energy = torch.tensor([1.0, 2.0])
    batch.forces = torch.full_like(batch.pos, 0.1)
    trainer.model.train()
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            trainer.optimizer.zero_grad()
            loss = trainer._compute_loss(trainer._forward(batch.clone()), batch)
            trainer._backward(loss)
            losses.append(float(loss))
    return losses


def write(trainer, path):
    """Let the trainer save what it saves after an epoch."""
    trainer.is_debug = False
    Path(trainer.config["cmd"]["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)
    trainer.epoch, trainer.step = 1, 2
    metrics = {"energy_mae": {"metric": 1.0, "total": 2.0, "numel": 2}}
    Path(trainer.save(metrics=metrics, checkpoint_file="checkpoint.pt")).replace(path)
    trainer.is_debug = True
    return path


def checkpoint(name, folder, **changes):
    """Train a model of fairchem for two steps and return the file that its trainer writes."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True, parents=True)
    trainer = trainer_of(config_of(name, **changes), folder)
    train(trainer)
    return write(trainer, folder / "original.pt")
