"""Tiny jobs and data for the tests of training."""

from collections.abc import Sequence
import dataclasses
from pathlib import Path

import grain
import numpy as np

from echox_jax.config import EchoXConfig, LlamaConfig, LoraConfig, UnitDecoderConfig
from echox_jax.prompts import NANO_IDS
from echox_jax.training.experiment import ExperimentConfig, OptimizerConfig, TrainConfig

SIZES = dict(
  hidden_size=16,
  intermediate_size=32,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  max_positions=256,
)


def experiment(
  stage: str = 'text', steps: int = 6, rank: int = 2, vocab_size: int = 32, **train
) -> ExperimentConfig:
  """A job that takes seconds."""
  lora = LoraConfig(rank=rank, dropout=0.1)
  model = EchoXConfig(
    special_ids=NANO_IDS,
    llm=LlamaConfig(vocab_size=vocab_size, lora=lora, **SIZES),
    unit_decoder=UnitDecoderConfig(unit_vocab_size=8, trunk=LlamaConfig(**SIZES)),
  )
  train = (
    dict(
      steps=steps,
      batch_size=8,
      log_every=2,
      checkpoint_every=3,
      optimizer=OptimizerConfig(warmup_steps=2),
    )
    | train
  )
  return ExperimentConfig(stage=stage, model=model, train=TrainConfig(**train))


def text_rows(job: ExperimentConfig, workdir: Path, share: Sequence[int] | None = None):
  """Grain iterator over random rows of stage `text`, or over a process's share of each batch."""
  del workdir
  rng = np.random.default_rng(0)
  rows = rng.integers(16, job.model.llm.vocab_size, (40, 12)).astype(np.int32)
  share = list(range(job.train.batch_size) if share is None else share)
  return iter(
    grain.MapDataset.source([{'input_ids': row, 'labels': row} for row in rows])
    .shuffle(seed=job.seed)
    .repeat()
    .batch(job.train.batch_size, drop_remainder=True)
    .map(lambda batch: {name: value[share] for name, value in batch.items()})
    .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
  )


def with_train(job: ExperimentConfig, **changes) -> ExperimentConfig:
  """`job` with other fields of `train`."""
  return dataclasses.replace(job, train=dataclasses.replace(job.train, **changes))
