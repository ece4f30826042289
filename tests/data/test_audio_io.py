"""Audio of any format, rate and number of channels; every kind of bad audio gives one clear error."""

import io
import pathlib

import numpy as np
import pytest
import soundfile

from slm_jax.data import audio_io


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def write(path: pathlib.Path, samples: np.ndarray, rate: int = 16000, **options: str) -> pathlib.Path:
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_lossless_formats_at_the_wanted_rate_come_back_to_16_bits(tmp_path: pathlib.Path, suffix: str) -> None:
    samples = audio_io.read_audio(write(tmp_path / f"a{suffix}", tone(16000)))
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, tone(16000), atol=2**-15)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_and_formats_keep_the_tone(tmp_path: pathlib.Path, suffix: str, rate: int) -> None:
    samples = audio_io.read_audio(write(tmp_path / f"a{suffix}", tone(rate), rate))
    assert len(samples) == pytest.approx(8000, abs=1)
    inner = slice(1000, 7000)
    error = samples[inner] - tone(16000)[inner]
    assert np.sqrt(np.mean(error**2)) < 0.01


def test_channels_are_averaged(tmp_path: pathlib.Path) -> None:
    stereo = np.stack([tone(44100), -0.5 * tone(44100)], axis=1)
    mono = write(tmp_path / "mono.wav", 0.25 * tone(44100), 44100, subtype="FLOAT")
    both = write(tmp_path / "both.wav", stereo, 44100, subtype="FLOAT")
    np.testing.assert_allclose(audio_io.read_audio(both), audio_io.read_audio(mono), atol=1e-6)


def test_bytes_read_like_the_file(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.flac", tone(8000), 8000)
    np.testing.assert_array_equal(audio_io.read_audio(path.read_bytes()), audio_io.read_audio(str(path)))


def test_sample_rate_sets_the_rate(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.wav", tone(16000))
    assert len(audio_io.read_audio(path, sample_rate=8000)) == 4000


def test_overshoot_is_clipped(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.wav", np.array([1.5, -2.0, 0.5]), subtype="FLOAT")
    np.testing.assert_array_equal(audio_io.read_audio(path), np.array([1.0, -1.0, 0.5], np.float32))


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.wav"):
        audio_io.read_audio(tmp_path / "nowhere.wav")


@pytest.mark.parametrize("content", [b"", b"no sound at all", b"RIFF\x00\x00\x00\x00WAVE"])
def test_a_corrupt_file_is_named(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    with pytest.raises(audio_io.AudioError, match="Cannot decode .*broken.wav"):
        audio_io.read_audio(path)


def test_corrupt_bytes_are_refused() -> None:
    with pytest.raises(audio_io.AudioError, match="Cannot decode audio bytes"):
        audio_io.read_audio(b"fLaC but not really")


def test_a_truncated_file_is_refused(tmp_path: pathlib.Path) -> None:
    whole = write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-1, 1, 16000)).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(audio_io.AudioError, match="cut.flac"):
        audio_io.read_audio(tmp_path / "cut.flac")


def test_an_empty_recording_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(audio_io.AudioError, match="holds no samples"):
        audio_io.read_audio(write(tmp_path / "a.wav", np.zeros(0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: pathlib.Path, bad: float) -> None:
    with pytest.raises(audio_io.AudioError, match="NaN or infinite samples, the first at index 2"):
        audio_io.read_audio(write(tmp_path / "a.wav", np.array([0.0, 0.1, bad, 0.2]), subtype="FLOAT"))


def test_unscaled_samples_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(audio_io.AudioError, match="up to 20000"):
        audio_io.read_audio(write(tmp_path / "a.wav", np.array([0.0, 20000.0]), subtype="FLOAT"))


def test_nonsense_rates_are_refused(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.wav", tone(16000))
    for rate in (0, -16000, 10):
        with pytest.raises(audio_io.AudioError, match="sample rate asked for"):
            audio_io.read_audio(path, sample_rate=rate)
    with pytest.raises(audio_io.AudioError, match="the sample rate of .* is 100 Hz"):
        audio_io.read_audio(write(tmp_path / "slow.wav", tone(16000), 100))


def test_bytes_need_no_file() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(16000), 16000, format="WAV")
    assert len(audio_io.read_audio(buffer.getvalue())) == 8000
