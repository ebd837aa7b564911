"""Files and folders on local disk and in a bucket."""

import http.server
import json
import os
import pathlib
import pickle
import sys
import threading
from typing import ClassVar

from etils import epath
import fsspec
import pytest

from echox_jax import errors, storage
from echox_jax.storage import writes
from tests.helpers import buckets, processes


@pytest.fixture(params=['disk', 'bucket'])
def folder(request, tmp_path):
  """A folder of its own: on local disk, and in a bucket."""
  return storage.path(
    tmp_path / 'x' if request.param == 'disk' else request.getfixturevalue('bucket_folder')
  )


# Paths.


@pytest.mark.parametrize(
  'name, problem',
  [
    ('s3://bucket/data', "'s3://bucket/data' cannot be used.*give a local path or gs://"),
    ('az://bucket/data', 'cannot be used'),
    ('file:///data', 'unknown scheme file://'),
    ('foo+bar://data', 'unknown scheme'),
    ('gs:/bucket/data', 'lacks a slash: write gs://bucket/data'),
    ('gs://', 'names no bucket'),
    ('gs:///data', 'names no bucket'),
  ],
)
def test_a_path_that_cannot_be_is_refused(name, problem):
  with pytest.raises(errors.ConfigError, match=problem):
    storage.path(name)


def test_local_paths_stay_paths_of_the_standard_library(tmp_path):
  for name in (str(tmp_path), tmp_path, epath.Path(tmp_path)):
    assert type(storage.path(name)) is type(tmp_path) and storage.path(name) == tmp_path
  assert storage.path('a b/http:x') == pathlib.Path('a b/http:x')
  assert storage.absolute('x') == pathlib.Path('x').absolute()


def test_paths_in_a_bucket_keep_their_scheme(bucket_folder):
  path = storage.absolute(storage.path(bucket_folder) / 'a' / 'b.json')
  assert os.fspath(path) == f'{bucket_folder}/a/b.json' == str(pickle.loads(pickle.dumps(path)))
  assert (
    path.with_name('c').name == 'c' and path.relative_to(bucket_folder).as_posix() == 'a/b.json'
  )


