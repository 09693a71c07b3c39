"""The checker finds planted faults and names them; it lets hard, right functions pass."""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import load

from gradlab.cli import main
from gradlab.derivatives.check import assert_derivatives, check_derivatives
from gradlab.plots import plot_check

CASES = load("benchmarks", "checker")
FAULTS = {case.name: case for case in CASES.FAULTS}
HARD = {case.name: case for case in CASES.HARD}

FAST_FAULTS = [
    "one of 1e4, 1e-4 off, float32",
    "factor",
    "wrong transpose",
    "stop_gradient in a product",
    "tiny leaf by a big one",
    "gradient only under vmap",
    "one branch of where",
    "where trap, log",
    "second order: right at one point",
    "second order: off-diagonal",
    "linear_call transpose",
    "complex, half",
    "float16, sign",
    "one of 500 outputs",
    "noise 1e-6, factor",
    "while loop, forward only",
]
FAST_HARD = [
    "rosenbrock, float32",
    "scales 1e-6 and 1e6",
    "log at 1e-6",
    "x^2 at 1e6",
    "relu at 1e-5",
    "relu at 0",
    "sort",
    "noise 1e-4",
    "solver stopped at 1e-7",
    "complex to real",
    "while loop",
    "at a minimum, offset 1e6",
    "dead leaf",
    "tree of outputs",
    "float32 inside",
    "times 1e-30",
    "hinge, float32",
]
# Right, but so ill-conditioned that differences have no digits to show it by.
UNTOLD = ["cancelling", "linear system, ill-conditioned", "arccos near 1", "logit at both ends"]


def half_square(x):
    """x², of which the rule says x."""
    f = jax.custom_jvp(lambda x: x**2)
    f.defjvp(lambda p, t: (f(*p), p[0] * t[0]))
    return f(x)


@pytest.mark.parametrize("name", FAST_FAULTS)
def test_a_fault_is_found_and_its_leaf_named(name):
    case = FAULTS[name]
    report = check_derivatives(case.f, *case.args)
    assert report.verdict == "wrong"
    assert not report.ok
    assert any(case.leaf in f.where or case.leaf in f.leaf for f in report.findings), report
    assert min(f.order for f in report.findings if f.order) == case.order


@pytest.mark.parametrize("name", FAST_HARD)
def test_a_right_function_passes_however_hard(name):
    report = check_derivatives(HARD[name].f, *HARD[name].args)
    assert report.ok, str(report)
    assert not report.findings
    assert all(leaf.verdict == "right" for leaf in report.leaves)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTOLD)
def test_what_cannot_be_told_is_not_called_wrong(name):
    assert CASES.by_gradlab(HARD[name]).verdict in ("right", "cannot tell")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FAULTS if n not in FAST_FAULTS])
def test_every_other_fault_is_found(name):
    outcome = CASES.by_gradlab(FAULTS[name])
    assert (outcome.verdict, outcome.named) == ("wrong", True), outcome.text


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in HARD if n not in [*FAST_HARD, *UNTOLD]])
def test_every_other_right_function_passes(name):
    outcome = CASES.by_gradlab(HARD[name])
    assert outcome.verdict == "right", outcome.text


