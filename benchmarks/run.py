"""`python -m benchmarks.run`: how fast training, generation and conversion are, as ratios.

Compares our model with the PyTorch twin and with what the machine allows. Each part is measured in
one run, because only ratios are similar on other machines. Prints tables and writes
build/benchmarks.json and .png. `--only NAME` measures one part, and keeps the others of an existing
file.

With a long-term memory of zeros our model leaves out the attention over it; the twin does not.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich.table

from benchmarks import conversion, generation, limits, parity, start, torch_twin
from benchmarks.plot import plot
from benchmarks.process import measured_on
from mmrec_jax import ModelConfig
from train.settings.cli import parse_config
from train.system.allocator import keep_freed_memory
from train.system.terminal import console, print_table

BATCH, TOKENS = 8, 512
SMALL = "configs/base-22m.yaml"
LENGTHS = (256, 1024, 4096, 8192)
Result = dict[str, Any]


def steps(config: str, *overrides: str, tokens: int = TOKENS) -> Result:
    """What benchmarks.training_steps measures for a config, in a separate process."""
    shape = (f"--training.batch_size={BATCH}", f"--training.sequence_length={tokens}")
    line = [
        sys.executable,
        "-m",
        "benchmarks.training_steps",
        "--config",
        config,
        *shape,
        *overrides,
    ]
    done = subprocess.run(line, check=True, capture_output=True, encoding="utf-8")
    result: Result = json.loads(done.stdout)
    result["step_seconds"] = result["gradient_seconds"] + result["update_seconds"]
    result["tokens_per_second"] = result["tokens"] / result["step_seconds"]
    return result


def base_22m() -> ModelConfig:
    """The 22.4 M model."""
    return parse_config(["--config", SMALL], "").model


def training() -> Result:
    """One step of the 22.4 M model, 8 x 512 tokens, compared with the twin and the products alone.

    The goals are measured with remat elementwise: like the twin, it keeps all products.
    """
    ours = {
        f"{precision}, {remat}": steps(
            SMALL, f"--training.precision={precision}", f"--training.remat={remat}"
        )
        for precision in ("float32", "bfloat16")
        for remat in ("products", "elementwise")
    }
    keep_freed_memory()
    products = limits.matrix_products(base_22m(), BATCH, TOKENS)
    eager, compiled = (
        torch_twin.training(base_22m(), BATCH, TOKENS, compiled=compiled)
        for compiled in (False, True)
    )
    rows = {
        "twin, eager": eager["step_seconds"],
        "twin, torch.compile": compiled["step_seconds"],
        **{f"ours, {name}": row["step_seconds"] for name, row in ours.items()},
        "matrix products alone, float32": products,
    }
    speeds = {name: BATCH * TOKENS / seconds for name, seconds in rows.items()}
    table = rich.table.Table("training, 22.4 M, 8 x 512", "step (s)", "tokens/s", "times the twin")
    for name, seconds in rows.items():
        ratio = rows["twin, eager"] / seconds
        table.add_row(name, f"{seconds:.2f}", f"{speeds[name]:.0f}", f"{ratio:.2f}")
    print_table(table)
    best = ours["float32, elementwise"]
    step = best["step_seconds"]
    result = {
        "step_seconds": rows,
        "tokens_per_second": speeds,
        "times_twin": rows["twin, eager"] / step,
        "share_of_limit": products / step,
        "limit_times_twin": rows["twin, eager"] / products,
        "bfloat16_times_float32": {
            remat: ours[f"float32, {remat}"]["step_seconds"]
            / ours[f"bfloat16, {remat}"]["step_seconds"]
            for remat in ("products", "elementwise")
        },
        "peak_bytes": {name: row["peak_bytes"] for name, row in ours.items()},
        "compile_seconds": best["compile_seconds"],
        "first_step_seconds_compiled_twin": compiled["first_step_seconds"],
    }
    console.print(f"share of the matrix products' limit: {result['share_of_limit']:.0%}")
    return result


def depths() -> Result:
    """Compile time and a step's time of the 22.4 M model at 12 and 24 layers, and the ratio."""
    keys = ("compile_seconds", "step_seconds", "tokens_per_second")
    results: Result = {}
    for layers in (12, 24):
        row = steps(SMALL, f"--model.num_layers={layers}")
        results[f"{layers} layers"] = {key: row[key] for key in keys}
    shallow, deep = results["12 layers"], results["24 layers"]
    results["24 / 12"] = {key: deep[key] / shallow[key] for key in keys}
    table = rich.table.Table("", "compile (s)", "step (s)", "tokens/s")
    for name, row in results.items():
        table.add_row(name, *(f"{row[key]:.2f}" for key in keys))
    print_table(table)
    return results


def lengths() -> Result:
    """Tokens per second at several sequence lengths; layers are recomputed to fit into memory."""
    speeds = {
        str(length): steps(SMALL, "--training.remat=layers", tokens=length)["tokens_per_second"]
        for length in LENGTHS
    }
    table = rich.table.Table("tokens in a sequence, 8 sequences", "tokens/s")
    for length, speed in speeds.items():
        table.add_row(length, f"{speed:.0f}")
    print_table(table)
    return {
        "tokens_per_second": speeds,
        "slowest_over_fastest": min(speeds.values()) / max(speeds.values()),
    }


