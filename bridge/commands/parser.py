"""The command line: the name, the options and the help text of every command."""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from bridge.commands import convert, describe, huggingface
from bridge.commands.next_steps import BASE_FOLDER, PROGRAM
from bridge.config.wording import closest, unknown_argument, with_own_dashes
from bridge.errors import BridgeError
from bridge.keys import MODEL_CLASSES


class _Parser(argparse.ArgumentParser):
    """A parser that accepts no abbreviated options and reports errors in one line."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        # Said here, where the command's own options are known, and before what else is missing.
        names = [name.lstrip("-") for action in self._actions for name in action.option_strings]
        words = with_own_dashes(sys.argv[1:] if args is None else args, names)
        for word in words:
            is_command = self._subparsers is not None and not word.startswith("-")
            if is_command or word == "--":
                break
            if word.startswith("--") and word[2:].partition("=")[0] not in names:
                raise BridgeError(unknown_argument(word, names))
        found, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        wrong = re.fullmatch(r"argument (.*): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong:
            choices = wrong[3].replace("'", "").split(", ")
            meant = closest(wrong[2], choices)
            if meant:
                raise BridgeError(f"{wrong[1]} {wrong[2]} is unknown: did you mean {meant}?")
            message = f"{wrong[1]} {wrong[2]} is unknown; known: {', '.join(choices)}"
        raise BridgeError(f"{message}: see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `command` to the function that runs it."""
    parser = _Parser(
        prog=PROGRAM,
        description=(
            "Converts, describes and compares checkpoints: .pt files, .safetensors files,\n"
            "and the folders of runs."
        ),
        epilog=f"{PROGRAM} COMMAND --help says more, with an example.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{more}",
            epilog=f"example:\n  {PROGRAM} {example}",
        )
        added.set_defaults(command=run)
        return added

    to_torch = command(
        "to-torch",
        convert.to_torch,
        "write a run, a state or another file as a .pt or .safetensors file",
        "The file has the optimizer and schedule too, unless --model-only is given. Weights\n"
        "and moments equal those of IN bit for bit.",
        "to-torch runs/demo/checkpoints_base demo.safetensors",
    )
    _add_input(to_torch)
    to_torch.add_argument(
        "OUT", type=_path, help="the file to write, ending in .pt or .safetensors"
    )
    _add_loading(to_torch)
    to_torch.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    to_hf = command(
        "to-hf",
        huggingface.to_hf,
        "write a run, a state or a file as a folder that Hugging Face's transformers loads",
        "The folder has the weights, the tokenizer and the model's code in PyTorch. It needs\n"
        "torch and transformers, and nothing of this project. An expert gets the embedding\n"
        "and the head of its base, which is found beside its run.",
        "to-hf runs/demo/checkpoints_base demo-hf",
    )
    _add_input(to_hf)
    to_hf.add_argument("OUT", type=_path, help="a new folder")
    _add_other_weights(to_hf)
    to_hf.add_argument(
        "--tokenizer",
        type=_path,
        metavar="FILE",
        help="its tokenizer.json (default: the one in the run's folder, or beside the file)",
    )
    to_hf.add_argument(
        "--base", type=_path, help="an expert's base, a run or a file, where it is not beside it"
    )
    to_hf.add_argument(
        "--chunk-size",
        type=_whole(1),
        metavar="N",
        help="the chunk_size that it was trained with, for a file that is in no run's folder",
    )
    to_hf.add_argument(
        "--overwrite", action="store_true", help="replace OUT if to-hf has written it"
    )
    to_hf.set_defaults(model_only=True)

    from_torch = command(
        "from-torch",
        convert.from_torch,
        "turn a .pt or .safetensors file into a run's folder, to continue training",
        "IN must have exactly the tensors of a model. Otherwise the error lists all tensors\n"
        "that are missing, unexpected or of the wrong shape. --partial loads those that fit,\n"
        "prints what happened to each tensor, and writes that to\n"
        f"OUT_DIR/{convert.REPORT}.",
        "from-torch base_model_step_1000.pt runs/mine/checkpoints_base",
    )
    _add_input(from_torch)
    _add_output(from_torch)
    _add_loading(from_torch)
    from_torch.add_argument(
        "--partial", action="store_true", help="load what fits; random values for the rest"
    )
    _add_seed(from_torch, "for the random values of --partial (default 0)")

    adapt = command(
        "adapt",
        convert.adapt,
        "load what fits of another model's file into your own model, as a run's folder",
        "Like from-torch --partial, but section `model` of a training config says which model.\n"
        "Its other sections are not read; the training commands check them.",
        "adapt foreign.pt runs/mine/checkpoints_base --config configs/base.yaml",
    )
    _add_input(adapt, "FOREIGN")
    _add_output(adapt)
    adapt.add_argument(
        "--config",
        required=True,
        type=_path,
        metavar="C",
        help="YAML file of a training config",
    )
    adapt.add_argument(
        "--model-class",
        choices=MODEL_CLASSES,
        help="default: the class that the file's names show, else MMRecModel",
    )
    _add_model_only(adapt)
    _add_seed(adapt, "of the initial values of what does not fit (default 0)")
    adapt.set_defaults(num_heads=None, entry=None)

    inspect_ = command(
        "inspect",
        describe.describe,
        "say what a checkpoint is",
        "Prints its class, dimensions and variants, parameters by part, dtypes, optimizer\n"
        "and schedule, and how far it is trained. What the file does not state is inferred\n"
        "from names and shapes. All values are read. If the file cannot be loaded, or training\n"
        "cannot resume from it, the reasons are listed and the exit code is 1.",
        "inspect runs/demo/checkpoints_base/base_model_step_1000.pt",
    )
    _add_input(inspect_, "FILE")
    _add_loading(inspect_)
    _add_json(inspect_)

    verify = command(
        "verify",
        describe.verify,
        "compare two checkpoints of any formats",
        "Prints the largest difference of each weight and moment, and of the outputs of both\n"
        "models for the same random tokens and memories. The exit code is 1 if a difference\n"
        "is above the tolerance, or if anything else differs: names, shapes, config, step,\n"
        "loss, the optimizer's settings, the schedule and, without a tolerance, the dtypes.",
        "verify demo.pt demo.safetensors",
    )
    _add_input(verify, "A", dest="A")
    _add_input(verify, "B", dest="B")
    _add_loading(verify)
    verify.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.0,
        metavar="T",
        help="the largest difference that is accepted (default 0)",
    )
    _add_seed(verify, "for the random tokens and memories (default 0)")
    _add_json(verify)
    return parser


