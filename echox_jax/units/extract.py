"""Speech -> encoder states -> units, in batches of clips of like length.

At full size the units come from layer 11 of mHuBERT (facts 11). No package carries HuBERT weights, so at nano size the states of
a middle layer of Whisper's encoder stand in for them: they too carry what is said rather than who says it, but they were
learned from transcribed speech, which HuBERT's were not.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import errors
from echox_jax.config import HubertConfig, UnitsConfig, WhisperConfig
from echox_jax.models import hubert, log_mel, whisper
from echox_jax.units import kmeans

Array = jax.Array

UNIT_SAMPLES = 320  # 50 Hz
_SHORTEST_BUCKET = 16000  # samples
_BUCKETS_AN_OCTAVE = 4
_WINDOW = 512  # clips sorted into buckets at a time


@dataclasses.dataclass(frozen=True)
class SpeechEncoder:
  """What `encode_clips` needs to know of an encoder.

  Attributes:
    apply: (float[B,S] audio, int[B] samples) -> (final states float[B,T,D], states after the chosen layer float[B,T,D]).
    num_states: samples -> states of the clip and its padding.
    padding: zeros (samples) that follow every clip.
    max_samples: longest clip in one piece, padding included; longer ones are encoded in chunks.
  """
  apply: Callable[[Array, Array], tuple[Array, Array]]
  num_states: Callable[[int], int]
  padding: int
  max_samples: int


class ClipStates(NamedTuple):
  """States of one clip at 50 Hz."""
  layer: np.ndarray  # float32[T,D] after the chosen layer, T = whole units of 320 samples that the clip itself fills
  final: np.ndarray  # float16[T2,D] of the last layer, the padding's states included: what the LLM's adapter is given


class ClipUnits(NamedTuple):
  """Units of one clip at 50 Hz."""
  units: np.ndarray  # int32[T], not reduced
  final: np.ndarray  # as in ClipStates


def whisper_encoder(cfg: WhisperConfig, params: dict, layer: int, padding_seconds: float = 0.5) -> SpeechEncoder:
  """Whisper, un-padded: each clip followed by `padding_seconds` of silence instead of filled up to 30 s."""
  model = whisper.WhisperEncoder(cfg)

  @jax.jit
  def apply(audio: Array, samples: Array) -> tuple[Array, Array]:
    mel = log_mel.log_mel(audio, cfg.num_mel_bins)
    return model.apply({'params': params}, mel, log_mel.num_frames(samples), layer, method='final_and_layer')

  return SpeechEncoder(
      apply, num_states=lambda samples: whisper.num_states(log_mel.num_frames(samples)),
      padding=round(padding_seconds * log_mel.SAMPLE_RATE), max_samples=2 * cfg.max_positions * log_mel.HOP)


def hubert_encoder(cfg: HubertConfig, params: dict, layer: int) -> SpeechEncoder:
  """HuBERT; clips over 100 s in chunks, as the released units were made (facts 11)."""
  model = hubert.HubertEncoder(cfg)

  @jax.jit
  def apply(audio: Array, samples: Array) -> tuple[Array, Array]:
    return model.apply({'params': params}, audio, samples, layer, method='final_and_layer')

  return SpeechEncoder(apply, num_states=functools.partial(hubert.num_states, cfg), padding=0, max_samples=1_600_000)


def speech_encoder(cfg: UnitsConfig, encoder_cfg: WhisperConfig | HubertConfig, params: dict) -> SpeechEncoder:
  """The encoder that `cfg.encoder` names, tapped after `cfg.layer`.

  Raises:
    ConfigError: an encoder that is neither `whisper` nor `hubert`, or that does not have the layer.
  """
  if not 1 <= cfg.layer <= encoder_cfg.num_layers:
    raise errors.ConfigError(f'units.layer is {cfg.layer}: the encoder has layers 1 to {encoder_cfg.num_layers}.')
  if cfg.encoder == 'whisper':
    return whisper_encoder(encoder_cfg, params, cfg.layer, cfg.padding_seconds)
  if cfg.encoder == 'hubert':
    return hubert_encoder(encoder_cfg, params, cfg.layer)
  raise errors.ConfigError(f'units.encoder is {cfg.encoder!r}: use whisper or hubert.')


def encode_clips(encoder: SpeechEncoder, clips: Iterable[np.ndarray], batch_size: int = 4) -> Iterator[ClipStates]:
  """Yields the states of every clip, in order.

  Args:
    encoder: from `speech_encoder`.
    clips: float[samples] at 16 kHz.
    batch_size: clips of like length that are encoded at a time. Measured with tiny.en on 2.4 s clips: 25 ms of CPU time a clip
      with 4, 32 ms with 8, 47 ms with 16; an accelerator wants more.

  Raises:
    AudioError: a clip too short for a single state.
  """
  for layer, final in _run(encoder, clips, batch_size, lambda states: states.astype(jnp.float32)):
    yield ClipStates(layer, final)


def extract_units(encoder: SpeechEncoder, centroids: np.ndarray, clips: Iterable[np.ndarray],
                  batch_size: int = 4) -> Iterator[ClipUnits]:
  """As `encode_clips`, giving the unit of each state: the nearest of float[K,D] `centroids`."""
  centroids = jnp.asarray(centroids)
  for units, final in _run(encoder, clips, batch_size, jax.jit(lambda states: kmeans.assign(states, centroids))):
    yield ClipUnits(units, final)


def _run(encoder: SpeechEncoder, clips: Iterable[np.ndarray], batch_size: int,
         head: Callable[[Array], Array]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (head of the layer states, final states) of every clip, a window of clips after another."""
  clips = iter(clips)
  while window := list(itertools.islice(clips, _WINDOW)):
    pieces = [(i, piece) for i, clip in enumerate(window) for piece in _pieces(encoder, clip)]
    buckets = collections.defaultdict(list)
    for n, (_, piece) in enumerate(pieces):
      buckets[_bucket(encoder, len(piece))].append(n)
    encoded = {}
    for samples, members in buckets.items():
      for start in range(0, len(members), batch_size):
        batch = members[start:start + batch_size]
        encoded.update(zip(batch, _encode(encoder, [pieces[n][1] for n in batch], samples, batch_size, head)))
    for _, group in itertools.groupby(range(len(pieces)), key=lambda n: pieces[n][0]):
      parts = [encoded.pop(n) for n in group]
      yield parts[0] if len(parts) == 1 else tuple(np.concatenate(part) for part in zip(*parts))


