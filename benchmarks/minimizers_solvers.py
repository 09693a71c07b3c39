"""The solvers of `minimizers.py`: gradlab's methods and their peers, all spoken to alike.

A solver is a function of a case that builds a function of a start to an `Answer`, so that
the starts of a case share what was compiled. Derivatives are exact everywhere.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from minimizers_cases import Answer, Case

import gradlab as gl

__all__ = ["MAX_STEPS", "PEERS", "Solve", "compiled_bfgs", "own_method", "solver"]

Solve = Callable[[Any], Answer]

MAX_STEPS = 1000
# Tolerance of the peers, in each dtype: that at which they do best on this set. SciPy and
# optax compare it with the gradient, optimistix with the last step and change of the loss.
TOLERANCE = {"float64": 1e-8, "float32": 1e-4}


def solver(name: str) -> Callable[[Case], Solve]:
    """Return the solver of that name: a gradlab method, or a peer as "scipy BFGS".

    Raises:
        ValueError: If there is no such method, or the peer is not installed.
    """
    library = name.split(" ")[0]
    if name not in PEERS:
        own_method(name)  # names the nearest method if there is none
        return functools.partial(_gradlab, name)
    if importlib.util.find_spec(library) is None:
        raise ValueError(f"{library} is not installed")
    return PEERS[name]


def own_method(name: str) -> gl.Method:
    """Build a method of gradlab; "newton_cg+lbfgs" is `newton_cg` so preconditioned."""
    method, *preconditioner = name.split("+")
    options = {"preconditioner": preconditioner[0]} if preconditioner else {}
    return gl.make(method, **options)


def _gradlab(name: str, case: Case) -> Solve:
    """A method of gradlab with its own defaults."""
    method = own_method(name)

    def solve(x0: Any) -> Answer:
        result = gl.minimize(
            case.problem.loss,
            x0,
            method,
            args=case.problem.args,
            max_steps=MAX_STEPS,
            trace=None,
        )
        calls = (int(result.nfev), int(result.ngev), int(result.nhvp), int(result.nhev))
        status = gl.Status(int(result.status)).name
        return Answer(np.asarray(result.x), bool(result.success), status, calls)

    return solve


def _scipy(method: str, case: Case) -> Solve:
    """SciPy's `minimize` on compiled derivatives, every call counted."""
    import scipy.optimize

    functions = case.functions

    def solve(x0: Any) -> Answer:
        calls = [0, 0, 0, 0]

        def counted(name: str, *costs: int) -> Callable[..., Any]:
            function = functions[name]

            def call(*points: Any) -> Any:
                for cost in costs:
                    calls[cost] += 1
                found = function(*(jnp.asarray(p, case.dtype) for p in points))
                return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)

            return call

        second = {}
        if method == "trust-exact":
            second = {"hess": counted("hessian", 3)}
        elif method == "trust-ncg":
            second = {"hessp": counted("hvp", 2)}
        options = {"maxiter": MAX_STEPS, "gtol": TOLERANCE[case.dtype]}
        if method == "L-BFGS-B":  # its own test of the loss would end most runs early
            options |= {"maxfun": 10**5, "ftol": float(np.finfo(case.dtype).eps)}
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = scipy.optimize.minimize(
                lambda x: float(counted("loss", 0)(x)),
                np.asarray(x0, np.float64),
                jac=counted("grad", 1),
                method=method,
                options=options,
                **second,
            )
        return Answer(found.x, bool(found.success), str(found.message), tuple(calls))

    return solve


def compiled_bfgs(case: Case) -> Callable[[Any], Any]:
    """Optimistix's BFGS, compiled whole: a start to x, success, steps and accepted ones."""
    import optimistix

    tolerance = TOLERANCE[case.dtype]
    search = optimistix.BFGS(rtol=tolerance, atol=tolerance)
    loss, args = case.problem.loss, case.problem.args

    @jax.jit
    def run(x0: Any) -> Any:
        found = optimistix.minimise(
            lambda x, _: loss(x, *args), search, x0, max_steps=MAX_STEPS, throw=False
        )
        right = found.result == optimistix.RESULTS.successful
        return found.value, right, found.stats["num_steps"], found.state.num_accepted_steps

    return run


def _optimistix(case: Case) -> Solve:
    """Optimistix's BFGS. It evaluates a loss a step, and a gradient an accepted one."""
    run = compiled_bfgs(case)

    def solve(x0: Any) -> Answer:
        x, right, steps, accepted = run(x0)
        status = "successful" if right else "not converged"
        return Answer(np.asarray(x), bool(right), status, (int(steps), int(accepted), 0, 0))

    return solve


def _optax(case: Case) -> Solve:
    """Optax's L-BFGS in the loop of its documentation."""
    import optax

    search = optax.lbfgs()
    args = case.problem.args

    def loss(x: Any) -> Any:
        return case.problem.loss(x, *args)

    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def run(x0: Any) -> Any:
        def step(carry: Any) -> Any:
            x, state, calls = carry
            value, grad = value_and_grad(x, state=state)
            updates, state = search.update(
                grad, state, x, value=value, grad=grad, value_fn=loss
            )
            made = optax.tree.get(state, "num_linesearch_steps")
            return optax.apply_updates(x, updates), state, calls + made

        def going_on(carry: Any) -> Any:
            _, state, _ = carry
            count, grad = optax.tree.get(state, "count"), optax.tree.get(state, "grad")
            size = jnp.max(jnp.abs(grad))
            return (count == 0) | ((count < MAX_STEPS) & (size > TOLERANCE[case.dtype]))

        x, state, calls = jax.lax.while_loop(going_on, step, (x0, search.init(x0), 1))
        size = jnp.max(jnp.abs(optax.tree.get(state, "grad")))
        return x, size <= TOLERANCE[case.dtype], calls

    def solve(x0: Any) -> Answer:
        x, right, calls = run(x0)
        status = "small gradient" if right else "step limit or NaN"
        return Answer(np.asarray(x), bool(right), status, (int(calls), int(calls), 0, 0))

    return solve


PEERS: dict[str, Callable[[Case], Solve]] = {
    "scipy trust-exact": functools.partial(_scipy, "trust-exact"),
    "scipy trust-ncg": functools.partial(_scipy, "trust-ncg"),
    "scipy BFGS": functools.partial(_scipy, "BFGS"),
    "scipy L-BFGS-B": functools.partial(_scipy, "L-BFGS-B"),
    "optimistix BFGS": _optimistix,
    "optax L-BFGS": _optax,
}
