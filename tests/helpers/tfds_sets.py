"""A prepared TFDS set with the features of LibriSpeech, made without TensorFlow."""

import json
import struct

import numpy as np
import tensorflow_datasets as tfds

from echox_jax import audio
from tests.helpers import recordings

_AUDIO = {
  'pythonClassName': 'tensorflow_datasets.core.features.audio_feature.Audio',
  'audio': {'shape': {'dimensions': ['-1']}, 'dtype': 'int64', 'encoding': 'none'},
}


def row(i: int, **changes):
  """An utterance of LibriSpeech, as TFDS has it."""
  return {
    'speech': audio.to_int16(recordings.voice(1600 + 160 * i, seed=i)).astype(np.int64),
    'text': f'UTTERANCE {"ABCDEFGH"[i % 8]}',
    'speaker_id': 100 + i,
    'chapter_id': 7,
    'id': f'{100 + i}-7-0000',
    **changes,
  }


def write(folder, splits, file_format='array_record', about=None):
  """Writes `folder`/librispeech/2.1.1: split -> the rows of each file. `about`: changes of what
  features.json says of `speech`. Returns the folder.
  """
  folder = folder / 'librispeech' / '2.1.1'
  folder.mkdir(parents=True)
  features = tfds.features.FeaturesDict(
    {
      # what an Audio feature becomes on disk
      'speech': tfds.features.Text()
      if (about or {}).get('lazyDecode')
      else tfds.features.Tensor(shape=(None,), dtype=np.int64),
      'text': tfds.features.Text(),
      'speaker_id': np.int64,
      'chapter_id': np.int64,
      'id': tfds.features.Text(),
    }
  )
  serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
  template = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
  for split, files in splits.items():
    for i, rows in enumerate(files):
      path = folder / f'librispeech-{split}.{file_format}-{i:05d}-of-{len(files):05d}'
      contents = [serializer.serialize_example(features.encode_example(row)) for row in rows]
      (_write_array_record if file_format == 'array_record' else _write_tfrecord)(path, contents)
  names = tfds.core.ShardedFileTemplate(folder, template, 'librispeech', None, file_format)
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features,
    split_infos=[
      tfds.core.SplitInfo(
        name=split, shard_lengths=list(map(len, files)), num_bytes=1, filename_template=names
      )
      for split, files in splits.items()
    ],
    version='2.1.1',
    filename_template=template,
    check_data=False,
  )
  path = folder / 'features.json'
  content = json.loads(path.read_text())
  speech = {**_AUDIO, 'audio': {**_AUDIO['audio'], 'sampleRate': '16000', **(about or {})}}
  content['featuresDict']['features']['speech'] = speech
  path.write_text(json.dumps(content))
  return folder


def _write_array_record(path, contents):
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(str(path), 'group_size:1')
  for content in contents:
    writer.write(content)
  writer.close()


def _write_tfrecord(path, contents):
  """With wrong checksums."""
  framed = (struct.pack('<Q', len(content)) + bytes(4) + content + bytes(4) for content in contents)
  path.write_bytes(b''.join(framed))
