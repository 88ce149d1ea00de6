"""The `prepare` section of a config. Its workers import nothing else of the settings."""

import dataclasses
import re
from typing import Literal

from bridge import closest


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """What each task asks of a Slurm cluster; used only with the engine slurm.

    Attributes:
        partition: the partition that the tasks run in.
        time: time limit of a task, in the form that sbatch takes.
        memory_gb: memory of a task.
        qos: the quality of service; empty is the cluster's default.
    """

    partition: str = ""
    time: str = "24:00:00"
    memory_gb: int = 4
    qos: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where the tasks run; the result does not depend on it.

    Attributes:
        kind: processes on this machine, a Ray cluster (RAY_ADDRESS; without it, Ray is started
            on this machine) or Slurm. Ray and Slurm need data_dir on a disk that all nodes share.
        workers: how many tasks run at the same time; null is the number of cores here.
    """

    kind: Literal["local", "ray", "slurm"] = "local"
    workers: int | None = None
    slurm: SlurmConfig = dataclasses.field(default_factory=SlurmConfig)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if self.kind == "slurm" and not self.slurm.partition:
            raise ValueError("slurm.partition is empty: name the partition that the tasks run in")


_PLACEHOLDERS = ("role", "content")
"""What a chat's template may have in braces."""

_NEWER = (
    "chat_fields",
    "chat_template",
    "answers_only",
    "answer_roles",
    "tokenizer",
    "end_of_text",
    "tiktoken_pattern",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `python -m train.prepare` reads and how it splits it.

    A source is a file, a folder with all its subfolders, or a pattern with `*`, `?`, `[...]` or
    `**`. Files that end in .jsonl, .jsonlines, .ndjson or .parquet hold one document per record,
    and so do .json files that are an array of records. With a further .gz or .zst, .jsonl,
    .jsonlines, .ndjson and .json files do too. Any other file is one document.

    Attributes:
        text: sources whose documents are text, whatever they look like.
        code: sources whose documents are code, whatever they look like.
        detect: sources whose documents are labelled one by one; data (JSON, tables, settings)
            are dropped and counted.
        python_library: adds the standard library of the running Python: its source as code, its
            documentation topics and docstrings as text.
        text_fields: fields of a record that may hold its text; the first one that exists is used.
        chat_fields: the fields of a record that may hold a chat, a list of messages with role and
            content, or from and value; it counts where the record has no text.
        chat_template: how each message of a chat is written; {role} and {content} stand for what
            it has.
        answers_only: of a chat, learn only the messages of answer_roles; all of it is read.
        answer_roles: the roles whose messages are answers.
        validation_fraction: share of the source files kept for validation, in (0, 1): to choose
            between recipes.
        test_fraction: share of the source files kept for the test split, in (0, 1): to report
            what the chosen recipe reaches. Together they are below 1.
        max_document_bytes: longer documents are rejected.
        tokenizer: a tokenizer.json or .tiktoken file to encode the documents with, of
            model.vocab_size tokens; null trains one on the training documents.
        end_of_text: the token of that tokenizer that ends documents, by its name, or its id; null
            finds it (docs/data.md).
        tiktoken_pattern: how a .tiktoken file cuts texts into words: gpt2, cl100k, o200k or a
            regular expression; null is what OpenAI's files are known by, and cl100k for others.
        seed: for the splits and the order of the documents.
        engine: where the work is done.
    """

    text: list[str] = dataclasses.field(default_factory=list)
    code: list[str] = dataclasses.field(default_factory=list)
    detect: list[str] = dataclasses.field(default_factory=list)
    python_library: bool = False
    text_fields: list[str] = dataclasses.field(default_factory=lambda: ["text", "content"])
    chat_fields: list[str] = dataclasses.field(
        default_factory=lambda: ["messages", "conversations"]
    )
    chat_template: str = "<|{role}|>\n{content}\n"
    answers_only: bool = False
    answer_roles: list[str] = dataclasses.field(
        default_factory=lambda: ["assistant", "gpt", "model"]
    )
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    max_document_bytes: int = 1_000_000
    tokenizer: str | None = None
    end_of_text: int | str | None = None
    tiktoken_pattern: str | None = None
    seed: int = 0
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for key in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise ValueError(f"{key} must lie in (0, 1), not {getattr(self, key)}")
        if not self.validation_fraction + self.test_fraction < 1:
            raise ValueError(
                "test_fraction and validation_fraction must be below 1 together, "
                f"not {self.test_fraction} + {self.validation_fraction}"
            )
        if self.max_document_bytes < 1:
            raise ValueError(
                f"max_document_bytes must be at least 1, not {self.max_document_bytes}"
            )
        if not self.text_fields or not all(self.text_fields):
            raise ValueError("text_fields must name at least one field, and none may be empty")

        for name in re.findall(r"\{(\w+)\}", self.chat_template):
            if name not in _PLACEHOLDERS:
                meant = closest(name, _PLACEHOLDERS)
                hint = f"did you mean {{{meant}}}?" if meant else "known: {role}, {content}"
                raise ValueError(f"chat_template has the unknown {{{name}}} in it; {hint}")
        if "{content}" not in self.chat_template:
            raise ValueError(f"chat_template must have {{content}} in it: {self.chat_template!r}")
        if self.tokenizer is None:
            for key in ("end_of_text", "tiktoken_pattern"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} is of a given tokenizer: set prepare.tokenizer too")

    def choices(self) -> dict[str, object]:
        """The settings that decide what the data are: all but the engine.

        Newer ones that have their default are left out, so that older data stay as they are.
        """
        usual = vars(PrepareConfig())
        return {
            key: value
            for key, value in vars(self).items()
            if key != "engine" and not (key in _NEWER and value == usual[key])
        }
