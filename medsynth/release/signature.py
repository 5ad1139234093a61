"""A release signed with a key that the hospital owns, in the format of OpenSSH.

What is signed is SHA256SUMS, and so every byte of the release. Signing and checking are done by
the system's ssh-keygen, which knows keys in files, in agents and on cards; nothing of a private
key is read here. The same is done by hand with

    ssh-keygen -Y sign -n medsynth-release -f KEY SHA256SUMS

Source: PROTOCOL.sshsig of OpenSSH.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError

SIGNED, NAME = "SHA256SUMS", "SHA256SUMS.sig"
NAMESPACE = "medsynth-release"
WHO = "data-holder"
BEGIN, END = b"-----BEGIN SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----\n"
MAGIC = b"SSHSIG"
NO_TOOL = "needs ssh-keygen (OpenSSH 8.1 or newer), which this machine has not"


def sign(folder: Path, key: Path) -> None:
    """Write SHA256SUMS.sig beside a release's SHA256SUMS.

    `key` is a private key, or a public one whose private half an agent holds; a passphrase is asked
    for on the terminal. Raises DataError where there is no such key or it can't sign.
    """
    if not key.is_file():
        raise DataError(f"--sign: expected a key made by ssh-keygen, {key.name} is no file")
    (folder / NAME).unlink(missing_ok=True)
    done = _ssh_keygen("sign", "-n", NAMESPACE, "-f", str(key), str(folder / SIGNED))
    if done.returncode or not (folder / NAME).is_file():
        raise DataError(f"--sign: ssh-keygen could not sign with {key.name}: {_last(done.stderr)}")


def faults(folder: Path, key: Path | None) -> Iterable[str]:
    """Yield what is wrong with a release's signature; `key` holds the public key that must have
    signed, one a line. Without a key a signature must fit the release, whoever made it."""
    path = folder / NAME
    if not path.exists():
        if key is not None:
            yield f"{NAME}: is missing, so nobody has signed this release"
        return
    signature = path.read_bytes()
    if (blob := _unpack(signature)) is None:
        yield f"{NAME}: is no signature as ssh-keygen writes it"
    elif (key is not None or shutil.which("ssh-keygen")) and not _fits(folder):
        yield f"{NAME}: does not fit {SIGNED}: one of them was changed after signing"
    elif key is not None and not _signed_by(folder, key):
        yield f"{NAME}: was not made with the key in {key.name}, but with {fingerprint(blob)}"


def signer(folder: Path) -> str:
    """Return the fingerprint of the key that signed a release, as ssh-keygen -l prints it; ""
    where there is no signature that can be read."""
    path = folder / NAME
    blob = _unpack(path.read_bytes()) if path.is_file() else None
    return fingerprint(blob) if blob else ""


def fingerprint(public_key: bytes) -> str:
    """Return SHA256:… of a public key's bytes."""
    digest = hashlib.sha256(public_key).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _unpack(signature: bytes) -> bytes | None:
    """Return the public key in a signature's armour; None unless every byte is as it must be."""
    body = signature.removeprefix(BEGIN).removesuffix(END)
    try:
        packed = base64.b64decode(body)
        if signature != _armour(packed) or not packed.startswith(MAGIC + b"\0\0\0\x01"):
            return None
        length = struct.unpack(">I", packed[10:14])[0]
    except (ValueError, struct.error):
        return None
    return packed[14 : 14 + length]


def _armour(packed: bytes) -> bytes:
    text = base64.b64encode(packed)
    lines = [text[start : start + 70] + b"\n" for start in range(0, len(text), 70)]
    return BEGIN + b"".join(lines) + END


def _fits(folder: Path) -> bool:
    args = ("check-novalidate", "-n", NAMESPACE, "-s", str(folder / NAME))
    return _ssh_keygen(*args, data=(folder / SIGNED).read_bytes()).returncode == 0


def _signed_by(folder: Path, key: Path) -> bool:
    lines = [line for line in key.read_text().splitlines() if line.strip() and line[0] != "#"]
    if not lines or not all(
        line.split()[0].startswith(("ssh-", "ecdsa-", "sk-")) for line in lines
    ):
        raise DataError(f"--key: expected a public key as ssh-keygen writes it, not {key.name}")
    with tempfile.TemporaryDirectory() as place:
        allowed = Path(place) / "allowed_signers"
        allowed.write_text("".join(f'{WHO} namespaces="{NAMESPACE}" {line}\n' for line in lines))
        args = ("verify", "-f", str(allowed), "-I", WHO, "-n", NAMESPACE, "-s", str(folder / NAME))
        return _ssh_keygen(*args, data=(folder / SIGNED).read_bytes()).returncode == 0


def _ssh_keygen(verb: str, *args: str, data: bytes = b"") -> subprocess.CompletedProcess:
    tool = shutil.which("ssh-keygen")
    if tool is None:
        raise DataError(f"a signature {NO_TOOL}")
    return subprocess.run([tool, "-Y", verb, *args], input=data, capture_output=True, check=False)


def _last(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].replace("\r", "") if lines else "it did not say why"
