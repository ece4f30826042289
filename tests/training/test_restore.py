"""Every parameter comes from the first place that has it, and nothing is silently left random."""

import dataclasses
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees
from slm_jax.training import bundle as bundles
from slm_jax.training import restore
from slm_jax.training.bundle import Bundle, BundleManifest, IncompatibleBundleError
from slm_jax.training.checkpoints import Checkpoint, Checkpoints
from slm_jax.training.restore import RestoreError, Supply
from slm_jax.weights import foundation
from slm_jax.weights.safetensors_io import WeightFileError

PATHS = {
    "speech_encoder/conv/kernel": (3, 2),
    "adapter/in/kernel": (2, 4),
    "adapter/out/kernel": (4, 4),
    "lm/embed/table": (6, 4),
    "lm/lora/a": (4, 1),
}
ADAPTER = ("adapter/.*",)
ADAPTER_AND_LORA = ("adapter/.*", "lm/lora/.*")


def filled(value: float, pattern: str = ".*") -> dict:
    """Parameters whose paths match, all of one value, which tells where they came from."""
    chosen = {path: shape for path, shape in PATHS.items() if trees.matches(path, (pattern,))}
    return trees.unflatten({path: np.full(shape, value, np.float32) for path, shape in chosen.items()})


SHAPES = foundation.abstract(filled(0))
CHECKPOINT, INITIAL, SOURCE, INITIALISED = 1.0, 2.0, 4.0, 8.0


