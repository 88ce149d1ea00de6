"""What all tests share: the original's own outputs, and the precision that they need."""

import dataclasses
import functools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import warm_python
from helpers.paths import GOLDEN

import bridge
from bridge.keys import entries
from mmrec_jax import LongTermMemory

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell ignores it for what it starts in the background, and so would the commands under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """The fast tests, and those of faults, are compiled without optimizations, ten times as fast.

    `make slow` compiles as for users, the golden tests too.
    """
    if config.option.markexpr in ("not slow and not chaos", "chaos"):
        flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = flags


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: one that began last would be waited for."""
    longest = ("test_pipeline.py", "test_base_run.py", "test_prepare.py", "test_twin.py")
    items.sort(key=lambda item: item.path.name not in longest)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests counted, see `figure`."""
    figures = [
        text
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, text in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("figures")
        for text in figures:
            terminalreporter.write_line(str(text))


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a line that is printed when all tests have run."""
    return functools.partial(record_property, "figure")


@pytest.fixture(scope="session", autouse=True)
def what_was_compiled() -> Iterator[None]:
    """Many tests compile the same programs: each process finds here what another compiled before.

    The processes that tests start find it too.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for name, value in (
            ("jax_compilation_cache_dir", folder),
            ("jax_persistent_cache_min_compile_time_secs", 0.0),
        ):
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield
        warm_python.stop()


@dataclasses.dataclass(frozen=True)
class Golden:
    """One folder of golden data: a checkpoint, and what the original computed with it."""

    checkpoint: bridge.LoadedCheckpoint
    arrays: dict[str, np.ndarray]

    def memory(self, prefix: str = "") -> list[LongTermMemory]:
        layers = range(self.checkpoint.config.num_layers)
        return [
            LongTermMemory(
                *(jnp.asarray(self.arrays[f"{prefix}long_term.{i}.{name}"]) for name in "kv")
            )
            for i in layers
        ]

    def ids(self, name: str) -> jax.Array:
        return jnp.asarray(self.arrays[name].astype(np.int32))

    def gradient_errors(self, grads: dict[tuple[str | int, ...], jax.Array]) -> dict[str, float]:
        """Norm of the difference over the norm, by the original's name."""
        checkpoint = self.checkpoint
        table = entries(type(checkpoint.model).__name__, checkpoint.config)
        by_key = {entry.key: entry for entry in table}
        errors = {}
        for name, expected in self.arrays.items():
            key = name.removeprefix("grad.")
            if key == name or key in ("x", "text_output", "code_output"):
                continue
            entry = by_key[key]
            found = np.asarray(grads[entry.path])
            found = found.T if entry.transpose else found
            assert found.shape == expected.shape, key
            errors[key] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        return errors


@pytest.fixture(autouse=True)
def highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="session")
def golden() -> Callable[..., Golden]:
    def load(folder: str, checkpoint: str = "checkpoint.pt") -> Golden:
        with np.load(GOLDEN / folder / "io.npz") as arrays:
            return Golden(bridge.load_torch(GOLDEN / folder / checkpoint), dict(arrays))

    return load
