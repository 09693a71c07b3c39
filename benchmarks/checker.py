"""How good is the checker? Planted faults it must find, hard functions it must let pass.

    python benchmarks/checker.py [--only NAME] [--peers]

Prints the share of faults found and named, the false alarms at order 1 and 2, how often it
cannot tell, and, with --peers, the same for `jax.test_util.check_grads` at its defaults.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)

import numpy as np
from jax import lax
from jax.scipy.special import gammaln, i0e, logsumexp

f16, bf16, f32, f64 = jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64


class Case(NamedTuple):
    """A function at a point; for a fault, the leaf it is in and the order it shows at."""

    name: str
    f: Callable[..., Any]
    args: tuple[Any, ...]
    leaf: str = ""
    order: int = 1


def normal(*shape, seed=0, dtype=f64, scale=1.0):
    """Fixed random numbers."""
    values = np.random.default_rng(seed).normal(size=shape) * scale
    return jnp.asarray(values, dtype)


def jvp_rule(value, tangent):
    """Give a function a forward rule, right or wrong: tangent(primals, tangents)."""
    f = jax.custom_jvp(value)
    f.defjvp(lambda p, t: (f(*p), tangent(p, t)))
    return f


def vjp_rule(value, pull):
    """Give a function a reverse rule, right or wrong: pull(primals, cotangent)."""
    f = jax.custom_vjp(value)
    f.defvjp(lambda *x: (f(*x), x), pull)
    return f


def one_of(x, number, factor):
    """Ones, but for one entry."""
    return jnp.where(jnp.arange(x.size).reshape(x.shape) == number, factor, 1.0).astype(x.dtype)


# --- faults -------------------------------------------------------------------------------

square_one_wrong = jvp_rule(
    lambda w: w**2, lambda p, t: 2 * p[0] * t[0] * one_of(p[0], 4321, 1 + 1e-4)
)
sin_vjp_one_wrong = vjp_rule(
    jnp.sin, lambda p, g: (g * jnp.cos(p[0]) * one_of(p[0], 777, 1 + 1e-4),)
)
tanh_close = jvp_rule(jnp.tanh, lambda p, t: (1 + 1e-4) * (1 - jnp.tanh(p[0]) ** 2) * t[0])
cos_sign = jvp_rule(jnp.cos, lambda p, t: jnp.sin(p[0]) * t[0])
square_half = jvp_rule(lambda x: x**2, lambda p, t: p[0] * t[0])
mean_as_sum = vjp_rule(lambda x: jnp.mean(x), lambda p, g: (g * jnp.ones_like(p[0]),))
matmul_wrong_transpose = vjp_rule(lambda x, w: x @ w, lambda p, g: (g @ p[1], p[0].T @ g))
quadratic_transposed = vjp_rule(
    lambda a, v: v @ a @ jnp.sin(v),
    lambda p, g: (
        g * jnp.outer(jnp.sin(p[1]), p[1]),
        g * (p[0] @ jnp.sin(p[1]) + jnp.cos(p[1]) * (p[0].T @ p[1])),
    ),
)
sin_flat_rule = jvp_rule(jnp.sin, lambda p, t: lax.stop_gradient(jnp.cos(p[0])) * t[0])
X0 = 0.7
sin_at_one_point = jvp_rule(jnp.sin, lambda p, t: np.cos(X0) * t[0])
product_half_rule = jvp_rule(
    lambda x, y: x * y, lambda p, t: lax.stop_gradient(p[1]) * t[0] + p[0] * t[1]
)
exp_vjp_flat = vjp_rule(jnp.exp, lambda p, g: (g * lax.stop_gradient(jnp.exp(p[0])),))
cube_slope = jvp_rule(lambda x: 3 * x**2, lambda p, t: 3 * p[0] * t[0])
cube_second = jvp_rule(lambda x: x**3, lambda p, t: cube_slope(p[0]) * t[0])
relu_leaky = jvp_rule(jax.nn.relu, lambda p, t: jnp.where(p[0] > 0, 1.0, 0.01) * t[0])
square_missing_conj = vjp_rule(lambda z: z**2 * 1j, lambda p, g: (g * jnp.conj(2j * p[0]),))
abs2_half = vjp_rule(
    lambda z: jnp.real(z) ** 2 + jnp.imag(z) ** 2, lambda p, g: (g * jnp.conj(p[0]),)
)
cumsum_wrong = vjp_rule(lambda x: jnp.cumsum(x), lambda p, g: (jnp.cumsum(g),))
log_near = jvp_rule(jnp.log, lambda p, t: 1.01 * t[0] / p[0])
square_far = jvp_rule(lambda x: x**2, lambda p, t: 2.002 * p[0] * t[0])
lse_unnormalised = vjp_rule(
    lambda x: logsumexp(x), lambda p, g: (g * jnp.exp(p[0] - jnp.max(p[0])),)
)
clip_through = vjp_rule(lambda x: jnp.clip(x, -1, 1), lambda p, g: (g,))
row_wrong = jvp_rule(jnp.sin, lambda p, t: jnp.cos(p[0]) * t[0] * one_of(p[0], 4, 1.1))
output_wrong = jvp_rule(
    jnp.tanh, lambda p, t: (1 - jnp.tanh(p[0]) ** 2) * t[0] * one_of(p[0], 321, 1.01)
)


@jax.custom_vjp
def cross_entropy(logits, labels):
    """Cross-entropy whose gradient forgets the one-hot part."""
    return jnp.mean(logsumexp(logits, axis=1) - logits[jnp.arange(len(labels)), labels])


cross_entropy.defvjp(
    lambda z, y: (cross_entropy(z, y), (z, y)),
    lambda r, g: (g * jax.nn.softmax(r[0]) / len(r[1]), None),
)


@jax.custom_vjp
def take_rows(table, rows):
    """Embedding whose gradient is scattered one row too far."""
    return table[rows]


take_rows.defvjp(
    lambda t, r: (t[r], (t, r)),
    lambda res, g: (jnp.zeros_like(res[0]).at[res[1] + 1].add(g), None),
)


def layer_norm_constant(x, gain):
    """Layer norm whose gradient takes the variance as constant."""
    centred = x - jnp.mean(x)
    return jnp.sum(jnp.sin(gain * centred / jnp.sqrt(lax.stop_gradient(jnp.mean(centred**2)))))


def wrong_linear_transpose(x):
    """A linear call whose transpose is not its transpose."""
    a = normal(4, 4, seed=3)
    y = jax.custom_derivatives.linear_call(
        lambda r, v: r @ v, lambda r, v: r @ v, a, jnp.sin(x)
    )
    return jnp.sum(y**2)


def unsymmetric_solve(b):
    """A solve that claims a symmetric matrix."""
    a = jnp.eye(5, dtype=b.dtype) * 3 + normal(5, 5, seed=1).astype(b.dtype) * 0.5
    x = lax.custom_linear_solve(
        lambda v: a @ v, b, lambda _, r: jnp.linalg.solve(a, r), symmetric=True
    )
    return jnp.sum(jnp.sin(x))


def fixed_point(a):
    """x = cos(a x), whose implicit derivative misses a term."""

    @jax.custom_vjp
    def solve(a):
        return lax.fori_loop(
            0, 60, lambda i, x: 0.5 * x + 0.5 * jnp.cos(a * x), jnp.ones_like(a)
        )

    def pull(res, g):
        a, x = res
        return (-g * jnp.sin(a * x) * x,)

    solve.defvjp(lambda a: (solve(a), (a, solve(a))), pull)
    return jnp.sum(solve(a) ** 2)


def only_under_vmap(gradient_only):
    """Build a function that doubles itself, or its gradient, in a batch."""

    @jax.custom_batching.custom_vmap
    def double(x):
        return x * 1.0

    @double.def_vmap
    def _(size, batched, x):
        return 2.0 * x, batched[0]

    shown = jvp_rule(double, lambda p, t: t[0])
    slope = vjp_rule(jnp.sin, lambda p, g: (shown(g * jnp.cos(p[0])),))
    if gradient_only:
        return lambda x: jnp.sum(slope(x))
    return lambda x: jnp.sum(shown(jnp.sin(x)))


def rnn_late(w, x0):
    """A recurrence whose cell is wrong after step 7."""
    cell = jvp_rule(
        lambda h, k: jnp.tanh(h),
        lambda p, t: (1 - jnp.tanh(p[0]) ** 2) * t[0] * jnp.where(p[1] > 7, 1.05, 1.0),
    )
    step = lambda h, k: (cell(w @ h, k.astype(h.dtype)), None)
    return jnp.sum(lax.scan(step, x0, jnp.arange(10))[0])


def callback_sine(x):
    """Sine by callback, its derivative with the wrong sign."""
    call = jvp_rule(
        lambda x: jax.pure_callback(
            lambda v: np.sin(v),
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            x,
            vmap_method="expand_dims",
        ),
        lambda p, t: -jnp.cos(p[0]) * t[0],
    )
    return jnp.sum(call(x))


def staircase(x, size):
    """Deterministic noise of a given size, of zero derivative."""
    bits = jnp.floor(jnp.abs(lax.stop_gradient(x)) * 1e9 % 977.0)
    return size * jnp.sum(bits / 977.0 - 0.5)


def tree_100(p, faulty):
    """A hundred leaves, of which one has a wrong rule."""
    total = 0.0
    for k, (name, v) in enumerate(sorted(p.items())):
        total += jnp.sum((cos_sign if faulty and k == 61 else jnp.cos)(v)) * (1 + k)
    return total


def newton_sqrt(x):
    """Square root by a while loop."""
    body = lambda s: (s[0] + 1, 0.5 * (s[1] + x / s[1]))
    return lax.while_loop(lambda s: s[0] < 12, body, (0, x))[1]


def as_float32(x):
    """A function that computes in float32 whatever it is given."""
    return jnp.sum(jnp.sin(x.astype(f32)) ** 2)


FAULTS = [
    Case("one of 1e4, 1e-4 off", lambda p: jnp.sum(square_one_wrong(p["w"])) + jnp.sum(p["b"] ** 3), ({"w": normal(100, 100), "b": normal(10)},), "p['w'][43, 21]"),
    Case("one of 1e4, 1e-4 off, float32", lambda p: jnp.sum(square_one_wrong(p["w"])), ({"w": normal(100, 100, dtype=f32)},), "p['w'][43, 21]"),
    Case("one of 1e4, 1e-4 off, custom_vjp", lambda w: jnp.sum(sin_vjp_one_wrong(w) ** 2), (normal(10000),), "w[777]"),
    Case("all 1e-4 off", lambda p: jnp.sum(tanh_close(p["a"]) ** 2 * p["b"]), ({"a": normal(20), "b": normal(20, seed=1)},), "p['a']"),
    Case("sign", lambda x, y: jnp.sum(cos_sign(x)) * y, (normal(7), 2.0), "x"),
    Case("factor", lambda x: jnp.sum(square_half(x)), (normal(7),), "x"),
    Case("mean without 1/n", lambda x: mean_as_sum(jnp.sin(x)), (normal(12),), "x"),
    Case("wrong transpose", lambda x, w: jnp.sum(matmul_wrong_transpose(x, w) ** 2), (normal(3, 4), normal(4, 4, seed=1)), "x"),
    Case("transposed gradient", lambda a, v: quadratic_transposed(a, v), (normal(5, 5), normal(5, seed=2)), "a"),
    Case("stop_gradient on 3e5", lambda p: jnp.sum(jnp.tanh(lax.stop_gradient(p["big"]))) + jnp.sum(p["small"] ** 2), ({"big": normal(300000, dtype=f32), "small": normal(3, dtype=f32)},), "p['big']"),
    Case("stop_gradient in a product", lambda x: jnp.sum(x * lax.stop_gradient(jnp.sin(x))), (normal(5),), "x"),
    Case("one leaf of five", lambda p: sum(jnp.sum((square_half if k == "d" else jnp.sin)(v)) for k, v in p.items()), ({k: normal(6, seed=i) for i, k in enumerate("abcde")},), "p['d']"),
    Case("tiny leaf by a big one", lambda p: jnp.sum(p["big"] ** 2) + jnp.sum(cos_sign(1e6 * p["tiny"])), ({"big": normal(50, scale=1e6), "tiny": normal(5, scale=1e-6)},), "p['tiny']"),
    Case("one leaf of a hundred", lambda p: tree_100(p, True), ({f"w{k:02d}": normal(4, seed=k) for k in range(100)},), "p['w61']"),
    Case("value only under vmap", only_under_vmap(False), (normal(3),), ""),
    Case("gradient only under vmap", only_under_vmap(True), (normal(3),), ""),
    Case("one branch of cond", lambda x: jnp.sum(lax.cond(x[0] > 0, lambda v: square_half(v), jnp.cos, x)), (jnp.abs(normal(4)),), "x"),
    Case("one branch of where", lambda x: jnp.sum(jnp.where(x > 1, square_half(x), jnp.sin(x))), (normal(40),), "x"),
    Case("norm at 0", lambda p: jnp.linalg.norm(p["u"]) + jnp.sum(p["v"] ** 2), ({"u": jnp.zeros(3), "v": normal(3)},), "p['u']"),
    Case("where trap, log", lambda x: jnp.sum(jnp.where(x > 0, jnp.log(x), 0.0)), (jnp.array([1.0, 0.0, 2.0]),), "x[1]"),
    Case("where trap, sqrt", lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0)), (jnp.array([1.0, 0.0, 2.0], f32),), "x[1]"),
    Case("arctan2 at 0", lambda x: jnp.where(x[0] > -1, x[1] ** 2 + 0 * jnp.arctan2(x[0] * 0, x[1] * 0), 0.0), (jnp.array([0.5, 2.0]),), "x"),
    Case("second order: flat rule", lambda x: jnp.sum(sin_flat_rule(x)), (normal(5),), "x", 2),
    Case("second order: right at one point", lambda x: jnp.sum(sin_at_one_point(x)), (jnp.full(3, X0),), "x", 2),
    Case("second order: off-diagonal", lambda x, y: jnp.sum(product_half_rule(x, y)), (normal(3), normal(3, seed=1)), "x", 2),
    Case("second order: custom_vjp", lambda x: jnp.sum(exp_vjp_flat(x)), (normal(4),), "x", 2),
    Case("second order: factor", lambda p: jnp.sum(cube_second(p["a"])) + jnp.sum(p["b"]) ** 2, ({"a": normal(4), "b": normal(4, seed=1)},), "p['a']", 2),
    Case("second order: one of 900", lambda w: jnp.sum(jvp_rule(jnp.sin, lambda p, t: jnp.where(jnp.arange(900) == 123, lax.stop_gradient(jnp.cos(p[0])), jnp.cos(p[0])) * t[0])(w)), (normal(900),), "w[123]", 2),
    Case("linear_call transpose", wrong_linear_transpose, (normal(4),), "x"),
    Case("solve not symmetric", unsymmetric_solve, (normal(5),), "b"),
    Case("implicit function", fixed_point, (jnp.array([0.8, 1.1]),), "a"),
    Case("complex without conj", lambda z: jnp.abs(square_missing_conj(z)) ** 2 + jnp.real(square_missing_conj(z)), (jnp.asarray(1.0 + 0.5j),), "z"),
    Case("complex, half", lambda z: jnp.sum(abs2_half(z)), (normal(3) + 1j * normal(3, seed=1),), "z"),
    Case("bfloat16, factor", lambda x: jnp.sum(square_half(x)), (normal(6, dtype=bf16),), "x"),
    Case("float16, sign", lambda x: jnp.sum(cos_sign(x)), (normal(6, dtype=f16),), "x"),
    Case("one row of a Jacobian", lambda x: row_wrong(normal(6, 4, seed=1).astype(x.dtype) @ x), (normal(4),), "x"),
    Case("one of 500 outputs", lambda x: output_wrong(normal(500, 4, seed=1).astype(x.dtype) @ x), (normal(4),), "x"),
    Case("one output leaf", lambda x, y: {"a": jnp.sin(x), "b": cos_sign(y) * x}, (normal(3), normal(3, seed=1)), "y"),
    Case("x near 1e-6, 1 % off", lambda x: jnp.sum(log_near(x)), (jnp.array([1e-6, 3e-6]),), "x"),
    Case("x near 1e6, 0.1 % off", lambda x: jnp.sum(square_far(x)), (jnp.array([1e6, 3e6], f32),), "x"),
    Case("noise 1e-6, factor", lambda x: jnp.sum(square_half(x)) + staircase(x, 1e-6), (normal(3),), "x"),
    Case("while loop, forward only", lambda x: jnp.sum(cos_sign(newton_sqrt(x))), (jnp.array([2.0, 3.0]),), "x"),
    Case("scatter one row off", lambda t, rows: jnp.sum(take_rows(t, rows) ** 2), (normal(6, 3), jnp.array([0, 2, 3])), "t"),
    Case("cumsum not reversed", lambda x: jnp.sum(cumsum_wrong(x) ** 2), (normal(8),), "x"),
    Case("cross-entropy without one-hot", lambda w, y: cross_entropy(normal(8, 4, seed=1).astype(w.dtype) @ w, y), (normal(4, 3), jnp.array([0, 1, 2, 0, 1, 2, 0, 1])), "w"),
    Case("logsumexp not normalised", lambda x: lse_unnormalised(x) ** 2, (normal(5),), "x"),
    Case("layer norm, constant variance", layer_norm_constant, (normal(6), normal(6, seed=1)), "x"),
    Case("clip passes through", lambda x: jnp.sum(jnp.sin(clip_through(x))), (2 * normal(9),), "x"),
    Case("relu leaks", lambda x: jnp.sum(relu_leaky(x) ** 1), (normal(9, dtype=f32),), "x"),
    Case("callback, sign", callback_sine, (normal(3),), "x"),
    Case("recurrence wrong late", rnn_late, (normal(4, 4), normal(4, seed=1)), "w"),
    Case("float32 inside, factor", lambda x: jnp.sum(square_half(x.astype(f32))), (normal(5),), "x"),
]  # fmt: skip


# --- hard, and right ----------------------------------------------------------------------


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def mlp(p, x, activation=jnp.tanh):
    for w, b in zip(p["w"][:-1], p["b"][:-1], strict=True):
        x = activation(x @ w + b[None])
    return jnp.mean((x @ p["w"][-1] + p["b"][-1][None]) ** 2)


def mlp_args(dtype, sizes=(4, 16, 16, 2)):
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    p = {
        "w": [
            normal(a, b, seed=i, dtype=dtype, scale=a**-0.5) for i, (a, b) in enumerate(pairs)
        ],
        "b": [jnp.zeros(b, dtype) for _, b in pairs],
    }
    return p, normal(8, sizes[0], seed=9, dtype=dtype)


def attention(p, x):
    q, k, v = (x @ p[name] for name in ("q", "k", "v"))
    return jnp.mean((jax.nn.softmax(q @ k.T / 4) @ v) ** 2)


def rk4(y0, rate):
    f = lambda y: jnp.stack([y[1], -rate * jnp.sin(y[0])])

    def step(y, _):
        h = 0.05
        a = f(y)
        b = f(y + h / 2 * a)
        c = f(y + h / 2 * b)
        return y + h / 6 * (a + 2 * b + 2 * c + f(y + h * c)), None

    return jnp.sum(lax.scan(step, y0, None, length=100)[0] ** 2)


def logistic_map(x):
    return lax.fori_loop(0, 20, lambda i, v: 3.9 * v * (1 - v), x)


def loose_solver(a):
    """Newton's method stopped at a loose tolerance, differentiated implicitly."""

    def solve(g, start):
        go = lambda s: jnp.abs(g(s)) > 1e-7
        return lax.while_loop(go, lambda s: s - g(s) / jax.grad(g)(s), start)

    g = lambda s: s**3 + a * s - 1
    return lax.custom_root(g, jnp.ones_like(a), solve, lambda l, y: y / l(1.0)) ** 2


