"""Samples as the protocol carries them: 16-bit PCM at 24 or 16 kHz, and G.711 at 8 kHz, in base64.

G.711 (ITU-T G.711) holds a sample in a byte: a sign, three bits of exponent, four of mantissa.
mu-law adds a bias of 132 to the magnitude; A-law inverts every other bit.
"""

import base64
import binascii
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import numpy as np

from echox_jax import audio
from echox_jax.serving import fields
from echox_jax.serving.refusals import Refusal

PCM, MU_LAW, A_LAW = 'audio/pcm', 'audio/pcmu', 'audio/pcma'
PCM_RATES = (24_000, 16_000)  # Hz; the first is the protocol's own
TELEPHONE_RATE = 8_000  # Hz, of G.711
_MU_BIAS = 132
# Largest magnitude, in units of 8, of each of the eight segments of A-law.
_A_ENDS = np.asarray([0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF])


@dataclasses.dataclass(frozen=True)
class AudioFormat:
  """How samples are written.

  Attributes:
    kind: `audio/pcm` (16 bit, little-endian), `audio/pcmu` (mu-law) or `audio/pcma` (A-law).
    rate: in Hz.
  """

  kind: str = PCM
  rate: int = PCM_RATES[0]

  @property
  def width(self) -> int:
    """Bytes of a sample."""
    return 2 if self.kind == PCM else 1

  def seconds(self, data: bytes) -> float:
    """How long bytes sound."""
    return len(data) / self.width / self.rate

  def read(self, data: bytes) -> np.ndarray:
    """bytes -> float32[samples] in [-1, 1).

    Raises:
      Refusal: half a sample.
    """
    if len(data) % self.width:
      raise Refusal(
        f'the audio holds {len(data)} bytes, but a sample of PCM16 takes 2: send whole samples.',
        'odd_byte_count',
        param='audio',
      )
    if self.kind == PCM:
      return audio.from_int16(np.frombuffer(data, '<i2'))
    table = _mu_law_values() if self.kind == MU_LAW else _a_law_values()
    return audio.from_int16(table[np.frombuffer(data, np.uint8)])

  def write(self, wave: np.ndarray) -> bytes:
    """float32[samples] in [-1, 1] -> bytes; louder samples are clipped."""
    samples = audio.to_int16(wave)
    if self.kind == PCM:
      return samples.astype('<i2').tobytes()
    return (to_mu_law if self.kind == MU_LAW else to_a_law)(samples).tobytes()

  def to_json(self) -> dict[str, Any]:
    """The format as the protocol names it; G.711 has one rate, which is not named."""
    return {'type': self.kind, 'rate': self.rate} if self.kind == PCM else {'type': self.kind}


def parse_format(value: Any, where: str) -> AudioFormat:
  """Gives the format that a session names.

  Raises:
    Refusal: there is no such format or rate.
  """
  values: Mapping[str, Any] = fields.mapping(value, where)
  fields.known(values, ('type', 'rate'), where)
  kind = fields.choice(values.get('type'), f'{where}.type', (PCM, MU_LAW, A_LAW))
  rates = PCM_RATES if kind == PCM else (TELEPHONE_RATE,)
  rate = values.get('rate')
  if rate is None:
    return AudioFormat(kind, rates[0])
  if isinstance(rate, bool) or rate not in rates:
    raise fields.wrong(f'{where}.rate', ' or '.join(map(str, rates)))
  return AudioFormat(kind, int(rate))


def from_base64(value: Any, where: str) -> bytes:
  """Gives the bytes of a base64 string.

  Raises:
    Refusal: it is none; nothing is skipped or guessed.
  """
  try:
    return base64.b64decode(fields.text(value, where), validate=True)
  except (binascii.Error, ValueError) as error:
    raise Refusal(
      f'{where} is not valid base64: encode the samples again.', 'invalid_base64', param=where
    ) from error


def to_base64(data: bytes) -> str:
  """bytes -> base64."""
  return base64.b64encode(data).decode('ascii')


def to_mu_law(samples: np.ndarray) -> np.ndarray:
  """int16[samples] -> uint8[samples]."""
  wide = samples.astype(np.int32) >> 2
  mask = np.where(wide < 0, 0x7F, 0xFF)
  magnitude = np.minimum(np.abs(wide) + _MU_BIAS // 4, 2**13 - 1)
  segment = np.frexp(magnitude)[1] - 6  # the bias makes the leading bit the sixth or higher
  mantissa = (magnitude >> (segment + 1)) & 0xF
  return (((segment << 4) | mantissa) ^ mask).astype(np.uint8)


def to_a_law(samples: np.ndarray) -> np.ndarray:
  """int16[samples] -> uint8[samples]."""
  wide = samples.astype(np.int32) >> 3
  mask = np.where(wide >= 0, 0xD5, 0x55)
  magnitude = np.where(wide >= 0, wide, -wide - 1)
  segment = np.searchsorted(_A_ENDS, magnitude)
  mantissa = (magnitude >> np.maximum(segment, 1)) & 0xF
  return (((segment << 4) | mantissa) ^ mask).astype(np.uint8)


@functools.cache
def _mu_law_values() -> np.ndarray:
  """int16[256]: the sample of each byte."""
  code = ~np.arange(256) & 0xFF
  magnitude = ((((code & 0xF) << 3) + _MU_BIAS) << ((code & 0x70) >> 4)) - _MU_BIAS
  return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


@functools.cache
def _a_law_values() -> np.ndarray:
  """int16[256]: the sample of each byte."""
  code = np.arange(256) ^ 0x55
  segment = (code & 0x70) >> 4
  low = ((code & 0xF) << 4) + np.where(segment, 0x108, 8)
  magnitude = low << np.maximum(segment - 1, 0)
  return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
