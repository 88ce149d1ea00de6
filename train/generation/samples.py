"""Short samples of a model during and after its training, one for each of the config's prompts."""

from collections.abc import Sequence

from mmrec_jax.sampling import Sampling
from train.data.tokenizer import Tokenizer
from train.generation.texts import continuation
from train.settings.config import Config
from train.step.frozen import Network
from train.system.errors import UserError
from train.system.terminal import console, for_terminal

SAMPLE_TOKENS = 64
SAMPLE_TEMPERATURE = 0.8


def samples_of(
    model: Network, tokenizer: Tokenizer, prompts: Sequence[str], config: Config
) -> dict[str, str]:
    """What a model adds to each prompt, or why it adds nothing; the same for the same model.

    The random keys follow from config.seed alone: training draws none.
    """
    return {
        prompt: _sampled(model, tokenizer, prompt, config, config.seed + index)
        for index, prompt in enumerate(prompts)
    }


def print_samples(found: dict[str, str], when: str = "") -> None:
    """Prints samples by prompt; `when` stands before each heading."""
    for prompt, text in found.items():
        console.print(f"{when}sample, prompt {prompt!r}:", style="bold")
        console.print(for_terminal(prompt + text))


def _sampled(model: Network, tokenizer: Tokenizer, prompt: str, config: Config, seed: int) -> str:
    try:
        return continuation(
            model,
            tokenizer,
            prompt,
            length=SAMPLE_TOKENS,
            sampling=Sampling(temperature=SAMPLE_TEMPERATURE),
            chunk_size=config.training.chunk_size,
            seed=seed,
        )
    except UserError as error:
        return f" [no sample: {error}]"
