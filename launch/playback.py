"""Plays sound on the loudspeaker while more of it is being made (extra `play`)."""

import threading

import numpy as np

from echox_jax import errors, rates


class Player:
  """Context manager that plays pieces one behind the other; leaving it waits for the end.

  Raises:
    MissingExtraError: sounddevice is not installed.
    EchoXError: this machine has no PortAudio or no loudspeaker.
  """

  def __init__(self):
    errors.require('sounddevice', 'play', '--play')
    try:
      import sounddevice  # without PortAudio this is an OSError
    except OSError as error:
      raise _silent(error) from error
    try:
      self._stream = sounddevice.OutputStream(
        rates.SAMPLE_RATE, channels=1, dtype='float32', callback=self._fill
      )
    except sounddevice.PortAudioError as error:
      raise _silent(error) from error
    self._waiting = np.zeros(0, np.float32)
    self._change = threading.Condition()

  def __enter__(self) -> 'Player':
    self._stream.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is None:
      with self._change:
        self._change.wait_for(lambda: not len(self._waiting))
      self._stream.stop()  # plays what the device holds
    self._stream.close()

  def play(self, piece: np.ndarray) -> None:
    """Plays `piece`, float32[samples] at 16 kHz, behind what is still playing; does not wait."""
    with self._change:
      self._waiting = np.concatenate([self._waiting, piece])

  def _fill(self, out: np.ndarray, frames: int, *_: object) -> None:
    """Hands the device its next samples: silence where there are none yet."""
    with self._change:
      now, self._waiting = self._waiting[:frames], self._waiting[frames:]
      out[:, 0] = np.pad(now, (0, frames - len(now)))
      self._change.notify_all()


def _silent(error: Exception) -> errors.EchoXError:
  return errors.EchoXError(
    f'nothing can be played here ({error}): connect a loudspeaker and install PortAudio '
    '(Debian: libportaudio2), or leave out --play and listen to the file of -o.'
  )
