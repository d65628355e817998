"""The folder called operator must never shadow the standard library's module."""

import operator
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_operator_is_the_standard_library_module() -> None:
    assert Path(str(operator.__file__)).parent == Path(sysconfig.get_paths()["stdlib"])


def test_operator_folder_is_no_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
