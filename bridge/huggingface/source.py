"""The code of a Hugging Face folder: the twin's own source, with imports from the same folder."""

import re
from pathlib import Path

import bridge
import mmrec_jax

_MODULES = {
    "bridge.huggingface.configuration_mmrec": "configuration_mmrec",
    "bridge.huggingface.modeling_mmrec": "modeling_mmrec",
    "bridge.twin.block": "block",
    "bridge.twin.models": "models",
    "bridge.twin.state": "state",
    "mmrec_jax.config": "config",
}
"""The modules, and what each is called in the folder."""

_NAMES = _MODULES | {"mmrec_jax": "config"}
"""What they import: of mmrec_jax only ModelConfig."""


def source_files() -> dict[str, str]:
    """The content of every file of code, by name; they import only torch and transformers."""
    roots = {each.__name__: Path(each.__path__[0]) for each in (bridge, mmrec_jax)}
    files = {}
    for module, name in _MODULES.items():
        package, *inside = module.split(".")
        text = roots[package].joinpath(*inside).with_suffix(".py").read_text(encoding="utf-8")
        files[f"{name}.py"] = re.sub(
            r"^from ([\w.]+) import",
            lambda line: f"from .{_NAMES[line[1]]} import" if line[1] in _NAMES else line[0],
            text,
            flags=re.MULTILINE,
        )
    return files
