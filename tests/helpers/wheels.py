"""The project as others get it: built as a wheel, and installed outside the repository."""

import subprocess
import sys

from helpers.paths import ROOT


def installed_wheel(folder):
    """Builds the wheel below the folder, and returns the folder that it is installed in."""
    wheels, site, source = folder / "wheels", folder / "site", folder / "source"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source.mkdir()  # pip leaves a build folder where it builds
    files = ("mmrec.py", "setup.py", "pyproject.toml", "README.md")
    for name in ("mmrec_jax", "bridge", "train", "configs", *files):
        (source / name).symlink_to(ROOT / name)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site
