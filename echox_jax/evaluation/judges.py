"""Who listens to spoken answers: `--judge` of launch.evaluate.

  whisper-base        Whisper base, packaged (extra `eval`); see judge.py
  FOLDER              a Whisper for faster-whisper (model.bin), or any speech recogniser that
                      transformers opens (config.json and its weights); a folder in a bucket is
                      copied to local disk
  hama                phonemes instead of words, no Whisper (extra `phonemes`)
  command:PROGRAM     a program that is given paths of wav files and prints a line for each

A judge should share no weights with the model that it judges. All hear English.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
import re

import numpy as np

from echox_jax import errors, rates, storage
from echox_jax.errors import DataError
from echox_jax.evaluation import commands, judge, normalise, store

WHISPER_BASE, HAMA, COMMAND = 'whisper-base', 'hama', 'command:'
_MOST = 28.0  # seconds that are judged at once
_QUIET = 0.1  # seconds of the frame at which a longer clip is cut


@dataclasses.dataclass(frozen=True)
class Listener:
  """A judge that has been opened.

  Attributes:
    name: of its folder in the store.
    about: its parts and their versions, for reports.
    hear: waves, float32[samples] at 16 kHz -> what is said in each, '' for an empty one.
    spell: how it would write a text; None = in words as the text does.
  """

  name: str
  about: dict[str, str]
  hear: Callable[[Sequence[np.ndarray]], list[str]]
  spell: Callable[[str], str] | None = None


def name_of(spec: str) -> str:
  """The name of a judge's folder in the store."""
  return store.file_name(spec)


def open_judge(spec: str, cache: Path) -> Listener:
  """Opens a judge by name, see above.

  Args:
    spec: what `--judge` says.
    cache: a local folder for what must be unpacked or copied from a bucket.

  Raises:
    DataError: a folder that is no speech recogniser.
    ConfigError, StorageError: a bucket that cannot be used.
    MissingExtraError: a package is not installed.
  """
  if spec == WHISPER_BASE:
    listener = judge.Judge(cache)
    hear = functools.partial(in_pieces, listener.transcribe)
    return Listener(name_of(spec), judge.versions(), once(hear))
  if spec == HAMA:
    return _hama()
  if spec.startswith(COMMAND):
    program = spec.removeprefix(COMMAND)
    return Listener(
      name_of(spec), {'command': program}, lambda waves: commands.lines(program, waves)
    )
  folder = storage.check_readable(spec)
  if storage.is_file(folder / 'config.json'):
    here = storage.kept_copy(folder, cache)
    if _model_type(here / 'config.json'):
      return _transformers(spec, here)
    if (here / 'model.bin').is_file():
      return _faster_whisper(spec, here)
  raise DataError(
    f'the judge {spec} is neither {WHISPER_BASE}, {HAMA} nor a folder of a speech recogniser '
    f'(with config.json, and model.bin or weights of transformers): name one, or a program with '
    f'{COMMAND}PROGRAM.'
  )


def once(
  hear: Callable[[Sequence[np.ndarray]], list[str]],
) -> Callable[[Sequence[np.ndarray]], list[str]]:
  """A judge that remembers: several voices ask the same, and many answers sound alike."""
  known: dict[str, str] = {}

  def remembering(waves: Sequence[np.ndarray]) -> list[str]:
    names = [hashlib.sha256(wave.tobytes()).hexdigest() for wave in waves]
    new = {name: wave for name, wave in zip(names, waves) if name not in known}
    known.update(zip(new, hear(list(new.values())), strict=True))
    return [known[name] for name in names]

  return remembering


def in_pieces(
  transcribe: Callable[[Sequence[np.ndarray]], list[str]], waves: Sequence[np.ndarray]
) -> list[str]:
  """Transcribes waves, longer ones in pieces that are cut where it is quiet; in a wave without
  samples there are no words, and nobody listens to it.
  """
  pieces = [cut(wave) if len(wave) else [] for wave in waves]
  heard = iter(transcribe([piece for own in pieces for piece in own]))
  return [' '.join(filter(None, (next(heard) for _ in own))) for own in pieces]


