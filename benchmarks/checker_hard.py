"""Functions that are hard to differentiate by differences, and right."""

import itertools

import jax
import jax.numpy as jnp
from checker_parts import (
    Case,
    bf16,
    f16,
    f32,
    jvp_rule,
    newton_sqrt,
    normal,
    staircase,
    tree_100,
    vjp_rule,
)
from jax import lax
from jax.scipy.special import gammaln, i0e, logsumexp


def rosenbrock(x):
    """Rosenbrock's function of any size."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def mlp(p, x, activation=jnp.tanh):
    """A perceptron's mean square."""
    for w, b in zip(p["w"][:-1], p["b"][:-1], strict=True):
        x = activation(x @ w + b[None])
    return jnp.mean((x @ p["w"][-1] + p["b"][-1][None]) ** 2)


def mlp_args(dtype, sizes=(4, 16, 16, 2)):
    """Its parameters and data."""
    pairs = list(itertools.pairwise(sizes))
    p = {
        "w": [
            normal(a, b, seed=i, dtype=dtype, scale=a**-0.5) for i, (a, b) in enumerate(pairs)
        ],
        "b": [jnp.zeros(b, dtype) for _, b in pairs],
    }
    return p, normal(8, sizes[0], seed=9, dtype=dtype)


def attention(p, x):
    """One head of attention."""
    q, k, v = (x @ p[name] for name in ("q", "k", "v"))
    return jnp.mean((jax.nn.softmax(q @ k.T / 4) @ v) ** 2)


def rk4(y0, rate):
    """A pendulum by Runge-Kutta's method."""

    def f(y):
        return jnp.stack([y[1], -rate * jnp.sin(y[0])])

    def step(y, _):
        h = 0.05
        a = f(y)
        b = f(y + h / 2 * a)
        c = f(y + h / 2 * b)
        return y + h / 6 * (a + 2 * b + 2 * c + f(y + h * c)), None

    return jnp.sum(lax.scan(step, y0, None, length=100)[0] ** 2)


def logistic_map(x):
    """Twenty steps of chaos."""
    return lax.fori_loop(0, 20, lambda i, v: 3.9 * v * (1 - v), x)


def loose_solver(a):
    """Newton's method stopped at a loose tolerance, differentiated implicitly."""

    def g(s):
        return s**3 + a * s - 1

    def solve(g, start):
        def step(s):
            return s - g(s) / jax.grad(g)(s)

        return lax.while_loop(lambda s: jnp.abs(g(s)) > 1e-7, step, start)

    return lax.custom_root(g, jnp.ones_like(a), solve, lambda line, y: y / line(1.0)) ** 2


def spd(x):
    """A positive definite matrix."""
    a = normal(5, 5, seed=4).astype(x.dtype)
    return a @ a.T + jnp.eye(5, dtype=x.dtype) * 3 + jnp.outer(x, x)


def conv(p, image):
    """A convolution."""
    y = lax.conv_general_dilated(image, p["k"], (1, 1), "SAME")
    return jnp.mean(jax.nn.gelu(y) ** 2)


sin_right_vjp = vjp_rule(jnp.sin, lambda p, g: (g * jnp.cos(p[0]),))
sin_right_jvp = jvp_rule(jnp.sin, lambda p, t: jnp.cos(p[0]) * t[0])


def as_float32(x):
    """A function that computes in float32 whatever it is given."""
    return jnp.sum(jnp.sin(x.astype(f32)) ** 2)


def gaussian_process(p):
    """The negative log-likelihood of a Gaussian process."""
    at, seen = normal(12, seed=2), normal(12)
    gap = (at[:, None] - at[None]) / jnp.exp(p["length"])
    k = jnp.exp(p["size"] - gap**2 / 2) + 1e-3 * jnp.eye(12)
    log_det = 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(k))))
    return (seen @ jnp.linalg.solve(k, seen) + log_det) / 2


