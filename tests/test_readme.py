"""The README's example runs, and says what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from verify.cli.app import COMMANDS, load

README = Path(__file__).parents[1] / "README.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_python_example_runs_and_reconstructs(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    exec(compile(examples()[0], "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "sqrt(d)*(B + sigma)/sqrt(m)" in printed
    found, X = namespace["found"], namespace["X"]
    error = namespace["matched_rmse"](X, found.features)  # type: ignore[operator, attr-defined]
    predicted = namespace["bound"].predicted  # type: ignore[attr-defined]
    assert 0.5 * predicted < error < 2 * predicted  # one trial scatters by about 15 %


def test_a_setting_of_ones_own_is_measured_judged_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    (example,) = (text for text in examples() if "own_experiment(" in text)
    exec(compile(example, "README.md", "exec"), namespace)
    assert "gradient noise (sigma = 0.7)" in capsys.readouterr().out
    assert len(namespace["records"]) == 10  # type: ignore[arg-type]
    assert namespace["figure"].axes  # type: ignore[attr-defined]
    assert (tmp_path / "results" / "own.pdf").read_bytes().startswith(b"%PDF")


def test_every_option_the_readme_names_exists() -> None:
    known = {"--json", "--latex"}

    def collect(command: object) -> None:
        for parameter in getattr(command, "params", []):
            known.update(parameter.opts)
        for child in getattr(command, "commands", {}).values():
            collect(child)

    for name in COMMANDS:
        collect(load(name))
    shell = re.findall(r"```\n(reconbound bound.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert shell
    assert set(re.findall(r"--[a-zA-Z][\w-]*", shell[0])) <= known
    assert set(re.findall(r"^reconbound ([\w-]+)", shell[0], re.MULTILINE)) <= set(COMMANDS)
