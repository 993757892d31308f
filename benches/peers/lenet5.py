"""LeNet5 in PyTorch, in the two shapes that this project trains, with the same parameter names."""

import torch.nn.functional as F
from torch import nn


class LeNet5(nn.Module):
    """Two convolutions and two linear layers on [N, 1, 28, 28], with any `filters`, `hidden` and `kernel` (5 or 3)."""

    def __init__(self, filters=(32, 64), hidden=1024, kernel=5):
        super().__init__()
        self.conv1 = nn.Conv2d(1, filters[0], kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(filters[0], filters[1], kernel, padding=kernel // 2)
        self.linear1 = nn.Linear(filters[1] * 7 * 7, hidden)
        self.linear2 = nn.Linear(hidden, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))

    @classmethod
    def shaped_like(cls, state):
        """LeNet5 with the shapes of `state`, a state dict."""
        return cls(
            filters=(state["conv1.weight"].shape[0], state["conv2.weight"].shape[0]),
            hidden=state["linear1.weight"].shape[0],
            kernel=state["conv1.weight"].shape[2],
        )
