"""Streams answers in text and speech: speaks each slice while the rest is still being generated.

  prefill          encodes the question and prefills the LLM (once per question)
  sample           the next token, and the trigger score of the state that predicts it
  decode_step      feeds the token to the LLM
  generate_units   states of a slice -> denoising adapter -> echo decoder -> units -> audio

The steps are separate so that a server can interleave questions. Every shape comes from a few
buckets, so nothing compiles after `warm_up`. Whatever exceeds a budget is counted, never silently
dropped.
"""

from collections.abc import Callable, Iterator, Sequence
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import audio as audio_lib
from echox_jax import errors, model_folder, prompts, rates
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import generate, sampler, trigger
from echox_jax.inference import steps
from echox_jax.inference.events import BUDGETS, LEFT_OUT, Done, Event, SpokenSlice, TextPiece
from echox_jax.models import positions
from echox_jax.models.arrays import Array, Float, Int

_SHORTEST_AUDIO = 0.1  # seconds


class Engine:
  """A loaded model, ready to answer.

  Args:
    model: result of `echox_jax.load`.
    hears: whether to accept spoken questions; False needs no speech-input parts.
    speaks: whether to speak answers; False gives text only, without slices and waveform.

  Raises:
    CheckpointError: the model lacks a required part.
    ConfigError: its budgets leave no positions for a question.
  """

  def __init__(self, model: Any, *, hears: bool = True, speaks: bool = True):
    wanted = (
      *model_folder.TEXT,
      *(model_folder.HEARING if hears else ()),
      *(model_folder.SPEAKING if speaks else ()),
    )
    model_folder.require(model, wanted)
    positions.check(model.config, model.engine, wanted)
    self.hears, self.speaks = hears, speaks
    self.config: EchoXConfig = model.config
    self.budgets: EngineConfig = model.engine
    self.tokenizer = model.tokenizer
    self.unit_language = model.unit_language
    self.params = jax.tree.map(jnp.asarray, dict(model.params))
    cfg, budgets = self.config, self.budgets

    def jitted(function: Callable[..., Any], *sizes: int, **options: Any) -> Callable[..., Any]:
      """Compiles `function(params, cfg, *sizes, ...)` as a function of (params, ...)."""
      return jax.jit(lambda params, *args: function(params, cfg, *sizes, *args), **options)

    self._encode, self._embed, self._prefill = (
      jitted(steps.encode),
      jitted(steps.embed),
      jitted(steps.prefill, budgets.max_new_tokens),
    )
    self._decode_step = jitted(generate.decode_step, donate_argnums=1)
    self._likeliest, self._sample_at = jitted(_likeliest), jitted(_sample)
    self._generate_units, self._durations, self._wave = (
      jitted(steps.generate_units, budgets.max_unit_words),
      jitted(steps.durations),
      jitted(steps.wave),
    )
    self._generate = jitted(_generate, budgets.max_new_tokens)
    self._profile = prompts.get_profile(cfg.profile)
    self._system = prompts.encode_system(self._profile, self.tokenizer.encode, cfg.system_message)
    self._unspoken = prompts.unspoken_ids(cfg.special_ids, self._profile)
    self._audio_buckets, self._prompt_buckets, self._frame_buckets = steps.buckets(cfg, budgets)
    if hears:
      longest_clip = (
        jax.ShapeDtypeStruct((1, self._audio_buckets[-1]), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
      )
      self._max_states = jax.eval_shape(self._encode, self.params, *longest_clip)[0].shape[1]

  # Questions

  def check_wave(self, wave: Float[np.ndarray, '...']) -> Float[np.ndarray, ' S']:
    """Checks a question at 16 kHz and returns it as float32.

    Raises:
      AudioError: it is not mono (one axis), too short, too long, not finite or silent.
    """
    wave = np.asarray(wave, np.float32)
    if wave.ndim != 1:
      raise errors.AudioError(
        'a question must be one channel of samples, not an array of shape '
        f'{wave.shape}: mix it down.'
      )
    seconds, longest = len(wave) / rates.SAMPLE_RATE, self._audio_buckets[-1] / rates.SAMPLE_RATE
    if seconds < _SHORTEST_AUDIO:
      raise errors.AudioError(
        f'the question lasts only {seconds:.2f} s: record at least {_SHORTEST_AUDIO} s.'
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

  def prompt(self, text: str, audio: bool) -> list[int]:
    """Returns the prompt ids of a question.

    Args:
      text: its text; may be empty if there is audio.
      audio: whether the question has speech.

    Raises:
      EchoXError: the question is empty or too long, or this engine does not accept speech.
    """
    if audio and not self.hears:
      raise errors.EchoXError(
        'the question is spoken, but this engine only reads text: write the question, or make an '
        'engine with hears=True.'
      )
    if not audio and not text.strip():
      raise errors.EchoXError('the question is empty: say or write something.')
    question = prompts.encode_question(self._profile, self.tokenizer.encode, text, audio)
    special = self.config.special_ids
    ids = prompts.question_prompt(special, self._profile, self._system, question, audio)
    room = positions.question_room(self.config, self.budgets.max_new_tokens, audio)
    if self.budgets.max_prompt_tokens >= len(ids) > room:
      raise errors.EchoXError(
        f'the question takes {len(ids)} tokens, but next to its answer this model has positions '
        f'for {room} (llm.max_positions '
        f'{self.config.llm.max_positions}): ask a shorter one.'
      )
    if len(ids) > self.budgets.max_prompt_tokens:
      raise errors.EchoXError(
        f'the question takes {len(ids)} tokens, but this model reads at most '
        f'{self.budgets.max_prompt_tokens}: ask a shorter one.'
      )
    return ids

  # Steps

  def prefill(
    self, wave: Float[np.ndarray, '...'] | None, text: str = ''
  ) -> tuple[generate.TextState, int]:
    """Encodes and prefills one question; returns the LLM state and the number of speech positions
    that did not fit.

    Raises:
      AudioError: see `check_wave`.
      EchoXError: see `prompt`.
    """
    wave = None if wave is None else self.check_wave(wave)
    rows = self._rows([self.prompt(text, wave is not None)])
    heard = None if wave is None else self._embed(self.params, *self._states([wave]))
    return self._prefill(self.params, rows, heard), 0 if heard is None else int(
      jax.device_get(heard.overflow)[0]
    )

  def sample(
    self,
    state: generate.TextState,
    temperature: float | int = 0.0,
    top_p: float | int = 1.0,
    seed: int | np.integer = 0,
    step: int = 0,
  ) -> tuple[int, float, Float[np.ndarray, ' D']]:
    """Returns (next token, trigger score of the state that predicts it, that state); `seed` and
    `step` determine the sample.
    """
    if temperature:  # as arrays, so that 1 and 1.0 share one program
      how = np.float32(temperature), np.float32(top_p), np.uint32(seed % 2**32), np.uint32(step)
      chosen = self._sample_at(self.params, state, *how)
    else:
      chosen = self._likeliest(self.params, state)
    token, score, hidden = jax.device_get(chosen)
    return int(token), float(score), hidden

  def decode_step(self, state: generate.TextState, token: int) -> generate.TextState:
    """Feeds one token; donates the buffers of `state`."""
    return self._decode_step(self.params, state, jnp.asarray([token], jnp.int32))

  def generate_units(
    self, hidden: Float[np.ndarray, 'N D']
  ) -> tuple[Int[np.ndarray, ' W'], Int[np.ndarray, ' R'], Float[np.ndarray, ' S'], dict[str, int]]:
    """Speaks one slice of at most `max_slice_tokens` states; returns (unit words, reduced units,
    wave, overflow counters).
    """
    rows = np.zeros((1, self.config.streaming.max_slice_tokens, hidden.shape[1]), hidden.dtype)
    rows[0, : len(hidden)] = hidden
    words = jax.device_get(
      self._generate_units(self.params, rows, np.asarray([len(hidden)], np.int32))
    )
    said = words.ids[0, : int(words.lengths[0])]
    # the language may have fewer words than the decoder has room for
    ids = said[said < self.unit_language.vocab_size]
    spelt = np.asarray(self.unit_language.decode(ids), np.int32)
    limit = prompts.get_profile(self.config.profile).unit_id_limit
    units = spelt if limit is None else spelt[spelt < limit]
    wave, frames = self.vocode(units)
    return (
      ids,
      units,
      wave,
      {
        'unit_words': int(words.overflow[0]),
        'frames': frames,
        'unknown_unit_words': len(said) - len(ids),
        'dropped_units': len(spelt) - len(units),
      },
    )

  def vocode(
    self, units: Int[np.ndarray, ' R'], durations: Int[np.ndarray, ' R'] | None = None
  ) -> tuple[Float[np.ndarray, ' S'], int]:
    """Speaks reduced units; returns (float32 wave at 16 kHz, number of frames over the budget
    `max_frames`).

    Args:
      units: without consecutive repeats.
      durations: frames of each unit; None = predicted.
    """
    cfg = self.config
    budget = self._frame_buckets[-1]
    lost = max(0, len(units) - budget)  # every unit takes at least one frame
    units = np.asarray(units[:budget], np.int32)
    if not len(units):
      return np.zeros(0, np.float32), lost
    if durations is None:
      row, shown = np.zeros((1, budget), np.int32), np.arange(budget)[None] < len(units)
      row[0, : len(units)] = units
      durations = np.asarray(self._durations(self.params, row, shown))[0]
    durations = np.asarray(durations[: len(units)], np.int64)
    lost += max(0, int(durations.sum()) - budget)
    frames = np.repeat(units, np.minimum(durations, budget))[:budget]
    size = _bucket(self._frame_buckets, len(frames))
    wave = self._wave(
      self.params,
      np.pad(frames, (0, size - len(frames)))[None],
      np.arange(size)[None] < len(frames),
    )
    return np.asarray(wave)[0, : len(frames) * cfg.vocoder.code_hop_size], lost

  # Whole answers

  def answer(
    self,
    audio: Float[np.ndarray, '...'] | None = None,
    text: str = '',
    *,
    temperature: float | int = 0.0,
    top_p: float | int = 1.0,
    seed: int | np.integer = 0,
  ) -> Iterator[Event]:
    """Answers one question; yields text and audio as they are generated, then `Done`.

    Args:
      audio: spoken question, one channel at 16 kHz; None = text only.
      text: written question, or the text that accompanies the spoken one.
      temperature: 0 = greedy; released: 0.2.
      top_p: released: 0.9.
      seed: sampling seed.

    Raises:
      EchoXError: the question or the sampling settings are invalid. It is raised before any
        compute.
    """
    sampler.check(temperature, top_p)
    start = time.perf_counter()

    def now():
      return time.perf_counter() - start

    ids, hidden, scores, times, slices, shown = [], [], [], [], [], ''
    state, lost = self.prefill(audio, text)
    overflow = dict.fromkeys((*BUDGETS, *LEFT_OUT), 0) | {'speech_positions': lost}
    cutter, special = trigger.SliceCutter(self.config.streaming), self.config.special_ids

    def spoken(cut: tuple[int, int] | None) -> Iterator[SpokenSlice]:
      for begin, end in self._fitting(cut if self.speaks else None, overflow):
        cut_at = now()
        words, units, wave, more = self.generate_units(np.stack(hidden[begin:end]))
        for name, value in more.items():
          overflow[name] += value
        said = self.tokenizer.decode(ids) if end == len(ids) else self._whole_text(ids[:end])
        said = said[len(self._whole_text(ids[:begin])) :].strip()
        slices.append(
          SpokenSlice(len(slices), said, (begin, end), words, units, wave, cut_at, now())
        )
        yield slices[-1]

    for step in range(self.budgets.max_new_tokens):
      token, score, predicting = self.sample(state, temperature, top_p, seed, step)
      if token == special.eot:
        break
      if token not in self._unspoken:
        ids.append(token)
        hidden.append(predicting)
        scores.append(score)
        times.append(now())
        whole = self._whole_text(ids)
        if len(whole) > len(shown):
          yield TextPiece(whole[len(shown) :], now())
          shown = whole
        yield from spoken(cutter.push(score))
      state = self.decode_step(state, token)
    else:
      overflow['answer_tokens'] = 1
    yield from spoken(cutter.finish())
    if len(self.tokenizer.decode(ids)) > len(shown):
      yield TextPiece(self.tokenizer.decode(ids)[len(shown) :], now())
    first = next((s.ready_at for s in slices if len(s.waveform)), None)
    wave = np.concatenate([np.zeros(0, np.float32), *(s.waveform for s in slices)])
    yield Done(
      self.tokenizer.decode(ids), wave, tuple(scores), tuple(times), overflow, first, now()
    )

  def text_answers(
    self,
    texts: Sequence[str] | None = None,
    waves: Sequence[Float[np.ndarray, ' _S']] | None = None,
    batch_size: int = 16,
  ) -> list[str]:
    """Returns greedy text answers to a batch of written (`texts`) or spoken (`waves`) questions.

    Raises:
      EchoXError: a question is invalid.
    """
    questions = (
      [self.prompt(t, False) for t in texts]
      if waves is None
      else [self.prompt('', True)] * len(waves)
    )
    answers = []
    for start in range(0, len(questions), batch_size):
      rows = questions[start : start + batch_size]
      # the last batch is padded so that it does not need its own compilation
      fill = batch_size - len(rows)
      ids = self._rows(rows + rows[-1:] * fill)
      states = (None, None)
      if waves is not None:
        batch = [self.check_wave(w) for w in waves[start : start + batch_size]]
        states = self._states(batch + batch[-1:] * fill)
      made = jax.device_get(self._generate(self.params, ids, *states))
      answers += [
        self.tokenizer.decode(row[:n].tolist())
        for row, n in zip(made.ids[: len(rows)], made.lengths)
      ]
    return answers

  def warm_up(self, *, audio: bool = True, text: bool = True, both: bool = True) -> float:
    """Compiles every program that `answer` may need; returns the time in seconds.

    Args:
      audio: for spoken questions.
      text: for written questions.
      both: for spoken questions with accompanying text of any length; otherwise without text.
    """
    start = time.perf_counter()
    starts = []
    if audio and self.hears:
      noise = np.random.default_rng(0).normal(0, 0.1, self._audio_buckets[-1])
      heard = [
        self._embed(self.params, *self._states([noise[:samples]]))
        for samples in self._audio_buckets
      ][-1]
      shortest = self._rows([self.prompt('', audio=True)]).shape[1]
      sizes = [size for size in self._prompt_buckets if size >= shortest] if both else [shortest]
      starts += [self._prefill(self.params, self._blank(size, audio=True), heard) for size in sizes]
    if text:
      starts += [
        self._prefill(self.params, self._blank(size), None) for size in self._prompt_buckets
      ]
    for state in starts:
      self.sample(state, temperature=1.0)
      hidden = self.sample(state)[2]
      self.decode_step(state, self.config.special_ids.bos)
    if self.speaks:
      self.generate_units(hidden[None])
      self.vocode(np.zeros(1, np.int32))
      for size in self._frame_buckets:
        self.vocode(np.zeros(1, np.int32), np.asarray([size]))
    return time.perf_counter() - start

  def _blank(self, size: int, audio: bool = False) -> np.ndarray:
    """Returns a dummy prompt: int32[1,size]."""
    special = self.config.special_ids
    row = np.full((1, size), special.pad, np.int32)
    row[0, 0] = special.audio if audio else special.pad
    return row

  def _whole_text(self, ids: Sequence[int]) -> str:
    """Decodes `ids`; leaves out an incomplete character at the end."""
    return self.tokenizer.decode(ids).rstrip('\ufffd')

  def _fitting(
    self, cut: tuple[int, int] | None, overflow: dict[str, int]
  ) -> Iterator[tuple[int, int]]:
    """Yields the slice, or pieces of it if it exceeds the budget, and counts the overflow."""
    if cut is None:
      return
    most = self.config.streaming.max_slice_tokens
    overflow['slice_tokens'] += cut[1] - cut[0] > most
    for begin in range(cut[0], cut[1], most):
      yield begin, min(begin + most, cut[1])

  def _rows(self, questions: Sequence[Sequence[int]]) -> np.ndarray:
    """Pads questions to a bucket: int32[B,T]."""
    size = _bucket(self._prompt_buckets, max(map(len, questions)))
    rows = np.full((len(questions), size), self.config.special_ids.pad, np.int32)
    for row, ids in zip(rows, questions):
      row[: len(ids)] = ids
    return rows

  def _states(self, waves: Sequence[np.ndarray]) -> tuple[Array, Array]:
    """Encodes waves: (float[B,E,Dw], int[B]). E is the same for all questions, so the LLM compiles
    only once.
    """
    lengths = np.asarray([len(w) for w in waves], np.int32)
    samples = _bucket(self._audio_buckets, int(lengths.max()))
    batch = np.stack([np.pad(w, (0, samples - len(w))) for w in waves])
    states, state_lengths = self._encode(self.params, batch, lengths)
    return jnp.pad(states, ((0, 0), (0, self._max_states - states.shape[1]), (0, 0))), state_lengths


def _likeliest(
  params: dict, cfg: EchoXConfig, state: generate.TextState
) -> tuple[Array, Array, Array]:
  """Returns (next id, trigger score, state that predicts it) for a batch of one."""
  token, score = steps.sample(params, cfg, state.hidden, state.logits)
  return token[0], score[0], state.hidden[0]


def _sample(
  params: dict,
  cfg: EchoXConfig,
  state: generate.TextState,
  temperature: Array,
  top_p: Array,
  seed: Array,
  step: Array,
) -> tuple[Array, Array, Array]:
  """Like `_likeliest`, but samples at a temperature above 0; one program serves all
  temperatures.
  """
  key = jax.random.fold_in(jax.random.key(seed), step)
  token, score = steps.sample(params, cfg, state.hidden, state.logits, key, temperature, top_p)
  return token[0], score[0], state.hidden[0]


def _generate(
  params: dict,
  cfg: EchoXConfig,
  max_new_tokens: int,
  ids: Array,
  states: Array | None,
  lengths: Array | None,
) -> generate.Generated:
  return generate.generate_text(params, cfg, ids, states, lengths, max_new_tokens)


def _bucket(buckets: Sequence[int], size: int) -> int:
  """Returns the smallest bucket that fits `size`."""
  return next(bucket for bucket in buckets if bucket >= size)
