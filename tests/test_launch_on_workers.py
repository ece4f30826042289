"""What launch runs on the workers, in a real bash with a home folder of its own; nothing is installed or trained."""

import os
import pathlib
import shlex
import subprocess

import pytest

from slm_jax import launch


class Worker:
    """A worker's home folder, and a bash in it; its Python for training waits for a word before it ends.

    The one that installs only notes what it is asked.
    """

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.folder = home / "slm_jax_run"
        (self.folder / "env" / "bin").mkdir(parents=True)
        os.mkfifo(home / "word")
        noted = f'printf "%s\\n" "$@" >>{shlex.quote(str(home))}'
        self.program("slm_jax_run/env/bin/python", f'echo began; {noted}/given; read word <"$HOME/word"; exit $word')
        self.program("bin/python3", f"{noted}/asked")

    def program(self, path: str, line: str) -> None:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n{line}\n")
        file.chmod(0o755)

    def bash(self, line: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.home / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {"HOME": str(self.home), "TMPDIR": str(self.home), "PATH": path}
        return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=60)

    def say(self, word: str) -> None:
        (self.home / "word").write_text(word + "\n")


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path / "home of a worker")
    yield worker
    worker.bash(launch.STOP)


def test_on_a_worker_a_run_outlives_the_connection_and_leaves_its_exit_code(worker):
    flags = ("--gin.A='it''s'", '--gin.B="$HOME `date`"', "--gin_file=a b.gin")
    for _ in range(2):  # gcloud repeats a command whose connection broke
        assert worker.bash(launch.start_command(flags)).returncode == 0
    busy = worker.bash(f"{launch.REFUSE_IF_BUSY}; touch ~/installed")
    assert busy.returncode == 1
    assert "something is running here" in busy.stderr
    assert not (worker.home / "installed").exists()
    worker.say("7")
    heard = worker.bash(launch.FOLLOW).stdout.splitlines()
    assert heard == ["began", f"{launch.END_MARK} 7"], "begun once"
    assert (worker.home / "given").read_text().splitlines() == ["-m", "slm_jax.train", *flags]
    assert worker.bash(launch.FOLLOW).stdout.splitlines() == heard


def test_on_a_worker_a_run_that_is_stopped_has_no_exit_code(worker):
    assert worker.bash(launch.FOLLOW).stdout == f"{launch.END_MARK} none\n"
    (worker.folder / "exit_code").write_text("0\n")  # of a run before
    worker.bash(launch.start_command(("--gin_file=a.gin",)))
    assert worker.bash(launch.STOP).returncode == 0
    assert worker.bash(launch.FOLLOW).stdout == f"{launch.END_MARK} none\n"
    assert worker.bash(launch.REFUSE_IF_BUSY).returncode == 0


def test_on_a_worker_the_package_is_installed_from_its_home_folder(worker):
    settings = dict(constraints="locks/my pins.lock", setup="echo data >~/data", take_over=False)
    assert worker.bash(launch.install_command("dist/slm jax.whl", **settings)).returncode == 0
    asked = (worker.home / "asked").read_text().splitlines()
    assert asked[-2:] == [
        f"--constraints={worker.home}/my pins.lock",
        f"slm_jax[tpu] @ file://{worker.home}/slm jax.whl",
    ]
    assert [asked.count(word) for word in ("pip", "uv", "venv")] == [2, 2, 1]
    assert (worker.home / "data").read_text() == "data\n"


def test_on_a_worker_an_installation_that_fails_is_told(worker):
    worker.program("bin/python3", "exit 4")
    line = launch.install_command(
        "git+https://example.org/slm_jax@1", constraints=None, setup="touch ~/data; true", take_over=True
    )
    assert worker.bash(line).returncode == 4
    assert not (worker.home / "data").exists()
