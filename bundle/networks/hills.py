"""Hills of a smoothed solid, in integers: sums over boxes, and walks uphill to the top of a grain."""

import torch
from torch import Tensor
from torch.nn import functional as F


def box_sum(x: Tensor, width: int) -> Tensor:
    """Sums over boxes of `width` voxels a side, (B, C, D, H, W) -> (B, C, D - width + 1, …), by sums of two, four, eight voxels."""
    for axis in (2, 3, 4):
        n = x.shape[axis] - width + 1
        done, have, left = 0, 1, width
        total = torch.zeros_like(x.narrow(axis, 0, n))
        while left > 0:
            if left % 2 == 1:
                total = total + x.narrow(axis, done, n)
                done += have
            left = left // 2
            if left > 0:
                size = x.shape[axis] - have
                x = x.narrow(axis, 0, size) + x.narrow(axis, have, size)
                have *= 2
        x = total
    return x


def uphill(height: Tensor) -> Tensor:
    """Where the highest of a voxel and its 26 neighbours is: (B, 1, D, H, W) integers -> (B, D H W), places in the flattened volume.

    Where some are equally high a voxel stays, or goes to the one that is found first.
    """
    number = height.shape[2] * height.shape[3] * height.shape[4]
    place = torch.arange(number, device=height.device).view(height.shape[2:]).expand(height.shape)
    for axis in (2, 3, 4):
        ends = [0, 0, 0, 0, 0, 0]
        ends[2 * (4 - axis)], ends[2 * (4 - axis) + 1] = 1, 1
        n = height.shape[axis]
        padded, places = F.pad(height, ends, value=-1.0), F.pad(place, ends)
        for start in (0, 2):
            other = padded.narrow(axis, start, n)
            better = other > height
            height, place = torch.where(better, other, height), torch.where(better, places.narrow(axis, start, n), place)
    return place.flatten(1)


def walked(steps: Tensor, number: int) -> Tensor:
    """Where a walk of so many steps ends: (B, N) places of one step from each place -> (B, N)."""
    place = torch.arange(steps.shape[1], device=steps.device).expand(steps.shape)
    while number > 0:
        if number % 2 == 1:
            place = steps.gather(1, place)
        number = number // 2
        if number > 0:
            steps = steps.gather(1, steps)
    return place
