"""The driver between Python and the compiled loop: nothing compiles twice."""

import jax.numpy as jnp
import pytest

import gradlab as gl


@pytest.mark.parametrize("method", gl.methods())
def test_chunks_and_later_runs_compile_nothing_anew(method):
    traces = []

    def loss(x):
        traces.append(1)
        return jnp.sum((x - jnp.arange(3.0)) ** 4)

    result = gl.minimize(loss, jnp.ones(3), method, max_steps=40)
    # The start, the loop (newton_cg traces its model and its trials), the best point's
    # gradient: were the loop's carry to change type between two calls, it would be more.
    assert len(traces) <= 4
    before = len(traces)
    again = gl.minimize(loss, jnp.zeros(3), method, max_steps=30)
    assert len(traces) == before
    assert result.nit <= 40
    assert again.nit <= 30
