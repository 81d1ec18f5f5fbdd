"""The templates are in the wheel, the sdist and an editable install, and are found in each."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATES = {
    file.relative_to(ROOT).as_posix(): file.read_bytes()
    for file in (ROOT / "migrations_template").rglob("*")
    if file.is_file()
}


def succeed(*command: object, cwd: Path) -> str:
    """Standard output of a command that must succeed, without this project's own paths."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (path,) = built.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree: what somebody has who unpacks the sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def test_the_wheel_holds_every_template_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert len(names) == len(set(names))
        found = {
            name.removeprefix("embedmigrate/"): archive.read(name)
            for name in names
            if "migrations_template" in name
        }
    assert found == TEMPLATES


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
    tops = {name.parts[0] for name in names}
    assert len(tops) == 2 and "embedmigrate" in tops and any("dist-info" in top for top in tops)
    assert PurePosixPath("embedmigrate/py.typed") in names
    assert not [name for name in names if "__pycache__" in name.parts or name.suffix == ".pyc"]
    assert any(name.name == "LICENSE" for name in names)


def test_the_sdist_holds_every_template_once_and_all_that_the_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [PurePosixPath(name).relative_to(archive.getnames()[0].split("/")[0])
                 for name in archive.getnames()]  # fmt: skip
    shipped = [name.as_posix() for name in names]
    assert len(shipped) == len(set(shipped))
    assert {name for name in shipped if "migrations_template" in name} == TEMPLATES.keys()
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "tests/workspace.py", "docs/cli.md",
                 "examples/data/corpus.jsonl", "src/embedmigrate/py.typed"):  # fmt: skip
        assert name in shipped, name
    assert not [name for name in names if {"__pycache__", ".git", "indexes"} & set(name.parts)]


def template_files(template: str) -> dict[str, bytes]:
    """The files of a template by name."""
    folder = f"migrations_template/{template}/"
    return {
        name.removeprefix(folder): content
        for name, content in TEMPLATES.items()
        if name.startswith(folder)
    }


def copied(project: Path) -> dict[str, bytes]:
    """The files that ``init`` made in a project, by name."""
    files = [project / "embedmigrate.toml", *(project / "migrations").iterdir()]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_init_works_however_it_is_installed(
    kind: str, wheel: Path, sdist: Path, unpacked: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, symlinks=True)
    bin = environment / "bin"
    (site,) = environment.glob("lib/python*/site-packages")
    # The dependencies of the environment that runs the tests; a path file in it is not followed,
    # so that an editable installation of this project there stays out.
    (site / "dependencies.pth").write_text(str(distribution("click").locate_file("")), "utf-8")
    what = {"wheel": (wheel,), "sdist": (sdist,), "editable": ("--editable", unpacked)}
    succeed(
        *(sys.executable, "-m", "pip", "--python", bin / "python", "install", "--quiet"),
        *("--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", *what[kind]),
        cwd=tmp_path,
    )
    project, other = tmp_path / "project", tmp_path / "other"
    for folder, template in ((project, "default"), (other, "pgvector")):
        folder.mkdir()
        succeed(bin / "embedmigrate", "init", "--template", template, cwd=folder)

    place = succeed(
        bin / "python", "-c", "import embedmigrate; print(embedmigrate.__file__)", cwd=project
    )
    expected = unpacked if kind == "editable" else site
    assert Path(place.strip()).is_relative_to(expected.resolve()), "not what was installed"
    assert copied(project) == template_files("default")
    assert copied(other) == template_files("default") | template_files("pgvector")
    assert succeed(bin / "embedmigrate", "heads", cwd=project) == ""
    assert succeed(bin / "python", "-m", "embedmigrate", "list-templates", cwd=project).startswith(
        "default  "
    )
