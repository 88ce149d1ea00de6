"""The shards of an unfinished preparation."""

import pickle
import resource
import signal

import numpy as np
import pytest

from bridge import in_words
from train.preparation import shards
from train.preparation.formats import Document


def test_a_task_that_was_killed_writes_its_shards_again(tmp_path):
    documents = [Document(f"text {i} é", "text", f"{i}.txt", f"{i}", 0) for i in range(3)]
    for _ in range(2):
        assert shards.write(tmp_path, 0, iter(documents)) == sum(d.size for d in documents)
        assert list(shards.read(tmp_path, 0)) == documents


def test_an_array_that_cannot_be_written_says_why_and_where(tmp_path):
    """Across processes too: a worker's error is pickled."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            shards.save_array(tmp_path / "a.npy", np.zeros(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    copied = pickle.loads(pickle.dumps(raised.value))
    assert in_words(copied) == f"{tmp_path / 'a.npy'}: File too large"
    assert not list(tmp_path.iterdir())
