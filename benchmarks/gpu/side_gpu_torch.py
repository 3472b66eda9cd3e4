"""The side of diffusers and PyTorch on a GPU, see benchmarks/speed/protocol.py; channels last.

What it prepares, by the words of "what": "training, HOW" or "sampling, HOW", HOW being eager or torch.compile. Its own
command: `peak`.
"""

import protocol


def make_action(what, size_name, precision):
    """See `protocol.Conversation`."""
    import diffusers_work
    import torch
    from gpu_sizes import GPU_SIZES, STEPS_PER_ACTION

    kind, how = what.split(", ")
    size, device = GPU_SIZES[size_name], "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # As TensorFlow does.
    network = diffusers_work.make_network(size).to(device, memory_format=torch.channels_last)
    parameters = sum(weight.numel() for weight in network.parameters())
    if how == "torch.compile":
        # Where it is only tried out there is no time for machine code.
        network.compile(backend="aot_eager" if size_name == "tiny" else "inductor")
    if kind == "sampling":
        return diffusers_work.sampling(network, size.batch, precision), parameters
    x = torch.rand((size.batch, size.channels, size.image, size.image), device=device) * 2.0 - 1.0
    step = diffusers_work.training_step(network, x.to(memory_format=torch.channels_last), precision)
    return lambda: [step() for _ in range(STEPS_PER_ACTION[size_name])][-1].item(), parameters


def peak():
    """The most GPU memory of this process's tensors up to now, in GB; None without a GPU."""
    import torch

    return {"gb": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None}


def main():
    """Imports after standard output is out of the libraries' reach."""
    answers = protocol.take_stdout()
    import diffusers_work  # noqa: F401 (so that what is missing is said at once)

    protocol.Conversation(answers, make_action, peak=peak).hold()


if __name__ == "__main__":
    main()
