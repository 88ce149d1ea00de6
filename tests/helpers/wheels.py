"""The project as others get it: an sdist, and a wheel built from that, installed elsewhere."""

import subprocess
import sys

from helpers.paths import ROOT

BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
"""What pip and build ask setuptools for; pip itself makes wheels alone."""


def installed_wheel(folder):
    """Installs the project below the folder, and returns where it is installed.

    The sdist is in the folder's `dist`, and the wheel is built from it.
    """
    dist, site, source = folder / "dist", folder / "site", folder / "source"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source.mkdir()  # building leaves files where it builds
    files = ("mmrec.py", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md")
    for name in ("mmrec_jax", "bridge", "train", "configs", *files):
        (source / name).symlink_to(ROOT / name)
    sdist = [sys.executable, "-c", BUILD_SDIST, str(dist)]
    subprocess.run(sdist, cwd=source, check=True, stdout=subprocess.DEVNULL)
    (archive,) = dist.glob("*.tar.gz")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(dist), str(archive)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = dist.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site
