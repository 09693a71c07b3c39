"""Functions and methods made anew, compiled once: and never a wrong program for them."""

import functools
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab as gl
from gradlab import _equal_programs
from gradlab._equal_programs import computed
from gradlab.derivatives import curvature as cv
from gradlab.optimizers._recipe import recipe

KEY = jax.random.key(0)


def quartic(x):
    return jnp.sum(x**4) + jnp.sum(x[1:] * x[:-1]) ** 2


@pytest.fixture
def compilations():
    """A list that grows by the name of every function compiled."""
    names = []

    def listen(event, *_, **more):
        if "backend_compile" in event:
            names.append(more.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    "measure",
    [
        lambda f, x: cv.top_eigenpairs(cv.hessian_vp(f, x), x).values,
        lambda f, x: cv.condition_number(cv.hessian_vp(f, x), x).value,
        lambda f, x: cv.trace(cv.hessian_vp(f, x), x, key=KEY, num_products=6).value,
        lambda f, x: cv.diagonal(cv.hessian_vp(f, x), x).value,
        lambda f, x: cv.spectrum(cv.hessian_vp(f, x), x).nodes,
        lambda f, x: gl.hessian(f)(x),
        lambda f, x: gl.certify(f, x).value,
    ],
)
def test_another_point_and_a_function_made_anew_compile_nothing(measure, compilations):
    x, y = jnp.linspace(0.5, 1.5, 8), jnp.linspace(2.0, -1.0, 8)
    measure(lambda x: quartic(x), x)
    del compilations[:]
    there = measure(lambda x: quartic(x), y)
    assert compilations == []
    np.testing.assert_allclose(there, jax.jit(lambda y: measure(quartic, y))(y), rtol=1e-4)


def test_what_a_function_reads_may_change_between_calls():
    settings = {"power": 2, "weights": jnp.ones(3)}

    def f(x):
        return jnp.sum(settings["weights"] * x ** settings["power"])

    hessian, x = gl.hessian(f), jnp.full(3, 2.0)
    np.testing.assert_allclose(hessian(x), 2 * jnp.eye(3))
    settings["weights"] = jnp.arange(3.0)
    np.testing.assert_allclose(hessian(x), 2 * jnp.diag(jnp.arange(3.0)))
    settings["power"] = 3
    np.testing.assert_allclose(hessian(x), 12 * jnp.diag(jnp.arange(3.0)))


def test_shapes_dtypes_and_structures_are_told_apart():
    def halved(x):
        return jax.tree.map(lambda leaf: leaf / 2, x)

    for x in (jnp.ones(3), jnp.ones(4), jnp.ones(3, jnp.float16), {"a": jnp.ones(3)}, (1.0,)):
        got = computed(halved, x)
        assert jax.tree.structure(got) == jax.tree.structure(x)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(x), strict=True):
            assert a.dtype == jnp.result_type(b)
            assert np.all(np.asarray(a) == 0.5)
    by_name = [computed(lambda x, name=name: {name: x}, jnp.ones(2)) for name in "ab"]
    assert [set(tree) for tree in by_name] == [{"a"}, {"b"}]


def test_weak_types_and_devices_are_kept():
    for x in (2.0, jnp.float32(2), np.float32(2), jnp.asarray(2.0)):
        assert computed(lambda x: x + 1, x).weak_type == (x + jnp.zeros((), bool)).weak_type
    script = """
import jax, jax.numpy as jnp, gradlab as gl
from jax.sharding import NamedSharding, PartitionSpec
hessian, places = gl.hessian(lambda x: jnp.sum(x**3)), jax.devices()
for place in (*places, NamedSharding(gl.sharding.mesh(), PartitionSpec())):
    got = hessian(jax.device_put(jnp.arange(4.0), place))
    print(len(got.devices()), got.sum())
"""
    told = subprocess.check_output(
        [sys.executable, "-c", script], text=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    )
    assert told.split() == ["1", "36.0", "1", "36.0", "2", "36.0"]


def test_arrays_closed_over_anywhere_are_told_apart(random):
    # Large ones too, which a program's text could leave out.
    def within(place, array):
        def weigh(x):
            return jnp.sum(x * array)

        ruled = jax.custom_jvp(weigh)
        ruled.defjvp(lambda p, t: (weigh(*p), weigh(*t)))
        return {
            "itself": weigh,
            "jit": jax.jit(weigh),
            "custom_jvp": ruled,
            "cond": lambda x: jax.lax.cond(x[0] > 0, weigh, lambda x: x[0], x),
            "grad": lambda x: jnp.sum(jax.grad(weigh)(x) * x),
        }[place]

    for place in ("itself", "jit", "custom_jvp", "cond", "grad"):
        for convert in (np.asarray, jnp.asarray):
            for array in random.standard_normal((2, 3000)):
                got = computed(within(place, convert(array)), jnp.ones(3000))
                np.testing.assert_allclose(got, array.sum(), rtol=1e-9)


