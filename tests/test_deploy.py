"""What docs/deploy holds does what it says, as far as a machine without a cluster can tell."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
SWITCHES = ("HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "DO_NOT_TRACK=1")


# Containers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Dockerfile", "medsynth.def"])
def test_a_container_is_pinned_offline_and_takes_in_no_data(name):
    text = (DEPLOY / name).read_text()
    bases = re.findall(r"^(?:FROM|From:) (\S+)", text, re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:3\.1\d\.\d+-slim-\w+", base) for base in bases)
    assert all(switch in text for switch in SWITCHES)
    assert "--network none" in text
    assert "constraints.txt" in text
    assert not re.search(r"curl|wget|ADD |COPY \. |trusted-host|latest", text)
    extras = re.findall(r"/src\[([\w,]+)\]", text)[0].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= project["optional-dependencies"].keys()


def test_the_docker_image_runs_as_nobody_in_particular():
    text = (DEPLOY / "Dockerfile").read_text()
    last = text[text.rindex("\nFROM ") :]
    user = re.search(r"^USER (\d+):(\d+)$", last, re.MULTILINE)
    assert int(user[1]) > 0
    assert last.index("useradd") < last.index("USER ") < last.index("ENTRYPOINT")
    assert 'exec medsynth "$@"' in (DEPLOY / "medsynth.def").read_text()


def taken_in(name: str) -> list[str]:
    """The files and folders of the checkout that a recipe takes in."""
    text = (DEPLOY / name).read_text()
    if name == "medsynth.def":
        return re.findall(r"^    (\S+) /src/\S*$", text, re.MULTILINE)
    lines = re.findall(r"^COPY (?!--)(.+) /src/\S*$", text, re.MULTILINE)
    return [word for line in lines for word in line.split()]


def test_both_containers_take_in_the_same():
    assert taken_in("Dockerfile") == taken_in("medsynth.def")


# Without a network ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inside(tmp_path_factory) -> Path:
    """An environment that install.sh made with the network closed, from a wheel that was built
    of just what the containers take in. What medsynth needs is lent by this environment."""
    pytest.importorskip("hatchling")
    place = tmp_path_factory.mktemp("inside")
    source, house = place / "src", place / "house"
    for name in (source, house, place / "lent"):
        name.mkdir()
    for name in taken_in("Dockerfile"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", house, source], check=True, env=closed(place))
    (wheel,) = house.glob("medsynth-*.whl")
    said = subprocess.check_output(["sha256sum", wheel.name], cwd=house, text=True)
    (house / "SHA256SUMS").write_text(said)
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "medsynth" not in path.name and path.suffix != ".pth":
            (place / "lent" / path.name).symlink_to(path)
    env, python = place / "env", place / "python"
    python.write_text(  # makes an environment that sees what is lent, pip as well
        f'#!/bin/sh\nset -e\n{sys.executable} "$@" --without-pip\n'
        f'echo {place}/lent >"$(echo "$3"/lib/python*/site-packages)/lent.pth"\n'
    )
    python.chmod(0o755)
    call(place, "sh", DEPLOY / "install.sh", house, env, PYTHON=str(python))
    return env


def closed(place: Path) -> dict[str, str]:
    """Variables under which no Python of this test can open a connection."""
    guard = place / "guard"
    guard.mkdir(exist_ok=True)
    (guard / "sitecustomize.py").write_text(
        "import sys\n"
        "def no(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        raise RuntimeError('the network is closed')\n"
        "sys.addaudithook(no)\n"
    )
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": str(guard), "OMP_NUM_THREADS": "1", "PIP_NO_INPUT": "1"}


def call(place: Path, *words: object, **more: str) -> str:
    """Run a command without a network, also in a namespace without one where that is allowed."""
    apart = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    command = ["unshare", "-rn"] if apart.returncode == 0 else []
    done = subprocess.run(
        [*command, *map(str, words)], env=closed(place) | more, text=True, cwd=place,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_install_without_a_network_is_of_the_wheel(inside):
    where = "import medsynth; print(medsynth.__file__)"
    assert str(inside) in call(inside.parent, inside / "bin" / "python", "-c", where)


def test_help_and_protocols_are_there(inside):
    assert "Exit codes" in call(inside.parent, inside / "bin" / "medsynth", "--help")
    (shipped,) = inside.glob("lib/python*/site-packages/medsynth/protocols/demo.yaml")
    assert "# digest" in call(inside.parent, inside / "bin" / "medsynth", "protocol", shipped)


def test_a_release_is_verified_there(inside, tmp_path):
    from release.made_up import PROTOCOL, judged, make_cohort, make_findings

    from medsynth import protocol
    from medsynth.release.export import write_release

    write_release(tmp_path, **judged(protocol.parse(PROTOCOL), make_cohort(), make_findings()))
    said = call(inside.parent, inside / "bin" / "medsynth", "verify", tmp_path)
    assert "24 images, unchanged" in said


def test_a_wheel_that_was_changed_on_the_way_is_not_installed(inside):
    house = inside.parent / "changed"
    shutil.copytree(inside.parent / "house", house)
    (wheel,) = house.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    script = ["sh", DEPLOY / "install.sh", house, inside.parent / "other"]
    assert subprocess.run(script, capture_output=True, check=False).returncode != 0
    assert not (inside.parent / "other").exists()


# SLURM ------------------------------------------------------------------------------------------

STUBS = {
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": 'echo "$@" >>"$CALLS"; [ "$1" != show ] || printf "node7\\nnode8\\n"',
    "python": (
        'echo "$@" >>"$CALLS"; env >"$CALLS.env"; umask >"$CALLS.umask"\n'
        'trap "echo stopped >>$CALLS; exit 143" TERM\n'
        '[ -e "$CALLS.again" ] && exit 3\n'
        'touch "$CALLS.again"; sleep 60 & wait'
    ),
}


@pytest.fixture
def job(tmp_path):
    """Return a function that starts a job as SLURM would, on a machine of stubs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in STUBS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    def start(script: str, *, gpus: int = 1) -> subprocess.Popen:
        given = {
            "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"),
            "MEDSYNTH_PYTHON": "python", "SLURM_JOB_ID": "4711", "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_ON_NODE": str(gpus),
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", DEPLOY / script, "study.yaml", "my images", "run"], env=given, cwd=tmp_path
        )

    start.calls = lambda: (tmp_path / "calls").read_text().splitlines()
    start.said = lambda what: (tmp_path / f"calls.{what}").read_text()
    start.begun = tmp_path / "calls.again"
    return start


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise TimeoutError(path.name)


