"""What all connections of a server share, and how they end together."""

import asyncio
import dataclasses
import typing
from typing import Any

from echox_jax import model_folder
from echox_jax.inference.engine import Engine
from echox_jax.inference.reading import PARTS, Reader
from echox_jax.serving.limits import Access, Limits
from echox_jax.serving.metrics import Metrics
from echox_jax.serving.session import Abilities
from echox_jax.serving.worker import Worker

if typing.TYPE_CHECKING:
  from echox_jax.serving.connection import Connection


@dataclasses.dataclass(eq=False)
class Hub:
  """A server without its sockets.

  Attributes:
    worker: runs the engine.
    abilities: of the model.
    limits, access, metrics: of the server.
    connections: that are open.
    uploads: questions and texts by HTTP that are being served.
    stopping: whether it takes no new ones.
  """

  worker: Worker
  abilities: Abilities
  limits: Limits
  access: Access
  metrics: Metrics
  connections: set['Connection'] = dataclasses.field(default_factory=set)
  uploads: int = 0
  stopping: bool = False

  @property
  def is_ready(self) -> bool:
    """Whether it takes connections."""
    return self.worker.is_well and not self.stopping

  async def drain(self) -> None:
    """Takes no new connections; lets answers end, for a while, and cancels the rest."""
    self.stopping = True
    for connection in list(self.connections):
      connection.leave_after_answer()
    for _ in range(round(10 * self.limits.stop_seconds)):
      if not self.connections and not self.worker.answering:
        return
      await asyncio.sleep(0.1)
    for connection in list(self.connections):
      connection.leave_now()
    for _ in range(20):
      if not self.connections:
        return
      await asyncio.sleep(0.1)


def open_hub(model: Any, name: str, limits: Limits, access: Access) -> Hub:
  """Makes the engine of a model, and a worker that is not started yet.

  Args:
    model: of `echox_jax.load`.
    name: that clients are told.
    limits: of the server.
    access: to it.

  Raises:
    CheckpointError: the model cannot answer.
    ConfigError: its budgets leave no positions for a question.
  """
  model_folder.require(model, model_folder.TEXT, 'answer')
  reads = model_folder.has(model, PARTS)
  engine = Engine(
    model,
    hears=model_folder.has(model, model_folder.hearing(model.config)),
    speaks=model_folder.has(model, model_folder.SPEAKING),
    reads=reads,
  )
  return hub_of(engine, Reader(engine) if reads else None, name, limits, access)


def hub_of(engine: Engine, reader: Reader | None, name: str, limits: Limits, access: Access) -> Hub:
  """As `open_hub`, for an engine that is there already; `reader` None = it speaks no given text."""
  abilities = Abilities(
    name,
    engine.hears,
    engine.speaks,
    engine.questions.sizes.samples[-1] / 16_000,
    lambda text: len(engine.tokenizer.encode(text)),
  )
  metrics = Metrics()
  worker = Worker(engine, reader, limits.waiting, metrics)
  return Hub(worker, abilities, limits, access, metrics)
