"""Launching on Cloud TPU, against a stand-in for gcloud: the order of commands, retries, and one clear error each."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from slm_jax import cloud_tpu, launch

# Notes every call, and answers by the script: for each kind of command its answers in turn, the last one for ever.
# Between them it remembers what became of the slice, which is what `describe` tells.
STAND_IN = """#!{python} -SE
import json, pathlib, sys

folder = pathlib.Path({folder!r})
arguments = sys.argv[1:]
words = [word for word in arguments if not word.startswith("--")]
kind = words[3] if words[0] == "compute" else words[0]
if kind == "ssh":
    line = next(word for word in arguments if word.startswith("--command="))
    kind = "follow" if "tail " in line else "start" if "slm_jax.train" in line else "install"
queued = "queued-resources" in words
calls = folder / "calls.jsonl"
before = [json.loads(line)["kind"] for line in calls.read_text().splitlines()] if calls.exists() else []
with calls.open("a") as file:
    file.write(json.dumps({{"kind": kind, "queued": queued, "arguments": arguments}}) + chr(10))
answers = json.loads((folder / "script.json").read_text()).get(kind, [])
state = folder / "state"
if answers:
    answer = answers[min(before.count(kind), len(answers) - 1)]
elif kind == "describe":
    name = state.read_text()
    if name == "ABSENT":
        answer = {{"code": 1, "err": "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource was not found"}}
    else:
        answer = {{"out": {{"READY": "ACTIVE", "PREEMPTED": "SUSPENDED"}}.get(name, name) if queued else name}}
else:
    answer = {{"then": {{"create": "READY", "delete": "ABSENT"}}.get(kind)}}
if answer.get("then"):
    state.write_text(answer["then"])
for stream, text in ((sys.stdout, answer.get("out")), (sys.stderr, answer.get("err"))):
    if text:
        print(text, file=stream)
