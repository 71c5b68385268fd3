"""The layers, read from every import, lazy ones included: each room imports those below it; libraries have places."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vissl_clusterfit"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ("benchmarks", "examples", "hydra_plugins", "tests", "tools")
ALL_FILES = [ROOT / "setup.py", *FILES, *sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]

# From the lowest to the highest. A room imports itself and the rooms of lower rows, never a neighbour in its own row.
LAYERS = (
    ("errors", "compat"),
    ("dependencies",),
    ("storage", "distributed"),
    ("config", "search", "report", "progress"),
    ("compute",),
    ("datasets", "video", "features"),
    ("clustering", "transfer", "study", "models", "images"),
    ("labels", "planner"),
    ("verification", "plugin", "browse"),
    ("api",),
    ("launch",),
    ("commands",),
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}

# What every room may import, and where else a library may be imported.
EVERYWHERE = {"numpy", "torch", "tqdm", "vissl_clusterfit"}
HOST = {"vissl", "classy_vision", "hydra", "submitit"}
HOST_ROOMS = {"plugin", "launch", "compat"}
PLACES = {
    "faiss": ("search/faiss_search.py",),
    "av": ("video/decode.py", "datasets/synthetic/moving_digits.py"),
    "sklearn": (
        "clustering/estimator.py",
        "transfer",
        "labels/quality.py",
        "datasets/synthetic/scans.py",
        "datasets/synthetic/digits.py",
    ),
    "scipy": ("report/intervals.py", "datasets/matlab.py"),
    "jinja2": ("browse/page.py",),
    "yaml": ("browse/training.py",),
    "umap": ("browse/centroids.py",),
    "matplotlib": ("study/plot.py", "browse/plots.py", "browse/svg.py", "datasets/synthetic/characters.py"),
    "PIL": ("datasets", "video/frame_folder.py", "images", "browse/pictures.py"),
    "pyarrow": (
        "features/imports.py",
        "features/parquet_files.py",
        "images/lists.py",
        "images/hugging_face.py",
        "labels/export.py",
    ),
    "datasets": ("images/hugging_face.py",),
    "lmdb": ("images/lmdb_files.py",),
    "safetensors": ("features/rows_files.py", "models/weight_files.py"),
    "torchvision": ("models",),
    "timm": ("models/timm_models.py",),
    "transformers": ("models/transformers_models.py", "models/image_transforms.py"),
    "iopath": ("storage/paths.py", "storage/remote.py"),
}


def imports(file: Path, *, at_import: bool = False) -> set[str]:
    """Dotted names that a file imports, without what only type checks read; ``at_import`` leaves out functions, too."""
    names = set()
    todo = [ast.parse(file.read_text("utf-8"), str(file))]
    while todo:
        node = todo.pop()
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
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


def room(module: str) -> str:
    return module.split(".")[1]


MODULES = {module_name(file): file for file in FILES}
# The package itself gives public names on demand; what its map leads to is tested by its own examples.
INSIDE = {name: file for name, file in MODULES.items() if "." in name}


def needed_modules(file: Path) -> set[str]:
    return imports(file) & INSIDE.keys() - {module_name(file)}


def of_modules(modules) -> list:
    return [pytest.param(name, id=name) for name in sorted(modules)]


def test_every_module_stands_in_a_room():
    assert {room(name) for name in INSIDE} == set(HEIGHT)
    loose = {name for name, file in INSIDE.items() if file.parent == PACKAGE}
    assert loose <= {f"vissl_clusterfit.{name}" for name in ("errors", "distributed", "dependencies", "api")}


def test_the_tree_of_the_documents_has_every_folder_from_the_lowest_to_the_highest():
    told = re.findall(r"^      (\w+)/ ", (ROOT / "docs/architecture.md").read_text("utf-8"), re.MULTILINE)
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert sorted(told) == sorted(folders - {"api"})  # which stands in the first line, with the loose modules
    assert [HEIGHT[folder] for folder in told] == sorted(HEIGHT[folder] for folder in told)


@pytest.mark.parametrize("name", of_modules(INSIDE))
def test_a_room_imports_only_rooms_below_it(name):
    own = room(name)
    others = {module for module in needed_modules(INSIDE[name]) if room(module) != own}
    assert sorted(module for module in others if HEIGHT[room(module)] >= HEIGHT[own]) == []


def test_no_module_imports_itself_in_a_circle():
    graph = {name: needed_modules(file) for name, file in INSIDE.items()}
    while free := {name for name, needed in graph.items() if not needed & graph.keys()}:
        graph = {name: needed for name, needed in graph.items() if name not in free}
    assert graph == {}


@pytest.mark.parametrize("name", of_modules(INSIDE))
def test_a_library_is_imported_in_its_places_alone(name):
    file = INSIDE[name]
    if room(name) in HOST_ROOMS:
        assert {"faiss", "tools", "benchmarks", "tests"} & libraries(file) == set()
        return
    misplaced = {
        library
        for library in libraries(file) - EVERYWHERE
        if not any(file.is_relative_to(PACKAGE / place) for place in PLACES.get(library, ()))
    }
    assert misplaced == set()


@pytest.mark.parametrize("name", of_modules(name for name in INSIDE if room(name) == "compat"))
def test_repairs_import_what_they_repair_only_when_called(name):
    assert {"vissl", "classy_vision", "torch", "torchvision"} & libraries(INSIDE[name], at_import=True) == set()


def test_the_list_of_registrations_imports_vissl_only_when_called():
    file = PACKAGE / "plugin/registration.py"
    assert HOST | {"torch", "torchvision"} & libraries(file, at_import=True) == HOST


@pytest.mark.parametrize("folder", ["tools", "tests", "configs", "hydra_plugins", "benchmarks"])
def test_top_level_folders_are_no_packages(folder):
    """They would hide VISSL's packages of the same names, and the Hydra plugins of others."""
    assert not (ROOT / folder / "__init__.py").exists()
    assert folder == "hydra_plugins" or list((ROOT / folder).rglob("__init__.py")) == []


@pytest.mark.parametrize("file", [pytest.param(file, id=str(file.relative_to(ROOT))) for file in ALL_FILES])
def test_a_module_is_read_in_one_sitting(file):
    assert len(file.read_text("utf-8").splitlines()) <= 335
