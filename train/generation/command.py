"""`python -m mmrec_jax.generate --checkpoint RUN`: continues prompts with a trained model."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from mmrec_jax.sampling import Sampling
from train.generation.speaker import load_speaker
from train.generation.stop_strings import Continuation
from train.generation.texts import continuations
from train.system.allocator import keep_freed_memory
from train.system.command_line import exit_after, parse_options
from train.system.errors import UserError
from train.system.terminal import for_terminal


def build_parser() -> argparse.ArgumentParser:
    """The parser of its command line."""
    parser = argparse.ArgumentParser(
        prog=sys.argv[0] if sys.argv[0] == "mmrec generate" else "python -m mmrec_jax.generate",
        description="Continue prompts with a trained model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        type=os.path.expanduser,
        required=True,
        metavar="PATH",
        help="a run's folder, a state's, or a .pt or .safetensors file",
    )
    parser.add_argument(
        "--tokenizer",
        type=os.path.expanduser,
        metavar="FILE",
        help="tokenizer.json or .tiktoken file; the default is the one beside the checkpoint",
    )
    parser.add_argument(
        "--end_of_text", metavar="TOKEN", help="what ends a document, if the tokenizer hides it"
    )
    parser.add_argument(
        "--base_model",
        type=os.path.expanduser,
        metavar="PATH",
        help="the base of an expert that is in no run's folder",
    )
    parser.add_argument("--num_heads", type=int, help="if a file does not state it")
    parser.add_argument(
        "--chunk_size",
        type=int,
        help="training.chunk_size, if the checkpoint is in no run's folder",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        help="text to continue; give it again for more texts, each as if it were alone",
    )
    parser.add_argument("--length", type=int, default=200, help="sample at most so many tokens")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="divides the scores; 0 always takes the likeliest token",
    )
    parser.add_argument("--top_k", type=int, help="sample only from the k likeliest tokens")
    parser.add_argument(
        "--top_p",
        type=float,
        help="sample only from the likeliest tokens that together have this probability",
    )
    parser.add_argument("--seed", type=int, default=0, help="another one gives other texts")
    parser.add_argument(
        "--stop", action="append", default=[], help="end before this text; repeatable"
    )
    return parser


def command() -> None:
    """Prints the prompts of the command line with their continuations."""

    def main(options: argparse.Namespace) -> None:
        try:
            sampling = Sampling(
                temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
            )
        except ValueError as error:
            raise UserError(f"--{error}") from error
        keep_freed_memory()
        speaker = load_speaker(
            options.checkpoint,
            tokenizer=options.tokenizer,
            end_of_text=options.end_of_text,
            base_model=options.base_model,
            num_heads=options.num_heads,
        )
        if options.chunk_size is not None and speaker.config is not None:
            raise UserError(
                f"--chunk_size: the run of {options.checkpoint} states training.chunk_size: "
                f"{speaker.chunk_size or 'null'}: leave it out"
            )
        prompts = options.prompt or [""]
        pieces = continuations(
            speaker.network,
            speaker.tokenizer,
            prompts,
            chunk_size=speaker.chunk_size if options.chunk_size is None else options.chunk_size,
            length=options.length,
            sampling=sampling,
            seed=options.seed,
            stop=options.stop,
        )
        (_print_one if len(prompts) == 1 else _print_all)(prompts, pieces)

    try:
        exit_after(lambda: main(parse_options(build_parser())))
    except SystemExit as done:
        if done.code == 130:
            # XLA may be compiling in a thread. That crashes if Python takes itself down meanwhile.
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise


def _print_one(prompts: Sequence[str], pieces: Iterator[list[tuple[str, Continuation]]]) -> None:
    """Prints a text while it is sampled."""
    begun = False
    for ((added, _),) in pieces:
        print(for_terminal(added if begun else prompts[0] + added), end="", flush=True)
        begun = True
    print()


def _print_all(prompts: Sequence[str], pieces: Iterator[list[tuple[str, Continuation]]]) -> None:
    """Prints each text, with its number, as soon as it is finished."""
    printed = set()
    for piece in pieces:
        for index, (_, text) in enumerate(piece):
            if text.finished and index not in printed:
                printed.add(index)
                print(for_terminal(f"[{index + 1}] {prompts[index]}{text.text}"), flush=True)
