r"""Runs an experiment on a slice of Cloud TPU, and goes on when the slice is taken away. docs/tpu.md is the guide.

    python -m slm_jax.launch run --name=mine --zone=us-west4-a --accelerator_type=v5litepod-16 --capacity=spot \
        --package=dist/slm_jax-0.1.0-py3-none-any.whl -- \
        --gin_file=experiments/own_recordings.gin --gin.MODEL_DIR="'gs://bucket/mine'"

`up` creates the slice and installs the package on all its workers; `run` does that too, then trains; `logs`, `status`
and `delete` do what they say. What follows `--` goes to slm_jax.train as it is. --dry_run prints the commands instead.
"""

import argparse
import dataclasses
import pathlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence

from slm_jax import cloud_tpu
from slm_jax.cloud_tpu import Capacity, Gcloud, LaunchError, Slice, SliceLostError, say

RECONNECTIONS = 20
"""Times in a row that worker 0 may stay silent although its machine is said to be there."""

# On the workers, a run is a process that outlives the connection: its log, and in the end its exit code, are files.
# The number of the process lies where a restart of the machine forgets it. gcloud repeats a command whose connection
# broke, so every line here may be run twice.
FOLDER = "~/slm_jax_run"
PID = '"${TMPDIR:-/tmp}/slm_jax.pid"'
ALIVE = f'{{ [ -e {PID} ] && kill -0 "$(cat {PID})" 2>/dev/null; }}'
REFUSE_IF_BUSY = f'if {ALIVE}; then echo "something is running here: see logs, or delete the slice" >&2; exit 1; fi'
STOP = f'if {ALIVE}; then kill -KILL -- "-$(cat {PID})"; fi; rm -f {PID}'
UV = "uv>=0.13,<0.14"
END_MARK = "slm_jax.launch: exit code"
FOLLOW = (
    f'cd {FOLDER}; if [ -e {PID} ]; then tail -n 20 --pid="$(cat {PID})" -F log.txt 2>/dev/null; fi;'
    f' echo "{END_MARK} $(cat exit_code 2>/dev/null || echo none)"'
)


def check_package(package: str) -> None:
    """Refuses what would not install the same on every worker, today and after a preemption.

    Raises:
      LaunchError: neither a git URL with a revision nor a wheel or source distribution.
    """
    if package.startswith("git+"):
        if not re.fullmatch(r"git\+\w+://[^/]+/.+@[^@]+", package):
            raise LaunchError(f"--package={package} names no revision: end it with @ and a commit or a tag")
    elif not package.endswith((".whl", ".tar.gz")):
        raise LaunchError(f"--package={package} is neither git+https://...@REVISION nor a .whl or .tar.gz file")
    elif not pathlib.Path(package).is_file():
        raise LaunchError(
            f"there is no file {package}; in a checkout, pip wheel --no-deps --wheel-dir=dist . makes one"
        )


def check_model_dir(flags: Sequence[str]) -> None:
    """Checkpoints have to outlive the slice.

    Args:
      flags: of slm_jax.train.

    Raises:
      LaunchError: MODEL_DIR is missing or is not on Cloud Storage.
    """
    advice = "write --gin.MODEL_DIR=\"'gs://BUCKET/FOLDER'\" after --, with both kinds of quotes"
    values = [match[1] for flag in flags if (match := re.match(r"--gin(?:\.|_bindings=)MODEL_DIR\s*=\s*(.*)", flag))]
    if not values:
        raise LaunchError(f"there is no MODEL_DIR, where a run goes on after a preemption: {advice}")
    if not re.fullmatch(r"""(['"])gs://[^'"]+\1""", values[-1]):
        raise LaunchError(f"MODEL_DIR={values[-1]} is not on Cloud Storage, and would be lost with the slice: {advice}")


