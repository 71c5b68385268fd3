"""The wheel, the locked versions, the Makefile's environment, and what a missing package says."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from repository import ROOT

import vissl_clusterfit
from vissl_clusterfit.commands.main import COMMANDS

# A process of its own sees neither this one's path nor the options of the make that may have started it.
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")}

PIP = (sys.executable, "-m", "pip")
SITE = Path(sysconfig.get_paths()["purelib"])


def run(*command, cwd, env=CLEAN, check=True):
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done


# --- the wheel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that setup.py builds from a copy of the sources, tests and tools among them."""
    sources = tmp_path_factory.mktemp("sources")
    for folder in ("vissl_clusterfit", "hydra_plugins", "configs", "tools", "tests"):
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, sources)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".", cwd=sources)
    (built,) = (sources / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The scripts folder of an environment that holds the wheel, with everything else taken from this one.

    A path in a .pth file is added without the .pth files of that folder, so an editable install is not seen.
    """
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin/python"
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=environment)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "everything_else.pth").write_text(str(SITE))
    return python.parent


def test_the_wheel_holds_every_module_and_every_config(wheel):
    expected = {
        path.relative_to(ROOT).as_posix()
        for folder in ("vissl_clusterfit", "hydra_plugins")
        for path in (ROOT / folder).rglob("*.py")
    }
    expected |= {f"vissl_clusterfit/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assets = {f"vissl_clusterfit/browse/assets/page.{ending}" for ending in ("html", "css", "js")}
    assert held == expected | assets | {"vissl_clusterfit/py.typed", "vissl_clusterfit/report/published.json"}
    assert any(name.startswith("vissl_clusterfit/configs/config/clusterfit/") for name in held)


def test_the_installed_wheel_works_from_any_folder(installed, tmp_path):
    code = """
        import vissl_clusterfit, hydra_plugins.vissl_clusterfit_plugin.search_path as plugin, tools, configs
        print(vissl_clusterfit.__file__, plugin.__file__, tools.__file__, configs.__file__, sep="\\n")
        from hydra import compose, initialize_config_module
        with initialize_config_module("vissl.config", version_base=None):
            overrides = ["config=pretrain/simclr/simclr_8node_resnet", "+config/clusterfit=student"]
            print(compose("defaults", overrides=overrides).config.LOSS.name)
    """
    said = run(installed / "python", "-c", "if True:" + code, cwd=tmp_path).stdout.splitlines()
    ours, plugin, vissls_tools, vissls_configs = map(Path, said[:4])
    assert ours.is_relative_to(installed.parent)
    assert plugin.is_relative_to(installed.parent)
    assert vissls_tools == SITE / "tools/__init__.py"
    assert vissls_configs == SITE / "configs/__init__.py"
    assert said[4] == "clusterfit_loss"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_installed_command_helps_from_any_folder(name, installed, tmp_path):
    done = run(installed / "vissl-clusterfit", name, "--help", cwd=tmp_path)
    assert f"vissl-clusterfit {name} " in done.stdout
    assert (done.stderr, list(tmp_path.iterdir())) == ("", [])


@pytest.mark.slow
def test_the_installed_quickstart_runs_in_any_folder(installed, tmp_path):
    done = run(installed / "vissl-clusterfit", "quickstart", "--small", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]
    assert "vissl-clusterfit config=clusterfit/quickstart/teacher" in done.stdout
    assert done.stdout.count("done in") == 6


@pytest.mark.slow
def test_the_installed_command_trains_a_config_of_vissl(installed, tmp_path):
    run(
        installed / "vissl-clusterfit",
        "config=test/integration_test/quick_simclr",
        "config.MACHINE.DEVICE=cpu",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        "config.DATA.TRAIN.DATA_SOURCES=[synthetic]",
        "config.DATA.TRAIN.DATA_LIMIT=4",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4",
        "config.OPTIMIZER.use_larc=false",
        "config.OPTIMIZER.num_epochs=1",
        "config.CHECKPOINT.DIR=run",
        cwd=tmp_path,
    )
    assert (tmp_path / "run/model_final_checkpoint_phase0.torch").stat().st_size > 0


# --- the versions ---------------------------------------------------------------------------------


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_the_wheel_says_its_version_python_and_license(metadata):
    assert metadata["Version"] == vissl_clusterfit.__version__
    assert {*metadata["Requires-Python"].split(",")} == {">=3.10", "<3.14"}
    assert metadata["License"] == "MIT"


def test_the_wheel_leaves_vissl_to_an_install_without_its_pins(metadata):
    names = [Requirement(text).name for text in metadata.get_all("Requires-Dist")]
    assert "vissl" not in names
    assert pins("requirements.lock")["vissl"] == "0.1.6"


def test_every_requirement_is_locked_within_its_bounds(metadata):
    files = (f"requirements{name}.lock" for name in ("-docs", "-cpu", "-gpu", ""))
    locked = {name: version for file in files for name, version in pins(file).items()}
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    assert len(requirements) > 20
    outside = [str(r) for r in requirements if locked.get(canonicalize_name(r.name), "") not in r.specifier]
    assert outside == []


#: Extras that no test of `make test-oldest` needs.
NOT_IN_THE_OLDEST = {f'extra == "{name}"' for name in ("benchmarks", "docs", "loggers")}


def test_the_oldest_lock_has_what_setup_allows_at_the_least(metadata):
    """No bound is below what `make test-oldest` runs."""
    oldest = pins("requirements-oldest.lock")
    lower = {
        canonicalize_name(requirement.name): specifier.version
        for requirement in map(Requirement, metadata.get_all("Requires-Dist"))
        for specifier in requirement.specifier
        if specifier.operator == ">=" and str(requirement.marker) not in NOT_IN_THE_OLDEST
    }
    raised = {
        name: oldest[name] for name, bound in lower.items() if name != "faiss-gpu" and not _is(oldest[name], bound)
    }
    assert raised == {}
    assert oldest["vissl"] == "0.1.6"


def _is(version: str, bound: str) -> bool:
    """Whether a version is the first one of a bound: 0.1.5.post1 of 0.1.5, and 1.0.0 of 1."""
    return Version(version).release[: len(Version(bound).release)] == Version(bound).release


def test_no_way_of_installing_takes_both_builds_of_faiss(metadata):
    extras = {r.name: str(r.marker) for r in map(Requirement, metadata.get_all("Requires-Dist")) if "faiss" in r.name}
    assert extras == {"faiss-cpu": 'extra == "cpu"', "faiss-gpu": 'extra == "gpu"'}
    assert not any(name.startswith("faiss") for name in pins("requirements.lock"))
    assert "faiss-gpu" not in pins("requirements-cpu.lock")
    assert "faiss-cpu" not in pins("requirements-gpu.lock")


# --- the Makefile ---------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path) -> Path:
    """What the Makefile reads, and an environment that it takes for current."""
    for file in ("Makefile", "setup.py", *(path.name for path in ROOT.glob("requirements*.lock"))):
        shutil.copy(ROOT / file, tmp_path)
    run(sys.executable, "-m", "venv", "--without-pip", ".venv", cwd=tmp_path)
    stamp = planned(tmp_path, "setup").split()[-1]
    (tmp_path / stamp).touch()
    return tmp_path


def planned(clone: Path, target: str, *, path: str = "") -> str:
    """The commands that ``make target`` would run; no GPU is seen unless there is one in ``path``."""
    no_gpu = clone / "no_gpu"
    no_gpu.mkdir(exist_ok=True)
    (no_gpu / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (no_gpu / "nvidia-smi").chmod(0o755)
    env = {**CLEAN, "PATH": f"{path or no_gpu}:{CLEAN['PATH']}"}
    return run("make", "--dry-run", target, cwd=clone, env=env).stdout


def test_a_current_environment_is_not_installed_again(clone):
    os.utime(clone / "setup.py")
    os.utime(clone / "requirements.lock")
    assert planned(clone, "quickstart") == ".venv/bin/python tools/quickstart.py\n"


@pytest.mark.parametrize("file", ["setup.py", "requirements.lock", "requirements-cpu.lock"])
def test_a_change_of_what_is_needed_installs_again(clone, file):
    with (clone / file).open("a") as content:
        content.write("# changed\n")
    plan = planned(clone, "quickstart")
    assert re.search(r"uv .* pip sync .* requirements\.lock requirements-cpu\.lock \|\| ", plan)
    assert plan.endswith(".venv/bin/python tools/quickstart.py\n")


def test_a_driver_of_nvidia_changes_the_build_of_faiss(clone, tmp_path_factory):
    gpu = tmp_path_factory.mktemp("gpu")
    (gpu / "nvidia-smi").symlink_to(shutil.which("true"))
    plan = planned(clone, "setup", path=str(gpu))
    # `sync` removes what the locks do not have: the other build.
    assert re.search(r"uv .* pip sync .* requirements\.lock requirements-gpu\.lock \|\| ", plan)
    assert "requirements-cpu.lock" not in plan


def test_an_interpreter_that_is_too_old_or_missing_is_refused(clone):
    done = run("make", "setup", "PYTHON=no-such-python", cwd=clone, check=False)
    assert done.returncode != 0
    assert "no-such-python: the locked versions need Python 3.11 or newer" in done.stderr
    assert "make PYTHON=/path/to/python3.11 setup" in done.stderr


# --- what is imported, and what is missing --------------------------------------------------------

WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
"""


def test_the_package_and_its_hydra_plugin_import_nothing_heavy(tmp_path):
    code = """
        import sys, vissl_clusterfit.plugin.registration, vissl_clusterfit.compat.repairs, vissl_clusterfit.dependencies
        import hydra_plugins.vissl_clusterfit_plugin.search_path
        print({"torch", "numpy", "vissl", "classy_vision", "faiss", "sklearn"} & set(sys.modules))
    """
    assert run(sys.executable, "-c", "if True:" + code, cwd=tmp_path).stdout == "set()\n"


@pytest.mark.parametrize(
    ("missing", "commands"),
    [
        (["torch"], ["python -m pip install torch torchvision"]),
        (["vissl"], ["python -m pip install --no-deps vissl==0.1.6"]),
        (["faiss"], ["python -m pip install faiss-cpu"]),
        (
            ["torch", "vissl", "faiss"],
            ["pip install torch torchvision", "pip install --no-deps vissl==0.1.6", "pip install faiss-cpu"],
        ),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_installs_it(missing, commands, tmp_path):
    code = """
from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import MissingDependencyError
try:
    require()
except MissingDependencyError as error:
    print(error)
"""
    said = run(sys.executable, "-c", WITHOUT.format(missing=missing) + code, cwd=tmp_path).stdout
    first, *rest = said.splitlines()
    assert first == f"Not installed: {', '.join(missing)}. Install with:"
    assert len(rest) == len(commands)
    assert all(command in line for command, line in zip(commands, rest, strict=True))


@pytest.mark.parametrize("missing", ["torch", "vissl"])
def test_the_command_line_says_what_is_missing_without_a_traceback(missing, tmp_path):
    code = "from vissl_clusterfit.launch.main import main; sys.exit(main(['config=clusterfit/defaults']))"
    done = run(sys.executable, "-c", WITHOUT.format(missing=[missing]) + code, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert f"Not installed: {missing}. Install with:\n    python -m pip install" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_called_like_a_package_is_not_taken_for_it(tmp_path):
    (tmp_path / "vissl").mkdir()
    code = WITHOUT.format(missing=[]) + (
        "sys.path[:] = [entry for entry in sys.path if 'site-packages' not in entry]\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from vissl_clusterfit.dependencies import require\n"
        "require('vissl')"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, check=False)
    assert "MissingDependencyError: Not installed: vissl." in done.stderr


def test_the_name_tools_is_vissls_in_the_checkout_too():
    code = "import tools, configs; print(tools.__file__, configs.__file__, sep='\\n')"
    said = run(sys.executable, "-c", code, cwd=ROOT).stdout.splitlines()
    assert [Path(file) for file in said] == [SITE / "tools/__init__.py", SITE / "configs/__init__.py"]