def test_gcsfs_is_asked_for(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  storage.paths._prepare.cache_clear()
  with pytest.raises(errors.MissingExtraError, match=r"install 'echox-jax\[gcs\]'"):
    storage.path('gs://bucket/x')


# Files.


def test_a_file_is_written_whole_and_replaced(folder):
  file = folder / 'deep' / 'down.json'
  assert not storage.exists(file) and not storage.is_file(file)
  assert storage.atomic_write_json(file, {'ä': 1}) == file
  assert json.loads(file.read_text('utf-8')) == {'ä': 1}
  storage.atomic_write_text(file, 'new')
  storage.atomic_write_bytes(folder / 'bytes', bytearray(b'\0\1'))
  assert file.read_text() == 'new' and storage.size(file) == 3
  assert storage.is_file(file) and storage.exists(file.parent) and not storage.is_file(file.parent)
  assert storage.tree(folder) == [folder / 'bytes', file]
  assert storage.children(folder) == [folder / 'bytes', folder / 'deep']
  assert storage.children(folder / 'none') == storage.tree(folder / 'none') == []
  storage.remove_tree(folder)
  storage.remove_tree(folder)
  assert not storage.exists(folder)
  with pytest.raises(FileNotFoundError):
    storage.size(file)


def test_an_exception_keeps_the_old_file(folder):
  file = storage.atomic_write_text(folder / 'a', 'old')
  with pytest.raises(ZeroDivisionError), storage.staged(file) as beside:
    beside.write_text('half')
    assert file.read_text() == 'old'
    raise ZeroDivisionError
  assert file.read_text() == 'old' and storage.tree(folder) == [file]
  with storage.staged(file) as beside:
    beside.write_text('new')
    assert file.read_text() == 'old'
  assert file.read_text() == 'new' and storage.tree(folder) == [file]


def test_two_writers_with_one_process_number_do_not_meet(tmp_path):
  file = tmp_path / 'a'
  with storage.staged(file) as one, storage.staged(file) as other:
    one.write_text('one')
    other.write_text('other')
  assert file.read_text() == 'one' and list(tmp_path.iterdir()) == [file]


def test_parts_of_a_file(folder):
  file = storage.atomic_write_bytes(folder / 'a', b'0123456789')
  assert [storage.read_range(file, *part) for part in ((0, 3), (7, 9), (4, 0), (10, 1))] == [
    b'012',
    b'789',
    b'',
    b'',
  ]
  assert storage.read_range(storage.atomic_write_bytes(folder / 'empty', b''), 0, 5) == b''
  with pytest.raises(FileNotFoundError):
    storage.read_range(folder / 'b', 0, 1)


def test_what_another_process_writes_is_seen(folder):
  storage.atomic_write_text(folder / 'a', 'old')
  assert storage.children(folder) == [folder / 'a'] and list(folder.iterdir()) == [folder / 'a']
  code = (
    'from echox_jax import storage; import sys; f = storage.path(sys.argv[1]); '
    '[storage.atomic_write_text(f / n, "new") for n in "ab"]'
  )
  processes.run_python('-c', code, str(folder))
  both = [folder / 'a', folder / 'b']
  assert storage.children(folder) == storage.tree(folder) == both
  assert sorted(folder.iterdir()) == sorted(folder.glob('*')) == both
  assert (folder / 'a').read_text() == 'new'
  storage.remove_tree(folder)
  assert not storage.exists(folder) and not (folder / 'a').exists()


def test_lines_grow(folder):
  lines = storage.Lines(folder / 'log', 'one\n')
  assert (folder / 'log').read_text() == 'one\n'
  lines.add('two\n')
  lines.flush()
  assert (folder / 'log').read_text() == 'one\ntwo\n'
  lines.add('three ä\n')
  lines.close()
  assert (folder / 'log').read_text() == 'one\ntwo\nthree ä\n'
  assert storage.Lines(folder / 'log').add('new\n') is None
  assert storage.tree(folder) == [folder / 'log']


def test_lines_are_written_now_and_then(bucket_folder, monkeypatch):
  monkeypatch.setattr(writes.Rewritten.__init__, '__defaults__', (0.1,))
  lines, file = storage.Lines(f'{bucket_folder}/log'), storage.path(bucket_folder) / 'log'
  for _ in range(100):
    lines.add('word\n')
    if file.read_text():
      break
  assert set(file.read_text().splitlines()) == {'word'}
  lines.close()


# Folders.


def test_a_folder_is_replaced_as_a_whole(folder):
  target = folder / 'model'
  with storage.atomic_dir(target, 'config') as beside:
    (beside / 'sub').mkdir()
    for name in ('config', 'sub/weights', 'only old'):
      (beside / name).write_text('old')
    assert not storage.exists(target)
  with pytest.raises(ZeroDivisionError), storage.atomic_dir(target, 'config') as beside:
    (beside / 'config').write_text('half')
    raise ZeroDivisionError
  assert {path.read_text() for path in storage.tree(target)} == {'old'}
  assert len(storage.tree(folder)) == 3
  with storage.atomic_dir(target, 'config') as beside:
    (beside / 'sub').mkdir()
    for name in ('config', 'sub/weights'):
      (beside / name).write_text('new')
  assert {path.read_text() for path in storage.tree(target)} == {'new'}
  assert storage.tree(folder) == [target / 'config', target / 'sub' / 'weights']


def test_the_marker_is_removed_first_and_written_last(bucket_folder, monkeypatch):
  """Wherever an upload ends, a folder with a marker is a whole one."""
  target, states, incomplete = storage.path(bucket_folder), [], []

  def write(content):
    with storage.atomic_dir(target, 'm') as beside:
      for name in 'mxy':
        (beside / name).write_text(content)

  write('old')
  client = storage.paths.bucket_files()
  # every change but that of `.incomplete`
  done = {name: getattr(client, name) for name in ('rm_file', 'put', 'rm', 'put_file')}
  for name in done:

    def watched(*args, _do=done[name], **options):
      states.append({path.name: path.read_text() for path in storage.tree(target)})
      incomplete.append(storage.is_incomplete(target))
      return _do(*args, **options)

    monkeypatch.setattr(client, name, watched)
  write('new')
  states = [{name: text for name, text in state.items() if text} for state in states]
  assert len(states) == 4 and states[0] == dict.fromkeys('mxy', 'old')
  assert states[1] == dict.fromkeys('xy', 'old') and states[2] == dict.fromkeys('xy', 'new')
  assert states[3] == dict.fromkeys('mxy', 'new')
  assert all(incomplete) and not storage.is_incomplete(target)
  assert [path.name for path in storage.tree(target)] == list('mxy')


def test_a_folder_needs_its_marker(bucket_folder):
  with (
    pytest.raises(FileNotFoundError, match='has no config'),
    storage.atomic_dir(bucket_folder, 'config') as beside,
  ):
    (beside / 'weights').write_text('x')
  assert not storage.tree(bucket_folder)


def test_left_overs_of_dead_writers_go(tmp_path):
  gone, host = 2**22 + 1, writes.host()  # above the highest process number
  kept = {f'.a.{host}.{os.getppid()}.{0:012x}.tmp', f'.a.elsewhere.1.{0:012x}.tmp', '.a.hidden'}
  dead = {f'.a.{host}.{gone}.{0:012x}.tmp', f'.a.elsewhere.1.{1:012x}.tmp'}
  for name in kept | dead:
    (tmp_path / name).write_text('x')
  os.utime(tmp_path / f'.a.elsewhere.1.{1:012x}.tmp', (0, 0))
  (tmp_path / f'.b.{host}.{gone}.{0:012x}.old').mkdir()  # its writer died between the two renames
  with storage.atomic_dir(tmp_path / 'c', 'x') as beside:
    (beside / 'x').write_text('')
  assert len(list(tmp_path.iterdir())) == len(kept | dead) + 2  # nothing of another name went
  storage.remove_leftovers(tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == kept | {'b', 'c'}


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path, bucket_folder):
  with (
    storage.owned(tmp_path / 'stage', 0),
    storage.owned(tmp_path / 'stage', 1),
    pytest.raises(errors.StorageError, match='another process is at work in .*stage'),
    storage.owned(tmp_path / 'stage', 0),
  ):
    pass
  with storage.owned(tmp_path / 'stage', 0), storage.owned(bucket_folder, 0):
    pass


def test_local_copies(folder):
  for name in ('a/b/c', 'a/d'):
    storage.atomic_write_text(folder / name, name)
  with storage.local(folder / 'a') as copy:
    assert (copy / 'b' / 'c').read_text() == 'a/b/c' and (copy / 'd').read_text() == 'a/d'
  with storage.local(folder / 'a' / 'd') as copy:
    assert isinstance(copy, pathlib.Path) and copy.read_text() == 'a/d' and copy.name == 'd'
  assert copy.exists() is not storage.is_remote(folder)


def test_the_object_of_a_folder_is_no_child(bucket_folder):
  files = storage.paths.bucket_files()
  for name in ('made/', 'made/x'):
    files.pipe_file(f'{bucket_folder}/{name}', b'')
  made = storage.path(bucket_folder) / 'made'
  assert storage.children(made) == storage.tree(made) == [made / 'x']


# The cache.


def test_a_cache_keeps_what_is_used_and_stays_small(bucket_folder, tmp_path):
  files = [storage.atomic_write_bytes(f'{bucket_folder}/{i}', bytes([i]) * 400) for i in range(3)]
  here = tmp_path / 'cache'
  cache, other = storage.Cache(here, 1000), storage.Cache(here, 1000)
  copies = [cache.get(file) for file in files[:2]]
  assert [copy.read_bytes() for copy in copies] == [file.read_bytes() for file in files[:2]]
  assert cache.get(files[0]) == copies[0] == pickle.loads(pickle.dumps(cache)).get(files[0])
  assert cache.get(files[2]) == other.get(files[2]) == files[2]  # both copies are in use
  del cache
  assert other.get(files[1]) == copies[1]
  os.utime(copies[1], (0, 0))  # older, but in use
  new = other.get(files[2])
  assert new.parent == here and new.read_bytes() == files[2].read_bytes()
  assert not copies[0].exists() and copies[1].exists()
  storage.atomic_write_bytes(files[1], b'again')
  assert other.get(files[1]).read_bytes() == b'again'
  assert other.get(tmp_path) == tmp_path
  assert sum(storage.size(file) for file in storage.tree(here)) <= 1000
  with pytest.raises(FileNotFoundError):
    other.get(f'{bucket_folder}/none')
  with pytest.raises(errors.ConfigError, match='give a local folder'):
    storage.Cache(bucket_folder, 1000)


def test_two_processes_fetch_a_file_once(bucket_folder, tmp_path):
  storage.atomic_write_bytes(f'{bucket_folder}/a', b'x' * 1000)
  code = (
    'from echox_jax import storage; import sys; from concurrent.futures import ThreadPoolExecutor\n'
    'caches = [storage.Cache(sys.argv[2], 1500) for _ in range(4)]\n'
    'with ThreadPoolExecutor(4) as pool:\n'
    '  print(len(set(pool.map(lambda cache: cache.get(sys.argv[1]), caches))))'
  )
  assert processes.run_python('-c', code, f'{bucket_folder}/a', str(tmp_path)).strip() == '1'
  assert [file.stat().st_size for file in storage.tree(tmp_path) if file.suffix != '.lock'] == [
    1000,
    0,
  ]


# What cannot be, in a sentence.


def test_a_bucket_that_can_be_used(bucket_folder, tmp_path):
  assert str(storage.check_writable(bucket_folder)) == bucket_folder
  assert storage.check_readable(tmp_path / 'none') == tmp_path / 'none'
  assert not storage.tree(bucket_folder)


def test_no_such_bucket(emulator):
  for check in (storage.check_readable, storage.check_writable):
    with pytest.raises(errors.StorageError, match='there is no bucket gs://nowhere'):
      check('gs://nowhere/x')


class _Refusing(http.server.BaseHTTPRequestHandler):
  """Lists like an empty bucket, and answers as Google does where something is not allowed."""

  refused: ClassVar[dict[str, tuple[int, str]]] = {}

  def _answer(self):
    code, text = self.refused.get(self.command, (200, ''))
    body = json.dumps({'error': {'code': code, 'message': text}} if text else {}).encode()
    self.rfile.read(int(self.headers.get('content-length', 0)))
    self.send_response(code)
    self.send_header('content-type', 'application/json')
    self.send_header('content-length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  do_GET = do_POST = do_DELETE = _answer

  def log_message(self, *args):
    pass


@pytest.fixture
def refusing(monkeypatch):
  """A service that refuses methods: {method: (status, message)}."""
  pytest.importorskip('gcsfs')
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Refusing)
  threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
  options = {'token': 'anon', 'endpoint_url': f'http://127.0.0.1:{server.server_port}'}
  for name in ('gs', 'gcs'):
    monkeypatch.setitem(fsspec.config.conf, name, options)
  monkeypatch.setattr(_Refusing, 'refused', {})
  yield _Refusing.refused
  server.shutdown()
  server.server_close()


def test_a_read_only_bucket(refusing):
  refusing['POST'] = 403, 'a@b.c does not have storage.objects.create access to the object.'
  assert storage.check_readable('gs://bucket/x')
  with pytest.raises(errors.StorageError, match=r'may not write to gs://bucket/x .*create access'):
    storage.check_writable('gs://bucket/x')


def test_nobody_may_read(refusing):
  refusing['GET'] = 401, 'Anonymous caller does not have storage.objects.list access to the bucket.'
  with pytest.raises(
    errors.StorageError, match='no valid credentials to read gs://bucket/x.*login'
  ):
    storage.check_writable('gs://bucket/x')


def test_no_credentials(monkeypatch, tmp_path):
  pytest.importorskip('gcsfs')
  monkeypatch.delenv('STORAGE_EMULATOR_HOST')
  monkeypatch.setenv('GOOGLE_APPLICATION_CREDENTIALS', str(tmp_path / 'none.json'))
  for name in ('gs', 'gcs'):
    monkeypatch.setitem(fsspec.config.conf, name, {'token': 'google_default'})
  with pytest.raises(errors.StorageError, match='no valid credentials to read gs://bucket'):
    storage.check_readable('gs://bucket')


def test_other_errors_are_not_explained():
  with pytest.raises(ZeroDivisionError), storage.explained('gs://bucket/x'):
    raise ZeroDivisionError
  with pytest.raises(OSError, match='full'), storage.explained('/disk'):
    raise OSError('full')
  assert storage.refusal(FileNotFoundError('x')) is None


def test_the_emulator_is_the_one_that_is_asked(bucket_folder):
  assert storage.paths.bucket_files()._location == buckets.url()
