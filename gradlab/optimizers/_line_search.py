"""Line search with approximate Wolfe conditions (Hager & Zhang), shared by its methods.

One trial is one value and gradient. Near a minimum the slopes decide, which are free of the
cancellation in differences of values. Nothing is absolute: values are compared with the
noise level of the loss, slopes with the first one, lengths with the bracket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab._tree import inner, max_abs, moved, packed_by_position
from gradlab._typing import Array, Params
from gradlab.optimizers._noise_level import noise_level

__all__ = [
    "Begin",
    "Point",
    "SearchResult",
    "search",
    "start_point",
]

# Hager & Zhang (2005), SIAM J. Optim. 16:170-192, section 5; (2006), ACM TOMS 32:113-137.
DELTA, SIGMA = 0.1, 0.9  # decrease and slope of the Wolfe conditions
GAMMA = 0.66  # a round of two secants that leaves more of the bracket is followed by a halving
# A lengthened step is at least twice, at most ten times as long; theirs is always five times,
# but the two slopes at hand say where along a parabola the minimum is.
LEAST_GROWTH, MOST_GROWTH = 2.0, 10.0
# A trial that rises is cut to the parabola's minimum within these parts of the bracket; one
# that is not finite to the smaller (their psi_3).
LEAST_CUT, MOST_CUT = 0.1, 0.5
# Thirty halvings are 1e-9 of a step, thirty lengthenings 1e30 of it.
MAX_TRIALS = 30


class Point(NamedTuple):
    """Where a search starts: the loss, and its gradient divided by `unit`, its largest entry.

    So no product of two vectors over- or underflows, whatever the loss's units.
    """

    params: Params
    value: Array
    grad: Params
    unit: Array

    @property
    def squares(self) -> Array:
        """Sum of the squares of the scaled gradient."""
        return inner(self.grad, self.grad)


def start_point(params: Params, value: Array, grad: Params) -> Point:
    """Scale the gradient, in the working dtype."""
    unit = max_abs(grad).astype(value.dtype)
    safe = jnp.where(unit > 0, unit, 1)
    scaled = jax.tree.map(lambda g: g.astype(unit.dtype) / safe, grad)
    return Point(params, value, scaled, unit)


class Begin(NamedTuple):
    """How a search begins.

    `slope` is the direction's, `steepest_size` the largest entry of a step along -g that is
    tried first, `steepest` whether that is the only thing to do.
    """

    slope: Array
    steepest_size: Array
    steepest: Array


# What is known of the bracket's far end: nothing, a slope that rises, a value that is too
# high, a value that is not finite.
OPEN, RISING, HIGH, WALL = 0, 1, 2, 3
# Where a trial came from: secant of the bracket, secant of one end's last two places, else.
SECANT, SECOND, OTHER = 0, 1, 2
SEARCHING, ACCEPTED, LOST = 0, 1, 2


class _Bracket(NamedTuple):
    """Scalars of the search: next trial length, bracket, and how the last trial went.

    `low` is the longest length known to lead down, with value and slope there; `width` the
    bracket's when the round of secants began; `settling` says that the trial is `low`
    itself, taken because no better one is left.
    """

    length: Array
    low: Array
    low_value: Array
    low_slope: Array
    high: Array
    high_slope: Array
    kind: Array
    width: Array
    stage: Array
    steepest: Array
    settling: Array
    ended: Array
    value: Array
    slope: Array
    first_slope: Array
    tries: Array


class _Line(NamedTuple):
    """What does not change: value and slopes at zero, the value not to be exceeded."""

    value: Array
    ceiling: Array
    slope: Array
    steepest_slope: Array
    steepest_size: Array


class _Seen(NamedTuple):
    """What a trial showed: value, slope, noise level, and whether the point moved at all."""

    value: Array
    slope: Array
    noise: Array
    moved: Array


class SearchResult(NamedTuple):
    """Outcome: the step taken, the gradient there, and scalars packed in one vector."""

    updates: Params
    grad: Params
    numbers: Array

    @property
    def value(self) -> Array:
        """Loss at the point found."""
        return self._scalars.value

    @property
    def length(self) -> Array:
        """Length along the direction."""
        return self._scalars.length

    @property
    def slope(self) -> Array:
        """Slope there."""
        return self._scalars.slope

    @property
    def first_slope(self) -> Array:
        """Slope at the start of the line."""
        return self._scalars.first_slope

    @property
    def accepted(self) -> Array:
        """Whether a step was found."""
        return self._scalars.ended == ACCEPTED

    @property
    def steepest(self) -> Array:
        """Whether the step is along -g."""
        return self._scalars.steepest != 0

    @property
    def tries(self) -> Array:
        """Trials made."""
        return self._scalars.tries.astype(jnp.int32)

    @property
    def _scalars(self) -> _Bracket:
        return _Bracket(*(self.numbers[i] for i in range(len(_Bracket._fields))))


def search(
    loss: Callable[[Params], Array],
    point: Point,
    direction: Params,
    begin: Begin,
    noise: Array | float | None,
    eps: float,
    *,
    ceiling: Array | None = None,
    sigma: float | None = SIGMA,
    active: Array | bool = True,
) -> SearchResult:
    """Search along a direction, then, should nothing be found there, along -g.

    A step is accepted with a sufficient decrease beyond the noise, or, at a value no higher
    than the noise allows, with a slope that says so; and with a slope of at least `sigma`
    times the first, which None leaves out. The trial point is what `optax.apply_updates`
    makes of the updates, so value and gradient belong to the point the host will have.

    Args:
        loss: The loss of the parameters alone.
        point: Where to start.
        direction: Direction to go, in the working dtype.
        begin: Its slope, and the other direction's size.
        noise: Noise level of the loss; None is the bound from its `eps`.
        eps: Rounding unit of the loss.
        ceiling: Value from which decrease is counted; default the point's.
        sigma: Part of the first slope that may be left.
        active: Whether to search at all.
    """
    params, value, gradient, unit = point
    size = begin.steepest_size
    steepest_slope = -unit * size * point.squares
    ceiling = value if ceiling is None else ceiling
    line = _Line(*packed_by_position(value, ceiling, begin.slope, steepest_slope, size))

    def step(bracket: _Bracket) -> Params:
        turned, length = bracket.steepest != 0, bracket.length

        def scaled(d: Array, g: Array, p: Array) -> Array:
            return (length * jnp.where(turned, -line.steepest_size * g, d)).astype(p.dtype)

        return jax.tree.map(scaled, direction, gradient, params)

    def attempt(carry: tuple[Params, Array]) -> tuple[Params, Array]:
        now = _Bracket(*carry[1])
        updates = step(now)
        new_params = optax.apply_updates(params, updates)
        new_value, new_grad = jax.value_and_grad(loss)(new_params)
        new_value = new_value.astype(value.dtype)
        slope = inner(new_grad, updates).astype(value.dtype) / now.length
        level = noise_level(line.ceiling, new_value, noise, eps).astype(value.dtype)
        seen = _Seen(new_value, slope, level, moved(params, new_params))
        return new_grad, packed_by_position(*_advance(now, seen, line, sigma))

    def searching(carry: tuple[Params, Array]) -> Array:
        return (_Bracket(*carry[1]).ended == SEARCHING) & active

    # Only a gradient of the parameters' structure is carried: the step is made anew.
    blank = jax.tree.map(lambda p: jnp.zeros_like(p), params)
    found, numbers = jax.lax.while_loop(searching, attempt, (blank, _start(line, begin)))
    return SearchResult(step(_Bracket(*numbers)), found, numbers)


def _start(line: _Line, begin: Begin) -> Array:
    """Build the first bracket: open, and already lost where nothing leads down."""
    slope = jnp.where(begin.steepest, line.steepest_slope, line.slope)
    zero, one = jnp.zeros_like(slope), jnp.ones_like(slope)
    possible = (line.steepest_slope < 0) & jnp.isfinite(line.steepest_slope)
    possible = possible & jnp.isfinite(line.value)
    return packed_by_position(
        *_Bracket(
            length=one,
            low=zero,
            low_value=line.value,
            low_slope=slope,
            high=one * jnp.inf,
            high_slope=one * jnp.inf,
            kind=zero + OPEN,
            width=one * jnp.inf,
            stage=zero + OTHER,
            steepest=begin.steepest,
            settling=zero,
            ended=jnp.where(possible, SEARCHING, LOST),
            value=line.value,
            slope=slope,
            first_slope=slope,
            tries=zero,
        )
    )


def _advance(now: _Bracket, seen: _Seen, line: _Line, sigma: float | None) -> _Bracket:
    """Judge a trial, narrow the bracket, choose the next trial."""
    new, falling, sound = _judge(now, seen, line, sigma)
    over = _give_up(now, _plan(now, new, seen, falling, sound), seen, line)
    # Where the trial was accepted its length stays what it was.
    both = zip(new, over, strict=True)
    return _Bracket(*(jnp.where(new.ended == ACCEPTED, a, b) for a, b in both))


def _judge(
    now: _Bracket, seen: _Seen, line: _Line, sigma: float | None
) -> tuple[_Bracket, Array, Array]:
    """Judge a trial and narrow the bracket by it: also, does it lead down, is it low."""
    first_slope = now.first_slope
    finite = jnp.isfinite(seen.value) & jnp.isfinite(seen.slope)
    below = finite & (seen.value <= line.ceiling + seen.noise)
    decrease = finite & (seen.value <= line.ceiling + DELTA * now.length * first_slope)
    decrease = decrease & (seen.value < line.ceiling - seen.noise)
    # The same, told by slopes: exact for a parabola, and blind to the noise of values.
    decrease = decrease | (below & (seen.slope <= (2 * DELTA - 1) * first_slope))
    curved = sigma is None or seen.slope >= sigma * first_slope
    enough = decrease & (curved | (now.settling != 0))
    # A loss of minus infinity ends the search: nothing is lower.
    accepted = seen.moved & (enough | (seen.value == -jnp.inf))
    falling = below & (seen.slope < 0) & seen.moved
    kind = jnp.where(finite, jnp.where(seen.slope >= 0, RISING, HIGH), WALL)
    new = now._replace(
        low=jnp.where(falling, now.length, now.low),
        low_value=jnp.where(falling, seen.value, now.low_value),
        low_slope=jnp.where(falling, seen.slope, now.low_slope),
        high=jnp.where(falling, now.high, now.length),
        high_slope=jnp.where(falling, now.high_slope, seen.slope),
        kind=jnp.where(falling, now.kind, kind.astype(now.kind.dtype)),
        value=seen.value,
        slope=seen.slope,
        tries=now.tries + 1,
        ended=jnp.where(accepted, ACCEPTED, SEARCHING).astype(now.ended.dtype),
    )
    return new, falling, below


def _plan(now: _Bracket, new: _Bracket, seen: _Seen, falling: Array, sound: Array) -> _Bracket:
    """Choose the next trial; a `sound` one was finite and not too high."""
    length, stage, width = _secants(now, new, seen, falling)
    by_secant = (new.kind == RISING) & sound
    length = jnp.where(by_secant, length, _lengthened(now, new, seen))
    length = jnp.where(sound, length, _shortened(new, seen))
    stage = jnp.where(by_secant, stage, OTHER).astype(stage.dtype)
    width = jnp.where(by_secant, width, new.high - new.low)
    return new._replace(length=length, stage=stage, width=width)


def _lengthened(now: _Bracket, new: _Bracket, seen: _Seen) -> Array:
    """Go on downhill: to the minimum of the parabola through two slopes, within bounds.

    Short of an end whose slope is not known, no farther than the middle.
    """
    bend = seen.slope - now.low_slope
    ahead = -seen.slope * (now.length - now.low) / jnp.where(bend > 0, bend, 1)
    target = jnp.where(bend > 0, now.length + ahead, jnp.inf)
    target = jnp.clip(target, LEAST_GROWTH * now.length, MOST_GROWTH * now.length)
    return jnp.minimum(target, 0.5 * (new.low + new.high))


def _shortened(new: _Bracket, seen: _Seen) -> Array:
    """Cut a trial that is too high: to the minimum of the parabola that its value gives."""
    width = new.high - new.low
    rise = (seen.value - new.low_value) - new.low_slope * width
    part = -0.5 * new.low_slope * width / jnp.where(rise > 0, rise, 1)
    parabola = (rise > 0) & jnp.isfinite(rise)
    part = jnp.where(parabola, jnp.clip(part, LEAST_CUT, MOST_CUT), LEAST_CUT)
    return new.low + part * width


def _secants(
    now: _Bracket, new: _Bracket, seen: _Seen, falling: Array
) -> tuple[Array, Array, Array]:
    """Choose the next trial between slopes of opposite signs: length, stage, width.

    A round is two secants, through the bracket's ends and through the last two places of
    the end that moved (order 1 + √2, Hager & Zhang 2005, S1-S4), then, if the bracket has
    not shrunk enough, a halving.
    """
    width, middle = new.high - new.low, 0.5 * (new.low + new.high)
    secant = new.low - new.low_slope * width / (new.high_slope - new.low_slope)
    end = jnp.where(falling, now.low, now.high)
    end_slope = jnp.where(falling, now.low_slope, now.high_slope)
    bend = seen.slope - end_slope
    second = now.length - seen.slope * (now.length - end) / jnp.where(bend != 0, bend, 1)
    inside = (second > new.low) & (second < new.high) & (bend != 0)
    again = (now.stage == SECANT) & inside
    shrunk = (width <= GAMMA * now.width) | (now.stage == OTHER)
    length = jnp.where(again, second, jnp.where(shrunk, secant, middle))
    length = jnp.where((length > new.low) & (length < new.high), length, middle)
    stage = jnp.where(again, SECOND, jnp.where(shrunk, SECANT, OTHER))
    kept = jnp.where(again | ~shrunk, now.width, width)
    return length, stage.astype(now.stage.dtype), kept


def _give_up(now: _Bracket, going: _Bracket, seen: _Seen, line: _Line) -> _Bracket:
    """Where no trial is left: take the best so far, or try -g instead, or end."""
    fresh = (going.length > going.low) & (going.length < going.high)
    limit = MAX_TRIALS * (1 + now.steepest)
    stuck = ~seen.moved | ~fresh | (now.settling != 0) | (going.tries >= limit)
    settle = stuck & (going.low > 0) & (now.settling == 0)
    turn = stuck & ~settle & (now.steepest == 0)
    lost = stuck & ~settle & ~turn
    inf = jnp.full_like(now.high, jnp.inf)
    turned = going._replace(
        length=jnp.ones_like(now.low),
        low=jnp.zeros_like(now.low),
        low_value=line.value,
        low_slope=line.steepest_slope,
        high=inf,
        high_slope=inf,
        kind=jnp.full_like(now.kind, OPEN),
        width=inf,
        stage=jnp.full_like(now.stage, OTHER),
        steepest=jnp.ones_like(now.steepest),
        first_slope=line.steepest_slope,
        settling=jnp.zeros_like(now.settling),
    )
    going = going._replace(
        length=jnp.where(settle, going.low, going.length),
        settling=settle.astype(now.settling.dtype),
        ended=jnp.where(lost, LOST, going.ended).astype(now.ended.dtype),
    )
    return _Bracket(*(jnp.where(turn, a, b) for a, b in zip(turned, going, strict=True)))