def spd(x):
    a = normal(5, 5, seed=4).astype(x.dtype)
    return a @ a.T + jnp.eye(5, dtype=x.dtype) * 3 + jnp.outer(x, x)


def conv(p, image):
    y = lax.conv_general_dilated(image, p["k"], (1, 1), "SAME")
    return jnp.mean(jax.nn.gelu(y) ** 2)


sin_right_vjp = vjp_rule(jnp.sin, lambda p, g: (g * jnp.cos(p[0]),))
sin_right_jvp = jvp_rule(jnp.sin, lambda p, t: jnp.cos(p[0]) * t[0])

HARD = [
    Case("rosenbrock, float32", rosenbrock, (normal(6, dtype=f32),)),
    Case("rosenbrock near its minimum", rosenbrock, (1 + 1e-7 * normal(6),)),
    Case("mlp, float32, relu", lambda p, x: mlp(p, x, jax.nn.relu), mlp_args(f32)),
    Case("mlp, bfloat16", mlp, mlp_args(bf16)),
    Case("mlp, float16", mlp, mlp_args(f16)),
    Case("scales 1e-6 and 1e6", lambda p: jnp.sum(jnp.sin(1e6 * p["a"])) + jnp.sum(p["b"] ** 2), ({"a": normal(4, scale=1e-6), "b": normal(4, scale=1e6)},)),
    Case("sum of 1e5, float32", lambda x: jnp.sum(jnp.tanh(x) ** 2), (normal(100000, dtype=f32),)),
    Case("log at 1e-6", lambda x: jnp.sum(jnp.log(x)), (jnp.array([1e-6, 2e-6]),)),
    Case("1/x at 1e-6, float32", lambda x: jnp.sum(1 / x), (jnp.array([1e-6, 2e-6], f32),)),
    Case("x^2 at 1e6", lambda x: jnp.sum(x**2 * jnp.sin(1e-6 * x)), (jnp.array([1e6, -2e6]),)),
    Case("sqrt at 1e-6", lambda x: jnp.sum(jnp.sqrt(x)), (jnp.array([1e-6, 1e-7]),)),
    Case("exp(20 x)", lambda x: jnp.sum(jnp.exp(20 * x)), (normal(4),)),
    Case("sin(50 x)", lambda x: jnp.sum(jnp.sin(50 * x)), (normal(4),)),
    Case("kink 1e-3 away", lambda x: jnp.sum(jnp.abs(x - 1) ** 1 * x), (jnp.array([1.001, 0.999, 3.0]),)),
    Case("relu at 1e-5", lambda x: jnp.sum(jax.nn.relu(x) * jnp.sin(x + 1)), (jnp.array([1e-5, -1e-5, 1.0]),)),
    Case("relu at 0", lambda x: jnp.sum(jax.nn.relu(x)) + jnp.sum(x**2), (jnp.array([0.0, 1.0, -1.0]),)),
    Case("near ties of max", lambda x: jnp.max(x) ** 2 + jnp.min(x), (jnp.array([1.0, 1.0001, 0.3]),)),
    Case("sort", lambda x: jnp.sum(jnp.sort(x) * jnp.arange(6.0)), (normal(6),)),
    Case("top_k", lambda x: jnp.sum(lax.top_k(x, 3)[0] ** 2), (normal(8),)),
    Case("noise 1e-8", lambda x: jnp.sum(jnp.sin(x)) + staircase(x, 1e-8), (normal(3),)),
    Case("noise 1e-4", lambda x: jnp.sum(jnp.sin(x)) + staircase(x, 1e-4), (normal(3),)),
    Case("solver stopped at 1e-7", loose_solver, (jnp.asarray(0.7),)),
    Case("integer labels", lambda w, y: -jnp.mean(jax.nn.log_softmax(normal(6, 4, seed=1).astype(w.dtype) @ w)[jnp.arange(6), y]), (normal(4, 3, dtype=f32), jnp.array([0, 1, 2, 0, 1, 2]))),
    Case("holomorphic", lambda z: z**3 * jnp.exp(1j * z), (jnp.array([1 + 1j, 0.3 - 2j]),)),
    Case("complex to real", lambda z: jnp.sum(jnp.abs(z) ** 2 * jnp.angle(z)), (jnp.array([1 + 1j, 0.3 - 2j]),)),
    Case("complex64, fft", lambda z: jnp.sum(jnp.abs(jnp.fft.fft(z)) ** 2), ((normal(8) + 1j * normal(8, seed=1)).astype(jnp.complex64),)),
    Case("while loop", lambda x: jnp.sum(newton_sqrt(x)), (jnp.array([2.0, 3.0]),)),
    Case("while loop, float32", lambda p: jnp.sum(newton_sqrt(p["x"]) * p["y"]), ({"x": jnp.array([2.0, 3.0], f32), "y": normal(2, dtype=f32)},)),
    Case("eigenvalues", lambda x: jnp.sum(jnp.linalg.eigvalsh(spd(x)) ** 2), (normal(5),)),
    Case("log det", lambda x: 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(spd(x))))), (normal(5),)),
    Case("nuclear norm", lambda a: jnp.sum(jnp.linalg.svd(a, compute_uv=False)), (normal(4, 3),)),
    Case("logsumexp of large", lambda x: logsumexp(x), (1e3 + normal(5),)),
    Case("softmax with stop_gradient(max)", lambda x: jnp.log(jnp.sum(jnp.exp(x - lax.stop_gradient(jnp.max(x))))) + lax.stop_gradient(jnp.max(x)) + 0 * x[0], (normal(5, dtype=f32),)),
    Case("special functions", lambda x: jnp.sum(gammaln(x) + i0e(x)), (jnp.array([0.3, 2.0, 9.0]),)),
    Case("Runge-Kutta", rk4, (jnp.array([1.0, 0.0]), 2.0)),
    Case("logistic map", logistic_map, (jnp.asarray(0.37),)),
    Case("at a minimum, offset 1e6", lambda x: jnp.sum((x - 1) ** 2) + 1e6, (jnp.ones(4),)),
    Case("saddle", lambda x: x[0] ** 2 - x[1] ** 2, (jnp.zeros(2),)),
    Case("offset 1e8", lambda x: 1e8 + jnp.sum(jnp.sin(x)), (normal(3),)),
    Case("custom_vjp", lambda x: jnp.sum(sin_right_vjp(x) ** 2), (normal(4, dtype=f32),)),
    Case("custom_jvp", lambda x: jnp.sum(sin_right_jvp(x) ** 2), (normal(4, dtype=f32),)),
    Case("dead leaf", lambda p: jnp.sum(p["a"] ** 3), ({"a": normal(3), "unused": normal(3)},)),
    Case("cancelling", lambda x: (1 - jnp.cos(x)) / x**2, (jnp.asarray(1e-4),)),
    Case("huber", lambda x: jnp.sum(jnp.where(jnp.abs(x) < 1, 0.5 * x**2, jnp.abs(x) - 0.5)), (normal(20),)),
    Case("gather and scatter", lambda x: jnp.sum(jnp.zeros(5).at[jnp.array([0, 2, 2])].add(x[:3]) ** 2 * x[jnp.array([0, 0, 1, 2, 3])]), (normal(4),)),
    Case("100 leaves", lambda p: tree_100(p, False), ({f"w{k:02d}": normal(4, seed=k) for k in range(100)},)),
    Case("300 outputs", lambda x: jnp.tanh(normal(300, 4, seed=1).astype(x.dtype) @ x), (normal(4, dtype=f32),)),
    Case("tree of outputs", lambda x: {"a": jnp.sin(x), "n": jnp.argmax(x), "s": jnp.sum(x**2)}, (normal(3),)),
    Case("attention, float32", attention, ({k: normal(16, 16, seed=i, dtype=f32, scale=0.3) for i, k in enumerate("qkv")}, normal(5, 16, seed=7, dtype=f32))),
    Case("convolution, float16", conv, ({"k": normal(3, 2, 3, 3, dtype=f16, scale=0.3)}, normal(1, 2, 6, 6, seed=1, dtype=f16))),
    Case("float32 inside", as_float32, (normal(5),)),
    Case("saturated", lambda x: jnp.sum(jax.nn.sigmoid(x)), (jnp.array([20.0, -30.0, 0.1]),)),
    Case("x^1.5 at 1e-8", lambda x: jnp.sum(x**1.5), (jnp.array([1e-8, 2e-8]),)),
    Case("far tail", lambda x: jnp.sum(jnp.exp(-(x**2))), (jnp.array([5.0, 6.0]),)),
    Case("times 1e-30", lambda x: 1e-30 * jnp.sum(jnp.sin(x)), (normal(3),)),
    Case("times 1e20, float32", lambda x: 1e20 * jnp.sum(jnp.sin(x)), (normal(3, dtype=f32),)),
]  # fmt: skip


