"""What a session asks of the engine, and what comes back beside the events of an answer."""

import dataclasses

import numpy as np

from echox_jax.inference.answering import Answering, Request
from echox_jax.inference.history import Turn


@dataclasses.dataclass(eq=False)
class Ticket:
  """Stands for a turn of a conversation, before the engine has begun it and after.

  Attributes:
    name: id of the answer, for logs.
    answering: the answer on its way; None before the engine has taken it, and after its end.
    turn: question and answer as the conversation holds them; None = not yet, or no more.
  """

  name: str
  answering: Answering | None = None
  turn: Turn | None = None


@dataclasses.dataclass(frozen=True)
class Written:
  """A turn that the client has written, question and answer."""

  ticket: Ticket
  question: str
  answer: str


@dataclasses.dataclass(frozen=True, eq=False)
class Ask:
  """Asks for an answer.

  Attributes:
    ticket: of the answer.
    request: the question.
    lasting: whether it is the next turn of the session's conversation; else it stands for itself.
    earlier: written turns before it.
  """

  ticket: Ticket
  request: Request
  lasting: bool = True
  earlier: tuple[Written, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Hear:
  """Hears what may be the next question, float32[samples] at 16 kHz, while a pause goes on."""

  wave: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Transcribe:
  """Asks for the words of a spoken question, float32[samples] at 16 kHz."""

  wave: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cancel:
  """Stops an answer."""

  ticket: Ticket


@dataclasses.dataclass(frozen=True)
class Truncate:
  """Keeps of an answer what was heard in its first `samples` at 16 kHz."""

  ticket: Ticket
  samples: int


@dataclasses.dataclass(frozen=True)
class Delete:
  """Takes a turn out of the conversation."""

  ticket: Ticket


@dataclasses.dataclass(frozen=True)
class DropSound:
  """Drops sound that has not been sent yet; for the connection, not for the engine."""


ForEngine = Ask | Hear | Transcribe | Cancel | Truncate | Delete
Command = ForEngine | DropSound


@dataclasses.dataclass(frozen=True)
class Transcript:
  """The words of a spoken question."""

  text: str


@dataclasses.dataclass(frozen=True)
class Failed:
  """There will be no answer, or no transcript.

  Attributes:
    message: why, in one sentence.
    code: for programs.
    kind: `type` of the protocol's error object.
  """

  message: str
  code: str
  kind: str
