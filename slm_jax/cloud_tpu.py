"""Slices of Cloud TPU through the gcloud command line: create, describe, copy to, run on, delete.

Commands are lists of arguments and never pass through a shell of this machine. The flags are those of `tpu-vm` and
`queued-resources` in cloud.google.com/sdk/gcloud/reference/compute/tpus. Needs the standard library only.
"""

import dataclasses
import enum
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

RUNTIME_VERSIONS = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""The software of the TPU VMs by generation, from cloud.google.com/tpu/docs/runtimes."""

ABSENT = "ABSENT"
"""Beside the states that Google names: there is no such slice."""
READY = frozenset({"READY", "ACTIVE"})
PASSING = frozenset(
    {"CREATING", "STARTING", "RESTARTING", "REIMAGING", "REPAIRING", "UNHIDING", "STOPPING", "DELETING"}
    | {"ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDING"}
)
"""States that end by themselves: of a TPU VM, and of a queued resource."""
GONE = frozenset({"PREEMPTED", "TERMINATED", "SUSPENDED", "FAILED", "UNKNOWN"})
"""The machines were taken away; what is left is to be deleted."""

NO_CAPACITY = "no more capacity"
"""What Google says when a zone is full; any other refusal stays one however often it is asked."""
SHOWN_LINES = 6


class LaunchError(RuntimeError):
    """What the user has to do something about."""


class SliceLostError(RuntimeError):
    """The machines were taken away or are not to be had now: worth another try."""


class Capacity(enum.Enum):
    """How a slice is paid for."""

    ON_DEMAND = "on_demand"
    SPOT = "spot"
    """Cheaper, and may be taken away at any time."""
    RESERVED = "reserved"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command left behind.

    Attributes:
      code: its exit code.
      output: what it wrote to its standard output.
      errors: what it wrote to its standard error.
    """

    code: int
    output: str = ""
    errors: str = ""

    def last_lines(self) -> str:
        """The end of what it complained of, indented, to be shown below a message."""
        lines = [line for line in self.errors.splitlines() if line.strip()][-SHOWN_LINES:]
        return "".join(f"\n  {line}" for line in lines)


class Gcloud:
    """Runs gcloud, without questions to the user: there may be nobody to answer them."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The whole command."""
        return ["gcloud", "--quiet", *arguments]

    def call(self, *arguments: str) -> Answer:
        """Runs a command to its end."""
        command = self.command(arguments)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        return Answer(done.returncode, done.stdout, done.stderr)

    def lines(self, *arguments: str) -> Iterator[str]:
        """Runs a command and gives the lines of its output as they come; its standard error is the terminal's."""
        command = self.command(arguments)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, text=True, errors="replace") as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield line.rstrip("\n")


class Rehearsal(Gcloud):
    """Prints the commands instead, and answers as if each did what it is for.

    Args:
      exists: whether the slice is there from the start; otherwise it is once a command has created it.
      last_line: what a command that is listened to would say in the end.
    """

    def __init__(self, *, exists: bool, last_line: str = "") -> None:
        self.exists = exists
        self.last_line = last_line

    def call(self, *arguments: str) -> Answer:
        print(shlex.join(self.command(arguments)))
        if "describe" in arguments and not self.exists:
            return Answer(1, errors="NOT_FOUND")
        self.exists = self.exists or "create" in arguments
        return Answer(0, output="READY")

    def lines(self, *arguments: str) -> Iterator[str]:
        print(shlex.join(self.command(arguments)))
        yield self.last_line


def say(message: str) -> None:
    """Tells the user what goes on, apart from what the workers say."""
    print(f"launch: {message}", file=sys.stderr, flush=True)


def usual_runtime_version(accelerator_type: str) -> str:
    """The software of the machines that is usual for an accelerator type.

    Args:
      accelerator_type: generation and size, such as v5litepod-256.

    Raises:
      LaunchError: it does not look like one.
    """
    generation, _, size = accelerator_type.partition("-")
    if generation not in RUNTIME_VERSIONS or not re.fullmatch(r"[1-9]\d*", size):
        raise LaunchError(
            f"{accelerator_type} is no accelerator type: write a generation, a dash and a size, as in v4-8 or"
            f" v5litepod-16. There are {', '.join(RUNTIME_VERSIONS)}; for later ones see xpk in docs/tpu.md"
        )
    return RUNTIME_VERSIONS[generation]


