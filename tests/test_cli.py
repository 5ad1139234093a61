"""The command line as a person or a program meets it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TEXT, torchrun, write_raw
from typer.testing import CliRunner

from medsynth import cli
from medsynth.errors import MedsynthError

COMMANDS = (
    "audit",
    "demo",
    "run",
    "init",
    "protocol",
    "ingest",
    "split",
    "fit",
    "sample",
    "validate",
    "findings",
    "decide",
    "release",
    "report",
    "verify",
    "doctor",
)


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "medsynth", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def protocol_file(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_speaks_json(command):
    result = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--json" in result.output


def test_help_loads_nothing_heavy():
    code = (
        "import sys, medsynth.cli; heavy = {'torch', 'monai', 'diffusers', 'pandas', 'numpy', "
        "'pydantic'} & set(sys.modules); sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_use_exits_with_2():
    assert call("run").returncode == 2
    assert call("no-such-command").returncode == 2


def test_faulty_protocol_exits_with_1_and_lists_every_fault(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\ndomain: nose\nimage: {size_px: 63}\n")
    result = call("protocol", str(path))
    assert result.returncode == 1
    assert "line 2: domain" in result.stderr
    assert "line 3: image.size_px" in result.stderr
    assert "gate: is required" in result.stderr
    assert "Traceback" not in result.stderr


def test_error_is_json_where_json_was_asked_for(tmp_path):
    result = call("protocol", str(tmp_path / "absent.yaml"), "--json")
    assert result.returncode == 1
    assert "no such file" in json.loads(result.stdout)["error"]


def test_protocol_prints_the_resolved_one_and_its_digest(protocol_file):
    result = call("protocol", str(protocol_file), "--json", "--set", "sample.steps=9")
    said = json.loads(result.stdout)
    assert said["protocol"]["sample"]["steps"] == 9
    assert said["protocol"]["split"]["holdout"] == 0.4
    assert len(said["digest"]) == 64


def test_change_without_a_value_is_refused(protocol_file):
    result = call("protocol", str(protocol_file), "--set", "sample.steps")
    assert result.returncode == 1
    assert "expected KEY=VALUE" in result.stderr


def test_init_writes_a_protocol_that_a_person_must_finish(tmp_path):
    write_raw(tmp_path / "raw", patients=10)
    result = call("init", "raw", "-o", "study.yaml", cwd=tmp_path)
    assert result.returncode == 0
    assert "10 patients" in result.stdout
    unfinished = call("protocol", "study.yaml", cwd=tmp_path)
    assert unfinished.returncode == 1
    assert "gate: is required" in unfinished.stderr
    assert call("init", "raw", "-o", "study.yaml", cwd=tmp_path).returncode == 1


def test_stages_one_by_one_say_what_they_did(tmp_path, protocol_file):
    write_raw(tmp_path / "raw", patients=20)
    run = tmp_path / "run"
    ingested = call("ingest", str(protocol_file), str(tmp_path / "raw"), str(run), "--json")
    assert json.loads(ingested.stdout)["images"] == 40
    divided = json.loads(call("split", str(run), "--json").stdout)
    assert divided["parts"]["holdout"]["patients"] == 8
    too_early = call("sample", str(run))
    assert too_early.returncode == 1
    assert "needs the folder autoencoder/" in too_early.stderr


def test_too_many_bad_files_stop_the_run_with_exit_1_and_a_list(tmp_path, protocol_file):
    write_raw(tmp_path / "raw", patients=3, bad_files=4)
    result = call("ingest", str(protocol_file), str(tmp_path / "raw"), str(tmp_path / "run"))
    assert result.returncode == 1
    assert "quarantine.csv" in result.stderr
    listed = next((tmp_path / "run").glob("intake*/quarantine.csv")).read_text()
    assert len(listed.splitlines()) == 5


def test_verify_of_a_folder_that_is_no_release_exits_with_1(tmp_path):
    assert call("verify", str(tmp_path)).returncode == 1


def test_doctor_names_what_this_machine_has():
    said = json.loads(call("doctor", "--json").stdout)
    assert {"gpu", "DICOM codecs", "torch", "free disk"} <= set(said)
    assert said["faults"] == []


@pytest.mark.parametrize("error", MedsynthError.__subclasses__())
def test_every_error_has_an_exit_code(error):
    assert error.exit_code in (1, 3)


def fails(run):
    raise MedsynthError("it failed")


STOPPED = "stopped; the same command goes on from here"


@pytest.mark.parametrize(
    ("meets", "said"),
    [(fails, "it failed"), (lambda run: signal.raise_signal(signal.SIGTERM), STOPPED)],
)
def test_a_command_that_is_told_twice_to_end_says_how_to_go_on(monkeypatch, capsys, meets, said):
    """torchrun tells a process to end that may be ending already, by an error of its own."""
    monkeypatch.setattr("medsynth.pipeline.open_run", meets)
    monkeypatch.setattr(sys, "argv", ["medsynth", "fit", "run"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 1
    assert capsys.readouterr().err.strip() == f"medsynth: {said}"


def test_two_processes_do_the_whole_way_together(tmp_path, protocol_file):
    raw, run = write_raw(tmp_path / "raw"), tmp_path / "run"
    result = torchrun("-m", "medsynth", "run", str(protocol_file), str(raw), str(run), "--json")
    verdict = json.loads((run / "verdict.json").read_text())
    assert result.returncode in (0, 1), result.stderr[-2000:]  # torchrun turns a refusal into 1
    assert (run / "release").exists() == (verdict["outcome"] == "passed")
    assert not list(run.glob("*.tmp"))
    assert not (run / "evidence" / "blocks").exists()
