"""The parts' results as Markdown. Standard library only."""


def markdown(machine, results):
    """All tables, after a line on the machine.

    Args:
        machine: a line.
        results: of the parts, as in their files.
    """
    return "\n".join([machine, *(line for each in results for line in _part(each))])


def _part(results):
    yield f"\n## {results['part']}: {results['state']}, {results['seconds']:.0f} s\n"
    for table in results["tables"]:
        if table["rows"]:
            yield f"### {table['title']}\n"
            yield _row(table["columns"])
            yield "|" + "---|" * len(table["columns"])
            yield from map(_row, table["rows"])
            yield ""
    for problem in results["problems"]:
        yield f"- {problem}"
    if results.get("last_lines"):
        yield "\nIts last lines:\n"
        yield from (f"    {line}" for line in results["last_lines"])


def _row(cells):
    # A message may hold what would be a new cell.
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def ratio_cell(ratio):
    """A `rounds.Ratio`: the median, the lowest and the highest."""
    return f"{ratio.median:.3f} ({ratio.lowest:.3f} to {ratio.highest:.3f})"