# --- measuring ----------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What a checker said of one case."""

    verdict: str
    named: bool
    order: int
    seconds: float
    text: str


def by_gradlab(case: Case, order: int = 2) -> Outcome:
    """Ask gradlab."""
    from gradlab.derivatives.check import check_derivatives

    start = time.perf_counter()
    try:
        report = check_derivatives(case.f, *case.args, order=order)
    except Exception:
        return Outcome(
            "crash",
            False,
            0,
            time.perf_counter() - start,
            traceback.format_exc().strip()[-300:],
        )
    named = any(case.leaf in f.where or case.leaf in f.leaf for f in report.findings)
    lowest = min((f.order for f in report.findings), default=0)
    return Outcome(report.verdict, named, lowest, time.perf_counter() - start, str(report))


def by_jax(case: Case, order: int = 2) -> Outcome:
    """Ask `jax.test_util.check_grads` at its defaults."""
    from jax.test_util import check_grads

    start = time.perf_counter()
    try:
        check_grads(case.f, case.args, order=order)
        verdict, text = "right", ""
    except AssertionError as error:
        verdict, text = "wrong", str(error)
    except Exception as error:
        verdict, text = "crash", str(error)
    return Outcome(verdict, False, 0, time.perf_counter() - start, text)


def measure(ask: Callable[[Case], Outcome], only: str, *, talk: bool) -> None:
    """Print one line a case, and the shares."""
    results = {}
    for kind, cases in (("fault", FAULTS), ("hard", HARD)):
        for case in cases:
            if only not in case.name:
                continue
            jax.clear_caches()
            outcome = ask(case)
            results[kind, case.name] = outcome
            good = outcome.verdict == ("wrong" if kind == "fault" else "right")
            good = good and (kind == "hard" or outcome.named)
            mark = " " if good else "!"
            print(
                f"{mark} {kind:5} {case.name:36} {outcome.verdict:12} {outcome.seconds:5.1f} s",
                flush=True,
            )
            if talk and (only or not good):
                print(outcome.text)
    _shares(results)


