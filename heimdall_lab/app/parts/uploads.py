"""Uploaded files: a button that limits their size, and a folder that holds them until they are read."""

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import panel_material_ui as pmui

from heimdall_lab.core.text import quoted

_NAME = re.compile(r"[^/\\\x00-\x1f]+")  # colons, as of times, are there in the names of recordings
_MAX_AGE_S = 86_400.0

Files = dict[str, bytearray]


def safe_name(name: str) -> str:
    """Return an uploaded file's name if it stays in the folder that it is put into, else raise ValueError."""
    if not _NAME.fullmatch(name) or name in (".", "..") or len(name.encode()) > 255:
        raise ValueError(f"file name: {quoted(name)} is refused: it is no plain name of a file; rename the file")
    return name


class UploadFolder:
    """A temporary folder below ``root/uploads``, made when the first files come."""

    def __init__(self, root: Path) -> None:
        self._parent = root / "uploads"
        self.folder: Path | None = None

    def replace(self, files: Files) -> list[Path]:
        """Remove the earlier files and write these; OSError if they cannot be written."""
        self.clear()
        self._parent.mkdir(parents=True, exist_ok=True)
        self._remove_old()
        self.folder = Path(tempfile.mkdtemp(dir=self._parent))
        paths = [self.folder / safe_name(name) for name in sorted(files)]
        for path in paths:
            path.write_bytes(files[path.name])
        return paths

    def clear(self) -> None:
        """Remove the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def _remove_old(self) -> None:
        """Remove folders that a killed server left behind."""
        for folder in self._parent.iterdir():
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > _MAX_AGE_S:
                    shutil.rmtree(folder, ignore_errors=True)


class FileInput(pmui.FileInput):
    """A button for files; they come in pieces, and are accepted or refused together.

    ``on_files`` takes the content of every file by its name. ``on_error`` takes the message where a name is refused, or
    where the files exceed ``limit_bytes`` together; ``remedy`` says what to do with those.
    """

    def __init__(
        self,
        on_files: Callable[[Files], None],
        on_error: Callable[[str], None],
        limit_bytes: int,
        remedy: str,
        **params: Any,
    ) -> None:
        # A single file above the limit is refused before it travels; the browser's own sum counts files twice.
        super().__init__(max_file_size=limit_bytes, **params)
        self._files_callback, self._error_callback = on_files, on_error
        self._limit_bytes, self._remedy = limit_bytes, remedy
        self._contents: dict[str, bytearray] = {}
        self._error = ""

    def _handle_msg(self, msg: dict[str, Any]) -> None:
        """Follow the browser's protocol: initializing, pieces of each file in order, finished or error."""
        status = msg["status"]
        if status == "initializing":
            self._contents, self._error = {}, ""
        elif status == "upload_event":
            self._append(msg["name"], bytes(msg["data"]))
        elif status == "error":
            self._error_callback(
                self._too_large() if "exceed" in msg["error"] else f"upload: {msg['error']}; try again"
            )
        elif status == "finished":
            files, self._contents = self._contents, {}
            self._send_msg({"status": "error", "error": self._error} if self._error else {"status": "finished"})
            if self._error:
                self._error_callback(self._error)
            else:
                self._files_callback(files)

    def _append(self, name: str, piece: bytes) -> None:
        if self._error:
            return
        try:
            self._contents.setdefault(safe_name(name), bytearray()).extend(piece)
        except ValueError as error:
            self._error = str(error)
        if sum(map(len, self._contents.values())) > self._limit_bytes:
            self._error = self._too_large()
        if self._error:
            self._contents = {}

    def _too_large(self) -> str:
        return f"upload: the files are larger than {self._limit_bytes / 1e6:g} MB together; {self._remedy}"
