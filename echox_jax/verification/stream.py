"""A spoken answer as it streams: tokens, trigger scores, segments, unit words, units, sound.

Tokens and their states come from the waveform of the question. Each later part gets the golden
output of the part before it, so a row tests only its own part.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import prompts
from echox_jax.decoding import generate, trigger
from echox_jax.models import echox, unit_decoder
from echox_jax.models.llama import head_embedding
from echox_jax.models.unit_decoder import DenoisingAdapter, UnitDecoder
from echox_jax.models.vocoder import UnitVocoder
from echox_jax.units.unit_language import SEPARATOR, PlainModel, UnitLanguage
from echox_jax.verification import vocoder
from echox_jax.verification.golden import Arrays, Golden
from echox_jax.verification.rows import Row, close, identical

FILES = ('weights', 'stream', 'vocoder')
_INT16 = 32767  # the released code's full scale


def rows(golden: Golden) -> list[Row]:
  """Rows of the text (tokens, states), the trigger (scores, segments) and each segment's speech."""
  arrays = golden['stream']
  segments = np.array([arrays[f'seg{i}/len'] for i in range(int(arrays['n_segments']))], int)
  return [
    *_text_rows(golden, arrays),
    *_trigger_rows(golden, arrays, segments),
    *_unit_rows(golden, arrays, segments),
    *_sound_rows(golden, arrays, len(segments)),
  ]


def _text_rows(golden: Golden, arrays: Arrays) -> list[Row]:
  cfg, wave = golden.cfg, arrays['wave']
  encode = jax.jit(lambda params, wave, length: echox.encode_speech(params, cfg, wave, length))
  states, lengths = encode(golden.params, wave[None], np.array([len(wave)]))
  fitted = golden.fitted({'states': states, 'state_lengths': lengths})

  @jax.jit
  def answer(params, ids, states, lengths):
    return generate.generate_text(
      params, fitted, ids, states, lengths, golden.engine.max_new_tokens
    )

  made = answer(golden.params, arrays['prompt_ids'], states, lengths)
  said = int(made.lengths[0])
  return [
    identical('stream/tokens', made.ids[0, :said], arrays['tokens']),
    close('stream/hidden', made.hidden[0, :said], arrays['hidden']),
  ]


def _trigger_rows(golden: Golden, arrays: Arrays, segments: np.ndarray) -> list[Row]:
  """Scores, and segment lengths by both forms of the rule: for a whole answer at once, and token by
  token.
  """
  cfg, sims = golden.cfg, arrays['sims']
  period = head_embedding(golden.params['llm'])[cfg.special_ids.period]
  number = trigger.cut_slices(jnp.asarray(sims)[None], jnp.array([len(sims)]), cfg.streaming)[0]
  cuts = trigger.streamed_slices(np.asarray(sims), cfg.streaming)
  return [
    close('stream/sims', trigger.scores(arrays['hidden'], period), sims),
    identical('stream/segments', [stop - start for start, stop in cuts], segments),
    identical('stream/segments_at_once', np.bincount(number), segments),
  ]


def _unit_rows(golden: Golden, arrays: Arrays, segments: np.ndarray) -> list[Row]:
  """Input and output of the unit decoder, all segments in one batch, and the units after the
  released filter.
  """
  cfg, params = golden.cfg, golden.params
  starts = np.cumsum(segments) - segments
  columns = np.minimum(starts[:, None] + np.arange(segments.max()), len(arrays['hidden']) - 1)
  cap = int(arrays['unit_cap'])

  @jax.jit
  def speak(params, states):
    table = params['unit_text_embedding']['embedding']
    text = DenoisingAdapter(cfg).apply({'params': params['denoising_adapter']}, states)
    prompt = unit_decoder.slice_prompt(cfg, table, text, segments)
    given = UnitDecoder(cfg).apply({'params': params['echo']}, prompt.embeddings, method='project')
    return (
      given,
      prompt.valid,
      *generate.decode_unit_tokens(params['echo'], cfg, table, text, segments, cap),
    )

  given, valid, tokens, counts, _ = speak(params, arrays['hidden'][columns])
  found = [
    close(
      f'stream/seg{i}/t2u_prompt_embeds', given[i][valid[i]], arrays[f'seg{i}/t2u_prompt_embeds']
    )
    for i in range(len(segments))
    if f'seg{i}/t2u_prompt_embeds' in arrays
  ]
  words = tuple(
    tuple(map(int, word.split(SEPARATOR)[1:])) for word in json.loads(str(arrays['unit_words']))
  )
  language = UnitLanguage(
    'plain', 1 + max(unit for word in words for unit in word), PlainModel(words)
  )
  limit = prompts.get_profile(cfg.profile).unit_id_limit
  for i, count in enumerate(counts):
    said = np.asarray(tokens[i, :count])
    units = language.decode(said[said >= cfg.llm.vocab_size] - cfg.llm.vocab_size)
    found += [
      identical(f'stream/seg{i}/unit_tokens', said, arrays[f'seg{i}/unit_tokens']),
      identical(f'stream/seg{i}/units', units[units < limit], arrays[f'seg{i}/units']),
    ]
  return found


def _sound_rows(golden: Golden, arrays: Arrays, count: int) -> list[Row]:
  """Sound of the golden units with predicted durations, all segments in one batch, in 16-bit steps
  like the golden wave.
  """
  cfg, params = vocoder.load(golden)
  units = [arrays[f'seg{i}/units'] for i in range(count)]
  waves = {i: arrays[f'seg{i}/wav_int16'] for i in range(count) if f'seg{i}/wav_int16' in arrays}
  longest, frames = (
    max(map(len, units)),
    max(map(len, waves.values()), default=0) // cfg.code_hop_size,
  )
  codes = np.stack([np.pad(row, (0, longest - len(row))) for row in units])
  mask = np.arange(longest) < np.array([[len(row)] for row in units])
  synthesise = jax.jit(
    functools.partial(UnitVocoder(cfg).apply, frame_budget=frames, method='synthesise')
  )
  speech = synthesise({'params': params}, codes, mask)
  sounds = {
    i: np.asarray(speech.waveform[i, : int(speech.num_frames[i]) * cfg.code_hop_size])
    for i in waves
  }

  def as_int16(wave):
    return (wave * _INT16).astype(np.int16) / _INT16

  return [
    close(f'stream/seg{i}/wav_int16', as_int16(sounds[i]), wave / _INT16)
    for i, wave in waves.items()
  ]