def _add_input(parser: argparse.ArgumentParser, name: str = "IN", dest: str = "IN") -> None:
    parser.add_argument(
        dest,
        type=_path,
        metavar=name,
        help="a .pt or .safetensors file, the index of several (model.safetensors.index.json), "
        "a run's folder (its newest state), or a state's folder",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "OUT_DIR",
        type=_path,
        help=f"a new folder; training looks for RUN_DIR/{BASE_FOLDER}",
    )


def _add_loading(parser: argparse.ArgumentParser) -> None:
    _add_model_only(parser)
    _add_other_weights(parser)


def _add_other_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        dest="entry",
        metavar="NAME",
        help="other weights of the file, such as ema_state_dict, instead of the trained ones; "
        "without optimizer and schedule, at step 0",
    )
    parser.add_argument(
        "--num-heads",
        type=_whole(1),
        metavar="H",
        help="the number of attention heads, for a file that does not state it",
    )


def _add_model_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-only",
        action="store_true",
        help="only the weights, at step 0, whatever else the file holds",
    )


def _add_seed(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument("--seed", type=_whole(0), default=0, metavar="N", help=purpose)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _path(text: str) -> str:
    path = os.path.expanduser(text)
    if path.startswith("~") and not os.path.exists(path):
        user = path.split("/")[0]
        raise argparse.ArgumentTypeError(
            f"there is no user {user[1:]}: correct {user}, or write ./{path} if it is a name"
        )
    return path


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if not least <= value < 2**32:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return value

    return parse


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return value
