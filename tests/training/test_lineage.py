"""A stage whose source was trained again is noticed; so is what a killed writer left."""

import os
import subprocess
import sys

from echox_jax import files
from echox_jax.training import checkpoint, lineage


def _train(workdir, stage, *entries):
  checkpoint.mark_finished(
    workdir / stage, {'steps': 1, 'sources': lineage.sources(entries, workdir)}
  )


def test_a_source_that_was_trained_again_is_named(tmp_path, capsys):
  (tmp_path / 'text').mkdir()
  _train(tmp_path, 'text')
  _train(tmp_path, 's2t', 'text')
  _train(tmp_path, 't2c', 'text')
  _train(tmp_path, 'echo', 's2t', 't2c')
  assert lineage.outdated(tmp_path, 'echo') == []
  _train(tmp_path, 'text')
  assert [sentence.split(',')[0] for sentence in lineage.outdated(tmp_path, 'echo')] == [
    "stage 's2t' was trained from an earlier 'text'",
    "stage 't2c' was trained from an earlier 'text'",
  ]
  _train(tmp_path, 's2t', 'text')
  lineage.warn(tmp_path, 'echo')
  assert [line.split(',')[0] for line in capsys.readouterr().err.splitlines()] == [
    "warning: stage 'echo' was trained from an earlier 's2t'",
    "warning: stage 't2c' was trained from an earlier 'text'",
  ]
  assert lineage.outdated(tmp_path, 'echo', lineage.sources(('s2t',), tmp_path)) == []


def test_folders_that_are_no_finished_stage_have_no_past(tmp_path):
  checkpoint.mark_finished(tmp_path / 'elsewhere', {'steps': 1})
  assert set(lineage.sources((str(tmp_path / 'elsewhere'), 'text', 'scratch'), tmp_path)) == {
    str(tmp_path / 'elsewhere')
  }
  assert lineage.outdated(tmp_path, 'text') == []


def test_leftovers_of_the_dead_go_and_what_the_living_write_stays(tmp_path):
  gone = subprocess.run(
    [sys.executable, '-c', 'import os; print(os.getpid())'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
  for name in ('model', 'data'):
    (tmp_path / f'.{name}.{gone}.tmp').mkdir()
  (tmp_path / f'.config.json.{gone}.tmp').write_text('{')
  (tmp_path / f'.model.{os.getppid()}.tmp').mkdir()
  (tmp_path / '.hidden').mkdir()
  (tmp_path / f'.kept.{gone}.old').mkdir()  # killed between two renames: the only copy
  with files.atomic_dir(tmp_path / 'model') as beside:
    (beside / 'a').write_text('a')
  assert (tmp_path / 'model' / 'a').exists() and not (tmp_path / f'.model.{gone}.tmp').exists()
  assert (tmp_path / f'.data.{gone}.tmp').exists()  # not of this name
  files.remove_leftovers(tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {
    'model',
    'kept',
    '.hidden',
    f'.model.{os.getppid()}.tmp',
  }