def _pieces(encoder: SpeechEncoder, clip: np.ndarray) -> list[np.ndarray]:
  """Cuts a clip that is too long for the encoder into chunks; a rest too short for a state is dropped."""
  if encoder.num_states(len(clip)) < 1 or len(clip) < UNIT_SAMPLES:
    raise errors.AudioError(f'A clip of {len(clip)} samples is too short for a single unit: remove it.')
  longest = encoder.max_samples - encoder.padding
  pieces = [clip[start:start + longest] for start in range(0, len(clip), longest)]
  return [p for p in pieces if len(p) >= UNIT_SAMPLES and encoder.num_states(len(p)) >= 1]


def _bucket(encoder: SpeechEncoder, samples: int) -> int:
  """The padded length (samples, a whole number of units) of the batch that a clip goes into: a geometric ladder."""
  step = math.ceil(_BUCKETS_AN_OCTAVE * math.log2(max(1.0, (samples + encoder.padding) / _SHORTEST_BUCKET)))
  length = math.ceil(_SHORTEST_BUCKET * 2 ** (step / _BUCKETS_AN_OCTAVE) / UNIT_SAMPLES) * UNIT_SAMPLES
  return min(length, encoder.max_samples)


def _encode(encoder: SpeechEncoder, clips: Sequence[np.ndarray], bucket: int, batch_size: int,
            head: Callable[[Array], Array]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Encodes one batch; rows that are missing to `batch_size` are silence."""
  audio = np.zeros((batch_size, bucket), np.float32)
  lengths = np.full(batch_size, bucket, np.int32)
  for row, clip in enumerate(clips):
    audio[row, :len(clip)] = clip
    lengths[row] = len(clip) + encoder.padding
  final, layer = encoder.apply(audio, lengths)
  layer, final = np.asarray(head(layer)), np.asarray(final.astype(jnp.float16))
  results = []
  for row, clip in enumerate(clips):
    states = encoder.num_states(int(lengths[row]))
    results.append((layer[row, :min(states, len(clip) // UNIT_SAMPLES)], final[row, :states]))
  return results
