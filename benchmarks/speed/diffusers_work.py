"""What is timed of diffusers and PyTorch: a training step, a forward pass, sampling; the work of blurdiff_work.py."""

import contextlib
import os

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from sizes import HEAD_SIZE, RES_BLOCKS, SAMPLING_STEPS, size_of

torch.set_num_threads(os.cpu_count())
_EMA_DECAY = 0.9999


def make_network(size):
    """The U-Net of a `Size`."""
    levels = range(len(size.widths))
    attention = ["Attn" if size.has_attention(level) else "" for level in levels]
    return UNet2DModel(
        sample_size=size.image,
        in_channels=size.channels,
        out_channels=size.channels,
        block_out_channels=size.widths,
        layers_per_block=RES_BLOCKS,
        down_block_types=[f"{prefix}DownBlock2D" for prefix in attention],
        up_block_types=[f"{prefix}UpBlock2D" for prefix in reversed(attention)],
        attention_head_dim=HEAD_SIZE,
        norm_num_groups=8 if size.widths[0] < 64 else 16,
        resnet_time_scale_shift="scale_shift",
    )


def _autocast(precision, device):
    if precision == "bfloat16 autocast":
        return torch.autocast(device.type, torch.bfloat16)
    if precision != "float32":
        raise ValueError(f"nothing is known of the precision {precision}")
    return contextlib.nullcontext()


def training_step(network, x, precision):
    """A function that makes one step on the images x, on their device, and returns the loss, a tensor."""
    scheduler = DDPMScheduler()
    weights = list(network.parameters())
    optimizer = torch.optim.Adam(weights, lr=1e-4, fused=x.is_cuda or None)
    averages = [weight.detach().clone() for weight in weights]
    network.train()

    def step():
        noise = torch.randn_like(x)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),), device=x.device)
        noised = scheduler.add_noise(x, noise, t)
        with _autocast(precision, x.device):
            loss = torch.nn.functional.mse_loss(network(noised, t).sample.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1.0 - _EMA_DECAY)
        return loss.detach()

    return step


def _forward(network, x, precision):
    t = torch.linspace(0, 999, len(x)).long()
    network.eval()

    def forward():
        with torch.inference_mode(), _autocast(precision, x.device):
            return network(x, t).sample.float().numpy()

    return forward


def sampling(network, batch, precision):
    """A function that draws a batch of images with the pipeline, on the network's device."""
    pipeline = DDIMPipeline(unet=network.eval(), scheduler=DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)

    def sample():
        generator = torch.Generator().manual_seed(0)
        settings = {"num_inference_steps": SAMPLING_STEPS, "eta": 0.0, "output_type": "np"}
        with _autocast(precision, network.device):
            return pipeline(batch_size=batch, generator=generator, **settings).images

    return sample


def make_action(what, size_name, precision):
    """An action without arguments that returns when it is done, and the network's number of parameters."""
    size = size_of(size_name)
    network = make_network(size)
    x = torch.rand((size.batch, size.channels, size.image, size.image)) * 2.0 - 1.0
    if what == "training step":
        step = training_step(network, x, precision)
        action = lambda: step().item()
    elif what == "forward pass":
        action = _forward(network, x, precision)
    elif what == "sampling":
        action = sampling(network, size.batch, precision)
    else:
        raise ValueError(f"nothing is known of {what}")
    return action, sum(weight.numel() for weight in network.parameters())
