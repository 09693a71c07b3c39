"""The manners of a program: how gradlab's commands take arguments, fail and end."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from gradlab import _cli_interrupt, _compile_cache, _distributed
from gradlab._errors import nearest

__all__ = [
    "DTYPES",
    "Parser",
    "UsageError",
    "add_run_options",
    "console",
    "guarded",
    "one_of",
    "parser",
    "positive",
    "several",
    "tell",
    "unknown",
    "whole_number",
]

DTYPES = ("float32", "float64")
_FEW = 16  # names that still fit two lines of a terminal
# What an interrupted run is told anew.
_OF_THIS_TIME = (
    "--resume",
    "--max-seconds",
    "--coordinator",
    "--num-processes",
    "--process-id",
    "--stall-seconds",
)
# What a disk that is full, or a share of it that is used up, says.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# When Python looks for cycles among young, older and all objects. Tracing makes millions that
# live on; with Python's own 700, 10, 10 the search takes a twelfth of a short run.
_COLLECT = (100_000, 20, 100)
LOST = _distributed.LOST
USAGE, INTERRUPTED = 2, 130  # exit codes: argparse's own, and a shell's for Ctrl-C


class UsageError(Exception):
    """What was asked for cannot be done; the message is for the person at the terminal."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that answers an unknown option with the nearest one."""

    def __init__(self, **texts: str | None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=layout, **texts)  # type: ignore[arg-type]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, or exit with code 2 and one line that says what to write instead.

        `options.given` are the arguments. With nothing but `--resume` (and `--max-seconds`)
        they are those of the run that goes on.
        """
        args = list(sys.argv[1:] if args is None else args)
        given = _without(args, _OF_THIS_TIME)
        folder = _value_of("--resume", args)
        if folder is not None and not given and "--resume" in self._option_string_actions:
            given = recorded(folder)
            args = [*given, *args]
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            kind = "option" if rest[0].startswith("-") else "argument"
            known = [name for name in self._option_string_actions if name.startswith("--")]
            name = rest[0].split("=")[0]
            self.error(f"unknown {kind} {name!r}.{nearest(name, known)}")
        options.given = given
        _join(self, options)
        return options

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong, and leave with code 2."""
        self.exit(USAGE, f"{self.prog}: error: {message} `{self.prog} --help` tells more.\n")


def _join(parser: Parser, options: Any) -> None:
    """Join the other processes of the run, where the arguments say that there are any."""
    names = ("coordinator", "num_processes", "process_id")
    told: list[Any] = [getattr(options, name, None) for name in names]
    if told == [None, None, None]:
        return
    if None in told:
        parser.error("--coordinator, --num-processes and --process-id come together.")
    try:
        _distributed.start(*told)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _distributed.watch_for_stalls(options.stall_seconds)
    if options.process_id:  # only the first one writes
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (to the end)


def recorded(folder: str) -> list[str]:
    """Return the arguments of an earlier run, from its summary."""
    from gradlab._json import read_json

    try:
        arguments = read_json(Path(folder) / "summary.json")["arguments"]
        return [str(argument) for argument in arguments]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--resume {folder}: there is no summary.json of a run that can go on ({error})."
        ) from error


def _without(arguments: list[str], names: Iterable[str]) -> list[str]:
    """Leave out options that take a value, and their values."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.partition("=")[0] not in names:
            kept.append(argument)
            continue
        skip = not skip and "=" not in argument
    return kept


def _value_of(name: str, arguments: list[str]) -> str | None:
    """Return what an option is given, if it is there."""
    for place, argument in enumerate(arguments):
        if argument == name and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no such name, which one is nearest, and which there are."""
    known = list(known)
    told = f"Known: {', '.join(known)}." if len(known) <= _FEW else "`gradlab list` shows all."
    return f"unknown {kind} {name!r}.{nearest(name, known)} {told}"


def one_of(kind: str, names: Iterable[str]) -> Callable[[str], str]:
    """Build an argparse type that accepts only `names`."""
    names = list(names)

    def check(value: str) -> str:
        if value not in names:
            raise argparse.ArgumentTypeError(unknown(kind, value, names))
        return value

    return check


