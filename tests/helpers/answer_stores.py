"""Evaluations that no model has made, for tests of scores and reports."""

import numpy as np

from echox_jax import audio
from echox_jax.evaluation import listening, store
from echox_jax.evaluation.questions import Question
from echox_jax.evaluation.store import SPOKEN

JUDGE = 'whisper-base'
TIMES = {'first_audio_s': 0.1, 'finished_s': 0.5, 'text_s': 0.2, 'audio_s': 2.0}
WAYS = ('T2T', 'T2S', 'S2T', 'S2S')


def write(folder, questions, said, heard=None, *, ways=WAYS, batch=64, task='answers', sounds=True):
  """Writes a finished evaluation.

  Args:
    folder: where.
    questions: of it.
    said: (how a question is asked, number of the question) -> the text of the answer.
    heard: the same -> what the judge heard; None = just that.
  """
  settings = {'name': 'made', 'task': task, 'ways': list(ways), 'batch': batch}
  settings |= {'model': 'none', 'timed': 1}
  made = store.create(folder, settings, questions)
  for number, work in enumerate(made.batches):
    answers, transcripts = [], []
    for how, question in work:
      text = said(how, question)
      row = {'asked': how, 'number': question}
      times = {'times': TIMES} if number < made.alone else {}
      answers.append(row | answer(text) | times)
      transcripts.append(row | {'heard': (heard or said)(how, question)})
      if sounds and text:
        audio.write_wav(made.sound(how, question), np.full(1600, 0.1))
      if sounds and how == SPOKEN:
        audio.write_wav(made.question_sound(question), np.full(800, 0.1))
    made.write(store.ANSWERS, number, answers)
    made.write(listening.heard_by(JUDGE), number, transcripts)
  return made


def answer(text):
  """A row of the store; an answer without text is silent."""
  return {
    'text': text,
    'refused': None,
    'slices': 1,
    'units': 3 * len(text),
    'unit_words': len(text),
    'audio_s': len(text.split()) / 2,
    'overflow': {'unit_loops': 1} if 'loop' in text else {},
  }


def capitals(count):
  """Questions of two voices and three categories, each asked by both voices."""
  return [
    Question(
      f'q{i}',
      f'What is the capital of country {i // 2}?',
      (f'City {i // 2}', f'Town {i // 2}'),
      category=f'part {i % 3}',
      voice=f'voice {i % 2}',
    )
    for i in range(count)
  ]