class TestTheReport:
    def test_numbers_of_a_finding_are_the_two_derivatives_and_a_bar_that_holds(self):
        x = jnp.array([1.5, -0.5])
        finding = check_derivatives(lambda x: jnp.sum(half_square(x)), x, order=1).findings[0]
        i = finding.index[0]
        np.testing.assert_allclose(finding.autodiff, x[i])
        assert abs(finding.difference - 2 * x[i]) <= finding.bar < 1e-9
        assert finding.check == "autodiff"
        assert "1/2 times" in finding.cause

    def test_the_table_names_the_entry_as_the_caller_would_write_it(self):
        params = {"layer1": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}}

        def loss(params, count):
            w = params["layer1"]["w"].at[1, 2].mul(-1.0)
            hidden = jax.custom_jvp(jnp.sin)
            hidden.defjvp(
                lambda p, t: (hidden(*p), jnp.where(p[0] < 0, 0.5, 1.0) * jnp.cos(p[0]) * t[0])
            )
            return count * jnp.sum(hidden(w)) + jnp.sum(params["layer1"]["b"])

        report = check_derivatives(loss, params, 3)
        assert [f.where for f in report.findings] == ["params['layer1']['w'][1, 2]"]
        text = str(report)
        assert "params['layer1']['w'][1, 2]" in text
        assert "this entry alone" in text
        assert "count is int, not floating" in text
        verdicts = {leaf.leaf: leaf.verdict for leaf in report.leaves}
        assert verdicts == {
            "params['layer1']['b']": "right",
            "params['layer1']['w']": "wrong",
        }

    @pytest.mark.parametrize(
        ("factor", "words"),
        [
            (-1.0, "the sign is wrong"),
            (0.0, "exactly zero"),
            (3.0, "3 times"),
            (1 / 7, "1/7 times"),
            (0.99, "0.99 times"),
            (1.0001, "1.0001 times"),
        ],
    )
    def test_the_usual_mistakes_are_recognised(self, factor, words):
        f = jax.custom_jvp(jnp.exp)
        f.defjvp(lambda p, t: (f(*p), factor * jnp.exp(p[0]) * t[0]))
        report = check_derivatives(lambda x: jnp.sum(f(x)), jnp.arange(1.0, 8.0), order=1)
        assert words in report.findings[0].cause

    def test_a_transposed_gradient_is_called_transposed(self):
        case = FAULTS["transposed gradient"]
        causes = [f.cause for f in check_derivatives(case.f, *case.args, order=1).findings]
        assert any("transposed" in cause for cause in causes)

    def test_the_where_trap_is_named_with_its_line(self):
        x = jnp.array([1.0, 0.0])
        report = check_derivatives(lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0)), x)
        assert "`where` trap (test_check.py:" in report.findings[0].cause
        assert np.isnan(report.findings[0].autodiff)

    def test_norm_at_zero_is_not_called_a_where_trap(self):
        report = check_derivatives(jnp.linalg.norm, jnp.zeros(3))
        assert report.verdict == "wrong"
        assert "where" not in report.findings[0].cause
        assert "test_check" in report.findings[0].cause or "mul" in report.findings[0].cause

    def test_slopes_of_the_remainders_are_two_and_three_where_all_is_right(self):
        (curve,) = check_derivatives(lambda x: jnp.sum(jnp.exp(x)), jnp.ones(4)).remainders
        assert abs(curve.slopes[1] - 2) < 0.1
        assert abs(curve.slopes[2] - 3) < 0.1

    def test_the_slope_is_one_where_the_gradient_is_wrong(self):
        (curve,) = check_derivatives(half_square, jnp.asarray(1.0)).remainders
        assert abs(curve.slopes[1] - 1) < 0.2

    def test_second_derivatives_name_both_variables(self):
        case = FAULTS["second order: off-diagonal"]
        finding = check_derivatives(case.f, *case.args).findings[0]
        assert {finding.leaf, finding.other[0]} == {"x", "y"}
        assert "only at second order" in finding.cause
        assert "off-diagonal" in finding.cause


class TestWhatIsTold:
    def test_an_index_out_of_range_is_reported_with_its_line(self):
        report = check_derivatives(lambda x: x[10] ** 2 + jnp.sum(x), jnp.arange(3.0))
        assert any("outside its array (test_check.py:" in note for note in report.notes)
        assert report.ok

    def test_an_index_within_range_is_not_reported(self):
        report = check_derivatives(lambda x: x[-1] ** 2 + x[jnp.array([0, 2])][0], jnp.ones(3))
        assert not any("outside" in note for note in report.notes)

    def test_frozen_randomness_is_told_and_does_not_confuse(self):
        generator = np.random.default_rng(0)
        report = check_derivatives(lambda x: jnp.sum(x**2) * generator.normal(), jnp.ones(3))
        assert any("different values" in note for note in report.notes)
        assert report.ok

    def test_a_leaf_that_f_ignores_is_told(self):
        report = check_derivatives(lambda p: p["a"] ** 2, {"a": 1.0, "b": jnp.ones(2)})
        notes = {leaf.leaf: leaf.note for leaf in report.leaves}
        assert "does not depend" in notes["p['b']"]
        assert "does not depend" not in notes["p['a']"]

    def test_modes_that_are_missing_are_told(self):
        notes = check_derivatives(HARD["while loop"].f, *HARD["while loop"].args).notes
        assert any("reverse mode is not available" in note for note in notes)
        notes = check_derivatives(HARD["custom_vjp"].f, *HARD["custom_vjp"].args).notes
        assert any("forward mode is not available" in note for note in notes)

    def test_lost_digits_are_told(self):
        report = check_derivatives(lambda x: (1 - jnp.cos(x)) / x**2, jnp.asarray(1e-3))
        assert any("lost digits" in note for note in report.notes)
        assert 2 < report.digits < 6

    def test_digits_that_are_there_are_not_missed(self):
        report = check_derivatives(lambda x: jnp.sum(jnp.exp(x)), jnp.arange(3.0))
        assert report.digits > 13
        assert not any("lost digits" in note for note in report.notes)

    def test_digits_lost_in_float32_are_told(self):
        x = jnp.asarray(1e-2, jnp.float32)
        report = check_derivatives(lambda x: (1 - jnp.cos(x)) / x**2, x)
        assert any("of 7.2 are right" in note for note in report.notes)
        assert report.digits < 3

    def test_noise_above_the_derivative_is_not_called_a_fault(self):
        def noisy(x):
            hidden = jax.lax.stop_gradient(x)
            return 1e-3 * jnp.sum(x) + jnp.sum(jnp.floor(hidden * 1e9 % 977.0)) / 100

        report = check_derivatives(noisy, jnp.array([0.3, 0.7]), order=1)
        assert report.verdict == "cannot tell"
        assert "the bar is" in report.leaves[0].note or "no step" in report.leaves[0].note

    def test_second_derivatives_that_jax_lacks_are_told(self):
        args = jnp.asarray(2.5), jnp.asarray(1.4)
        report = check_derivatives(jax.scipy.special.gammainc, *args)
        assert any("second derivatives are not available" in note for note in report.notes)
        assert (report.verdict, report.order) == ("right", 1)

    def test_a_straight_through_rule_is_not_taken_for_noise(self):
        def through(x):
            return jnp.sum((x + jax.lax.stop_gradient(jnp.round(x) - x)) ** 2)

        report = check_derivatives(through, jnp.array([0.7, -1.4]))
        assert report.verdict == "cannot tell"
        assert "straight-through" in report.leaves[0].note

    def test_a_non_finite_value_is_located(self):
        report = check_derivatives(lambda x: jnp.log(x - 2.0), jnp.asarray(1.0))
        assert report.verdict == "cannot tell"
        assert any("log" in note for note in report.notes)


