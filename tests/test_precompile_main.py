"""`python -m slm_jax.precompile`, on devices of this machine in the place of TPUs, and by libtpu where it is."""

import json

import gin
import jax
import pytest

from slm_jax.aot import memory, report, roofline, search, topology, work

TINY = ("--gin_file=test/tiny.gin", "--gin.MODEL_DIR=''", "--gin.conformer.Conformer.ctc_vocab_size=2047")


@pytest.fixture
def precompile(run_main, capsys, monkeypatch):
    """Runs the main and gives its last line; devices are eight of this machine's, whatever the topology."""
    monkeypatch.setattr(topology.Topology, "devices", lambda self: jax.devices()[: self.num_chips])

    def run(*arguments):
        gin.clear_config()
        run_main("precompile", *TINY, *arguments)
        printed = capsys.readouterr().out
        return json.loads(printed.splitlines()[-1]), printed

    yield run
    gin.clear_config()


def test_all_steps_are_reported(precompile):
    told, printed = precompile(
        "--topology=v5e:2x4", "--steps=train,decode,eval", "--gin.partitioning.make_mesh.model=2"
    )
    assert (told["topology"], set(told["steps"])) == ("v5e:2x4", {"train", "eval greedy", "decode"})
    for name, step in told["steps"].items():
        assert name in printed
        assert step["mesh"] == {"data": 4, "fsdp": 1, "model": 2} and step["fits"]
        assert step["memory_bytes"]["total"] == sum(
            size for kind, size in step["memory_bytes"].items() if kind not in ("total", "hbm")
        )
        assert step["flops"] > 0 and step["minimum_flops"] > 0 and step["compile_seconds"] > 0
        assert step["step_seconds_bound"] == max(step["roofline_seconds"].values())
        assert 0 < step["utilisation_without_overlap"] <= step["utilisation_bound"] <= 1
        assert step["flops"] >= step["minimum_flops"]
    train, decode = told["steps"]["train"], told["steps"]["decode"]
    assert {"frozen parameters", "trainable parameters", "optimizer", "activations"} <= set(train["memory_bytes"])
    assert any(c["axes"] == "data" for c in train["collectives"])  # the gradients' sum
    assert not any("data" in c["axes"] for c in decode["collectives"] if c["ici_bytes"] > 1000)
    assert decode["flops"] < told["steps"]["eval greedy"]["flops"] / 40


def test_a_dry_run_tells_what_shapes_tell(precompile):
    told, printed = precompile("--topology=v5e:2x2", "--dry_run", "--gin.TRAINABLE=('.*',)", "--gin.BATCH_SIZE=4")
    step = told["steps"]["train"]
    assert step["held_bytes"]["frozen parameters"] == 0 < step["held_bytes"]["optimizer"]
    adapter = precompile("--topology=v5e:2x2", "--dry_run", "--gin.BATCH_SIZE=4", "--gin.TRAINABLE=('adapter/.*',)")[0]
    assert 1 < step["minimum_flops"] / adapter["steps"]["train"]["minimum_flops"] < 3
    assert "has to compute" in printed


def test_the_best_mesh_is_searched_for(precompile, monkeypatch):
    """Of stand-ins for compiled steps: one chip holds no copy, and what is split is the slower the longer its axis."""

    def compiled(step, network):
        mesh = network.mesh.shape
        if mesh["data"] == 4:
            raise ValueError("no room")
        return stand_in(network, fits=mesh["data"] == 1, seconds=float(mesh["fsdp"]))

    monkeypatch.setattr(search, "compile_step", compiled)
    told, printed = precompile("--topology=v5e:2x2", "--search")
    tried = [(row["mesh"], row["remat"], row["fits"], row["refused"]) for row in told["search"]]
    assert tried == [
        *(("data=4 fsdp=1 model=1 frozen=copied", remat, False, "no room") for remat in search.REMAT),
        ("data=1 fsdp=4 model=1 frozen=split", "none", True, ""),
        *(("data=2 fsdp=1 model=2 frozen=copied", remat, False, "") for remat in search.REMAT),
        ("data=1 fsdp=2 model=2 frozen=split", "none", True, ""),
        ("data=1 fsdp=1 model=4 frozen=copied", "", False, tried[-1][-1]),
    ]
    assert "'heads'" in tried[-1][-1]
    assert told["best"]["mesh"] == "data=1 fsdp=2 model=2 frozen=split"
    assert "peak used" in printed


def stand_in(network, *, fits, seconds):
    """A report of a step that was never compiled."""
    lowered = jax.jit(lambda x: x).lower(1.0)
    return report.Report(
        step="train",
        mesh=dict(network.mesh.shape),
        num_chips=network.num_devices,
        chip=network.chip,
        memory=memory.Memory({}, padding=0, output=0, activations=0, temporaries=0, program=2 - int(fits), hbm=1),
        operations=work.Operations(1, 1),
        minimum_flops=1,
        memory_bytes=1,
        collectives=[],
        roofline=roofline.Roofline(compute=seconds, memory=0.0, ici={}, dcn={}),
        trace_seconds=0.0,
        compile_seconds=0.0,
        compile_cpu_seconds=0.0,
        compiled=lowered.compile(),
        results=lowered.out_info,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--topology"),
        (("--topology=v5:4x4",), "unknown topology 'v5:4x4': .*v5e with 2 sizes"),
        (("--topology=v5e:2x2", "--steps=train,dance"), "--steps has dance: there are train, eval, decode"),
        (("--topology=v5e:2x4", "--gin.BATCH_SIZE=12"), "batch of 12 .* the 8 parts"),
        (
            ("--topology=v5e:2x2", "--gin.run.Training.num_microbatches=4"),
            "batch of 8, cut into 4 microbatches, .* the 4 parts .*multiple of 16",
        ),
        (("--topology=v5e:2x2", "--gin.partitioning.make_mesh.model=3"), "does not fit 4 devices: .* is 3"),
        (
            ("--topology=v5e:2x4", "--gin.partitioning.make_mesh.model=8"),
            "the axis 'heads' of .* has size 2, which is not a multiple of the 8 devices",
        ),
    ],
)
def test_bad_input_is_named(precompile, arguments, message):
    with pytest.raises(ValueError, match=message):
        precompile(*arguments)


@pytest.mark.tpu_aot
def test_libtpu_compiles_what_a_chip_runs(run_main, capsys):
    gin.clear_config()
    run_main("precompile", *TINY, "--topology=v5e:2x2", "--steps=decode", "--gin.partitioning.make_mesh.model=2")
    step = json.loads(capsys.readouterr().out.splitlines()[-1])["steps"]["decode"]
    assert step["chips"] == 4 and step["fits"] and step["memory_bytes"]["program"] > 0
    assert any(c["axes"] == "model" for c in step["collectives"])
