"""No process notices the preloaded sitecustomize.py, whatever its Python, options, start and own sitecustomize are.

Each test runs a program twice: without the file, and with the file as below ``run``.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from typing import TYPE_CHECKING, NamedTuple

import pytest
from brakit_sidecar.core.injection import Preload, Surroundings, inject

from tests.harness import PATIENCE_S, new_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Print what a program can see of the preload. The finder is the only permitted difference.
IMPORT = """
try:
    import sitecustomize
    print(sitecustomize.__name__, sitecustomize.__file__, sorted(vars(sitecustomize)))
except ImportError as error:
    print(repr(error), getattr(error, "name", None))
"""
REPORT = f"""
import sys
finders = [getattr(finder, "__name__", type(finder).__name__) for finder in sys.meta_path]
print(sys.path, sys.argv, sorted(sys.modules), [name for name in finders if name != "_Finder"])
{IMPORT}
"""


class Outcome(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Desk:
    """A working directory. Programs run in it with and without the file."""

    def __init__(self, root: Path, directory: str) -> None:
        self.root = root
        self._directory = directory

    def write(self, files: Mapping[str, str]) -> None:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")

    def run(self, command: Sequence[str], python_path: str | None, *, preload: bool, **more: str) -> Outcome:
        environ = {"HOME": str(self.root), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", **more}
        if python_path is not None:
            environ["PYTHONPATH"] = python_path
        if preload:
            environ |= {"BRAKIT_SESSION_ID": new_id(), "BRAKIT_SIDECAR_SOCKET": "/nowhere/sidecar-1.sock"}
            environ |= inject(
                environ, Preload("/nowhere/brakit.cjs", self._directory), command, Surroundings()
            ).variables
        ran = subprocess.run(
            command,
            cwd=self.root,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Outcome(ran.returncode, ran.stdout, ran.stderr)

    def both(self, command: Sequence[str], python_path: str | None = None, **more: str) -> tuple[Outcome, Outcome]:
        """Run the command without the file, and with it."""
        return (
            self.run(command, python_path, preload=False, **more),
            self.run(command, python_path, preload=True, **more),
        )


@pytest.fixture
def desk(tmp_path: Path, directory: str) -> Desk:
    desk = Desk(tmp_path, directory)
    desk.write({"report.py": REPORT, "own/helper.py": "", "other/helper.py": ""})
    return desk


def test_the_interpreter_loads_the_file(python: str, desk: Desk) -> None:
    code = "import sys; print([type(finder).__name__ for finder in sys.meta_path].count('_Finder'))"
    without, with_it = desk.both([python, "-c", code])
    assert (without.stdout, with_it.stdout) == ("0\n", "1\n")


@pytest.mark.parametrize(
    "python_path", [None, "", "own", "own:", ":own", "own::other", ":", "own:own", "own/:other/../own", "missing"]
)
def test_no_difference_shows_for_any_value_of_pythonpath(any_python: str, desk: Desk, python_path: str | None) -> None:
    if python_path == "" and "python2" in os.path.realpath(any_python):
        pytest.skip("only Python 2.7 takes an empty PYTHONPATH for the working directory, and nothing can restore that")
    without, with_it = desk.both([any_python, "report.py"], python_path)
    assert with_it == without
    assert without.code == 0


@pytest.mark.parametrize(
    "options", ["-I", "-E", "-s", "-P", "-O", "-OO", "-u", "-bb", "-Werror", "-Xdev", "-Xutf8", "-Ximporttime"]
)
def test_no_difference_shows_with_an_option_of_the_interpreter(any_python: str, desk: Desk, options: str) -> None:
    desk.write({"own/sitecustomize.py": "import sys; print('own', sys.path)"})
    without, with_it = desk.both([any_python, options, "report.py"], "own")
    if options == "-Ximporttime":  # it lists the file, with times
        assert "Error" not in with_it.stderr
        assert with_it[:2] == without[:2]
    else:
        assert with_it == without


def test_without_site_only_the_directory_in_sys_path_shows(any_python: str, desk: Desk, directory: str) -> None:
    """The interpreter does not load the file, so the file cannot remove its directory from sys.path."""
    code = "import sys; print(sorted(sys.modules), sys.meta_path, [entry for entry in sys.path if entry != %r])"
    without, with_it = desk.both([any_python, "-S", "-c", code % directory])
    assert with_it == without


def test_site_can_be_run_late(any_python: str, desk: Desk) -> None:
    without, with_it = desk.both([any_python, "-S", "-c", "import site; site.main()" + REPORT])
    assert with_it == without


def test_the_file_can_be_imported_without_site(any_python: str, desk: Desk) -> None:
    without, with_it = desk.both([any_python, "-S", "-c", IMPORT])
    assert with_it == without
    assert without.code == 0


def test_no_difference_shows_if_pythonsafepath_is_set(any_python: str, desk: Desk) -> None:
    without, with_it = desk.both([any_python, "report.py"], "own", PYTHONSAFEPATH="1")
    assert with_it == without


def test_verbose_output_has_no_error_of_the_file(any_python: str, desk: Desk) -> None:
    without, with_it = desk.both([any_python, "-v", "report.py"])
    assert with_it[:2] == without[:2]
    assert "Traceback" not in with_it.stderr


# --- a sitecustomize of the user's own -------------------------------------------------------------------------------

OWN = {
    "it prints": "import sys; print('out'); sys.stderr.write('err\\n')",
    "it is empty": "",
    "it looks around": "import sys; print(__name__, __file__, sys.path, sys.argv, 'sitecustomize' in sys.modules)",
    "it changes sys.path": "import sys; sys.path.append('/added')",
    "it adds a finder": "import sys; sys.meta_path.insert(0, type('Finder', (), {'find_spec': lambda *_: None}))",
    "it replaces itself": "import sys, os; sys.modules[__name__] = os",
    "it removes itself": "import sys; del sys.modules[__name__]",
    "it raises": "raise ValueError('broken')",
    "it raises with a cause": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('broken')",
    "it imports a missing module": "import missing_module",
    "it imports a missing submodule": "import os.missing_module",
    "it raises ImportError": "raise ImportError('no reason')",
    "it pretends to be missing": "error = ImportError('me'); error.name = 'sitecustomize'; raise error",
    "it has a syntax error": "def (",
    "it ends the process": "import os; os._exit(5)",
    "it imports a module beside it": "import helper; print(helper.__file__)",
}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_another_sitecustomize_runs_as_without_the_file(any_python: str, desk: Desk, own: str) -> None:
    desk.write({"own/sitecustomize.py": own})
    without, with_it = desk.both([any_python, "report.py"], "other:own")
    assert with_it == without


@pytest.mark.parametrize("raised", ["SystemExit(3)", "SystemExit('a reason')", "KeyboardInterrupt()"])
def test_another_sitecustomize_can_end_the_process(any_python: str, desk: Desk, directory: str, raised: str) -> None:
    """Python 3 prints a traceback. The frame of the file is the only difference."""
    desk.write({"own/sitecustomize.py": f"raise {raised}"})
    without, with_it = desk.both([any_python, "report.py"], "own")
    assert with_it[:2] == without[:2]
    assert _without_frame_of(directory, with_it.stderr) == without.stderr.splitlines()


def _without_frame_of(directory: str, stderr: str) -> list[str]:
    lines = stderr.splitlines()
    for number, line in enumerate(lines):
        if directory in line:
            following = lines[number + 1 :]
            frame = next(i for i, text in enumerate(following) if text.startswith('  File "'))
            return lines[:number] + following[frame:]
    return lines


def test_another_sitecustomize_may_be_a_package(any_python: str, desk: Desk) -> None:
    desk.write({"own/sitecustomize/__init__.py": "from . import part", "own/sitecustomize/part.py": "print('part')"})
    without, with_it = desk.both([any_python, "report.py"], "own")
    assert with_it == without
    assert "part" in without.stdout


def test_a_usercustomize_runs_as_without_the_file(any_python: str, desk: Desk) -> None:
    desk.write({"own/usercustomize.py": "import sys; print('user', sys.path, 'sitecustomize' in sys.modules)"})
    without, with_it = desk.both([any_python, "report.py"], "own")
    assert with_it == without


def test_an_application_imports_the_sitecustomize_beside_its_script(any_python: str, desk: Desk) -> None:
    desk.write({"app/report.py": REPORT, "app/sitecustomize.py": "print('imported late')"})
    without, with_it = desk.both([any_python, "app/report.py"])
    assert with_it == without
    assert "imported late" in without.stdout


# --- ways to start ---------------------------------------------------------------------------------------------------

STARTS = {
    "a command": ["-c", REPORT],
    "a module": ["-m", "report"],
    "a directory": ["app"],
    "a zip file": ["app.zip"],
    "a package named sidecar": ["-c", "import sidecar; print(sidecar.__file__)"],
    "an own brakit_sidecar": [
        "-c",
        "import sys; sys.path.append('there'); import brakit_sidecar; print(brakit_sidecar.__file__)",
    ],
    "a missing brakit_sidecar": ["-c", "import brakit_sidecar.client"],
    "an error": ["-c", "1 / 0"],
    "an exit code": ["-c", "raise SystemExit(7)"],
    "a missing script": ["missing.py"],
}


@pytest.mark.parametrize("arguments", STARTS.values(), ids=STARTS)
def test_no_difference_shows_for_any_way_to_start(any_python: str, desk: Desk, arguments: list[str]) -> None:
    desk.write({"app/__main__.py": REPORT, "sidecar/__init__.py": "", "there/brakit_sidecar/__init__.py": ""})
    with zipfile.ZipFile(desk.root / "app.zip", "w") as archive:
        archive.writestr("__main__.py", REPORT)
    without, with_it = desk.both([any_python, *arguments])
    assert with_it == without


@pytest.mark.parametrize("python_path", [None, "own:"])
def test_no_difference_shows_in_a_directory_that_was_removed(
    any_python: str, desk: Desk, python_path: str | None
) -> None:
    """An empty part of PYTHONPATH then has no absolute path. Python 3.11 does not start with such a part."""
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" "$1"'
    report = str(desk.root / "report.py")
    without, with_it = desk.both(["/bin/sh", "-c", script, any_python, report], python_path)
    assert with_it[:2] == without[:2]
    assert "sitecustomize" not in with_it.stderr


def test_no_difference_shows_in_a_child_of_multiprocessing(any_python: str, desk: Desk) -> None:
    desk.write({"spawn.py": SPAWN})
    without, with_it = desk.both([any_python, "spawn.py"])
    assert with_it == without
    assert without.code == 0


SPAWN = """
import multiprocessing, sys

def report():
    print(sys.path, "sitecustomize" in sys.modules)

if __name__ == "__main__":
    if sys.version_info > (3,):
        multiprocessing.set_start_method("spawn")
    child = multiprocessing.Process(target=report)
    child.start()
    child.join()
"""
