"""The curvature experiments measure what theory says, and leave their folders behind."""

import numpy as np
import pytest
from support import load, quick_run

# What each draws, and the file of its rows.
FIGURES = {
    "hessian_spectrum": ("hessian-spectrum", "records"),
    "curvature_cost": ("curvature-cost", "costs"),
    "hessian_memory": ("hessian-memory", "memory"),
    "ggn_hessian": ("ggn-hessian", "steps"),
}


@pytest.mark.slow
def test_sharpness_settles_at_two_over_the_step_while_the_loss_falls():
    module = load("experiments", "hessian_spectrum")
    (run,) = module.measure(steps=1600, edges=(10.0,))
    mean, spread = module.settled(run)
    assert mean == pytest.approx(1, abs=0.05)
    assert spread < 0.1
    assert run.losses[-1] < run.losses[0] / 30
    late = run.rises[-13:]
    assert 0.2 < np.mean(late) < 0.8  # at the edge about every second step leads uphill


@pytest.mark.slow
def test_spectrum_of_the_start_is_that_of_the_dense_hessian():
    import jax
    from jax.flatten_util import ravel_pytree

    module = load("experiments", "hessian_spectrum")
    module.WIDTH, module.EDGES = 5, (20.0,)
    module.SHOWN = 0
    (run,) = module.measure(steps=80, edges=(20.0,))
    loss, start = module.task()
    x, unflatten = ravel_pytree(start)
    values = np.linalg.eigvalsh(jax.hessian(lambda x: loss(unflatten(x)))(x))
    assert run.sharpness[0] == pytest.approx(values[-1], rel=1e-5)
    # So small a network that all eigenvalues were computed.
    np.testing.assert_allclose(run.spectra["start"].nodes[0], values, atol=1e-10)
    high, low, near = module.bulk(run.spectra["start"])
    assert (high, low) == pytest.approx((values[-1], values[0]))
    assert near == pytest.approx(np.mean(np.abs(values) < 0.02 * values[-1]))


@pytest.mark.slow
def test_products_cost_a_few_losses_and_the_hessian_as_many_as_columns():
    module = load("experiments", "curvature_cost")
    module.SECONDS = 0.05
    rows = module.measure(widths=(12,))
    assert len(rows) == 7 + 6  # the Hessian of the network alone
    counted = {row["what"]: row["operations"] for row in rows if row["operations"]}
    # Griewank and Walther: a gradient takes up to 4 times the operations, a product 10.
    assert 2 < counted[module.GRADIENT] < 4
    for mode in module.MODES:
        assert counted[module.GRADIENT] < counted[mode] < 10
    assert "gradient takes" in module.answer(rows)


@pytest.fixture(scope="module")
def memory():
    return load("experiments", "hessian_memory").measure(widths=(24,), sides=(22, 120))


@pytest.mark.slow
def test_chunks_take_a_fraction_of_the_memory(memory):
    share = {(r["loss"], r["method"], r["n"]): r["share"] for r in memory}
    assert share["network", "jax.hessian", 864] > 20
    assert share["network", "gradlab.hessian", 864] < 2.5
    assert share["grid", "gradlab.hessian", 484] < 2.1
    assert share["grid", "sparse.hessian", 484] < 0.1
    assert share["grid", "hvp", 484] < 0.01


def test_memory_of_what_is_too_large_is_that_of_the_result(memory):
    found = {r["method"]: r for r in memory if r["n"] == 14400}
    assert found["jax.hessian"]["bytes"] == 8 * 14400**2
    assert not found["jax.hessian"]["compiled"]
    assert found["sparse.hessian"]["bytes"] < 1e7


@pytest.fixture(scope="module")
def matrices():
    return load("experiments", "ggn_hessian").measure(steps=30)


@pytest.mark.slow
def test_gauss_newton_nears_the_hessian_where_the_targets_are_met(matrices):
    module = load("experiments", "ggn_hessian")
    found = {row["task"]: row for row in module.summary(matrices)}
    assert found[module.EXACT]["distance"] < found[module.EXACT]["distance_start"] / 100
    assert found[module.WRONG]["distance"] > 0.02
    for row in found.values():
        assert row["loss"] < row["loss_start"]
        assert row["negative"] < row["negative_start"]


def test_gauss_newton_has_no_negative_eigenvalue(matrices):
    for row in matrices:
        assert row["low_ggn"] > -1e-10 * row["high_ggn"]


def test_distance_is_zero_for_a_linear_model():
    module = load("experiments", "ggn_hessian")
    A = np.diag([3.0, 2.0, -1e-3])
    found = module._compared(np.zeros(3), A, A)
    assert found["distance"] == 0
    assert (found["high"], found["low"], found["negative"]) == (3.0, -1e-3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_quick_run_leaves_its_folder(name, tmp_path, capsys):
    folder, _ = quick_run(name, tmp_path, capsys)
    figure, rows = FIGURES[name]
    assert (folder / f"{figure}.png").stat().st_size > 20_000
    assert (folder / f"{figure}.svg").stat().st_size > 20_000
    assert len((folder / f"{rows}.csv").read_text().splitlines()) > 10
