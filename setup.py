"""What pyproject.toml cannot say: configs and templates are installed inside packages."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["mmrec_jax*", "bridge*", "train*"]),
        "train.settings.configs",
    ],
    package_dir={"train.settings.configs": "configs"},
    package_data={
        "train.settings.configs": ["*.yaml"],
        "train.reports": ["*.html"],
        "train.pipeline": ["*.md"],
        "mmrec_jax": ["py.typed"],
    },
    py_modules=["mmrec"],
)
