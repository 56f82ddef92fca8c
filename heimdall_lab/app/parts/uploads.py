"""Uploads that are refused in words where they are too large, and file names that stay in their folder."""

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import panel_material_ui as pmui

_NAME = re.compile(r'[^/\\:*?"<>|\x00-\x1f]+')
_OLD_S = 86_400.0

Files = dict[str, bytearray]


def safe_name(name: str) -> str:
    """Return the name of an uploaded file if it stays in the folder that it is put into.

    Raises
    ------
    ValueError
        If it is no plain name of a file.
    """
    if not _NAME.fullmatch(name) or name in (".", "..") or len(name.encode()) > 255:
        raise ValueError(f"file name: {name!r} is refused: it is no plain name of a file; rename the file")
    return name


class Shelf:
    """A folder below ``root/uploads`` for files until they are read; it is made when the first ones come."""

    def __init__(self, root: Path) -> None:
        self._above = root / "uploads"
        self.folder: Path | None = None

    def put(self, files: Files) -> list[Path]:
        """Write files in the place of those that were there.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        self.clear()
        self._above.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self.folder = Path(tempfile.mkdtemp(dir=self._above))
        paths = [self.folder / safe_name(name) for name in sorted(files)]
        for path in paths:
            path.write_bytes(files[path.name])
        return paths

    def clear(self) -> None:
        """Remove the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def _sweep(self) -> None:
        """Remove what a server that was killed left behind."""
        for folder in self._above.iterdir():
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > _OLD_S:
                    shutil.rmtree(folder, ignore_errors=True)


class FileInput(pmui.FileInput):
    """A button for files, which come in pieces and are handed over together, or refused together.

    Parameters
    ----------
    received : callable
        Takes the content of every file by its name.
    refused : callable
        Takes the message where the files are too large together, or one of their names is refused.
    limit_bytes : int
        Most bytes of all files together.
    remedy : str
        What to do with larger ones.
    """

    def __init__(
        self,
        received: Callable[[Files], None],
        refused: Callable[[str], None],
        limit_bytes: int,
        remedy: str,
        **params: Any,
    ) -> None:
        # A single file above the limit is refused before it travels; the browser's own sum counts files twice.
        super().__init__(max_file_size=limit_bytes, **params)
        self._received, self._refused = received, refused
        self._limit_bytes, self._remedy = limit_bytes, remedy
        self._arrived: dict[str, bytearray] = {}
        self._message = ""

    def _handle_msg(self, msg: dict[str, Any]) -> None:
        """Follow the protocol of the browser's side: initializing, pieces of each file in order, finished or error."""
        status = msg["status"]
        if status == "initializing":
            self._arrived, self._message = {}, ""
        elif status == "upload_event":
            self._take(msg["name"], bytes(msg["data"]))
        elif status == "error":
            self._refused(self._too_large() if "exceed" in msg["error"] else f"upload: {msg['error']}; try again")
        elif status == "finished":
            files, self._arrived = self._arrived, {}
            self._send_msg({"status": "error", "error": self._message} if self._message else {"status": "finished"})
            if self._message:
                self._refused(self._message)
            else:
                self._received(files)

    def _take(self, name: str, piece: bytes) -> None:
        if self._message:
            return
        try:
            self._arrived.setdefault(safe_name(name), bytearray()).extend(piece)
        except ValueError as error:
            self._message = str(error)
        if sum(map(len, self._arrived.values())) > self._limit_bytes:
            self._message = self._too_large()
        if self._message:
            self._arrived = {}

    def _too_large(self) -> str:
        return f"upload: the files are larger than {self._limit_bytes / 1e6:g} MB together; {self._remedy}"
