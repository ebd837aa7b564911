"""TFDS features of `data_pipeline.schema` records; they are stored as ArrayRecord and read back
without TensorFlow.
"""

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
