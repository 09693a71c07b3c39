"""Settings of the whole suite: shapes enforced, float64 available, no display."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
from jaxtyping import install_import_hook

install_import_hook("gradlab", "beartype.beartype")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Nearly all the time goes to compiling small programs for the CPU, in half of it without
# XLA's fusion emitters. XLA aborts on flags it does not know, so only versions tried get it.
if (0, 10) <= jax.__version_info__ < (0, 12):
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_use_fusion_emitters" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()


def pytest_configure(config):
    """Keep compiled programs, as the command line does, but beside pytest's own cache.

    The next run of the suite then takes half the time, and so do later modules of the same
    run, after `_let_go_of_compiled_code`.
    """
    from gradlab import _compile_cache

    if config.pluginmanager.hasplugin("cacheprovider"):
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("programs"))
        _compile_cache.switch_on()


@pytest.fixture
def random():
    """A generator of its own for each test: its draws depend on no test before it."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def _let_go_of_compiled_code():
    """Compiled programs are kept for good: gigabytes by the end of the suite."""
    yield
    jax.clear_caches()
