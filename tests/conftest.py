"""The order of the tests, and where the tests run what they share."""

# The longest; their names begin as they do in `tests/`.
LONG_FILES = (
    "documentation", "serving/savedmodel", "training/distribution", "training/faults", "command_line",
    "model/keras_interface", "training/loop", "benchmarks/programs", "packaging", "serving/signatures",
)  # fmt: skip


def pytest_configure(config):
    if not config.getoption("numprocesses", None):
        # TensorFlow is imported where tests run alone: what gives them out to processes starts at once.
        from tests.support import fixtures

        config.pluginmanager.register(fixtures)


def pytest_collection_modifyitems(items):
    """Puts the longest files first, so that of two processes none ends long before the other."""
    ends = [f"tests/{name}_test.py" for name in LONG_FILES]

    def place(item):
        name = item.nodeid.split("::")[0]
        return ends.index(name) if name in ends else len(ends)

    items.sort(key=place)
