"""A trained localizer with what is needed to use it again, and its file ``model.pt``."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from heimdall_lab.core.arrays import Array, batch_slices
from heimdall_lab.core.checked import first_error
from heimdall_lab.core.files import write_files
from heimdall_lab.core.text import quoted, shortened
from heimdall_lab.learning.architectures import build
from heimdall_lab.learning.architectures.layers import Localizer
from heimdall_lab.localization.learned.metadata import About

MODEL = "model.pt"  # file of a trained localizer in the folder of its run
_BATCH = 256  # scenes located at a time


@dataclass(frozen=True)
class Trained:
    """A localizer with trained weights.

    Attributes
    ----------
    architecture : str
        Of `registry.ARCHITECTURES`.
    parameters : dict
        Of the architecture, instead of its defaults.
    model : Localizer
    about : dict
        What it was trained on, as JSON values: ``data_type``, ``dataset`` (name), ``dataset_checksum``,
        ``dataset_seed``, ``sample_rate_hz``, ``config``, ``package_version``.
    """

    architecture: str
    parameters: dict[str, Any]
    model: Localizer
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """Name in leaderboards."""
        return self.architecture

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.model.parameters())

    @property
    def inputs(self) -> tuple[str, ...]:
        """Arrays of `inputs.ARRAYS` that it takes."""
        return self.model.inputs

    @property
    def window(self) -> int | None:
        """Instants of IQ that it takes; None if it takes no IQ."""
        return getattr(self.model, "window", None)

    @property
    def max_receivers(self) -> int | None:
        """Most receivers of a scene that it can tell apart; None if there is no limit."""
        return getattr(self.model, "max_receivers", None)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the law of its errors (`error_law`)."""
        return float(self.model.freedom)

    def __call__(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Locate scenes: positions (S, 2) km and Cholesky factors (S, 3) km, both float64."""
        self.model.eval()
        with torch.inference_mode():
            parts = [
                self.model({name: torch.from_numpy(arrays[name][rows]) for name in self.inputs})
                for rows in batch_slices(len(arrays["present"]), _BATCH)
            ]
        position, cholesky = (np.concatenate([part[of].numpy() for part in parts]) for of in (0, 1))
        return position.astype(np.float64), cholesky.astype(np.float64)


def save(trained: Trained, path: str | Path) -> None:
    """Write a trained localizer to a file, whole or not at all; UnwritableError if it cannot be written."""
    content = to_bytes(trained)
    write_files({Path(path): lambda temporary: temporary.write_bytes(content)}, needed_bytes=len(content))


def to_bytes(trained: Trained) -> bytes:
    """Content of the file of a trained localizer."""
    kept = {
        "architecture": trained.architecture,
        "parameters": trained.parameters,
        "about": trained.about,
        "state": trained.model.state_dict(),
    }
    content = BytesIO()
    torch.save(kept, content)
    return content.getvalue()


def read_tensors(path: str | Path) -> Any:
    """Read what ``torch.save`` wrote, after a check of its checksums; nothing in it is executed.

    Raises
    ------
    Exception
        If it is damaged; of which kind is not documented.
    """
    content = BytesIO(Path(path).read_bytes())
    with zipfile.ZipFile(content) as archive:  # torch itself compares no checksum
        if sum(member.file_size for member in archive.infolist()) > content.getbuffer().nbytes:
            raise zipfile.BadZipFile("it is compressed, as torch does not write it")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} has another checksum")
    content.seek(0)
    return torch.load(content, map_location="cpu", weights_only=True)


def load(path: str | Path) -> Trained:
    """Read a trained localizer; nothing in the file is executed.

    Raises
    ------
    ValueError
        If the file is not one of them, is damaged, or does not fit this version's architectures.
    OSError
        If it cannot be read.
    """
    named = quoted(Path(path))
    if not Path(path).is_file():
        raise FileNotFoundError(f"model: there is no file {named}; train one, or correct the path")
    try:
        kept = read_tensors(path)
    except OSError:
        raise
    except Exception as error:  # its text advises to trust the file
        raise ValueError(
            f"model: {named} is damaged or not a trained localizer ({type(error).__name__}); train it again"
        ) from error
    try:
        model = build(kept["architecture"], kept["parameters"])
        model.load_state_dict(kept["state"])
        About.model_validate_json(json.dumps(kept["about"]))
        return Trained(kept["architecture"], kept["parameters"], model.eval(), kept["about"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        about = kept.get("about") if isinstance(kept, dict) else None
        writer = about.get("package_version") if isinstance(about, dict) else None
        what, remedy = f"{version('heimdall_lab')}; {type(error).__name__}: {_reason(error)}", "train it again"
        if writer not in (None, version("heimdall_lab")):
            remedy = f"version {shortened(writer)} wrote it, use that or {remedy}"
        raise ValueError(f"model: {named} holds no localizer of this version ({what}); {remedy}") from error


def _reason(error: Exception) -> str:
    return first_error(error) if isinstance(error, ValidationError) else shortened(" ".join(str(error).split()))
