"""Files that are either whole or not there."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

FULL = 2**16
"""Bytes of free space below which a disk counts as full."""


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what is written there becomes `path` at the end, or nothing does.

    The temporary name keeps `path`'s suffix, since some writers choose the format by it.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full, whatever the writing library makes of that; it names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename in (None, name):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except Exception as error:
        # torch, safetensors and libsndfile tell a full disk in words of their own; what they have written still fills it here
        if shutil.disk_usage(path.parent).free < FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def atomic_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def shipped_weights(name: str, *, instead: str) -> Path:
    """Where the weights `name` that ship with the package lie; their hash is checked against the card beside them.

    Args:
        name: `base-small`, `vocoder-small` or `ecapa-small`.
        instead: what to do in a copy of the project that came without them, for the error.

    Raises:
        FileNotFoundError: this copy came without them.
        ValueError: the file is damaged.
    """
    folder = resources.files("gradtts_robust.shipped")
    path, card = (Path(str(folder / f"{name}{suffix}")) for suffix in (".safetensors", ".json"))
    if not path.is_file() or not card.is_file():
        raise FileNotFoundError(f"this copy of gradtts-robust has no {name}; {instead}")
    verify_hash(path, json.loads(card.read_text(encoding="utf-8"))["sha256"])
    return path


def check_folder(folder: str | os.PathLike) -> None:
    """Refuses a folder that cannot be made or written to, before anything is computed for it; makes nothing.

    Raises:
        ValueError: a file stands in its way, or its nearest parent is not ours to write to.
    """
    if not os.fspath(folder):
        raise ValueError("the name of a folder to write to is empty; give one, or `.` for this one")
    path = Path(folder).absolute()
    nearest = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not nearest.is_dir():
        raise ValueError(f"{folder}: {nearest} is no folder; choose another place to write to")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: the folder {nearest} cannot be written to; choose another one")


def check_file(path: str | os.PathLike) -> None:
    """Refuses a file that cannot be written, before anything is computed for it; makes nothing.

    Raises:
        ValueError: it is a folder or has no name, or what `check_folder` raises for the folder that it is in.
    """
    if not os.fspath(path) or Path(path).is_dir():
        raise ValueError(f"{os.fspath(path)!r} is {'a folder' if path else 'no name'}; give the name of a file to write")
    check_folder(Path(path).parent)


def verify_hash(path: str | os.PathLike, sha256: str) -> None:
    """Checks a file against its SHA-256 in hexadecimal digits; ValueError where it differs."""
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != sha256.strip().lower():
        raise ValueError(f"{path}: its SHA-256 is {found[:12]}..., not {sha256[:12]}...; the file is damaged, install it again")
