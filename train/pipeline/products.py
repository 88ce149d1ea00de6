"""What a pipeline makes of its trained stages: scores, files to give away, and the report."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import bridge
from bridge import MANIFEST, describe_files
from train.checkpoints.language_model import network_of, read, stage_folder
from train.data.folder import TOKENIZER
from train.data.prepared import PreparedData
from train.generation.command import load_run
from train.reports.run_report import sampled
from train.run.folder import newest_step
from train.run.resume import POSITION
from train.scoring.score import Score
from train.scoring.scoreboard import Scores, score_networks, score_table, write_scores
from train.settings.config import PipelineConfig
from train.stages.all_stages import STAGES
from train.stages.fusion import FusionStage
from train.step.frozen import Network
from train.system.errors import UserError
from train.system.interrupt import uninterrupted
from train.system.terminal import console
from train.system.write import write_text

EXPORT = "export"

_NAMES = {
    "base": "base",
    "continued": "continued base",
    "text": "text expert",
    "code": "code expert",
    "fusion": "fusion",
}
_FUSION_START = "fusion at step 0"


def evaluate(pipeline: PipelineConfig) -> Path:
    """Scores every stage, and the fusion before its first step too; returns the JSON's path."""
    config = pipeline.stage("fusion")
    data = PreparedData(config, FusionStage.name)

    def loader(stage: str) -> Callable[[], Network]:
        return lambda: network_of(read(stage_folder(config, stage), config, "run_dir"), config)

    networks = {name: loader(stage) for stage, name in _NAMES.items()}
    networks[_FUSION_START] = FusionStage(config).start
    scores = score_networks(networks, config, data.tokenizer, unrouted=[_FUSION_START])
    return write_scores(Path(config.run_dir), f"evaluation-{config.evaluate.split}", scores)[0]


def export(pipeline: PipelineConfig) -> Path:
    """Writes every model as a .safetensors file; returns the path of the folder's manifest.

    Before that, each stage's .pt file is held to the state that it was written beside.

    Raises:
        UserError: they differ, or a file cannot be written.
    """
    folder = Path(pipeline.run_dir) / EXPORT
    partial = folder.with_name(f".{EXPORT}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, kind in STAGES.items():
            stage = kind(pipeline.stage(name))
            run = stage_folder(stage.config, name)
            file = run / stage.file(newest_step(run))
            with uninterrupted():
                loaded, exported = bridge.load(run), bridge.load(file)
            if not bridge.compare(loaded, exported).agrees():
                raise UserError(f"{file} is not the state that it was written beside")
            console.print(f"{file}: equal to its state, difference 0", markup=False)
            notes = {key: note for key, note in loaded.metadata.items() if key != POSITION}
            path = partial / f"{stage.checkpoint_name}.safetensors"
            bridge.save_safetensors(path, loaded.model, metadata=notes)
        shutil.copy(Path(pipeline.data_dir) / TOKENIZER, partial / TOKENIZER)
        described = json.dumps(describe_files(partial), indent=1)
        write_text(partial / MANIFEST, described + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except (bridge.BridgeError, OSError) as error:
        raise UserError(f"cannot export to {folder}: {error}") from error
    return folder / MANIFEST


def report(pipeline: PipelineConfig) -> None:
    """Prints what each stage gained, and writes report.md."""
    run_dir, split = Path(pipeline.run_dir), pipeline.evaluate.split
    scores = read_scores(run_dir, split)
    verdicts = [
        f"{'yes' if better < other else 'NO'}: {claim} ({better:.4f} against {other:.4f} nats)"
        for claim, better, other in claims(scores)
    ]
    domains = list(scores)
    lines = [
        f"# {run_dir.name}, {split} split",
        "",
        f"![bits a byte of every model](evaluation-{split}.png)",
        "",
        "Cross entropy in nats a token (perplexity, bits a byte):",
        "",
        "| | " + " | ".join(domains) + " |",
        "|---|" + "---|" * len(domains),
        *(
            f"| {name} | " + " | ".join(_cell(scores[domain][name]) for domain in domains) + " |"
            for name in scores[domains[0]]
        ),
        "",
        *(f"- {verdict}" for verdict in verdicts),
    ]
    path = run_dir / "report.md"
    try:
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    console.print(score_table(scores, f"{split} split", _NAMES["fusion"]))
    for verdict in verdicts:
        console.print(verdict, markup=False)
    fusion, tokenizer, config = load_run(run_dir / "checkpoints_fusion")
    for index, prompt in enumerate(pipeline.prompts):
        console.print(f"fusion, prompt {prompt!r}:", style="bold")
        console.print(
            prompt + sampled(fusion, tokenizer, prompt, config, pipeline.seed + index), markup=False
        )
    for name, place in (
        ("report", path),
        ("plot", run_dir / f"evaluation-{split}.png"),
        ("models", run_dir / EXPORT),
    ):
        console.print(f"{name}: {place}", markup=False)


def read_scores(run_dir: Path, split: str) -> Scores:
    """What `evaluate` wrote.

    Raises:
        UserError: it is not there, or not readable.
    """
    path = run_dir / f"evaluation-{split}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            domain: {name: Score(**values) for name, values in of_domain.items()}
            for domain, of_domain in content["scores"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def claims(scores: Mapping[str, Mapping[str, Score]]) -> list[tuple[str, float, float]]:
    """What the plan promises: a sentence, the loss that should be lower, and the other one."""
    base, control, fusion = _NAMES["base"], _NAMES["continued"], _NAMES["fusion"]
    pairs = (
        ("text", _NAMES["text"], base),
        ("code", _NAMES["code"], base),
        ("mixed", fusion, base),
        ("mixed", fusion, control),
    )
    found = [
        (
            f"{better} beats {other} on {domain}",
            scores[domain][better].loss,
            scores[domain][other].loss,
        )
        for domain, better, other in pairs
    ]
    expert, name = min((scores["mixed"][_NAMES[name]].loss, name) for name in ("text", "code"))
    found.append(
        (
            f"{_FUSION_START} is at most 0.02 above the {_NAMES[name]}, the better one on mixed",
            scores["mixed"][_FUSION_START].loss,
            expert + 0.02,
        )
    )
    return found


def _cell(score: Score) -> str:
    return f"{score.loss:.4f} ({score.perplexity:.1f}, {score.bits_per_byte:.4f})"