class TestManyEntries:
    def test_the_wrong_one_of_a_hundred_thousand_costs_few_evaluations(self):
        wrong = jax.custom_jvp(jnp.tanh)
        wrong.defjvp(
            lambda p, t: (
                wrong(*p),
                (1 - jnp.tanh(p[0]) ** 2) * t[0] * (1 + 0.01 * (jnp.arange(10**5) == 31415)),
            )
        )
        x = jnp.asarray(np.random.default_rng(0).normal(size=10**5), jnp.float32)
        report = check_derivatives(lambda x: jnp.sum(wrong(x)), x)
        assert [f.index for f in report.findings] == [(31415,)]
        assert report.calls < 6000


class TestManyLeaves:
    @staticmethod
    def report(wrong):
        """Forty-eight scalars, which are tried two by two, and some of wrong derivative."""

        def f(p):
            return sum((half_square if i in wrong else jnp.sin)(v) for i, v in enumerate(p))

        return check_derivatives(f, [jnp.asarray(0.1 * i + 0.5) for i in range(48)], order=1)

    def test_a_leaf_beside_a_wrong_one_gets_its_own_verdict(self):
        verdicts = [leaf.verdict for leaf in self.report({10}).leaves]
        assert verdicts == ["wrong" if i == 10 else "right" for i in range(48)]

    def test_two_wrong_leaves_side_by_side_are_both_named(self):
        verdicts = [leaf.verdict for leaf in self.report({10, 11}).leaves]
        assert verdicts == ["wrong" if i in (10, 11) else "right" for i in range(48)]


class TestArguments:
    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
    def test_every_precision_is_checked(self, dtype):
        x = jnp.asarray([0.5, 1.5], dtype)
        assert check_derivatives(lambda x: jnp.sum(jnp.sin(x)), x).ok
        assert not check_derivatives(lambda x: jnp.sum(half_square(x)), x).ok

    def test_float32_without_float64_is_checked(self):
        with jax.enable_x64(False):
            x = jnp.asarray([0.5, 1.5])
            assert x.dtype == jnp.float32
            assert check_derivatives(lambda x: jnp.sum(jnp.sin(x)), x).ok
            assert not check_derivatives(lambda x: jnp.sum(half_square(x)), x).ok

    def test_argnums_leaves_the_others_fixed(self):
        def f(x, y):
            return jnp.sum(jnp.sin(x)) + jnp.sum(half_square(y))

        assert check_derivatives(f, jnp.ones(2), jnp.ones(2), argnums=0).ok
        assert not check_derivatives(f, jnp.ones(2), jnp.ones(2), argnums=(1,)).ok

    def test_bad_arguments_are_answered(self):
        with pytest.raises(ValueError, match="`order` must be 1 or 2, got 3"):
            check_derivatives(jnp.sin, 1.0, order=3)
        with pytest.raises(ValueError, match="`argnums` must name positional arguments"):
            check_derivatives(jnp.sin, 1.0, argnums=4)
        with pytest.raises(TypeError, match="nothing to differentiate"):
            check_derivatives(lambda n: 2.0 * n, 3)
        with pytest.raises(TypeError, match="must return a floating array"):
            check_derivatives(jnp.argmax, jnp.ones(3))
        with pytest.raises(TypeError, match="no automatic derivative to check"):
            check_derivatives(lambda x: np.sin(np.asarray(x)), jnp.ones(3))

    def test_inside_jit_it_asks_for_concrete_arguments(self):
        with pytest.raises(TypeError, match="`args` must be concrete"):
            jax.jit(lambda x: check_derivatives(jnp.sin, x).calls)(1.0)


