"""The doctor names what is wrong, and says how to get what is missing."""

import pathlib

import jax
import pytest
import rich.console

from slm_jax import doctor
from slm_jax.doctor import Finding, Status


def write(tmp_path: pathlib.Path, text: str) -> pathlib.Path:
    path = tmp_path / "cpu.lock"
    path.write_text(text)
    return path


def test_lock_that_matches(tmp_path: pathlib.Path):
    path = write(tmp_path, f"# pins\njax=={jax.__version__}\n\njax=={jax.__version__} ; python_version < '4'  # why\n")
    assert doctor.check_lock(path).status is Status.OK


def test_lock_that_differs_names_the_packages(tmp_path: pathlib.Path):
    finding = doctor.check_lock(write(tmp_path, "jax==0.0.1\nno-such-package==1.0\n"))
    assert finding.status is Status.WARNING
    assert finding.value == "2 of 2 differ"
    assert f"jax {jax.__version__} (pinned 0.0.1)" in finding.advice
    assert "no-such-package missing (pinned 1.0)" in finding.advice


def test_no_lock_is_fine_for_an_installed_package():
    assert doctor.check_lock(None).status is Status.OK


def test_a_lock_line_that_is_no_pin_is_an_error(tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match=r"cpu.lock:2: expected name==version, found 'jax>=0.10'"):
        doctor.read_pins(write(tmp_path, "numpy==2.0\njax>=0.10\n"))


def test_the_lock_of_this_checkout_can_be_read():
    path = doctor.lock_file()
    assert path is not None
    assert {"jax", "flax", "seqio", "tensorflow-text", "pytest"} <= set(doctor.read_pins(path))


def test_missing_core_package_and_old_python_are_warnings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "CORE", ("jax", "no-such-package"))
    monkeypatch.setattr(doctor, "SUPPORTED_PYTHON", ((3, 90), (3, 91)))
    findings = {finding.name: finding for finding in doctor.check_versions()}
    assert findings["jax"] == Finding("jax", jax.__version__)
    assert findings["no-such-package"].status is Status.WARNING
    assert "Python 3.90" in findings["python"].advice


def test_optional_part_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    part = doctor.Optional(("rich", "no_such_module"), "nothing", "cannot be had")
    monkeypatch.setattr(doctor, "OPTIONAL", {"absent": part, "present": doctor.Optional(("rich",), "tables", "")})
    absent, present = doctor.check_optional()
    assert absent == Finding("absent", "not installed", Status.OPTIONAL, "nothing: cannot be had")
    assert present == Finding("present", "installed", advice="tables")


def test_an_optional_program_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    parts = {name: doctor.Optional((), "voices", "apt-get", commands=(name,)) for name in ("sh", "no-such-program")}
    monkeypatch.setattr(doctor, "OPTIONAL", parts)
    present, absent = doctor.check_optional()
    assert present == Finding("sh", "installed", advice="voices")
    assert absent == Finding("no-such-program", "not installed", Status.OPTIONAL, "voices: apt-get")


def test_parts_that_the_lock_installs_are_recognised():
    status = {finding.name: finding.status for finding in doctor.check_optional()}
    assert [status[name] for name in ("voices", "plots", "tests")] == [Status.OK] * 3


def test_unused_gpu_is_reported_unless_the_cpu_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pathlib.Path, "exists", lambda self: str(self) == "/dev/nvidia0")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert doctor.unused_accelerator("cpu") == ""
    monkeypatch.delenv("JAX_PLATFORMS")
    assert "slm_jax[gpu]" in doctor.unused_accelerator("cpu")
    assert doctor.unused_accelerator("gpu") == ""


def test_report_shows_every_finding_in_80_columns(capsys: pytest.CaptureFixture[str]):
    findings = {"Section": [Finding("name", "value", Status.WARNING, "pip install 'slm_jax[voices]'")]}
    rich.console.Console(width=80).print(doctor.render(findings))
    text = capsys.readouterr().out
    for part in ("Section", "name", "value", "pip install 'slm_jax[voices]'"):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_main_prints_all_sections(capsys: pytest.CaptureFixture[str]):
    doctor.main()
    text = capsys.readouterr().out
    for part in ("Versions", "Machine", "Optional", "jax", jax.__version__, "devices", "lock file"):
        assert part in text
