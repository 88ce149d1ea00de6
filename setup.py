"""What pyproject.toml cannot say: the configs are installed inside a package."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["mmrec_jax*", "bridge*", "train*"]),
        "train.settings.configs",
    ],
    package_dir={"train.settings.configs": "configs"},
    package_data={"train.settings.configs": ["*.yaml"], "mmrec_jax": ["py.typed"]},
    py_modules=["mmrec"],
)