def whole_number(at_least: int) -> Callable[[str], int]:
    """Build an argparse type of integers that are not smaller than `at_least`."""

    def check(value: str) -> int:
        if not value.lstrip("+").isdecimal() or int(value) < at_least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {at_least}, got {value!r}."
            )
        return int(value)

    return check


def several(kind: str, names: Iterable[str]) -> Callable[[str], list[str]]:
    """Build an argparse type of names separated by commas, each given once."""
    check = one_of(kind, names)

    def read(text: str) -> list[str]:
        return list(dict.fromkeys(check(name.strip()) for name in text.split(",")))

    return read


def positive(text: str) -> float:
    """Read a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}.")
    return value


def parser(name: str, description: str | None) -> Parser:
    """Build the parser every experiment starts from; add the experiment's own options to it.

    Args:
        name: Name of the experiment.
        description: Its docstring, which is the question it answers.

    Returns:
        A parser that knows --quick, --out, --dtype and --seed.

    Examples:
        >>> parser("convergence", "Which method is best?").parse_args(["--quick"]).seed
        0
    """
    made = Parser(prog=f"gradlab run {name}", description=description)
    made.add_argument("--quick", action="store_true", help="fewer and shorter runs, every part")
    add_run_options(made)
    return made


def add_run_options(made: Parser) -> None:
    """Add what every command that makes a run folder takes."""
    made.add_argument(
        "--out", default="runs", metavar="DIR", help="where the run's folder is made (runs)"
    )
    made.add_argument(
        "--dtype",
        default="float64",
        type=one_of("dtype", DTYPES),
        metavar="|".join(DTYPES),
        help="precision of all arithmetic (float64)",
    )
    made.add_argument(
        "--max-seconds",
        type=positive,
        metavar="S",
        help="end after so long with what there is; --resume goes on (no limit)",
    )
    made.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with the run in this folder; what it has finished is not run again",
    )
    made.add_argument(
        "--shard",
        type=one_of("axis", ("data", "runs")),
        metavar="data|runs",
        help="spread rows of data, or the runs of a sweep, over all devices (neither)",
    )
    made.add_argument(
        "--coordinator", metavar="HOST:PORT", help="process 0 of several processes of one run"
    )
    made.add_argument(
        "--num-processes", type=whole_number(1), metavar="N", help="how many there are"
    )
    made.add_argument(
        "--process-id", type=whole_number(0), metavar="I", help="which one this is, from 0"
    )
    made.add_argument(
        "--stall-seconds",
        type=positive,
        default=600.0,
        metavar="S",
        help="end if no step ends for so long, in a run of several processes (600)",
    )
    made.add_argument(
        "--seed", default=0, type=whole_number(0), metavar="N", help="random seed (0)"
    )


def tell(text: str) -> None:
    """Say something beside the results."""
    print(text, file=sys.stderr, flush=True)


def console(main: Callable[[], int | None], prog: str | None = None) -> NoReturn:
    """Run `main` as a program and leave with its exit code.

    After Ctrl-C the process leaves at once: unwinding it while XLA compiles in another
    thread can crash the interpreter.
    """
    _compile_cache.switch_on()
    gc.set_threshold(*_COLLECT)
    name = prog or Path(sys.argv[0]).name
    _cli_interrupt.watched(name)
    code = guarded(main, name)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if code == INTERRUPTED:
        os._exit(_cli_interrupt.code())
    if code and _distributed.several():  # a usual exit would wait for the others
        os._exit(code)
    gc.freeze()  # what is left ends with the process, and is not searched for cycles first
    sys.exit(code)


def guarded(main: Callable[[], int | None], prog: str) -> int:
    """Call `main` and return its exit code, 2 for a usage error, or 130 after Ctrl-C.

    A usage error and a missing extra take one line on stderr. Any other exception is a
    fault, and keeps its traceback.
    """
    try:
        return main() or 0
    except SystemExit as stop:  # argparse, after --help or an error it has told
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for example, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UsageError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        print(f"{prog}: error: {error}", file=sys.stderr)
    except BaseException as error:
        if _distributed.several():
            _distributed.leave(error)
        full = isinstance(error, OSError) and error.errno in _FULL
        if not full and not getattr(error, "for_the_terminal", False):
            raise
        print(f"{prog}: error: {error}", file=sys.stderr)
        return LOST if isinstance(error, _distributed.LostPeerError) else USAGE
    return USAGE