def init_fn(paths):
    flat = trees.flatten(filled(INITIALISED))
    return {path: flat[path] for path in paths}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Foundation models; the language model comes without LoRA, as published ones do."""
    folder = tmp_path_factory.mktemp("foundation")
    for component, pattern in {"speech_encoder": "speech_encoder/.*", "lm": "lm/embed/.*"}.items():
        path = folder / f"{component}.safetensors"
        provenance = foundation.Provenance(licence="Apache-2.0")
        params = filled(SOURCE, pattern)[component]
        foundation.export_component(params, path=path, component=component, provenance=provenance)
    return folder


@pytest.fixture
def arguments(folder) -> dict:
    """The usual start: everything frozen has a source, the adapter and LoRA are new."""
    sources = {"speech_encoder": folder, "lm": folder}
    return {"trainable_patterns": ADAPTER_AND_LORA, "sources": sources, "init_fn": init_fn}


def values(assembled: restore.AssembledParameters) -> dict[str, float]:
    return {path: float(np.asarray(leaf).flat[0]) for path, leaf in trees.flatten(assembled.parameters).items()}


def test_frozen_parts_come_from_their_sources_and_trained_ones_are_initialised(arguments):
    assembled = restore.assemble_parameters(SHAPES, **arguments)
    assert values(assembled) == {
        "speech_encoder/conv/kernel": SOURCE,
        "adapter/in/kernel": INITIALISED,
        "adapter/out/kernel": INITIALISED,
        "lm/embed/table": SOURCE,
        "lm/lora/a": INITIALISED,
    }
    assert jax.tree.structure(assembled.parameters) == jax.tree.structure(SHAPES)


def test_the_order_is_checkpoint_initial_source_initialise(arguments):
    checkpoint = Supply("own checkpoint", filled(CHECKPOINT, "adapter/.*|lm/lora/.*"))
    initial = Supply("another run", filled(INITIAL, "adapter/.*|lm/.*"))
    assembled = restore.assemble_parameters(SHAPES, **arguments, checkpoint=checkpoint, initial=initial)
    assert values(assembled) == {
        "speech_encoder/conv/kernel": SOURCE,
        "adapter/in/kernel": CHECKPOINT,
        "adapter/out/kernel": CHECKPOINT,
        "lm/embed/table": INITIAL,
        "lm/lora/a": CHECKPOINT,
    }
    assembled = restore.assemble_parameters(SHAPES, **arguments, initial=initial)
    assert values(assembled)["adapter/in/kernel"] == values(assembled)["lm/lora/a"] == INITIAL


def test_a_trained_component_starts_from_its_source(arguments):
    arguments["trainable_patterns"] = ("adapter/.*", "lm/.*")
    assembled = values(restore.assemble_parameters(SHAPES, **arguments))
    assert (assembled["lm/embed/table"], assembled["lm/lora/a"]) == (SOURCE, INITIALISED)


def test_a_source_that_is_not_needed_is_not_read(arguments, tmp_path):
    arguments["sources"] = {"speech_encoder": tmp_path / "nowhere", "lm": tmp_path / "nowhere"}
    assembled = restore.assemble_parameters(SHAPES, **arguments, initial=Supply("all of it", filled(INITIAL)))
    assert set(values(assembled).values()) == {INITIAL}


def test_parameters_come_in_the_dtypes_of_the_shapes(arguments):
    narrow = foundation.abstract(SHAPES, jnp.bfloat16)
    initial = Supply("another run", filled(INITIAL, "adapter/.*"))
    assembled = restore.assemble_parameters(narrow, **arguments, initial=initial)
    assert {leaf.dtype for leaf in jax.tree.leaves(assembled.parameters)} == {jnp.dtype(jnp.bfloat16)}


def test_a_frozen_parameter_is_never_left_random(arguments):
    arguments["sources"] = {"speech_encoder": arguments["sources"]["speech_encoder"]}
    with pytest.raises(RestoreError, match=r"frozen parameters would be random.* \(1\): lm/embed/table") as error:
        restore.assemble_parameters(SHAPES, **arguments)
    assert "missing" in str(error.value) and "speech_encoder" in str(error.value), "the report comes with the error"


def test_a_frozen_parameter_that_its_source_lacks_is_an_error_of_the_source(arguments):
    arguments["trainable_patterns"] = ADAPTER
    with pytest.raises(WeightFileError, match=r"missing \(1\): lora/a"):
        restore.assemble_parameters(SHAPES, **arguments)


def test_frozen_parameters_may_be_random_if_they_are_named(arguments):
    arguments |= {"trainable_patterns": ADAPTER, "allow_random": ("lm/lora/.*",)}
    assert values(restore.assemble_parameters(SHAPES, **arguments))["lm/lora/a"] == INITIALISED


def test_for_inference_nothing_is_initialised(arguments):
    arguments["init_fn"] = None
    with pytest.raises(RestoreError, match=r"nothing may be initialised here.* \(3\): adapter/in/kernel, adapter/out"):
        restore.assemble_parameters(SHAPES, **arguments)
    initial = Supply("bundle", filled(INITIAL, "adapter/.*|lm/lora/.*"))
    assert INITIALISED not in values(restore.assemble_parameters(SHAPES, **arguments, initial=initial)).values()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda flat: flat.pop("lm/lora/a"), r"own checkpoint: missing \(1\): lm/lora/a"),
        (lambda flat: flat.update({"adapter/old": np.ones(2)}), r"own checkpoint: unexpected \(1\): adapter/old"),
        (lambda flat: flat.update({"lm/embed/table": np.ones((6, 4))}), r"unexpected \(1\): lm/embed/table"),
        (
            lambda flat: flat.update({"lm/lora/a": np.ones((4, 2))}),
            r"wrong shape \(1\): lm/lora/a is \(4, 2\), needs \(4, 1\)",
        ),
    ],
)
def test_the_runs_own_checkpoint_holds_exactly_what_is_trained(change, message, arguments):
    flat = trees.flatten(filled(CHECKPOINT, "adapter/.*|lm/lora/.*"))
    change(flat)
    with pytest.raises(RestoreError, match=message):
        restore.assemble_parameters(SHAPES, **arguments, checkpoint=Supply("own checkpoint", trees.unflatten(flat)))


def test_what_an_initial_checkpoint_has_and_the_model_lacks_is_an_error_unless_allowed(arguments):
    offered = trees.flatten(filled(INITIAL, "adapter/.*")) | {"adapter/old/kernel": np.ones((2, 2), np.float32)}
    initial = Supply("another run", trees.unflatten(offered))
    with pytest.raises(RestoreError, match=r"another run: unexpected \(1\): adapter/old/kernel"):
        restore.assemble_parameters(SHAPES, **arguments, initial=initial)
    assembled = restore.assemble_parameters(SHAPES, **arguments, initial=initial, allow_unexpected=("adapter/.*",))
    assert assembled.report.paths("unexpected") == ["adapter/old/kernel"]
    assert values(assembled)["adapter/in/kernel"] == INITIAL, "a pattern never keeps out what the model has"


def test_an_initial_checkpoint_of_another_shape_is_an_error(arguments):
    initial = Supply("another run", {"adapter": {"in": {"kernel": np.ones((2, 5), np.float32)}}})
    with pytest.raises(RestoreError, match=r"another run: wrong shape \(1\): adapter/in/kernel is \(2, 5\), needs"):
        restore.assemble_parameters(SHAPES, **arguments, initial=initial)


def test_a_component_is_not_half_loaded_unless_the_rest_is_named(arguments):
    initial = Supply("another run", filled(INITIAL, "adapter/in/.*"))
    with pytest.raises(RestoreError, match=r"only a part of a component.* \(1\): adapter/out/kernel"):
        restore.assemble_parameters(SHAPES, **arguments, initial=initial)
    assembled = restore.assemble_parameters(SHAPES, **arguments, initial=initial, allow_random=("adapter/out/.*",))
    assert (values(assembled)["adapter/in/kernel"], values(assembled)["adapter/out/kernel"]) == (INITIAL, INITIALISED)


def test_all_reasons_are_told_at_once(arguments):
    arguments["sources"] = {}
    initial = Supply("another run", {"adapter": {"old": np.ones(2, np.float32)}})
    with pytest.raises(RestoreError, match=r"(?s)unexpected.*would be random.*only a part"):
        restore.assemble_parameters(SHAPES, **arguments, initial=initial)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"trainable_patterns": ("adaptor/.*",)}, r"adaptor/\.\*.* matches none"),
        ({"allow_random": ("lm/lota/.*",)}, r"lm/lota/\.\*.* matches none"),
        ({"sources": {"encoder": "shipped"}}, r"sources for \['encoder'\], but the model's components are"),
    ],
)
def test_misspelled_names_are_refused(change, message, arguments):
    with pytest.raises(ValueError, match=message):
        restore.assemble_parameters(SHAPES, **(arguments | change))


def test_the_report_says_where_each_component_came_from(arguments):
    initial = Supply("bundle of run 7", filled(INITIAL, "adapter/.*"))
    report = restore.assemble_parameters(SHAPES, **arguments, initial=initial).report
    facts = [(e.component, e.status, e.origin, e.trained, len(e.sizes), sum(e.sizes.values())) for e in report.entries]
    source = str(arguments["sources"]["lm"])
    assert facts == [
        ("adapter", "loaded", "bundle of run 7", True, 2, 24),
        ("lm", "loaded", source, False, 1, 24),
        ("lm", "initialised", "", True, 1, 4),
        ("speech_encoder", "loaded", source, False, 1, 6),
    ]
    lines = report.table().splitlines()
    assert any(
        all(word in line for word in ("adapter", "loaded", "bundle of run 7", "trained", "24")) for line in lines
    )
    assert any(all(word in line for word in ("lm", "initialised", "trained", "4")) for line in lines)
    assert report.paths("initialised") == ["lm/lora/a"] and report.problems == ()


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(nn.initializers.normal(), ("embed", "mlp"))
        a = self.param("a", init, (2, 3))
        return x @ a @ self.param("b", init, (3, 2))


def test_the_initialiser_gives_the_models_own_values_for_the_asked_paths():
    def init():
        return {"adapter": Boxed().init(jax.random.key(0), jnp.ones((1, 2)))["params"]}

    found = restore.initialiser(init)(["adapter/b"])
    assert found.keys() == {"adapter/b"}
    np.testing.assert_allclose(found["adapter/b"], nn.meta.unbox(init())["adapter"]["b"], rtol=1e-5)


def test_an_initialiser_of_another_model_is_refused(arguments):
    arguments["init_fn"] = lambda paths: {path: np.ones(3, np.float32) for path in paths}
    with pytest.raises(RestoreError, match=r"initialiser gave other parameters.*\n.*wrong shape \(3\)"):
        restore.assemble_parameters(SHAPES, **arguments)


MANIFEST = BundleManifest(fingerprints={"lm": "sha256:0"}, trainable_patterns=ADAPTER, step=5)


@pytest.fixture(scope="module")
def model_dirs(tmp_path_factory) -> pathlib.Path:
    """One MODEL_DIR with a bundle only, one with checkpoints only, one with both."""
    root = tmp_path_factory.mktemp("runs")
    adapter = filled(INITIAL, "adapter/.*")
    for name in ("bundle_only", "both"):
        bundles.save_bundle(Bundle(adapter, MANIFEST), directory=root / name / "bundle")
    for name in ("checkpoints_only", "both"):
        writer = Checkpoints(root / name / "checkpoints")
        for step in (1, 2):
            trainable = jax.tree.map(jnp.asarray, filled(float(step), "adapter/.*"))
            writer.save(Checkpoint(step, trainable, {}, seed=0, data_position={}, manifest=MANIFEST.to_json()))
        writer.close()
    return root


@pytest.mark.parametrize(
    "path, kind, value",
    [
        ("bundle_only", "bundle", INITIAL),
        ("bundle_only/bundle", "bundle", INITIAL),
        ("both", "bundle", INITIAL),
        ("both/checkpoints", "checkpoint", 2.0),
        ("checkpoints_only", "checkpoint", 2.0),
        ("checkpoints_only/checkpoints/1", "checkpoint", 1.0),
    ],
)
def test_an_initial_checkpoint_is_a_bundle_or_checkpoints(path, kind, value, model_dirs):
    supply = restore.read_initial(model_dirs / path)
    assert supply.origin.startswith(f"{kind} {model_dirs / path}, step")
    assert {float(np.asarray(leaf).flat[0]) for leaf in jax.tree.leaves(supply.parameters)} == {value}
    assert dataclasses.replace(supply.manifest, parameters_fingerprint="") == MANIFEST


def test_an_initial_checkpoint_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name} is not a bundle, a MODEL_DIR, a folder of check"):
        restore.read_initial(tmp_path)


def test_frozen_fingerprints_follow_the_frozen_parameters_only():
    base = filled(1)
    before = restore.frozen_fingerprints(base, trainable_patterns=ADAPTER_AND_LORA)
    assert before.keys() == {"speech_encoder", "lm"}
    trained = trees.unflatten(trees.flatten(base) | trees.flatten(filled(3, "adapter/.*|lm/lora/.*")))
    assert restore.frozen_fingerprints(trained, trainable_patterns=ADAPTER_AND_LORA) == before
    other = trees.unflatten(trees.flatten(base) | trees.flatten(filled(3, "lm/embed/.*")))
    after = restore.frozen_fingerprints(other, trainable_patterns=ADAPTER_AND_LORA)
    assert after["lm"] != before["lm"] and after["speech_encoder"] == before["speech_encoder"]


def initial_of(trained: str, *, patterns: tuple[str, ...], known: str = ".*") -> Supply:
    """An initial checkpoint whose run saw frozen parts with the sources' values."""
    params = filled(SOURCE, known)
    fingerprints = {"vocabulary": "sha256:1"} | restore.frozen_fingerprints(params, trainable_patterns=patterns)
    return Supply("another run", filled(INITIAL, trained), BundleManifest(fingerprints, patterns))


