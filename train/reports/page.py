"""Renders report.html, one file that needs no other, from the template beside it."""

import base64
import dataclasses
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge import file_digest
from train.reports.curves import LOSSES, Curve, draw_curves, draw_margins, tokens_of_step
from train.reports.templates import template
from train.run.metrics import read_metrics
from train.run.recorded import STEPS, recorded_parts, recorded_settings
from train.scoring.score import BASELINES, margin
from train.scoring.scoreboard import Scores
from train.system.errors import UserError
from train.system.write import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = "report.html"

COUNTED = {
    "unigram": "counts how often each token occurs in the training data",
    "bigram": "counts which tokens follow the token before them in the training data",
    "5-gram": "counts which tokens follow the 4 tokens before them: a model should beat it",
}
"""What each of the BASELINES is."""


class StageContent(NamedTuple):
    """What a page shows of one stage: its folder, its numbers of parameters, samples by prompt."""

    run: Path
    parameters: Mapping[str, int]
    samples: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows.

    Attributes:
        title, lead: its heading, and a sentence on what it is about.
        verdicts: sentences on what was found, and whether each is what one hoped for.
        pairs: the margins: for two names in the scores, what the margin says.
        scores: of the models, on this split.
        split: its name.
        meanings: what each name in the scores is, but for the baselines.
        curves: the lines in the pictures of losses.
        levels: for a loss, what else it is compared with.
        curves_note: how the pictures are read.
        stages: by name.
        files: files whose hashes are shown.
        commands: what to run next, by what that does.
    """

    title: str
    lead: str
    verdicts: Sequence[tuple[bool, str]] = ()
    pairs: Mapping[tuple[str, str], str]
    scores: Scores
    split: str
    meanings: Mapping[str, str]
    curves: Sequence[Curve]
    levels: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    curves_note: str
    stages: Mapping[str, StageContent]
    files: Sequence[Path]
    commands: Mapping[str, str]


def write_page(path: Path, page: Page) -> None:
    """Writes a page; the same files of the runs give the same page.

    Raises:
        UserError: a run's record cannot be read, or the page not be written.
    """
    margins = {
        f"{name} against {other}": {
            domain: margin(of_domain[name], of_domain[other])
            for domain, of_domain in page.scores.items()
        }
        for name, other in page.pairs
    }
    # Margins between models are small beside those to what is counted.
    models = {f"{name} against {other}" for name, other in page.pairs if other not in BASELINES}
    drawn = {name: row for name, row in margins.items() if name in models} or margins

    def curves(loss: str) -> str:
        levels = page.levels.get(loss)
        return _picture((5, 4), lambda axes: draw_curves(axes, page.curves, loss, levels))

    content = dict(vars(page)) | {
        "meanings": COUNTED | dict(page.meanings),
        "margins": [*zip(margins.items(), page.pairs.values(), strict=True)],
        "margins_picture": _picture(
            (5.6, 1.5 + 0.55 * len(drawn)), lambda axes: draw_margins(axes, drawn)
        ),
        "pictures": {name: curves(loss) for loss, name in LOSSES.items()},
        "stages": {name: _facts(stage) for name, stage in page.stages.items()},
        "prompts": list(next(iter(page.stages.values())).samples),
        "parts": list(dict.fromkeys(p for s in page.stages.values() for p in s.parameters)),
        "settings": _settings({name: stage.run for name, stage in page.stages.items()}),
    }
    try:
        content["hashes"] = {str(file): file_digest(file) for file in page.files}
        rendered = template(Path(__file__).with_name("page.html"), html=True).render(content)
        write_text(path, rendered + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _picture(size: tuple[float, float], draw: "Callable[[Axes], object]") -> str:
    """A picture of so many inches as the address of an image, whose data are in it."""
    import matplotlib.figure  # imported only when there is something to draw

    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mmrec"}):  # or each drawing has other names
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def _facts(stage: StageContent) -> dict[str, Any]:
    settings, records = recorded_settings(stage.run), read_metrics(stage.run)
    per_step = tokens_of_step(settings)
    rates = [(r["step"], r["tokens_per_second"]) for r in records if r.get("tokens_per_second")]
    before = [0, *(step for step, _ in rates)]
    seconds = sum(
        (step - b) * per_step / rate for b, (step, rate) in zip(before, rates, strict=False)
    )
    figures = {
        "steps": f"{settings.get(STEPS, 0):,}",
        "tokens in a step": f"{per_step:,}",
        "tokens in all": f"{settings.get(STEPS, 0) * per_step:,}",
        "tokens per second": f"{statistics.median(r for _, r in rates):,.0f}" if rates else "",
        "time of all steps": f"{seconds / 60:,.1f} min" if rates else "",
    }
    keys = ("started", "step", "devices", "device", "cores", "precision", "python", "packages")
    history = [{key: part.get(key) for key in keys} for part in recorded_parts(stage.run)]
    return {**stage._asdict(), "figures": figures, "history": history}


def _settings(runs: Mapping[str, Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """The runs' settings: those that differ, by key and run, and those that all have."""
    found = {name: recorded_settings(run) for name, run in runs.items()}
    keys = dict.fromkeys(key for settings in found.values() for key in settings)
    by_key = {key: {name: s.get(key) for name, s in found.items()} for key in keys}
    other = {key for key, values in by_key.items() if len(set(map(repr, values.values()))) > 1}
    return {
        "What differs between the stages": {key: by_key[key] for key in keys if key in other},
        "What all of them have" if len(runs) > 1 else "All settings": {
            key: {"value": next(iter(by_key[key].values()))} for key in keys if key not in other
        },
    }
