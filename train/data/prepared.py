"""Everything that a run reads from a prepared folder."""

from pathlib import Path

from train.data.batches import (
    Windows,
    fingerprint,
    padding_share,
    training_batches,
    training_rows,
)
from train.data.data_folder import TOKENIZER, load_manifest
from train.data.tokenizer import Tokenizer
from train.settings.config import Config
from train.system.errors import UserError


class PreparedData:
    """What training reads from a prepared folder.

    Attributes:
        tokenizer: the folder's tokenizer.
        splits: the validation splits of "text" and "code".
        rows: what training batches are drawn from, by domain.
        batches: endless training batches, whose position can be read and set.
        padding: the share of padding in the batches.
        order: identifies the order of the batches, see `fingerprint`.
    """

    def __init__(self, config: Config, stage: str) -> None:
        """Opens and checks `config.data_dir`; raises UserError if it does not fit the config."""
        manifest = load_manifest(config.data_dir)
        if manifest.vocab_size != config.model.vocab_size:
            raise UserError(
                f"model.vocab_size is {config.model.vocab_size}, but {config.data_dir} was "
                f"prepared with {manifest.vocab_size}: set it to that, or run python -m "
                "train.prepare again"
            )
        length = config.training.sequence_length
        self.tokenizer = Tokenizer.load(Path(config.data_dir) / TOKENIZER)
        self.splits = {
            domain: Windows(config.data_dir, domain, "validation", length)
            for domain in ("text", "code")
        }
        self.rows = training_rows(config)
        self.batches = training_batches(config, stage, self.rows)
        self.padding = padding_share(config, self.rows)
        self.order = fingerprint(config, manifest, stage)

    def skip(self, count: int) -> None:
        """Skips the first `count` training batches."""
        self.batches.set_state({"next_index": int(count)})
