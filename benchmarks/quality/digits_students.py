"""How good a teacher of the 8x8 digits and its students are: a table of docs/distillation.md, and its picture.

    python -m tf_blurdiff.distill --model runs/digits/model.keras --config digits.yaml --run_dir runs/digits_1 --steps 1
    python benchmarks/quality/digits_students.py --teacher runs/digits --students runs/digits_1 --out distillation.png

A row for the teacher's own way of sampling, then for each student, and before it for the teacher in as many calls with
the sampler that is best by pixels. Distances are as in digits.py; precision and recall are by pixels. Of several sets
of samples, whose seeds follow one another, these are means, and of distances the standard deviation stands beside them.
"""

import pathlib

import numpy as np
from absl import flags
from digits_scores import Scores, digits_model, eight_bits, flat
from family_picture import check_picture, family_picture
from miniature_tables import mean_and_deviation, print_rows

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.metrics import precision_recall

_OF_TEACHER = ("ancestral2", "ddim", "multistep2", "multistep3")
# Teacher and students of these numbers of calls are drawn.
_MANY, _DRAWN = 64, (4, 2, 1)
_SHOWN, _ZOOM = 36, 5

_TEACHER = flags.DEFINE_string("teacher", "runs/digits", "A .keras file, a run directory or a shipped name.")
_STUDENTS = flags.DEFINE_string("students", "runs/digits_1", "The run directory of a distillation.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 2048, "Samples of each set, seeds from 0.", lower_bound=36)
_SETS = flags.DEFINE_integer("sets", 1, "Sets of samples of each row.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "A picture of the same seeds' images in many and few calls.")


def main():
    """Prints the table and draws the picture."""
    if _OUT.value:
        check_picture(_OUT.value)
    teacher, students, scores = digits_model(_TEACHER.value, "--teacher"), _students(), Scores()
    print_rows(_rows(teacher, students, scores))
    if _OUT.value:
        family_picture(_sheets(teacher, students), _ZOOM).save(_OUT.value)
        print(f"picture: {_OUT.value}")


def _students():
    """Those that are there, the most steps first."""
    students = [digits_model(path, "--students") for path in pathlib.Path(_STUDENTS.value).glob("steps_*/model.keras")]
    if not students:
        raise UserError(
            f"--students: a folder of distill is expected, with steps_4 or the like. Got: {_STUDENTS.value}"
        )
    return sorted(students, key=lambda student: -student.num_steps)


def _rows(teacher, students, scores):
    yield "calls", "who", "sampler", "pixels", "hidden layer", "precision", "recall"
    figures = lambda model, **way: _figures(scores, model, **way)
    yield str(teacher.num_steps), "teacher", teacher.sampler, *_cells(figures(teacher))
    for student in students:
        calls = student.num_steps
        ways = {sampler: figures(teacher, sampler=sampler, num_steps=calls) for sampler in _OF_TEACHER}
        best = min(ways, key=lambda sampler: np.mean(ways[sampler][0]))
        yield str(calls), "teacher", f"{best}, its best", *_cells(ways[best])
        yield str(calls), "student", student.sampler, *_cells(figures(student))


def _figures(scores, model, **way):
    """Distances by pixels and by the hidden layer, precision, recall: `[4, sets]`."""
    size, figures = _NUM_IMAGES.value, []
    for first in range(0, size * _SETS.value, size):
        images = model.sample(range(first, first + size), **way)
        figures.append([*scores.distances(images), *precision_recall(flat(scores.pixels), flat(eight_bits(images)))])
    return np.transpose(figures)


def _cells(figures):
    pixels, hidden, precision, recall = figures
    means = [f"{np.mean(each):.2f}" for each in (precision, recall)]
    return mean_and_deviation(pixels), mean_and_deviation(hidden), *means


def _sheets(teacher, students):
    few = [student for student in students if student.num_steps in _DRAWN]
    ways = [(teacher, "ddim", _MANY, "uniform"), _own(teacher), (teacher, "multistep2", _DRAWN[0], "quadratic")]
    sheets = {}
    for model, sampler, calls, grid in [*ways, *map(_own, few)]:
        who = "teacher" if model is teacher else "student"
        images = model.sample(range(_SHOWN), sampler=sampler, num_steps=calls, grid=grid)
        sheets[f"{who}, {sampler}, {calls} call{'s'[: calls - 1]}"] = eight_bits(images)
    return sheets


def _own(model):
    return model, model.sampler, model.num_steps, model.grid


if __name__ == "__main__":
    command_line.run(main)
