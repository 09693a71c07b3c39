"""`gradlab compare`: minimise problems by several methods, tell and draw how they fared."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab import _cli_load, _cli_names, runs
from gradlab._cli_console import (
    Parser,
    add_run_options,
    one_of,
    positive,
    several,
    unknown,
    whole_number,
)

__all__ = ["run"]

DERIVATIVES = ("autodiff", "forward", "central")
MEASURES = ("steps", "cost", "time")
_EXAMPLE = "gradlab compare --problem rosenbrock:n=10 --methods adam,lbfgs,newton"
_OWN_EXAMPLE = "gradlab compare mymodel:loss --at mymodel:params --methods adam,lbfgs"
_DIR_EXAMPLE = "gradlab compare runs/compare-1 runs/compare-2 --x cost"


def run(arguments: Sequence[str]) -> int | None:
    """Carry out `gradlab compare` with these arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if any(Path(target).is_dir() for target in options.targets):
        return _overlay(parser, options)
    _check_targets(parser, options)
    with _cli_load.this_folder():
        _subjects(options)  # what is wrong with them is told before a folder is made
        with runs.record(
            "compare",
            root=options.out,
            dtype=options.dtype,
            seed=options.seed,
            options=options,
        ) as folder:
            with _cli_load.refusals():
                comparison = _measure(options)
            print(comparison.table)
            folder.save(comparison)
            folder.save_figures(draw(comparison, options.x))
            print(f"\nThe figures, history.csv and summary.json are in {folder.folder}")
    return None


def _overlay(parser: Parser, options: argparse.Namespace) -> int:
    """Draw the histories of finished runs together, in a folder of their own."""
    folders = options.targets
    strange = [name for name in folders if not Path(name).is_dir()]
    if strange:
        parser.error(f"{strange[0]!r} is no run folder.")
    from gradlab import stored

    try:
        found = [stored.read(folder) for folder in folders]
        joined = stored.overlay(found)
    except ValueError as error:
        raise runs.UsageError(str(error)) from error
    faults = [fault for folder in found for fault in folder.faults]
    with runs.record("compare", root=options.out, dtype=options.dtype) as folder:
        print(joined.table)
        folder.save(joined)
        folder.save_figures(draw(joined, options.x or "cost"))
        folder.summary["answer"] = f"Histories of {', '.join(map(str, folders))}, together."
        print(f"\nThe figure and the joined history.csv are in {folder.folder}")
    for fault in faults:
        print(f"gradlab compare: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _check_targets(parser: Parser, options: argparse.Namespace) -> None:
    """Refuse what is neither problems nor one loss with its point."""
    if not options.problem and not options.targets:
        parser.error(f"--problem is missing, for example: {_EXAMPLE}.")
    if options.problem and options.targets:
        parser.error(f"give --problem or a loss of your own, not both: {options.targets[0]!r}.")
    if len(options.targets) > 1 or (options.targets and ":" not in options.targets[0]):
        parser.error(
            f"{options.targets[-1]!r} is neither a run folder nor the one MODULE:LOSS."
        )
    if options.targets and not options.at:
        parser.error(f"--at is missing, for example: {_OWN_EXAMPLE}.")


def _parser() -> Parser:
    """Build the parser of `gradlab compare`."""
    parser = Parser(
        prog="gradlab compare",
        usage="gradlab compare --problem NAME... | MODULE:LOSS --at MODULE:PARAMS | DIR...",
        description="Minimise problems, or a loss of your own, by several methods; print a\n"
        "table, draw loss against steps, cost and time, and keep both in a new folder\n"
        "runs/compare-<number>. Given run folders it draws their histories together instead,\n"
        "and runs nothing.",
        epilog=f"examples:\n  {_EXAMPLE}\n  {_OWN_EXAMPLE}\n  {_DIR_EXAMPLE}\n\n"
        "`gradlab list` tells the problems and methods.",
    )
    parser.add_argument(
        "targets", nargs="*", metavar="MODULE:LOSS | DIR", help="a loss, or run folders"
    )
    parser.add_argument("--at", metavar="MODULE:PARAMS", help="where the loss's runs start")
    parser.add_argument(
        "--data", metavar="MODULE:BATCH", help="further arguments of the loss (none)"
    )
    parser.add_argument(
        "--x",
        type=one_of("measure", MEASURES),
        metavar="|".join(MEASURES),
        help="draw against this only (all three; cost for run folders)",
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
        type=several("method", _cli_names.methods()),
        default=["adam", "lbfgs", "newton", "newton_cg"],
        metavar="A,B,...",
        help="methods, separated by commas (adam,lbfgs,newton,newton_cg)",
    )
    parser.add_argument(
        "--derivatives",
        type=several("derivative", DERIVATIVES),
        default=["autodiff"],
        metavar="A,B,...",
        help=f"how to differentiate: {', '.join(DERIVATIVES)} (autodiff)",
    )
    parser.add_argument(
        "--seeds",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="random starts, of problems that draw theirs (1)",
    )
    parser.add_argument(
        "--max-steps", type=whole_number(1), default=500, metavar="N", help="step limit (500)"
    )
    parser.add_argument(
        "--max-cost", type=positive, metavar="C", help="limit in gradient equivalents (none)"
    )
    parser.add_argument(
        "--no-tune",
        action="store_true",
        help="take default learning rates instead of the best of a short sweep",
    )
    add_run_options(parser)
    return parser


def _subjects(options: argparse.Namespace) -> list[tuple[Any, dict[str, Any]]]:
    """Build what is minimised, and the settings of `compare` that go with it."""
    import gradlab as gl

    seeds = range(options.seed, options.seed + options.seeds)
    if options.targets:
        import jax

        jax.config.update("jax_enable_x64", options.dtype == "float64")
        if options.seeds > 1:
            raise runs.UsageError(
                "--seeds is for --problem: a loss of your own starts at --at alone."
            )
        loss = _cli_load.function(options.targets[0], _OWN_EXAMPLE)
        at = _cli_load.load(options.at, _OWN_EXAMPLE)
        args = _cli_load.arguments(options.data, _OWN_EXAMPLE) if options.data else ()
        settings = {"starts": [at() if callable(at) else at], "args": args}
        return [(loss, settings)]
    try:
        return [
            (
                dataclasses.replace(gl.problems.get(name, **given), name=label),
                {"seeds": seeds},
            )
            for label, (name, given) in dict(options.problem).items()
        ]
    except (TypeError, ValueError) as error:
        raise runs.UsageError(str(error)) from error


def _measure(options: argparse.Namespace) -> Any:
    """Run every method on every subject and return the joined comparison."""
    import gradlab as gl

    return gl.Comparison.merge(
        [
            gl.compare(
                subject,
                options.methods,
                derivatives=options.derivatives,
                max_steps=options.max_steps,
                max_cost=options.max_cost,
                tune=not options.no_tune,
                **settings,
            )
            for subject, settings in _subjects(options)
        ]
    )


def draw(comparison: Any, x: str | None = None) -> dict[str, Any]:
    """Draw loss against steps, cost and time, a figure a problem and measure."""
    import gradlab as gl

    several = len(comparison.problems) > 1
    return {
        f"{_file_name(name) + '-' if several else ''}gap-{measure}": gl.plot_convergence(
            comparison.select(problem=name), x=measure
        ).figure
        for name in comparison.problems
        if any(r.trace is not None for r in comparison.runs if r.problem == name)
        for measure in ([x] if x else MEASURES)
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
