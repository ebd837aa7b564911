"""Audio comes in from any common file and goes out whole."""

import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from echox_jax import audio
from echox_jax.errors import AudioError


def tone(rate: int, seconds: float = 0.5, hz: float = 440.0) -> np.ndarray:
  return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize('rate', [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize('channels', [1, 2, 6])
def test_any_rate_and_channel_count_gives_the_same_mono_wave(tmp_path, rate, channels):
  path = tmp_path / 'a.wav'
  soundfile.write(path, np.stack([tone(rate)] * channels, 1), rate, subtype='PCM_24')
  wave = audio.load_audio(path)
  assert wave.dtype == np.float32 and wave.shape == (8000,)
  np.testing.assert_allclose(wave[800:-800], tone(16000)[800:-800], atol=2e-3)


@pytest.mark.parametrize(
  'name,subtype', [('a.flac', 'PCM_16'), ('a.ogg', 'VORBIS'), ('a.mp3', None), ('a.aiff', 'PCM_16')]
)
def test_common_formats(tmp_path, name, subtype):
  soundfile.write(tmp_path / name, tone(32000, 1.0), 32000, subtype=subtype)
  wave = audio.load_audio(tmp_path / name)
  assert abs(len(wave) - 16000) < 2000
  assert abs(np.std(wave[2000:12000]) - 0.5 / np.sqrt(2)) < 0.02


@pytest.mark.skipif(shutil.which('ffmpeg') is None, reason='ffmpeg is not installed')
def test_formats_that_only_ffmpeg_reads(tmp_path):
  soundfile.write(tmp_path / 'a.wav', tone(44100, 1.0), 44100)
  subprocess.run(
    ['ffmpeg', '-v', 'error', '-i', tmp_path / 'a.wav', tmp_path / 'a.m4a'], check=True
  )
  wave = audio.load_audio(tmp_path / 'a.m4a')
  assert abs(len(wave) - 16000) < 2000 and np.std(wave[2000:12000]) > 0.3


def test_int16_files_survive_a_round_trip_exactly(tmp_path):
  samples = np.random.default_rng(0).integers(-32768, 32768, 4000).astype(np.int16)
  path = audio.write_wav(tmp_path / 'deep' / 'a.wav', samples)
  np.testing.assert_array_equal(audio.to_int16(audio.load_audio(path)), samples)
  np.testing.assert_array_equal(audio.to_int16(audio.from_int16(samples)), samples)
  assert [p.name for p in path.parent.iterdir()] == ['a.wav']


def test_loud_waves_are_clipped_and_nan_is_refused(tmp_path):
  np.testing.assert_array_equal(
    audio.to_int16(np.array([-3.0, -1.0, 0.0, 1.0, 7.0])), [-32768, -32768, 0, 32767, 32767]
  )
  with pytest.raises(AudioError, match='not finite'):
    audio.write_wav(tmp_path / 'a.wav', np.array([0.0, np.nan]))
  assert not list(tmp_path.iterdir())


def test_bad_files_give_one_clear_error(tmp_path):
  with pytest.raises(AudioError, match='no audio file'):
    audio.load_audio(tmp_path / 'none.wav')
  with pytest.raises(AudioError, match='no audio file'):
    audio.load_audio(tmp_path)
  (tmp_path / 'empty.wav').touch()
  with pytest.raises(AudioError, match='is empty'):
    audio.load_audio(tmp_path / 'empty.wav')
  (tmp_path / 'text.wav').write_text('this is not audio' * 50)
  with pytest.raises(AudioError, match='damaged'):
    audio.load_audio(tmp_path / 'text.wav')
  audio.write_wav(tmp_path / 'header_only.wav', np.zeros(0))
  with pytest.raises(AudioError, match='no samples'):
    audio.load_audio(tmp_path / 'header_only.wav')
  soundfile.write(tmp_path / 'nan.wav', np.array([0.0, np.nan, np.inf]), 16000, subtype='FLOAT')
  with pytest.raises(AudioError, match='not finite'):
    audio.load_audio(tmp_path / 'nan.wav')


def test_without_ffmpeg_the_error_names_it(tmp_path, monkeypatch):
  (tmp_path / 'a.webm').write_bytes(b'\x1aE\xdf\xa3' * 100)
  monkeypatch.setattr(audio.shutil, 'which', lambda _: None)
  with pytest.raises(AudioError, match='install ffmpeg'):
    audio.load_audio(tmp_path / 'a.webm')


def test_silence():
  noise = np.random.default_rng(0).normal(size=16000)
  assert (
    audio.is_silent(np.zeros(16000))
    and audio.is_silent(np.zeros(0))
    and audio.is_silent(np.full(16000, 0.3))
  )
  assert audio.is_silent(noise * 1e-4)
  assert not audio.is_silent(noise * 1e-2)
  short_word = np.concatenate([np.zeros(160000), 0.05 * noise[:1600], np.zeros(160000)])
  assert not audio.is_silent(short_word)