def memory() -> Result:
    """The 50.8 M model, 8 x 2048 tokens, with each setting of training.remat."""
    rows = {}
    for remat in ("elementwise", "products", "layers"):
        try:
            rows[remat] = steps("configs/base.yaml", f"--training.remat={remat}", tokens=2048)
        except subprocess.CalledProcessError as error:
            if error.returncode != -signal.SIGKILL:
                raise
            console.print(f"{remat}: this machine has not enough memory")
    table = rich.table.Table("50.8 M, 8 x 2048", "tokens/s", "times as slow", "peak (GB)")
    fastest = min(row["gradient_seconds"] for row in rows.values())
    for name, row in rows.items():
        row["times_as_slow"] = row["gradient_seconds"] / fastest
        peak = row["peak_bytes"] / 1e9
        speed = row["tokens_per_second"]
        table.add_row(name, f"{speed:.0f}", f"{row['times_as_slow']:.2f}", f"{peak:.2f}")
    print_table(table)
    return rows


def generated() -> Result:
    """Seconds per token, greedy, compared with the twin's loop and with reading the parameters."""
    keep_freed_memory()
    config = base_22m()
    result: Result = {}
    limit = generation.parameter_bytes(config) / limits.read_bandwidth()
    table = rich.table.Table("generation, 22.4 M", "ms/token", "twin", "times the twin", "of limit")
    for batch in (1, 16):
        ours = generation.decoding(config, batch)
        twin = torch_twin.decoding(config, batch, 40)
        row = {"seconds": ours, "twin": twin, "times_twin": twin / ours, "of_limit": limit / ours}
        result[f"batch {batch}"] = row
        cells = (f"{ours * 1e3:.2f}", f"{twin * 1e3:.2f}", f"{twin / ours:.2f}")
        table.add_row(f"batch {batch}", *cells, f"{row['of_limit']:.0%}")
    late = generation.decoding(config, 1, generation.LATE)
    early = result["batch 1"]["seconds"]
    result["late"] = {"seconds": late, "times_early": late / early}
    cells = (f"{late * 1e3:.2f}", "", f"{late / early:.2f} times position {generation.EARLY}", "")
    table.add_row(f"batch 1, position {generation.LATE}", *cells)
    print_table(table)
    return result


def started() -> Result:
    """A run's first step, without and with JAX's cache, and the time to read a batch."""
    result: Result = dict(start.measure(SMALL, BATCH, TOKENS))
    for name in ("first start", "second start"):
        console.print(f"{name}: {result[name]:.1f} s to the end of the first step (8 x 512 tokens)")
    console.print(f"reading a batch: {result['read a batch'] * 1e3:.2f} ms")
    return result


def saved() -> Result:
    """How much longer training takes with a save every 50 steps, of a small and a larger model."""
    results: Result = {}
    table = rich.table.Table(
        "a save every 50 steps", "50 steps (s)", "time lost", "processor time", "written after"
    )
    for name, config, shape in (
        ("demo, 64 x 128", "configs/demo.yaml", (64, 128)),
        ("22.4 M, 8 x 64", SMALL, (8, 64)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            batch, tokens = shape
            path = start.prepared(
                config, Path(folder), batch_size=batch, sequence_length=tokens, accumulation=1
            )
            line = (sys.executable, "-m", "benchmarks.saving", "--config", path)
            done = subprocess.run(line, check=True, capture_output=True, encoding="utf-8")
        results[name] = row = json.loads(done.stdout)
        cells = (
            f"{row['seconds']:.1f}",
            f"{row['share_of_seconds']:.1%}",
            f"{row['share_of_a_save_alone']:.1%}",
        )
        table.add_row(name, *cells, f"{row['steps_until_written']} steps")
    print_table(table)
    return results


def precision() -> Result:
    """How much the loss in bfloat16 differs from the one in float32, in nats per token."""
    both = {name: parity.losses(name) for name in ("float32", "bfloat16")}
    last = {name: sum(values[-50:]) / 50 for name, values in both.items()}
    for name, values in both.items():
        console.print(
            f"{name}: loss {values[0]:.4f} at first, {last[name]:.4f} in the last 50 steps"
        )
    return {"losses": both, "difference": last["bfloat16"] - last["float32"]}


def converted() -> Result:
    """A large checkpoint through the bridge and through torch, and the ratio of their times."""
    results: Result = conversion.measure(Path("build/conversion"))
    table = rich.table.Table("", "load (s)", "save (s)", "both (s)", "times torch's", "peak / file")
    for name in ("torch", "bridge", "safetensors", "orbax"):
        row = results[name]
        row["times_torch"] = row["seconds"] / results["torch"]["seconds"]
        keys = ("load_seconds", "save_seconds", "seconds", "times_torch", "peak_over_file")
        table.add_row(name, *(f"{row[key]:.2f}" for key in keys))
    print_table(table)
    return results


PARTS: dict[str, Callable[[], Result]] = {
    # The twin comes last: its memory stays with this process.
    "start": started,
    "saving": saved,
    "memory": memory,
    "lengths": lengths,
    "depths": depths,
    "training": training,
    "generation": generated,
    "precision": precision,
    "conversion": converted,
}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("--only", choices=PARTS, action="append")
    only = parser.parse_args().only
    path = Path("build/benchmarks.json")
    path.parent.mkdir(exist_ok=True)
    document: Result = (
        json.loads(path.read_text(encoding="utf-8")) if only and path.exists() else {}
    )
    for name in only or PARTS:
        console.print(f"measuring: {name}")
        document[name] = {**PARTS[name](), "measured on": measured_on()}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {path}")
    picture = path.with_suffix(".png")
    if plot(document, picture):
        console.print(f"drawn in {picture}")


if __name__ == "__main__":
    main()
