"""Metrics against fields whose errors are known, and tables of runs."""

import math

import numpy as np
import pytest

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde import metrics, tables
from dcsurgery.zoo.pde.variants import VARIANTS
from dcsurgery.zoo.runs import RunRecord

N = 32
X = (np.arange(N) + 0.5) / N


def waves(*numbers, frames=3):
    wave = sum(np.cos(2 * np.pi * k * X) for k in numbers)
    return np.tile(wave[None, :, None], (frames, 1, 1))


def test_an_exact_prediction_has_no_errors():
    assert all(value == 0 for value in metrics.errors(waves(1), waves(1)).values())


def test_errors_of_a_shifted_field_are_the_shift():
    found = metrics.errors(waves(1) + 0.25, waves(1))
    for name in ("rmse", "conserved", "max", "boundary"):
        assert found[name] == pytest.approx(0.25)
    assert found["nrmse"] == pytest.approx(0.25 * math.sqrt(2))
    assert found["fourier_low"] == pytest.approx(0.25 / 4) and found["fourier_high"] == pytest.approx(0)


def test_bands_hold_the_waves_of_their_numbers():
    # A cosine of amplitude 1 has the coefficient n/2 at its wave number.
    for k, band, width in ((2, "fourier_low", 4), (7, "fourier_middle", 8), (13, "fourier_high", N // 2 + 1 - 12)):
        found = metrics.errors(waves(k), 0 * waves(k))
        assert found[band] == pytest.approx(0.5 / width)
        others = {"fourier_low", "fourier_middle", "fourier_high"} - {band}
        assert all(found[other] == pytest.approx(0, abs=1e-12) for other in others)


def test_two_axes_by_loops():
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(2, 2, 8, 8, 2))
    found = metrics.errors(p, q)
    rmse, ends = [], []
    for frame in range(2):
        for channel in range(2):
            off = p[frame, :, :, channel] - q[frame, :, :, channel]
            rmse.append(math.sqrt(np.mean(off**2)))
            ends.append(math.sqrt((sum(off[0] ** 2 + off[-1] ** 2) + sum(off[:, 0] ** 2 + off[:, -1] ** 2)) / 32))
    assert found["rmse"] == pytest.approx(np.mean(rmse)) and found["boundary"] == pytest.approx(np.mean(ends))
    plane = np.tile(np.cos(2 * np.pi * X)[None, :, None, None], (1, 1, N, 1))
    # |k| = 1 holds (1, 0) and (1, 1); only the first, of size n²/2, is there.
    assert metrics.errors(plane, 0 * plane)["fourier_low"] == pytest.approx(0.5 / 4)


def test_shapes_that_differ():
    with pytest.raises(BadInput, match=r"one shape .* got \(3, 32, 1\) and \(2, 32, 1\)"):
        metrics.errors(waves(1), waves(1, frames=2))


# -- tables ------------------------------------------------------------------------------------------------------------


def record(variant="tanh", seed=0, status="finished", note="", settings=None, **metrics_):
    values = {"rmse": 0.1, "nrmse": 0.5, "loss_f": 1e-3, "loss_ic_u": 2e-3, "loss_bc_u": 3e-3, **metrics_}
    return RunRecord(
        "pinn-advection", variant, seed, settings or {"steps": 5}, {"fingerprint": "f"}, values, status, note
    )


def test_a_table_has_mean_and_deviation_over_the_seeds_that_did_not_diverge():
    records = [record(seed=0, nrmse=0.4), record(seed=1, nrmse=0.6), record(seed=2, status="diverged", nrmse=9)]
    rows = {
        row.variant.name: row for row in tables.rows(3, [*records, record("irelu", note="the network is constant: …")])
    }
    cell = rows["tanh"].cells["nrmse"]
    assert (cell.mean, cell.std) == (pytest.approx(0.5), pytest.approx(np.std([0.4, 0.6], ddof=1)))
    assert rows["tanh"].seeds == (0, 1, 2) and rows["tanh"].diverged == 1 and rows["irelu"].constant == 1
    assert str(rows["tanh-bn"].cells["nrmse"]) == "-" and rows["tanh"].paper == (1.59, 1e-5, 3e-6, 6e-6)


def test_equations_of_several_terms_are_added_in_the_papers_column():
    one = record(loss_f_mass=1.0, loss_f_energy=2.0, loss_f=0.0)
    assert tables.rows(3, [one])[2].cells["f"].mean == 3.0


def test_runs_of_different_settings_make_no_table():
    with pytest.raises(BadInput, match="2 different settings"):
        tables.rows(3, [record(), record(seed=1, settings={"steps": 6})])
    with pytest.raises(BadInput, match="Table 6 is none of the PINNs'"):
        tables.problem_of(6)


def test_every_table_has_the_papers_four_variants_and_the_second_order_one_more():
    for number in (3, 4, 5):
        assert set(tables.PAPER[number]) == {"tanh-bn", "irelu-bn", "tanh", "irelu"}
        lengths = {len(values) for values in tables.PAPER[number].values()}
        assert lengths == {len(tables.columns(number)) - 1}
    assert {v.name for v in tables.variants_of(5)} == set(VARIANTS)
