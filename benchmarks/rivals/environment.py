"""The rivals' own Python environment, below .tools/, made when it is first asked for."""

import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".tools" / "rivals"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def python() -> str:
    """Return its interpreter; installs the rivals at first, which needs a package index."""
    interpreter, stamp = FOLDER / "bin" / "python", FOLDER / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("  installing the rivals below .tools/rivals", flush=True)
        venv.create(FOLDER, with_pip=True, clear=True)
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        try:
            subprocess.run([*pip, "install", "-r", str(REQUIREMENTS)], check=True)
        except subprocess.CalledProcessError:
            sys.exit("cannot install the rivals: is the package index that pip uses in reach?")
        stamp.write_text(wanted)
    return str(interpreter)


def site_packages() -> str:
    """Return where its packages are, for one that is measured within our own process."""
    python()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(FOLDER / "lib" / version / "site-packages")
