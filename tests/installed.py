"""Install a built wheel alone, without extras, into an empty environment, and do there what the README begins with.

python -m tests.installed FOLDER-WITH-THE-WHEEL
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tests.docs.pages import ROOT, files, scripts

#: What the README's app has of a Redis: here the broker is a folder, and the store the default one.
BROKER, STORE = 'broker="redis://localhost:6379/0"', 'app.conf.stackstate_url = "redis://localhost:6379/2"'
FOLDER = """
folders = {"data_folder_in": "./queue", "data_folder_out": "./queue", "store_processed": False}
app.conf.update(broker_transport_options=folders, worker_prefetch_multiplier=1)
"""
WAIT = """
import time
from celery_stackstate import StackState
deadline = time.monotonic() + 60
while (run := StackState.of(app).runs.get(result.id)) is None or not run.finished:
    assert time.monotonic() < deadline, run
    time.sleep(0.1)
"""
TOLD = "\nprint(run.id, run.progress.done, run.progress.total)"
#: Seconds that the worker may take to stop.
PATIENCE = 60


def main(dist: Path) -> None:
    """Do it, or end with an error."""
    (wheel,) = dist.glob("*.whl")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        venv.create(folder / "venv", with_pip=True)
        python, celery = folder / "venv/bin/python", folder / "venv/bin/celery"
        subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True)
        project = write(folder / "project")
        worker = subprocess.Popen([celery, "-q", "-A", "shop", "worker", "--pool", "solo", "-l", "error"], cwd=project)
        try:
            run_id = ask(project, python)
            tells_what_to_install(project, celery)
            subprocess.run([python, "-m", "pip", "install", "-q", f"{wheel}[cli]"], check=True)
            look(project, celery, run_id)
        finally:
            worker.terminate()
            worker.wait(PATIENCE)
    print(f"the wheel works by itself: {time.strftime('%H:%M:%S')}")


def write(project: Path) -> Path:
    """Write the README's app over what everybody has."""
    (project / "queue").mkdir(parents=True)
    shop, _ = files()["shop.py"]
    assert BROKER in shop, "the README's broker"
    assert STORE in shop, "the README's store"
    (project / "shop.py").write_text(shop.replace(BROKER, 'broker="filesystem://"').replace(STORE, FOLDER))
    return project


def said(project: Path, *words: str | Path) -> str:
    """Return what a command printed that succeeds."""
    done = subprocess.run(words, cwd=project, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def ask(project: Path, python: Path) -> str:
    """Publish as the README does, ask what happened as the README does, and return the run's id."""
    publish, what_happened = scripts(ROOT / "README.md")
    printed = said(project, python, "-c", "\n".join([publish, WAIT, what_happened, TOLD]))
    assert "SUCCESS" in printed, printed
    run_id, *progress = printed.splitlines()[-1].split()
    assert progress == ["100", "100"], printed
    return run_id


def tells_what_to_install(project: Path, celery: Path) -> None:
    """See that the command line names its extra."""
    command: list[str | Path] = [celery, "-A", "shop", "stackstate", "runs"]
    failed = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "pip install 'celery-stackstate[cli]'" in failed.stderr, failed.stderr


def look(project: Path, celery: Path, run_id: str) -> None:
    """See the run by the command line."""
    command = (celery, "-A", "shop", "stackstate")
    assert said(project, *command, "watch", run_id).endswith("result 100")
    (run,) = map(json.loads, said(project, *command, "runs", "--json").splitlines())
    assert (run["id"], run["status"], run["key"]) == (run_id, "SUCCESS", "import:7")
    assert "warning  stackstate_url" in said(project, *command, "check"), "it is the default store"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
