"""The configs that come with the project, by name: `--config demo` finds configs/demo.yaml."""

from pathlib import Path

from bridge import closest
from train.system.errors import UserError

_PLACES = (Path(__file__).parents[2] / "configs", Path(__file__).with_name("configs"))
"""In a clone, and in an installed package."""


def packaged() -> dict[str, Path]:
    """Every config by its name."""
    folder = next(place for place in _PLACES if (place / "demo.yaml").is_file())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def config_path(given: str) -> str:
    """The file that `--config` names: one that exists, or one of the project's by its name.

    Raises:
        UserError: it is almost the name of one of the project's.
    """
    if Path(given).exists() or "." in given or "/" in given:
        return given
    meant = closest(given, packaged())
    if given not in packaged() and meant:
        raise UserError(f"--config {given}: no such file: did you mean {meant}?")
    return str(packaged().get(given, given))
