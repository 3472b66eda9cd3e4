"""The networks that are timed: the same on every side. Standard library only, since every side reads it."""

import dataclasses

RES_BLOCKS = 2
HEAD_SIZE = 64
SAMPLING_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Size:
    """A U-Net and its batch.

    Attributes:
        image: height and width.
        channels: of the image.
        widths: of the levels, from the highest resolution down.
        batch: images in a batch.
        attention: the height at which self-attention follows every residual block.
    """

    image: int
    channels: int
    widths: tuple
    batch: int
    attention: int

    @property
    def name(self):
        """As on the command line: 32x32x3."""
        return f"{self.image}x{self.image}x{self.channels}"

    @property
    def full_name(self):
        """With a batch of its own: 32x32x3 batch 48."""
        return f"{self.name} batch {self.batch}"

    @property
    def shape(self):
        """(H, W, C)."""
        return (self.image, self.image, self.channels)

    @property
    def multipliers(self):
        """The widths as multiples of the first."""
        return tuple(width // self.widths[0] for width in self.widths)

    def has_attention(self, level):
        """Whether self-attention follows the residual blocks of this level."""
        return self.image // 2**level == self.attention


SIZES = {
    size.name: size
    for size in (
        Size(32, 3, (64, 128, 128), batch=16, attention=16),
        Size(32, 1, (32, 64, 64), batch=64, attention=16),
        Size(64, 3, (64, 128, 192), batch=4, attention=16),
        Size(8, 1, (32, 64), batch=64, attention=4),
    )
}
# Of parts that take long.
FEW_SIZES = ("32x32x3", "8x8x1")


def size_of(name):
    """The `Size` of a name or a full name."""
    usual, _, batch = name.partition(" batch ")
    return dataclasses.replace(SIZES[usual], batch=int(batch)) if batch else SIZES[usual]
