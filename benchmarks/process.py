"""Facts about the process of a benchmark and about the machine."""

import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from train.run.recorded import environment


def measured_on() -> dict[str, Any]:
    """The machine, the libraries and the commit that a figure was measured with."""
    import torch  # not at the top: it would take memory in processes that do not need it

    git = subprocess.run(
        ("git", "describe", "--always", "--dirty"), capture_output=True, encoding="utf-8"
    )
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return environment() | {
        "commit": git.stdout.strip() or None,
        "cpu": names[0] if names else platform.processor(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }
