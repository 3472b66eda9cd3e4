"""Where the packages are; everything else stands in pyproject.toml."""

from setuptools import setup

setup(
    # The configs live at the top of the repository and travel in the wheel as tf_blurdiff/configs.
    packages=["tf_blurdiff", "tf_blurdiff.configs"],
    package_dir={"tf_blurdiff": "tf_blurdiff", "tf_blurdiff.configs": "configs"},
    package_data={"tf_blurdiff.configs": ["*.yaml"]},
)
