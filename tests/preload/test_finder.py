"""The join follows the import of brakit, whatever way of import the application uses.

A stand-in for brakit and a stand-in for the lent package print a line when they are executed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from typing import TYPE_CHECKING

import brakit_sidecar
import pytest

from tests.harness import PATIENCE_S, new_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SITECUSTOMIZE = os.path.join(os.path.dirname(brakit_sidecar.__file__), "preload", "sitecustomize.py")

# Prints the directory that it is from, whether brakit is complete, and whether the duration of its import is known.
INTEGRATION = """
import brakit
from . import brakit_import_ms
print("%s joins" % __file__.split("/")[-4], brakit.is_complete, brakit_import_ms > 0)
"""
PACKAGE = {
    "brakit_sidecar/__init__.py": "",
    "brakit_sidecar/integrations/__init__.py": "brakit_import_ms = None",
    "brakit_sidecar/integrations/brakit.py": INTEGRATION,
}
BRAKIT = {"brakit/__init__.py": "print('brakit')\nimport brakit.part\nis_complete = True", "brakit/part.py": ""}
JOINED = "brakit\nlib joins True True\n"


class Run:
    """Runs programs with a preload directory, in the working directory of an application."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.application = root / "application"
        (root / "python").mkdir()
        shutil.copy(SITECUSTOMIZE, root / "python")
        self.write({f"lib/{name}": content for name, content in PACKAGE.items()})
        self.write({f"application/{name}": content for name, content in BRAKIT.items()})

    def write(self, files: Mapping[str, str]) -> None:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")

    def __call__(
        self, python: str, *arguments: str, preload: bool = True, environ: Mapping[str, str] | None = None
    ) -> str:
        """Return what the program printed. Fails if it printed an error, or ended with one."""
        variables = {
            "HOME": str(self.root),
            "PATH": os.defpath,
            "PYTHONPATH": str(self.root / "python") if preload else "",
            "BRAKIT_SESSION_ID": new_id(),
            "BRAKIT_SIDECAR_SOCKET": "/nowhere/sidecar-1.sock",
            **(environ or {}),
        }
        ran = subprocess.run(
            [python, *arguments],
            cwd=self.application,
            env=variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# --- the join --------------------------------------------------------------------------------------------------------

IMPORTS = {
    "import": "import brakit",
    "from": "from brakit import is_complete",
    "of a submodule": "import brakit.part",
    "by name": "import importlib; importlib.import_module('brakit')",
    "in a thread": "import threading; t = threading.Thread(target=__import__, args=['brakit']); t.start(); t.join()",
    "after a look": "import importlib.util; importlib.util.find_spec('brakit'); import brakit",
    "twice": "import brakit; import brakit",
    "of a lazy module": (
        "import importlib.util as u, sys; spec = u.find_spec('brakit'); spec.loader = u.LazyLoader(spec.loader);"
        " module = u.module_from_spec(spec); sys.modules['brakit'] = module; spec.loader.exec_module(module);"
        " module.is_complete"
    ),
}


@pytest.mark.parametrize("code", IMPORTS.values(), ids=IMPORTS)
def test_the_join_follows_an_import(python: str, run: Run, code: str) -> None:
    assert run(python, "-c", code) == JOINED


def test_the_import_of_brakit_alone_causes_the_join(python: str, run: Run) -> None:
    code = "import importlib.util as u, pkgutil, json; u.find_spec('brakit'); list(pkgutil.iter_modules())"
    assert run(python, "-c", code) == ""


def test_a_reload_executes_brakit_again_and_joins_once(python: str, run: Run) -> None:
    assert run(python, "-c", "import brakit, importlib; importlib.reload(brakit)") == f"{JOINED}brakit\n"


def test_threads_that_import_at_once_join_once(python: str, run: Run) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool; import importlib\n"
        "with Pool(8) as pool:\n"
        "    for module in pool.map(importlib.import_module, ['brakit'] * 8): assert module.is_complete"
    )
    assert run(python, "-c", code) == JOINED


def test_a_spawned_child_joins_by_itself(python: str, run: Run) -> None:
    run.write({"application/spawn.py": SPAWN})
    assert run(python, "spawn.py") == JOINED


SPAWN = """
import multiprocessing

def work():
    import brakit

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    child = multiprocessing.Process(target=work)
    child.start()
    child.join()
"""


def test_the_join_follows_an_import_from_a_zip_file(python: str, run: Run) -> None:
    """Python 3.9 executes a zip file's modules in another way. There, brakit is imported and not counted."""
    _zip_brakit(run)
    code = "import sys; sys.path.insert(0, 'all.zip'); import brakit, other; print(brakit.__file__)"
    printed = run(python, "-c", code)
    assert printed.endswith("all.zip/brakit/__init__.py\n")
    assert printed.startswith("brakit\n" if _version(run, python) < (3, 10) else JOINED)


def test_another_module_of_the_same_zip_file_is_executed_as_without_us(python: str, run: Run) -> None:
    _zip_brakit(run)
    code = "import sys; sys.path.insert(0, 'all.zip'); import importlib.util as u; u.find_spec('brakit'); import other"
    assert run(python, "-c", code) == "other\n"