@pytest.mark.parametrize(
    "then, now",
    [
        (ADAPTER, ADAPTER_AND_LORA),
        (ADAPTER, ("adapter/.*", "lm/.*")),
        (ADAPTER_AND_LORA, ADAPTER_AND_LORA),
        (("adapter/.*", "lm/.*"), ADAPTER),
    ],
    ids=["LoRA is new", "the language model is trained now", "the same", "the language model was trained then"],
)
def test_an_initial_checkpoint_may_have_trained_another_selection(then, now, arguments):
    known = ".*" if then != ADAPTER else "speech_encoder/.*|adapter/.*|lm/embed/.*"
    initial = initial_of("|".join(then), patterns=then, known=known)
    assembled = restore.assemble_parameters(SHAPES, **(arguments | {"trainable_patterns": now}), initial=initial)
    restore.check_initial(initial, assembled, identity={"vocabulary": "sha256:1"})
    with pytest.raises(IncompatibleBundleError, match="vocabulary: trained with sha256:1, loaded sha256:2"):
        restore.check_initial(initial, assembled, identity={"vocabulary": "sha256:2"})


def test_an_initial_checkpoint_of_other_frozen_weights_is_refused(arguments):
    initial = initial_of("adapter/.*", patterns=ADAPTER, known="speech_encoder/.*|lm/embed/.*")
    assembled = restore.assemble_parameters(SHAPES, **arguments, initial=initial)
    other = trees.unflatten(trees.flatten(assembled.parameters) | trees.flatten(filled(5.0, "lm/embed/.*")))
    with pytest.raises(IncompatibleBundleError, match="lm: trained with"):
        changed = dataclasses.replace(assembled, parameters=other)
        restore.check_initial(initial, changed, identity={"vocabulary": "sha256:1"})


def test_an_initial_checkpoint_without_a_manifest_is_not_checked(arguments):
    initial = Supply("plain parameters", filled(INITIAL, "adapter/.*"))
    restore.check_initial(initial, restore.assemble_parameters(SHAPES, **arguments, initial=initial), identity={})