sys.exit(answer.get("code", 0))
"""
FULL = 'ERROR: {\n  "code": 8,\n  "message": "There is no more capacity in the zone \\"us-west4-a\\""\n}'
REVISION = "git+https://github.com/someone/slm_jax@4c5d080"
MODEL_DIR = "--gin.MODEL_DIR='gs://bucket/mine'"
FLAGS = ("--gin_file=experiments/own_recordings.gin", MODEL_DIR)
FRESH = ["auth", "config", "describe", "create", "describe", "install", "start", "follow"]


def ended(code: int | str, *, said: str = "step 1") -> str:
    """What worker 0 says when a run has ended."""
    return f"{said}\n{launch.END_MARK} {code}"


class Cloud:
    """The stand-in and what it was asked."""

    def __init__(self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        program = folder / "bin" / "gcloud"
        program.parent.mkdir()
        program.write_text(STAND_IN.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        self.state = "ABSENT"
        self.script()

    def script(self, **answers: list[dict]) -> None:
        """Sets the answers; the rest succeeds, and a training ends well."""
        usual = {"auth": [{"out": "me@example.org"}], "config": [{"out": "my-project"}], "follow": [{"out": ended(0)}]}
        (self.folder / "script.json").write_text(json.dumps(usual | answers))

    def launch(self, command: str, *arguments: str, flags: tuple[str, ...] = ()) -> int | str | None:
        """Runs the main and gives what it exits with: a code, or the message of an error."""
        (self.folder / "calls.jsonl").unlink(missing_ok=True)
        (self.folder / "state").write_text(self.state)
        rest = ("--", *flags) if flags else ()
        with pytest.raises(SystemExit) as left:
            launch.main([command, "--name=mine", "--zone=us-west4-a", "--poll_seconds=0", *arguments, *rest])
        self.out, self.err = self.capsys.readouterr()
        return left.value.code

    def run(self, *arguments: str, package: str = REVISION, flags: tuple[str, ...] = FLAGS) -> int | str | None:
        return self.launch("run", "--accelerator_type=v5litepod-16", f"--package={package}", *arguments, flags=flags)

    @property
    def calls(self) -> list[dict]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def kinds(self) -> list[str]:
        return [call["kind"] for call in self.calls]

    def arguments(self, kind: str) -> list[list[str]]:
        """Of all calls of a kind."""
        return [call["arguments"] for call in self.calls if call["kind"] == kind]


@pytest.fixture
def cloud(tmp_path, monkeypatch, capsys) -> Cloud:
    """A Google Cloud that does what the test says; its gcloud is the first on PATH."""
    cloud = Cloud(tmp_path, capsys)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return cloud


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    """A wheel and a file of versions."""
    wheel, pins = tmp_path / "slm_jax-0.1.0-py3-none-any.whl", tmp_path / "cpu.lock"
    wheel.touch()
    pins.touch()
    return str(wheel), str(pins)


def test_a_new_slice_is_created_prepared_and_trained_on(cloud, files):
    assert cloud.run("--capacity=spot", f"--constraints={files[1]}", package=files[0]) == 0
    assert cloud.kinds == [*FRESH[:5], "scp", *FRESH[5:]]
    assert all(call["arguments"][0] == "--quiet" for call in cloud.calls), "nobody may be asked anything"
    (create,) = cloud.arguments("create")
    assert {"--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"} <= set(create)
    for kind in ("scp", "install", "start"):
        assert all("--worker=all" in arguments for arguments in cloud.arguments(kind)), kind
    assert set(files) < set(cloud.arguments("scp")[0])
    install = cloud.arguments("install")[0][-2]
    assert 'slm_jax[tpu] @ file://$HOME/"slm_jax-0.1.0-py3-none-any.whl' in install
    assert '--constraints="$HOME/"cpu.lock' in install
    assert shlex.join(FLAGS) in cloud.arguments("start")[0][-2]
    assert "--worker=0" in cloud.arguments("follow")[0]
    assert cloud.out == "step 1\n"
    assert "costs money" in cloud.err


def test_a_git_revision_is_installed_without_copying(cloud):
    assert cloud.run() == 0
    assert cloud.kinds == FRESH
    assert f"'slm_jax[tpu] @ {REVISION}'" in cloud.arguments("install")[0][-2]


def test_a_slice_that_is_there_is_used(cloud):
    cloud.state = "READY"
    assert cloud.run("--project=other", "--delete_at_end") == 0
    assert cloud.kinds == ["auth", "describe", "install", "start", "follow", "delete"]
    assert all("--project=other" in call["arguments"] for call in cloud.calls[1:])


@pytest.mark.parametrize("queued", [False, True], ids=["direct", "queued"])
def test_after_a_preemption_the_same_training_goes_on_on_a_new_slice(cloud, queued):
    cloud.script(follow=[{"out": "step 1", "code": 255, "then": "PREEMPTED"}, {"out": ended(0, said="step 2")}])
    assert cloud.run("--capacity=spot", *(["--queued"] if queued else [])) == 0
    without_looks = [kind for kind in cloud.kinds if kind != "describe"]
    attempt = ["create", "install", "start", "follow"]
    assert without_looks == ["auth", "config", *attempt, "delete", *attempt]
    for kind in ("create", "start", "follow"):
        first, second = cloud.arguments(kind)
        assert first == second, kind
    assert cloud.out == "step 1\nstep 2\n"
    created = [call["queued"] for call in cloud.calls if call["kind"] in ("create", "delete")]
    assert created == [queued] * 3
    assert ("--force" in cloud.arguments("delete")[0]) == queued


def test_a_queued_slice_is_waited_for(cloud):
    waiting = [{"code": 1, "err": "NOT_FOUND"}, *({"out": state} for state in ("ACCEPTED", "WAITING_FOR_RESOURCES"))]
    cloud.script(describe=[*waiting, {"out": "ACTIVE"}, {"out": "READY"}])
    assert cloud.run("--queued", "--capacity=reserved") == 0
    (create,) = cloud.arguments("create")
    assert {"--node-id=mine", "--runtime-version=v2-alpha-tpuv5-lite", "--reserved"} <= set(create)
    assert "mine is WAITING_FOR_RESOURCES" in cloud.err


def test_a_queued_resource_that_outlives_its_machines_is_replaced(cloud):
    gone = {"code": 1, "err": "NOT_FOUND"}
    cloud.script(describe=[{"out": "ACTIVE"}, gone, gone, {"out": "ACTIVE"}, {"out": "READY"}])
    assert cloud.run("--queued") == 0
    assert [kind for kind in cloud.kinds if kind in ("delete", "create")] == ["delete", "create"]


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_are_bounded(cloud, retries):
    cloud.script(follow=[{"code": 255, "then": "PREEMPTED"}])
    assert f"mine is PREEMPTED; gave up after {retries} retries" in cloud.run(f"--retries={retries}")
    assert cloud.kinds.count("create") == cloud.kinds.count("start") == retries + 1


def test_a_failed_training_is_reported_and_not_retried(cloud):
    cloud.script(follow=[{"out": ended(3)}])
    assert cloud.run() == 3
    assert [cloud.kinds.count(kind) for kind in ("create", "start", "follow", "delete")] == [1, 1, 1, 0]
    assert "failed with exit code 3" in cloud.err


def test_a_training_that_fails_because_its_machines_are_taken_away_is_retried(cloud):
    cloud.script(follow=[{"out": ended(1), "then": "PREEMPTED"}, {"out": ended(0)}])
    assert cloud.run() == 0
    assert cloud.kinds.count("start") == 2


def test_a_broken_connection_to_a_slice_that_is_there_is_made_again(cloud):
    cloud.script(follow=[{"out": "step 1", "code": 255}, {"out": ended(0, said="step 2")}])
    assert cloud.run() == 0
    assert cloud.kinds == [*FRESH, "describe", "follow"]
    assert cloud.out == "step 1\nstep 2\n"


def test_a_worker_that_stays_silent_is_given_up(cloud, monkeypatch):
    monkeypatch.setattr(launch, "RECONNECTIONS", 3)
    cloud.state = "READY"
    cloud.script(follow=[{"code": 255}])
    assert "worker 2 of mine does not answer" in cloud.launch("logs", "--worker=2")
    assert cloud.kinds.count("follow") == 3


def test_a_run_that_vanished_is_started_again_where_it_was(cloud):
    cloud.script(follow=[{"out": ended("none")}, {"out": ended(0)}])
    assert cloud.run() == 0
    assert [cloud.kinds.count(kind) for kind in ("create", "delete", "start")] == [1, 0, 2]
    first, second = (arguments[-2] for arguments in cloud.arguments("install"))
    assert launch.REFUSE_IF_BUSY in first
    assert launch.STOP in second, "other workers may still wait for the one that is gone"


def test_full_zones_are_asked_again_a_bounded_number_of_times(cloud):
    cloud.script(create=[{"code": 1, "err": FULL}])
    message = cloud.run("--retries=1")
    assert "us-west4-a has no v5litepod-16 left" in message
    assert "There is no more capacity" in message
    assert "--queued" in message
    assert cloud.kinds.count("create") == 2
    cloud.script(create=[{"code": 1, "err": FULL}, {"then": "READY"}])
    assert cloud.run("--retries=1") == 0


def test_any_other_refusal_is_final_and_shown(cloud):
    words = [f"line {number}" for number in range(10)] + ["Quota limit has been exceeded"]
    cloud.script(create=[{"code": 1, "err": "\n".join(words)}])
    message = cloud.run()
    assert message.startswith("error: gcloud could not create mine:")
    assert message.endswith("\n  ".join(words[-cloud_tpu.SHOWN_LINES :]))
    assert "line 1\n" not in message
    assert cloud.kinds == FRESH[:4]


def test_a_queued_request_that_fails_is_final(cloud):
    cloud.script(create=[{"then": "FAILED"}])
    assert "queued-resources describe mine --zone=us-west4-a says why" in cloud.run("--queued")
    assert cloud.kinds.count("create") == 1


def test_a_slice_that_the_user_has_stopped_is_left_alone(cloud):
    cloud.state = "STOPPED"
    assert "mine is STOPPED: start or delete it" in cloud.run()
    assert cloud.kinds == FRESH[:3]


@pytest.mark.parametrize(("state", "starts"), [("READY", 0), ("PREEMPTED", 1)])
def test_an_installation_that_fails_is_retried_only_on_lost_machines(cloud, state, starts):
    cloud.script(install=[{"code": 1, "err": "no such revision", "then": state}, {}])
    code = cloud.run()
    assert cloud.kinds.count("start") == starts
    if not starts:
        assert "could not install on all workers (exit code 1):\n  no such revision" in code


def test_without_a_login_nothing_is_created(cloud):
    cloud.script(auth=[{"out": ""}])
    assert cloud.run() == "error: gcloud is not logged in: gcloud auth login"
    assert cloud.kinds == ["auth"]


def test_without_a_project_nothing_is_created(cloud):
    cloud.script(config=[{"out": "", "err": "(unset)"}])
    assert "gcloud has no project: give --project=ID" in cloud.run()
    assert cloud.kinds == ["auth", "config"]


def test_without_gcloud_the_user_is_told_where_to_get_it(cloud, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "https://cloud.google.com/sdk/docs/install" in cloud.run()


@pytest.mark.parametrize(
    ("arguments", "flags", "message"),
    [
        (["--accelerator_type=v5e-16"], FLAGS, "v5e-16 is no accelerator type"),
        (["--accelerator_type=v4"], FLAGS, "v4 is no accelerator type"),
        (["--package=git+https://github.com/someone/slm_jax"], FLAGS, "names no revision"),
        (["--package=git+ssh://git@github.com/someone/slm_jax"], FLAGS, "names no revision"),
        (["--package=slm_jax"], FLAGS, "is neither git"),
        (["--package=dist/none.whl"], FLAGS, "there is no file dist/none.whl"),
        (["--constraints=none.lock"], FLAGS, "there is no file none.lock"),
        ([], FLAGS[:1], "there is no MODEL_DIR"),
        ([], ("--gin.MODEL_DIR='runs/mine'",), "'runs/mine' is not on Cloud Storage"),
        ([], ("--gin.MODEL_DIR=gs://bucket/mine",), "with both kinds of quotes"),
        ([], (MODEL_DIR, "--gin_bindings=MODEL_DIR = 'runs/mine'"), "'runs/mine' is not on Cloud Storage"),
    ],
)
def test_what_cannot_be_right_is_refused_before_gcloud_is_asked(cloud, arguments, flags, message):
    error = cloud.run(*arguments, flags=flags)
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
    assert cloud.calls == []


def test_only_run_takes_flags_of_the_training(cloud):
    assert cloud.launch("status", flags=FLAGS) == "error: status takes nothing after --"


COMMANDS = {
    "up": ["up", "--accelerator_type=v4-8", f"--package={REVISION}"],
    "run": ["run", "--accelerator_type=v6e-64", f"--package={REVISION}", "--project=other", "--setup=echo 'a b' > c"],
    "queued": ["run", "--accelerator_type=v5p-128", f"--package={REVISION}", "--queued", "--delete_at_end"],
    "logs": ["logs", "--worker=3"],
    "status": ["status", "--queued"],
    "delete": ["delete"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_prints_what_a_run_then_does_and_does_nothing(cloud, name, monkeypatch, tmp_path):
    command, flags = COMMANDS[name], FLAGS if COMMANDS[name][0] == "run" else ()
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        assert cloud.launch(*command, "--dry_run", flags=flags) == 0
    printed = cloud.out.splitlines()
    assert cloud.calls == []
    cloud.state = "READY" if name in ("logs", "status", "delete") else "ABSENT"
    assert cloud.launch(*command, flags=flags) == 0
    assert printed == [shlex.join(["gcloud", *call["arguments"]]) for call in cloud.calls]


def test_status_and_delete(cloud):
    assert cloud.launch("status") == 0
    assert cloud.out == "ABSENT\n"
    cloud.state = "REPAIRING"
    assert cloud.launch("status") == 0
    assert cloud.out == "REPAIRING\n"
    assert cloud.launch("delete") == 0
    cloud.script(delete=[{"code": 1, "err": "NOT_FOUND"}])
    assert cloud.launch("delete") == 0, "what is not there is deleted"
    cloud.script(delete=[{"code": 1, "err": "PERMISSION_DENIED"}])
    assert "could not delete mine:\n  PERMISSION_DENIED" in cloud.launch("delete")


def test_whoever_stops_watching_is_told_that_the_run_goes_on(cloud, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "follow", interrupt)
    assert "what runs on mine goes on" in cloud.run()
    assert "delete" not in cloud.kinds


@pytest.mark.parametrize("capacity", cloud_tpu.Capacity)
def test_a_request_is_made_as_asked(cloud, capacity):
    asked = [f"--capacity={capacity.value}", "--runtime_version=mine-1", "--create_flag=--labels=a=b"]
    assert cloud.run(*asked) == 0
    (create,) = cloud.arguments("create")
    assert {"--version=mine-1", "--labels=a=b"} <= set(create)
    assert {"--spot", "--reserved"} & set(create) == {f"--{capacity.value}"} - {"--on_demand"}


def test_launch_starts_without_what_training_needs():
    code = (
        "import sys, slm_jax.launch; sys.exit(bool({'jax', 'numpy', 'tensorflow', 'gin', 'absl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
