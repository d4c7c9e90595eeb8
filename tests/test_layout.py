"""The folders at the top, the links to them and the wheel's mapping say the same."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("cli", "head", "pipeline")


def _wheel_target() -> dict[str, object]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    target: dict[str, object] = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    return target


def test_each_folder_has_a_relative_link_under_the_import_name() -> None:
    links = {path.name: path for path in (ROOT / "src/muse").iterdir() if path.is_symlink()}
    assert sorted(links) == sorted(FOLDERS)
    for name, link in links.items():
        assert link.readlink() == Path("../..") / name


def test_the_wheel_takes_the_folders_and_not_the_links() -> None:
    target = _wheel_target()
    assert target["packages"] == ["src/muse", "pipeline", "head", "cli"]
    assert sorted(target["exclude"]) == sorted(f"src/muse/{name}" for name in FOLDERS)  # type: ignore[call-overload]
    assert target["sources"] == {"src": "", **{name: f"muse/{name}" for name in FOLDERS}}


def test_the_wheel_takes_muse_nano_s_weights() -> None:
    assert set(_wheel_target()) == {"packages", "exclude", "sources"}  # whole folders
    nano = ROOT / "pipeline/encoders/nano"
    assert (nano / "muse-nano.json").is_file()
    assert (nano / "muse-nano.safetensors").stat().st_size > 10_000_000  # and no pointer to them


def test_package_files_import_nothing() -> None:
    for name in FOLDERS:
        lines = (ROOT / name / "__init__.py").read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith(("import ", "from "))]


def test_no_file_is_longer_than_a_reader_bears() -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: length for path, length in lengths.items() if length > 350} == {}
