"""The gap between meaning and sound, in every space that an answer passes through.

  text embeddings    the frozen table that the unit decoders read
  S2T states         the LLM's states that predict the word, after a spoken question
  adapted states     the same after the denoising adapter
  units of the text  what the frozen text-to-codec model says for the embeddings, as units
  units              what the echo decoder says for the adapted states, as units

In the first three, two words are as alike as the cosine of their vectors, from which the mean over
all words is taken away; in units, as the share of units that need no change.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import re
from typing import Any

import jax
import numpy as np

from echox_jax import prompts, rates
from echox_jax.decoding import generate
from echox_jax.evaluation.intervals import Interval, bootstrap_mean, paired_bootstrap
from echox_jax.evaluation.judge import word_errors
from echox_jax.evaluation.near_words import Neighbours
from echox_jax.model_folder import Bundle
from echox_jax.models import echox, unit_decoder
from echox_jax.prompts import IGNORE
from echox_jax.training import echo_step

EMBEDDINGS, STATES, ADAPTED = 'text embeddings', 'S2T states', 'adapted states'
READ, UNITS = 'units of the text', 'units'
SPACES = (EMBEDDINGS, STATES, ADAPTED, READ, UNITS)
KINDS = ('meaning', 'sound', 'unrelated')
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """A spoken question, float32[samples] at 16 kHz, and its given answer."""

  wave: np.ndarray
  answer: str


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
  """The words of a model in all spaces.

  Attributes:
    vectors: space -> word -> float[D], mean over its tokens and over the answers that it is in.
    units: space -> word -> reduced units that are said for it.
  """

  vectors: Mapping[str, Mapping[str, np.ndarray]]
  units: Mapping[str, Mapping[str, tuple[int, ...]]]


def words_of(text: str) -> list[str]:
  """The words of a text, in lower case."""
  return [found.group().lower() for found in WORD.finditer(text)]


def locate(model: Bundle, asked: Sequence[Asked], words: Iterable[str]) -> Places:
  """Finds `words` in all spaces of a model.

  Args:
    model: with the groups `llm`, `adapter`, `whisper`, `unit_text_embedding`, `t2c`, `echo` and
      `denoising_adapter`, tokenizer and unit language.
    asked: questions whose given answers hold the words.
    words: in lower case.
  """
  wanted = set(words)
  table = np.asarray(model.params['unit_text_embedding']['embedding'], np.float32)
  sums: dict[str, dict[str, list[np.ndarray]]] = {s: {} for s in SPACES[:3]}
  # of the first answer that a word is in
  said: dict[str, dict[str, np.ndarray]] = {READ: {}, UNITS: {}}
  for states, adapted, ids in _forward(model, asked):
    for word, tokens in word_tokens(model.tokenizer, ids):
      if word not in wanted:
        continue
      said[READ].setdefault(word, table[ids[tokens]])
      said[UNITS].setdefault(word, adapted[tokens])
      for space, rows in ((EMBEDDINGS, table[ids[tokens]]), (STATES, states[tokens])):
        sums[space].setdefault(word, []).append(rows.mean(axis=0))
      sums[ADAPTED].setdefault(word, []).append(adapted[tokens].mean(axis=0))
  vectors = {
    s: {w: np.mean(rows, axis=0) for w, rows in found.items()} for s, found in sums.items()
  }
  units = {s: _said(model, 't2c' if s == READ else 'echo', rows) for s, rows in said.items()}
  return Places(vectors, units)


def word_tokens(tokenizer: Any, ids: np.ndarray) -> list[tuple[str, np.ndarray]]:
  """(word in lower case, places of its tokens) of a text, int[T] ids."""
  ends = [len(tokenizer.decode([int(i) for i in ids[: n + 1]])) for n in range(len(ids))]
  starts = [0, *ends[:-1]]
  text, found = tokenizer.decode([int(i) for i in ids]), []
  for match in WORD.finditer(text):
    inside = [n for n in range(len(ids)) if starts[n] < match.end() and ends[n] > match.start()]
    if inside:
      found.append((match.group().lower(), np.asarray(inside)))
  return found


def spelt(tokenizer: Any, text: str) -> list[tuple[str, list[int]]]:
  """(word in lower case, ids of its tokens) of a text."""
  ids = np.asarray(tokenizer.encode(text))
  return [(word, ids[tokens].tolist()) for word, tokens in word_tokens(tokenizer, ids)]


def _forward(
  model: Bundle, asked: Sequence[Asked]
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """(states float[A,D], adapted states float[A,D], ids int[A]) of the spoken tokens of each given
  answer.
  """
  cfg, profile = model.config, prompts.get_profile(model.config.profile)
  system = prompts.encode_system(profile, model.tokenizer.encode, cfg.system_message)
  beside = prompts.encode_question(profile, model.tokenizer.encode, '', audio=True)
  prompt = prompts.question_prompt(cfg.special_ids, profile, system, beside, audio=True)
  targets = [
    prompts.answer(cfg.special_ids, profile, model.tokenizer.encode(one.answer)) for one in asked
  ]
  room = len(prompt) + max(map(len, targets))
  longest = max(len(one.wave) for one in asked)
  longest = -(-longest // rates.SAMPLE_RATE) * rates.SAMPLE_RATE

  @jax.jit
  def forward(params: dict, batch: dict) -> tuple:
    spoken = echo_step.answers(cfg, echox.s2t_forward(params, cfg, batch), room)
    adapted = unit_decoder.read_answer(params, cfg, spoken.states, spoken.ids)
    return spoken, adapted

  read = ('whisper', 'adapter', 'llm', 'denoising_adapter', 'unit_text_embedding')
  groups = {name: model.params[name] for name in read}
  for one, target in zip(asked, targets):
    row = prompt + target
    spoken, adapted = forward(
      groups,
      {
        'input_ids': _padded(row, room, cfg.special_ids.pad)[None],
        'labels': _padded([IGNORE] * len(prompt) + target, room, IGNORE)[None],
        'audio': np.pad(one.wave, (0, longest - len(one.wave)))[None],
        'audio_lengths': np.asarray([len(one.wave)]),
      },
    )
    length = int(spoken.lengths[0])
    yield tuple(np.asarray(x[0][:length]) for x in (spoken.states, adapted, spoken.ids))


def _padded(values: Sequence[int], size: int, fill: int) -> np.ndarray:
  return np.asarray([*values, *[fill] * (size - len(values))], np.int32)


def _said(
  model: Bundle, decoder: str, text: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
  """What a unit decoder, `t2c` or `echo`, says for the rows float[n,D] of each word alone."""
  cfg, most = model.config, model.engine.max_unit_words
  room = max(map(len, text.values()))
  groups = {name: model.params[name] for name in (decoder, 'unit_text_embedding')}

  @jax.jit
  def say(params: dict, states: jax.Array, lengths: jax.Array) -> generate.UnitWords:
    table = params['unit_text_embedding']['embedding']
    return generate.decode_unit_words(params[decoder], cfg, table, states, lengths, most)

  rows = np.stack([np.pad(x, ((0, room - len(x)), (0, 0))) for x in text.values()])
  words = jax.device_get(say(groups, rows, np.asarray([len(x) for x in text.values()])))
  language = model.unit_language
  told = (row[:n] for row, n in zip(words.ids, words.lengths))
  return {
    word: tuple(language.decode(row[row < language.vocab_size]).tolist())
    for word, row in zip(text, told)
  }


def similarities(places: Places, chosen: Sequence[Neighbours]) -> dict[str, dict[str, np.ndarray]]:
  """space -> kind of neighbour -> float[N]: how like its anchor each neighbour is."""
  found = {}
  for space, vectors in places.vectors.items():
    middle = np.mean(list(vectors.values()), axis=0)
    centred = {word: vector - middle for word, vector in vectors.items()}
    found[space] = _of_kinds(chosen, centred, _cosine)
  return found | {s: _of_kinds(chosen, units, _alike) for s, units in places.units.items()}


def _of_kinds(
  chosen: Sequence[Neighbours], place: Mapping[str, Any], likeness: Callable[[Any, Any], float]
) -> dict[str, np.ndarray]:
  return {
    kind: np.asarray([likeness(place[one.anchor], place[getattr(one, kind)]) for one in chosen])
    for kind in KINDS
  }


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
  return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def _alike(a: Sequence[int], b: Sequence[int]) -> float:
  edits, _ = word_errors(' '.join(map(str, a)), ' '.join(map(str, b)))
  return 1 - edits / max(len(a), len(b), 1)


def summarise(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Interval]]:
  """space -> interval of each kind's mean, and of two differences: `meaning - sound` and `sound -
  unrelated`.
  """
  return {
    space: {kind: bootstrap_mean(values) for kind, values in kinds.items()}
    | {
      f'{a} - {b}': paired_bootstrap(kinds[a], kinds[b])
      for a, b in (('meaning', 'sound'), ('sound', 'unrelated'))
    }
    for space, kinds in found.items()
  }


def in_words(when: str, summary: Mapping[str, Mapping[str, Interval]]) -> str:
  """What a summary shows, in a sentence for each space."""
  sentences = []
  for space, kinds in summary.items():
    difference = kinds['meaning - sound']
    nearer = 'words near in meaning are more alike than words near in sound'
    if difference.high < 0:
      nearer = 'words near in sound are more alike than words near in meaning'
    elif difference.low <= 0:
      nearer = 'words near in meaning and words near in sound cannot be told apart'
    mean, low, high = difference
    bounds = f'{mean:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}'
    sentences.append(f'In {space} {when}, {nearer} ({bounds}).')
  return ' '.join(sentences)
