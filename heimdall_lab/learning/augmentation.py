"""Augmentation of training scenes that keeps their physics: receivers dropped, the plane rotated or mirrored."""

import math
from hashlib import blake2b

import torch
from torch import Tensor

from heimdall_lab.core.units import EARTH_RADIUS_KM
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

    Parameters
    ----------
    batch : dict of str to Tensor
        Of `inputs.KINDS`, with ``heard`` (B, R) bool, ``reference`` (B, R) bool and ``target`` (B, 2) km.
    chance : float
    rng : torch.Generator

    Returns
    -------
    dict of str to Tensor
    """
    present, heard = batch["present"], batch["heard"]
    drawn = torch.rand(present.shape, generator=rng)
    dropped = present & ~batch["reference"] & (drawn < chance)
    ranked_before = (dropped & heard)[:, None, :] & (drawn[:, None, :] < drawn[:, :, None])  # (B, R, R)
    spare = heard.sum(dim=1, keepdim=True) - MIN_HEARD
    dropped = dropped & (spare > 0) & (~heard | (ranked_before.sum(dim=2) < spare))
    remaining, hearing = present & ~dropped, heard & ~dropped
    shift = _mean(batch["position"], remaining) - _mean(batch["position"], present)  # (B, 1, 2)
    changed = {name: _zeroed(values, dropped) for name, values in batch.items() if name in inputs.KINDS}
    changed["position"] = (batch["position"] - shift) * remaining[..., None]
    if "features" in changed:
        level = changed["features"][..., _LEVEL, None]  # (B, R, 1)
        changed["features"][..., _LEVEL] = ((level - _mean(level, hearing)) * hearing[..., None])[..., 0]
        # The tangent plane has moved with the centroid, and heights over it have changed.
        nearer = (batch["position"] ** 2).sum(dim=-1) - (changed["position"] ** 2).sum(dim=-1)
        changed["features"][..., _HEIGHT] += nearer / (2 * EARTH_RADIUS_KM) * remaining
    return batch | changed | {"present": remaining, "heard": hearing, "target": batch["target"] - shift[:, 0]}


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


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B, R, K) over the receivers of a mask (B, R), (B, 1, K)."""
    count = mask.sum(dim=1).clamp(min=1)[:, None, None]
    return (values * mask[..., None]).sum(dim=1, keepdim=True) / count


def _zeroed(values: Tensor, dropped: Tensor) -> Tensor:
    """A copy of values (B, R, …) with 0 where a receiver is dropped."""
    return values.masked_fill(dropped.reshape(*dropped.shape, *(1,) * (values.ndim - 2)), 0)
