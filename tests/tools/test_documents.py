"""Links of the documents lead somewhere; their commands are run by a test, or parsed, or named here as not run."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

import vissl_clusterfit
from vissl_clusterfit.commands.main import COMMANDS, PROG
from vissl_clusterfit.commands.parsing import Parser

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\(([^()\s]+)\)")

#: Commands that no test runs, by how they begin, and why.
NOT_RUN = {
    "pip install": "the network; tests/tools/test_packaging.py installs the wheel",
    "docker": "no daemon; tests/tools/test_container.py holds the Dockerfile against the repository",
    "export": "a variable of the shell; tests/test_dependencies.py sets it",
    "torchrun": "two machines; tests/launch/processes has several ranks on one",
    "python -c": "it draws digits for the commands after it; tests/datasets/synthetic draws them",
}
COMMAND_WORDS = ("make", PROG, "python", ".venv/bin/python", "pip", "docker", "export", "torchrun", "bash", "sbatch")


# --- links ----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Those of its headings, as they are made on every site of Markdown."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links_inside_lead_somewhere(page):
    broken = []
    for link in LINK.findall(page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not re.match(r"\w+:", link) and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


def test_links_outside_are_these():
    """No test follows them: only what is listed here may be linked to."""
    outside = {link for page in PAGES for link in LINK.findall(page.read_text("utf-8")) if re.match(r"\w+:", link)}
    assert outside == {
        "https://arxiv.org/abs/1912.03330",
        "https://github.com/facebookincubator/submitit",
        "https://github.com/facebookresearch/iopath",
        "https://github.com/facebookresearch/vissl",
    }


def test_every_page_is_on_the_site():
    named = {*re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)}
    placed = import_places()
    assert named == {page.name for page in ROOT.glob("docs/*.md")} | {p for p in placed.values() if p.endswith(".md")}
    assert {source for source in placed if not (ROOT / source).exists()} == set()


def test_the_site_is_built_so_that_a_warning_ends_it():
    """``--quiet`` would leave warnings out before they are counted."""
    assert re.search(r"^strict: true$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert re.search(r"-m mkdocs build$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert "make docs" in (ROOT / ".ci/run").read_text("utf-8")


def import_places() -> dict[str, str]:
    """``PLACES`` of the site's hook, which needs MkDocs to be imported."""
    [found] = re.findall(r"^PLACES = \{(.*?)^\}", (ROOT / "tools/docs_site.py").read_text("utf-8"), re.M | re.DOTALL)
    return dict(re.findall(r'"(.+?)": "(.+?)"', found))


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs/api.md").read_text("utf-8")
    shown = re.findall(r"^::: ([\w.]+)$", text, re.M)
    assert {f"vissl_clusterfit.{name}" for name in vissl_clusterfit.__all__} <= set(shown)
    for name in shown:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute) or import_module(name)


# --- commands -------------------------------------------------------------------------------------


def written_commands() -> Iterator[tuple[str, str]]:
    """Each command of the pages: in code by the line, and in the text between backticks."""
    for page, name in zip(PAGES, PAGE_IDS, strict=True):
        text = re.sub(r"\\\n\s*", " ", page.read_text("utf-8"))
        for line in text.splitlines():
            if line.startswith("    "):
                yield name, line.partition("  #")[0].strip()
            yield from ((name, found) for found in re.findall(rf"`({PROG} [a-z]+ [^`]+|make [a-z-]+)`", line))


ALL = sorted({(page, line) for page, line in written_commands() if line.split() and line.split()[0] in COMMAND_WORDS})


def words_of(line: str) -> tuple[str, list[str]]:
    """The sub-command and its arguments; of a synopsis all that is in brackets, and the first of alternatives."""
    for _ in range(2):
        line = re.sub(r"(?<= )\[([^\[\]=|]*)(?:\|[^\[\]]*)?\]", r"\1", line)
    line = re.sub(r"<([^<>]+)>", lambda found: re.sub(r"\W", "_", found[1]), line)
    words = [word.removesuffix("...").removesuffix("…") for word in shlex.split(line)]
    if words[0] == PROG:
        return words[1], [word for word in words[2:] if word]
    script = next(word for word in words if word.endswith(".py"))
    source = (ROOT / script).read_text("utf-8")
    return re.search(r'main\(\["(\w+)"|import (main)\b', source)[1] or "run", words[words.index(script) + 1 :]


def test_the_pages_have_commands():
    assert len(ALL) > 60


@pytest.mark.parametrize(("page", "line"), ALL, ids=[f"{page}-{line[:60]}" for page, line in ALL])
def test_a_command_is_one_that_there_is(page, line):
    if any(line.startswith(beginning) for beginning in NOT_RUN):
        return
    if line.startswith("make "):
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert line.split()[1] in targets
        return
    if line.startswith("bash "):
        assert (ROOT / line.split()[1]).exists()
        return
    name, words = words_of(line)
    if "=" in name or name == "run" or any("=" in word and not word.startswith("-") for word in words):
        return  # tests/tools/test_documented_commands.py composes it
    if words == ["--help"]:
        assert name in COMMANDS
        return
    parser = Parser(prog=f"{PROG} {name}")
    import_module(f"vissl_clusterfit.commands.{COMMANDS[name][0]}").add_arguments(parser)
    parser.parse_args(words)


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_what_is_not_run_is_still_written(beginning):
    assert any(line.startswith(beginning) for _, line in ALL)


def test_the_commands_of_the_readme_are_those_of_the_tutorial_which_run():
    readme = {line.replace(" --open", "") for page, line in ALL if page == "README.md" and line.startswith(PROG)}
    tutorial = {line for page, line in ALL if page == "docs/tutorial.md"}
    assert readme <= tutorial
    assert len(readme) > 7


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_lines_of_python_run(page, tmp_path, monkeypatch):
    text = (ROOT / page).read_text("utf-8")
    code = re.search(r"^( *)import vissl_clusterfit as cf\n(?:(?: .*|cf\..*|\w+ = .*)?\n)+", text, re.M)[0]
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((1200, 4)).astype(np.float32)
    np.save("features.npy", rows)
    (tmp_path / "names.txt").write_text("".join(f"{number}.jpg\n" for number in range(len(rows))))
    exec(textwrap.dedent(code), {})
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 1201
