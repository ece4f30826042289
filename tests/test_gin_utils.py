"""The command line: T5X's flags, and what a bundle's own configuration may do."""

import gin
import pytest
import seqio
from absl import flags

from slm_jax import gin_utils
from slm_jax.data import sources
from slm_jax.training.bundle import BundleManifest


@pytest.fixture(autouse=True)
def command_line():
    """No flags given and an empty configuration."""
    gin.clear_config()
    flags.FLAGS(["test"])
    yield
    gin.clear_config()


def manifest(files=(), bindings=()):
    return BundleManifest(fingerprints={}, trainable_patterns=("adapter/.*",), gin_files=files, gin_bindings=bindings)


def test_bindings_are_rewritten_as_in_t5x():
    arguments = ["train.py", "--gin.MODEL_DIR='/tmp/run=1'", "--gin_file=a.gin", "--dry_run"]
    assert gin_utils.rewrite_arguments(arguments) == [
        "train.py",
        "--gin_bindings=MODEL_DIR = '/tmp/run=1'",
        "--gin_file=a.gin",
        "--dry_run",
    ]


def test_a_binding_without_a_value_is_an_error():
    with pytest.raises(ValueError, match="--gin.TRAIN_STEPS has no value"):
        gin_utils.rewrite_arguments(["train.py", "--gin.TRAIN_STEPS"])


@pytest.mark.parametrize("binding", ["TRAIN_STEP = %UNKNOWN", "run.Training.model_dirs = 'x'"])
def test_unknown_names_are_errors(binding):
    with pytest.raises((ValueError, AttributeError), match="UNKNOWN|model_dirs"):
        gin_utils.parse_configuration(["models/text.gin", "runs/train.gin"], [binding])
        gin.query_parameter("TRAIN_STEP/gin.macro.value").scoped_configurable_fn()


@pytest.fixture
def bound():
    """Bindings of the command line."""

    def bind(*bindings):
        flags.FLAGS(["test", *(f"--gin_bindings={binding}" for binding in bindings)])

    yield bind
    flags.FLAGS["gin_bindings"].unparse()


def test_a_misspelt_macro_is_an_error_that_names_the_nearest(bound):
    bound("TRAIN_STEP = 5")
    with pytest.raises(ValueError, match="do not use TRAIN_STEP: did you mean TRAIN_STEPS"):
        gin_utils.parse_configuration(["models/text.gin", "runs/train.gin"])


def test_a_macro_that_only_another_binding_uses_is_known(bound):
    bound("MODEL_DIR = ''", "STEPS = 5", "TRAIN_STEPS = %STEPS", "run.Training.log_period = 7")
    gin_utils.parse_configuration(["experiments/scenes_lm.gin"])
    assert gin_utils.macro("TRAIN_STEPS") == 5
    assert "run.Training.log_period = 7" in gin.config_str()


def test_folders_of_the_user_with_names_of_gin_folders_are_in_nobodys_way(bound, monkeypatch, tmp_path):
    for name in ("runs", "models", "tasks"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does
    bound("MODEL_DIR = 'runs/mine'")
    gin_utils.parse_configuration(["experiments/scenes_lm.gin"])
    assert gin_utils.macro("MODEL_DIR") == "runs/mine"


def test_folders_of_the_command_line_are_where_data_are_read():
    flags.FLAGS(["test", "--tfds_data_dir=/prepared", "--seqio_additional_cache_dirs=/one,/two"])
    try:
        gin_utils.parse_configuration(["models/lms/t5_tiny.gin"])
        assert sources.tfds_folder() == "/prepared"
        assert seqio.get_global_cache_dirs() == ["/one", "/two"]
    finally:
        seqio.set_tfds_data_dir_override(None)
        seqio.set_global_cache_dirs([])
    assert sources.tfds_folder() is None


def test_a_missing_gin_file_is_named():
    with pytest.raises(OSError, match=r"experiments/none\.gin"):
        gin_utils.parse_configuration(["experiments/none.gin"])


def test_a_bundle_is_read_with_files_that_ship():
    gin_utils.parse_configuration_of(manifest(("gin/models/lms/t5_tiny.gin",), ("BATCH_SIZE = 3",)))
    assert gin.query_parameter("BATCH_SIZE/gin.macro.value") == 3


@pytest.mark.parametrize(
    ("files", "bindings"),
    [
        ((), ()),
        (("../setup.py",), ()),
        (("/tmp/own.gin",), ()),
        (("models/lms/t5_tiny.gin",), ("X = @os.system()",)),
        (("models/lms/t5_tiny.gin",), ("X = 1\nimport os",)),
    ],
)
def test_a_bundle_cannot_name_other_files_or_call_anything(files, bindings):
    with pytest.raises(ValueError, match="--gin_file"):
        gin_utils.parse_configuration_of(manifest(files, bindings))


def test_files_of_the_command_line_come_before_those_of_the_bundle():
    flags.FLAGS(["test", "--gin_file=experiments/scenes_lm.gin", "--gin_bindings=BATCH_SIZE = 5"])
    gin_utils.parse_configuration_of(manifest(("/tmp/own.gin",), ("BATCH_SIZE = 3",)))
    assert gin.query_parameter("BATCH_SIZE/gin.macro.value") == 5
    assert gin.query_parameter("MODEL_DIR/gin.macro.value") == ""
    flags.FLAGS.unparse_flags()
    flags.FLAGS["gin_file"].unparse()
    flags.FLAGS["gin_bindings"].unparse()
