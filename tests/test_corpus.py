"""Every file that ever broke a reader: weights, an image, or one line with the file's name, within
a minute and little memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fuzz

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").iterdir() if path.suffix != ".md")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
}
READ = """
import resource, sys
from pathlib import Path
import fuzz
resource.setrlimit(resource.RLIMIT_AS, (fuzz._memory()[1] + (1 << 30),) * 2)
for path in map(Path, sys.argv[1:]):
    print(path.name, flush=True)
    fuzz.image_outcome(path) if path.name.startswith("images-") else fuzz.outcome(path)
"""


@pytest.mark.parametrize("kind", sorted({path.name.split("-")[0] for path in CORPUS}))
def test_files_that_once_broke_a_reader(kind: str) -> None:
    paths = [path for path in CORPUS if path.name.startswith(f"{kind}-")]
    command = [sys.executable, "-c", READ, *map(str, paths)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60 + 2 * len(paths), check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, f"{done.stdout.split()[-1]}: {done.stderr[-800:]}"
    assert done.stdout.split() == [path.name for path in paths]
