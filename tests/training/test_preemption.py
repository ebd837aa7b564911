"""How a process is told to stop: SIGTERM as often as it comes, Ctrl-C once."""

import os
import signal

import pytest

from echox_jax.training import preemption


def test_sigterm_may_come_again():
  """From the scheduler and from the parent process."""
  before = signal.getsignal(signal.SIGTERM)
  with preemption.watch() as stop:
    assert not stop(1)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop(2)
  assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_interrupts():
  before = signal.getsignal(signal.SIGINT)
  with preemption.watch() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop(1)
    os.kill(os.getpid(), signal.SIGTERM)  # what a parent process passes on
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is before
