"""Every example in a docstring, and the README's Python, runs and prints what it says."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab as gl

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(gl.__path__, "gradlab.")
    if "._experiments" not in name and not name.endswith("__main__")
]
NAMES = {"jax": jax, "jnp": jnp, "np": np, "gl": gl}


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in finder.find(module, name, extraglobs=NAMES):
        runner.run(example)
    assert runner.failures == 0


def test_every_public_name_is_there_and_documented():
    for name in gl.__all__:
        assert (getattr(gl, name).__doc__ or "").strip(), f"gradlab.{name} has no docstring"


def test_the_readme_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = Path(__file__).parents[1] / "README.md"
    first = re.search(r"```python\n(.*?)```", readme.read_text(), re.DOTALL).group(1)
    exec(compile(first, "README.md", "exec"), {})
    assert (tmp_path / "convergence.png").exists()


def test_the_readme_shows_what_the_checker_prints(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    code = next(block for block in blocks if "print(gl.check_derivatives" in block)
    exec(compile(code, "README.md", "exec"), {})
    shown = re.search(r"```text\n(check_derivatives:.*?)```", readme, re.DOTALL).group(1)
    assert capsys.readouterr().out == shown


CURRICULUM = (Path(__file__).parents[1] / "docs" / "curriculum.md").read_text()
SHOWN = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", CURRICULUM, re.DOTALL)


@pytest.mark.parametrize(("code", "told"), SHOWN, ids=range(len(SHOWN)))
def test_the_curriculum_shows_what_its_code_prints(code, told, capsys):
    exec(compile(code, "curriculum.md", "exec"), {})
    assert capsys.readouterr().out == told


def test_every_python_block_of_the_curriculum_has_its_output():
    assert len(SHOWN) == CURRICULUM.count("```python") == 3


def test_the_curriculum_names_experiments_and_problems_that_are_there():
    rows = [line.split(" | ") for line in CURRICULUM.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "`" in row[2]]
    experiments = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
    problems = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    folder = Path(__file__).parents[1] / "experiments"
    for row in rows:
        scripts = [folder / f"{name}.py" for name in re.findall(r"`(\w+)`", row[2])]
        text = "".join(script.read_text() for script in scripts)
        for figure in re.findall(r"`([\w-]+)`", row[3]):
            assert f'"{figure}"' in text, f"{figure} is drawn by none of {row[2]}"
    assert problems <= set(gl.problems.names())
    assert set(gl.problems.names(tag="network")) <= problems
    assert {"learning_rates", "hyperparameters", "backpropagation"} <= experiments
