"""Stand-ins for gcloud, docker, kubectl and the like: they note how they are called, and act as far
as the recipes look.
"""

import dataclasses
import os
from pathlib import Path
import stat
import subprocess

from tests.helpers.paths import ROOT

TOOLS = (
  *('gcloud', 'docker', 'kubectl', 'xpk', 'sbatch', 'srun', 'scontrol', 'mpirun', 'gcsfuse'),
  *('python', 'pip', 'mountpoint', 'sudo'),
)
# A line of `script` says how the next `tpu-vm ssh` ends: its exit code, and the state in which it
# leaves the queued resource. Without such a line the command runs here, as on one host.
_STAND_IN = r"""#!/usr/bin/env bash
tool=${0##*/}
[[ $tool != sudo ]] || exec "$@"
printf -v line '%s\x1f' "$tool" "$@"
printf '%s\x1e' "$line" >> "$CALLS/log"
case "$tool $*" in
  *"queued-resources create"*) echo "${CREATED:-ACTIVE}" > "$CALLS/state" ;;
  *"queued-resources delete"*) rm -f "$CALLS/state" ;;
  *"queued-resources describe"*) cat "$CALLS/state" 2>/dev/null ;;
  *" tpu-vm ssh "*)
    if [[ -s $CALLS/script ]]; then
      read -r code state < "$CALLS/script"
      sed -i 1d "$CALLS/script"
      echo "$state" > "$CALLS/state"
      exit "$code"
    fi
    bash -c "${!#}" ;;
  "docker inspect "*) cat "$CALLS/container" 2>/dev/null ;;
  "docker wait "*) cat "$CALLS/code" 2>/dev/null || echo 0 ;;
  "kubectl apply "*"-f -") cat >> "$CALLS/manifest" ;;
  "mountpoint "*) exit 1 ;;
  "srun "*) exit "$(cat "$CALLS/code" 2>/dev/null || echo 0)" ;;
esac
"""


@dataclasses.dataclass(frozen=True)
class Tools:
  """A folder of stand-ins.

  Attributes:
    folder: with `bin`, and the files that the stand-ins read and write.
  """

  folder: Path

  def run(self, *command: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in the source tree with the stand-ins first on the path."""
    path = f'{self.folder / "bin"}:{os.defpath}'
    return subprocess.run(
      [str(word) for word in command],
      capture_output=True,
      text=True,
      cwd=ROOT,
      timeout=60,
      env={'PATH': path, 'CALLS': str(self.folder), 'ECHOX_PAUSE': '0'} | environ,
    )

  def calls(self) -> list[list[str]]:
    """The command lines so far."""
    log = self.folder / 'log'
    lines = log.read_text().split('\x1e')[:-1] if log.exists() else []
    return [line.split('\x1f')[:-1] for line in lines]

  def said(self, *words: str) -> list[list[str]]:
    """The calls that hold all of these words."""
    return [call for call in self.calls() if all(word in call for word in words)]

  def write(self, name: str, text: str) -> None:
    (self.folder / name).write_text(text)


def make(folder: Path) -> Tools:
  """Writes the stand-ins."""
  (folder / 'bin').mkdir()
  for tool in TOOLS:
    path = folder / 'bin' / tool
    path.write_text(_STAND_IN)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return Tools(folder)
