"""What the tests share: a comparison scaled by the dtype, scripts, a plain optax loop."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab._json import read_json

ROOT = Path(__file__).parents[1]


def slowly(first, *others, quick=()):
    """Parameters of a test: the first, and those named, always; others with the slow tests.

    A tuple among the others is one value for each of the test's parameters.
    """

    def later(value):
        values = value if isinstance(value, tuple) else (value,)
        return pytest.param(*values, marks=pytest.mark.slow)

    return [first, *(value if value in quick else later(value) for value in others)]


def assert_close(actual, expected, *, factor=100.0, scale=None):
    """Assert that two pytrees agree to `factor` roundings of their coarsest dtype.

    The error is relative to the largest entry of each leaf of `expected`, or to `scale`.
    """
    actual_leaves, actual_tree = jax.tree.flatten(actual)
    expected_leaves, expected_tree = jax.tree.flatten(expected)
    assert actual_tree == expected_tree, f"{actual_tree} != {expected_tree}"
    for a, e in zip(actual_leaves, expected_leaves, strict=True):
        eps = max(_eps(a), _eps(e))
        a, e = np.asarray(a), np.asarray(e)
        assert a.shape == e.shape, f"shape {a.shape} != {e.shape}"
        magnitude = scale if scale is not None else np.max(np.abs(e), initial=0.0)
        error = np.max(np.abs(a.astype(e.dtype) - e), initial=0.0)
        assert error <= factor * eps * magnitude, (
            f"error {error:.3e} > {factor:g} eps × {magnitude:.3e}\n{a}\n{e}"
        )


def _eps(x):
    dtype = jnp.asarray(x).dtype
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def load(folder, name):
    """Import a script, an experiment or a benchmark, anew from its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def quick_run(name, out, capsys):
    """Folder and summary of an experiment run with --quick, finished and its answer printed."""
    load("experiments", name).main(["--quick", "--out", str(out)])
    folder = out / f"{name}-1"
    summary = read_json(folder / "summary.json")
    assert summary["status"] == "finished"
    assert summary["answer"] in capsys.readouterr().out
    return folder, summary


def follow(transformation, fun, params, num_steps):
    """Points and states of `num_steps` updates, in a plain loop."""

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(fun)(params)
        updates, state = transformation.update(
            grad, state, params, value=value, grad=grad, value_fn=fun
        )
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    points, states = [params], [state]
    for _ in range(num_steps):
        params, state = step(params, state)
        points.append(params)
        states.append(state)
    return points, states
