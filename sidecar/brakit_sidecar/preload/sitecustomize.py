# ruff: noqa: ANN001, ANN202, ANN204, F401, PLC0415, UP004, UP031 (Python 2.7 reads this file; its imports have effects)
# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="import-not-found"
"""Let an unmodified application that imports brakit join the session of ``brakit-sidecar run``.

``run`` puts this file's directory first in PYTHONPATH, so every Python below ``run`` imports this file when it starts,
Python 2.7 too. A process that does not import brakit must not notice this file. So the file keeps three rules:

- It imports only modules that the interpreter has loaded already, and it prints under BRAKIT_DEBUG only.
- It leaves ``sys.path`` and ``sys.modules`` as they would be without it. Another ``sitecustomize`` runs in its place.
  If there is no other, the import of this file raises a missing module's ImportError, which the interpreter expects.
- The worker's side lies in ``../lib``. It is imported from there only if the application's environment has no
  ``brakit_sidecar``, and no other module is imported from there.
"""

import os
import sys

_DIRECTORY = os.path.dirname(__file__)
_LENT_PACKAGE = os.path.join(os.path.dirname(_DIRECTORY), "lib", "brakit_sidecar")


class _Finder(object):
    """Finds one module by a function, and costs the import of each other module one comparison of strings.

    A finder stays in ``sys.meta_path`` until the process exits. Race: another thread that imports a module iterates
    over that list, and the removal of a finder would make the thread skip the next finder.
    """

    def __init__(self, name, find):
        self._name = name
        self._find = find

    def find_spec(self, name, path=None, target=None):
        """Return the module's spec. Returns None if the function raises, so the interpreter asks the next finder."""
        if name != self._name:
            return None
        try:
            return self._find(self, path, target)
        except Exception:  # noqa: BLE001 (telemetry must never break its host)
            return None


def _find_brakit(finder, path, target):
    """Find brakit as the later finders do, and let the join follow its import."""
    for later in sys.meta_path[sys.meta_path.index(finder) + 1 :]:
        spec = later.find_spec("brakit", path, target)
        if spec is not None:
            # A folder without an __init__.py has no location. It is not brakit.
            if spec.has_location and hasattr(type(spec.loader), "exec_module"):
                _join_after(spec.loader)
            return spec
    return None


def _join_after(loader):
    """Let the join follow the loader's next execution of brakit.

    The loader keeps its class, because applications check it. It is restored before brakit is executed.
    """
    from time import perf_counter

    def exec_module(module):
        vars(loader).pop("exec_module", None)
        started = perf_counter()
        loader.exec_module(module)
        took_ms = (perf_counter() - started) * 1000
        if module.__name__ == "brakit":  # all modules of a zip file have the same loader
            try:
                _join(took_ms)
            except Exception:  # noqa: BLE001 (telemetry must never break its host)
                _debug("this application cannot be counted")

    vars(loader)["exec_module"] = exec_module


def _join(brakit_import_ms):
    """Import the integration, whose import connects this process to the daemon."""
    if "brakit_sidecar" not in sys.modules:
        # The last finder, so the package of the application's environment comes first.
        sys.meta_path.append(_Finder("brakit_sidecar", _find_lent_package))
    from brakit_sidecar import integrations

    integrations.brakit_import_ms = brakit_import_ms
    import brakit_sidecar.integrations.brakit


def _find_lent_package(_finder, _path, _target):
    """Find the worker's side in ``../lib``."""
    from importlib.util import spec_from_file_location

    init = os.path.join(_LENT_PACKAGE, "__init__.py")
    return spec_from_file_location("brakit_sidecar", init, submodule_search_locations=[_LENT_PACKAGE])


def _debug(message):
    """Print the message and the current error under BRAKIT_DEBUG. Never raises."""
    if not os.environ.get("BRAKIT_DEBUG"):
        return
    try:
        import traceback

        sys.stderr.write("brakit-sidecar[%d]: %s\n%s" % (os.getpid(), message, traceback.format_exc()))
    except Exception:  # noqa: BLE001, S110 (stderr may be closed or missing)
        pass


def _may_join():
    """Return whether this process belongs to a session, and can run the worker's side."""
    if sys.version_info < (3, 9) or "BRAKIT_SIDECAR_DAEMON" in os.environ:
        return False
    return bool(os.environ.get("BRAKIT_SESSION_ID") and os.environ.get("BRAKIT_SIDECAR_SOCKET"))


def _is_ours(entry):
    """Return whether that entry of ``sys.path`` is this file's directory. An entry may be any object."""
    return isinstance(entry, str) and entry.rstrip("/") == _DIRECTORY


if _may_join():
    sys.meta_path.insert(0, _Finder("brakit", _find_brakit))

# Run the other sitecustomize in this file's place. Each error of its import goes to the interpreter, ImportError too.
_other_entries = [entry for entry in sys.path if not _is_ours(entry)]
if len(_other_entries) < len(sys.path):  # else the import below would find this file again
    sys.path[:] = _other_entries
    # Python 2 clears the names of a module without references, so this name keeps a reference.
    _this_module = sys.modules.pop("sitecustomize", None)
    import sitecustomize
