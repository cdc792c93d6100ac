"""The training step in PyTorch, to compare ours with: the same networks, losses and arithmetic, channels last.

    python research/step_in_pytorch.py POLICY BATCH SECONDS    # Keras' name of the precision

Prints images per second, measured over at least SECONDS seconds of steps. `training.py step` runs it if PyTorch is
installed (`pip install torch`). As in our step, each network's loss updates only its own weights, and the discriminator
judges the generated patch once for both losses.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

SLOPE = 0.3


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with Keras' defaults."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def downsample(before: int, after: int, normed: bool = True) -> nn.Sequential:
    """Downsample by 2, from `before` to `after` channels."""
    convolution = nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, *([norm(after)] if normed else []), nn.LeakyReLU(SLOPE))


def upsample(before: int, after: int, dropout: bool) -> nn.Sequential:
    """Upsample by 2, from `before` to `after` channels."""
    convolution = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, norm(after), *([nn.Dropout(0.5)] if dropout else []), nn.ReLU())


def in_float32(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply the last layer of a network, in float32 even with mixed precision."""
    with torch.autocast("cpu", enabled=False):
        return layer(x.float())


class Generator(nn.Module):
    """The U-Net, 3 -> 1 channels."""

    def __init__(self):
        super().__init__()
        widths = [3, 64, 128, 256, 512, 512, 512]
        self.downs = nn.ModuleList(
            downsample(*widths[level : level + 2], normed=level > 0) for level in range(len(widths) - 1)
        )
        ups = [(512, 512, True), (1024, 512, True), (1024, 256, False), (512, 128, False), (256, 64, False)]
        self.ups = nn.ModuleList(upsample(*level) for level in ups)
        self.last = nn.ConvTranspose2d(128, 1, 4, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fundus (batch, 3, height, width) -> OCT-A (batch, 1, height, width), [-1, 1]."""
        skips = []
        for block in self.downs:
            x = block(x)
            skips.append(x)
        for block, skip in zip(self.ups, skips[-2::-1], strict=True):
            x = torch.cat([block(x), skip], dim=1)
        return torch.tanh(in_float32(self.last, x))


class Discriminator(nn.Module):
    """The PatchGAN on 3 + 1 channels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            downsample(4, 128, normed=False),
            downsample(128, 256),
            nn.Conv2d(256, 512, 4, padding=1, bias=False),
            norm(512),
            nn.LeakyReLU(SLOPE),
        )
        self.last = nn.Conv2d(512, 1, 4, padding=1)

    def forward(self, fundus: torch.Tensor, octa: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 1, h, w) of fundus (batch, 3, height, width) and OCT-A (batch, 1, height, width)."""
        return in_float32(self.last, self.body(torch.cat([fundus, octa], dim=1)))


def new_step(batch_size: int, bfloat16: bool) -> Callable[[], float]:
    """A step of both networks on random patches of 256 px, to be called repeatedly; returns the generator's loss."""
    torch.manual_seed(0)
    networks = Generator(), Discriminator()
    generator, discriminator = (network.to(memory_format=torch.channels_last) for network in networks)
    optimisers = [torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in networks]
    fundus, target = (
        (2 * torch.rand(batch_size, channels, 256, 256) - 1).to(memory_format=torch.channels_last)
        for channels in (3, 1)
    )

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            gen_output = generator(fundus)
            real, generated = discriminator(fundus, target), discriminator(fundus, gen_output)
        ones, zeros = torch.ones_like(real), torch.zeros_like(real)
        gen_loss = binary_cross_entropy_with_logits(generated, ones) + 100 * (target - gen_output).abs().mean()
        disc_loss = binary_cross_entropy_with_logits(real, ones) + binary_cross_entropy_with_logits(generated, zeros)
        for network, loss in ((generator, gen_loss), (discriminator, disc_loss)):
            weights = list(network.parameters())
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
                weight.grad = gradient
        for optimiser in optimisers:
            optimiser.step()
        return gen_loss.item()

    return step


def main() -> None:
    """Time steps and print images per second."""
    policy, batch_size, least = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    step, seconds = new_step(batch_size, policy == "mixed_bfloat16"), []
    while sum(seconds[2:]) < least:  # the first two are warm-up
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    print(batch_size / median(seconds[2:]))


if __name__ == "__main__":
    main()
