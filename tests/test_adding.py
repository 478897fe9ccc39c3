"""docs/adding.md: the files that it shows, copied into a folder outside the repository, train as it says."""

import json
import shlex
from pathlib import Path

from lab.doc_commands import commands, files
from tests import forks

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "adding.md"
TINY = ("task.samples=64", "model.width=2", "trainer.batch_size=16", "trainer.max_steps=3", "trainer.device=cpu")


def test_the_package_of_the_page_trains(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    written = files(text)
    assert {Path(name).suffix for name in written} == {".py", ".yaml"}
    for name, content in written.items():
        path = tmp_path / name.removeprefix("../")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    (line,) = [each.text for each in commands("docs/adding.md", text) if "--config-dir" in each.text]
    path, python, script, *words = shlex.split(line.replace("../", f"{tmp_path}/"))
    assert (python, script) == ("python", "train.py")
    words += [*TINY, "logger.tensorboard=false", "run_dir=run"]
    done = forks.run(script, *words, cwd=tmp_path, PYTHONPATH=path.removeprefix("PYTHONPATH="))
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert [summary[key] for key in ("model", "task", "balancer")] == ["pump_net", "pumps", "laggard"]
    assert "train.py --config-dir" in summary["command"]
    assert (summary["status"], summary["steps"]) == ("finished", 3)
    measured = {"condition/loss", "condition/accuracy", "speed/loss", "speed/mae"}
    assert set(summary["metrics"]) == {f"test/{name}" for name in measured}
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
