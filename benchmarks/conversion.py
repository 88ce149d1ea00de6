"""Converting a checkpoint of 110 million parameters with its optimizer: time and peak memory.

`python -m benchmarks.run` calls `measure`. Each figure comes from a separate process, so that its
peak memory is only its own. The ways that are compared alternate.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import bridge
from bridge.config.metadata import to_checkpoint
from bridge.twin import twin
from mmrec_jax import ModelConfig
from train.run.memory import peak_bytes

MODEL = ModelConfig(vocab_size=32000, model_dim=512, num_layers=20, num_heads=8, ffn_dim=2048)
ROUNDS = 5


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """The median seconds of each way to read and write one file, and its peak in file sizes.

    Args:
        folder: where to write the files, some gigabytes; they are deleted again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.pt"
    _run("write", folder)
    size = source.stat().st_size
    results: dict[str, dict[str, float]] = {"file": {"bytes": size}}
    runs: dict[str, list[dict[str, float]]] = {}
    ways = ["torch", "bridge"] * ROUNDS + ["safetensors", "orbax"]
    for way in ways:
        runs.setdefault(way, []).append(json.loads(_run(way, folder)))
    shutil.rmtree(folder)
    for way, records in runs.items():
        results[way] = {
            key: statistics.median(record[key] for record in records) for key in records[0]
        }
        results[way]["peak_over_file"] = results[way].pop("peak_bytes") / size
    return results


def _run(way: str, folder: Path) -> str:
    os.sync()  # what the one before has not yet written to the disk must not slow this one down
    line = [sys.executable, "-m", "benchmarks.conversion", way, str(folder)]
    return subprocess.run(line, capture_output=True, encoding="utf-8", check=True).stdout


def _write_checkpoint(path: Path) -> None:
    torch.manual_seed(0)
    module = twin("MMRecModel", MODEL)
    optimizer = torch.optim.AdamW(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    metadata = {"model_class": "MMRecModel", "config": to_checkpoint("MMRecModel", MODEL, {})}
    content = {
        "model_state_dict": module.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": None,
        "step": 1,
        "avg_loss": 1.0,
        "metadata": metadata,
    }
    torch.save(content, path)


def _convert(way: str, folder: Path) -> dict[str, float]:
    source = folder / "source.pt"
    for old in folder.glob("copy*"):  # replacing a file would wait for the disk
        old.unlink() if old.is_file() else shutil.rmtree(old)
    start = time.perf_counter()
    if way == "torch":
        content = torch.load(source, weights_only=True)
    else:
        loaded = bridge.load(source)
    read = time.perf_counter()
    if way == "torch":
        torch.save(content, folder / "copy.pt")
    elif way == "orbax":
        bridge.save_orbax(folder / "copy", loaded.model, **loaded.training_state())
    else:
        suffix = {"bridge": "pt", "safetensors": "safetensors"}[way]
        bridge.save_file(folder / f"copy.{suffix}", loaded)
    end = time.perf_counter()
    return {
        "load_seconds": read - start,
        "save_seconds": end - read,
        "seconds": end - start,
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    way, folder = sys.argv[1], Path(sys.argv[2])
    if way == "write":
        _write_checkpoint(folder / "source.pt")
    else:
        print(json.dumps(_convert(way, folder)))
