"""A stage whose source was trained again is noticed."""

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
