"""What was said, chosen by the LLM among hypotheses."""

import jax
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.inference.engine import Engine
from echox_jax.models.llama import apply_llm
from tests.helpers import tiny_model
from tests.helpers.compiling import compiling

WAVE = tiny_model.question(1.5)


def heard(engine, waves=(WAVE,)):
  return jax.device_get(engine.programs.listen(engine.params, waves))


def test_a_sure_adapter_is_heard_as_without_hypotheses(tmp_path):
  path = heard(Engine(tiny_model.hears_words(tmp_path, sharpness=1e3), speaks=False))
  chosen = heard(
    Engine(tiny_model.hears_words(tmp_path, sharpness=1e3, hypotheses=4), speaks=False)
  )
  assert path[0].kept[0] > 0
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), chosen, path)


def test_of_what_was_heard_the_llm_chooses_what_it_would_rather_read(tmp_path):
  made = tiny_model.hears_words(
    tmp_path, sharpness=0.2, hypotheses=6, lm_weight=5.0, label_bonus=0.5
  )
  engine = Engine(made, speaks=False)
  found = jax.device_get(
    engine.programs.hear(engine.params, WAVE[None], np.asarray([len(WAVE)], np.int32))
  )
  before = engine.questions.prompt('', audio=True)
  before = before[len(engine.questions.opening) : before.index(made.config.special_ids.audio)]
  totals, said = [], []
  for ids, length, score in zip(*(x[0] for x in found.hypotheses)):
    said.append(ids[:length].tolist())
    row = np.array([[*before, *said[-1]]])
    logits = jax.nn.log_softmax(apply_llm(engine.params, engine.config, '__call__', row))
    own = sum(float(logits[0, len(before) + i - 1, id_]) for i, id_ in enumerate(said[-1]))
    totals.append(float(score) + 5.0 * own + 0.5 * int(length))
  assert len(set(map(tuple, said))) == 6 and np.argmax(totals) != 0
  speech, labels = heard(engine)
  assert [id_ for id_ in labels[0] if id_ != made.config.special_ids.audio] == said[
    np.argmax(totals)
  ]
  assert speech.kept[0] == len(said[np.argmax(totals)])
  # it is read as if it were written
  table = made.params['llm']['embed_tokens']['embedding']
  np.testing.assert_allclose(
    speech.embeddings[0, : speech.kept[0]], table[labels[0, : speech.kept[0]]], atol=1e-5
  )


def test_what_is_less_sure_than_it_must_be_was_not_heard(tmp_path):
  said = 'What lies in France?'

  def engine(least):
    budgets = dict(hypotheses=6, unheard=said, least_surety=least)
    return Engine(tiny_model.hears_words(tmp_path, sharpness=0.2, **budgets), speaks=False)

  anything, enough, unsure = (engine(least) for least in (0.0, -1e3, -1e-3))
  speech, labels = heard(anything)
  assert speech.kept[0] > 0
  np.testing.assert_array_equal(heard(enough)[1], labels)
  speech, labels = heard(unsure)
  assert speech.kept[0] == 0 and set(labels[0].tolist()) == {unsure.config.special_ids.audio}
  assert [list(own.answer(WAVE))[-1].text == said for own in (anything, unsure)] == [False, True]


def test_what_has_no_slot_is_counted(tmp_path):
  few = tiny_model.hears_words(tmp_path, sharpness=1e3, adapter=dict(shrink_budget=1), hypotheses=4)
  speech, labels = heard(Engine(few, speaks=False))
  assert speech.kept[0] == 1 and speech.overflow[0] > 0 and labels.shape == (1, 1)


def test_once_warm_it_compiles_nothing_however_many_hypotheses_differ(tmp_path):
  for seconds in (0.5, 1.5):
    engine = Engine(tiny_model.hears_words(tmp_path, sharpness=0.2, hypotheses=4), speaks=False)
    assert len(engine.programs.choose_among) == 2
    engine.warm_up()
    with compiling() as compiled:
      list(engine.answer(tiny_model.question(seconds)))
    assert not compiled


@pytest.mark.parametrize(
  'adapter, engine, why',
  [
    (dict(output='frames'), dict(hypotheses=4), 'no words'),
    ((), dict(hypotheses=-1), 'give 0 or more'),
    ((), dict(hypotheses=2, hypothesis_nodes=0), 'give 0 or more'),
  ],
)
def test_a_model_that_cannot_choose_is_refused(tmp_path, adapter, engine, why):
  with pytest.raises(errors.ConfigError, match=why):
    Engine(tiny_model.hears_words(tmp_path, adapter=adapter, **engine), speaks=False)
