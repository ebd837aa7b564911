"""A spoken question for each of three answers, and what their unit words are."""

import numpy as np

from echox_jax import prompts
from echox_jax.prompts import IGNORE
from tests.helpers import tiny

IDS, PAPER = tiny.CONFIG.special_ids, prompts.get_profile('paper')
SAYINGS = {
  (20, 21, 22, 11): (1, 2, 3, 4, 5),
  (23, 24, 11): (6, 7, 8),
  (25, 26, 27, 28, 11): (9, 10, 11, 12, 13, 14),
}


def batch():
  """A spoken question for each saying."""
  prompt = prompts.question_prompt(IDS, PAPER, [], [], audio=True)
  rows = [
    (
      prompt + prompts.answer(IDS, PAPER, text),
      [IGNORE] * len(prompt) + prompts.answer(IDS, PAPER, text),
    )
    for text in SAYINGS
  ]
  width = max(len(ids) for ids, _ in rows)
  return {
    'input_ids': np.array([ids + [IDS.pad] * (width - len(ids)) for ids, _ in rows]),
    'labels': np.array([labels + [IGNORE] * (width - len(labels)) for _, labels in rows]),
    'ctc_labels': np.array([[30, IGNORE], [31, 32], [33, IGNORE]]),
    'states': np.random.default_rng(0).normal(size=(3, 12, 16)).astype(np.float32),
    'state_lengths': np.array([12, 8, 12]),
  }
