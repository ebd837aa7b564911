"""Answers on eight virtual devices: `python -m tests.helpers.mesh_answers FOLDER` writes them."""

import dataclasses
import json
from pathlib import Path
import sys

import jax
import numpy as np

from echox_jax.config import LoraConfig
from echox_jax.inference import placement
from echox_jax.inference.engine import Engine
from echox_jax.models import lora
from echox_jax.models import params as params_lib
from echox_jax.parallel import sharding
from tests.helpers import tiny_model

MESH = dict(data=2, fsdp=2, tensor=2)
QUESTIONS = ((tiny_model.question(1.5), 16000), 'Paris?', (tiny_model.question(0.7, 1), 16000))
_TARGETS = ('q_proj', 'o_proj', 'up_proj', 'down_proj')


def bundle(folder: Path):
  """A model with LoRA, an LLM with the parameters of every family, and room for four
  conversations.
  """
  made = tiny_model.tiny_bundle(folder)
  llm = dataclasses.replace(
    made.config.llm, lora=LoraConfig(4, 8.0, 0.0, _TARGETS), qkv_bias=True, qk_norm=True
  )
  cfg = dataclasses.replace(made.config, llm=llm)
  draw = jax.jit(lambda key: params_lib.init_groups(key, cfg, ('llm',)))
  fresh, rng = sharding.unbox(draw(jax.random.key(0)))['llm'], np.random.default_rng(0)

  def away(path, leaf):
    moved = path[-1].key in (*lora.LEAVES, 'bias')
    return rng.normal(0, 0.1, leaf.shape).astype('f') if moved else np.asarray(leaf)

  params = jax.tree_util.tree_map_with_path(away, fresh)
  engine = dataclasses.replace(made.engine, conversations=4)
  return dataclasses.replace(made, config=cfg, params={**made.params, 'llm': params}, engine=engine)


def answers(model) -> tuple[list, list[str]]:
  """Replies to all questions at once, and texts of two turns."""
  replies, chat = model.answer(QUESTIONS), model.chat()
  return replies, [chat.ask(question).text for question in QUESTIONS[:2]]


def heard(folder: Path, mesh=None) -> list[list[int]]:
  """Labels of both spoken questions, as the LLM chooses them, together and alone."""
  made = tiny_model.hears_words(folder, sharpness=0.3, hypotheses=4)
  engine = Engine(dataclasses.replace(made, mesh=mesh), speaks=False)
  waves = [question[0] for question in QUESTIONS if not isinstance(question, str)]
  rows = [
    jax.device_get(engine.programs.listen(engine.params, some)[1])
    for some in (waves, *([w] for w in waves))
  ]
  return np.concatenate(rows).tolist()


def main(folder: Path) -> None:
  jax.config.update('jax_num_cpu_devices', 8)
  whole, mesh = bundle(folder), sharding.make_mesh(MESH)
  replies, turns = answers(dataclasses.replace(whole, mesh=mesh))
  np.savez(folder / 'waves.npz', *[reply.wave for reply in replies])
  params, cfg = placement.prepare(whole.params, whole.config, mesh, int8=True)
  kernel = params['llm']['trunk']['layers']['mlp']['up_proj']['kernel']
  told = {
    'texts': [reply.text for reply in replies],
    'overflow': [reply.overflow for reply in replies],
    'turns': turns,
    'heard': heard(folder, mesh),
    'kernel': [kernel.dtype.name, kernel.shape, kernel.sharding.shard_shape(kernel.shape)],
    'lora_rank': cfg.llm.lora.rank,
  }
  (folder / 'told.json').write_text(json.dumps(told))


if __name__ == '__main__':
  main(Path(sys.argv[1]))
