"""The layers, read from the imports: tools -> adapters -> core, and each library in its place."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vissl_clusterfit"
BRIDGES = {PACKAGE / "plugin.py", *PACKAGE.glob("compat*.py")}
ADAPTERS = set((PACKAGE / "adapters").rglob("*.py"))
CORE = set(PACKAGE.rglob("*.py")) - ADAPTERS - BRIDGES
# What the core may import: these everywhere, the others in their places.
CORE_LIBRARIES = {"numpy", "torch", "tqdm", "vissl_clusterfit"}
PLACES = {
    "faiss": (PACKAGE / "search/faiss_search.py",),
    "av": (PACKAGE / "video/decode.py", PACKAGE / "moving_digits.py"),
    "sklearn": (PACKAGE / "transfer", PACKAGE / "labels/quality.py", PACKAGE / "scans.py", PACKAGE / "digits.py"),
    "scipy": (PACKAGE / "intervals.py", PACKAGE / "datasets/matlab.py"),
    "matplotlib": (PACKAGE / "study/plot.py", PACKAGE / "datasets/synthetic/characters.py"),
    "PIL": (
        PACKAGE / "datasets/cifar.py",
        PACKAGE / "digits.py",
        PACKAGE / "datasets/synthetic/characters.py",
        PACKAGE / "datasets/synthetic/study_images.py",
        PACKAGE / "video/frame_folder.py",
    ),
    "iopath": (PACKAGE / "storage/paths.py", PACKAGE / "storage/remote.py"),
}


def imports(file: Path, *, at_import: bool = False) -> set[str]:
    """Dotted names that a file imports; ``at_import`` leaves out functions and what only type checks read."""
    names = set()
    todo = [ast.parse(file.read_text("utf-8"), str(file))]
    while todo:
        node = todo.pop()
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if at_import and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        todo.extend(ast.iter_child_nodes(node))
    return names


def libraries(file: Path, **kinds: bool) -> set[str]:
    return {name.partition(".")[0] for name in imports(file, **kinds)} - sys.stdlib_module_names


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def ids(files: set[Path]) -> list:
    return [pytest.param(file, id=str(file.relative_to(ROOT))) for file in sorted(files)]


def test_the_layers_are_found():
    assert PACKAGE / "clustering/kmeans.py" in CORE
    assert PACKAGE / "launch/main.py" in ADAPTERS
    assert PACKAGE / "compat.py" in BRIDGES


@pytest.mark.parametrize("file", ids(CORE))
def test_the_core_imports_its_few_libraries(file):
    misplaced = {
        name
        for name in libraries(file) - CORE_LIBRARIES
        if not any(file.is_relative_to(place) for place in PLACES.get(name, ()))
    }
    assert misplaced == set()


@pytest.mark.parametrize("file", ids(CORE))
def test_the_core_knows_nothing_above_it(file):
    above = ("vissl_clusterfit.adapters", "vissl_clusterfit.plugin.registration", "vissl_clusterfit.compat.repairs")
    assert [name for name in sorted(imports(file)) if name.startswith(above)] == []


@pytest.mark.parametrize("file", ids(ADAPTERS))
def test_the_adapters_leave_faiss_to_the_core_and_import_no_tool(file):
    assert {"faiss", "tools", "benchmarks", "tests"} & libraries(file) == set()


@pytest.mark.parametrize("file", ids(BRIDGES))
def test_plugin_and_compat_import_vissl_only_when_called(file):
    assert {"vissl", "classy_vision", "torch", "torchvision"} & libraries(file, at_import=True) == set()


def test_no_module_of_the_package_imports_itself_in_a_circle():
    modules = {module_name(file): file for file in CORE | ADAPTERS | BRIDGES}
    graph = {name: imports(file, at_import=True) & modules.keys() - {name} for name, file in modules.items()}
    while free := {name for name, needed in graph.items() if not needed & graph.keys()}:
        graph = {name: needed for name, needed in graph.items() if name not in free}
    assert graph == {}


@pytest.mark.parametrize("folder", ["tools", "tests", "configs", "hydra_plugins", "benchmarks"])
def test_top_level_folders_are_no_packages(folder):
    """They would hide VISSL's packages of the same names, and the Hydra plugins of others."""
    assert not (ROOT / folder / "__init__.py").exists()
    assert folder == "hydra_plugins" or list((ROOT / folder).rglob("__init__.py")) == []
