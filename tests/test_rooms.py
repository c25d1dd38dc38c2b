"""Which room may import which: the table in docs/architecture.md, and that the code keeps to it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "spikeconv"
MOST_LINES = 350
FACES = ("__init__", "__main__", "_register", "api", "lm_eval")
"""Modules at the top that may import any room, lazily."""

Imports = dict[str, set[str]]


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name; a package by its own."""
    result = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        result[name] = ast.parse(path.read_text(encoding="utf-8"))
    return result


MODULES = modules()


def imports(tree: ast.Module, *, at_once: bool = False) -> Iterator[str]:
    """Names of our modules that a module imports: anywhere in it, or (`at_once`) when it is imported itself."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if at_once and (isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and is_typing(node.test))):
            continue
        stack.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "spikeconv")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "spikeconv":
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in inside)


def is_typing(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def room(module: str) -> str:
    """The second part of a dotted name: a folder, or a leaf at the top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


ROOMS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
LEAVES = {room(name) for name in MODULES} - ROOMS - set(FACES)


def allowed() -> Imports:
    """The table of docs/architecture.md: `room/` in the first column, what it may import in the last."""
    rows = re.findall(r"^\| `(\w+)/` \|.*\| ([^|]*) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`?(\w+)`?", cell)) if cell.strip() != "–" else set() for name, cell in rows}


def arrows() -> Imports:
    """The rooms that each room imports from, leaves left out."""
    result: Imports = {name: set() for name in ROOMS}
    for module, tree in MODULES.items():
        if room(module) in ROOMS:
            result[room(module)] |= {room(name) for name in imports(tree)} - {room(module), "__init__"} - LEAVES
    return result


def find_circle(graph: Imports) -> list[str]:
    """A path that ends where it began; empty if there is none."""
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(graph.get(name, ())):
                if circle := follow(other, [*path, name]):
                    return circle
            done.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := follow(name, []))), [])


def test_the_table_names_every_room() -> None:
    table = allowed()
    assert table.keys() == ROOMS
    assert set().union(*table.values()) <= ROOMS


def test_the_table_has_no_circle() -> None:
    assert not find_circle(allowed())
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_rooms_import_only_what_the_table_allows() -> None:
    table, found = allowed(), arrows()
    forbidden = {name: found[name] - table.get(name, set()) for name in found}
    assert not {name: rooms for name, rooms in forbidden.items() if rooms}


def test_leaves_import_only_leaves() -> None:
    for module, tree in MODULES.items():
        if room(module) in LEAVES:
            assert {room(name) for name in imports(tree)} <= LEAVES | {"__init__"}, module


def test_modules_do_not_import_in_a_circle() -> None:
    assert not find_circle({name: set(imports(tree, at_once=True)) - {name} for name, tree in MODULES.items()})


@pytest.mark.parametrize("folder", ["spikeconv", "kernels", "scripts"])
def test_no_file_is_long(folder: str) -> None:
    suffixes = (".py", ".cpp", ".h", ".cu", ".cuh", "")
    paths = [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in suffixes]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert len(lines) > 5 and not {path: count for path, count in lines.items() if count > MOST_LINES}
