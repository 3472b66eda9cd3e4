"""Where the packages are, and README.md as a package index shows it; everything else stands in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

FOLDERS = {
    "tf_blurdiff.configs": "configs",
    "tf_blurdiff.weights": "weights",
    "tf_blurdiff.kit": "export",
    "tf_blurdiff.kit.dev_server": "export/dev_server",
    "tf_blurdiff.kit.endpoint": "export/endpoint",
}


def long_description():
    """README.md without the pictures and the links to other files of the repository, which no index has."""
    text = pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[([^\]]*)\]\(([^)]*)\)", r"(\2 in the source: \1)", text)
    return re.sub(r"\[([^\]]*)\]\((?!\s*https:)[^)]*\)", r"\1", text)


setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    # What lives at the top of the repository travels in the wheel as folders of the package.
    packages=[*find_packages(include=["tf_blurdiff*"]), *FOLDERS],
    package_dir={"tf_blurdiff": "tf_blurdiff", **FOLDERS},
    py_modules=["tf_blurdiff_command"],
    package_data={
        "tf_blurdiff": ["py.typed"],
        "tf_blurdiff.configs": ["*.yaml"],
        "tf_blurdiff.weights": ["*.keras", "README.md"],
        "tf_blurdiff.kit": ["*.html", "README.md", "tf_serving/**/*"],
    },
)
