"""What the server counts, for Prometheus; nothing of what people say."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0)
_WORK = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics:
  """Counters of one server, in a registry of their own.

  Attributes:
    sessions: open connections.
    connections: connections so far, by what came of them.
    refused: what was refused, by why.
    answers: answers, by how they ended.
    answering: answers that were asked for and have not ended.
    first_sound, total: seconds from the question to the first sound, and to the end.
    work: seconds of a piece of work of the engine.
    compiling: 1 while programs are compiled behind the answers.
    sound: seconds of speech that were made.
    tokens: of answers.
    errors: error events, by code.
  """

  def __init__(self) -> None:
    self.registry = CollectorRegistry()
    made = {'namespace': 'echox', 'registry': self.registry}
    self.sessions = Gauge('sessions', 'Open connections.', **made)
    self.connections = Counter('connections', 'Connections by outcome.', ['outcome'], **made)
    self.refused = Counter('refused', 'Refused requests by reason.', ['reason'], **made)
    self.answers = Counter('answers', 'Answers by status.', ['status'], **made)
    self.answering = Gauge('answering', 'Answers that have not ended.', **made)
    self.first_sound = Histogram(
      'first_sound_seconds', 'From the question to the first sound.', buckets=_SECONDS, **made
    )
    self.total = Histogram(
      'answer_seconds', 'From the question to the end of the answer.', buckets=_SECONDS, **made
    )
    self.work = Histogram('work_seconds', 'A piece of work of the engine.', buckets=_WORK, **made)
    self.compiling = Gauge('compiling', 'Programs are compiled behind the answers.', **made)
    self.sound = Counter('sound_seconds', 'Speech that was made.', **made)
    self.tokens = Counter('tokens', 'Tokens of answers.', **made)
    self.errors = Counter('errors', 'Error events by code.', ['code'], **made)

  def text(self) -> bytes:
    """All of it, in the text format of Prometheus."""
    return prometheus_client.generate_latest(self.registry)
