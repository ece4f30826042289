"""Fingerprints change with contents and with nothing else."""

import hashlib

import ml_dtypes
import numpy as np
import pytest

from slm_jax.weights import fingerprints


@pytest.fixture
def params() -> dict:
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(3, 4)).astype(ml_dtypes.bfloat16)
    return {"encoder": {"kernel": kernel, "bias": np.zeros(4, ml_dtypes.bfloat16)}, "scale": np.ones((), np.float32)}


def test_the_type_that_weights_are_held_in_does_not_count(params):
    as_float32 = {"encoder": {k: v.astype(np.float32) for k, v in params["encoder"].items()}, "scale": params["scale"]}
    assert fingerprints.fingerprint(as_float32) == fingerprints.fingerprint(params)


def test_the_order_of_names_and_of_memory_does_not_count(params):
    encoder = params["encoder"]
    other = {
        "scale": params["scale"],
        "encoder": {"bias": encoder["bias"], "kernel": np.asfortranarray(encoder["kernel"])},
    }
    assert fingerprints.fingerprint(other) == fingerprints.fingerprint(params)


def test_it_is_the_documented_hash_and_never_changes():
    params = {"a": {"b": np.asarray([[1.0, -2.0]], np.float32)}}
    bfloat16_little_endian = bytes.fromhex("803f 00c0")
    tensor = hashlib.sha256(bfloat16_little_endian).hexdigest()
    assert fingerprints.fingerprint(params) == "sha256:" + hashlib.sha256(f"a/b (1, 2) {tensor}\n".encode()).hexdigest()


@pytest.mark.parametrize("change", ["value", "name", "shape", "swap", "missing"])
def test_every_change_shows(change, params):
    before = fingerprints.fingerprint(params)
    encoder = params["encoder"]
    if change == "value":
        encoder["kernel"] = encoder["kernel"].copy()
        encoder["kernel"][2, 3] += 1
    elif change == "name":
        encoder["weight"] = encoder.pop("kernel")
    elif change == "shape":
        encoder["kernel"] = encoder["kernel"].reshape(4, 3)
    elif change == "swap":
        params["other"] = params.pop("encoder")
    else:
        del encoder["bias"]
    assert fingerprints.fingerprint(params) != before


def test_a_tensor_is_hashed_in_pieces_to_the_same_result(params, monkeypatch):
    before = fingerprints.fingerprint(params)
    monkeypatch.setattr(fingerprints, "_CHUNK", 5)
    assert fingerprints.fingerprint(params) == before


def test_integers_have_no_fingerprint():
    with pytest.raises(ValueError, match="'counts/n' is int32"):
        fingerprints.fingerprint({"counts": {"n": np.ones(2, np.int32)}})


def test_files(tmp_path):
    (tmp_path / "a.model").write_bytes(b"pieces")
    (tmp_path / "b.model").write_bytes(b"pieces")
    (tmp_path / "c.model").write_bytes(b"Pieces")
    a, b, c = (fingerprints.fingerprint_file(tmp_path / f"{name}.model") for name in "abc")
    assert a == b != c
    with pytest.raises(FileNotFoundError, match="d.model"):
        fingerprints.fingerprint_file(tmp_path / "d.model")


def test_configurations_differ_by_words_not_by_blank_space():
    base = fingerprints.fingerprint_config("num_mels = 80\nhop = 160\n")
    assert fingerprints.fingerprint_config("\r\n  num_mels = 80  \r\n\r\nhop = 160") == base
    assert fingerprints.fingerprint_config("num_mels = 128\nhop = 160\n") != base


def test_short_form_fits_a_line():
    assert fingerprints.shorten("sha256:" + "0123456789abcdef" * 4) == "sha256:0123456789ab"
