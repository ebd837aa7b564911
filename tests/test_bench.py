"""The benchmarks run and write what they promise."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_losses(tmp_path):
  sizes = ['--vocab=16384', '--width=16', '--frames=128', '--tokens=128', '--chunk=12']
  subprocess.run([sys.executable, '-m', 'launch.bench', 'losses', *sizes, f'--json={tmp_path}/found.json'],
                 cwd=Path(__file__).parent.parent, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, check=True, timeout=300)
  found = json.loads((tmp_path / 'found.json').read_text())
  assert found['plain_temp_bytes'] > 8 * found['lean_temp_bytes'] and found['ratio'] > 1
  assert found['loss_difference'] < 1e-5 and found['lean_seconds'] > 0 and found['plain_seconds'] > 0


def test_padding(tmp_path):
  subprocess.run([sys.executable, '-m', 'launch.bench', 'padding', f'--json={tmp_path}/found.json'],
                 cwd=Path(__file__).parent.parent, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, check=True, timeout=300)
  found = json.loads((tmp_path / 'found.json').read_text())
  assert max(found['s2t']['packed'].values()) < 0.1 and found['t2c']['packed']['positions'] < 0.1
  assert found['s2t']['bucketed']['states'] < 0.1 and min(found['s2t']['plain'].values()) > 0.5
