"""`gradlab diagnose`: everything worth knowing about a loss of the user's, on one page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from gradlab import _cli_load, _cli_names, runs
from gradlab._cli_console import Parser, add_run_options, positive, several

__all__ = ["run"]

_EXAMPLE = "gradlab diagnose mymodel:loss --at mymodel:params --data mymodel:batch"


def run(arguments: Sequence[str]) -> int | None:
    """Carry out `gradlab diagnose`; the exit code is 1 if the gradient is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.at:
        parser.error(f"--at is missing, for example: {_EXAMPLE}.")
    with _cli_load.this_folder():
        # A typo is told before a folder is made, in the precision the module is to have.
        import jax

        jax.config.update("jax_enable_x64", options.dtype == "float64")
        loss = _cli_load.function(options.loss, _EXAMPLE)
        at = _cli_load.load(options.at, _EXAMPLE)
        batch = _cli_load.arguments(options.data, _EXAMPLE) if options.data else ()
        with runs.record(
            "diagnose",
            root=options.out,
            dtype=options.dtype,
            seed=options.seed,
            script=_file_of(loss),
            options=options,
        ) as folder:
            return _diagnose(folder, loss, at() if callable(at) else at, batch, options)


def _diagnose(
    folder: runs.RunFolder, loss: Any, point: Any, batch: tuple[Any, ...], options: Any
) -> int:
    """Measure, print, and keep the page, the numbers and the histories."""
    from gradlab._files import write_whole
    from gradlab.diagnose import diagnose
    from gradlab.report import environment

    def report(question: str) -> None:
        print(f"{question} ...", file=sys.stderr, flush=True)

    with _cli_load.refusals():
        found = diagnose(
            loss,
            point,
            *batch,
            methods=options.methods,
            max_cost=options.max_cost,
            seed=options.seed,
            report=report,
        )
    print(found)
    if found.comparison is not None:
        folder.save(found.comparison)
    write_whole(folder.path("diagnosis.txt"), f"{found}\n".encode())
    found.to_json(folder.path("diagnosis.json"))
    found.to_html(folder.path("report.html"), beside=environment(folder.summary))
    folder.summary["answer"] = found.sections["advice"].answer
    print(f"\nThe page is {folder.path('report.html')}")
    return 1 if found.check is not None and found.check.verdict == "wrong" else 0


def _file_of(function: Any) -> str:
    """Return the file that a function is written in, or this one's."""
    return getattr(sys.modules.get(function.__module__), "__file__", None) or __file__


def _parser() -> Parser:
    """Build the parser of `gradlab diagnose`."""
    parser = Parser(
        prog="gradlab diagnose",
        description="Measure a loss at a point: is its gradient right and to how many digits,\n"
        "how noisy is the loss, what do derivatives cost, how is it curved, and which of five\n"
        "methods minimises it best? Prints the answers and keeps them as one HTML page, text\n"
        "and JSON in a new folder runs/diagnose-<number>. The exit code is 1 if the gradient\n"
        "is wrong.",
        epilog=f"example:\n  {_EXAMPLE}\n\nThe point is an array or any nesting of them, the "
        "data a tuple of the loss's\nfurther arguments; each may be a function that returns "
        "it. Modules are looked\nfor in this folder too.",
    )
    parser.add_argument("loss", metavar="MODULE:LOSS", help="function loss(params, *batch)")
    parser.add_argument("--at", metavar="MODULE:PARAMS", help="the point")
    parser.add_argument("--data", metavar="MODULE:BATCH", help="further arguments (none)")
    parser.add_argument(
        "--methods",
        type=several("method", _cli_names.methods()),
        metavar="A,B,...",
        help="methods to compare, separated by commas (five that fit the number of variables)",
    )
    parser.add_argument(
        "--max-cost",
        type=positive,
        metavar="C",
        help="budget of each method in gradient equivalents (400, or 20 Hessians if more)",
    )
    add_run_options(parser)
    return parser
