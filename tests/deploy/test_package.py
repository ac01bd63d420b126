"""The Debian package: what is in it, what it depends on, and that its program runs."""

import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT, e2e

BUILD = Path(os.environ.get("CHORALE_BUILD", e2e.BINARY.resolve().parent))

# CI installs them all, and fails without them.
MISSING = any(shutil.which(tool) is None for tool in ("cpack", "dpkg-deb", "dpkg-shlibdeps", "file"))
pytestmark = pytest.mark.skipif(MISSING and "CI" not in os.environ,
                                reason="there are no tools for Debian packages (dpkg-dev, file)")


def run(*command, **more):
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **more)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    run("cpack", "-G", "DEB", "--config", BUILD / "CPackConfig.cmake", "-B", folder, cwd=BUILD)
    (deb,) = folder.glob("*.deb")
    return deb


@pytest.fixture(scope="module")
def root(package, tmp_path_factory):
    """The package's files, unpacked."""
    folder = tmp_path_factory.mktemp("root")
    run("dpkg-deb", "--extract", package, folder)
    return folder


@pytest.fixture(scope="module")
def control(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    run("dpkg-deb", "--control", package, folder)
    return folder


def field(package, name):
    return run("dpkg-deb", "--field", package, name).strip()


def test_name_version_and_description(package):
    version = re.search(r"project\(chorale VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
    architecture = run("dpkg", "--print-architecture").strip()
    assert package.name == f"chorale_{version}_{architecture}.deb"
    assert field(package, "Package") == "chorale"
    assert field(package, "Version") == version
    assert re.fullmatch(r".+ <.+@.+>", field(package, "Maintainer"))
    assert int(field(package, "Installed-Size")) > 1000
    summary, *text = field(package, "Description").splitlines()
    assert len(summary) <= 80 and not summary.endswith(".") and text


def test_it_depends_on_the_libraries_that_the_program_needs(package, root):
    depends = {part.split()[0] for part in field(package, "Depends").split(",")}
    assert {"libc6", "libstdc++6"} <= depends
    assert any(name.startswith("libspdlog") for name in depends)
    assert any(name.startswith("libprometheus-cpp") for name in depends)
    # Each library's package, or what that provides, is among them.
    needed = set(re.findall(r"NEEDED +(\S+)", run("objdump", "-p", root / "usr/bin/chorale")))
    paths = dict(re.findall(r"^\s*(\S+) => (/\S+)", run("ldd", root / "usr/bin/chorale"), re.MULTILINE))
    for library in needed & set(paths):
        owner = run("dpkg", "-S", f"*{paths[library]}").split(":")[0]
        provides = run("dpkg-query", "-W", "-f=${Provides}", owner)
        assert depends & {owner, *re.findall(r"[a-z][\w.+-]+", provides)}, (library, owner)


def test_contents(package):
    listing = [line.split() for line in run("dpkg-deb", "--contents", package).splitlines()]
    modes = {entry[5].lstrip("."): entry[0] for entry in listing}
    assert all(entry[1] == "root/root" for entry in listing)
    assert modes["/usr/bin/chorale"] == "-rwxr-xr-x"
    for name in ("/usr/lib/systemd/system/chorale.service", "/etc/default/chorale", "/usr/share/doc/chorale/copyright",
                 "/usr/share/doc/chorale/changelog.gz", "/usr/share/doc/chorale/README.md",
                 "/usr/share/doc/chorale/docs/metrics.md", "/usr/share/doc/chorale/examples/grafana/chorale.json",
                 "/usr/share/doc/chorale/examples/prometheus/alerts.yml", "/usr/share/chorale/machines/h200-x8.json"):
        assert modes[name] == "-rw-r--r--", name
    folders = {name.rstrip("/"): mode for name, mode in modes.items() if mode.startswith("d")}
    assert set(folders.values()) == {"drwxr-xr-x"}
    assert not [name for name in modes if re.match(r"/(usr/(local|include|share/(?!doc|chorale/machines))|home|tmp|root|build)", name)
                and name.rstrip("/") not in folders]


def test_control_files(control):
    assert (control / "conffiles").read_text().split() == ["/etc/default/chorale"]
    assert len((control / "md5sums").read_text().splitlines()) > 8
    for name in ("postinst", "prerm", "postrm"):
        assert os.access(control / name, os.X_OK)
        run("sh", "-n", control / name)
        assert "set -e" in (control / name).read_text()


def test_documents_have_debians_form(package, root):
    changelog = gzip.decompress((root / "usr/share/doc/chorale/changelog.gz").read_bytes()).decode()
    assert changelog.startswith(f"chorale ({field(package, 'Version')}) ")
    assert field(package, "Maintainer") in changelog
    assert "Apache-2.0" in (root / "usr/share/doc/chorale/copyright").read_text()


def test_the_program_is_stripped_and_runs(package, root):
    program = root / "usr/bin/chorale"
    assert "not stripped" not in run("file", program)
    assert "RUNPATH" not in run("objdump", "-p", program) and "RPATH" not in run("objdump", "-p", program)
    assert run(program, "--version").strip() == f"chorale {field(package, 'Version')}"
    run(program, "check", e2e.MODEL)


def test_the_unit_is_valid_and_its_flags_exist(root, tmp_path):
    unit = (root / "usr/lib/systemd/system/chorale.service").read_text()
    settings = dict(re.findall(r"^(CHORALE_\w+)=(.*)$", (root / "etc/default/chorale").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{?(\w+)", re.search(r"^ExecStart=.*$", unit, re.MULTILINE)[0])) == set(settings)
    for line in ("Type=notify", "WatchdogSec=120", "DynamicUser=yes", "EnvironmentFile=/etc/default/chorale",
                 "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert f"\n{line}\n" in unit, line
    flags = set(re.findall(r"--[\w-]+", re.search(r"^ExecStart=.*$", unit, re.MULTILINE)[0] + settings["CHORALE_ARGS"]))
    known = set(re.findall(r"--[\w-]+", run(root / "usr/bin/chorale", "serve", "--help")))
    assert flags <= known, flags - known
    if shutil.which("systemd-analyze"):
        copy = tmp_path / "chorale.service"
        copy.write_text(unit.replace("/usr/bin/chorale", str(root / "usr/bin/chorale")))
        result = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
        assert "chorale" not in result.stdout + result.stderr, result.stderr


def test_make_package_and_the_container_build_the_same_thing():
    container = (ROOT / "deploy/container/Containerfile").read_text()
    assert "cpack -G DEB" in container and "cpack -G DEB" in (ROOT / "Makefile").read_text()
    needed = re.search(r"packages=\((.*?)\)", (ROOT / "scripts/setup.sh").read_text(), re.DOTALL)[1].split()
    missing = [name for name in needed if name not in container.split()]
    assert set(missing) <= {"ccache", "libgtest-dev", "libgmock-dev", "libbenchmark-dev"}, missing
    assert re.search(r"^USER \d+$", container, re.MULTILINE)
    assert "HEALTHCHECK" in container
