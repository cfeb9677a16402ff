"""The package as a user gets it: folders, dependencies, wheel and sdist."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("fewstep", "samplers", "pipelines", "eval", "apps", "assets")


def _packages() -> dict[str, str]:
    """Package name -> folder, from the folders that hold an __init__.py."""
    found = {}
    for top in FOLDERS:
        for file in sorted((ROOT / top).rglob("__init__.py")):
            folder = file.parent.relative_to(ROOT)
            if top == "fewstep" and len(folder.parts) > 1:
                continue  # the links to the other folders
            name = folder.as_posix().replace("/", ".")
            found[name if top == "fewstep" else f"fewstep.{name}"] = folder.as_posix()
    return found


def test_every_folder_with_an_init_is_a_package():
    settings = PROJECT["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(_packages())
    assert settings["package-dir"] == _packages()


def test_links_let_tools_follow_the_code():
    for top in FOLDERS[1:]:
        link = ROOT / "fewstep" / top
        assert link.is_symlink()
        assert os.readlink(link) == f"../{top}"


def test_nothing_is_imported_under_its_folder_name():
    code = "import fewstep.samplers, fewstep.pipelines, sys; assert not {'samplers', 'pipelines'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def _closure(names: list[str]) -> set[str]:
    """Every distribution that these ones need, through the metadata of what is installed."""
    seen: set[str] = set()
    todo = list(names)
    while todo:
        requirement = todo.pop()
        name = re.split(r"[\s;\[<>=!~(]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [need for need in needs if "extra ==" not in need]
    return seen


def test_torchvision_is_nowhere_in_the_dependencies():
    declared = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared += extra
    assert "torchvision" not in _closure(declared)
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torchvision")


def test_constraints_pin_what_is_installed():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            try:
                assert importlib.metadata.version(name).split("+")[0] == version
            except importlib.metadata.PackageNotFoundError:
                assert name in ("gradio", "pandas"), f"{name} is pinned, but not installed"


def test_no_path_of_a_machine_is_in_a_tracked_text():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.is_symlink() or path.suffix in (".safetensors", ".png", ".npz") or not path.exists():
            continue
        found = re.findall(r"(?<![\w.~/-])/(?:work|root|farm|opt|home)/\w+", path.read_text(errors="replace"))
        assert not found, f"{name}: {found[:3]}"


def test_assets_stay_small():
    assert sum(f.stat().st_size for f in (ROOT / "assets").rglob("*") if f.is_file()) < 90e6


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package_and_its_models(tmp_path):
    """Built without isolation or network; the wheel is unpacked elsewhere and imported from there."""
    source = tmp_path / "source"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to(os.readlink(ROOT / name))
        elif (ROOT / name).exists():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    subprocess.run(command, check=True, capture_output=True)  # the wheel is built from the sdist
    wheel, sdist = next((tmp_path / "dist").glob("*.whl")), next((tmp_path / "dist").glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        held = archive.getnames()
    assert any(name.endswith("samplers/continuous/ghvb.py") for name in held)
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "fewstep/samplers/core/process.py" in held
    assert "fewstep/py.typed" in held
    assert not [name for name in held if name.startswith(("samplers/", "tests/"))]
    for model in (ROOT / "assets" / "models").glob("*/**/*.safetensors"):
        assert f"fewstep/assets/{model.relative_to(ROOT / 'assets').as_posix()}" in held
    code = (
        "import fewstep, fewstep.samplers as s, fewstep.assets.recipes as r; "
        "print(fewstep.__file__, s.__file__, r.__file__, s.GHVB().spec.order)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    assert all(file.startswith(str(tmp_path / "site")) for file in shown[:3])
    assert shown[3] == "3"