def cut(wave: np.ndarray) -> list[np.ndarray]:
  """Pieces of at most 28 s, cut at the quietest tenth of a second of the last quarter."""
  most, frame = round(_MOST * rates.SAMPLE_RATE), round(_QUIET * rates.SAMPLE_RATE)
  pieces = []
  while len(wave) > most:
    tail = wave[most * 3 // 4 : most]
    loudness = np.square(tail[: len(tail) // frame * frame].reshape(-1, frame)).sum(axis=1)
    end = most * 3 // 4 + frame * int(loudness.argmin()) + frame // 2
    pieces.append(wave[:end])
    wave = wave[end:]
  return [*pieces, wave]


def _model_type(config: Path) -> str | None:
  """What transformers calls the model; None where it is no model of transformers."""
  try:
    return json.loads(config.read_text('utf-8')).get('model_type')
  except (ValueError, AttributeError):
    return None


def _last(spec: str) -> str:
  return spec.rstrip('/').rsplit('/', 1)[-1]


def _faster_whisper(spec: str, folder: Path) -> Listener:
  try:
    from faster_whisper import WhisperModel
  except ImportError as error:
    raise errors.MissingExtraError('faster-whisper', 'eval', 'This judge') from error
  try:
    model = WhisperModel(str(folder), local_files_only=True)
  except (RuntimeError, ValueError) as error:
    raise DataError(f'the judge {spec} cannot be opened ({error}): copy it again.') from error

  def hear(waves: Sequence[np.ndarray]) -> list[str]:
    return [_say(wave) if len(wave) else '' for wave in waves]

  def _say(wave: np.ndarray) -> str:
    segments, _ = model.transcribe(
      np.asarray(wave, np.float32), language='en', condition_on_previous_text=False
    )
    return ' '.join(segment.text.strip() for segment in segments)

  about = {'model': _last(spec), 'faster-whisper': importlib.metadata.version('faster-whisper')}
  return Listener(name_of(spec), about, hear)


def _transformers(spec: str, folder: Path) -> Listener:
  try:
    import transformers
  except ImportError as error:
    raise errors.EchoXError(
      f'the judge {spec} needs the packages transformers and torch: install them, or take '
      f'--judge {WHISPER_BASE}.'
    ) from error
  os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
  try:
    recognise = transformers.pipeline('automatic-speech-recognition', model=str(folder))
  except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
    reason = str(error).strip().splitlines()[0][:200]
    raise DataError(
      f'transformers cannot open the judge {spec} as a speech recogniser ({reason}): name a '
      'folder with its weights, tokenizer and feature extractor.'
    ) from error
  settings = getattr(recognise.model, 'generation_config', None)
  whisper = {'generate_kwargs': {'language': 'en', 'task': 'transcribe'}}
  options = whisper if getattr(settings, 'is_multilingual', False) else {}

  def one(waves: Sequence[np.ndarray]) -> list[str]:
    given = [{'raw': wave, 'sampling_rate': rates.SAMPLE_RATE} for wave in waves]
    return [recognise(own, **options)['text'].strip() for own in given]

  about = {'model': _last(spec), 'transformers': transformers.__version__}
  return Listener(name_of(spec), about, functools.partial(in_pieces, one))


def _hama() -> Listener:
  try:
    import hama
  except ImportError as error:
    raise errors.MissingExtraError(HAMA, 'phonemes', 'This judge') from error
  recogniser, reader = hama.ASRModel(), hama.G2PModel()

  def hear(waves: Sequence[np.ndarray]) -> list[str]:
    return [
      ' '.join(recogniser(wave, rates.SAMPLE_RATE).phonemes) if len(wave) else '' for wave in waves
    ]

  @functools.cache
  def sounds(word: str) -> str:
    return ' '.join(alignment.phoneme for alignment in reader(word).alignments)

  def spell(text: str) -> str:
    """Phonemes of the words, read one by one, with spaces between all."""
    return ' '.join(sounds(word) for word in re.findall(r"[\w']+", normalise.words(text)))

  return Listener(HAMA, {'model': HAMA, 'hama': importlib.metadata.version('hama')}, hear, spell)
