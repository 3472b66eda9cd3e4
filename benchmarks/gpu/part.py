"""What a part's program is asked to do, how long it may take, and its results, in a file from the first row on.

Standard library only: also the parts whose work is done by other processes.
"""

import json
import os
import pathlib
import sys
import time


class Table:
    """Rows by key; to put a row again replaces it. Every change is written at once.

    Args:
        title: of the table.
        columns: their titles.
        changed: called after every change.
    """

    def __init__(self, title, columns, changed):
        self.title, self.columns, self._changed, self._rows = title, columns, changed, {}

    def put(self, key, *cells):
        """Adds or replaces a row."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(self.columns)} cells are expected in {self.title}. Received: {cells}")
        self._rows[key] = [str(cell) for cell in cells]
        self._changed()

    def as_json(self):
        """What the file has of it."""
        return {"title": self.title, "columns": self.columns, "rows": list(self._rows.values())}


class Part:
    """The part that this process is.

    Args:
        request: the keys name, out (the file for the results), seconds, small, diffusers_python, config, set, run_dir
            and card_mib.
    """

    def __init__(self, request):
        self.name, self.out, self.small = request["name"], pathlib.Path(request["out"]), request["small"]
        self.request = request
        self._deadline = time.monotonic() + request["seconds"]
        self._tables, self._problems, self._details = [], [], {}

    @classmethod
    def from_command_line(cls):
        """The part that is asked for in JSON, the program's one argument."""
        return cls(json.loads(sys.argv[1]))

    def left(self):
        """Seconds until the part must have ended."""
        return self._deadline - time.monotonic()

    def table(self, title, *columns):
        """Begins a table."""
        self._tables.append(Table(title, columns, self._save))
        self._save()
        return self._tables[-1]

    def problem(self, text):
        """Notes what could not be done."""
        self._problems.append(" ".join(str(text).split()))
        self._save()

    def detail(self, name, value):
        """Notes something for programs that is in no table."""
        self._details[name] = value
        self._save()

    def _save(self):
        tables = [table.as_json() for table in self._tables]
        results = {"part": self.name, "tables": tables, "problems": self._problems, "details": self._details}
        write_json(self.out, results)


def write_json(path, document):
    """Writes a file whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(document, indent=1))
    os.replace(new, path)
