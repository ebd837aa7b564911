"""The rows of `launch.bench released`, done by the released code. Each gives seconds by name."""

from collections.abc import Callable, Iterator
import contextlib
import functools
from pathlib import Path
import time
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from launch.bench.authors import code as code_lib
from launch.bench.authors import model as model_lib
from launch.bench.authors import training

_RATE = 16000  # samples a second

Row = Callable[[], dict[str, float]]


def make(folder: Path, job: Any) -> dict[str, Row]:
  """Builds everything; the rows of the fair rival are called `fair_...`.

  The fair rival is the released code without one needless copy: its unit decoder joins its two
  embedding tables anew at every token.
  """
  ids, theirs = job.model.special_ids, job.theirs
  stream, code, units = code_lib.load(
    folder, {getattr(theirs, name): getattr(ids, name) for name in vars(theirs)}
  )
  said = model_lib.assistant(stream, code, job)
  text = functools.partial(_text_only, said, job)
  rows = {
    'product': functools.partial(_product, job),
    'train_step': training.step(code, job),
    'encoder': functools.partial(_encoder, said, job),
    'text_only': functools.partial(text, 'text_only_s', samples=False),
    'text_only_sampled': functools.partial(text, 'text_only_sampled_s', samples=True),
    't2c': functools.partial(_t2c, said, job),
    'vocoder': functools.partial(_vocoder, said, job),
    'answer': functools.partial(_answer, said, job),
  }
  fair = {f'fair_{name}': _joined_once(units, rows[name]) for name in ('t2c', 'answer')}
  return rows | fair


def _product(job: Any) -> dict[str, float]:
  matrix = torch.ones(job.matrix, job.matrix)
  return _timed('product_s', lambda: [matrix @ matrix for _ in range(job.products)])


def _encoder(said: Any, job: Any) -> dict[str, float]:
  sizes = job.model.whisper
  mel = torch.randn(job.clips, sizes.num_mel_bins, 2 * sizes.max_positions)
  with torch.no_grad():
    return _timed('encoder_s', lambda: said.model.model.audio_tower[0].encoder(mel))


def _text_only(said: Any, job: Any, name: str, *, samples: bool) -> dict[str, float]:
  with mock.patch.object(said, '_generate_audio_segment', lambda states: None):
    return {name: _stream(said, job, samples)['last_text_s']}


def _t2c(said: Any, job: Any) -> dict[str, float]:
  states = torch.randn(1, job.slice_tokens, job.model.llm.hidden_size)
  made = []
  found = _timed(
    't2c_s', lambda: made.extend(said._generate_audio_units_from_hidden_states(states).split())
  )
  _same('units', len(made), job.slice_tokens * job.words * job.units)
  return found


def _vocoder(said: Any, job: Any) -> dict[str, float]:
  number = job.sound_frames // job.frames
  units = torch.randint(0, job.vocoder['num_embeddings'], (number,)).tolist()
  made = []
  found = _timed('vocoder_s', lambda: made.extend(said.generate_with_speech_model([units])))
  _same('samples', len(made), job.sound_frames * job.vocoder['code_hop_size'])
  return found


def _answer(said: Any, job: Any) -> dict[str, float]:
  found = _stream(said, job, samples=False)
  frames = job.tokens * job.words * job.units * job.frames
  _same('samples', round(found['audio_s'] * _RATE), frames * job.vocoder['code_hop_size'])
  return found


def _stream(said: Any, job: Any, samples: bool) -> dict[str, float]:
  """An answer as their demo asks for it; times from the question on."""
  asked = [{'conversations': [{'from': 'user', 'value': '', 'audio': job.wave}]}]
  found, tokens, audio = {}, 0, 0
  start = time.perf_counter()
  for _, sound in said._inference(asked, max_new_tokens=job.tokens, do_sample=samples):
    at = time.perf_counter() - start
    if sound is None:
      tokens += 1
      found['last_text_s'] = at
    else:
      audio += len(sound[1])
      found.setdefault('first_sound_s', at)
  found['total_s'] = time.perf_counter() - start
  _same('tokens', tokens, job.tokens)
  return found | {'audio_s': audio / _RATE}


def _timed(name: str, run: Callable[[], Any]) -> dict[str, float]:
  start = time.perf_counter()
  run()
  return {name: time.perf_counter() - start}


def _same(what: str, found: int, forced: int) -> None:
  """The comparison means nothing if one side does less."""
  if found != forced:
    raise RuntimeError(f'the released code made {found} {what} instead of {forced}.')


def _joined_once(units: ModuleType, row: Row) -> Row:
  """A row of the fair rival."""
  tables = _KeptTables()

  @contextlib.contextmanager
  def kept() -> Iterator[None]:
    with mock.patch.object(units, 'torch', tables):
      yield

  def run() -> dict[str, float]:
    with kept():
      return row()

  return run


class _KeptTables:
  """The module `torch` as the unit decoder sees it, but the two tables are joined only once."""

  def __init__(self):
    self._table = None

  def __getattr__(self, name: str) -> Any:
    return getattr(torch, name)

  def cat(self, tensors: Any, dim: int = 0) -> torch.Tensor:
    if dim != 0:  # nothing but tables is joined along the first axis
      return torch.cat(tensors, dim)
    if self._table is None:
      self._table = torch.cat(tensors, dim)
    return self._table
