"""Signed content credentials: made, put into PNG files, and read back by C2PA's own reader."""

import io
import json
import stat
import sys

import numpy as np
import pytest
from made_up import make_cohort
from PIL import Image

from medsynth.errors import DataError
from medsynth.release import credentials
from medsynth.release.export import write_release
from medsynth.release.pictures import MADE_BY_A_MODEL, encode_png
from medsynth.release.verify import verify

c2pa = pytest.importorskip("c2pa")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A file that was absent: the key and the certificates are made here."""
    path = tmp_path_factory.mktemp("key") / "own.pem"
    credentials.signer(path)
    return path


def read(png: bytes) -> dict:
    with c2pa.Reader("image/png", io.BytesIO(png)) as reader:
        return json.loads(reader.json())


def test_a_signed_png_says_that_a_model_made_it_and_that_nothing_changed(pair):
    image = make_cohort(images=1).pixels[0]
    plain = encode_png(image, synthetic=True)
    signed = credentials.signer(pair)(plain)
    said = read(signed)
    assert said["validation_state"] in ("Valid", "Trusted")
    manifest = said["manifests"][said["active_manifest"]]
    (actions,) = [a["data"]["actions"] for a in manifest["assertions"] if "actions" in a["label"]]
    assert actions[0]["action"] == "c2pa.created"
    assert actions[0]["digitalSourceType"] == MADE_BY_A_MODEL
    with Image.open(io.BytesIO(signed)) as opened:
        assert np.array_equal(np.asarray(opened), image)
        assert "trainedAlgorithmicMedia" in opened.text["XML:com.adobe.xmp"]
    assert len(signed) - len(plain) < 10_000  # no thumbnail


def test_a_pixel_that_changed_after_signing_is_noticed(pair):
    image = make_cohort(images=1).pixels[0]
    signed = bytearray(credentials.signer(pair)(encode_png(image, synthetic=True)))
    signed[signed.rindex(b"IDAT") + 40] ^= 1
    assert read(bytes(signed))["validation_state"] == "Invalid"


def test_a_release_with_credentials_verifies_and_each_image_has_them(tmp_path, study, pair):
    write_release(tmp_path, **study, also=("webdataset",), mark=credentials.signer(pair))
    found = verify(tmp_path)
    assert found.faults == ()
    for path in sorted((tmp_path / "images").glob("*.png"))[:3]:
        assert read(path.read_bytes())["validation_state"] in ("Valid", "Trusted")


def test_a_key_that_is_made_is_its_owners_alone_and_stays(pair):
    assert stat.S_IMODE(pair.stat().st_mode) == 0o600
    before = pair.read_bytes()
    credentials.signer(pair)
    assert pair.read_bytes() == before
    assert before.count(b"BEGIN CERTIFICATE") == 2


def test_what_is_no_pair_and_a_missing_package_are_said(tmp_path, pair, monkeypatch):
    path = tmp_path / "half.pem"
    path.write_bytes(pair.read_bytes()[pair.read_bytes().index(b"-----BEGIN CERT") :])
    with pytest.raises(DataError, match=r"half\.pem must hold a private key"):
        credentials.signer(path)
    key = pair.read_bytes()
    path.write_bytes(key[: key.index(b"-----BEGIN CERT")] + b"-----BEGIN CERTIFICATE-----\nno\n")
    with pytest.raises(DataError, match=r"can't sign with half\.pem"):
        credentials.signer(path)(encode_png(make_cohort(images=1).pixels[0], synthetic=True))
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(DataError, match=r"pip install 'medsynth\[credentials\]'"):
        credentials.signer(path)
