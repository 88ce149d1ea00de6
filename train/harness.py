"""`mmrec harness DATA_DIR FOLDER`: writes held-out documents as tasks for lm-evaluation-harness.

documents.jsonl, mmrec_documents.yaml            how well a model predicts whole documents
continuations.jsonl, mmrec_continuations.yaml    which of four texts continues a document
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bridge import replacing_folder
from train.data.data_folder import TOKENIZER, load_manifest
from train.data.token_files import read_tokens
from train.data.tokenizer import Tokenizer
from train.system.command_line import exit_after, parse_options
from train.system.errors import UserError
from train.system.terminal import console

_BEGINNING, _CONTINUATION, _CHOICES = 200, 60, 4
"""Characters of a document that are given, those that are to be found, and among how many texts."""


def main(data_dir: Path, folder: Path, split: str, documents: int) -> None:
    """Writes both tasks into a new folder.

    Args:
        data_dir: a folder that `train.prepare` wrote.
        folder: where.
        split: "test" or "validation".
        documents: at most so many of text, and of code.

    Raises:
        UserError: the data cannot be read or have too few documents, or the folder exists.
        OSError: the folder cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: name a new folder")
    if documents < 1:
        raise UserError(f"--documents must be at least 1, not {documents}")
    load_manifest(data_dir)
    tokenizer = Tokenizer.load(data_dir / TOKENIZER)
    found = [
        {"domain": domain, "text": text}
        for domain in ("text", "code")
        for text in _texts(data_dir, domain, split, documents, tokenizer)
    ]
    questions = list(_questions(found))
    if not questions:
        raise UserError(
            f"{data_dir}: of its {split} documents, fewer than {_CHOICES} of text or code have "
            f"{_BEGINNING + _CONTINUATION} characters: prepare more data, or take another --split"
        )
    place = folder.resolve()
    with replacing_folder(folder) as partial:
        _write(partial, place, "documents", found, _DOCUMENTS)
        _write(partial, place, "continuations", questions, _CONTINUATIONS)
    console.print(
        f"{len(found):,} documents and {len(questions):,} questions are in {folder}. To ask a "
        "model that mmrec bridge to-hf wrote:"
    )
    print(
        "  lm_eval --model hf --model_args pretrained=HF_FOLDER,trust_remote_code=True,"
        f"add_bos_token=False,max_length=32768 --include_path {folder} "
        "--tasks mmrec_documents,mmrec_continuations"
    )


_DOCUMENTS = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in ("bits_per_byte", "word_perplexity")],
}

# Whole documents are compared, as they begin alike: so each begins with the end-of-text token, as
# documents do in training.
_CONTINUATIONS = {
    "output_type": "multiple_choice",
    "doc_to_text": "",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}


def _texts(
    data_dir: Path, domain: str, split: str, documents: int, tokenizer: Tokenizer
) -> Iterator[str]:
    """The first documents of a split."""
    file = read_tokens(data_dir, domain, split)
    begin = 0
    for end in file.ends[:documents].tolist():
        text = tokenizer.decode(file.tokens[begin:end].tolist())
        begin = end
        if text:
            yield text


def _questions(documents: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Beginnings of documents, each with its own continuation and those of other documents."""
    generator = random.Random(0)
    for domain in ("text", "code"):
        length = _BEGINNING + _CONTINUATION
        texts = [each["text"][:length] for each in documents if each["domain"] == domain]
        texts = [text for text in dict.fromkeys(texts) if len(text) == length]
        for text in texts if len(texts) >= _CHOICES else ():
            others = [other for other in texts if other[_BEGINNING:] != text[_BEGINNING:]]
            if len(others) < _CHOICES - 1:
                continue
            wrong = [other[_BEGINNING:] for other in generator.sample(others, _CHOICES - 1)]
            answer = generator.randrange(_CHOICES)
            endings = [*wrong[:answer], text[_BEGINNING:], *wrong[answer:]]
            choices = [text[:_BEGINNING] + ending for ending in endings]
            yield {"domain": domain, "choices": choices, "answer": answer}


def _write(partial: Path, place: Path, name: str, records: list[Any], task: dict[str, Any]) -> None:
    lines = [json.dumps(record) + "\n" for record in records]
    (partial / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    content = {
        "task": f"mmrec_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(place / f"{name}.jsonl")}},
        "test_split": "test",
        **task,
    }
    text = yaml.safe_dump(content, sort_keys=False)
    (partial / f"mmrec_{name}.yaml").write_text(text, encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """The parser of its command line."""
    parser = argparse.ArgumentParser(
        prog="mmrec harness",
        description="Write held-out documents as two tasks for lm-evaluation-harness.",
        allow_abbrev=False,
    )
    parser.add_argument("data_dir", type=Path, help="a folder that mmrec prepare wrote")
    parser.add_argument("folder", type=Path, help="a new folder for the tasks")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument(
        "--documents",
        type=int,
        default=100,
        metavar="N",
        help="at most so many of text, and of code (default %(default)s)",
    )
    return parser


if __name__ == "__main__":

    def command() -> None:
        """What the command line asks for."""
        options = parse_options(build_parser())
        main(options.data_dir, options.folder, options.split, options.documents)

    exit_after(command)
