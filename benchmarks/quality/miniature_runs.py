"""The trainings of miniature.py, what is asked of them, and the rows of its tables.

A run is a name, also of its folder, and a config with overrides; one that is scored on the way has the steps too.
"""

from trainings import EPS, PREDICTIONS

BLUR, GAUSSIAN = "miniature.yaml", "miniature_gaussian.yaml"
CONFIGS = {"gaussian": GAUSSIAN, "blurring": BLUR}
# docs/results.md has these runs of 3,000 steps with the prediction and the sampler that were the default then.
ONCE = (*EPS, "sample.sampler=multistep3")
TWICE = (*EPS, "train.steps=6000", "train.decay_steps=6000", "train.precision=float32")
SHORT = ("train.steps=1000", "train.decay_steps=1000")
DECIDING = ("preconditioned_0.25", "preconditioned_0.5")
RUNS = {
    "gaussian": (GAUSSIAN, ONCE),
    "blurring": (BLUR, ONCE),
    "heat_dissipation": ("miniature_heat_dissipation.yaml", ()),
    "cold": ("miniature_cold.yaml", ()),
    "gaussian_1": (GAUSSIAN, (*ONCE, "train.seed=1")),
    "blurring_1": (BLUR, (*ONCE, "train.seed=1")),
    "gaussian_2": (GAUSSIAN, (*ONCE, "train.seed=2")),
    "blurring_2": (BLUR, (*ONCE, "train.seed=2")),
    "blurring_small": (BLUR, (*ONCE, "process.sigma_blur_max=2.5")),
    "blurring_strong": (BLUR, (*ONCE, "process.sigma_blur_max=20")),
    "blurring_sin": (BLUR, (*ONCE, "process.blur_schedule=sin")),
    "gaussian_long": (GAUSSIAN, TWICE),
    "blurring_long": (BLUR, TWICE),
}
# What the network predicts, of three seeds where it decides.
PREDICTED_ROWS = {
    f"{family}, {name}": [f"{family}_{name}_{seed}" for seed in range(3 if name in DECIDING else 1)]
    for family in CONFIGS
    for name in PREDICTIONS
}
PREDICTED = {
    run_name: (CONFIGS[family], (*SHORT, *PREDICTIONS[name], f"train.seed={seed}"))
    for title, names in PREDICTED_ROWS.items()
    for family, name in [title.split(", ")]
    for seed, run_name in enumerate(names)
}
# Trainings whose samples are scored on the way.
CURVE_STEPS = (500, 1000, 2000, 3000)
CURVE_ROWS = {
    f"{family}, {name}": [f"curve_{family}_{name}"] for family in CONFIGS for name in ("eps", "preconditioned")
}
CURVES = {
    f"curve_{family}_{name}": (config, prediction, CURVE_STEPS)
    for family, config in CONFIGS.items()
    for name, prediction in {"eps": EPS, "preconditioned": ()}.items()
}
# Whether blur is ahead, as in the paper, of three seeds.
ORDER_STEPS = (1500, 3000, 6000, 12000)
ORDER_ROWS = {
    "gaussian, no blur": [f"order_gaussian_{seed}" for seed in range(3)],
    "blurring, 2.5 pixels": [f"order_blurring_small_{seed}" for seed in range(3)],
    "blurring, 10 pixels": [f"order_blurring_{seed}" for seed in range(3)],
}
_ORDER = {"gaussian": (GAUSSIAN, ()), "blurring_small": (BLUR, ("process.sigma_blur_max=2.5",)), "blurring": (BLUR, ())}
ORDER = {
    f"order_{name}_{seed}": (config, (*settings, "train.decay_steps=12000", f"train.seed={seed}"), ORDER_STEPS)
    for seed in range(3)
    for name, (config, settings) in _ORDER.items()
}
# The rows of the tables, each of one run or of several that differ in the seed.
FAMILIES = {
    "gaussian": ("gaussian", "gaussian_1", "gaussian_2"),
    "blurring": ("blurring", "blurring_1", "blurring_2"),
    "heat dissipation": ("heat_dissipation",),
    "cold": ("cold",),
}
STRENGTHS = {
    "0 (gaussian)": FAMILIES["gaussian"],
    "2.5": ("blurring_small",),
    "10, published": FAMILIES["blurring"],
    "20": ("blurring_strong",),
    "10, sin and not sin squared": ("blurring_sin",),
}
LENGTHS = {
    "gaussian, 3,000 steps": FAMILIES["gaussian"],
    "blurring, 3,000 steps": FAMILIES["blurring"],
    "gaussian, 6,000 steps": ("gaussian_long",),
    "blurring, 6,000 steps": ("blurring_long",),
}
# Whose samples the picture has where they are there: the families' runs predict eps.
PICTURED = {family: f"curve_{family}_preconditioned" for family in CONFIGS}
# The evaluations of `calls`: runs, samplers, calls of the network and number of images.
_SAMPLED = ("blurring", "gaussian", "blurring_long")
MANY_CALLS = {
    "solvers": (_SAMPLED, ("ancestral2", "ddim", "multistep2", "multistep3"), (10, 20, 50), 1000),
    "ancestral": (_SAMPLED, ("ancestral",), (50, 250, 1000), 1000),
    "predictions": (tuple(PREDICTED), ("ancestral2", "multistep3"), (20,), 1000),
}
