"""Speaks one clip: a text in a packaged voice, as a microphone would hear it."""

import dataclasses
import zlib

import numpy as np

from data_pipeline import waveforms
from data_pipeline.corpus import voices
from echox_jax import audio, rates
from echox_jax.errors import EchoXError

_OWN_GAIN = 1.5  # the answer voice is soft; its loudest answer stays below full scale
_MIN_SECONDS = 0.3  # a clip shorter than this is a failed synthesis
_PEAK = 0.97  # of full scale


@dataclasses.dataclass(frozen=True)
class Clip:
  """One synthesised recording: what is spoken, and how.

  Attributes:
    id: unique in its split.
    text: the words.
    voice: who speaks.
    speed: 1 is the voice's own pace.
    seed: seed of the voice's noise, and with the id that of room and noise.
    lead, tail: seconds of silence before and after.
    level: RMS loudness relative to full scale; None keeps the voice's own, times a fixed gain.
    room: seconds until the echoes of the room have died away by 60 dB; 0 = no echoes.
    noise: white noise, in dB below the clip, also in its silences; None = none.
  """

  id: str
  text: str
  voice: voices.Voice
  speed: float = 1.0
  seed: int = 0
  lead: float = 0.0
  tail: float = 0.0
  level: float | None = None
  room: float = 0.0
  noise: float | None = None


def speak(clip: Clip) -> np.ndarray:
  """Clip -> int16[samples], 16 kHz; the same clip always gives the same samples.

  Raises:
    EchoXError: the voice produces no sound.
  """
  wave = voices.trim(voices.synthesise(clip.text, clip.voice, clip.speed, clip.seed), keep=0.03)
  if len(wave) < _MIN_SECONDS * rates.SAMPLE_RATE:
    raise EchoXError(
      f'the voice {clip.voice.name} said nothing for {clip.text!r}: reinstall it, '
      'or remove it to go on without.'
    )
  rng = np.random.default_rng([clip.seed, zlib.crc32(clip.id.encode())])
  wave = waveforms.reverberate(wave, clip.room, rng)
  gain = _OWN_GAIN if clip.level is None else clip.level / np.sqrt(np.mean(np.square(wave)))
  gain = min(gain, _PEAK / np.abs(wave).max())
  silences = [int(seconds * rates.SAMPLE_RATE) for seconds in (clip.lead, clip.tail)]
  wave = np.pad(gain * wave, silences)
  if clip.noise is not None:
    wave = waveforms.add_noise(wave, clip.noise, rng)
  return audio.to_int16(wave)