HARD = [
    Case("rosenbrock, float32", rosenbrock, (normal(6, dtype=f32),)),
    Case("rosenbrock near its minimum", rosenbrock, (1 + 1e-7 * normal(6),)),
    Case("mlp, float32, relu", lambda p, x: mlp(p, x, jax.nn.relu), mlp_args(f32)),
    Case("mlp, bfloat16", mlp, mlp_args(bf16)),
    Case("mlp, float16", mlp, mlp_args(f16)),
    Case(
        "scales 1e-6 and 1e6",
        lambda p: jnp.sum(jnp.sin(1e6 * p["a"])) + jnp.sum(p["b"] ** 2),
        ({"a": normal(4, scale=1e-6), "b": normal(4, scale=1e6)},),
    ),
    Case(
        "sum of 1e5, float32", lambda x: jnp.sum(jnp.tanh(x) ** 2), (normal(100000, dtype=f32),)
    ),
    Case("log at 1e-6", lambda x: jnp.sum(jnp.log(x)), (jnp.array([1e-6, 2e-6]),)),
    Case("1/x at 1e-6, float32", lambda x: jnp.sum(1 / x), (jnp.array([1e-6, 2e-6], f32),)),
    Case("x^2 at 1e6", lambda x: jnp.sum(x**2 * jnp.sin(1e-6 * x)), (jnp.array([1e6, -2e6]),)),
    Case("sqrt at 1e-6", lambda x: jnp.sum(jnp.sqrt(x)), (jnp.array([1e-6, 1e-7]),)),
    Case("exp(20 x)", lambda x: jnp.sum(jnp.exp(20 * x)), (normal(4),)),
    Case("sin(50 x)", lambda x: jnp.sum(jnp.sin(50 * x)), (normal(4),)),
    Case(
        "kink 1e-3 away",
        lambda x: jnp.sum(jnp.abs(x - 1) ** 1 * x),
        (jnp.array([1.001, 0.999, 3.0]),),
    ),
    Case(
        "relu at 1e-5",
        lambda x: jnp.sum(jax.nn.relu(x) * jnp.sin(x + 1)),
        (jnp.array([1e-5, -1e-5, 1.0]),),
    ),
    Case(
        "relu at 0",
        lambda x: jnp.sum(jax.nn.relu(x)) + jnp.sum(x**2),
        (jnp.array([0.0, 1.0, -1.0]),),
    ),
    Case(
        "near ties of max",
        lambda x: jnp.max(x) ** 2 + jnp.min(x),
        (jnp.array([1.0, 1.0001, 0.3]),),
    ),
    Case("sort", lambda x: jnp.sum(jnp.sort(x) * jnp.arange(6.0)), (normal(6),)),
    Case("top_k", lambda x: jnp.sum(lax.top_k(x, 3)[0] ** 2), (normal(8),)),
    Case("noise 1e-8", lambda x: jnp.sum(jnp.sin(x)) + staircase(x, 1e-8), (normal(3),)),
    Case("noise 1e-4", lambda x: jnp.sum(jnp.sin(x)) + staircase(x, 1e-4), (normal(3),)),
    Case("solver stopped at 1e-7", loose_solver, (jnp.asarray(0.7),)),
    Case(
        "integer labels",
        lambda w, y: (
            -jnp.mean(
                jax.nn.log_softmax(normal(6, 4, seed=1).astype(w.dtype) @ w)[jnp.arange(6), y]
            )
        ),
        (normal(4, 3, dtype=f32), jnp.array([0, 1, 2, 0, 1, 2])),
    ),
    Case("holomorphic", lambda z: z**3 * jnp.exp(1j * z), (jnp.array([1 + 1j, 0.3 - 2j]),)),
    Case(
        "complex to real",
        lambda z: jnp.sum(jnp.abs(z) ** 2 * jnp.angle(z)),
        (jnp.array([1 + 1j, 0.3 - 2j]),),
    ),
    Case(
        "complex64, fft",
        lambda z: jnp.sum(jnp.abs(jnp.fft.fft(z)) ** 2),
        ((normal(8) + 1j * normal(8, seed=1)).astype(jnp.complex64),),
    ),
    Case("while loop", lambda x: jnp.sum(newton_sqrt(x)), (jnp.array([2.0, 3.0]),)),
    Case(
        "while loop, float32",
        lambda p: jnp.sum(newton_sqrt(p["x"]) * p["y"]),
        ({"x": jnp.array([2.0, 3.0], f32), "y": normal(2, dtype=f32)},),
    ),
    Case("eigenvalues", lambda x: jnp.sum(jnp.linalg.eigvalsh(spd(x)) ** 2), (normal(5),)),
    Case(
        "log det",
        lambda x: 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(spd(x))))),
        (normal(5),),
    ),
    Case(
        "nuclear norm", lambda a: jnp.sum(jnp.linalg.svd(a, compute_uv=False)), (normal(4, 3),)
    ),
    Case("logsumexp of large", lambda x: logsumexp(x), (1e3 + normal(5),)),
    Case(
        "softmax with stop_gradient(max)",
        lambda x: (
            jnp.log(jnp.sum(jnp.exp(x - lax.stop_gradient(jnp.max(x)))))
            + lax.stop_gradient(jnp.max(x))
            + 0 * x[0]
        ),
        (normal(5, dtype=f32),),
    ),
    Case(
        "special functions",
        lambda x: jnp.sum(gammaln(x) + i0e(x)),
        (jnp.array([0.3, 2.0, 9.0]),),
    ),
    Case("Runge-Kutta", rk4, (jnp.array([1.0, 0.0]), 2.0)),
    Case("logistic map", logistic_map, (jnp.asarray(0.37),)),
    Case("at a minimum, offset 1e6", lambda x: jnp.sum((x - 1) ** 2) + 1e6, (jnp.ones(4),)),
    Case("saddle", lambda x: x[0] ** 2 - x[1] ** 2, (jnp.zeros(2),)),
    Case("offset 1e8", lambda x: 1e8 + jnp.sum(jnp.sin(x)), (normal(3),)),
    Case("custom_vjp", lambda x: jnp.sum(sin_right_vjp(x) ** 2), (normal(4, dtype=f32),)),
    Case("custom_jvp", lambda x: jnp.sum(sin_right_jvp(x) ** 2), (normal(4, dtype=f32),)),
    Case("dead leaf", lambda p: jnp.sum(p["a"] ** 3), ({"a": normal(3), "unused": normal(3)},)),
    Case("cancelling", lambda x: (1 - jnp.cos(x)) / x**2, (jnp.asarray(1e-4),)),
    Case(
        "huber",
        lambda x: jnp.sum(jnp.where(jnp.abs(x) < 1, 0.5 * x**2, jnp.abs(x) - 0.5)),
        (normal(20),),
    ),
    Case(
        "gather and scatter",
        lambda x: jnp.sum(
            jnp.zeros(5).at[jnp.array([0, 2, 2])].add(x[:3]) ** 2
            * x[jnp.array([0, 0, 1, 2, 3])]
        ),
        (normal(4),),
    ),
    Case(
        "100 leaves",
        lambda p: tree_100(p, False),
        ({f"w{k:02d}": normal(4, seed=k) for k in range(100)},),
    ),
    Case(
        "300 outputs",
        lambda x: jnp.tanh(normal(300, 4, seed=1).astype(x.dtype) @ x),
        (normal(4, dtype=f32),),
    ),
    Case(
        "tree of outputs",
        lambda x: {"a": jnp.sin(x), "n": jnp.argmax(x), "s": jnp.sum(x**2)},
        (normal(3),),
    ),
    Case(
        "attention, float32",
        attention,
        (
            {k: normal(16, 16, seed=i, dtype=f32, scale=0.3) for i, k in enumerate("qkv")},
            normal(5, 16, seed=7, dtype=f32),
        ),
    ),
    Case(
        "convolution, float16",
        conv,
        (
            {"k": normal(3, 2, 3, 3, dtype=f16, scale=0.3)},
            normal(1, 2, 6, 6, seed=1, dtype=f16),
        ),
    ),
    Case("float32 inside", as_float32, (normal(5),)),
    Case("saturated", lambda x: jnp.sum(jax.nn.sigmoid(x)), (jnp.array([20.0, -30.0, 0.1]),)),
    Case("x^1.5 at 1e-8", lambda x: jnp.sum(x**1.5), (jnp.array([1e-8, 2e-8]),)),
    Case("far tail", lambda x: jnp.sum(jnp.exp(-(x**2))), (jnp.array([5.0, 6.0]),)),
    Case("times 1e-30", lambda x: 1e-30 * jnp.sum(jnp.sin(x)), (normal(3),)),
    Case("times 1e20, float32", lambda x: 1e20 * jnp.sum(jnp.sin(x)), (normal(3, dtype=f32),)),
    Case(
        "hinge, float32",
        lambda w: jnp.mean(jax.nn.relu(1 - normal(50, 4, dtype=f32) @ w)),
        (normal(4, dtype=f32),),
    ),
    Case(
        "clip at its bound",
        lambda x: jnp.sum(jnp.clip(x, -1, 1) ** 2),
        (jnp.array([1.0, -1.0]),),
    ),
    Case("median", lambda x: jnp.median(x) ** 2, (normal(9),)),
    Case(
        "max pooling",
        lambda x: jnp.sum(
            lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID") ** 2
        ),
        (normal(6, 6),),
    ),
    Case(
        "random key",
        lambda x, key: jnp.sum(jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0) ** 2),
        (normal(8), jax.random.key(3)),
    ),
    Case(
        "Gaussian process",
        gaussian_process,
        ({"length": jnp.asarray(-0.3), "size": jnp.asarray(0.1)},),
    ),
    Case("narrow bump", lambda x: jnp.exp(-(((x - 1) / 1e-4) ** 2)), (jnp.asarray(1.00005),)),
    Case("fast and small", lambda x: x**2 + 1e-6 * jnp.sin(1e5 * x), (jnp.asarray(0.7),)),
    Case(
        "inverse, complex",
        lambda z: jnp.sum(jnp.real(jnp.linalg.inv(z)) ** 2),
        (normal(3, 3) + 1j * normal(3, 3, seed=1),),
    ),
    Case(
        "no second derivative",
        jax.scipy.special.gammainc,
        (jnp.asarray(2.5), jnp.asarray(1.4)),
    ),
    Case(
        "linear system, ill-conditioned",
        lambda a, b: jnp.sum(jnp.linalg.solve(a, b)),
        (1 / (jnp.arange(6.0)[:, None] + jnp.arange(6.0)[None] + 1), normal(6)),
    ),
    Case("arccos near 1", jnp.arccos, (jnp.asarray(1 - 1e-9),)),
    Case(
        "logit at both ends",
        lambda x: jnp.sum(jax.scipy.special.logit(x)),
        (jnp.array([1e-12, 0.5, 1 - 1e-9]),),
    ),
]
