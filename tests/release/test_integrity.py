"""Whatever is done to a byte, a name or a file of a release is found; and by whom it was signed."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from made_up import PROTOCOL, judged, make_cohort, make_findings
from test_verify import reseal

from medsynth import protocol
from medsynth.errors import DataError
from medsynth.release import signature
from medsynth.release.export import write_release
from medsynth.release.verify import verify

needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="needs ssh-keygen, the system's"
)


def make_key(folder: Path, kind: str = "ed25519") -> Path:
    path = folder / f"hospital_{kind}"
    made = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "research@hospital.example", "-f", path]
    subprocess.run(made, check=True)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A release in every format, signed where this machine can sign."""
    folder = tmp_path_factory.mktemp("whole")
    settings = protocol.parse(PROTOCOL)
    study = judged(settings, make_cohort(images=6), make_findings())
    write_release(folder, **study, also=("parquet", "webdataset", "npz", "dicom"))
    if shutil.which("ssh-keygen"):
        signature.sign(folder, make_key(tmp_path_factory.mktemp("key")))
    assert verify(folder).ok
    return folder


def test_each_of_200_random_changes_of_one_byte_is_found(whole):
    rng = random.Random(2026)
    paths = sorted(path for path in whole.rglob("*") if path.is_file())
    changed = set()
    for _ in range(200):
        path = rng.choice(paths)
        before = path.read_bytes()
        place, flip = rng.randrange(len(before)), rng.randrange(1, 256)
        path.write_bytes(before[:place] + bytes([before[place] ^ flip]) + before[place + 1 :])
        found = verify(whole)
        path.write_bytes(before)
        assert not found.ok, f"{path.name}: byte {place} changed by {flip} was not found"
        changed.add(path)
    assert len(changed) > 25  # of all kinds
    assert verify(whole).ok


@pytest.mark.parametrize("name", ["SHA256SUMS", signature.NAME])
def test_no_byte_of_what_no_checksum_covers_can_change(whole, tmp_path, name):
    if not (whole / name).exists():
        pytest.skip("needs ssh-keygen, the system's")
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("dicom", "*.tar", "*.parquet"))
    path, rng = folder / name, random.Random(7)
    assert "was changed" not in "".join(verify(folder).faults)  # only what was left out is missing
    before = path.read_bytes()
    blanks = [i for i, byte in enumerate(before) if byte in b"\n \r="]
    for place in rng.sample(blanks, min(5, len(blanks))):
        for byte in b"\n\r \x0b":
            if byte != before[place]:
                path.write_bytes(before[:place] + bytes([byte]) + before[place + 1 :])
                said = "".join(verify(folder).faults)
                assert f"{name}: " in said
    for data in (before + b"\n", before[:-1], b"\n" + before):
        path.write_bytes(data)
        assert f"{name}: " in "".join(verify(folder).faults)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def rename(path: Path) -> None:
    path.rename(path.with_name(f"x{path.name}"))


def link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target.name)


def linked_folder(path: Path) -> None:
    (path.parent / "more").symlink_to(path.parent, target_is_directory=True)


def empty_folder(path: Path) -> None:
    (path.parent / "more" / "still").mkdir(parents=True)


@pytest.mark.parametrize("do", [cut, empty, grow, rename, link, linked_folder, empty_folder])
def test_what_is_cut_grown_renamed_linked_or_put_in_is_found(whole, tmp_path, do):
    names = ["README.md", "images/syn-000002.png", "manifest.json", "dicom/syn-000001.dcm"]
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        do(folder / name)
        assert not verify(folder).ok, f"{do.__name__} of {name}"


def test_two_files_that_changed_places_are_found(whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    first, second = (folder / "images" / f"syn-00000{i}.png" for i in (1, 2))
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    assert "images/syn-000001.png: was changed" in verify(folder).faults


# The signature ----------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path) -> Path:
    place = tmp_path / "key"
    place.mkdir()
    return make_key(place)


@needs_ssh_keygen
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_signed_release_is_known_by_the_public_key(released, tmp_path, kind):
    key = make_key(tmp_path, kind)
    signature.sign(released, key)
    found = verify(released, key=key.with_suffix(".pub"))
    assert found.faults == ()
    listed = ["ssh-keygen", "-l", "-f", key.with_suffix(".pub")]
    said = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    assert said.split()[1] == found.signer
    assert verify(released).ok


@needs_ssh_keygen
def test_any_of_several_keys_in_the_file_may_have_signed(released, key, tmp_path):
    signature.sign(released, key)
    other = tmp_path / "other"
    other.mkdir()
    both = tmp_path / "both.pub"
    keys = [make_key(other, "ecdsa").with_suffix(".pub"), key.with_suffix(".pub")]
    both.write_text("# ours\n\n" + "".join(path.read_text() for path in keys))
    assert verify(released, key=both).ok


@needs_ssh_keygen
def test_another_key_a_missing_signature_and_a_resealed_release_are_each_told(
    released, key, tmp_path
):
    public = key.with_suffix(".pub")
    assert verify(released, key=public).faults == (
        "SHA256SUMS.sig: is missing, so nobody has signed this release",
    )
    other = tmp_path / "other"
    other.mkdir()
    signature.sign(released, make_key(other))
    (fault,) = verify(released, key=public).faults
    assert fault.startswith("SHA256SUMS.sig: was not made with the key in hospital_ed25519.pub")
    assert verify(released, key=other / "hospital_ed25519.pub").ok
    manifest = released / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"fundus"', '"retina"'))
    reseal(released)  # all checksums agree again
    for pub in (public, None):
        (fault,) = verify(released, key=pub).faults
        assert fault.startswith("SHA256SUMS.sig: does not fit SHA256SUMS")


@needs_ssh_keygen
def test_a_signature_for_another_purpose_does_not_count(released, key):
    sums = released / "SHA256SUMS"
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", key, sums],
        check=True, capture_output=True,
    )  # fmt: skip
    assert "does not fit" in "".join(verify(released).faults)


@needs_ssh_keygen
def test_what_is_no_key_is_said(released, key, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.write_text("no key\n")
    with pytest.raises(DataError, match="is no file"):
        signature.sign(released, tmp_path / "absent")
    with pytest.raises(DataError, match="could not sign with nothing"):
        signature.sign(released, nothing)
    assert not (released / signature.NAME).exists()
    signature.sign(released, key)
    assert "expected a public key" in "".join(verify(released, key=nothing).faults)


@needs_ssh_keygen
def test_without_ssh_keygen_only_a_key_that_must_have_signed_is_a_fault(released, key, monkeypatch):
    signature.sign(released, key)
    monkeypatch.setenv("PATH", "")
    assert verify(released).ok
    assert "needs ssh-keygen" in "".join(verify(released, key=key.with_suffix(".pub")).faults)
