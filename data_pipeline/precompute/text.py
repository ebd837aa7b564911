"""The tokenizer of the working folder."""

from data_pipeline import selection
from data_pipeline.fingerprints import file_fingerprint, fingerprint
from data_pipeline.precompute.job import Job
from echox_jax import errors, storage, tokenizer
from echox_jax.storage import Path


def make_tokenizer(job: Job) -> None:
  """Copies the tokenizer, or trains it on the texts of the training splits."""
  own = job.experiment.tokenizer
  target = job.folder / tokenizer.file_name(own.model)
  learn_from = [name for name in job.sets if selection.split_name(name)[1] == 'train']
  inputs = (
    fingerprint(file_fingerprint(own.model))
    if own.model
    else fingerprint(own.vocab_size, [job.raw_inputs(name) for name in learn_from])
  )

  def make(beside: Path) -> None:
    if own.model:
      storage.atomic_write_bytes(beside, storage.path(own.model).read_bytes())
      return
    texts = dict.fromkeys(
      text
      for name in learn_from
      for text in job.turns[name].texts(range(len(job.turns[name])))
      if text
    )
    tokenizer.train_tokenizer(texts, beside, own.vocab_size)

  if target.name != tokenizer.BPE_FILE:
    # left by an earlier config: it would take precedence
    (job.folder / tokenizer.BPE_FILE).unlink(missing_ok=True)
  job.make('tokenizer', target, inputs, make)
  size, limit = (
    tokenizer.precomputed_tokenizer(job.folder).vocab_size,
    job.experiment.model.llm.vocab_size,
  )
  if size > limit:
    raise errors.ConfigError(
      f'the tokenizer has {size} ids, the LLM only {limit}: raise '
      'model.llm.vocab_size or lower tokenizer.vocab_size.'
    )
