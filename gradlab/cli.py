"""The command line: gradlab list | run | compare | check | diagnose | report.

Arguments are understood before JAX is imported, so help, lists and typos are answered at
once.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn

import gradlab
from gradlab import _cli_check, _cli_compare, _cli_diagnose, _cli_names, _cli_report
from gradlab._cli_console import Parser, console, guarded, unknown

__all__ = ["main", "program"]


class _Command(NamedTuple):
    """A command: what it does, and the function of its arguments that does it."""

    summary: str
    run: Callable[[Sequence[str]], int | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line and return the exit code.

    Args:
        argv: The arguments, by default those of this process.

    Returns:
        0, or 2 where the arguments ask for something impossible, 3 where another process of
        the run is gone, 130 after Ctrl-C; 1 where `check` or `diagnose` found a fault.

    Examples:
        >>> from gradlab.cli import main
        >>> main(["list", "experiments"])  # doctest: +ELLIPSIS
        backpropagation ...
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(arguments), "gradlab")


def program() -> NoReturn:
    """Be the program `gradlab`."""
    console(main)


def _dispatch(arguments: list[str]) -> int | None:
    """Hand the arguments after the command's name to the command."""
    parser = _parser()
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments)  # --help and --version end here
        parser.print_help()
        return 2
    name, *rest = arguments
    if name not in _COMMANDS:
        parser.error(unknown("command", name, _COMMANDS))
    return _COMMANDS[name].run(rest)


def _parser() -> Parser:
    """Build the parser of what stands before a command."""
    parser = Parser(
        prog="gradlab",
        usage="gradlab COMMAND [options]",
        description="A numerical differentiation laboratory on JAX.",
        epilog="commands:\n"
        + _listing({name: command.summary for name, command in _COMMANDS.items()})
        + "\n\n`gradlab COMMAND --help` tells what a command takes.",
    )
    parser.add_argument("--version", action="version", version=gradlab.__version__)
    return parser


def _list(arguments: Sequence[str]) -> None:
    """Print the names of one kind, or of all."""
    kinds = {
        "experiments": _cli_names.experiments,
        "problems": _cli_names.problems,
        "methods": _cli_names.methods,
    }
    parser = Parser(prog="gradlab list", description="List what there is, one line each.")
    parser.add_argument("kind", nargs="?", help=f"{', '.join(kinds)} (all)")
    kind = parser.parse_args(arguments).kind
    if kind is not None and kind not in kinds:
        parser.error(unknown("kind", kind, kinds))
    for name in [kind] if kind else kinds:
        indent = "" if kind else "  "
        if not kind:
            print(f"{name}:")
        found = kinds[name]().values()
        print(_listing({e.name: f"{e.summary}{_told(e.source)}" for e in found}, indent))


def _told(source: str) -> str:
    """Return the source of a problem's data in brackets, or nothing."""
    return f" [{source.rstrip('.')}]" if source else ""


def _run(arguments: Sequence[str]) -> int | None:
    """Hand the arguments after its name to an experiment's `main`."""
    known = _cli_names.experiments()
    parser = Parser(
        prog="gradlab run",
        usage="gradlab run NAME|all [options]",
        description="Run an experiment, or all of them one after the other; the results of "
        "each go to\na new folder runs/NAME-<number>.",
        epilog="experiments:\n"
        + _listing({name: entry.summary for name, entry in known.items()})
        + "\n\n`gradlab run NAME --help` tells what an experiment takes.",
    )
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args([a for a in arguments if a in ("-h", "--help")])
        parser.error(f"name the experiment first: {', '.join(known)}.")
    name, *rest = arguments
    if name == "all":
        return _run_all(known, rest)
    if name not in known:
        parser.error(unknown("experiment", name, known))
    return _load(known[name]).main(rest)


def _run_all(known: Mapping[str, _cli_names.Entry], arguments: Sequence[str]) -> int:
    """Run every experiment; one that fails leaves the others, and is told at the end."""
    told, failed = {}, 0
    for name, entry in known.items():
        print(f"\n==> {name}: {entry.summary}", flush=True)
        started = time.perf_counter()
        try:
            code = _load(entry).main(list(arguments)) or 0
        except Exception:  # the error of one experiment is not the others'
            traceback.print_exc()
            code = 1
        seconds = time.perf_counter() - started
        told[name] = f"{seconds:7.1f} s  {'failed' if code else 'finished'}"
        failed += code != 0
    print("\n" + _listing(told))
    return min(failed, 1)


def _load(entry: _cli_names.Entry) -> ModuleType:
    """Import an experiment from its file."""
    spec = importlib.util.spec_from_file_location(
        f"gradlab_experiment_{entry.name}", entry.path
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _listing(lines: Mapping[str, str], indent: str = "  ") -> str:
    """Align names and what they stand for."""
    width = max(map(len, lines), default=0)
    return "\n".join(
        f"{indent}{name:<{width}}  {text}".rstrip() for name, text in lines.items()
    )


_COMMANDS = {
    "list": _Command("list the experiments, problems and methods there are", _list),
    "run": _Command("run an experiment, for example: gradlab run convergence", _run),
    "compare": _Command(
        "minimise a loss by several methods, or overlay runs", _cli_compare.run
    ),
    "check": _Command("check the derivatives of a function of yours", _cli_check.run),
    "diagnose": _Command("measure all there is to know about your loss", _cli_diagnose.run),
    "report": _Command("make one page of finished runs", _cli_report.run),
}
