"""What a run will take, and how that is said."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from train.run.memory import memory
from train.system.terminal import console, duration


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes:
        seconds: by what takes them, in the order in which it happens.
        memory: the most bytes of memory that the process has at once.
        device_memory: the same of a GPU or TPU; None where there is none.
        disk: bytes in run_dir at the end, by what they are.
    """

    seconds: Mapping[str, float]
    memory: int
    device_memory: int | None
    disk: Mapping[str, int]


def print_forecast(forecast: Forecast, run_dir: Path) -> None:
    """Prints a forecast, and warns where this machine has less memory or disk than that."""
    seconds, disk = sum(forecast.seconds.values()), sum(forecast.disk.values())
    place = run_dir.absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(there).free
    parts = ", ".join(f"{name} {duration(value)}" for name, value in forecast.seconds.items())
    console.print(f"plan time    {duration(seconds)}: {parts}")
    device = forecast.device_memory
    more = "" if device is None else f", and {device / 1e6:,.0f} MB of the device"
    console.print(f"plan memory  {forecast.memory / 1e6:,.0f} MB at most{more}")
    parts = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in forecast.disk.items())
    console.print(f"plan disk    {disk / 1e6:,.1f} MB: {parts}; {free / 1e6:,.0f} MB are free")
    console.print("nothing is trained: without --plan, the same command trains")
    if disk > free:
        console.print(f"warning: {there} has less room than that: make room, or set run_dir")
    if (device or forecast.memory) > memory():
        console.print("warning: this machine has less memory than that: lower training.batch_size")
