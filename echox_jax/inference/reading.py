"""Speaks texts that are given, by the text-to-codec model: text -> unit words -> units -> sound.

It is the model that taught the echo decoder to speak (paper, stage 2); the LLM has no part in it.
"""

from collections.abc import Callable, Iterator
import re
import time

import jax
import numpy as np

from echox_jax import errors, model_folder, prompts
from echox_jax.config import EchoXConfig
from echox_jax.decoding import generate
from echox_jax.inference import vocoding
from echox_jax.inference.answering import soften
from echox_jax.inference.engine import Engine
from echox_jax.inference.questions import padded
from echox_jax.models import unit_decoder
from echox_jax.models.arrays import Array, Float

PARTS = ('t2c', 'unit_text_embedding', 'vocoder', 'tokenizer', 'unit_language')
_SENTENCE, _CLAUSE, _WORD = r'(?<=[.!?])\s+', r'(?<=[,;:])\s+', r'\s+'


class Reader:
  """Speaks texts.

  Args:
    engine: made with `reads=True`; also an attribute.

  Raises:
    CheckpointError: its model lacks a part that this takes.
  """

  def __init__(self, engine: Engine):
    model_folder.require(engine, PARTS, 'speak a text that it is given')
    self.engine = engine
    self._words = engine.programs.jitted('read_aloud', _unit_words, engine.programs.max_words)

  def warm_up(self) -> float:
    """Compiles all that speaking needs; returns the seconds that it took."""
    start, engine = time.perf_counter(), self.engine
    ids = jax.ShapeDtypeStruct((1, engine.config.streaming.max_slice_tokens), 'int32')
    self._words.prepare(engine.params, ids, jax.ShapeDtypeStruct((1,), 'int32'))
    vocoding.prepare(engine.programs, engine.params, engine.questions.sizes.frames)
    return time.perf_counter() - start

  def say(self, text: str) -> Iterator[Float[np.ndarray, ' S']]:
    """Yields the sound of a text, float32 at 16 kHz, a slice at a time.

    Raises:
      EchoXError: there is nothing to say.
    """
    engine, limit = self.engine, prompts.get_profile(self.engine.config.profile).unit_id_limit
    slices = cut(text, engine.tokenizer.encode, engine.config.streaming.max_slice_tokens)
    if not slices:
      raise errors.EchoXError('there is nothing to say: give a text with words.')
    for number, ids in enumerate(slices):
      words = self._decode(ids)
      units = engine.unit_language.decode(words[words < engine.unit_language.vocab_size])
      wave, _ = engine.vocode(units if limit is None else units[units < limit])
      wave = np.array(wave)
      soften(wave, number > 0, number + 1 < len(slices))
      yield wave

  def _decode(self, ids: list[int]) -> np.ndarray:
    """int32[words]: the unit words of a slice."""
    cfg = self.engine.config
    row = padded(ids, cfg.streaming.max_slice_tokens, cfg.special_ids.pad)
    words = jax.device_get(self._words(self.engine.params, row, np.asarray([len(ids)], np.int32)))
    return words.ids[0, : int(words.lengths[0])]


def cut(text: str, encode: Callable[[str], list[int]], most: int) -> list[list[int]]:
  """Cuts a text into slices of at most `most` ids: every sentence is one, as the model has learnt
  it; where one is too long, at the ends of clauses and of words.
  """
  sentences = re.split(_SENTENCE, text.strip())
  return [ids for own in sentences if own for ids in _fitted(own, encode, most)]


def _fitted(text: str, encode: Callable[[str], list[int]], most: int) -> list[list[int]]:
  """Slices of a sentence; as much of it in each as there is room for."""
  ids = encode(text)
  if not ids or len(ids) <= most:
    return [ids] if ids else []
  for border in (_CLAUSE, _WORD):
    parts = [part for part in re.split(border, text) if part]
    if len(parts) > 1:
      return _joined(parts, encode, most)
  return [ids[begin : begin + most] for begin in range(0, len(ids), most)]


def _joined(parts: list[str], encode: Callable[[str], list[int]], most: int) -> list[list[int]]:
  """Joins neighbours as long as they fit, and cuts what does not fit alone."""
  slices, held = [], ''
  for part in parts:
    together = f'{held} {part}'.strip()
    if len(encode(together)) <= most:
      held = together
      continue
    slices += _fitted(held, encode, most)
    held = part
  return slices + _fitted(held, encode, most)


def _unit_words(
  params: dict, cfg: EchoXConfig, most: int, ids: Array, lengths: Array
) -> generate.UnitWords:
  """Ids int32[1,N] -> unit words."""
  table = params['unit_text_embedding']['embedding']
  embedded = unit_decoder.embed_text(table, ids)
  closed = unit_decoder.close_slices(cfg, table, embedded, ids, lengths)
  return generate.decode_unit_words(params['t2c'], cfg, table, *closed, most)
