"""No 50 tokens in a row of validation or test are in training, in real corpora."""

import sysconfig

import numpy as np
import pytest
from helpers.command_lines import run

from train.data.token_files import DOMAINS

PACKAGES = sysconfig.get_path("purelib")
CORPORA = {
    "python's library": "python_library: true",
    "installed packages": "detect: [{}]".format(
        ", ".join(f"{PACKAGES}/{name}" for name in ("networkx", "hypothesis", "mpmath", "click"))
        # Packages carry little to be read; their licences repeat one another.
        + f", '{PACKAGES}/*.dist-info'"
    ),
}
WINDOW = 50


def windows(path):
    """The bytes of all runs of WINDOW tokens, document ends among them."""
    tokens = np.load(path)
    content, size = tokens.tobytes(), tokens.itemsize
    last = len(content) - WINDOW * size
    return (content[begin : begin + WINDOW * size] for begin in range(0, last + 1, size))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", CORPORA.values(), ids=CORPORA)
def test_no_window_is_in_training_too(tmp_path, source):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data_dir: data\nrun_dir: runs\nmodel: {{vocab_size: 2048}}\nprepare:\n  {source}\n"
        "  validation_fraction: 0.1\n  test_fraction: 0.1\n"
    )
    done = run(tmp_path, "train.prepare", "--config", config)
    assert "cut" in done.stdout  # so there was something to find
    held_out = {}
    for domain in DOMAINS:
        for split in ("validation", "test"):
            found = set(windows(tmp_path / "data" / domain / split / "tokens.npy"))
            assert len(found) > 1000
            held_out |= dict.fromkeys(found, f"{domain}, {split}")
    for domain in DOMAINS:
        for window in windows(tmp_path / "data" / domain / "train" / "tokens.npy"):
            assert window not in held_out, (domain, held_out[window])