def _zip_brakit(run: Run) -> None:
    with zipfile.ZipFile(run.application / "all.zip", "w") as archive:
        for name, content in {**BRAKIT, "other.py": "print('other')"}.items():
            archive.writestr(name, content)


def _version(run: Run, python: str) -> tuple[int, ...]:
    return tuple(map(int, run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").split(".")))


# --- processes that do not join ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["BRAKIT_SESSION_ID", "BRAKIT_SIDECAR_SOCKET"])
def test_a_process_without_a_session_does_not_join(python: str, run: Run, variable: str) -> None:
    assert run(python, "-c", "import brakit", environ={variable: ""}) == "brakit\n"


def test_a_process_below_a_daemon_does_not_join(python: str, run: Run) -> None:
    assert run(python, "-c", "import brakit", environ={"BRAKIT_SIDECAR_DAEMON": "1"}) == "brakit\n"


def test_a_folder_named_brakit_causes_no_join(python: str, run: Run) -> None:
    run.write({"other/brakit/data.txt": ""})
    code = "import sys; sys.path[:] = ['../other']; import brakit; print(brakit.__spec__.origin)"
    assert run(python, "-c", code) == "None\n"


# --- what an application sees ----------------------------------------------------------------------------------------

VIEWS = {
    "the spec": "import importlib.util; print(importlib.util.find_spec('brakit').origin, 1)",
    "the spec's loader": "import importlib.util; print(type(importlib.util.find_spec('brakit').loader), 1)",
    "the module": "import brakit; print(brakit.__spec__.origin, type(brakit.__loader__), vars(brakit.__loader__))",
    "a pickle of the loader": "import brakit, pickle; print(pickle.dumps(brakit.__loader__))",
    "its source": "import brakit, inspect; print(inspect.getsource(brakit))",
    "its data": "import pkgutil; print(pkgutil.get_data('brakit', 'part.py'))",
    "all modules": "import pkgutil; print(sorted(module.name for module in pkgutil.iter_modules()))",
    "all distributions": "import importlib.metadata as m; print(sorted(str(d.files) for d in m.distributions()))",
    "the paths": "import brakit, sys; print(sys.path, 'sitecustomize' in sys.modules)",
    "other modules of ours": "import brakit, importlib.util as u; print(u.find_spec('python'), u.find_spec('lib'))",
    "a missing submodule": "try: import brakit.missing\nexcept ImportError as error: print(repr(error), error.name)",
}


@pytest.mark.parametrize("code", VIEWS.values(), ids=VIEWS)
def test_an_application_sees_what_it_sees_without_us(python: str, run: Run, code: str) -> None:
    without = run(python, "-c", code, preload=False)
    assert run(python, "-c", code).replace("lib joins True True\n", "") == without != ""


def test_a_missing_brakit_is_reported_as_without_us(python: str, run: Run) -> None:
    code = (
        "import sys; sys.path.clear()\ntry: import brakit\nexcept ImportError as error: print(repr(error), error.name)"
    )
    assert run(python, "-c", code) == run(python, "-c", code, preload=False)


def test_the_join_follows_a_second_import_if_the_first_raises(python: str, run: Run) -> None:
    run.write({"application/brakit/__init__.py": FAILS_ONCE})
    code = "try: import brakit\nexcept ImportError as error: print(error)\nimport brakit"
    assert run(python, "-c", code) == "not yet\nlib joins True True\n"


FAILS_ONCE = """
import os
if "FAILED" not in os.environ:
    os.environ["FAILED"] = "1"
    raise ImportError("not yet")
is_complete = True
"""


def test_an_installed_package_is_preferred_to_the_lent_package(python: str, run: Run) -> None:
    run.write({f"environment/{name}": content for name, content in PACKAGE.items()})
    code = f"import sys; sys.path.append({str(run.root / 'environment')!r}); import brakit"
    assert run(python, "-c", code) == "brakit\nenvironment joins True True\n"


def test_below_two_versions_of_run_an_application_joins_once(python: str, run: Run) -> None:
    shutil.copytree(run.root / "python", run.root / "outer" / "python")
    shutil.copytree(run.root / "lib", run.root / "outer" / "lib")
    both = os.pathsep.join([str(run.root / "python"), str(run.root / "outer" / "python")])
    assert run(python, "-c", "import brakit", environ={"PYTHONPATH": both}) == JOINED


def test_no_other_module_is_lent(python: str, run: Run) -> None:
    run.write({"lib/other.py": ""})
    code = "import brakit, importlib.util; print(importlib.util.find_spec('other'))"
    assert run(python, "-c", code) == f"{JOINED}None\n"


def test_the_package_is_lent_only_after_brakit_was_imported(python: str, run: Run) -> None:
    code = "import importlib.util as u; print(u.find_spec('brakit_sidecar')); import brakit, brakit_sidecar"
    assert run(python, "-c", code) == f"None\n{JOINED}"


# --- finders of an application ---------------------------------------------------------------------------------------

FINDERS = """
import sys
from importlib.machinery import PathFinder

class Unaware:
    def find_spec(self, name, path=None, target=None):
        return None

class Wrapping:
    def find_spec(self, name, path=None, target=None):
        if name != "brakit":
            return None
        spec = PathFinder.find_spec(name, path, target)
        spec.loader = Wrapper(spec.loader)
        return spec

class Wrapper:
    def __init__(self, loader):
        self.loader = loader
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        self.loader.exec_module(module)

class Legacy:
    def find_module(self, name, path=None):
        return None

class Raising:
    def find_spec(self, name, path=None, target=None):
        if name == "brakit":
            raise LookupError("as it is meant to")
"""


@pytest.mark.parametrize(
    "change",
    [
        "insert(0, Unaware())",
        "insert(1, Unaware())",
        "append(Unaware())",
        "insert(1, Wrapping())",
    ],
)
def test_the_join_follows_beside_other_finders(python: str, run: Run, change: str) -> None:
    assert run(python, "-c", f"{FINDERS}\nsys.meta_path.{change}\nimport brakit") == JOINED


def test_an_error_of_another_finder_reaches_the_application(python: str, run: Run) -> None:
    code = f"{FINDERS}\nsys.meta_path.insert(1, Raising())\ntry: import brakit\nexcept LookupError as e: print(e)"
    assert run(python, "-c", code) == "as it is meant to\n"


def test_beside_a_finder_of_the_old_protocol_brakit_is_imported(python: str, run: Run) -> None:
    """Python up to 3.11 asks such a finder. Our finder does not know its answer, so nothing is counted."""
    code = f"{FINDERS}\nimport warnings; warnings.simplefilter('ignore'); sys.meta_path.insert(1, Legacy())"
    assert run(python, "-c", f"{code}\nimport brakit") == "brakit\n"


def test_the_join_follows_under_pytest(environment: str, run: Run) -> None:
    """Pytest puts a finder in front, which rewrites the asserts of tests."""
    run.write({"application/test_shop.py": "import brakit\ndef test(): assert brakit.is_complete"})
    assert "lib joins True True" in run(environment, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider")


# --- a join that fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["raise ValueError('broken')", "import missing_module", "def ("])
def test_an_application_does_not_notice_a_join_that_fails(python: str, run: Run, failure: str) -> None:
    run.write({"lib/brakit_sidecar/integrations/brakit.py": failure})
    assert run(python, "-c", "import brakit; print(brakit.is_complete)") == "brakit\nTrue\n"


def test_an_application_does_not_notice_that_the_files_were_removed(python: str, run: Run) -> None:
    code = f"import shutil; shutil.rmtree({str(run.root / 'lib')!r}); shutil.rmtree({str(run.root / 'python')!r})"
    assert run(python, "-c", f"{code}; import brakit; print(brakit.is_complete)") == "brakit\nTrue\n"


def test_a_join_that_fails_shows_under_brakit_debug(python: str, run: Run) -> None:
    run.write({"lib/brakit_sidecar/integrations/brakit.py": "raise ValueError('broken')"})
    code = "import io, sys; sys.stderr = io.StringIO(); import brakit; print(sys.stderr.getvalue())"
    printed = run(python, "-c", code, environ={"BRAKIT_DEBUG": "1"})
    assert "this application cannot be counted\n" in printed
    assert "ValueError: broken" in printed


@pytest.mark.parametrize("stderr", ["None", "open('/dev/full', 'w', buffering=1)"])
def test_a_debug_message_that_cannot_be_printed_is_dropped(python: str, run: Run, stderr: str) -> None:
    run.write({"lib/brakit_sidecar/integrations/brakit.py": "raise ValueError('broken')"})
    code = f"import os, sys; sys.stderr = {stderr}; import brakit; print(brakit.is_complete, flush=True); os._exit(0)"
    assert run(python, "-c", code, environ={"BRAKIT_DEBUG": "1"}) == "brakit\nTrue\n"


# --- compiled files --------------------------------------------------------------------------------------------------


def _compiled(run: Run) -> set[str]:
    return {path.parts[len(run.root.parts)] for path in run.root.rglob("*.pyc")} - {"application"}


def test_compiled_files_are_written_to_the_private_copy(python: str, run: Run) -> None:
    assert run(python, "-c", "import brakit") == JOINED
    assert _compiled(run) == {"python", "lib"}


def test_no_compiled_file_is_written_under_pythondontwritebytecode(python: str, run: Run) -> None:
    assert run(python, "-c", "import brakit", environ={"PYTHONDONTWRITEBYTECODE": "1"}) == JOINED
    assert _compiled(run) == set()


def test_the_join_follows_from_a_copy_that_cannot_be_written_to(python: str, run: Run) -> None:
    for folder in ("python", "lib/brakit_sidecar", "lib/brakit_sidecar/integrations"):
        run.write({f"{folder}/__pycache__": ""})  # a file in the place of the directory, which stops root as well
    assert run(python, "-c", "import brakit") == JOINED
    assert _compiled(run) == set()
