"""The work of precompute as a user of transformers and torch writes it, for comparison in
`launch.bench precompute` (extra `crosscheck`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from echox_jax.conversion import whisper_ct2
from echox_jax.units import kmeans
from launch.bench import torch_models

_SHARD = 256  # clips per file


class Peer:
  """The encoder with its weights, and the centroids.

  Args:
    size: size of the packaged Whisper.
    centroids: k-means file.
    layer: the layer whose states get units.
    threads: torch threads.
    padded: whether to pad to 30 s, as WhisperEncoder requires. If not, its modules are called one
      by one, up to `layer`, on clips sorted by length with only the padding that their batch needs.
  """

  def __init__(self, size: str, centroids: str, layer: int, threads: int, padded: bool):
    import torch
    import transformers

    torch.set_num_threads(threads)
    tensors, cfg = whisper_ct2.packaged_tensors(size)
    self._torch, self._layer, self._padded = torch, layer, padded
    self._extractor = transformers.WhisperFeatureExtractor(feature_size=cfg.num_mel_bins)
    self._encoder = torch_models.whisper_encoder(cfg)
    self._encoder.load_state_dict(
      {
        name.removeprefix('encoder.'): torch.tensor(np.asarray(value, np.float32))
        for name, value in tensors.items()
      }
    )
    self._centroids = torch.tensor(np.asarray(kmeans.load(centroids)))

  def run(self, files: Sequence[Path], out: Path, batch_size: int) -> dict[str, np.ndarray]:
    """Computes the units of every file and writes them to `out` with the samples, a few hundred
    clips per file; returns the units by name.
    """
    out.mkdir(parents=True)
    if not self._padded:
      files = sorted(files, key=lambda file: soundfile.info(file).frames)
    found, shard = {}, {}
    for number, (name, wave, units) in enumerate(self._clips(files, batch_size), 1):
      found[name], shard[f'{name}.units'] = units, units
      shard[f'{name}.audio'] = np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)
      if number % _SHARD == 0 or number == len(files):
        np.savez(out / f'{number:06d}.npz', **shard)
        shard = {}
    return found

  def _clips(
    self, files: Sequence[Path], batch_size: int
  ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for start in range(0, len(files), batch_size):
      batch = files[start : start + batch_size]
      waves = [soundfile.read(file, dtype='float32')[0] for file in batch]
      padding = 'max_length' if self._padded else 'longest'
      features = self._extractor(
        waves, sampling_rate=16000, padding=padding, return_tensors='pt'
      ).input_features
      with self._torch.inference_mode():
        states = (self._whole if self._padded else self._cut)(features)
        squares = (self._centroids**2).sum(-1)
        units = (squares - 2 * states @ self._centroids.T).argmin(-1).numpy().astype(np.int32)
      yield from (
        (file.stem, wave, row[: len(wave) // 320]) for file, wave, row in zip(batch, waves, units)
      )

  def _whole(self, features: Any) -> Any:
    return self._encoder(features, output_hidden_states=True).hidden_states[self._layer]

  def _cut(self, features: Any) -> Any:
    encoder, gelu = self._encoder, self._torch.nn.functional.gelu
    x = gelu(encoder.conv2(gelu(encoder.conv1(features)))).permute(0, 2, 1)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for layer in encoder.layers[: self._layer]:
      x = layer(x, None)
    return x
