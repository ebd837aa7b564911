"""Speech -> encoder states -> units, in batches of clips of similar length.

At full size the units come from layer 11 of mHuBERT (facts 11). No package contains HuBERT weights,
so nano uses the states of a middle layer of Whisper's encoder instead. Like HuBERT's states, they
encode content rather than speaker. Unlike HuBERT, Whisper was trained on transcribed speech.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from echox_jax import errors, rates
from echox_jax.config import HubertConfig, UnitsConfig, WhisperConfig
from echox_jax.models import hubert, log_mel, whisper
from echox_jax.models.arrays import Array, Float
from echox_jax.parallel import sharding

_SHORTEST_BUCKET = rates.SAMPLE_RATE  # samples
_BUCKETS_AN_OCTAVE = 4
_WINDOW = 16  # number of batches whose clips are sorted by length together
_RUNNING = 1  # batches on the devices while the next one is prepared


@dataclasses.dataclass(frozen=True)
class SpeechEncoder:
  """A speech encoder for `encode_clips`.

  Attributes:
    apply: (float[B,S] audio, int[B] samples, names) -> the named fields of `ClipStates`, [B,T,D]
      each.
    num_states: samples -> states of the clip and its padding.
    padding: zeros (samples) appended to every clip.
    max_samples: longest clip in one piece, padding included; longer ones are encoded in chunks.
    width: D of the states.
    devices: number of this process's devices that the rows are split over; B must be a multiple.
  """

  apply: Callable[[Array, Array, tuple[str, ...]], tuple[Array, ...]]
  num_states: Callable[[int], int]
  padding: int
  max_samples: int
  width: int
  devices: int = 1


class ClipStates(NamedTuple):
  """States of one clip at 50 Hz; None = not requested."""

  # float32[T,D] after the chosen layer, T = number of full units (320 samples) of the clip itself
  layer: np.ndarray | None
  # float16[T2,D] of the last layer, including padding states: the input of the LLM's adapter
  final: np.ndarray | None


def whisper_encoder(
  params: dict, cfg: WhisperConfig, layer: int, padding_seconds: float = 0.5
) -> SpeechEncoder:
  """Makes an encoder from Whisper. Each clip is padded with `padding_seconds` of silence instead of
  to 30 s.
  """

  def forward(
    params: dict, cfg: WhisperConfig, audio: Array, samples: Array
  ) -> tuple[Array, Array]:
    mel = log_mel.log_mel(audio, cfg.num_mel_bins)
    return whisper.WhisperEncoder(cfg).apply(
      {'params': params}, mel, log_mel.num_frames(samples), layer, method='final_and_layer'
    )

  return _encoder(
    forward,
    params,
    cfg,
    layer,
    num_states=lambda samples: whisper.num_states(log_mel.num_frames(samples)),
    padding=round(padding_seconds * rates.SAMPLE_RATE),
    max_samples=2 * cfg.max_positions * rates.MEL_HOP,
  )


def hubert_encoder(params: dict, cfg: HubertConfig, layer: int) -> SpeechEncoder:
  """Makes an encoder from HuBERT. Clips over 100 s are encoded in chunks, like the released units
  (facts 11).
  """

  def forward(params: dict, cfg: HubertConfig, audio: Array, samples: Array) -> tuple[Array, Array]:
    return hubert.HubertEncoder(cfg).apply(
      {'params': params}, audio, samples, layer, method='final_and_layer'
    )

  return _encoder(
    forward,
    params,
    cfg,
    layer,
    num_states=functools.partial(hubert.num_states, cfg),
    padding=0,
    max_samples=1_600_000,
  )


def _encoder(
  forward: Callable[..., tuple[Array, Array]],
  params: dict,
  cfg: WhisperConfig | HubertConfig,
  layer: int,
  **sizes,
) -> SpeechEncoder:
  """Makes an encoder that computes `forward` with rows split over this process's devices; it skips
  layers that are not needed.
  """
  mesh = sharding.make_mesh({'data': -1}, jax.local_devices())
  rows, whole = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())

  @functools.cache
  def program(names: tuple[str, ...]) -> Callable[[Array, Array], tuple[Array, ...]]:
    depth = cfg.num_layers if 'final' in names else layer
    cut = dataclasses.replace(cfg, num_layers=depth)
    used = jax.device_put(
      {**params, 'layers': jax.tree.map(lambda x: x[:depth], params['layers'])}, whole
    )

    @functools.partial(jax.jit, in_shardings=(whole, rows, rows), out_shardings=rows)
    def encode(params: dict, audio: Array, samples: Array) -> tuple[Array, ...]:
      final, tapped = forward(params, cut, audio, samples)
      states = {'layer': tapped.astype(jnp.float32), 'final': final.astype(jnp.float16)}
      return tuple(states[name] for name in names)

    return functools.partial(encode, used)

  def apply(audio: Array, samples: Array, names: tuple[str, ...]) -> tuple[Array, ...]:
    with jax.set_mesh(mesh):
      return program(names)(audio, samples)

  return SpeechEncoder(apply, width=cfg.hidden_size, devices=mesh.size, **sizes)


def speech_encoder(
  params: dict, encoder_cfg: WhisperConfig | HubertConfig, cfg: UnitsConfig
) -> SpeechEncoder:
  """Makes the encoder that `cfg.encoder` names, with states taken after `cfg.layer`.

  Raises:
    ConfigError: the encoder is neither `whisper` nor `hubert`, or does not have the layer.
  """
  if not 1 <= cfg.layer <= encoder_cfg.num_layers:
    raise errors.ConfigError(
      f'units.layer is {cfg.layer}: the encoder has layers 1 to {encoder_cfg.num_layers}.'
    )
  if cfg.encoder == 'whisper':
    return whisper_encoder(params, encoder_cfg, cfg.layer, cfg.padding_seconds)
  if cfg.encoder == 'hubert':
    return hubert_encoder(params, encoder_cfg, cfg.layer)
  raise errors.ConfigError(f'units.encoder is {cfg.encoder!r}: use whisper or hubert.')


def encode_clips(
  encoder: SpeechEncoder,
  clips: Iterable[Float[np.ndarray, ' _S']],
  batch_seconds: float = 12.0,
  names: tuple[str, ...] = ClipStates._fields,
) -> Iterator[ClipStates]:
  """Yields the states of every clip in order. It encodes one window of clips while a thread reads
  the next.

  Args:
    encoder: from `speech_encoder`.
    clips: speech at 16 kHz.
    batch_seconds: seconds of similar-length clips, padding included, that each device encodes at a
      time; at least one clip. CPUs are fastest with 12 (tiny.en on clips of 2 to 12 s); an
      accelerator needs more.
    names: the requested fields.

  Raises:
    AudioError: a clip is too short for a single state.
  """
  clips, samples = iter(clips), _WINDOW * batch_seconds * rates.SAMPLE_RATE * encoder.devices

  def read() -> list[np.ndarray]:
    window, length = [], 0
    while length <= samples and (clip := next(clips, None)) is not None:
      window.append(clip)
      length += len(clip)
    return window

  with futures.ThreadPoolExecutor(1) as pool:
    coming = pool.submit(read)
    while window := coming.result():
      coming = pool.submit(read)
      yield from _encode_window(encoder, window, batch_seconds, names)


def _encode_window(
  encoder: SpeechEncoder, window: Sequence[np.ndarray], batch_seconds: float, names: tuple[str, ...]
) -> Iterator[ClipStates]:
  """Encodes a window. Batches are formed in order of length, longest first, so only the last batch
  (the shortest clips) may lack rows.
  """
  pieces = [(i, piece) for i, clip in enumerate(window) for piece in _pieces(encoder, clip)]
  order = sorted(range(len(pieces)), key=lambda n: -len(pieces[n][1]))
  encoded, running = {}, collections.deque()

  def fetch() -> None:
    batch, states = running.popleft()
    encoded.update(
      zip(batch, _fetch(encoder, [pieces[n][1] for n in batch], states, names), strict=True)
    )

  while order:
    bucket = _bucket(encoder, len(pieces[order[0]][1]))
    rows = max(1, int(batch_seconds * rates.SAMPLE_RATE) // bucket) * encoder.devices
    batch, order = order[:rows], order[rows:]
    running.append((batch, _start(encoder, [pieces[n][1] for n in batch], rows, bucket, names)))
    if len(running) > _RUNNING:
      fetch()
  while running:
    fetch()
  for _, group in itertools.groupby(range(len(pieces)), key=lambda n: pieces[n][0]):
    parts = [encoded.pop(n) for n in group]
    joined = parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts)]
    yield ClipStates(**{'layer': None, 'final': None} | dict(zip(names, joined)))


def _pieces(encoder: SpeechEncoder, clip: np.ndarray) -> list[np.ndarray]:
  """Splits a clip that is too long for the encoder into chunks; drops a remainder too short for a
  state.
  """
  if encoder.num_states(len(clip)) < 1 or len(clip) < rates.UNIT_HOP:
    raise errors.AudioError(
      f'A clip of {len(clip)} samples is too short for a single unit: remove it.'
    )
  longest = encoder.max_samples - encoder.padding
  pieces = [clip[start : start + longest] for start in range(0, len(clip), longest)]
  return [p for p in pieces if len(p) >= rates.UNIT_HOP and encoder.num_states(len(p)) >= 1]


def _bucket(encoder: SpeechEncoder, samples: int) -> int:
  """Returns the padded length (samples, a whole number of units) of a clip's batch; buckets grow
  geometrically.
  """
  step = math.ceil(
    _BUCKETS_AN_OCTAVE * math.log2(max(1.0, (samples + encoder.padding) / _SHORTEST_BUCKET))
  )
  length = (
    math.ceil(_SHORTEST_BUCKET * 2 ** (step / _BUCKETS_AN_OCTAVE) / rates.UNIT_HOP) * rates.UNIT_HOP
  )
  return min(length, encoder.max_samples)


def _start(
  encoder: SpeechEncoder,
  clips: Sequence[np.ndarray],
  rows: int,
  bucket: int,
  names: tuple[str, ...],
) -> tuple[Array, ...]:
  """Starts to encode a batch of `rows` times `bucket` samples; missing clips are silence."""
  audio = np.zeros((rows, bucket), np.float32)
  lengths = np.full(rows, bucket, np.int32)
  for row, clip in enumerate(clips):
    audio[row, : len(clip)] = clip
    lengths[row] = len(clip) + encoder.padding
  return encoder.apply(audio, lengths, names)


def _fetch(
  encoder: SpeechEncoder,
  clips: Sequence[np.ndarray],
  encoded: Sequence[Array],
  names: tuple[str, ...],
) -> Iterator[tuple[np.ndarray, ...]]:
  """Yields the states of each clip of a started batch, without padding states."""
  encoded = [np.asarray(states) for states in encoded]
  for row, clip in enumerate(clips):
    states = encoder.num_states(len(clip) + encoder.padding)
    kept = {'layer': min(states, len(clip) // rates.UNIT_HOP), 'final': states}
    yield tuple(values[row, : kept[name]] for name, values in zip(names, encoded))
