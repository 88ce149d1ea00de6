"""Small runs to be killed, starved and damaged, and what is left of them."""

import contextlib
import json
import re
import shutil

import numpy as np

import bridge
from bridge.weights import variables
from helpers import warm_python
from helpers.command_lines import write_sources

STEPS = 10
CONFIG = """
data_dir: data
run_dir: runs
seed: 3
prompts: []
prepare: {text: [raw/text], code: [raw/code], validation_fraction: 0.2, test_fraction: 0.2}
model:
  {vocab_size: 300, model_dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 24, dropout: 0.1,
   fusion_method: weighted}
"""
OPTIMIZER = "optimizer: {learning_rate: 1.0e-2, warmup_steps: 3}"
TRAINING = (
    "batch_size: 4, sequence_length: 16, accumulation: 2, log_every: 1, validate_every: 5, "
    "validation_batches: 2, checkpoint_every: 2, keep_checkpoints: 2"
)
STAGES = f"""
stages:
  base: {{ {OPTIMIZER}, training: {{steps: {STEPS}, {TRAINING}}} }}
  text: {{ {OPTIMIZER}, training: {{domain: text, steps: 4, {TRAINING}}} }}
  code: {{ {OPTIMIZER}, training: {{domain: code, steps: 4, {TRAINING}}} }}
  fusion: {{ {OPTIMIZER}, training: {{steps: 4, {TRAINING}}} }}
  continued: {{ {OPTIMIZER}, training: {{steps: 12, {TRAINING}}} }}
"""
BASE = ("train.base", "--config", "c.yaml")
PIPELINE = ("train.pipeline", "--config", "p.yaml")


def write_configs(folder):
    """Sources, c.yaml of single stages and p.yaml of a pipeline."""
    write_sources(folder)
    training = f"{OPTIMIZER}\ntraining: {{steps: {STEPS}, {TRAINING}}}\n"
    (folder / "c.yaml").write_text(CONFIG + training)
    (folder / "p.yaml").write_text(CONFIG + STAGES)


def there(folder, pattern):
    """Whether a folder, which may come and go, has what fits a pattern."""
    with contextlib.suppress(OSError):
        return any(folder.glob(pattern))
    return False


def started(folder, run, *words, **options):
    """Starts a command whose run_dir is the folder above `run`."""
    return warm_python.start(folder, *words, "--run_dir", str(run.parent), **options)


def resumed(folder, run, *words):
    """Runs a command again as its last message says: with --resume, if the run has begun."""
    resume = ("--resume",) if (run / "config.yaml").exists() else ()
    if not resume and run.exists():  # removed, while it was saved
        shutil.rmtree(run)
    return started(folder, run, *words, *resume).wait()


def one_line(done, codes=(2,)):
    """What is wrong with how a command ended: None if with one line and a right exit code."""
    lines = done.stderr.splitlines()
    if done.returncode not in codes:
        return f"exit code {done.returncode}: {done.stderr[-2000:]}"
    if len(lines) != 1 or not lines[0].startswith("error: ") or "Traceback" in done.stdout:
        return f"not one line: {done.stderr[-2000:]}"
    return None


def metrics(run):
    """The records of metrics.jsonl, without what differs in time."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k != "tokens_per_second"} for record in records]


def newest_file(run):
    """The .pt file of the newest step."""
    return max(run.glob("*.pt"), key=lambda path: int(re.findall(r"\d+", path.name)[-1]))


def difference(run, whole):
    """What is different in a run from one that nothing happened to; None if nothing is."""
    paths = [newest_file(each) for each in (run, whole)]
    if paths[0].name != paths[1].name:
        return f"its newest file is {paths[0].name}"
    states = [bridge.load(each) for each in (run, whole)]
    for kind, (found, wanted) in (
        ("state", states),
        (".pt file", [bridge.load(path) for path in paths]),
        ("state and .pt file", (states[0], bridge.load(paths[0]))),
    ):
        pairs = [(variables(found.model), variables(wanted.model))]
        if found.optimizer_state is not None:
            for name in ("exp_avg", "exp_avg_sq"):
                pairs.append([dict(getattr(x.optimizer_state, name)) for x in (found, wanted)])
        for a, b in pairs:
            if a.keys() != b.keys() or not all(np.array_equal(a[k], b[k]) for k in a):
                return f"the {kind} differs"
        if found.step != wanted.step or found.avg_loss != wanted.avg_loss:
            return f"the {kind} has another step or mean loss"
    if metrics(run) != metrics(whole):
        return f"its metrics differ: steps {[r['step'] for r in metrics(run)]}"
    if bridge.steps(run) != bridge.steps(whole):
        return f"its states are {bridge.steps(run)}"
    leftovers = [*run.rglob("*.partial*"), *run.rglob("*.tmp"), *run.parent.glob(".*")]
    return f"{leftovers[0]} is left over" if leftovers else None


def resumed_to_the_end(folder, run, whole):
    """What is wrong with a base once it is resumed; None if it ends as if nothing had been."""
    done = resumed(folder, run, *BASE)
    return f"does not resume: {done.stderr[-1500:]}" if done.returncode else difference(run, whole)
