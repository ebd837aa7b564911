"""TFDS builder for `data_pipeline.schema` records; they are stored as ArrayRecord and read back
without TensorFlow.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


def features(width: int, keep_encoded: bool = False) -> tfds.features.FeaturesDict:
  """Features of a record whose `states` are float16[frames,width]. They are stored as raw bytes,
  which read five times faster than lists of numbers.
  """

  def tensor(dtype: type, *shape: int) -> tfds.features.Tensor:
    return tfds.features.Tensor(
      shape=(None, *shape), dtype=dtype, encoding=tfds.features.Encoding.BYTES
    )

  return tfds.features.FeaturesDict(
    {
      'id': tfds.features.Text(),
      'turns': tfds.features.Text(),
      'audio': tensor(np.int16),
      'audio_lengths': tensor(np.int32),
      'units': tensor(np.int32),
      'unit_lengths': tensor(np.int32),
      'unit_words': tensor(np.int32),
      'unit_word_lengths': tensor(np.int32),
      'states': tensor(np.float16, width),
      'state_lengths': tensor(np.int32),
      **(
        {'recordings': tensor(np.uint8), 'recording_lengths': tensor(np.int32)}
        if keep_encoded
        else {}
      ),
    }
  )


class SpokenTurns(tfds.core.GeneratorBasedBuilder):
  """Conversations of turns with text, audio, units, unit words and encoder states."""

  VERSION = tfds.core.Version('1.0.0')
  code_path = None  # TFDS stores nothing beside this file: no checksums, no description

  def __init__(
    self,
    *,
    splits: Mapping[str, Iterable[Mapping[str, Any]]],
    width: int,
    keep_encoded: bool = False,
    **kwargs: Any,
  ):
    """`splits`: the records of each split, in the order in which they are stored; `width`: D of the
    states; `keep_encoded`: whether records hold recordings.
    """
    self._records = splits
    self._features = features(width, keep_encoded)
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self, description=self.__doc__, features=self._features, disable_shuffling=True
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing is downloaded
    return {name: enumerate(records) for name, records in self._records.items()}

  def _generate_examples(self) -> Any:
    raise NotImplementedError('the splits are given to the constructor')
