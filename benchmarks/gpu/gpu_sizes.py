"""The networks that are timed on a GPU, and how much of their work makes one measured action. Standard library only."""

from sizes import Size

# DDPM's network for CIFAR-10 (Ho et al., 2020, appendix B), and one to try the programs with.
GPU_SIZES = {
    "ddpm": Size(32, 3, (128, 256, 256, 256), batch=128, attention=16),
    "tiny": Size(8, 1, (64,), batch=4, attention=8),
}
# The host runs ahead of the GPU within an action, which ends by fetching a number.
STEPS_PER_ACTION = {"ddpm": 10, "tiny": 1}
