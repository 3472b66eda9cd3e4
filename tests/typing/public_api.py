"""A program of the public names, for mypy alone, which `make lint` runs: what is right passes, each mistake is seen.

A line with a mistake ends in `type: ignore` with what mypy says of it. A mistake that mypy does not see is an unused
ignore, which is an error too.
"""

from pathlib import Path

import numpy as np

import tf_blurdiff as bd


def train(images: np.ndarray) -> bd.DiffusionModel:
    network = bd.UNet(image_shape=(8, 8, 1), channels=8, multipliers=(1, 2), attention_resolutions=[4], name="small")
    process: bd.Process = bd.process.blurring(sigma_blur_max=4.0, blur_schedule="sin")
    model = bd.DiffusionModel(network, process, prediction="v", ema_decay=None, name="model")
    model.adapt([images])
    model.compile(bd.optimizers.Adam(1e-3))
    model.fit(images, batch_size=16)
    return model


def sample(model: bd.DiffusionModel) -> list[np.ndarray]:
    seeds = range(4)
    images = model.sample(seeds, 20, sampler="ddim", eta=0.5, labels=[1] * 4, guidance_scale=2.0, batch_size=2)
    return [
        images,
        model.sample(np.arange(4), images=images, strength=0.5, grid="uniform", return_trajectory=True),
        model.interpolate(0, 1, num_images=4, num_steps=10, delta=0.1),
        model.mix_bands([0, 1], [2, 3], cutoff=0.5, verbose=True),
        model.deblur(images, blur_sigma=1.5, num_steps=4),
        model.super_resolve(images[:, ::2, ::2], seeds=seeds, noise_std=0.1),
        model.inpaint(images, mask=np.ones((4, 8, 8)), labels=np.zeros(4)),
        model.bits_per_dimension(images, num_steps=10, num_times=2).total,
    ]


def save(model: bd.DiffusionModel, folder: Path) -> Path:
    other: bd.DiffusionModel = bd.load_model(folder / "model.keras", precision="float32").averaged()
    bd.export_savedmodel(other, str(folder))
    return bd.export_savedmodel(model, folder, quality_steps=[5, 50], restoration=True, keep=2)


def layers() -> list[object]:
    blocks = bd.layers.ResBlock(8, dropout=0.1, attention=True), bd.layers.GroupNorm(activation="silu", dtype="float32")
    return [*blocks, bd.layers.HeatBlur(name="blur"), bd.dct2(np.ones((1, 4, 4, 1))), bd.laplacian_eigenvalues(4, 4)]


def mistakes(model: bd.DiffusionModel, network: bd.UNet, images: np.ndarray) -> None:
    bd.UNet(chanels=3)  # type: ignore[call-arg]
    bd.UNet(image_shape=(8, 8))  # type: ignore[arg-type]
    bd.DiffusionModel(network)  # type: ignore[call-arg]
    bd.DiffusionModel(network, "blurring")  # type: ignore[arg-type]
    bd.DiffusionModel(network, bd.process.cold(), ema=0.9)  # type: ignore[call-arg]
    bd.process.blurring(blur_sigma_max=4.0)  # type: ignore[call-arg]
    bd.process.gaussian(noise_schedule=3)  # type: ignore[arg-type]
    bd.process.hot()  # type: ignore[attr-defined]
    bd.Process(noise=0.1)  # type: ignore[call-arg, arg-type]
    model.process.difuse(images, 0.5, images)  # type: ignore[attr-defined]
    model.sample(sedes=[0])  # type: ignore[call-arg]
    model.sample([0], num_steps="20")  # type: ignore[arg-type]
    model.sample([0], 20, "ddim", 0.0, None, 1.0, "uniform")  # type: ignore[call-arg]
    model.interpolate(0, 1, steps=10)  # type: ignore[call-arg]
    model.interpolate(0, 1, noise_seeds=[0])  # type: ignore[call-arg]
    model.mix_bands([0], [1], cut=0.5)  # type: ignore[call-arg]
    model.deblur(images)  # type: ignore[call-arg]
    model.super_resolve(images, strength=0.5)  # type: ignore[call-arg]
    model.inpaint(images, masks=images)  # type: ignore[call-arg]
    model.bits_per_dimension(images, steps=10)  # type: ignore[call-arg]
    model.sample([0]).shpae  # type: ignore[attr-defined]  # noqa: B018
    bd.load_model("digits", precison="float32")  # type: ignore[call-arg]
    bd.load_pretrained(0)  # type: ignore[arg-type]
    bd.export_savedmodel(model, "served", steps=5)  # type: ignore[call-arg]
    bd.export_savedmodel(model, "served", quality_steps=5)  # type: ignore[arg-type]
    bd.layers.ResBlock(8, drop=0.1)  # type: ignore[call-arg]
    bd.layers.Blur()  # type: ignore[attr-defined]
