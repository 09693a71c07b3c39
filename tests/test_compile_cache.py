"""The command line keeps compiled programs; the library does not unless asked to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradlab import _compile_cache

COMPILE = """
import sys
from gradlab import _compile_cache
if sys.argv[1] == "program":
    _compile_cache.switch_on()
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
print(jax.jit(lambda x: jnp.sum(jnp.sin(x) ** 3))(jnp.arange(3.0)))
print(sum(event.endswith("/cache_hits") for event in hits))
"""


def compiled(tmp_path, kind="program", **environment):
    """Compile a small program in a process of its own; return its answer and cache hits."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env = {**known, "XDG_CACHE_HOME": str(tmp_path), **environment}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, kind]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    answer, hits = done.stdout.split()
    return answer, int(hits)


def entries(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_second_process_finds_small_programs_and_survives_damaged_ones(tmp_path):
    answer, hits = compiled(tmp_path)
    assert hits == 0
    kept = entries(tmp_path / "gradlab")
    assert kept
    again, hits = compiled(tmp_path)
    assert hits >= 1
    assert again == answer
    for path in kept:
        path.write_bytes(path.read_bytes()[:20])
    assert compiled(tmp_path)[0] == answer


def test_the_library_keeps_nothing_by_itself(tmp_path):
    compiled(tmp_path, "library")
    assert entries(tmp_path) == []


def test_the_environment_says_where_or_that_not(tmp_path):
    other = tmp_path / "other"
    compiled(tmp_path, JAX_COMPILATION_CACHE_DIR=str(other))
    compiled(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert entries(tmp_path / "gradlab") == []


def test_a_home_that_cannot_be_written_to_is_fine(tmp_path):
    (tmp_path / "gradlab").write_text("in the way")
    assert compiled(tmp_path)[1] == 0


@pytest.mark.parametrize(
    ("system", "environment", "expected"),
    [
        ("linux", {"HOME": "/home/a"}, "/home/a/.cache/gradlab"),
        ("linux", {"HOME": "/home/a", "XDG_CACHE_HOME": "/fast"}, "/fast/gradlab"),
        ("darwin", {"HOME": "/Users/a"}, "/Users/a/Library/Caches/gradlab"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/gradlab"),
        ("win32", {"USERPROFILE": "/u"}, "/u/AppData/Local/gradlab"),
    ],
)
def test_the_folder_is_the_platforms(system, environment, expected):
    assert _compile_cache.folder(environment, system).parent == Path(expected)