def test_a_job_whose_time_is_over_stops_asks_for_another_turn_and_goes_on(job):
    first = job("one_node.sbatch")
    wait_for(job.begun)
    time.sleep(0.3)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(timeout=60) == 0
    run = "-m medsynth run study.yaml my images run"
    assert job.calls() == [run, "stopped", "requeue 4711"]
    assert job("one_node.sbatch").wait(timeout=60) == 3  # what the gate said is the job's end
    assert job.calls()[3:] == [run]


def test_a_job_tells_libraries_to_stay_offline_and_shares_out_its_cores(job):
    job.begun.touch()
    assert job("one_node.sbatch", gpus=4).wait(timeout=60) == 3
    assert {*SWITCHES, "OMP_NUM_THREADS=4"} <= set(job.said("env").splitlines())
    assert job.said("umask").strip() == "0077"
    (called,) = job.calls()
    assert called.startswith("-m torch.distributed.run --standalone --nproc-per-node 4 -m medsynth")


def test_several_nodes_meet_at_the_first_one(job):
    job.begun.touch()
    assert job("several_nodes.sbatch", gpus=4).wait(timeout=60) == 3
    asked, called = job.calls()
    assert asked == "show hostnames node[7-8]"
    assert "--nnodes 2 --nproc-per-node 4" in called
    assert "--rdzv-endpoint node7:24711 --rdzv-id 4711" in called


@pytest.mark.parametrize("script", ["one_node.sbatch", "several_nodes.sbatch"])
def test_a_job_asks_for_another_turn_early_enough(script):
    asked = re.findall(r"^#SBATCH (\S+)", (DEPLOY / script).read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@300"} <= set(asked)
