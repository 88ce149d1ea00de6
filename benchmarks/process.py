"""What a benchmark says of its own process and of the machine."""

import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from train.run.run_folder import environment


def peak_bytes() -> int:
    """The most memory that this process has had at once."""
    # getrusage would count what the parent process had when it started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def measured_on() -> dict[str, Any]:
    """The machine, the libraries and the commit that a figure is of."""
    import torch  # not above: it would be part of the memory of processes that have no use for it

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
