"""The report: one file, everything inside, whatever parts there are."""

import json

import numpy as np
import pytest

from echox_jax import audio
from echox_jax.evaluation import figures, report

pytest.importorskip('matplotlib', reason="matplotlib is in the extra 'demo'")

TARGETS = {
  'text_exact_match': ('>=', 0.97),
  's2t_exact_match': ('>=', 0.93),
  's2s_exact_match': ('>=', 0.85),
  'reply_wer': ('<=', 0.08),
  'resynthesis_wer': ('<=', 0.06),
  'total_minutes': ('<=', 40),
}


def sample_metrics() -> dict:
  group = lambda s2t, s2s, n: {
    'questions': n,
    'text_exact_match': 1.0,
    's2t_exact_match': s2t,
    's2s_exact_match': s2s,
    'reply_wer': 0.05,
  }
  return {
    'questions': 240,
    'text_exact_match': 0.992,
    's2t_exact_match': 0.946,
    's2s_exact_match': 0.842,
    'reply_wer': 0.071,
    'resynthesis_wer': 0.055,
    'resynthesis_wer_true_durations': 0.041,
    'natural_wer': 0.006,
    'first_audio_s': 0.21,
    'real_time_factor': 0.17,
    'units_per_second': 28.1,
    'unit_words_per_second': 13.2,
    'total_minutes': 33.4,
    'peak_rss_gib': 3.1,
    'by_voice': {'rms': group(0.95, 0.86, 120), 'awb <i>': group(0.93, 0.82, 120)},
    'by_category': {
      name: group(0.9 + 0.01 * i, 0.8 + 0.02 * i, 30 + i)
      for i, name in enumerate(
        ('animals', 'arithmetic', 'calendar', 'capitals', 'elements', 'general', 'opposites')
      )
    },
    'judge': {'model': 'whisper-base int8', 'faster-whisper': '1.2.1'},
    'overflow': {'frames': 0},
  }


def sample_reply() -> dict:
  n = 16
  times = [round(0.08 + 0.011 * i + 0.09 * (i > 9), 3) for i in range(n)]
  return {
    'text': 'The capital of Japan is <Tokyo>. It lies in Asia.',
    'audio_s': 3.4,
    'first_audio_s': 0.27,
    'finished_s': 0.45,
    'real_time_factor': 0.13,
    'scores': list(0.3 * np.sin(np.arange(n))),
    'token_times_s': times,
    'overflow': {},
    'slices': [
      {
        'text': 'The capital of Japan is Tokyo.',
        'tokens': [0, 9],
        'audio_s': 2.1,
        'cut_at_s': 0.18,
        'ready_at_s': 0.27,
      },
      {
        'text': 'It lies in Asia.',
        'tokens': [9, 16],
        'audio_s': 1.3,
        'cut_at_s': 0.35,
        'ready_at_s': 0.44,
      },
    ],
  }


def fill(folder) -> None:
  """What a finished run leaves."""
  chirp = lambda s, f: (
    0.4 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, f, int(16000 * s))) / 16000)
  )
  for name, wave in (
    ('question.wav', chirp(1.5, 900)),
    ('reply.wav', chirp(3.4, 2500)),
    ('evaluation/resynthesis/00000-natural.wav', chirp(3.0, 3000)),
    ('evaluation/resynthesis/00000-predicted.wav', chirp(3.1, 2900)),
  ):
    audio.write_wav(folder / name, wave)
  parts = {
    'text': ('text_ce',),
    's2t': ('text_ce', 'ctc'),
    't2c': ('unit_ce',),
    'echo': ('echo_ce', 'denoising', 'text_ce'),
    'vocoder': ('mel_loss', 'adversarial_loss'),
  }
  for stage, names in parts.items():
    (folder / stage).mkdir()
    lines = [{'kind': 'compile', 'step': 0, 'compile_seconds': 3.0}] + [
      {'kind': 'train', 'step': s, 'loss': 3.0 / s}
      | {name: 5.0 / (s + 20 * i) for i, name in enumerate(names)}
      for s in range(10, 400, 10)
    ]
    if stage == 's2t':
      lines += [{'kind': 'eval', 'step': s, 'loss': 1.0, 'text_ce': 1.0} for s in (100, 200)]
    (folder / stage / 'metrics.jsonl').write_text(
      '\n'.join(map(json.dumps, lines)) + '\n{"kind": "tr'
    )


def test_a_report_holds_all_of_a_run_in_one_file(tmp_path):
  fill(tmp_path)
  page = report.write_report(tmp_path, sample_metrics(), sample_reply(), TARGETS).read_text()
  assert page.count('data:image/png;base64,') == 5 and page.count('data:audio/wav;base64,') == 2
  assert 'http' not in page and 'src="/' not in page
  assert '&lt;Tokyo&gt;' in page and '<Tokyo>' not in page
  assert page.count('class="missed"') == 1 and page.count('class="ok"') == 5


def test_held_out_losses_are_dashed(tmp_path, monkeypatch):
  fill(tmp_path)
  monkeypatch.setattr(figures, '_png', lambda figure: figure)
  panels = figures.loss_curves(
    {stage: report.read_metrics(tmp_path / stage / 'metrics.jsonl') for stage in ('s2t', 't2c')}
  ).axes
  legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in panels]
  assert legends == [['text', 'CTC', 'held out'], ['unit words']]
  dashed = [
    list(line.get_xdata())
    for line in panels[0].lines
    if line.get_linestyle() == '--' and len(line.get_xdata())
  ]
  assert dashed == [[100, 200]]


def test_what_is_missing_is_left_out(tmp_path):
  silent = sample_reply() | {'slices': [], 'first_audio_s': None, 'token_times_s': [], 'scores': []}
  page = report.write_report(
    tmp_path, sample_metrics() | {'reply_wer': None}, silent, TARGETS
  ).read_text()
  assert page.count('data:image/png;base64,') == 2 and 'data:audio' not in page
