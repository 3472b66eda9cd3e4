"""Training steps of DDPM's network for CIFAR-10 at 32x32x3 and batches of 128, beside diffusers' on the same card.

Ours in mixed_bfloat16 and in float32, compiled by XLA and not, of the processes gaussian and blurring; diffusers'
UNet2DModel of the same size, channels last, in bfloat16 autocast and in float32, eager and through torch.compile. In
float32 both frameworks use TF32, as TensorFlow does by default. A step is noise, loss, gradient, clipping, Adam and the
averages; ten steps are measured at once, ours in a traced loop as the trainer has them, and a number is fetched at the
end. Processes of one table take turns; a ratio is the median of the rounds', with its lowest and highest.
"""

import dataclasses

import markdown_tables
from contest import Contest, Entrant
from gpu_sizes import GPU_SIZES, STEPS_PER_ACTION
from part import Part

# Ours and theirs.
_PRECISIONS = {"mixed_bfloat16": "bfloat16 autocast", "float32": "float32"}
_OURS = ("gaussian, compiled", "blurring, compiled", "gaussian, plain", "blurring, plain")
_THEIRS = ("eager", "torch.compile")
_MOST_ROUNDS = 6
_TO_FIRST = 0.75


@dataclasses.dataclass(frozen=True)
class _Field:
    """One table's entrants, by their words."""

    ours: dict
    theirs: dict

    @property
    def all(self):
        return [*self.ours.values(), *self.theirs.values()]


def main(part):
    """A table for each precision, and what blurring costs."""
    precisions = ["float32"] if part.small else list(_PRECISIONS)
    blurring = part.table(
        "A blurring step's time over a gaussian one's", "precision", "compiled", "median (lowest to highest)"
    )
    for number, precision in enumerate(precisions):
        last = number + 1 == len(precisions)
        _compare(part, precision, blurring, part.left() * (0.95 if last else _TO_FIRST))


def _compare(part, precision, blurring, seconds):
    size = "tiny" if part.small else "ddpm"
    ours = _OURS[:2] if part.small else _OURS
    field = _Field(
        {words: Entrant("tf_blurdiff", f"training, {words}", size, precision) for words in ours},
        {words: Entrant("diffusers", f"training, {words}", size, _PRECISIONS[precision]) for words in _THEIRS},
    )
    table = part.table(
        f"Training steps in {precision}", "by", "what", "precision", "ms a step", "images/s", "peak GPU memory, GB",
        "parameters, millions", "time over eager diffusers'", "over torch.compile's", "why not measured",
    )  # fmt: skip
    with Contest(part, field.all, seconds) as contest:
        _write(table, blurring, contest, field)
        for number in contest.rounds(_MOST_ROUNDS):
            _write(table, blurring, contest, field)
            part.detail(f"rounds in {precision}", number)
        _write(table, blurring, contest, field)


def _write(table, blurring, contest, field):
    for entrant in contest.entrants:
        table.put(entrant, *_row(contest, field, entrant))
    for how in ("compiled", "plain"):
        pair = [field.ours.get(f"{process}, {how}") for process in ("blurring", "gaussian")]
        ratio = contest.ratio(*pair)
        if ratio:
            blurring.put(pair[0], pair[0].precision, how == "compiled", markdown_tables.ratio_cell(ratio))


def _row(contest, field, entrant):
    seconds, steps = contest.seconds(entrant), STEPS_PER_ACTION[entrant.size]
    speed = ("", "")
    if seconds:
        speed = f"{1e3 * seconds / steps:.2f}", f"{GPU_SIZES[entrant.size].batch * steps / seconds:.0f}"
    ratios = [contest.ratio(entrant, field.theirs[how]) for how in _THEIRS]
    what = entrant.what.removeprefix("training, ")
    about = contest.memory_cell(entrant), contest.parameters_cell(entrant)
    cells = [markdown_tables.ratio_cell(ratio) if ratio else "" for ratio in ratios]
    return entrant.side, what, entrant.precision, *speed, *about, *cells, contest.failures.get(entrant, "")


if __name__ == "__main__":
    main(Part.from_command_line())
