"""Augmentation of training scenes that keeps their physics: receivers dropped, the plane rotated or mirrored."""

import math
from hashlib import blake2b

import torch
from torch import Tensor

from heimdall_lab.core.units import EARTH_RADIUS_KM
from heimdall_lab.learning.architectures.layers import mean_over, zeroed
from heimdall_lab.localization.learned import inputs

MIN_HEARD = 3  # receivers that hear the signal and are never dropped
_LEVEL, _HEIGHT = (inputs.FEATURES.index(name) for name in ("level_db", "height_km"))


def generator(*key: int) -> torch.Generator:
    """Make a generator that the numbers of the key alone determine."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int) -> int:
    """Hash numbers, as a run's seed, the epoch and the batch, to a seed."""
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def drop_receivers(batch: dict[str, Tensor], chance: float, rng: torch.Generator) -> dict[str, Tensor]:
    """Remove receivers from scenes, each with the same chance.

    The reference stays, since all differences are against it, and so do three receivers that hear the signal; scenes
    with no more than these stay as they are. Positions and targets move to the centroid of the remaining receivers.

    The batch has some of `inputs.ARRAYS`, and ``heard`` (B, R) bool, ``reference`` (B, R) bool, ``target`` (B, 2) km.
    """
    present, heard = batch["present"], batch["heard"]
    drawn = torch.rand(present.shape, generator=rng)
    dropped = present & ~batch["reference"] & (drawn < chance)
    ranked_before = (dropped & heard)[:, None, :] & (drawn[:, None, :] < drawn[:, :, None])  # (B, R, R)
    spare = heard.sum(dim=1, keepdim=True) - MIN_HEARD
    dropped = dropped & (spare > 0) & (~heard | (ranked_before.sum(dim=2) < spare))
    remaining, hearing = present & ~dropped, heard & ~dropped
    shift = mean_over(batch["position"], remaining) - mean_over(batch["position"], present)  # (B, 2)
    changed = {name: zeroed(values, dropped) for name, values in batch.items() if name in inputs.ARRAYS}
    changed["position"] = (batch["position"] - shift[:, None]) * remaining[..., None]
    if "features" in changed:
        level = changed["features"][..., _LEVEL]  # (B, R)
        changed["features"][..., _LEVEL] = (level - mean_over(level[..., None], hearing)) * hearing
        # The tangent plane has moved with the centroid, and heights over it have changed.
        nearer = (batch["position"] ** 2).sum(dim=-1) - (changed["position"] ** 2).sum(dim=-1)
        changed["features"][..., _HEIGHT] += nearer / (2 * EARTH_RADIUS_KM) * remaining
    return batch | changed | {"present": remaining, "heard": hearing, "target": batch["target"] - shift}


def rotate(batch: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    """Rotate each scene, receivers and target, by a random angle, and mirror it with a chance of one half."""
    count = len(batch["target"])
    angle = 2 * math.pi * torch.rand(count, generator=rng)
    mirror = 1.0 - 2.0 * torch.randint(2, (count,), generator=rng)
    cosine, sine = angle.cos(), angle.sin()
    rows = [torch.stack([cosine, -mirror * sine], dim=1), torch.stack([sine, mirror * cosine], dim=1)]
    matrix = torch.stack(rows, dim=1)  # (B, 2, 2)
    return batch | {
        "position": batch["position"] @ matrix.transpose(1, 2),
        "target": (matrix @ batch["target"][..., None])[..., 0],
    }
