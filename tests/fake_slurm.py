"""A SLURM of shell commands for fast tests: `answers` prints what a test wrote; `machine` runs jobs on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scontrol")

ANSWER = """#!/bin/sh
echo "$(basename $0) $*" >> {folder}/calls
cat {folder}/$(basename $0).out 2>/dev/null
cat {folder}/$(basename $0).err >&2 2>/dev/null
exit $(cat {folder}/$(basename $0).rc 2>/dev/null || echo 0)
"""

SBATCH = """#!{python}
import os, pathlib, re, subprocess, sys
script = pathlib.Path(sys.argv[1])
text = script.read_text()
folder = pathlib.Path("{folder}")
number = 70 + len(list(folder.glob("*.sbatch")))
(folder / f"{{number}}.sbatch").write_text(text)
option = lambda name: re.search(rf"^#SBATCH --{{name}}=(.*)$", text, re.MULTILINE)
array = option("array")
count = int(array[1].split("-")[1].split("%")[0]) + 1 if array else 1
for index in range(count):
    where = dict(SLURM_JOB_ID=str(number), SLURM_JOB_NODELIST=f"here{{index}}", SLURM_JOB_NAME=option("job-name")[1],
                 SLURM_NTASKS="1", SLURM_NTASKS_PER_NODE="1", SLURM_JOB_NUM_NODES="1",
                 SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")
    if array:
        where |= dict(SLURM_ARRAY_JOB_ID=str(number), SLURM_ARRAY_TASK_ID=str(index))
    job = subprocess.Popen(["bash", str(script)], env=os.environ | where, start_new_session=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    name = f"{{number}}_{{index}}" if array else str(number)
    (folder / f"{{name}}.job").write_text(
        f"{{job.pid}} {{option('job-name')[1]}}|{{number}}|{{index if array else 'N/A'}}|{{name}}|RUNNING|None")
print(f"Submitted batch job {{number}}")
"""

SQUEUE = """#!{python}
import os, pathlib
for path in sorted(pathlib.Path("{folder}").glob("*.job")):
    pid, line = path.read_text().split(" ", 1)
    try:
        state = pathlib.Path(f"/proc/{{pid}}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        continue
    if state != "Z":
        print(line)
"""

SRUN = """#!{python}
import os, pathlib, sys
place = next(i for i, word in enumerate(sys.argv) if word == "-u") - 1
words = sys.argv[place:]
array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
name = f"{{array}}_{{index}}" if array else os.environ["SLURM_JOB_ID"]
for option, stream in (("--output", 1), ("--error", 2)):
    path = sys.argv[sys.argv.index(option) + 1].replace("%A_%a", name).replace("%j", name).replace("%t", "0")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
os.execvp(words[0], words)
"""


def _put(folder: Path, texts: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def answers(folder: Path) -> Path:
    """Return a folder for the PATH whose commands print ``NAME.out`` and ``NAME.err``, exit with ``NAME.rc``, and
    write each call into ``calls``."""
    return _put(folder, dict.fromkeys(COMMANDS, ANSWER.format(folder=folder)))


def machine(folder: Path) -> Path:
    """Return a folder for the PATH whose sbatch runs all jobs of an array at once on this machine; it keeps no
    accounts, and knows its jobs by their processes."""
    texts = {"sbatch": SBATCH, "squeue": SQUEUE, "srun": SRUN}
    texts = {name: text.format(folder=folder, python=sys.executable) for name, text in texts.items()}
    return _put(folder, {**dict.fromkeys(COMMANDS, "#!/bin/sh\nexit 1\n"), **texts})


def path_with(folder: Path) -> str:
    """Return a PATH on which the commands of a folder come first."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
