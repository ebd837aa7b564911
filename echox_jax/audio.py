"""Audio input: any file -> mono float32 at 16 kHz. Audio output: 16-bit wav at 16 kHz."""

import io
import os
import pathlib
import shutil
import subprocess

import numpy as np
import soundfile
import soxr

from echox_jax import rates, storage
from echox_jax.errors import AudioError

# anything quieter counts as silence; room noise of a live microphone is usually louder
SILENCE_DBFS = -60.0


def load_audio(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads an audio file of any rate, channel count and common format.

  soundfile reads wav, flac, ogg, mp3 and more. Other formats (m4a, webm, ...) go through ffmpeg if
  it is installed.

  Returns:
    float32[samples], mono (mean of the channels), 16 kHz, within about [-1, 1].

  Raises:
    AudioError: the file is missing, is not audio, has no samples, or has non-finite samples.
  """
  path = storage.path(path)
  if not storage.is_file(path):
    raise AudioError(f'there is no audio file {path}: check the path.')
  with storage.local(path) as file:
    if not file.stat().st_size:
      raise AudioError(f'the audio file {path} is empty: record it again.')
    try:
      samples, rate = soundfile.read(file, dtype='float32', always_2d=True)
    except soundfile.SoundFileError:
      samples, rate = _read_with_ffmpeg(file, str(path)), rates.SAMPLE_RATE
  return to_mono_16k(samples, rate, name=str(path))


def decode(data: bytes, *, name: str = 'the recording') -> np.ndarray:
  """Like `load_audio`, but takes the bytes of a file that soundfile can read.

  Raises:
    AudioError: the data is damaged or `to_mono_16k` rejects it.
  """
  try:
    samples, rate = soundfile.read(io.BytesIO(data), dtype='float32', always_2d=True)
  except soundfile.SoundFileError as error:
    raise AudioError(f'{name} is damaged ({error}): copy it again.') from error
  return to_mono_16k(samples, rate, name=name)


def to_mono_16k(samples: np.ndarray, rate: int, *, name: str = 'the audio') -> np.ndarray:
  """float[samples] or float[samples,channels] at `rate` Hz -> float32[samples], mono, 16 kHz.

  Integer input is scaled to [-1, 1).

  Raises:
    AudioError: there are no samples, or some are not finite.
  """
  samples = np.asarray(samples)
  if np.issubdtype(samples.dtype, np.integer):
    samples = samples / (np.iinfo(samples.dtype).max + 1)
  samples = samples.astype(np.float32)
  if samples.ndim == 2:
    samples = samples.mean(axis=1)
  if not samples.size:
    raise AudioError(f'{name} holds no samples: record it again.')
  if not np.isfinite(samples).all():
    raise AudioError(
      f'{name} holds samples that are not finite numbers: export it again, best as 16-bit wav.'
    )
  if rate != rates.SAMPLE_RATE:
    samples = soxr.resample(samples, rate, rates.SAMPLE_RATE)
  return np.ascontiguousarray(samples, np.float32)


def is_silent(wave: np.ndarray, *, threshold_dbfs: float = SILENCE_DBFS) -> bool:
  """Returns whether every 20 ms frame of float[samples] at 16 kHz has an RMS level below
  `threshold_dbfs` (dB relative to full scale).
  """
  frame = rates.SAMPLE_RATE // 50
  wave = np.asarray(wave, np.float64)
  wave = np.pad(wave, (0, -len(wave) % frame))
  power = (
    np.square(wave - wave.mean()).reshape(-1, frame).mean(axis=1) if len(wave) else np.zeros(1)
  )
  return bool(power.max() < 10 ** (threshold_dbfs / 10))


def to_int16(wave: np.ndarray) -> np.ndarray:
  """float[samples] in [-1, 1] -> int16[samples]; louder samples are clipped.

  Raises:
    AudioError: some samples are not finite.
  """
  wave = np.asarray(wave, np.float32)
  if not np.isfinite(wave).all():
    raise AudioError(
      'the audio to be written holds samples that are not finite: the model that '
      'made it has diverged.'
    )
  return np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
  """int16[samples] -> float32[samples] in [-1, 1)."""
  return np.asarray(samples, np.float32) / 32768.0


def write_wav(
  path: str | os.PathLike[str], wave: np.ndarray, rate: int = rates.SAMPLE_RATE
) -> storage.Path:
  """Writes float[samples] in [-1, 1] (clipped) or int16[samples] atomically as 16-bit mono wav.

  Raises:
    AudioError: some samples are not finite.
    OSError: the destination is not writable or full.
  """
  import wave as wav_format

  samples = wave if np.asarray(wave).dtype == np.int16 else to_int16(wave)
  buffer = io.BytesIO()
  with wav_format.open(buffer, 'wb') as f:
    f.setnchannels(1)
    f.setsampwidth(2)
    f.setframerate(rate)
    f.writeframes(np.asarray(samples, '<i2').tobytes())
  return storage.atomic_write_bytes(path, buffer.getvalue())


def _read_with_ffmpeg(file: pathlib.Path, name: str) -> np.ndarray:
  """float32[samples,1], mono 16 kHz; `name` is for messages."""
  ffmpeg = shutil.which('ffmpeg')
  if ffmpeg is None:
    raise AudioError(
      f'{name} is damaged or in an unusual format: convert it to wav, or install '
      'ffmpeg, which reads more formats.'
    )
  command = [
    ffmpeg,
    '-v',
    'error',
    '-nostdin',
    '-i',
    os.fspath(file),
    '-ac',
    '1',
    '-ar',
    str(rates.SAMPLE_RATE),
    '-f',
    'f32le',
    '-',
  ]
  done = subprocess.run(command, capture_output=True, check=False)
  if done.returncode or not done.stdout:
    raise AudioError(
      f'{name} cannot be read as audio; it is damaged or not an audio file: convert it '
      'to wav or record it again.'
    )
  return np.frombuffer(done.stdout, '<f4')[:, None]
