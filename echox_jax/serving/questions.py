"""What the items of a conversation ask: written and spoken questions that wait are asked
together.
"""

from collections.abc import Iterable, Sequence
import dataclasses

import numpy as np

from echox_jax import rates
from echox_jax.serving.commands import Ticket, Written
from echox_jax.serving.formats import AudioFormat
from echox_jax.serving.items import Item, Items
from echox_jax.serving.protocol import Message
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.resampling import Stream


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """A question.

  Attributes:
    items: that it is made of.
    wave: float32[samples] at 16 kHz; None = nothing was said.
    text: what was written.
  """

  items: Sequence[Item]
  wave: np.ndarray | None
  text: str


def as_item(name: str, message: Message, audio_format: AudioFormat, most_seconds: float) -> Item:
  """Makes an item of what a client sends.

  Raises:
    Refusal: its sound is longer than `most_seconds`, which is found before it is resampled, or
      holds half a sample.
  """
  heard = [part for part in message.content if part.audio is not None]
  seconds = sum(audio_format.seconds(part.audio) for part in heard)
  if seconds > most_seconds:
    raise Refusal(
      f'the item holds {seconds:.1f} s of speech, but this model hears at most {most_seconds:g} s: '
      'say less.',
      'audio_too_long',
    )
  waves = [_at_16k(part.audio, audio_format) for part in heard]
  texts = [part.text for part in message.content if part.audio is None and part.text]
  spoken = bool(waves)
  return Item(
    name, message.role, spoken, '\n'.join(texts), np.concatenate(waves) if spoken else None
  )


def question_of(items: Iterable[Item]) -> tuple[Asked, tuple[Written, ...]]:
  """Gives what waits for an answer, and the written turns before it that the engine does not know.

  What the client writes in the name of the model is the answer to the written question before it;
  without one, and in the name of the system, it is shown, but the model does not read it.

  Raises:
    Refusal: there is no question.
  """
  waiting: list[Item] = []
  turns: list[tuple[list[Item], Item]] = []
  for item in items:
    if item.ticket is not None:
      continue
    if item.role == 'user':
      waiting.append(item)
    elif item.role == 'assistant' and waiting and not any(own.spoken for own in waiting):
      turns.append((waiting, item))
      waiting = []
  if not waiting:
    raise Refusal(
      'there is no question to answer: commit audio or create an item with input_text first.',
      'no_question',
    )
  earlier = []
  for asked, answer in turns:
    ticket = Ticket(answer.item_id)
    for item in (*asked, answer):
      item.ticket = ticket
    earlier.append(Written(ticket, _joined(asked), answer.text))
  waves = [item.wave for item in waiting if item.wave is not None]
  wave = (waves[0] if len(waves) == 1 else np.concatenate(waves)) if waves else None
  return Asked(waiting, wave, _joined(waiting)), tuple(earlier)


def context_of(
  messages: Iterable[Message], items: Items, audio_format: AudioFormat, most_seconds: float
) -> tuple[Asked, tuple[Written, ...]]:
  """As `question_of`, for an answer that brings its own items or names some of the conversation.

  Raises:
    Refusal: there is no question, or no such item, its sound is not held any more, or that of an
      item is longer than `most_seconds`.
  """
  found = []
  for message in messages:
    if not message.reference:
      found.append(as_item('', message, audio_format, most_seconds))
      continue
    item = items.find(message.item_id)
    if item.role == 'user' and item.spoken and item.wave is None:
      raise Refusal(
        'the sound of that item has been answered and is not held any more: send it again.',
        'audio_not_held',
        param='response.input',
      )
    found.append(dataclasses.replace(item, ticket=None))
  return question_of(found)


def _joined(items: Iterable[Item]) -> str:
  return '\n'.join(item.text for item in items if item.text)


def _at_16k(data: bytes, audio_format: AudioFormat) -> np.ndarray:
  stream = Stream(audio_format.rate, rates.SAMPLE_RATE)
  return stream.take(audio_format.read(data), last=True)
