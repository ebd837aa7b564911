"""The options of launch.corpus that make a corpus."""

import pytest

from data_pipeline.corpus.talker import build
from echox_jax.errors import ConfigError
from launch import corpus


def test_options_of_recipes_are_checked(tmp_path):
  def parse(*options):
    return corpus.parse(['--data', str(tmp_path / 'data'), *options])

  args = parse('--recipe', 'talker', '--share', '0.01', '--spoken_answers', '20h')
  assert args.share == 0.01 and args.spoken_answers == build.Spoken(hours=20)
  args = parse('--recipe', 'talker', '--spoken_answers', '500')
  assert args.spoken_answers == build.Spoken(hours=float('inf'), texts=500)
  for options, named in (
    (['--recipe', 'shouter'], "no recipe 'shouter': use one of talker"),
    (['--recipe', 'talker', '--share', '0'], 'from 0.01 to 1'),
    (['--recipe', 'talker', '--share', '1.5'], 'from 0.01 to 1'),
    (
      ['--recipe', 'talker', '--spoken_answers', 'many'],
      "--spoken_answers is 'many': give a number",
    ),
    (['--recipe', 'talker', '--spoken_answers', '0h'], 'give a number'),
    (['--share', '0.5'], '--share is an option of recipes'),
    (['--recipe', 'talker', '--share', '.5', '--sentences', '.2'], '--share, 0.5, to 1'),
    (['--recipe', 'talker', '--test_questions', '2'], '--test_questions is 2: give a share'),
    (['--spoken_sentences', '5h'], '--spoken_sentences is an option of recipes'),
    (['--recipe', 'talker', '--reader', 'mls', '--source', str(tmp_path)], 'cannot be combined'),
  ):
    with pytest.raises(ConfigError, match=named):
      parse(*options)
