"""Names for the command line, read from the source text: importing it would import JAX.

`gradlab list` and the answer to a typo come at once this way. A test holds what is read
here against the real tables.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Entry", "experiments", "methods", "problems"]

_PACKAGE = Path(__file__).parent
_METHOD_TABLES = ("FACTORIES", "_OWN")  # the dictionaries of gradlab/optimizers


class Entry(NamedTuple):
    """A name, what it stands for, where that is written, its options, and the data's source."""

    name: str
    summary: str
    path: Path
    options: tuple[str, ...] = ()
    source: str = ""


def experiments() -> dict[str, Entry]:
    """Return the experiments by name: of the wheel, or else of the checkout around it."""
    folder = _PACKAGE / "_experiments"
    if not folder.is_dir():
        folder = _PACKAGE.parent / "experiments"
    found = [p for p in sorted(folder.glob("*.py")) if not p.name.startswith("_")]
    return {p.stem: Entry(p.stem, _first_line(_parse(p)), p) for p in found}


def problems() -> dict[str, Entry]:
    """Return the registered problems by name, with the options of their builders."""
    folder = _PACKAGE / "problems"
    sources = _strings(_parse(folder / "data.py"))
    found = [
        Entry(
            name, _description(function), path, _keywords(function), _source(function, sources)
        )
        for path in sorted([*folder.glob("*.py"), *folder.glob("networks/*.py")])
        for function in _functions(_parse(path))
        for name in _registered(function)
    ]
    return {entry.name: entry for entry in sorted([*found, *_nist()])}


def _nist() -> Iterator[Entry]:
    """Yield NIST's regressions, which are registered from a table: data set, (model, level)."""
    path = _PACKAGE / "problems" / "nist" / "__init__.py"
    module = _parse(path)
    builders = [f for f in ast.walk(module) if isinstance(f, ast.FunctionDef)]
    options = next(_keywords(f) for f in builders if f.name == "build")
    for table in _tables(module, ("_TABLE",)):
        for key, value in zip(table.keys, table.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                name, level = str(key.value), ast.literal_eval(value.elts[1])
                caption = f"NIST's regression {name}, of {level} difficulty"
                yield Entry(name.lower(), caption, path, options)


def methods() -> dict[str, Entry]:
    """Return the named methods, with the optax function behind those that are optax's."""
    modules = {p: _parse(p) for p in sorted((_PACKAGE / "optimizers").glob("*.py"))}
    ours = {f.name: _first_line(f) for module in modules.values() for f in _functions(module)}
    found = []
    for path, module in modules.items():
        for table in _tables(module, _METHOD_TABLES):
            for key, value in zip(table.keys, table.values, strict=True):
                # A pair of a factory and its default rate; of our own the rate alone.
                if isinstance(key, ast.Constant):
                    name = str(key.value)
                    factory = (
                        ast.unparse(value.elts[0]) if isinstance(value, ast.Tuple) else name
                    )
                    found.append(Entry(name, ours.get(factory, factory), path))
    return {entry.name: entry for entry in sorted(found)}


def _tables(module: ast.Module, names: Sequence[str]) -> Iterator[ast.Dict]:
    """Yield the dictionary displays inside the assignments to these names."""
    for node in module.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        )
        if any(isinstance(t, ast.Name) and t.id in names for t in targets):
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


def _description(builder: ast.FunctionDef) -> str:
    """Return the description a builder gives its problem, or its docstring's first line."""
    given = [
        node.value.value
        for node in ast.walk(builder)
        if isinstance(node, ast.keyword) and node.arg == "description"
        if isinstance(node.value, ast.Constant)
    ]
    return str(given[0]).rstrip(".") if given else _first_line(builder)


def _strings(module: ast.Module) -> dict[str, str]:
    """Return the strings that a module gives names."""
    return {
        target.id: str(node.value.value)
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _source(builder: ast.FunctionDef, known: Mapping[str, str]) -> str:
    """Return the source of the data a builder names, `source=data.NAME`, or nothing."""
    given = [
        known[inner.attr]
        for node in ast.walk(builder)
        if isinstance(node, ast.keyword) and node.arg == "source"
        for inner in ast.walk(node.value)
        if isinstance(inner, ast.Attribute) and inner.attr in known
    ]
    return given[0] if given else ""


def _keywords(function: ast.FunctionDef) -> tuple[str, ...]:
    """Return the names of a function's keyword-only parameters."""
    return tuple(argument.arg for argument in function.args.kwonlyargs)


def _first_line(node: ast.Module | ast.FunctionDef) -> str:
    """Return the first line of a docstring as a caption: no verb, no dot, no TeX dollars."""
    line = (ast.get_docstring(node) or "").partition("\n")[0]
    caption = line.removeprefix("Build ").rstrip(".").replace("$", "")
    return caption[:1].upper() + caption[1:]
