"""`python -m bridge COMMAND`: converts, describes and compares checkpoints.

What the user can mend ends with `error: ...` on stderr and exit code 2; anything else is our bug
and keeps its traceback.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bridge import any_format as formats
from bridge import model_config, orbax_folder
from bridge.checkpoint import LoadedCheckpoint
from bridge.commands import printing as tables
from bridge.comparison import compare
from bridge.errors import (
    BridgeError,
    FormatError,
    MismatchError,
    NonFiniteWarning,
    UnwritableFileError,
    about,
)
from bridge.inspection import inspect, parameter_count, size_on_disk
from bridge.keys import MODEL_CLASSES
from bridge.partial import LoadReport, load_partial
from bridge.weights import variables

_PROGRAM = "python -m bridge"
_REPORT = "load_report.json"
_RUN = "checkpoints_base"
"""The folder in its run_dir that `train.base` looks for."""


def main(argv: Sequence[str]) -> int:
    """Runs a command.

    Args:
        argv: the arguments after the program's name.

    Returns:
        The exit code: 0 when all is well, 1 when `inspect` found problems or `verify` differences,
        2 when a file or an argument is wrong, 130 when interrupted, 141 when what is printed is
        not read to its end.
    """
    try:
        options = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = options.command
        code = command(options)
        sys.stdout.flush()
        return code
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except BridgeError as error:
        return _failed(str(error))
    except BrokenPipeError:
        # Whoever reads has seen enough, and Python's own flush at the exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _failed(f"{place}{error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _failed(message: str) -> int:
    print("error:", tables.printable(" ".join(message.split())), file=sys.stderr)
    return 2


def _to_torch(options: argparse.Namespace) -> int:
    target = Path(options.OUT)
    with about(options.OUT):
        if target.suffix not in (".pt", ".safetensors"):
            raise BridgeError("names no format: give it the suffix .pt or .safetensors")
        if target.is_dir():
            raise UnwritableFileError("is a folder: name a file")
        if target.exists() and not options.overwrite:
            raise UnwritableFileError("exists already: give --overwrite, or name another file")
        if not target.parent.is_dir():
            raise UnwritableFileError("cannot be written: its folder does not exist")
    loaded = _load(options.IN, options)
    with _timed(f"writing {target}"):
        formats.save_file(target, loaded)
    print(f"  {tables.size(size_on_disk(target))}")
    return 0


def _from_torch(options: argparse.Namespace) -> int:
    _check_free(options.OUT_DIR)
    if options.partial:
        return _import_partially(options, num_heads=options.num_heads)
    try:
        loaded = _load(options.IN, options)
    except MismatchError as error:
        if not os.path.isdir(options.IN):
            error.message += "; --partial loads what fits"
        raise
    _write_state(options, loaded)
    _say_what_next(options, loaded)
    return 0


def _adapt(options: argparse.Namespace) -> int:
    _check_free(options.OUT_DIR)
    config = model_config.from_yaml(options.config)
    return _import_partially(options, config=config, model_class=options.model_class)


def _inspect(options: argparse.Namespace) -> int:
    inspection = inspect(options.IN)
    if options.json:
        tables.print_json(inspection.to_json())
    else:
        tables.print_inspection(inspection)
    return 1 if inspection.problems else 0


def _verify(options: argparse.Namespace) -> int:
    a, b = (_load(path, options, quiet=options.json) for path in (options.A, options.B))
    if options.model_only:
        a, b = (dataclasses.replace(side, avg_loss=0.0) for side in (a, b))
    comparison = compare(a, b, options.seed, options.tolerance)
    agrees = comparison.agrees(options.tolerance)
    if options.json:
        verdict = {"agrees": agrees, "tolerance": options.tolerance}
        tables.print_json(verdict | comparison.to_json())
    else:
        tables.print_comparison(comparison, options.tolerance)
    return 0 if agrees else 1


def _import_partially(options: argparse.Namespace, **target: Any) -> int:
    with _reading(options.IN):
        loaded, report = load_partial(
            options.IN, seed=options.seed, model_only=options.model_only, **target
        )
    print(f"  {_summary(loaded)}")
    _write_state(options, loaded)
    _write_report(Path(options.OUT_DIR) / _REPORT, report)
    tables.print_load_report(report)
    print(f"training state {report.training_state}")
    _say_what_next(options, loaded)
    return 0


def _load(path: str, options: argparse.Namespace, *, quiet: bool = False) -> LoadedCheckpoint:
    with _reading(path, quiet=quiet):
        loaded = formats.load(path, num_heads=options.num_heads, model_only=options.model_only)
    if not quiet:
        print(f"  {_summary(loaded)}")
    return loaded


def _check_free(folder: str) -> None:
    """Makes sure that nothing is in a folder but what a killed conversion may have left."""
    place = Path(folder)
    with about(folder):
        if place.exists() and not place.is_dir():
            raise UnwritableFileError("is no folder: name a new one")
        for path in place.rglob("*"):
            inside = path.relative_to(place).parts
            if inside != ("state",) and not any(name.endswith(".partial") for name in inside):
                raise UnwritableFileError("exists and is not empty: name a new folder")


def _write_state(options: argparse.Namespace, loaded: LoadedCheckpoint) -> None:
    if loaded.step < 0:
        with about(options.IN):
            raise FormatError(f"step is {loaded.step}: no state is before step 0")
    folder = orbax_folder.state_folder(options.OUT_DIR, loaded.step)
    for leftover in folder.parent.glob("*.partial"):  # of a conversion that was killed
        shutil.rmtree(leftover)
    with _timed(f"writing {folder}"):
        orbax_folder.save_orbax(folder, loaded.model, **loaded.training_state())
    print(f"  {tables.size(size_on_disk(folder))}")


def _write_report(path: Path, report: LoadReport) -> None:
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    print(f"report: {path}")


def _summary(loaded: LoadedCheckpoint) -> str:
    model_class = type(loaded.model).__name__
    parts = [
        f"{model_class}, {parameter_count(model_class, loaded.config):,} parameters",
        f"step {loaded.step:,}",
        "no optimizer" if loaded.optimizer_state is None else "optimizer",
        "no schedule" if loaded.scheduler_state is None else "schedule",
    ]
    return ", ".join(parts)


def _say_what_next(options: argparse.Namespace, loaded: LoadedCheckpoint) -> None:
    """The commands that go on from what was written."""
    folder = Path(options.OUT_DIR)
    place = shlex.quote(str(folder))
    if type(loaded.model).__name__ != "MMRecModel":
        print(f"to see what it is:\n  {_PROGRAM} inspect {place}")
        return
    dtypes = {str(array.dtype) for array in variables(loaded.model).values()} - {"float32"}
    if dtypes:
        print(
            f"training needs float32, and the weights are {', '.join(sorted(dtypes))}: to train "
            "them, convert them in PyTorch (model.float()) and import that"
        )
        return
    if loaded.step and loaded.optimizer_state is None:
        source = shlex.quote(options.IN)
        heads = "" if options.num_heads is None else f" --num-heads {options.num_heads}"
        print(
            f"training cannot go on from step {loaded.step:,}, as there is no optimizer state; to "
            f"start anew at step 0 from these weights:\n  rm -r {place}\n"
            f"  {_PROGRAM} from-torch {source} {place} --model-only{heads}"
        )
        return
    if folder.name in ("", ".."):
        folder = folder.resolve()
    run_dir = shlex.quote(str(folder.parent))
    print("to train from here, give the run's config (my.yaml) these settings:")
    print(
        "".join(
            f"  {line}\n"
            for line in yaml.safe_dump(_settings(loaded), sort_keys=False).splitlines()
        ),
        end="",
    )
    print("and run:")
    if folder.name != _RUN:
        print(f"  mv {place} {shlex.quote(str(folder.parent / _RUN))}")
    print(f"  python -m train.base --config my.yaml --run_dir {run_dir} --resume")


def _settings(loaded: LoadedCheckpoint) -> dict[str, dict[str, Any]]:
    """What a training config must say to go on with a base model."""
    model = model_config.to_checkpoint("MMRecModel", loaded.config, {})
    del model["mem_dim"]
    settings: dict[str, dict[str, Any]] = {"model": model}
    optimizer, schedule = loaded.optimizer_state, loaded.scheduler_state
    if schedule is not None:
        settings["optimizer"] = {
            "learning_rate": schedule.base_lr,
            "warmup_steps": schedule.warmup_steps,
        }
    if optimizer is not None:
        adamw = optimizer.hyperparameters
        beta1, beta2 = adamw["betas"]
        settings["optimizer"] = settings.get("optimizer", {}) | {
            "weight_decay": adamw["weight_decay"],
            "beta1": beta1,
            "beta2": beta2,
            "eps": adamw["eps"],
        }
    if schedule is not None:
        settings["training"] = {"steps": schedule.total_steps}
    return settings


@contextlib.contextmanager
def _reading(path: str, *, quiet: bool = False) -> Iterator[None]:
    """Says what is read, unless quiet, and afterwards what is odd about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NonFiniteWarning)
        if quiet or not os.path.exists(path):  # the error will say so
            yield
        else:
            place = orbax_folder.find(path) if os.path.isdir(path) else path
            with _timed(f"reading {place} ({tables.size(size_on_disk(place))})"):
                yield
    for warning in caught:
        if issubclass(warning.category, NonFiniteWarning):
            text = tables.printable(f"{path}: {warning.message}")
            print("warning:", text, file=sys.stderr)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    """Says what is done before it is done, and then how long it took."""
    print(f"{what} ...", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - start:.1f} s", flush=True)


