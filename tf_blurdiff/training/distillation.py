"""Distillation in a run directory: a model of many steps becomes one of few, stage by stage.

Each stage is a training of its own in a folder `steps_N`, whose student starts from its teacher's averaged weights:
the teacher of the first is the model that is distilled, of the next the student before it. What was done is not done
again, and a stage that was interrupted goes on as any training.
"""

import contextlib
import itertools
import json
import math
import pathlib
import shutil

import keras

from tf_blurdiff.config import Config
from tf_blurdiff.config import loading as configs
from tf_blurdiff.devices import open_devices
from tf_blurdiff.errors import UserError, check_count, is_number, one_of
from tf_blurdiff.files import expanded, write_atomically
from tf_blurdiff.model import DISTILLATION_GRIDS, DiffusionModel, find_model, load_model, student_of
from tf_blurdiff.networks import Adam, UNet
from tf_blurdiff.training.checkpoints import steps_in
from tf_blurdiff.training.loop import Run, check_batch_size, errors_in_words, learning_rate, unfinished
from tf_blurdiff.training.model_card import model_card, write_model_card
from tf_blurdiff.training.run_directory import check_config, locked, resolved, writing

# How many of its teacher's steps are one of a student's: a model's own can be small, a student's are what they are.
_OF_A_MODEL, _OF_A_STUDENT = 4, 2
# The averages of a stage are over its last tenth or so.
_AVERAGED_SHARE = 0.1


