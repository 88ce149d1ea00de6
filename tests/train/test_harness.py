"""`mmrec harness`: held-out documents as tasks for lm-evaluation-harness."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from train import harness
from train.data.data_folder import write_manifest
from train.data.token_files import SplitWriter
from train.data.tokenizer import Tokenizer
from train.system.errors import UserError

DOCUMENTS = {
    "text": [f"The {n}. of some documents. " + f"It is about {n} things. " * 20 for n in range(6)],
    "code": [f"def f_{n}(x):\n    return x + {n}\n" * 12 for n in range(3)] + ["short = 1\n"],
}


@pytest.fixture
def data(tmp_path):
    """A prepared folder, as small as one can be."""
    folder = tmp_path / "data"
    folder.mkdir()
    texts = [text for of_domain in DOCUMENTS.values() for text in of_domain]
    tokenizer = Tokenizer.train(texts, 270)
    tokenizer.save(folder / "tokenizer.json")
    with SplitWriter(folder, "test", np.uint16) as writer:
        for domain, documents in DOCUMENTS.items():
            for text in documents:
                ids = np.array([*tokenizer.encode(text), tokenizer.end_of_text])
                writer.add(domain, len(text), ids, np.ones(len(ids), bool))
    write_manifest(folder, vocab_size=270, prepare={}, inputs="", counts={}, cut=0)
    return folder


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_tasks_hold_the_documents(data, tmp_path, capsys):
    folder = tmp_path / "tasks"
    harness.main(data, folder, "test", 5)
    printed = capsys.readouterr().out
    assert f"--include_path {folder} --tasks mmrec_documents,mmrec_continuations\n" in printed
    documents = records(folder / "documents.jsonl")
    assert [each["text"] for each in documents] == [*DOCUMENTS["text"][:5], *DOCUMENTS["code"]]
    questions = records(folder / "continuations.jsonl")
    # Three long documents of code are too few for four choices.
    assert [each["choices"][each["answer"]] for each in questions] == [
        text[:260] for text in DOCUMENTS["text"][:5]
    ]
    for each in questions:
        assert len(set(each["choices"])) == 4
        assert len({choice[:200] for choice in each["choices"]}) == 1
    for name in ("documents", "continuations"):
        task = yaml.safe_load((folder / f"mmrec_{name}.yaml").read_text())
        assert task["task"] == f"mmrec_{name}"
        assert Path(task["dataset_kwargs"]["data_files"]["test"]) == folder / f"{name}.jsonl"


def test_what_is_wrong_is_said_before_anything_is_written(data, tmp_path):
    folder = tmp_path / "tasks"
    with pytest.raises(UserError, match="--documents must be at least 1, not 0"):
        harness.main(data, folder, "test", 0)
    with pytest.raises(UserError, match="fewer than 4 of text or code have 260 characters"):
        harness.main(data, folder, "test", 2)
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(UserError, match="exists already: name a new folder"):
        harness.main(data, folder, "test", 5)