def test_assert_derivatives_raises_the_table():
    assert assert_derivatives(jnp.sin, jnp.asarray(1.0)).ok
    with pytest.raises(AssertionError, match="a derivative is wrong in x"):
        assert_derivatives(half_square, jnp.asarray(1.0))


def test_the_plot_draws_the_remainders_of_the_wrong_leaf():
    def f(a, b):
        return jnp.sum(jnp.sin(a)) + jnp.sum(half_square(b))

    report = check_derivatives(f, jnp.ones(2), jnp.ones(2))
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = plot_check(report)
        assert ax.get_title(loc="left") == "b: wrong"
        assert any("slope 1.0 (2 if right)" in line.get_label() for line in ax.get_lines())
        assert plot_check(report, leaf="a", ax=ax) is ax
        plt.close(ax.figure)
    with pytest.raises(ValueError, match="`leaf` must be one of"):
        plot_check(report, leaf="c")


class TestTheCommandLine:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "checked_module.py").write_text(
            "import jax, jax.numpy as jnp\n"
            "def right(x): return jnp.sum(jnp.sin(x))\n"
            "@jax.custom_jvp\n"
            "def wrong(x): return x**2\n"
            "wrong.defjvp(lambda p, t: (wrong(*p), p[0] * t[0]))\n"
            "def lost(x): return jnp.log(-x)\n"
            "def broken(x): raise RuntimeError('out of cheese')\n"
            "point = jnp.asarray(1.5)\n"
            "def points(): return (point,)\n"
        )
        monkeypatch.chdir(tmp_path)
        yield
        sys.modules.pop("checked_module", None)

    @pytest.mark.parametrize(("name", "code"), [("right", 0), ("wrong", 1), ("lost", 2)])
    def test_the_exit_code_is_the_verdict(self, name, code, capsys):
        arguments = ["check", f"checked_module:{name}", "--at", "checked_module:point"]
        assert main(arguments) == code
        assert "check_derivatives:" in capsys.readouterr().out

    def test_a_function_that_raises_is_not_called_wrong(self, capsys):
        arguments = ["check", "checked_module:broken", "--at", "checked_module:point"]
        assert main(arguments) == 3
        told = capsys.readouterr().err
        assert "RuntimeError: out of cheese" in told
        assert "in broken" in told

    def test_the_point_may_be_a_function(self, capsys):
        arguments = ["check", "checked_module:right", "--at", "checked_module:points"]
        assert main([*arguments, "--order", "1"]) == 0
        assert "first derivatives are right" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["checked_module:rigth", "--at", "checked_module:point"], "Did you mean 'right'"),
            (["checked_modul:right", "--at", "checked_module:point"], "no module"),
            (["checked_module", "--at", "checked_module:point"], "write MODULE:NAME"),
            (["checked_module:right"], "--at is missing"),
            (["checked_module:point", "--at", "checked_module:point"], "must be a function"),
        ],
    )
    def test_mistakes_are_answered(self, arguments, words, capsys):
        assert main(["check", *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("x", [[1e-25], [0.0, 1e-25], [1e-25, 1.0]])
def test_entries_of_next_to_nothing_are_moved_far_enough_to_tell(x):
    x = jnp.array(x)
    right = check_derivatives(lambda x: jnp.sum(jnp.exp(x) - 1), x)
    assert right.ok, str(right)

    @jax.custom_jvp
    def wrong(x):
        return jnp.sum(jnp.exp(x) - 1)

    wrong.defjvp(lambda primals, tangents: (wrong(*primals), 1.5 * jnp.sum(tangents[0])))
    assert not check_derivatives(wrong, x).ok
