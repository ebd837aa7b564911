"""Single training rows: token ids with labels, speech states with augmentation, vocoder segments.
Works on plain arrays, reads no files.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from echox_jax import prompts
from echox_jax.prompts import IGNORE, SpecialIds
from echox_jax.training.experiment import AugmentConfig
from echox_jax.units import kmeans

_WARP_LIMIT = 0.9  # a clip is never warped to less than a tenth of its length


def question_row(
  ids: SpecialIds,
  profile: prompts.Profile,
  system: Sequence[int],
  question: Sequence[int],
  answer: Sequence[int],
  *,
  audio: bool,
) -> dict[str, np.ndarray]:
  """Question and answer: `input_ids` and `labels`, int32[T] each.

  Only the tokens that `prompts.answer` gives have labels. `system` and `question` are as in
  `prompts.question_prompt`. With `audio` the question is the single AUDIO id, and `question` is the
  text written beside it, usually none.
  """
  prompt = prompts.question_prompt(ids, profile, system, question, audio)
  target = prompts.answer(ids, profile, answer)
  return _labelled([*prompt, *target], [IGNORE] * len(prompt) + target)


def text_to_codec_row(
  ids: SpecialIds,
  profile: prompts.Profile,
  text: Sequence[int],
  unit_words: Sequence[int],
  vocab_size: int,
) -> dict[str, np.ndarray]:
  """Text and its unit words (ids from 0): `input_ids` and `labels`, int32[T] each. Only `BOS words
  EOT` has labels.
  """
  return _labelled(
    *prompts.text_to_codec_row(ids, profile, text, [int(word) for word in unit_words], vocab_size)
  )


def pack(
  examples: Sequence[Mapping[str, np.ndarray]], size: int, fill: int
) -> dict[str, np.ndarray]:
  """Concatenates rows: `input_ids`, `labels` and `segments`, int32[size]. Segments are 1, 2... and
  0 for padding.
  """
  out = {
    'input_ids': np.full(size, fill, np.int32),
    'labels': np.full(size, IGNORE, np.int32),
    'segments': np.zeros(size, np.int32),
  }
  start = 0
  for number, row in enumerate(examples, 1):
    stop = start + len(row['input_ids'])
    out['input_ids'][start:stop], out['labels'][start:stop], out['segments'][start:stop] = (
      row['input_ids'],
      row['labels'],
      number,
    )
    out['labels'][start] = IGNORE  # the token before it belongs to another row
    start = stop
  return out


def pad(values: np.ndarray, size: int, fill: int | float = 0) -> np.ndarray:
  """Pads [N, ...] to [size, ...] with `fill`; N <= size."""
  out = np.full((size, *values.shape[1:]), fill, values.dtype)
  out[: len(values)] = values
  return out


def augment(
  states: np.ndarray, config: AugmentConfig, rng: np.random.Generator, max_states: int
) -> np.ndarray:
  """Augments cached encoder states: float[T,D] -> float[T',D], T' <= max_states.

  Time warp: resamples to T times a factor drawn from 1 -/+ `time_warp`. Noise: Gaussian, with
  `noise` times the standard deviation of the clip. Masks: two spans in time and two in the
  features, which together cover at most the fraction `time_mask` or `feature_mask`; masked values
  become the clip's mean.
  """
  if config == AugmentConfig():
    return states
  x = states.astype(np.float32)
  if config.time_warp:
    spread = min(config.time_warp, _WARP_LIMIT)
    x = resample(
      x, int(np.clip(round(len(x) * rng.uniform(1 - spread, 1 + spread)), 1, max_states))
    )
  mean = x.mean(axis=0)
  if config.noise:
    noise = rng.standard_normal(x.shape, np.float32)
    noise *= np.float32(config.noise * x.std())
    x += noise
  for start, stop in _spans(len(x), config.time_mask, rng):
    x[start:stop] = mean
  for start, stop in _spans(x.shape[1], config.feature_mask, rng):
    x[:, start:stop] = mean[start:stop]
  return x.astype(states.dtype)


def resample(states: np.ndarray, length: int) -> np.ndarray:
  """Linear interpolation in time: float32[T,D] -> float32[length,D]. The first and last states are
  kept if `length` > 1.
  """
  at = np.linspace(0, len(states) - 1, length, dtype=np.float32)
  low = at.astype(np.int32)
  high = np.minimum(low + 1, len(states) - 1)
  below, out = states[low], states[high]
  out -= below
  out *= (at - low)[:, None]
  out += below
  return out


def segment(
  units: np.ndarray, audio: np.ndarray, frames: int, hop: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
  """A random segment of a clip for the vocoder.

  Args:
    units: int32[N], 50 Hz.
    audio: float32[S]; cut or zero-padded to the length of the units.
    frames: length F of the segment.
    hop: samples per unit.
    rng: draws the start.

  Returns:
    `units` int32[F], `audio` float32[F*hop], `real_frames` int32[]. `real_frames` is F, or N if the
    clip is shorter; then the last unit is repeated and the audio is zero.
  """
  real = min(frames, len(units))
  start = int(rng.integers(len(units) - real + 1))
  sound = audio[start * hop : (start + real) * hop]
  return {
    'units': pad(
      units[start : start + real].astype(np.int32), frames, int(units[start + real - 1])
    ),
    'audio': pad(sound, frames * hop),
    'real_frames': np.int32(real),
  }


def runs(units: np.ndarray, budget: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Reduced units and durations of a clip, or of `budget` consecutive runs at random: int32[budget]
  each. Duration 0 = padding.
  """
  reduced, durations = kmeans.reduce_units(units)
  start = int(rng.integers(max(0, len(reduced) - budget) + 1))
  return {
    'reduced_units': pad(reduced[start : start + budget], budget),
    'durations': pad(durations[start : start + budget], budget),
  }


def stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Rows of one shape -> a batch."""
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _labelled(ids: Sequence[int], labels: Sequence[int]) -> dict[str, np.ndarray]:
  return {'input_ids': np.asarray(ids, np.int32), 'labels': np.asarray(labels, np.int32)}


def _spans(length: int, fraction: float, rng: np.random.Generator) -> list[tuple[int, int]]:
  """Two random spans that together cover at most `fraction` of `length`."""
  if not fraction:
    return []
  sizes = rng.integers(int(length * fraction / 2) + 1, size=2)
  starts = [int(rng.integers(length - size + 1)) for size in sizes]
  return [(start, start + int(size)) for start, size in zip(starts, sizes)]
