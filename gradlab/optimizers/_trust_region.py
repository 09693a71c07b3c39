"""The parts every trust-region method shares: state, acceptance, radius, the search.

Nothing here is absolute: lengths are compared with the step, reductions with the noise
level of the loss, curvatures with the largest curvature. Scalars travel packed in vectors,
because each array a compiled loop carries costs a kernel to compile and to launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import inner, max_abs, moved, real_dtype, select, where
from gradlab._typing import AnyArray, Array, Params
from gradlab.optimizers._noise_level import noise_level

__all__ = [
    "MatrixFreeState",
    "Model",
    "Proposal",
    "Remains",
    "Trial",
    "TrustRegionState",
    "conclude",
    "initial_state",
    "search",
]

# Conn, Gould & Toint (2000), Trust-Region Methods, section 17.1: the usual constants.
ACCEPT = 1e-4  # smallest ratio of actual to predicted reduction that is taken
POOR, GOOD = 0.25, 0.75  # below POOR the region shrinks, above GOOD it may grow
MAX_TRIALS = 40  # a step shortened 40 times by at least 1/2 is below every dtype's eps
# Reductions below this multiple of the noise are judged by slopes: the ratio of two such
# differences has lost three digits.
NOISY = 1e3
# Gradients below this multiple of eps·|H||x| are what rounding the point leaves of them.
FLOOR = 10
# A gradient that falls to this share of itself speaks for a step that the loss cannot judge,
# as for the last Newton steps of a fit.
HALF = 0.5


class TrustRegionState(NamedTuple):
    """State of a trust-region method: the accepted point's value and gradient, and counts.

    Attributes:
        count: Accepted steps.
        value: Loss at the parameters the last update leads to; inf before the first.
        grad: Gradient there.
        radius: Trust-region radius; infinite until a step was rejected or poor.
        model: What the last step's model said, as a vector; see the properties.
        failed: Whether no acceptable step was found, so that the update was zero.
        calls: Evaluations made by the method (losses, gradients, Hessian-vector products,
            Hessians), without those its host makes.
        memory: What a preconditioner keeps from step to step.
    """

    count: Array  # type: ignore[assignment]  # the name optax's hosts look for
    value: Array
    grad: Params
    radius: Array
    model: Array
    failed: Array
    calls: Array
    memory: Any = ()

    @property
    def heeds_idleness(self) -> bool:
        """Its `update` takes `active`."""
        return True

    @property
    def vouches(self) -> bool:
        """It knows enough of the Hessian to say what its answer is."""
        return True

    @property
    def ratio(self) -> AnyArray:
        """Actual over predicted reduction of the last step."""
        return self.model[..., 0]

    @property
    def decrement(self) -> AnyArray:
        """Reduction still predicted at the point reached; inf without a minimum."""
        return self.model[..., 1]

    @property
    def curvature(self) -> AnyArray:
        """Smallest curvature seen at the last point, in the units the step was taken in.

        A dense method multiplies variables more than 1/eps times as stiff as others by a
        power of two; else the units are those of the parameters.
        """
        return self.model[..., 2]

    @property
    def start_norm(self) -> AnyArray:
        """Largest gradient norm so far, the scale of inexact solves."""
        return self.model[..., 3]

    @property
    def stiffness(self) -> AnyArray:
        """Largest absolute curvature seen at the last point, in the units of `curvature`."""
        return self.model[..., 4]

    @property
    def remaining(self) -> AnyArray:
        """Length of the Newton step still to take from the point reached; inf if unknown."""
        return self.model[..., 5]

    @property
    def loudness(self) -> AnyArray:
        """Gradient at the point reached over what rounding the point makes of it."""
        return self.model[..., 6]

    @property
    def inexact(self) -> AnyArray:
        """Largest share of a variable that the Newton step would change; 0 if unknown."""
        return self.model[..., 7]

    @property
    def surveyed(self) -> AnyArray:
        """1 if the last step met curvature in all directions, positive, and went as told."""
        return self.model[..., 8]


class MatrixFreeState(TrustRegionState):
    """The same, of a method that sees curvature only where its gradient leads.

    Its `update` takes `at_rest`, to look for negative curvature elsewhere.
    """

    looks_at_rest = True


def initial_state(
    params: Params, kind: type[TrustRegionState] = TrustRegionState
) -> TrustRegionState:
    """Build the state before the first step, in the parameters' own dtype."""
    dtype = real_dtype(params)
    inf = jnp.full((), jnp.inf, dtype)
    none = jnp.zeros((), jnp.int32)
    grad = jax.tree.map(jnp.zeros_like, params)
    model = jnp.array([0, jnp.inf, 0, 0, 0, jnp.inf, jnp.inf, 0, 0], dtype)
    no = jnp.zeros((), bool)
    return kind(none, inf, grad, inf, model, no, jnp.zeros(4, jnp.int32))


