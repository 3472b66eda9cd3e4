"""How good a teacher of the 8x8 digits and its students are: a table of docs/distillation.md, and its picture.

    python -m tf_blurdiff.distill --model runs/digits/model.keras --config digits.yaml --run_dir runs/digits_1 --steps 1
    python benchmarks/quality/digits_students.py --teacher runs/digits --students runs/digits_1 --out distillation.png

A row for the teacher's own way of sampling, then for each student, and before it for the teacher in as many calls with
the sampler that is best by pixels. Distances are as in digits.py; precision and recall are by pixels.
"""

import pathlib

from absl import flags
from digits_scores import Scores, digits_model, eight_bits, flat
from family_picture import check_picture, family_picture
from miniature_tables import print_rows

from tf_blurdiff import command_line
from tf_blurdiff.errors import UserError
from tf_blurdiff.evaluation.metrics import precision_recall

_OF_TEACHER = ("ancestral2", "ddim", "multistep2", "multistep3")
# Teacher and students of these numbers of calls are drawn.
_MANY, _DRAWN = 64, (4, 2, 1)
_SHOWN, _ZOOM = 36, 5

_TEACHER = flags.DEFINE_string("teacher", "runs/digits", "A .keras file, a run directory or a shipped name.")
_STUDENTS = flags.DEFINE_string("students", "runs/digits_1", "The run directory of a distillation.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 2048, "Samples of each row, seeds from 0.", lower_bound=36)
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
    samples = lambda model, **way: model.sample(range(_NUM_IMAGES.value), **way)
    yield str(teacher.num_steps), "teacher", teacher.sampler, *_cells(scores, samples(teacher))
    for student in students:
        calls = student.num_steps
        ways = {sampler: samples(teacher, sampler=sampler, num_steps=calls) for sampler in _OF_TEACHER}
        best = min(ways, key=lambda sampler: scores.distances(ways[sampler])[0])
        yield str(calls), "teacher", f"{best}, its best", *_cells(scores, ways[best])
        yield str(calls), "student", student.sampler, *_cells(scores, samples(student))


def _cells(scores, images):
    return [
        f"{figure:.2f}" for figure in (*scores.distances(images), *precision_recall(flat(scores.pixels), flat(images)))
    ]


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
