"""What a wheel holds, and that it works without the checkout around it."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import gradlab

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel in this process: nothing is downloaded."""
    build = pytest.importorskip("hatchling.build")
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return folder / build.build_wheel(str(folder))
    finally:
        os.chdir(before)


def test_the_wheel_holds_the_package_the_experiments_and_the_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("gradlab/py.typed", "gradlab/cli.py", "gradlab/_experiments/convergence.py"):
        assert name in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {
        "gradlab",
        "gradlab_jax",
    }
    assert not [name for name in names if "__pycache__" in name or "test" in name]


@pytest.mark.slow
def test_an_installed_wheel_lists_and_finds_the_experiments(wheel, tmp_path):
    target = tmp_path / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True, cwd=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def gradlab_prints(*arguments):
        command = [sys.executable, "-m", "gradlab", *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert "convergence" in gradlab_prints("list", "experiments")
    assert "--quick" in gradlab_prints("run", "convergence", "--help")
    where = "import gradlab._cli_names as n; print(n.experiments()['convergence'].path)"
    path = subprocess.check_output(
        [sys.executable, "-c", where], env=environment, cwd=tmp_path, text=True
    )
    assert Path(path.strip()) == target / "gradlab/_experiments/convergence.py"


def test_the_readme_holds_both_commands_alone_on_their_lines():
    lines = (ROOT / "README.md").read_text().splitlines()
    for extra, ends in (
        ("experiments", "gradlab run convergence"),
        ("test", '-m pytest -m "not slow"'),
    ):
        command = re.compile(
            r"python3 -m venv \.venv && \.venv/bin/pip install -q -e "
            rf'"\.\[{extra}\]" && \.venv/bin/.*{ends}'
        )
        assert [line for line in lines if command.fullmatch(line)], extra


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", gradlab.__version__)
    assert f"## [{gradlab.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_declared_extra_is_named_where_the_error_says_it():
    """The `pip install` lines of our own errors name extras that exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    sources = "".join(path.read_text() for path in ROOT.glob("gradlab/**/*.py"))
    named = set(re.findall(re.escape(project["name"]) + r"\[(\w+)\]", sources))
    assert named
    assert named <= extras


def test_importing_gradlab_imports_nothing_heavy():
    script = (
        "import sys, gradlab\n"
        "heavy = {'jax', 'optax', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_core_dependencies_are_few():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", entry)[0] for entry in project["dependencies"]}
    assert names == {"jax", "jaxlib", "optax", "numpy", "matplotlib"}


# What `make("newton")` imports is a module of the name that the package gives its function.
LAZY = """
import importlib, sys
import gradlab
assert "jax" not in sys.modules
gradlab.make("newton"), gradlab.make("newton_cg")
loaded = {name for name in sys.modules if name.startswith("gradlab.optimizers.")}
assert "gradlab.optimizers.quasi_newton" not in loaded
for package in (gradlab, gradlab.optimizers):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        value = getattr(package, name)
        home = sys.modules.get(f"{package.__name__}.{name}")
        if home is not None and hasattr(home, name):
            assert value is getattr(home, name), name
    try:
        package.newtn
    except AttributeError as error:
        assert "Did you mean 'newton'?" in str(error)
    else:
        raise AssertionError
"""


def test_names_are_imported_when_first_used_and_stay_what_they_are():
    subprocess.run([sys.executable, "-c", LAZY], check=True)
