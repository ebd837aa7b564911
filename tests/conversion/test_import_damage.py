"""Damaged or incomplete checkpoints of others are named, and nothing is written."""

import json

import numpy as np
import pytest

from echox_jax import errors
from launch import cli
from tests.helpers import released_folder
from tests.helpers.imports import WEIGHTS, lora, run


def second_shard(folder):
  return next(folder.glob('model-00002-of-*.safetensors'))


def drop(folder):
  second_shard(folder).unlink()


def truncate(folder):
  file = second_shard(folder)
  file.write_bytes(file.read_bytes()[:-10])


def another_config(folder):
  (folder / 'config.json').write_text(
    json.dumps(released_folder.echox_config() | {'intermediate_size': 96})
  )


def no_config(folder):
  (folder / 'config.json').unlink()


def broken_config(folder):
  (folder / 'config.json').write_text('{"vocab_size": ')


def poor_config(folder):
  (folder / 'config.json').write_text('{"hidden_size": 64}')


def no_audio_token(folder):
  released_folder.write_tokenizer(folder, without='<audio_patch>')


def no_header_token(folder):
  released_folder.write_tokenizer(folder, without='<|start_header_id|>')


def few_words(folder):
  released_folder.write_tokenizer(folder, units=150)


def rename_tensors(folder):
  for file in folder.glob('model*'):
    file.unlink()
  own = (
    {name: value for name, value in WEIGHTS.items() if name != 'model.norm.weight'}
    | {f'extra.{i:03d}': np.zeros(1, np.float32) for i in range(321)}
    | {'model.out_norm.bias': np.zeros(63, np.float32)}
  )
  released_folder.write(folder, own, released_folder.echox_config(), 10**9)


@pytest.mark.parametrize(
  'damage, says',
  [
    (drop, 'index.json names the shard model-00002-of-0000..safetensors'),
    (
      truncate,
      "model-00002-of-0000..safetensors is cut short: it ends before the tensor '.*' does",
    ),
    (
      another_config,
      r'wrong shape: model.layers.0.mlp.down_proj.weight \[64, 128\] for \[64, '
      r'96\]',
    ),
    (no_config, 'config.json does not exist'),
    (broken_config, 'config.json is not valid JSON'),
    (poor_config, "no 'num_attention_heads'"),
    (no_audio_token, "tokenizer.json is a vocabulary without the audio token '<audio_patch>'"),
    (no_header_token, r"tokenizer.json lacks the special tokens '<\|start_header_id\|>'"),
    (few_words, 'has 150 unit words, but the checkpoint has 200, from id 1000'),
    (
      rename_tensors,
      r'missing: model.norm.weight; not used: extra.000, .* and 301 more; wrong '
      r'shape: model.out_norm.bias \[63\] for \[64\]',
    ),
  ],
)
def test_damage_is_named_and_the_output_stays(source, tmp_path, damage, says):
  folder = tmp_path / 'damaged'
  folder.mkdir()
  for file in source.iterdir():
    if file.is_file():
      (folder / file.name).write_bytes(file.read_bytes())
  damage(folder)
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'config.json').write_text('{"special_ids": {}}')  # an earlier model
  with pytest.raises(errors.EchoXError, match=says) as error:
    run('echox', folder, out)
  assert '\n' not in str(error.value)
  assert [p.name for p in out.iterdir()] == ['config.json'] and sorted(
    p.name for p in tmp_path.iterdir()
  ) == ['damaged', 'out']


def test_wrong_commands(source, tmp_path):
  lora(tmp_path / 'lora')
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'model.safetensors').write_text('precious')
  for kind, where, out, more, says in (
    ('echox', tmp_path / 'lora', 'model', (), 'is a LoRA: name the folder of its base'),
    ('echox', source, 'model', ('--base', source), 'needs no --base'),
    ('echox', source, 'thesis', (), 'thesis exists and is not an exported model'),
    ('piano', source, 'model', (), "no kind 'piano': use one of echox, llm, llm-gguf"),
    (
      'whisper',
      source,
      'model',
      ('--unit-vocab', 'x'),
      "kind 'whisper' does not accept --unit-vocab",
    ),
    (
      'whisper',
      tmp_path / 'nowhere',
      'model',
      ('--config', source / 'whisper' / 'config.json'),
      'nowhere does not exist',
    ),
    ('whisper-ct2', 'huge', 'model', (), 'there is no huge'),
    ('echox', source, 'model', ('--format', 'orbax', '--mesh', 'fsdp'), 'not of the form'),
    ('echox', source, 'model', ('--format', 'orbax', '--mesh', 'wheel=1'), 'names wheel'),
  ):
    with pytest.raises(errors.EchoXError, match=says):
      run(kind, where, tmp_path / out, *more)
  assert (tmp_path / 'thesis' / 'model.safetensors').read_text() == 'precious' and not (
    tmp_path / 'model'
  ).exists()


def test_the_command_line_exits_with_2(tmp_path):
  with pytest.raises(SystemExit) as done:
    cli.run(lambda: run('llama', tmp_path / 'absent', tmp_path / 'model'))
  assert done.value.code == 2
