"""`gradlab compare`: minimise problems by several methods, tell and draw how they fared."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from gradlab import _cli_names, runs
from gradlab._cli_console import Parser, add_run_options, one_of, unknown, whole_number

__all__ = ["run"]

DERIVATIVES = ("autodiff", "forward", "central")
_EXAMPLE = "gradlab compare --problem rosenbrock:n=10 --methods adam,lbfgs,newton"


def run(arguments: Sequence[str]) -> int | None:
    """Carry out `gradlab compare` with these arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.problem:
        parser.error(f"--problem is missing, for example: {_EXAMPLE}.")
    _problems(options)  # what is wrong with them is told before a folder is made
    with runs.record(
        "compare", root=options.out, dtype=options.dtype, seed=options.seed
    ) as folder:
        comparison = _measure(options)
        print(comparison.table)
        folder.save(comparison)
        folder.save_figures(_draw(comparison))
        print(f"\nThe figures, history.csv and summary.json are in {folder.folder}")
    return None


def _parser() -> Parser:
    """Build the parser of `gradlab compare`."""
    parser = Parser(
        prog="gradlab compare",
        description="Minimise problems by several methods; print a table, draw loss against\n"
        "steps, cost and time, and keep both in a new folder runs/compare-<number>.",
        epilog=f"example:\n  {_EXAMPLE}\n\n`gradlab list` tells the problems and methods.",
    )
    parser.add_argument(
        "--problem",
        action="append",
        type=_problem,
        metavar="NAME[:OPTION=VALUE...]",
        help="a problem, with its options; may be given more than once",
    )
    parser.add_argument(
        "--methods",
        type=_several("method", _cli_names.methods()),
        default=["adam", "lbfgs", "newton", "newton_cg"],
        metavar="A,B,...",
        help="methods, separated by commas (adam,lbfgs,newton,newton_cg)",
    )
    parser.add_argument(
        "--derivatives",
        type=_several("derivative", DERIVATIVES),
        default=["autodiff"],
        metavar="A,B,...",
        help=f"how to differentiate: {', '.join(DERIVATIVES)} (autodiff)",
    )
    parser.add_argument(
        "--seeds", type=whole_number(1), default=1, metavar="N", help="random starts (1)"
    )
    parser.add_argument(
        "--max-steps", type=whole_number(1), default=500, metavar="N", help="step limit (500)"
    )
    parser.add_argument(
        "--max-cost", type=_positive, metavar="C", help="limit in gradient equivalents (none)"
    )
    parser.add_argument(
        "--no-tune",
        action="store_true",
        help="take default learning rates instead of the best of a short sweep",
    )
    add_run_options(parser)
    return parser


def _problems(options: argparse.Namespace) -> list[Any]:
    """Build the problems asked for, each once, named as they were asked for."""
    import gradlab as gl

    try:
        return [
            dataclasses.replace(gl.problems.get(name, **settings), name=label)
            for label, (name, settings) in dict(options.problem).items()
        ]
    except (TypeError, ValueError) as error:
        raise runs.UsageError(str(error)) from error


def _measure(options: argparse.Namespace) -> Any:
    """Run every method on every problem and return the joined comparison."""
    import gradlab as gl

    return gl.Comparison.merge(
        [
            gl.compare(
                problem,
                options.methods,
                seeds=range(options.seed, options.seed + options.seeds),
                derivatives=options.derivatives,
                max_steps=options.max_steps,
                max_cost=options.max_cost,
                tune=not options.no_tune,
            )
            for problem in _problems(options)
        ]
    )


def _draw(comparison: Any) -> dict[str, Any]:
    """Draw loss against steps, cost and time, a figure a problem and measure."""
    import gradlab as gl

    measures = ("steps", "cost", "time")
    several = len(comparison.problems) > 1
    return {
        f"{_file_name(name) + '-' if several else ''}gap-{x}": gl.plot_convergence(
            comparison.select(problem=name), x=x
        ).figure
        for name in comparison.problems
        for x in measures
    }


def _file_name(label: str) -> str:
    """Return a label with every character a file name should not have as a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label)


def _problem(text: str) -> tuple[str, tuple[str, dict[str, Any]]]:
    """Read `name:option=value:option=value` as its label, and its name and options."""
    name, *settings = text.split(":")
    known = _cli_names.problems()
    if name not in known:
        raise argparse.ArgumentTypeError(unknown("problem", name, known))
    values = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not known[name].options:
            raise argparse.ArgumentTypeError(f"{name!r} has no options, got {setting!r}.")
        if option not in known[name].options:
            raise argparse.ArgumentTypeError(unknown("option", option, known[name].options))
        if not equals:
            raise argparse.ArgumentTypeError(f"write {name}:{option}=VALUE, got {setting!r}.")
        values[option] = _value(value)
    return text, (name, values)


def _value(text: str) -> Any:
    """Read a number, a list or a name."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _several(kind: str, names: Iterable[str]) -> Any:
    """Build an argparse type of names separated by commas, each given once."""
    check = one_of(kind, names)

    def read(text: str) -> list[str]:
        return list(dict.fromkeys(check(name.strip()) for name in text.split(",")))

    return read


def _positive(text: str) -> float:
    """Read a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}.")
    return value
