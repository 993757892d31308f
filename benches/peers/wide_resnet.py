"""The wide ResNet of this project in PyTorch, with the same parameter names behind the leading `1.`."""

import torch.nn.functional as F
from torch import nn


class PerImageStandardize(nn.Module):
    """Subtracts each image's mean and divides by its deviation (n - 1), which is at least 1 / sqrt(n)."""

    def forward(self, x):
        flat = x.flatten(1)
        deviation = flat.std(1).clamp(min=flat.shape[1] ** -0.5)
        return (x - flat.mean(1)[:, None, None, None]) / deviation[:, None, None, None]


class Block(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU; if channels change, a 1x1 shortcut after the first ReLU."""

    def __init__(self, channels, to, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(to)
        self.conv1 = nn.Conv2d(channels, to, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(to, to, 3, padding=1, bias=False)
        self.conv_shortcut = None if channels == to else nn.Conv2d(channels, to, 1, stride, bias=False)

    def forward(self, x):
        active = F.relu(self.bn1(x))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(active)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(active))))


class Group(nn.Module):
    """Blocks of one width; the first may halve the image."""

    def __init__(self, blocks, channels, to, stride):
        super().__init__()
        rest = (Block(to, to, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(Block(channels, to, stride), *rest)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """Wide ResNet of depth 6n + 4 on [N, 3, 32, 32]. Training puts PerImageStandardize before it."""

    def __init__(self, depth=28, widen=4):
        super().__init__()
        widths, blocks = (16, 16 * widen, 32 * widen, 64 * widen), (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.convgroup1 = Group(blocks, widths[0], widths[1], 1)
        self.convgroup2 = Group(blocks, widths[1], widths[2], 2)
        self.convgroup3 = Group(blocks, widths[2], widths[3], 2)
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], 10)
        for conv in filter(lambda module: isinstance(module, nn.Conv2d), self.modules()):
            fan_out = conv.kernel_size[0] ** 2 * conv.out_channels
            nn.init.normal_(conv.weight, std=(2 / fan_out) ** 0.5)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        x = self.convgroup3(self.convgroup2(self.convgroup1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


def standardized(depth=28, widen=4):
    """The standardization and the network, with the released code's names."""
    return nn.Sequential(PerImageStandardize(), WideResNet(depth, widen))
