"""Content credentials (C2PA) in released PNG files: signed marks that common viewers show.

They say that a generative model made the image, and are signed with a certificate of the
hospital's, or with one that is made here. A viewer knows a certificate of the first kind by who
issued it; one that was made here proves no more than that nothing changed since.
Source: C2PA 2.1, sections 14.5 (certificates) and 18.16 (actions). Needs c2pa-python.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

from .. import __version__
from ..errors import DataError
from .pictures import MADE_BY_A_MODEL

MISSING = (
    "credentials need c2pa-python, which is not installed: pip install 'medsynth[credentials]'"
)
NAME = "medsynth release"
DAYS = 3650
SETTINGS = {"builder": {"thumbnail": {"enabled": False}}}  # they would be larger than images


def signer(path: Path) -> Callable[[bytes], bytes]:
    """Return what puts credentials into a PNG's bytes, signed with the key in a PEM file.

    The file holds a private key on the curve P-256, unencrypted, and after it its certificate and
    those of who issued it; where it is absent it is made. Raises DataError where c2pa-python is not
    installed or the file is no such pair.
    """
    c2pa = _c2pa()
    if not path.exists():
        _write_for_owner(path, make_pair())
    pem = path.read_bytes()
    start = pem.find(b"-----BEGIN CERTIFICATE-----")
    if b"PRIVATE KEY-----" not in pem[: max(start, 0)]:
        raise DataError(
            f"--credentials: {path.name} must hold a private key (PEM), and its certificates after "
            f"it"
        )
    info = c2pa.C2paSignerInfo(
        alg=b"es256", sign_cert=pem[start:], private_key=pem[:start], ta_url=None
    )
    context = c2pa.Context.from_dict(SETTINGS)

    def sign(png: bytes) -> bytes:
        signed = io.BytesIO()
        try:
            with (
                c2pa.Signer.from_info(info) as key,
                c2pa.Builder(json.dumps(_manifest()), context) as made,
            ):
                made.sign(key, "image/png", io.BytesIO(png), signed)
        except c2pa.C2paError as error:
            raise DataError(f"--credentials: can't sign with {path.name}: {error}") from None
        return signed.getvalue()

    return sign


def _write_for_owner(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _c2pa():
    try:
        import c2pa
    except ImportError:
        raise DataError(MISSING) from None
    return c2pa


def _manifest() -> dict:
    agent = {"name": "medsynth", "version": __version__}
    created = {
        "action": "c2pa.created",
        "softwareAgent": agent,
        "digitalSourceType": MADE_BY_A_MODEL,
    }
    return {
        "claim_generator_info": [agent],
        "title": "Synthetic image, not for clinical use",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def make_pair() -> bytes:
    """Return a new key and its certificates as PEM: its own, and that of an issuer whose key is
    thrown away."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    issuer, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    certificates = [
        _certificate(own.public_key(), NAME, issuer, f"{NAME}, issuer", ca=False),
        _certificate(issuer.public_key(), f"{NAME}, issuer", issuer, f"{NAME}, issuer", ca=True),
    ]
    key = own.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = serialization.Encoding.PEM
    return key + b"".join(certificate.public_bytes(pem) for certificate in certificates)


def _certificate(public_key, name: str, issuer_key, issuer: str, *, ca: bool):
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(words: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "made by medsynth"),
                x509.NameAttribute(NameOID.COMMON_NAME, words),
            ]
        )

    now = datetime.datetime.now(datetime.UTC)
    no = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    usage = x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **no)
    identifier = x509.SubjectKeyIdentifier.from_public_key
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    built = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier(public_key), critical=False)
        .add_extension(authority, critical=False)
    )
    if not ca:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        built = built.add_extension(purpose, critical=False)
    return built.sign(issuer_key, hashes.SHA256())
