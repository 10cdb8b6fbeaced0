"""A package of methods that go wrong, installed as an outsider would: by entry points."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import registry

_LOSS = "    def loss(self, task, batch, step):\n"
_FIT = "    def fit(self, task):\n"
STUDENTS = {  # name -> the body of its class
    "explode": _LOSS
    + "        value = super().loss(task, batch, step)\n"
    + "        return value * float('nan') if step.epoch == 2 else value\n",
    "fail": _FIT + "        raise RuntimeError('the fuse\\nburnt')\n",
    "die": _FIT + "        os.kill(os.getpid(), signal.SIGKILL)\n",
    "decline": "    def supports(self, setting):\n        return 'it has no time'\n",
    "sleep": _FIT
    + "        seconds = float(os.environ.get('SLEEP_SECONDS', '0'))\n"
    + "        if seconds:\n"
    + "            Path(os.environ['SLEEP_MARK']).touch()\n"
    + "        time.sleep(seconds)\n"
    + "        return super().fit(task)\n",
}
TEACHERS = {"chalkless": _FIT + "        raise RuntimeError('no chalk')\n"}
_HEAD = (
    "import os, signal, time\nfrom pathlib import Path\nfrom bench.students.mlp import PlainMLP\n"
)


def write(folder: Path) -> None:
    """Write the package and what pip would note about it."""
    package, notes = folder / "outside_methods", folder / "outside_methods-1.dist-info"
    package.mkdir()
    notes.mkdir()
    (package / "__init__.py").touch()
    for name, body in {**STUDENTS, **TEACHERS}.items():
        text = f'"""Toy: one that does {name}."""\n{_HEAD}\n\nclass Toy(PlainMLP):\n{body}'
        (package / f"{name}.py").write_text(text)
    lines = []
    for kind, names in (("students", STUDENTS), ("teachers", TEACHERS)):
        lines += [f"[gkdbench.{kind}]", *(f"{name} = outside_methods.{name}" for name in names)]
    (notes / "entry_points.txt").write_text("\n".join(lines))
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-methods\nVersion: 1\n")


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Install the package here and in the workers, and take it away again."""
    write(folder)
    before = os.environ.get("PYTHONPATH")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    _forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
        for name in [name for name in sys.modules if name.startswith("outside_methods")]:
            del sys.modules[name]
        _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    for remembered in (registry.methods, registry.load_method, registry.presets):
        remembered.cache_clear()