def check_account(gcloud: Gcloud, *, project: str | None) -> None:
    """Refuses to begin without a login and a project.

    Raises:
      LaunchError: one of them is missing; says how to get it.
    """
    if not gcloud.call("auth", "list", "--filter=status:ACTIVE", "--format=value(account)").output.strip():
        raise LaunchError("gcloud is not logged in: gcloud auth login")
    if project is None and not gcloud.call("config", "get-value", "project").output.strip():
        raise LaunchError("gcloud has no project: give --project=ID, or gcloud config set project ID")


def install_command(package: str, *, constraints: str | None, setup: str, take_over: bool) -> str:
    """The line that makes a worker ready. Its Python is uv's: that of the machine may be older than slm_jax needs.

    Args:
      package: a git URL with a revision, or a file; files lie in the worker's home folder by their own names.
      constraints: a file of versions that have to be taken; None for those that setup.py allows.
      setup: a further line of bash, such as one that fetches data; none if empty.
      take_over: whether an earlier run is ended; otherwise it is an error.
    """
    requirement = shlex.quote(f"slm_jax[tpu] @ {package}")
    if not package.startswith("git+"):
        requirement = f'"slm_jax[tpu] @ file://$HOME/"{_quoted_name(package)}'
    pins = "" if constraints is None else f'--constraints="$HOME/"{_quoted_name(constraints)} '
    environment = f"{FOLDER}/env"
    steps = [
        f"mkdir -p {FOLDER}",
        f"python3 -m pip install --quiet --user {shlex.quote(UV)}",
        f"python3 -m uv venv --quiet --allow-existing --python 3.11 {environment}",
        f"python3 -m uv pip install --quiet --python {environment} --reinstall-package slm_jax {pins}{requirement}",
        *([f"{{ {setup}; }}"] if setup else []),
    ]
    return f"{STOP if take_over else REFUSE_IF_BUSY}; {' && '.join(steps)}"


def _quoted_name(path: str) -> str:
    return shlex.quote(pathlib.Path(path).name)


def start_command(flags: Sequence[str]) -> str:
    """The line that starts slm_jax.train on a worker, unless it runs already."""
    keep = shlex.quote('PYTHONUNBUFFERED=1 "$@" >>log.txt 2>&1; echo $? >exit_code')
    train = shlex.join(["env/bin/python", "-m", "slm_jax.train", *flags])
    start = f"nohup setsid bash -c {keep} slm_jax {train} </dev/null >/dev/null 2>&1 & echo $! >{PID}"
    return f"cd {FOLDER} && if ! {ALIVE}; then rm -f exit_code; {start}; fi"


def follow(tpu: Slice, *, worker: int = 0) -> int:
    """Prints a worker's log until its run ends, and gives the run's exit code. Connects again when it hears no end.

    Raises:
      SliceLostError: the machines were taken away, or the run vanished, as it does when its machine is restarted.
      LaunchError: the worker cannot be reached although it is there.
    """
    silent = 0
    while silent < RECONNECTIONS:
        silent += 1
        for line in tpu.lines(FOLLOW, worker=worker):
            if line.startswith(END_MARK):
                return _exit_code(line, run=f"run on worker {worker} of {tpu.name}")
            silent = 0
            print(line, flush=True)
        tpu.pause("the connection broke")
        try:
            tpu.check_ready()
        except LaunchError as error:  # it may be this machine that is cut off
            say(str(error))
    raise LaunchError(f"worker {worker} of {tpu.name} does not answer; the run may go on: try logs, or delete it")