class Model(NamedTuple):
    """What a method knows of its quadratic model.

    `radius` is the region to begin with, the others as in the state.
    """

    radius: Array
    curvature: Array
    start_norm: Array
    stiffness: Array


class Proposal(NamedTuple):
    """Step offered for a radius, and what the model says of it.

    `slope` is gᵀp, `predicted` the model's reduction, `binding` whether the region binds.
    """

    updates: Params
    length: Array
    slope: Array
    predicted: Array
    binding: Array


class Trial(NamedTuple):
    """Outcome of a search; `numbers` and `flags` are packed, see the properties."""

    updates: Params
    grad: Params
    numbers: Array
    flags: Array

    @classmethod
    def pack(cls, updates, grad, *, value, radius, ratio, grad_max, accepted, lost, count):
        """Pack the scalars."""
        numbers = jnp.stack([value, radius, ratio, grad_max])
        return cls(updates, grad, numbers, jnp.stack([accepted, lost, count]).astype(jnp.int32))

    @classmethod
    def start(cls, params: Params, grad: Params, radius: Array) -> Trial:
        """Build the state before the first trial."""
        no, zero = jnp.zeros((), bool), jnp.zeros_like(radius)
        return cls.pack(
            jax.tree.map(jnp.zeros_like, params), grad, value=zero, radius=radius, ratio=zero,
            grad_max=zero, accepted=no, lost=no, count=jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def begin(self, radius: Array, possible: Array) -> Trial:
        """Go on with this radius, or end where no step is `possible`."""
        return self._replace(
            numbers=self.numbers.at[1].set(radius), flags=self.flags.at[1].set(~possible)
        )

    @property
    def unfinished(self) -> Array:
        """Whether another trial may find a step."""
        return (self.flags[0] == 0) & (self.flags[1] == 0) & (self.tries < MAX_TRIALS)

    @property
    def value(self) -> Array:
        """Loss at the trial point."""
        return self.numbers[0]

    @property
    def radius(self) -> Array:
        """Radius for the next trial or step."""
        return self.numbers[1]

    @property
    def ratio(self) -> Array:
        """Actual over predicted reduction."""
        return self.numbers[2]

    @property
    def grad_max(self) -> Array:
        """Largest absolute gradient entry."""
        return self.numbers[3]

    @property
    def accepted(self) -> Array:
        """Whether the trial was taken."""
        return self.flags[0] != 0

    @property
    def lost(self) -> Array:
        """Whether the step vanished in the rounding of the parameters."""
        return self.flags[1] != 0

    @property
    def tries(self) -> Array:
        """Trials made."""
        return self.flags[2]


class Remains(NamedTuple):
    """What the model says of the point reached; see the state's properties.

    `decrement` is the reduction still predicted, `length` that of the Newton step there;
    a method without the whole Hessian does not know `inexact`, and alone needs `surveyed`.
    """

    decrement: Array
    length: Array
    loudness: Array
    inexact: Array | float = 0.0
    surveyed: Array | bool = False


def search(
    start: Trial,
    loss: Callable[[Params], Array],
    params: Params,
    value: Array,
    propose: Callable[[Array], Proposal],
    noise: Array | float | None,
    eps: float,
    *,
    always: bool = False,
    once: Array | bool = False,
    active: Array | bool = True,
) -> Trial:
    """Shrink the region until the step proposed for it is acceptable.

    The trial point is `optax.apply_updates(params, updates)`, to the bit the one the host
    will have, so the value and gradient found belong to it. Each trial costs one loss and
    one gradient; `propose` must cost none. `always` takes the first step, whatever it does;
    `once` makes one trial, and leaves the search unfinished if it fails; without `active`
    there is none.
    """
    most = jnp.where(once, start.tries + 1, MAX_TRIALS)
    half = HALF * max_abs(start.grad).astype(value.dtype)

    def searching(trial: Trial) -> Array:
        return trial.unfinished & (trial.tries < most) & active

    def attempt(trial: Trial) -> Trial:
        proposal = propose(trial.radius)
        new_params = optax.apply_updates(params, proposal.updates)
        new_value, new_grad = jax.value_and_grad(loss)(new_params)
        new_value = new_value.astype(value.dtype)
        grad_max = max_abs(new_grad).astype(value.dtype)
        new_slope = inner(new_grad, proposal.updates).astype(value.dtype)
        changed = moved(params, new_params)
        accepted, ratio, new_radius = _judge(
            value, new_value, new_slope, grad_max, half, proposal, trial.radius, noise, eps
        )
        accepted = accepted | always
        return Trial.pack(
            proposal.updates, new_grad, value=new_value, radius=new_radius, ratio=ratio,
            grad_max=grad_max, accepted=accepted & changed, lost=~changed,
            count=trial.tries + 1,
        )  # fmt: skip

    return jax.lax.while_loop(searching, attempt, start)


def _judge(
    value: Array,
    new_value: Array,
    new_slope: Array,
    grad_max: Array,
    half: Array,
    proposal: Proposal,
    radius: Array,
    noise: Array | float | None,
    eps: float,
) -> tuple[Array, Array, Array]:
    r"""Judge a trial step: accepted or not, the ratio, the next radius.

    Above the noise the reduction is $f - f^+$. Below it the trapezoid rule
    $-\tfrac12 (g + g^+)^T p$ stands in, whose error is $O(\|p\|^3)$ and free of
    cancellation, and $f^+ \le f + \varepsilon_f$ must hold (Hager & Zhang 2005;
    Conn, Gould & Toint 2000, section 17.4.2). A sum of squares, whose residuals are
    differences, may err by far more than its own rounding: where the largest entry of the
    gradient falls to `half`, the loss may rise by as much as is judged by slopes.
    """
    finite = jnp.isfinite(new_value) & jnp.isfinite(grad_max)
    level = noise_level(value, new_value, noise, eps)
    reduction = value - new_value
    clear = jnp.abs(reduction) > NOISY * level
    actual = where(clear, reduction, -0.5 * (proposal.slope + new_slope))
    predicted = where(proposal.predicted > 0, proposal.predicted, jnp.inf)
    ratio = where(finite, actual / predicted, -jnp.inf)
    room = where((grad_max <= half) & ~clear, NOISY * level, level)
    accepted = finite & (ratio >= ACCEPT) & (new_value <= value + room)
    # Accepted: a quarter of a poor step, double a good one that the region cut short.
    grown = where(proposal.binding & (ratio > GOOD), 2 * radius, radius)
    kept = where(ratio < POOR, 0.25 * proposal.length, grown)
    # Rejected: the minimiser of the parabola through value, slope and new value, between a
    # tenth and a half of the step; a tenth where the trial was not finite.
    rise = new_value - value - proposal.slope
    fraction = where(rise > 0, -0.5 * proposal.slope / where(rise > 0, rise, 1), 0.5)
    fraction = where(finite, jnp.clip(fraction, 0.1, 0.5), 0.1)
    after = where(accepted, kept, fraction * proposal.length)
    return accepted, ratio.astype(value.dtype), after.astype(value.dtype)


def conclude(
    state: TrustRegionState,
    trial: Trial,
    value: Array,
    grad: Params,
    model: Model,
    remains: Remains,
    calls: Array,
    memory: Any = (),
) -> tuple[Params, TrustRegionState]:
    """Turn a search's outcome into optax's updates and the next state.

    Where no step was acceptable the updates are zero and the state keeps its point.
    `calls` are the evaluations made before the search.
    """
    ok, dtype = trial.accepted, state.value.dtype
    told = jnp.stack([
        trial.ratio, remains.decrement, model.curvature, model.start_norm, model.stiffness,
        remains.length, remains.loudness, jnp.asarray(remains.inexact, dtype),
        jnp.asarray(remains.surveyed, dtype),
    ])  # fmt: skip
    updates = jax.tree.map(lambda u: where(ok, u, jnp.zeros_like(u)), trial.updates)
    return updates, type(state)(
        count=state.count + ok,
        value=where(ok, trial.value, value).astype(dtype),
        grad=select(ok, trial.grad, grad),
        radius=where(ok, trial.radius, model.radius).astype(dtype),
        model=told.astype(dtype),
        failed=~ok,
        calls=state.calls + calls + trial.tries * jnp.array([1, 1, 0, 0], jnp.int32),
        memory=memory,
    )
