"""Sampling with DDPM's network for CIFAR-10: 128 images of 32x32x3, 20 deterministic steps of ddim, in bfloat16.

`model.sample` compiled by XLA and not; the exported SavedModel, never compiled, loaded by TensorFlow; and diffusers'
DDIMPipeline, channels last, eager and with its network through torch.compile. Each is a process; they take turns, and a
ratio is the median of the rounds', with its lowest and highest. An action ends with the images on the host.
"""

import markdown_tables
from contest import Contest, Entrant
from gpu_sizes import GPU_SIZES
from part import Part

_OURS = ("compiled", "plain", "SavedModel")
_MOST_ROUNDS = 6


def main(part):
    """Fills the table."""
    size, hows = ("tiny", ("compiled", "SavedModel")) if part.small else ("ddpm", _OURS)
    ours, theirs = ("float32", "float32") if part.small else ("mixed_bfloat16", "bfloat16 autocast")
    pipelines = [Entrant("diffusers", f"sampling, {how}", size, theirs) for how in ("eager", "torch.compile")]
    entrants = [Entrant("tf_blurdiff", f"sampling, gaussian, {how}", size, ours) for how in hows] + pipelines
    table = part.table(
        "Sampling, 20 steps of ddim", "by", "what", "precision", "ms", "images/s", "peak GPU memory, GB",
        "time over the eager pipeline's", "over torch.compile's", "why not measured",
    )  # fmt: skip
    with Contest(part, entrants, 0.95 * part.left()) as contest:
        _write(table, contest, pipelines)
        for number in contest.rounds(_MOST_ROUNDS):
            _write(table, contest, pipelines)
            part.detail("rounds", number)
        _write(table, contest, pipelines)


def _write(table, contest, pipelines):
    for entrant in contest.entrants:
        seconds = contest.seconds(entrant)
        speed = (f"{1e3 * seconds:.1f}", f"{GPU_SIZES[entrant.size].batch / seconds:.1f}") if seconds else ("", "")
        ratios = [contest.ratio(entrant, pipeline) for pipeline in pipelines]
        cells = [markdown_tables.ratio_cell(ratio) if ratio else "" for ratio in ratios]
        what, memory = entrant.what.removeprefix("sampling, "), contest.memory_cell(entrant)
        table.put(
            entrant, entrant.side, what, entrant.precision, *speed, memory, *cells, contest.failures.get(entrant, "")
        )


if __name__ == "__main__":
    main(Part.from_command_line())
