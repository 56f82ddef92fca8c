"""Changes of training scenes that leave their physics as it is: receivers lost, the plane turned or mirrored."""

import math
from hashlib import blake2b

import torch
from torch import Tensor

from heimdall_lab.core.units import EARTH_RADIUS_KM
from heimdall_lab.localization.learned import inputs

FEWEST_HEARD = 3  # receivers that hear the signal and are never lost
_LEVEL, _HEIGHT = (inputs.FEATURES.index(name) for name in ("level_db", "height_km"))


def generator(*key: int) -> torch.Generator:
    """Make a generator that the numbers of the key alone determine."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int) -> int:
    """Hash numbers, as a run's seed, the epoch and the batch, to a seed."""
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def lose_receivers(batch: dict[str, Tensor], chance: float, source: torch.Generator) -> dict[str, Tensor]:
    """Take receivers out of scenes, each with the same chance.

    The reference stays, since all differences are against it, and so do three receivers that hear the signal; scenes
    that have no more are left alone. Positions and targets move to the centroid of the receivers that remain.

    Parameters
    ----------
    batch : dict of str to Tensor
        Of `inputs.KINDS`, with ``heard`` (B, R) bool, ``reference`` (B, R) bool and ``target`` (B, 2) km.
    chance : float
    source : torch.Generator

    Returns
    -------
    dict of str to Tensor
    """
    present, heard = batch["present"], batch["heard"]
    drawn = torch.rand(present.shape, generator=source)
    lost = present & ~batch["reference"] & (drawn < chance)
    rivals = (lost & heard)[:, None, :] & (drawn[:, None, :] < drawn[:, :, None])  # (B, R, R)
    spare = heard.sum(dim=1, keepdim=True) - FEWEST_HEARD
    lost = lost & (spare > 0) & (~heard | (rivals.sum(dim=2) < spare))
    remaining, hearing = present & ~lost, heard & ~lost
    shift = _mean(batch["position"], remaining) - _mean(batch["position"], present)  # (B, 1, 2)
    changed = {name: _without(values, lost) for name, values in batch.items() if name in inputs.KINDS}
    changed["position"] = (batch["position"] - shift) * remaining[..., None]
    if "features" in changed:
        level = changed["features"][..., _LEVEL, None]  # (B, R, 1)
        changed["features"][..., _LEVEL] = ((level - _mean(level, hearing)) * hearing[..., None])[..., 0]
        # The plane now touches the Earth elsewhere, and heights over it are others.
        nearer = (batch["position"] ** 2).sum(dim=-1) - (changed["position"] ** 2).sum(dim=-1)
        changed["features"][..., _HEIGHT] += nearer / (2 * EARTH_RADIUS_KM) * remaining
    return batch | changed | {"present": remaining, "heard": hearing, "target": batch["target"] - shift[:, 0]}


def turn(batch: dict[str, Tensor], source: torch.Generator) -> dict[str, Tensor]:
    """Turn every scene by an angle of its own, and mirror every other one: receivers and target alike."""
    count = len(batch["target"])
    angle = 2 * math.pi * torch.rand(count, generator=source)
    mirror = 1.0 - 2.0 * torch.randint(2, (count,), generator=source)
    cosine, sine = angle.cos(), angle.sin()
    rows = [torch.stack([cosine, -mirror * sine], dim=1), torch.stack([sine, mirror * cosine], dim=1)]
    matrix = torch.stack(rows, dim=1)  # (B, 2, 2)
    return batch | {
        "position": batch["position"] @ matrix.transpose(1, 2),
        "target": (matrix @ batch["target"][..., None])[..., 0],
    }


def _mean(values: Tensor, of: Tensor) -> Tensor:
    """Mean of values (B, R, K) over some of the receivers (B, R), (B, 1, K)."""
    count = of.sum(dim=1).clamp(min=1)[:, None, None]
    return (values * of[..., None]).sum(dim=1, keepdim=True) / count


def _without(values: Tensor, lost: Tensor) -> Tensor:
    """A copy of values (B, R, …) with 0 where a receiver is lost."""
    return values.masked_fill(lost.reshape(*lost.shape, *(1,) * (values.ndim - 2)), 0)