def _exit_code(line: str, *, run: str) -> int:
    code = line.removeprefix(END_MARK).strip()
    if code == "none":
        raise SliceLostError(f"there is no {run}, or it vanished")
    return int(code)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be done on which slice.

    Attributes:
      tpu: the slice.
      request: how it is created.
      package: what is installed; see `check_package`.
      constraints: a file of versions that have to be taken; None for those that setup.py allows.
      setup: a line of bash for every worker after that.
      flags: of slm_jax.train.
    """

    tpu: Slice
    request: cloud_tpu.Request
    package: str
    constraints: str | None = None
    setup: str = ""
    flags: Sequence[str] = ()

    def prepare(self, *, take_over: bool = False) -> None:
        """Brings the slice up and installs the package on all workers.

        Raises:
          SliceLostError, LaunchError: as in `Slice.bring_up` and `Slice.run`.
        """
        self.tpu.bring_up(self.request)
        say(f"installing {self.package} on all workers of {self.tpu.name}")
        files = [] if self.package.startswith("git+") else [self.package]
        files += [] if self.constraints is None else [self.constraints]
        if files:
            self.tpu.copy(files)
        install = install_command(self.package, constraints=self.constraints, setup=self.setup, take_over=take_over)
        self.tpu.run(install, purpose="install on all workers")

    def train(self, *, take_over: bool) -> int:
        """One attempt: all of `prepare`, then the training; gives its exit code.

        Raises:
          SliceLostError, LaunchError: as in `prepare` and `follow`.
        """
        self.prepare(take_over=take_over)
        say("training; worker 0 follows, the others write ~/slm_jax_run/log.txt")
        self.tpu.run(start_command(self.flags), purpose="start the training")
        code = follow(self.tpu)
        if code != 0:
            # A training whose machines are being taken away may fail before Google says that they are.
            self.tpu.pause(f"the training ended with exit code {code}")
            self.tpu.check_ready()
        return code

    def train_to_the_end(self, *, retries: int) -> int:
        """Trains, again where the slice was lost, and gives the exit code of the training.

        Args:
          retries: attempts after the first.

        Raises:
          LaunchError: as in `train`, or the slice was lost once too often.
        """
        for attempt in range(retries + 1):
            try:
                return self.train(take_over=attempt > 0)
            except SliceLostError as error:
                lost = str(error)
            if attempt < retries:
                self.tpu.pause(f"{lost}; retry {attempt + 1} of {retries}")
        raise LaunchError(f"{lost}; gave up after {retries} retries. The same command goes on from the last checkpoint")


def up(options: argparse.Namespace, job: Job) -> int:
    """Creates the slice and installs the package."""
    job.prepare()
    return 0


def run(options: argparse.Namespace, job: Job) -> int:
    """Trains; gives the exit code of the training."""
    try:
        code = job.train_to_the_end(retries=options.retries)
    except LaunchError:
        say(f"{job.tpu.name} is left as it is: see status, and delete it where it is not needed, for it costs money")
        raise
    say("the training is done" if code == 0 else f"the training failed with exit code {code}: that is not retried")
    if options.delete_at_end:
        job.tpu.delete()
    else:
        say(f"{job.tpu.name} is still there and costs money until it is deleted")
    return code


def logs(options: argparse.Namespace, tpu: Slice) -> int:
    """Follows the log of a run; gives its exit code."""
    return follow(tpu, worker=options.worker)


def status(options: argparse.Namespace, tpu: Slice) -> int:
    """Prints the state."""
    state = tpu.state()
    if not options.dry_run:
        print(state)
    return 0


def delete(options: argparse.Namespace, tpu: Slice) -> int:
    """Deletes the slice."""
    tpu.delete()
    return 0


ON_JOB: Mapping[str, Callable[[argparse.Namespace, Job], int]] = {"up": up, "run": run}
ON_SLICE: Mapping[str, Callable[[argparse.Namespace, Slice], int]] = {"logs": logs, "status": status, "delete": delete}


def make_parser() -> argparse.ArgumentParser:
    """The command line, without what follows `--`."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--name", required=True, help="of the slice")
    where.add_argument("--zone", required=True, help="where it is, such as us-west4-a")
    where.add_argument("--project", help="whose it is; by default that of gcloud's configuration")
    where.add_argument("--queued", action="store_true", help="through a queued resource; give it to every command")
    where.add_argument("--poll_seconds", type=float, default=30, help="between two looks at its state")
    where.add_argument("--dry_run", action="store_true", help="print the commands, one a line, and run none")
    what = argparse.ArgumentParser(add_help=False)
    what.add_argument("--accelerator_type", required=True, help="such as v4-8, v5litepod-16, v5p-128, v6e-64")
    what.add_argument("--runtime_version", help="software of the machines; by default the usual one of the generation")
    capacities = [each.value for each in Capacity]
    what.add_argument("--capacity", choices=capacities, default=Capacity.ON_DEMAND.value, help="how it is paid for")
    what.add_argument("--create_flag", action="append", default=[], help="another one of gcloud's create; repeatable")
    what.add_argument("--package", required=True, help="git+https://...@REVISION, or a wheel or source distribution")
    what.add_argument("--constraints", help="a file of versions that have to be taken, such as requirements/cpu.lock")
    what.add_argument("--setup", default="", help="a line of bash for every worker after the installation")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", parents=[where, what], help="create the slice and install the package on all workers")
    train = commands.add_parser("run", parents=[where, what], help="that, then train; again when the slice was lost")
    train.add_argument("--retries", type=int, default=10, help="how often again at most")
    train.add_argument(
        "--delete_at_end", action="store_true", help="delete the slice when the training ended or failed"
    )
    follower = commands.add_parser("logs", parents=[where], help="follow the log of a worker")
    follower.add_argument("--worker", type=int, default=0, help="which one")
    commands.add_parser("status", parents=[where], help="the state of the slice")
    commands.add_parser("delete", parents=[where], help="delete the slice")
    return parser


