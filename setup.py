"""Where the packages are; everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # Configs and weights live at the top of the repository and travel in the wheel as tf_blurdiff/configs and /weights.
    packages=[*find_packages(include=["tf_blurdiff*"]), "tf_blurdiff.configs", "tf_blurdiff.weights"],
    package_dir={"tf_blurdiff": "tf_blurdiff", "tf_blurdiff.configs": "configs", "tf_blurdiff.weights": "weights"},
    package_data={"tf_blurdiff.configs": ["*.yaml"], "tf_blurdiff.weights": ["*.keras", "README.md"]},
)