class _Parser(argparse.ArgumentParser):
    """Without abbreviations, and with errors of one line."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise BridgeError(f"{message}: see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description=(
            "Converts, describes and compares checkpoints: .pt files, .safetensors files,\n"
            "and the folders of runs."
        ),
        epilog=f"{_PROGRAM} COMMAND --help says more, with an example.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{more}",
            epilog=f"example:\n  {_PROGRAM} {example}",
        )
        added.set_defaults(command=run)
        return added

    to_torch = command(
        "to-torch",
        _to_torch,
        "write a .pt or .safetensors file of a run, a state or another file",
        "The file holds optimizer and schedule too, unless --model-only is given. Weights\n"
        "and moments are those of IN bit for bit.",
        "to-torch runs/demo/checkpoints_base demo.safetensors",
    )
    _add_input(to_torch)
    to_torch.add_argument("OUT", help="the file to write; its suffix names the format")
    _add_loading(to_torch)
    to_torch.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    from_torch = command(
        "from-torch",
        _from_torch,
        "make a run's folder of a .pt or .safetensors file, for training to go on from",
        "IN must hold exactly a model's tensors; otherwise the error lists all that are\n"
        "missing, unexpected or misshapen. --partial loads those that fit, prints what became\n"
        f"of each and writes it to OUT_DIR/{_REPORT}.",
        "from-torch base_model_step_1000.pt runs/mine/checkpoints_base",
    )
    _add_input(from_torch)
    _add_output(from_torch)
    _add_loading(from_torch)
    from_torch.add_argument(
        "--partial", action="store_true", help="load what fits, and draw the rest from --seed"
    )
    _add_seed(from_torch, "of the initial values that --partial draws (default 0)")

    adapt = command(
        "adapt",
        _adapt,
        "make a run's folder of what fits of a foreign file into a model of your own",
        "As from-torch --partial, but the model is the section `model` of a training config.",
        "adapt foreign.pt runs/mine/checkpoints_base --config configs/base.yaml",
    )
    _add_input(adapt, "FOREIGN")
    _add_output(adapt)
    adapt.add_argument(
        "--config", required=True, metavar="C", help="YAML file of a training config"
    )
    adapt.add_argument(
        "--model-class",
        choices=MODEL_CLASSES,
        help="default: what the file's names show, else MMRecModel",
    )
    _add_model_only(adapt)
    _add_seed(adapt, "of the initial values of what does not fit (default 0)")
    adapt.set_defaults(num_heads=None)

    inspect_ = command(
        "inspect",
        _inspect,
        "say what a checkpoint is",
        "Its class, dimensions and variants, parameters by part, dtypes, optimizer and\n"
        "schedule, and how far it is trained; told from names and shapes where it does not\n"
        "state it. The exit code is 1 if its tensors or training state do not fit its model,\n"
        "and everything that does not is listed.",
        "inspect runs/demo/checkpoints_base/base_model_step_1000.pt",
    )
    _add_input(inspect_, "FILE")
    _add_json(inspect_)

    verify = command(
        "verify",
        _verify,
        "compare two checkpoints of any formats",
        "The largest difference of each weight and moment, and of what both models compute\n"
        "for random tokens and memories. The exit code is 1 if one is above the tolerance, or\n"
        "if anything else differs: names, shapes, config, step, loss, the optimizer's\n"
        "settings, the schedule; without a tolerance the dtypes too.",
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
        help="the largest difference of a value that is accepted (default 0)",
    )
    _add_seed(verify, "of the random tokens and memories (default 0)")
    _add_json(verify)
    return parser


def _add_input(parser: argparse.ArgumentParser, name: str = "IN", dest: str = "IN") -> None:
    parser.add_argument(
        dest,
        metavar=name,
        help="a .pt or .safetensors file, a run's folder (its newest state) or a state's",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("OUT_DIR", help=f"a new folder; training looks for RUN_DIR/{_RUN}")


def _add_loading(parser: argparse.ArgumentParser) -> None:
    _add_model_only(parser)
    parser.add_argument(
        "--num-heads",
        type=_whole(1),
        metavar="H",
        help="the heads of the attention, for a file that does not state them",
    )


def _add_model_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-only",
        action="store_true",
        help="leave optimizer and schedule out; the step is 0",
    )


def _add_seed(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument("--seed", type=_whole(0), default=0, metavar="N", help=purpose)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
