"""The start of a training run: the time to its first step, and to read its data."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from train.data.prepared import PreparedData
from train.settings.cli import parse_config

BATCHES = 200


def measure(config: str, batch: int, tokens: int) -> dict[str, float]:
    """Seconds from the start of `train.base` to the end of its first step, and for reading a batch.

    The first start compiles; the second finds the compiled programs in JAX's cache. The data are
    those of the Python library.
    """
    with tempfile.TemporaryDirectory() as name:
        path = prepared(
            config,
            Path(name),
            batch_size=batch,
            sequence_length=tokens,
            accumulation=1,
            log_every=1,
        )
        return {
            "first start": _first_step(path),
            "second start": _first_step(path),
            "read a batch": _read(path),
        }


def prepared(config: str, folder: Path, **training: int) -> Path:
    """Prepares the Python library for a config, or a pipeline's base; returns its new config."""
    settings = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    settings |= settings.pop("stages", {}).get("base", {})
    settings |= {
        "data_dir": str(folder / "data"),
        "run_dir": str(folder / "run"),
        "prepare": {"python_library": True},
    }
    settings["training"] |= training
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    prepare = (sys.executable, "-m", "train.prepare", "--config", path)
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    return path


def _first_step(config: Path) -> float:
    line = (sys.executable, "-m", "train.base", "--config", config, "--overwrite")
    variables = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(config.with_name("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    begun = time.perf_counter()
    with subprocess.Popen(line, env=variables, stdout=subprocess.PIPE, encoding="utf-8") as run:
        assert run.stdout is not None
        for printed in run.stdout:
            if printed.startswith("step 1/"):
                seconds = time.perf_counter() - begun
                run.kill()
                return seconds
    raise RuntimeError("training ended without a step")


def _read(config: Path) -> float:
    """The mean time over batches of a file with no pages in memory."""
    batches = PreparedData(parse_config(["--config", str(config)], ""), "base").batches
    for path in config.with_name("data").rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return (time.perf_counter() - begun) / BATCHES
