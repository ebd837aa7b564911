"""Sound as the protocol carries it, and its sample rates."""

import base64

import numpy as np
import pytest

from echox_jax.serving import formats
from echox_jax.serving.formats import AudioFormat
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.resampling import Stream

EVERY = np.arange(-32768, 32768).astype(np.int16)


def test_pcm_is_kept_bit_for_bit():
  data = EVERY.astype('<i2').tobytes()
  assert AudioFormat().write(AudioFormat().read(data)) == data


@pytest.mark.parametrize('kind', [formats.MU_LAW, formats.A_LAW])
def test_g711_codes_are_kept_and_samples_nearly(kind):
  own = AudioFormat(kind, 8000)
  codes = bytes(range(256))
  again = own.read(own.write(own.read(codes)))
  np.testing.assert_array_equal(again, own.read(codes))  # -0 and +0 are two codes of mu-law
  wave = EVERY / 32768
  heard = own.read(own.write(wave))
  loud = np.abs(wave) > 0.01
  assert np.abs(heard[loud] / wave[loud] - 1).max() < 0.06
  assert np.abs(heard - wave)[~loud].max() < 0.0005


@pytest.mark.parametrize('name', ['ulaw', 'alaw'])
def test_g711_equals_another_implementation(name):
  audioop = pytest.importorskip('audioop')
  write = formats.to_mu_law if name == 'ulaw' else formats.to_a_law
  assert write(EVERY).tobytes() == getattr(audioop, f'lin2{name}')(EVERY.tobytes(), 2)
  kind = formats.MU_LAW if name == 'ulaw' else formats.A_LAW
  codes = bytes(range(256))
  expected = np.frombuffer(getattr(audioop, f'{name}2lin')(codes, 2), np.int16) / 32768
  np.testing.assert_array_equal(AudioFormat(kind, 8000).read(codes), expected.astype(np.float32))


def test_half_a_sample_is_refused():
  with pytest.raises(Refusal, match='holds 3 bytes, but a sample of PCM16 takes 2') as caught:
    AudioFormat().read(b'abc')
  assert caught.value.code == 'odd_byte_count'


@pytest.mark.parametrize('value', ['AAA', 'AA AA', 'AAA*', 'ÄÄÄÄ', 'AA==AAAA', None, 7, ['AAAA']])
def test_what_is_no_base64_is_refused(value):
  with pytest.raises(Refusal, match='audio'):
    formats.from_base64(value, 'audio')


def test_base64_is_read():
  assert formats.from_base64(base64.b64encode(b'\x00\xff\x10').decode(), 'audio') == b'\x00\xff\x10'


@pytest.mark.parametrize(
  'value, found',
  [
    ({'type': 'audio/pcm'}, AudioFormat('audio/pcm', 24000)),
    ({'type': 'audio/pcm', 'rate': 16000}, AudioFormat('audio/pcm', 16000)),
    ({'type': 'audio/pcmu'}, AudioFormat('audio/pcmu', 8000)),
    ({'type': 'audio/pcma', 'rate': 8000}, AudioFormat('audio/pcma', 8000)),
  ],
)
def test_formats_of_the_protocol(value, found):
  assert formats.parse_format(value, 'format') == found


@pytest.mark.parametrize(
  'value',
  [
    'pcm16',
    {'type': 'pcm16'},
    {'type': 'audio/pcm', 'rate': 44100},
    {'rate': 24000},
    {'type': 'audio/pcm', 'bits': 8},
    {'type': 'audio/pcm', 'rate': True},
  ],
)
def test_other_formats_are_refused(value):
  with pytest.raises(Refusal):
    formats.parse_format(value, 'format')


def tone(rate: int, seconds: float = 1.0) -> np.ndarray:
  t = np.arange(round(rate * seconds)) / rate
  return (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


@pytest.mark.parametrize('source, target', [(24000, 16000), (16000, 24000), (8000, 16000)])
@pytest.mark.parametrize('piece', [37, 480, 5000])
def test_pieces_are_resampled_as_the_whole(source, target, piece):
  wave = np.random.default_rng(0).normal(0, 0.2, source).astype(np.float32)
  whole, stream = Stream(source, target).take(wave, last=True), Stream(source, target)
  got = [stream.take(wave[at : at + piece]) for at in range(0, len(wave), piece)]
  got.append(stream.take(np.zeros(0, np.float32), last=True))
  np.testing.assert_allclose(np.concatenate(got), whole, atol=1e-6)
  assert len(whole) == target
  again = [stream.take(wave), stream.take(np.zeros(0, np.float32), last=True)]
  np.testing.assert_allclose(np.concatenate(again), whole, atol=1e-6)


def test_there_is_no_click_where_pieces_meet():
  """A tone stays a tone: what is left without it is 60 dB lower all the time."""
  stream = Stream(16000, 24000)
  wave = tone(16000)
  got = [stream.take(wave[at : at + 320]) for at in range(0, len(wave), 320)]
  got = np.concatenate([*got, stream.take(np.zeros(0, np.float32), last=True)])
  rest = np.abs(got - tone(24000))[2400:-2400]
  assert rest.max() < 0.5 * 10 ** (-60 / 20)


def test_little_is_held_back():
  """A listener waits for what the filter holds back."""
  stream, wave = Stream(16000, 24000), tone(16000)
  made = len(stream.take(wave[:3200]))
  assert 4800 - made < 24000 * 0.03


def test_the_same_rate_changes_nothing():
  wave = tone(16000)
  np.testing.assert_array_equal(Stream(16000, 16000).take(wave), wave)
