"""Names for the command line, read from the source text: importing it would import JAX.

`gradlab list` and the answer to a typo come at once this way. A test holds what is read
here against the real tables.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Entry", "experiments", "methods", "problems"]

_PACKAGE = Path(__file__).parent
_METHOD_TABLES = ("FACTORIES", "_SECOND_ORDER")  # the dictionaries of gradlab/optimizers


class Entry(NamedTuple):
    """A name, what it stands for, where that is written, and the options it takes."""

    name: str
    summary: str
    path: Path
    options: tuple[str, ...] = ()


def experiments() -> dict[str, Entry]:
    """Return the experiments by name: of the wheel, or else of the checkout around it."""
    folder = _PACKAGE / "_experiments"
    if not folder.is_dir():
        folder = _PACKAGE.parent / "experiments"
    found = [p for p in sorted(folder.glob("*.py")) if not p.name.startswith("_")]
    return {p.stem: Entry(p.stem, _first_line(_parse(p)), p) for p in found}


def problems() -> dict[str, Entry]:
    """Return the registered problems by name, with the options of their builders."""
    found = [
        Entry(name, _first_line(function), path, _keywords(function))
        for path in sorted((_PACKAGE / "problems").glob("*.py"))
        for function in _functions(_parse(path))
        for name in _registered(function)
    ]
    return {entry.name: entry for entry in sorted(found)}


def methods() -> dict[str, Entry]:
    """Return the named methods, with the optax function behind those that are optax's."""
    modules = {p: _parse(p) for p in sorted((_PACKAGE / "optimizers").glob("*.py"))}
    ours = {f.name: _first_line(f) for module in modules.values() for f in _functions(module)}
    found = []
    for path, module in modules.items():
        for table in _tables(module):
            for key, value in zip(table.keys, table.values, strict=True):
                # A factory, or a pair of a factory and its default learning rate.
                factory = value.elts[0] if isinstance(value, ast.Tuple) else value
                if isinstance(key, ast.Constant):
                    text = ast.unparse(factory)
                    found.append(Entry(str(key.value), ours.get(text, text), path))
    return {entry.name: entry for entry in sorted(found)}


def _tables(module: ast.Module) -> Iterator[ast.Dict]:
    """Yield the dictionary displays inside the assignments to the tables of methods."""
    for node in module.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        )
        if any(isinstance(t, ast.Name) and t.id in _METHOD_TABLES for t in targets):
            yield from (inner for inner in ast.walk(node) if isinstance(inner, ast.Dict))


def _parse(path: Path) -> ast.Module:
    """Parse a source file without running it."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the functions of a module, in order."""
    return (node for node in module.body if isinstance(node, ast.FunctionDef))


def _registered(function: ast.FunctionDef) -> list[str]:
    """Return the names a function is given by `@register("name", ...)`."""
    return [
        call.args[0].value
        for call in function.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "register"
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    ]


def _keywords(function: ast.FunctionDef) -> tuple[str, ...]:
    """Return the names of a function's keyword-only parameters."""
    return tuple(argument.arg for argument in function.args.kwonlyargs)


def _first_line(node: ast.Module | ast.FunctionDef) -> str:
    """Return the first line of a docstring as a caption: no verb, no dot, no TeX dollars."""
    line = (ast.get_docstring(node) or "").partition("\n")[0]
    return line.removeprefix("Build ").rstrip(".").replace("$", "")