def make_job(options: argparse.Namespace, *, tpu: Slice, flags: Sequence[str]) -> Job:
    """What `up` and `run` are asked for, checked as far as this machine can.

    Raises:
      LaunchError: an accelerator type, package or MODEL_DIR that cannot be right.
    """
    usual = cloud_tpu.usual_runtime_version(options.accelerator_type)
    request = cloud_tpu.Request(
        accelerator_type=options.accelerator_type,
        runtime_version=options.runtime_version or usual,
        capacity=Capacity(options.capacity),
        create_flags=tuple(options.create_flag),
    )
    check_package(options.package)
    if options.constraints is not None and not pathlib.Path(options.constraints).is_file():
        raise LaunchError(f"there is no file {options.constraints}")
    if options.command == "run":
        check_model_dir(flags)
    return Job(tpu, request, options.package, options.constraints, options.setup, tuple(flags))


def execute(options: argparse.Namespace, *, flags: Sequence[str]) -> int:
    """Does what the command line asks for and gives the exit code.

    Raises:
      SliceLostError, LaunchError: it cannot be done.
    """
    if flags and options.command != "run":
        raise LaunchError(f"{options.command} takes nothing after --")
    gcloud = Gcloud()
    if options.dry_run:
        gcloud = cloud_tpu.Rehearsal(exists=options.command in ON_SLICE, last_line=f"{END_MARK} 0")
    tpu = Slice(gcloud, options.name, options.zone, options.project, options.queued, options.poll_seconds)
    job = make_job(options, tpu=tpu, flags=flags) if options.command in ON_JOB else None
    if not options.dry_run and shutil.which("gcloud") is None:
        raise LaunchError("there is no gcloud on PATH: https://cloud.google.com/sdk/docs/install, then gcloud init")
    check_account(gcloud, project=options.project)
    return ON_SLICE[options.command](options, tpu) if job is None else ON_JOB[options.command](options, job)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and ends with the exit code of the training, or 1 and one message.

    Args:
      arguments: by default those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    options = make_parser().parse_args(given[:end])
    try:
        code = execute(options, flags=given[end + 1 :])
    except (LaunchError, SliceLostError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped here; what runs on {options.name} goes on: see logs, status and delete")
    sys.exit(code)


if __name__ == "__main__":
    main()
