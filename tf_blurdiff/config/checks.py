"""What a config's values have to do with each other: one line for each combination that would be refused later.

The library has the last word on what goes with a process; what is said of it here is tested against it. Nothing is
imported from there, so that a mistake is reported without waiting for TensorFlow.
"""

from tf_blurdiff.config.messages import problem, show

# What goes with a preset, where it is not eps and squared_error.
_OWN_PREDICTION = {"heat_dissipation": "less_blurred", "cold": "x0"}
_OWN_LOSS = {"cold": "absolute_error"}


def prediction_of(config):
    """The config's prediction; null is the one that goes with the process."""
    return config.model.prediction or _OWN_PREDICTION.get(config.process.preset, "eps")


def loss_type_of(config):
    """The config's loss; null is the one that goes with the process."""
    return config.model.loss_type or _OWN_LOSS.get(config.process.preset, "squared_error")


def combination_problems(config):
    """The lines for a config whose values are each allowed."""
    yield from _data_problems(config)
    yield from _process_problems(config.process)
    yield from _network_problems(config)
    yield from _prediction_problems(config)
    if config.model.label_dropout and config.network.num_classes is None:
        yield problem("model.label_dropout", config.model.label_dropout, "0, since network.num_classes is null")
    yield from _train_problems(config.train)


def _train_problems(train):
    if train.replicas is not None and train.strategy not in ("auto", "mirrored"):
        yield problem("train.replicas", train.replicas, f"null, since train.strategy is {train.strategy}")
    elif train.batch_size % (train.replicas or 1):
        expected = f"a multiple of train.replicas, which is {train.replicas}"
        yield problem("train.batch_size", train.batch_size, expected)
    if train.decay_steps is not None and train.decay_steps <= train.warmup_steps:
        expected = f"an integer > train.warmup_steps, which is {train.warmup_steps}"
        yield problem("train.decay_steps", train.decay_steps, expected)


def _data_problems(config):
    data, num_classes = config.data, config.network.num_classes
    if data.source == "tfds" and not data.name:
        yield problem("data.name", data.name, "the name of a TFDS data set such as cifar10")
    if data.source != "tfds" and data.name is not None:
        yield problem("data.name", data.name, f"null, since data.source is {data.source}")
    if data.source == "image_folder" and data.split != "train":
        yield problem("data.split", data.split, f"train, since data.source is {data.source}")
    if data.source == "image_folder" and not data.root:
        yield problem("data.root", data.root, "a folder, since data.source is image_folder")
    if data.source == "image_folder" and num_classes is not None:
        yield problem("network.num_classes", num_classes, "null, since an image_folder has no labels")
    yield from _unused_data_keys(data)
    if data.source == "digits":
        if data.root is not None:
            yield problem("data.root", data.root, "null, since data.source is digits")
        if data.channels != 1:
            yield problem("data.channels", data.channels, "1, since data.source is digits")
        if num_classes not in (None, 10):
            yield problem("network.num_classes", num_classes, "10 or null, since data.source is digits")


def _unused_data_keys(data):
    for key, sources in {"cache_gb": ("tfds", "image_folder"), "max_corrupt": ("image_folder",)}.items():
        value, default = getattr(data, key), type(data).model_fields[key].default
        if data.source not in sources and value != default:
            yield problem(f"data.{key}", value, f"{show(default)}, since data.source is {data.source}")


def _process_problems(process):
    for low, high in (("logsnr_min", "logsnr_max"), ("sigma_blur_min", "sigma_blur_max")):
        if hasattr(process, low) and getattr(process, low) >= getattr(process, high):
            expected = f"a number < process.{high}, which is {getattr(process, high)}"
            yield problem(f"process.{low}", getattr(process, low), expected)
    if process.preset == "gaussian" and process.noise_schedule == "linear_betas":
        for key in ("logsnr_min", "logsnr_max"):
            default = type(process).model_fields[key].default
            if getattr(process, key) != default:
                yield problem(f"process.{key}", getattr(process, key), f"{default}: linear_betas have their own limits")


def _network_problems(config):
    network, size = config.network, config.data.image_size
    halvings = len(network.multipliers) - 1
    height, width, _ = config.image_shape
    given = f"network.multipliers {list(network.multipliers)}"
    if height % 2**halvings or width % 2**halvings:
        expected = f"a multiple of {2**halvings}, since {given} has {halvings + 1} levels"
        yield problem("data.image_size", size, expected)
        return
    heights = [height // 2**level for level in range(halvings + 1)]
    if not set(network.attention_resolutions) <= set(heights):
        expected = f"some of {heights}, the levels' heights with data.image_size {show(size)} and {given}"
        yield problem("network.attention_resolutions", network.attention_resolutions, expected)


def _prediction_problems(config):
    """Prediction and sampling against the process."""
    process, prediction = config.process, prediction_of(config)
    why = _in_words(process)
    if prediction not in _predictions(process):
        # Sampling depends on the prediction: one thing at a time.
        yield problem("model.prediction", config.model.prediction, f"{_one_of(_predictions(process))}, since {why}")
        return
    by_level = prediction == "less_blurred"
    sampler, num_steps, grid = config.sample.sampler, config.sample.num_steps, config.sample.grid
    samplers = _samplers(process, prediction)
    if sampler is not None and sampler not in samplers:
        expected = f"{_one_of(samplers)} or null, since {why} and model.prediction {prediction}"
        yield problem("sample.sampler", sampler, expected)
    if by_level and num_steps not in (None, process.num_levels):
        expected = f"{process.num_levels} or null, since less_blurred goes through all of process.num_levels"
        yield problem("sample.num_steps", num_steps, expected)
    if by_level and grid not in (None, "uniform"):
        yield problem("sample.grid", grid, "uniform or null, since less_blurred goes from level to level")
    elif grid == "logsnr" and not _ends_in_noise(process):
        yield problem("sample.grid", grid, f"one of uniform, quadratic or null, since {why}")


def _predictions(process):
    if not _ends_in_noise(process):
        return ["x0", "less_blurred"]
    return ["eps", "v", "x0"] if _keeps_every_frequency(process) else ["x0"]


def _samplers(process, prediction):
    """The samplers that go with one of the process's own predictions."""
    if prediction == "less_blurred":
        return ["heat"]
    if not _ends_in_noise(process):
        has_noise = getattr(process, "sigma", 0.0) > 0
        return [*(["ancestral", "ddim"] if has_noise else []), "heat", "cold", "cold_naive"]
    if _keeps_every_frequency(process):
        return ["ancestral", "ancestral2", "ddim", "multistep2", "multistep3"]
    return ["ancestral", "ddim"]


def _ends_in_noise(process):
    return process.preset in ("gaussian", "blurring")


def _keeps_every_frequency(process):
    return process.preset == "gaussian" or process.min_gain > 0 or process.sigma_blur_max == 0


def _in_words(process):
    if _ends_in_noise(process) and not _keeps_every_frequency(process):
        return f"process.min_gain is {process.min_gain} and process.sigma_blur_max {process.sigma_blur_max}"
    return f"process.preset is {process.preset}"


def _one_of(names):
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
