"""Folders are listed at the same time, and no file is asked for by itself."""

import threading

import pytest

from data_pipeline import listing, planning, readers
from data_pipeline.quarantine import Quarantine
from launch.bench import corpus as layouts
from launch.bench import latency


def test_each_keeps_the_order_and_stops_at_an_error(monkeypatch):
  monkeypatch.setattr(listing, '_AHEAD', 5)
  barrier = threading.Barrier(4)

  def call(i):
    if i < 4:
      barrier.wait(30)  # only if they are called at the same time
    if i == 90:
      raise ValueError(i)
    return 2 * i

  found = listing.each(call, range(100))
  assert [next(found) for _ in range(90)] == list(range(0, 180, 2))
  with pytest.raises(ValueError, match='90'):
    next(found)
  assert list(listing.each(call, ())) == []


def test_files_below_are_those_of_pathlib(tmp_path):
  for name in ('b/2.txt', 'a-b/x/1.txt', 'a/1.txt', 'a/.hidden/3', 'top', 'empty/.keep'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / 'link').symlink_to('top')
  (tmp_path / 'broken').symlink_to('nowhere')
  found = listing.files_below(tmp_path)
  assert found == sorted(path for path in tmp_path.rglob('*') if path.is_file())


def test_paths_of_any_form_are_looked_up(tmp_path):
  (tmp_path / 'in' / 'a.wav').mkdir(parents=True)
  for name in ('b.wav', 'ü.wav'):
    (tmp_path / 'in' / name).touch()
  good = [f'{tmp_path}/in/b.wav', f'{tmp_path}/in/../in/b.wav', f'{tmp_path}/in/ü.wav']
  bad = ['a.wav', 'c.wav', 'B.wav', 'n' * 500, 'x\0', '']
  bad = [f'{tmp_path}/in/{name}' for name in bad] + ['no/where.wav', f'{tmp_path}/in/b.wav/c.wav']
  assert listing.listed([*good, *bad]) == set(good)
  assert listing.existing([*good, *bad]) == set(good)


@pytest.mark.parametrize('name', layouts.LAYOUTS)
def test_requests_grow_with_folders_not_with_recordings(tmp_path, name):
  """But for the texts of `pairs`, each in a file of its own."""
  source, refused = layouts.LAYOUTS[name](tmp_path, 400), Quarantine(name, 0.0)
  with latency.far_away(0.0) as requests:
    plans = planning.make(readers.get(name), source, refused)
  assert sum(len(chosen) for splits in plans.values() for chosen in splits.values()) == 400
  texts = 400 if name == 'pairs' else 0
  assert requests['open'] - texts <= 11 and requests.total() - texts <= 80


def test_a_recording_is_found_in_the_other_form_and_by_a_name_that_no_listing_has(tmp_path):
  source = layouts.LAYOUTS['mls'](tmp_path, 80)  # opus, in a folder of flac
  items = list(readers.get('mls').read(source))
  assert all(item.recordings[0].endswith('.flac') for item in items)
  refused = Quarantine('mls', 1.0)
  found = list(planning.usable_sound(items, refused, readers.get('mls').forms))
  assert len(found) == 80 and all(item.recordings[0].endswith('.opus') for item in found)
  assert not list(planning.usable_sound(items, refused)) and refused.counts() == {
    'missing file': 80
  }
