"""Rules of the house: floors, no cycles, nothing at import, the public surface."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {"errors", "config", "releases", "state", "chunks", "tiling", "schedulers", "ops", "video"}
    | {"hub", "download", "checksum", "device", "overlap", "tensor_files", "memory", "ladder", "parking", "scenes"}
    | {"journal", "sinks", "reports"},
    {"toolbox"},
    {"models"},
    {"pipelines"},
    {"engine", "plan", "jobs", "batch"},
    {"ui", "run", "webui"},
]
FILES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("toolbox/**/*.py"), ROOT / "run.py", *ROOT.glob("webui.py")])


def place(module: str) -> str:
    """The part of the house a module belongs to: src.ops.attention -> ops."""
    parts = module.split(".")
    return parts[1] if parts[0] == "src" and len(parts) > 1 else parts[0]


def floor(part: str) -> int:
    return next(level for level, parts in enumerate(FLOORS) if part in parts)


def imports(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it (names used for typing too)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module in ("src", "src.video", "toolbox"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name for name in names if name.split(".")[0] in ("src", "toolbox", "run", "webui")}
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nobody_imports_upwards(path):
    if path == ROOT / "src" / "__init__.py":
        return  # the front door names everything, lazily
    own = floor(place(module_name(path)))
    for name in imports(path):
        assert floor(place(name)) <= own, f"{path} imports {name} from a floor above"


def test_toolbox_knows_only_video_weights_and_errors():
    for path in ROOT.glob("toolbox/**/*.py"):
        for name in imports(path):
            assert place(name) in {"video", "hub", "tensor_files", "errors", "toolbox"}, f"{path} imports {name}"


def test_no_two_files_import_each_other():
    graph = {module_name(p): imports(p) for p in FILES}
    known = set(graph)

    def targets(name):
        for target in graph[name]:
            while target and target not in known:
                target = target.rpartition(".")[0]
            if target and target != name and not name.startswith(f"{target}."):
                yield target

    def visit(name, trail):
        assert name not in trail, f"a cycle: {' -> '.join([*trail, name])}"
        if name not in done:
            for target in targets(name):
                visit(target, [*trail, name])
            done.add(name)

    done: set[str] = set()
    for name in graph:
        if name != "src":
            visit(name, [])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 350


def test_importing_and_helping_loads_nothing_heavy():
    code = (
        "import sys; import src, run; from src import Options; run.make_parser().format_help();"
        "heavy = {'torch', 'numpy', 'gradio', 'imageio', 'huggingface_hub'} & set(sys.modules);"
        "print(heavy); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_public_surface():
    import src

    assert src.__all__ == [
        "FlashVSRError",
        "FlashVSRFullPipeline",
        "FlashVSRTinyLongPipeline",
        "FlashVSRTinyPipeline",
        "FlowMatchScheduler",
        "JobPlan",
        "ModelManager",
        "Options",
        "Result",
        "__version__",
        "discard_job",
        "plan_job",
        "upscale",
        "upscale_file",
    ]
    for name in src.__all__:
        assert getattr(src, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        src.nonsense  # noqa: B018


def test_every_error_is_of_one_tree_and_drawn():
    from src import errors

    classes = [v for v in vars(errors).values() if isinstance(v, type)]
    for cls in classes:
        assert issubclass(cls, errors.FlashVSRError)
        assert cls.__name__ in errors.__doc__