def test_programs_that_call_python_back_share_nothing(capsys):
    def scaled_by(k):
        def host(x):
            return np.asarray(k * np.asarray(x), np.float64)

        def f(x):
            jax.debug.print("{}" + f" times {k}", x)
            return jax.pure_callback(host, jax.typeof(x), x, vmap_method="sequential")

        return f

    for k in (2.0, 3.0):
        assert computed(scaled_by(k), jnp.asarray(1.5)) == k * 1.5
        jax.effects_barrier()
        assert f"times {k}" in capsys.readouterr().out


def test_within_a_trace_the_function_is_called_as_it_is():
    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def closing_over(x, y):
        return jax.grad(lambda z: computed(lambda y: jnp.sum(x * y * z**2), y))(1.0)

    got = closing_over(jnp.arange(3.0), jnp.ones(2))
    np.testing.assert_allclose(got, 4 * np.arange(3.0))


def test_few_programs_are_kept():
    for i in range(_equal_programs.CACHE_SIZE + 3):
        assert computed(lambda x, i=i: x + float(i), jnp.zeros(())) == i
    assert len(_equal_programs._cache) == _equal_programs.CACHE_SIZE


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.adam(0.1),
        lambda: optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9)),
        lambda: optax.adam(optax.cosine_decay_schedule(0.1, 20)),
    ],
)
def test_a_method_made_anew_compiles_nothing(make, compilations):
    x = jnp.linspace(0.5, 1.5, 3)
    first = gl.minimize(quartic, x, make(), max_steps=20)
    del compilations[:]
    again = gl.minimize(quartic, x, make(), max_steps=20)
    assert compilations == []
    assert again.fun == first.fun


def test_our_own_methods_made_anew_are_known_again():
    # In a process of its own: here every function of ours is wrapped to check its types.
    script = """
import jax, jax.numpy as jnp, gradlab as gl
names = []

def listen(event, *_, **more):
    if "backend_compile" in event:
        names.append(more["fun_name"])

def loss(x):
    return jnp.sum(x**4 - x)

jax.monitoring.register_event_duration_secs_listener(listen)
for noise in (None, None, 1e-3, 1e-3):
    names.clear()
    gl.minimize(loss, jnp.ones(3), gl.newton_cg(noise=noise))
    print("jit(advance)" in names)
"""
    said = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert said == ["True", "False", "True", "False"]


def test_methods_of_other_numbers_are_others():
    makers = [gl.newton, gl.cubic_newton, gl.lbfgs]
    made = [make(noise=noise) for make in makers for noise in (None, 0.0, 1e-3, float("nan"))]
    made += [optax.adam(0.1), optax.adam(0.2), optax.adam(0.1, nesterov=True), optax.sgd(0.1)]
    made += [optax.chain(optax.sgd(0.1), optax.adam(0.1)), optax.sgd(-0.0), optax.sgd(0.0)]
    assert len({recipe(method) for method in made}) == len(made)


def test_a_function_differs_by_its_defaults_too():
    def library(step):
        home = {"__name__": "optax.made_up"}
        return types.FunctionType((lambda step: step).__code__, home, "library", (step,))

    assert recipe(library(0.1)) == recipe(library(0.1))
    assert recipe(library(0.1)) != recipe(library(0.2))


RATE = 0.1


def test_a_method_of_the_users_own_code_equals_itself_alone(monkeypatch):
    # It may read what has changed since it was written.
    def own():
        def update(updates, state, params=None):
            return jax.tree.map(lambda g: -RATE * g, updates), state

        return optax.GradientTransformation(lambda params: (), update)

    def scheduled():
        return optax.sgd(lambda count: RATE)

    for make in (own, scheduled):
        monkeypatch.setitem(globals(), "RATE", 0.1)
        assert recipe(make()) != recipe(make())
        slow = gl.minimize(quartic, jnp.ones(3), make(), max_steps=3)
        monkeypatch.setitem(globals(), "RATE", 0.01)
        slower = gl.minimize(quartic, jnp.ones(3), make(), max_steps=3)
        assert slow.fun != slower.fun
    named = functools.wraps(optax.sgd)(lambda rate: RATE)
    assert named.__module__.startswith("optax")
    assert recipe(named) != recipe(functools.wraps(optax.sgd)(lambda rate: RATE))
