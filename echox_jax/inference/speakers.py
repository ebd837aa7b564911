"""The rows that speak: slices of answers become unit words and windows of sound here, and what went
wrong is tried once more.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.decoding import conversations
from echox_jax.inference import compiled, steps, warming
from echox_jax.inference import programs as programs_lib
from echox_jax.inference.answering import Answering, Slice
from echox_jax.inference.programs import Programs
from echox_jax.models import prosody, vocoder
from echox_jax.units.unit_language import UnitLanguage

# Sound that lies ready, in seconds, from which on thinking goes before speaking.
_LEAD = 0.6
_GREEDY = np.float32(0)


class Speakers:
  """Rows of the echo decoder, and the slices that they speak.

  Args:
    programs: of the model.
    params: of the model.
    cfg: of the model.
    budgets: of its answers.
    language: its unit language.
  """

  def __init__(
    self,
    programs: Programs,
    params: dict,
    cfg: EchoXConfig,
    budgets: EngineConfig,
    language: UnitLanguage,
  ):
    self._programs, self._params, self._budgets = programs, params, budgets
    spelling = programs_lib.spelling(language, cfg)
    self._spelling, self._lengths = jax.tree.map(jnp.asarray, spelling), spelling.lengths
    self._context = vocoder.sound_context(cfg.vocoder)
    _, self._behind = prosody.duration_context(cfg.vocoder.duration)
    self._said = programs.new_speaking()
    self._rows: list[Slice | None] = [None] * self._said.going.shape[0]

  def any(self) -> bool:
    """Whether a slice is being spoken."""
    return any(self._rows)

  def are_silent(self) -> bool:
    """Whether a listener has not heard anything yet of an answer that is being spoken."""
    return any(own is not None and not own.answering.has_sound for own in self._rows)

  def are_late(self) -> bool:
    """Whether a listener soon has nothing more to hear."""
    return any(own is not None and own.answering.lead() < _LEAD for own in self._rows)

  def begin(self, answerings: Iterable[Answering], written: conversations.Written) -> None:
    """Gives slices that are ready to rows that are free.

    Args:
      answerings: answers that are on their way.
      written: by all conversations.
    """
    for row, spoken in enumerate(self._rows):
      if spoken is None:
        waiting = [a for a in answerings if a.unspoken]
        if not waiting:
          return
        self._rows[row] = min(waiting, key=Answering.lead).unspoken.pop(0)
        self._read(row, written, _GREEDY)

  def speak(self, written: conversations.Written) -> None:
    """Says a few unit words of all slices; a slice that went wrong begins once more."""
    count = self._budgets.first_words if self.are_silent() else self._budgets.words
    active = np.asarray([own is not None for own in self._rows])
    rows = self._programs.rows(np.flatnonzero(active).tolist(), len(active))
    self._said, spoken = self._programs.speak_chunk(
      self._params, self._said, rows, self._spelling, active[rows], np.int32(count)
    )
    spoken = jax.device_get(spoken)
    for place, row in enumerate(rows.tolist()):
      own = self._rows[row]
      if own is not None:
        own.take(spoken, place)
        if own.through:
          self._mend(row, own, written)

  def make_sound(self, calm: bool) -> tuple[bool, list[Slice]]:
    """Vocodes a window of each slice that has one ready; returns whether there was one, and the
    slices that are over.

    Args:
      calm: whether nobody waits for a first sound, so that windows may be long.
    """
    first, (steady, *longer) = self._budgets.first_window, self._windows()
    ready = []  # all windows are asked for before the first is waited for
    for row, own in enumerate(self._rows):
      if own is None:
        continue
      sizes = [steady, *(longer if calm else ())] if own.answering.has_sound else [first]
      window = own.next_window(sizes, self._context)
      if window:
        sound, begin = self._programs.sound[window], np.int32(own.sounded)
        ready.append((own, sound(self._params, self._said, np.int32(row), begin), window))
    for own, wave, window in ready:
      own.hear(np.asarray(wave), window)
    over = []
    for row, own in enumerate(self._rows):
      if own is not None and own.through and own.sounded >= own.frames:
        words, units = jax.device_get((self._said.words, self._said.units))
        own.end(words[row], units[row], self._problem(own))
        self._rows[row] = None
        over.append(own)
    return bool(ready), over

  def _windows(self) -> Sequence[int]:
    """Frames of windows behind the first that can be made at once, in ascending order."""
    sound, none = self._programs.sound, np.int32(0)
    steady, *longer = steps.windows(self._budgets)
    ask = (self._params, self._said, none, none)
    return [steady, *(own for own in longer if compiled.is_ready(sound[own], *ask))]

  def leave(self, answering: Answering) -> None:
    """Speaks no slice of an answer any more."""
    for row, own in enumerate(self._rows):
      if own is not None and own.answering is answering:
        self._rows[row] = None

  def programs_needed(self) -> Iterable[warming.Job]:
    """Everything that speaking needs."""
    return warming.speaking(self._programs, self._params, self._spelling)

  def _read(self, row: int, written: conversations.Written, temperature: np.float32) -> None:
    own = self._rows[row]
    self._said = self._programs.begin_slice(
      self._params,
      self._said,
      np.int32(row),
      written,
      np.int32(own.answering.conversation.row),
      np.int32(own.tokens[0]),
      np.int32(own.tokens[1]),
      temperature,
    )

  def _problem(self, own: Slice) -> str | None:
    return own.problem(self._budgets.least_words_per_token)

  def _mend(self, row: int, own: Slice, written: conversations.Written) -> None:
    """Tries a slice that went wrong once more: from its beginning where nobody has heard of it yet,
    and after a loop from the last word before it. A second loop is taken back only.
    """
    problem = self._problem(own)
    again = _GREEDY if own.retried else np.float32(self._budgets.retry_temperature)
    if problem == 'unit_loops':
      count = self._unheard(row, own)
      if count:
        self._said = self._programs.unsay(
          self._params, self._said, self._spelling, np.int32(row), np.int32(count), again
        )
        own.resume(retried=bool(again > 0))
    elif problem and again and not own.sounded:
      self._read(row, written, again)
      own.resume(retried=True)

  def _unheard(self, row: int, own: Slice) -> int:
    """Repeated words of a row that nobody has heard yet."""
    words, durations = jax.device_get((self._said.words, self._said.durations))
    ends = np.cumsum(self._lengths[words[row, : own.num_words]])  # in units
    frames = np.cumsum(np.append(0, durations[row]))
    settled = frames[np.clip(ends - self._behind, 0, len(frames) - 1)]
    heard = int(np.searchsorted(settled, own.sounded)) + 1 if own.sounded else 0
    return max(0, min(own.repeated, own.num_words - heard))
