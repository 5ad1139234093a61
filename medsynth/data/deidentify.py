"""Keyed pseudonyms: the same patient gives the same word, and without the secret no way leads back.

A plain hash of a patient's number is no pseudonym, for all numbers can be tried. The secret never
leaves the run's folder.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import uuid
from pathlib import Path
from typing import Literal

from ..errors import DataError

SECRET_BYTES = 32


def pseudonym(secret: bytes, kind: Literal["patient", "source"], value: str) -> str:
    """Return the HMAC-SHA256 of a value as 16 hex digits; `kind` keeps equal values apart."""
    message = f"medsynth\x1f{kind}\x1f{value}".encode("utf-8", "surrogatepass")  # any file's name
    return hmac.new(secret, message, hashlib.sha256).hexdigest()[:16]


def keyed_uid(secret: bytes, uid: str) -> str:
    """Return the DICOM UID, under 2.25, that stands for another one: the same for the same."""
    message = f"medsynth\x1fuid\x1f{uid}".encode()
    digest = hmac.new(secret, message, hashlib.sha256).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def read_or_make_secret(path: Path) -> bytes:
    """Read a site's secret of 32 bytes, or draw one; it is never overwritten.

    Raises DataError where the file is not 64 hex digits or where others may read it.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_secret(path)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(SECRET_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return _read_secret(path)


def _read_secret(path: Path) -> bytes:
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise DataError(f"{path.name}: other users may read the secret: chmod 600 it")
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise DataError(
            f"{path.name}: expected {2 * SECRET_BYTES} hex digits. Put the right secret back: with "
            f"another one every patient gets another pseudonym"
        )
    return secret
