"""Everything that a run reads from a prepared folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from train.data.batch_documents import documents_of, named
from train.data.batches import (
    Batch,
    Windows,
    fingerprint,
    padding_share,
    training_batches,
    training_rows,
)
from train.data.data_folder import TOKENIZER, load_manifest
from train.data.token_files import read_tokens
from train.data.tokenizer import Tokenizer
from train.settings.config import Config
from train.system.errors import UserError
from train.system.terminal import console


class PreparedData:
    """What training reads from a prepared folder.

    All is opened at the start: who prepares the folder anew meanwhile gives a run no other data.

    Attributes:
        tokenizer: the folder's tokenizer.
        splits: the validation splits of "text" and "code".
        rows: what training batches are drawn from, by domain.
        counted: the training tokens that the baselines count.
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
        self.counted = read_tokens(config.data_dir, config.training.domain, "train")
        self.batches = training_batches(config, stage, self.rows)
        self.padding = padding_share(config, self.rows)
        self.order = fingerprint(config, manifest, stage)
        self._config, self._stage = config, stage

    @property
    def position(self) -> int:
        """How many training batches have been read or skipped."""
        return int(self.batches.get_state()["next_index"])

    def batches_without(self, left_out: range) -> Iterator[Batch]:
        """The training batches from here on.

        Args:
            left_out: the steps whose batches are left out, where step 1 has the first ones.
        """
        count = self._config.training.accumulation
        if left_out and self.position // count >= left_out[-1]:
            steps = f"{left_out[0]} to {left_out[-1]}"
            console.print(f"the data of steps {steps} are behind: nothing is left out")
        while True:
            if self.position // count + 1 in left_out:
                console.print(f"leaving out the data of steps {left_out[0]} to {left_out[-1]}")
                self.skip(left_out[-1] * count)
            yield next(self.batches)

    def documents(self, batches: Sequence[int]) -> str:
        """The documents of training batches in words; batches are counted from 0."""
        return named(documents_of(self._config, self._stage, self.rows, batches))

    def skip(self, count: int) -> None:
        """Skips the first `count` training batches."""
        self.batches.set_state({"next_index": int(count)})