@dataclasses.dataclass(frozen=True)
class Request:
    """What slice is asked for.

    Attributes:
      accelerator_type: generation and size, such as v5litepod-256.
      runtime_version: the software of its machines.
      capacity: how it is paid for.
      create_flags: further flags of gcloud's create command.
    """

    accelerator_type: str
    runtime_version: str
    capacity: Capacity = Capacity.ON_DEMAND
    create_flags: Sequence[str] = ()

    def flags(self) -> list[str]:
        """Those that `tpu-vm create` and `queued-resources create` have in common."""
        capacity = [] if self.capacity is Capacity.ON_DEMAND else [f"--{self.capacity.value}"]
        return [f"--accelerator-type={self.accelerator_type}", *capacity, *self.create_flags]


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice by its name, there or not.

    Attributes:
      gcloud: runs the commands.
      name: of the TPU VM, and of the queued resource.
      zone: where it is.
      project: whose it is; gcloud's own setting if None.
      queued: whether it is had through a queued resource.
      poll_seconds: between two looks at its state.
    """

    gcloud: Gcloud
    name: str
    zone: str
    project: str | None = None
    queued: bool = False
    poll_seconds: float = 30

    def state(self) -> str:
        """The state as Google names it, or ABSENT.

        Raises:
          LaunchError: gcloud cannot tell.
        """
        if not self.queued:
            return self._describe("tpu-vm", "state")
        state = self._describe("queued-resources", "state.state")
        if state not in READY:
            return state
        node = self._describe("tpu-vm", "state")
        return "PREEMPTED" if node == ABSENT else node  # the resource can outlive its machines

    def check_ready(self) -> None:
        """Does nothing if the slice is ready.

        Raises:
          SliceLostError: it is not.
          LaunchError: gcloud cannot tell.
        """
        if (state := self.state()) not in READY:
            raise SliceLostError(f"{self.name} is {state}")

    def bring_up(self, request: Request) -> None:
        """Waits until the slice is ready; creates it where it is absent, and anew where it was taken away.

        Raises:
          SliceLostError: there is no capacity, or it was taken away again before it was ready.
          LaunchError: it cannot be created, or is in a state that only the user can end.
        """
        created = False
        while (state := self.state()) not in READY:
            if state in PASSING:
                self.pause(f"{self.name} is {state}")
            elif created and state == "FAILED":
                raise LaunchError(f"the request for {self.name} failed; {self._how_to_see_why()} says why")
            elif created:
                raise SliceLostError(f"{self.name} was {state} before it was ready")
            elif state in GONE:
                self.delete()
            elif state == ABSENT:
                self._create(request)
                created = True
            else:
                raise LaunchError(f"{self.name} is {state}: start or delete it, or take another --name")

    def delete(self) -> None:
        """Deletes the slice, if it is there.

        Raises:
          LaunchError: gcloud could not.
        """
        say(f"deleting {self.name}")
        kind, force = ("queued-resources", ["--force"]) if self.queued else ("tpu-vm", [])
        answer = self._call(kind, "delete", self.name, *force)
        if answer.code != 0 and "NOT_FOUND" not in answer.errors:
            raise LaunchError(f"gcloud could not delete {self.name}:{answer.last_lines()}")

    def copy(self, paths: Sequence[str]) -> None:
        """Copies files into the home folder of every worker.

        Raises:
          SliceLostError, LaunchError: as `run`.
        """
        self._checked(f"copy {', '.join(paths)} to the workers", "scp", *paths, f"{self.name}:", "--worker=all")

    def run(self, command: str, *, purpose: str) -> None:
        """Runs a line of bash on every worker.

        Args:
          command: the line.
          purpose: what it is for, in words that follow "could not".

        Raises:
          SliceLostError: it failed, and the machines were taken away.
          LaunchError: it failed although they are there.
        """
        self._checked(purpose, "ssh", self.name, "--worker=all", f"--command={command}")

    def lines(self, command: str, *, worker: int = 0) -> Iterator[str]:
        """Runs a line of bash on one worker and gives what it says as it comes, until it ends or cannot be heard."""
        arguments = ("ssh", self.name, f"--worker={worker}", f"--command={command}")
        return self.gcloud.lines(*self._arguments("tpu-vm", *arguments))

    def pause(self, message: str) -> None:
        """Says why, and waits for the time between two looks at the state."""
        say(message)
        time.sleep(self.poll_seconds)

    def _create(self, request: Request) -> None:
        say(f"creating {self.name}: {request.accelerator_type} in {self.zone}, {request.capacity.value}")
        if self.queued:
            flags = [f"--node-id={self.name}", f"--runtime-version={request.runtime_version}"]
            answer = self._call("queued-resources", "create", self.name, *flags, *request.flags())
        else:
            flags = [f"--version={request.runtime_version}"]
            answer = self._call("tpu-vm", "create", self.name, *flags, *request.flags())
        if answer.code == 0:
            return
        if NO_CAPACITY in answer.errors:
            advice = "wait, try another zone, or stand in Google's queue with --queued"
            raise SliceLostError(f"{self.zone} has no {request.accelerator_type} left: {advice}{answer.last_lines()}")
        raise LaunchError(f"gcloud could not create {self.name}:{answer.last_lines()}")

    def _describe(self, kind: str, field: str) -> str:
        answer = self._call(kind, "describe", self.name, f"--format=value({field})")
        if answer.code == 0:
            return answer.output.strip()
        if "NOT_FOUND" in answer.errors:
            return ABSENT
        raise LaunchError(f"gcloud could not describe {self.name}:{answer.last_lines()}")

    def _checked(self, purpose: str, *arguments: str) -> None:
        answer = self._call("tpu-vm", *arguments)
        if answer.code == 0:
            return
        self.check_ready()
        raise LaunchError(f"could not {purpose} (exit code {answer.code}):{answer.last_lines()}")

    def _how_to_see_why(self) -> str:
        kind = "queued-resources" if self.queued else "tpu-vm"
        return shlex.join(["gcloud", *self._arguments(kind, "describe", self.name)])

    def _call(self, kind: str, *arguments: str) -> Answer:
        return self.gcloud.call(*self._arguments(kind, *arguments))

    def _arguments(self, kind: str, *arguments: str) -> list[str]:
        project = [] if self.project is None else [f"--project={self.project}"]
        return ["compute", "tpus", kind, *arguments, f"--zone={self.zone}", *project]
