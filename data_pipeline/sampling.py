"""A smaller data set from a large one: evenly spread examples, in a folder of its own."""

from collections.abc import Iterator, Mapping

from data_pipeline import dataset, schema
from echox_jax import storage
from echox_jax.evaluation import questions
from echox_jax.storage import Path


def copy_sample(source: Path, name: str, target: Path, most: Mapping[str, int]) -> dict[str, int]:
  """Writes the data set `target/name`, unless it is there.

  Args:
    source: folder of data sets, which has `name`.
    name: name of the data set.
    target: folder of data sets to write to.
    most: split -> how many of its examples are taken at most, evenly spaced.

  Returns:
    The examples of each split that is now in `target`.

  Raises:
    DataError: the data set or a split is missing or damaged.
  """
  if not dataset.dataset_exists(target, name):
    storage.make_folder(target)
    splits = {split: _spread(source, name, split, count) for split, count in most.items()}
    dataset.write_dataset(target, name, splits)
  found = dataset.manifest(target, name)['splits']
  return {split: about['examples'] for split, about in found.items()}


def _spread(source: Path, name: str, split: str, most: int) -> Iterator[schema.Example]:
  """At most so many examples of a split, evenly spaced."""
  records = dataset.open_dataset(source, name, split)
  return (schema.decode(records[i]) for i in questions.spread(len(records), most))