def _shares(results: dict[tuple[str, str], Outcome]) -> None:
    faults = [o for (kind, _), o in results.items() if kind == "fault"]
    hard = [o for (kind, _), o in results.items() if kind == "hard"]
    share = lambda hits, all_: (
        f"{sum(hits)} of {len(all_)} ({100 * sum(hits) / max(1, len(all_)):.0f} %)"
    )
    print("found:             ", share([o.verdict == "wrong" for o in faults], faults))
    print("named:             ", share([o.named for o in faults], faults))
    print(
        "false alarms, 1:   ",
        share(
            [o.verdict == "crash" or (o.verdict == "wrong" and o.order < 2) for o in hard], hard
        ),
    )
    print(
        "false alarms, 2:   ",
        share(
            [o.verdict == "crash" or (o.verdict == "wrong" and o.order == 2) for o in hard],
            hard,
        ),
    )
    both = [*faults, *hard]
    print("cannot tell:       ", share([o.verdict == "cannot tell" for o in both], both))
    print("crashes:           ", share([o.verdict == "crash" for o in both], both))
    seconds = sorted(o.seconds for o in both) or [0.0]
    print(
        f"seconds a case:     median {seconds[len(seconds) // 2]:.1f}, most {seconds[-1]:.1f}"
    )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--peers", action="store_true", help="also jax.test_util.check_grads")
    options = parser.parse_args(argv)
    warnings.simplefilter("error")
    measure(by_gradlab, options.only, talk=True)
    if options.peers:
        print("\njax.test_util.check_grads:")
        measure(by_jax, options.only, talk=False)


if __name__ == "__main__":
    sys.exit(main())