def distill(
    model: str | pathlib.Path,
    config: Config,
    run_dir: str | pathlib.Path,
    steps: int = 4,
    guidance_scale: float = 1.0,
    stage_steps: int = 1500,
    peak_learning_rate: float = 5e-4,
    teacher_steps: int | None = None,
    grid: str | None = None,
    verbose: bool = True,
) -> DiffusionModel:
    """Distills a model, from where the run directory ends if it holds a part of it.

    Args:
        model: a .keras file, a run directory, or the name of a shipped model.
        config: data, batch size, precision, devices and the like, of the model's own process and form of images.
        run_dir: folder, made if missing; `model.keras` in it is the last student.
        steps: of the last student, a power of two.
        guidance_scale: of the teacher; the students have it built in. For a model with labels and label dropout.
        stage_steps: optimizer steps of each stage.
        peak_learning_rate: of each, from which it falls as a cosine.
        teacher_steps: the number of steps to start from, a power of two, of which the first student has a quarter, or
            half if the model is a student itself. None takes twice the model's own, rounded up to one, and of a student
            its own. The next students halve.
        grid: of the steps, "quadratic" (None), whose last steps are short, or "uniform"; a student has its own.
        verbose: whether to show progress.

    Returns:
        The last student, a `DiffusionModel`.

    Raises:
        UserError: for arguments that are not allowed, a config of another process or form of images, and what
            `training.train` refuses.
        Unfinished: as `training.train`.

    Reference: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022, algorithm 2.
    """
    run_dir = expanded(run_dir)
    check_count("stage_steps", stage_steps)
    if not is_number(peak_learning_rate) or not 0.0 < peak_learning_rate < math.inf:
        raise UserError(f"the learning rate must be above 0. Received: {peak_learning_rate!r}")
    _check_folder(run_dir, model)
    devices = open_devices(config.train.strategy, config.train.replicas)
    config = resolved(config, _begun(run_dir))
    teacher = _load(model, config, devices)
    _check(teacher, config, guidance_scale)
    numbers = _numbers_of_steps(teacher, steps, teacher_steps)
    grid = _grid(teacher, grid)
    config = _of_a_stage(config, stage_steps, peak_learning_rate, teacher.network.dtype_policy.name)
    images = configs.build_images(config)
    check_batch_size(config.train.batch_size, images, devices.num_replicas)
    with locked(run_dir) if devices.is_chief else contextlib.nullcontext():
        for number, (before, num_steps) in enumerate(itertools.pairwise(numbers), start=1):
            stage = run_dir / f"steps_{num_steps}"
            if verbose and devices.is_chief:
                print(f"stage {number} of {len(numbers) - 1}: {before} steps become {num_steps}", flush=True)
            lesson = {"num_steps": num_steps, "steps_in_one": before // num_steps, "guidance_scale": guidance_scale}
            run = _train_stage(stage, teacher, {**lesson, "grid": grid}, config, images, devices, verbose)
            # The scale is in the student's weights now.
            teacher, guidance_scale = run.model, 1.0
            # A stage may be done before a signal counts.
            if num_steps != steps and devices.mean([run.stopped_by is not None])[0]:
                raise unfinished(run.stopped_by, f"the end of the stage of {num_steps} steps")
        if devices.is_chief:
            _put_on_top(run_dir, run_dir / f"steps_{steps}", teacher, config, images)
    return teacher


def _begun(run_dir):
    """The stage that has decided what the config leaves open: one with a checkpoint, or else none."""
    return next((stage for stage in run_dir.glob("steps_*") if steps_in(stage / "checkpoints")), run_dir)


def _of_a_stage(config, steps, peak_learning_rate, precision):
    """The config, with the training of one stage."""
    ema_decay = max(0.0, 1.0 - 1.0 / (_AVERAGED_SHARE * steps + 1.0))
    rate = {"learning_rate": peak_learning_rate, "warmup_steps": 0, "decay_steps": steps}
    train = {"steps": steps, **rate, "ema_decay": ema_decay, "precision": precision}
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def _check_folder(run_dir, model):
    """Raises a UserError where the last student would take the place of a training's model, or of its own teacher."""
    if (run_dir / "checkpoints").exists() or run_dir.resolve() == find_model(model).parent.resolve():
        raise UserError(f"run directory {run_dir} holds another model; expected another folder for what it becomes")


def _put_on_top(run_dir, stage, student, config, images):
    """Makes the folder look like the run directory of its last stage."""
    with writing(run_dir, "model.keras"):
        write_atomically(run_dir / "model.keras", student.averaged().save)
        shutil.copyfile(stage / "config.yaml", run_dir / "config.yaml")
        if (stage / "samples").is_dir():
            shutil.copytree(stage / "samples", run_dir / "samples", dirs_exist_ok=True)
        card = model_card(run_dir, _as_it_is(config, student), student, images, config.train.steps, {})
        write_model_card(run_dir, card)


def _load(model, config, devices):
    with devices.strategy.scope():
        return load_model(model, precision=config.train.precision)


def _check(teacher, config, guidance_scale):
    """Raises a UserError for what cannot be distilled, or not with this config."""
    if not teacher.process.ends_in_noise:
        raise UserError("only a model whose process ends in noise can be distilled (gaussian, blurring)")
    if teacher.distilled_guidance is not None and teacher.num_steps == 1:
        raise UserError("a model that was distilled to one call cannot be distilled further")
    if teacher.process.get_config() != configs.build_process(config).get_config():
        raise UserError("the config's process is not the model's: give the config that it was trained with")
    for what, own, given in (
        ("image shape", teacher.image_shape, config.image_shape),
        ("number of labels", teacher.num_classes, config.network.num_classes),
    ):
        if own != given:
            raise UserError(f"the config's {what} is not the model's: got {given}, expected {own}")
    if guidance_scale != 1.0:  # Refuses what cannot be.
        teacher.conditions([0] if teacher.num_classes else None, guidance_scale, 1)


def _numbers_of_steps(teacher, steps, teacher_steps):
    """Those of the teacher, then of the students, falling."""
    distilled = teacher.distilled_guidance is not None
    in_one = _OF_A_STUDENT if distilled else _OF_A_MODEL
    first_student = max(1, 2 ** math.ceil(math.log2(teacher.num_steps)) // 2)
    first = in_one * first_student if teacher_steps is None else teacher_steps
    for name, value in (("steps", steps), ("teacher_steps", first)):
        check_count(name, value)
        if value & (value - 1):
            raise UserError(f"{name} must be a power of two. Received: {value}")
    if first < in_one:
        raise UserError(f"teacher_steps must be {in_one} or more. Received: {first}")
    if distilled and first != teacher.num_steps:
        raise UserError(f"teacher_steps must be {teacher.num_steps}, those of the distilled teacher. Received: {first}")
    if steps > first // in_one:
        raise UserError(
            f"steps must be at most {first // in_one}, the first student's with a teacher of {first}. Received: {steps}"
        )
    return [first, *(first // in_one >> k for k in range(int(math.log2(first // in_one // steps)) + 1))]


def _grid(teacher, grid):
    own = DISTILLATION_GRIDS if teacher.distilled_guidance is None else (teacher.grid,)
    grid = own[0] if grid is None else grid
    one_of("grid", grid, own)
    return grid


def _train_stage(stage, teacher, lesson, config, images, devices, verbose):
    """The run of one stage, which has trained its student to its end."""
    train = config.train
    own = {"ema_decay": train.ema_decay, "clip_norm": train.clip_norm, "seed": train.seed}
    keras.utils.set_random_seed(train.seed)
    with errors_in_words(devices, "network"), devices.strategy.scope():
        student = student_of(teacher, **lesson, **own)
        student.compile(Adam(learning_rate(train)), jit_compile=train.compile)
        student.optimizer.build(student.network.trainable_variables)
    config = _as_it_is(config, student)
    check_config(config, stage)
    with locked(stage) if devices.is_chief else contextlib.nullcontext():
        _claim(stage, teacher, student.lesson.sampler, lesson, devices)
        with errors_in_words(devices, f"train.batch_size: got {train.batch_size}"), images.plain_errors():
            run = Run(config, stage, student, images, devices, verbose)
            run.run()
            return run


def _as_it_is(config, student):
    """The config, with what it says of predictions, dropout and samples being the student's."""
    learned = {name: getattr(student, name) for name in ("prediction", "loss_type", "loss_exponent", "label_dropout")}
    sampled = {name: getattr(student, name) for name in ("sampler", "num_steps", "grid")}
    sections = {"model": config.model.model_copy(update=learned), "sample": config.sample.model_copy(update=sampled)}
    if isinstance(student.network, UNet):
        sections["network"] = config.network.model_copy(update={"dropout": student.network.dropout})
    return config.model_copy(update=sections)


def _claim(stage, teacher, sampler, lesson, devices):
    """Notes whose student this is, of what; raises a UserError in a folder of another's."""
    path = stage / "lesson.json"
    what = {"teacher": teacher.averaged().fingerprint()[:16], "guidance_scale": lesson["guidance_scale"]}
    steps = {"teacher_steps": lesson["num_steps"] * lesson["steps_in_one"], "teacher_sampler": sampler}
    own = json.dumps({**what, **steps, "grid": lesson["grid"]})
    there = path.read_text(errors="replace") if path.exists() else own
    if there != own:
        raise UserError(
            f"{stage} was begun with another teacher, its steps, sampler, grid or guidance scale ({there} there, {own} "
            "here); expected the same, or another run directory"
        )
    if devices.is_chief:
        with writing(stage, path.name):
            write_atomically(path, lambda new: new.write_text(own))
