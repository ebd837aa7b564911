"""What can be asked: checks of recordings and texts, and the ids that a question becomes."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from echox_jax import audio as audio_lib
from echox_jax import errors, prompts, rates
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import sampler
from echox_jax.inference import steps
from echox_jax.models import positions
from echox_jax.models.arrays import Float

SHORTEST_AUDIO = 0.1  # seconds


@dataclasses.dataclass(frozen=True)
class Questions:
  """How a model is asked.

  Attributes:
    config: of the model.
    budgets: of its answers.
    encode: text -> ids.
    hears: whether questions may be spoken.
    slots: positions of a conversation.
    knows_opening: whether what conversations open with is read once for all.
  """

  config: EchoXConfig
  budgets: EngineConfig
  encode: Callable[[str], list[int]]
  hears: bool
  slots: int
  knows_opening: bool = False

  @functools.cached_property
  def sizes(self) -> steps.Buckets:
    """Static sizes that questions, and the sound of answers, are padded to."""
    return steps.buckets(self.config, self.budgets)

  @functools.cached_property
  def opening(self) -> tuple[int, ...]:
    """Ids at the beginning of first prompts that are not read with them; none = prompts are read
    whole.
    """
    if not self.knows_opening:
      return ()
    profile = prompts.get_profile(self.config.profile)
    return tuple(prompts.opening(self.config.special_ids, profile, self._system))

  @functools.cached_property
  def _system(self) -> list[int]:
    """Ids of the system message."""
    profile = prompts.get_profile(self.config.profile)
    return prompts.encode_system(profile, self.encode, self.config.system_message)

  @property
  def unheard(self) -> tuple[int, ...]:
    """Ids of the answer to a spoken question of which no word was heard; none = the LLM's own.

    Raises:
      ConfigError: `engine.unheard` is too long.
    """
    if not self.budgets.unheard:
      return ()
    ids = (*self.encode(self.budgets.unheard), self.config.special_ids.eot)
    if len(ids) > sampler.BEGINS:
      raise errors.ConfigError(
        f'engine.unheard has {len(ids) - 1} tokens: give at most {sampler.BEGINS - 1}.'
      )
    return ids

  def every_size(self) -> tuple[Iterable[int], Iterable[tuple[bool, int]]]:
    """Sizes of sound, and of prompts without speech (False) and with it (True)."""
    prompts = [(False, size) for size in self.sizes.prompt]
    if not self.hears:
      return (), prompts
    spoken = [(True, size) for size in self.sizes.prompt if size >= self._least_spoken]
    return self.sizes.samples, prompts + spoken

  @functools.cached_property
  def _least_spoken(self) -> int:
    """The size of a prompt with speech and no text."""
    return bucket(self.sizes.prompt, len(self.prompt('', audio=True)) - len(self.opening))

  def speech_slots(self, size: int) -> Sequence[int]:
    """How many slots of speech a prompt of a size may have. Where text stands beside speech all are
    read: each program takes seconds to compile and, of an LLM of 30 layers, 80 MB.
    """
    slots = self.sizes.slots
    return slots if size <= self._least_spoken else slots[-1:]

  def sizes_of(
    self, asked: Iterable[tuple[np.ndarray | None, str]]
  ) -> tuple[Iterable[int], Iterable[tuple[bool, int]]]:
    """As `every_size`, for certain questions: their sound, or None, and what is written."""
    samples, prompts = set(), set()
    for wave, text in asked:
      if wave is not None:
        samples.add(bucket(self.sizes.samples, len(self.check_wave(wave))))
      size = len(self.prompt(text, wave is not None)) - len(self.opening)
      prompts.add((wave is not None, bucket(self.sizes.prompt, size)))
    return sorted(samples), sorted(prompts)

  def check_wave(self, wave: Float[np.ndarray, '...']) -> Float[np.ndarray, ' S']:
    """Gives a question at 16 kHz as float32, if it can be heard.

    Raises:
      AudioError: no mono wave (one axis), too short, too long, not finite or silent.
    """
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1:
      raise errors.AudioError(
        'a question must be one channel of samples, not an array of shape '
        f'{wave.shape}: mix it down.'
      )
    most = self.sizes.samples[-1]
    seconds, longest = len(wave) / rates.SAMPLE_RATE, most / rates.SAMPLE_RATE
    if seconds < SHORTEST_AUDIO:
      raise errors.AudioError(
        f'the question lasts only {seconds:.2f} s: record at least {SHORTEST_AUDIO} s.'
      )
    if seconds > longest:
      raise errors.AudioError(
        f'the question lasts {seconds:.1f} s, but this model hears at most '
        f'{longest:g} s: ask a shorter one.'
      )
    if not np.isfinite(wave).all():
      raise errors.AudioError('the question holds samples that are not finite: record it again.')
    if audio_lib.is_silent(wave):
      raise errors.AudioError('the question is silent: check the microphone and record it again.')
    return wave

  def prompt(self, text: str, audio: bool, first: bool = True) -> list[int]:
    """Gives the ids of a question, up to where the answer begins.

    Args:
      text: of the question; may be empty beside audio.
      audio: whether speech comes with it.
      first: whether it opens a conversation; further ones have no system turn.

    Raises:
      EchoXError: no question at all, one that cannot be heard, or more tokens than the model reads.
    """
    if audio and not self.hears:
      raise errors.EchoXError(
        'the question is spoken, but this engine only reads text: write the question, or make an '
        'engine with hears=True.'
      )
    if not audio and not text.strip():
      raise errors.EchoXError('the question is empty: say or write something.')
    cfg, profile = self.config, prompts.get_profile(self.config.profile)
    question = prompts.encode_question(profile, self.encode, text, audio)
    ids = prompts.question_prompt(cfg.special_ids, profile, self._system, question, audio, first)
    room = positions.question_room(cfg, self.slots, self.budgets.max_new_tokens, audio)
    if self.budgets.max_prompt_tokens >= len(ids) > room:
      raise errors.EchoXError(
        f'the question takes {len(ids)} tokens, but next to its answer this model has positions '
        f'for {room} (llm.max_positions {cfg.llm.max_positions}): ask a shorter one.'
      )
    if len(ids) > self.budgets.max_prompt_tokens:
      raise errors.EchoXError(
        f'the question takes {len(ids)} tokens, but this model reads at most '
        f'{self.budgets.max_prompt_tokens}: ask a shorter one.'
      )
    return ids

  def lay_out_answer(self, ids: Sequence[int]) -> list[int]:
    """Gives the ids of an answer as the model said them, BOS and EOT included."""
    return prompts.answer(self.config.special_ids, prompts.get_profile(self.config.profile), ids)


def padded(ids: Sequence[int] | np.ndarray, size: int, pad: int) -> Any:
  """int32[1,size]: ids, filled up with `pad` at the right."""
  row = np.full((1, size), pad, np.int32)
  row[0, : len(ids)] = ids
  return row


def bucket(sizes: Sequence[int], size: int, is_ready: Callable[[int], bool] | None = None) -> int:
  """The smallest of `sizes` that holds `size`; of those that are ready, if one is."""
  fitting = [own for own in sizes if own >= size]
  return next((own for own in fitting if is_ready is None or is_ready(own)), fitting[0])
