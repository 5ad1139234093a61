"""`medsynth verify` as a recipient meets it: what it prints, what it ends with, what it needs."""

import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from test_integrity import make_key, needs_ssh_keygen
from typer.testing import CliRunner

from medsynth import cli
from medsynth.errors import DataError
from medsynth.release import signature


def verify(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["verify", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_an_unsigned_release_is_said_to_be_one(released):
    code, said = verify(released)
    assert code == 0
    assert "24 images, unchanged since release" in said
    assert "Nobody signed it." in said


@needs_ssh_keygen
def test_who_signed_is_told_and_a_wrong_key_ends_with_1(released, tmp_path):
    key = make_key(tmp_path)
    signature.sign(released, key)
    assert "whose key that is, --key PUB tells" in verify(released)[1]
    code, said = verify(released, "--key", f"{key}.pub")
    assert code == 0
    assert "Signed with the key in hospital_ed25519.pub, SHA256:" in said
    other = make_key(tmp_path, "ecdsa")
    code, said = verify(released, "--key", f"{other}.pub")
    assert code == 1
    assert "was not made with the key in hospital_ecdsa.pub" in said
    with pytest.raises(DataError, match="--key: expected a file with a public key"):
        verify(released, "--key", tmp_path / "absent.pub")


def test_find_names_the_image_and_says_so_where_there_is_none(released, tmp_path):
    copy = tmp_path / "copy.jpg"
    Image.open(released / "images" / "syn-000009.png").save(copy, quality=60)
    code, said = verify(released, "--find", copy)
    assert code == 0
    assert said.startswith("syn-000009: the same picture (")
    other = tmp_path / "other.png"
    Image.effect_noise((64, 64), 80).save(other)
    assert "None of the released images" in verify(released, "--find", other)[1]
    found = json.loads(verify(released, "--find", other, "--json")[1])
    assert (found["found"], found["matches"]) == (False, [])
    assert found["nearest"] > 32


def test_verify_and_find_need_neither_torch_nor_highdicom(released, tmp_path):
    shutil.copy(released / "images" / "syn-000002.png", tmp_path / "x.png")
    blocked = ("torch", "monai", "diffusers", "highdicom", "c2pa", "pyarrow")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from medsynth.cli import app\n"
        f"for more in ([], ['--find', {str(tmp_path / 'x.png')!r}]):\n"
        f"    app(['verify', {str(released)!r}, *more], standalone_mode=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "unchanged since release" in done.stdout
    assert "syn-000002: the same picture (0 of 255 bits differ)" in done.stdout
