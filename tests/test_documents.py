"""README and docs are true: commands and examples run, names and links lead somewhere, tables equal the code.

Code blocks are taken by their language, in the order of the page, in a folder of the page's own:

* ``sh``: lines that begin with ct-etl, make or python are run; what else stands in such a block is in `NOT_RUN`.
* ``python``: run as a script. With PyTorch, the README's is run by `test_the_readmes_training_runs_and_is_short`;
  those of docs/training.md are parts of one, whose names are looked up here.
* ``toml``: checked as a preset, and written under the name in its first line.
* ``diff``: applied to the copy of the code that the blocks behind it run with.
* ``json``: parsed. ``text``: for people.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from pages import ROOT, Fence, Page, apply_diff, in_backticks, pages
from test_layers import LAYERS

from etl.cli import main
from etl.codes import ExclusionCode, FailureCode, LabelCode, VerdictCode, WarningCode
from etl.config import build_config, load_preset
from etl.phantom.cohort import write_cohort
from etl.transfer_syntaxes import TRANSFER_SYNTAXES

if TYPE_CHECKING:
    # Every folder of tests has a module of this name.
    from conftest import CohortRun

PAGES = {page.name: page for page in pages()}
LANGUAGES = {"sh", "python", "toml", "diff", "json", "text"}
RUN = ("ct-etl", "make", "python")
# By the beginning of the line.
NOT_RUN = {
    "deploy/start-scheduler.sh": "run by test_a_cluster_of_one_machine_starts_as_the_page_says",
    "deploy/start-workers.sh": "run by test_a_cluster_of_one_machine_starts_as_the_page_says",
    "HOST=": "needs several hosts",
    "make etl SCHEDULER=tls://": "needs several hosts",
    "deploy/make-certificates.sh": "writes into the home folder",
    "export TLS_DIR=": "belongs to a command that needs several hosts",
    ". deploy/environment.sh": "changes the shell alone",
    ".venv/bin/python -c": "needs several hosts",
    ".venv/bin/pip install": "changes the environment",
    "ssh ": "needs several hosts",
    "sudo ": "changes the machine",
    "journalctl ": "needs systemd",
    "sbatch ": "needs SLURM: run by test_a_job_writes_the_bytes_of_a_local_run_and_leaves_nothing",
    "docker ": "needs a daemon",
    "kubectl ": "needs a cluster",
}
SCHEDULER = "tcp://127.0.0.1:8786"
"""Commands that submit to it are run by test_a_cluster_of_one_machine_starts_as_the_page_says."""
# What a command is replaced by here, where it would take long or go back into this test.
INSTEAD = {
    "ct-etl view": "ct-etl view --help",  # it serves until it is stopped; tests/view runs it
    "make test": "make --dry-run test",
    "make lint": "make --dry-run lint",
    "python tests/fuzz.py": "python tests/fuzz.py --help",
    "python tests/kills.py": "python tests/kills.py --help",
    "python tests/sequences.py": "python tests/sequences.py --help",
}
PLACES = {"/data/": "data/", "/shared/": "data/"}
"""Where the pages' absolute paths lie in the folder of a page."""
ELSEWHERE = {
    "https://zarr.dev": "Zarr",
    "https://headctstudy.qure.ai/dataset": "CQ500",
    "https://ngff.openmicroscopy.org": "OME-Zarr",
    "https://github.com/google/neuroglancer": "Neuroglancer",
    "http://127.0.0.1:8787/status": "Dask's dashboard",
}
"""Links that leave the repository: looked at by hand, not by a test, which must not need the network."""
COMMANDS = {name: main.get_command(click.Context(main), name) for name in main.list_commands(click.Context(main))}
OTHER_OPTIONS = {
    *("--help", "--version"),
    *("--check", "--strict"),  # ruff, mypy
    *("--inputs", "--kills", "--points", "--rounds", "--runs"),  # scripts in tests/
    *("--resources", "--worker-port", "--nanny-port", "--now"),  # dask worker, systemctl
    "--create",  # python -m tarfile
    *("--nodes", "--cpus-per-task", "--mem-per-cpu", "--time", "--account", "--partition"),  # sbatch
    *("--death-timeout", "--lifetime", "--lifetime-stagger", "--scheduler-file"),  # dask worker, dask scheduler
    *("--from-file", "--follow", "--replicas"),  # kubectl
}
NOT_FILES = {
    "zarr.json",
    "report.html",
    "run.json",
    "ledger.jsonl",
    "tracebacks.txt",
    "my.toml",
    "thick.toml",
    "submit.py",
    "labels.jsonl",
    "reads.csv",
    "TABLE.csv",
    "dataset.json",
    "ct_etl_values.json",
}
"""File names of stores, runs and examples, and not of the repository."""
OTHER_NAMES = {
    *("json", "numpy", "numcodecs", "zarr", "pydicom.dcmread", "scipy.ndimage.zoom", "flock", "signal.alarm"),
    *("concurrent.futures", "sharding_indexed", "bitshuffle", "scale_factor"),
    *("tmp_path", "image_position_patient"),
    *(
        "SLURMCluster",
        "PBSCluster",
        "LSFCluster",
        "SGECluster",
        "memory",
        "walltime",
        "resource_spec",
        "ncpus",
        "mem",
    ),
    *("job_extra_directives", "security"),
}
"""Names of other libraries, and of tests."""
NAMES_OF_TORCH = {"Conv3d", "ReLU", "Adam", "AdaptiveMaxPool3d", "DataLoader", "Flatten", "Linear", "Sequential"}
TOP_FOLDERS = "etl|tests|bench|docs|deploy|constraints|\\.ci|\\.github"


@cache
def defined_in(path: Path) -> frozenset[str]:
    """Names that a module defines: functions, classes, constants, and attributes as ``Class.name``."""
    found: set[str] = set()

    def collect(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
                else:
                    arguments = node.args.args + node.args.kwonlyargs
                    found.update(argument.arg for argument in arguments)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (t.id for t in targets if isinstance(t, ast.Name)):
                    found.update({name, prefix + name})

    collect(ast.parse(path.read_text("utf-8")).body, "")
    return frozenset(found)


@cache
def defined_anywhere() -> frozenset[str]:
    return frozenset().union(*(defined_in(path) for path in (ROOT / "etl").rglob("*.py")))


@cache
def words_of_the_code() -> frozenset[str]:
    sources = [
        *(ROOT / "etl").rglob("*.*"),
        *(ROOT / "tests").rglob("*.py"),
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
    ]
    texts = (path.read_text("utf-8") for path in sources if path.suffix not in {".pyc", ".so"})
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


@cache
def names_of_tests() -> frozenset[str]:
    texts = (path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    return frozenset(name for text in texts for name in re.findall(r"def (test_\w+)", text))


@cache
def targets() -> frozenset[str]:
    return frozenset(re.findall(r"(?m)^([\w-]+):(?!=)", (ROOT / "Makefile").read_text("utf-8")))


def commands(fence: Fence) -> Iterator[str]:
    """Lines of a shell block, without comments; those that go on are joined."""
    joined = re.sub(r"\\\n\s*", "", fence.text)
    # A quote may go over several lines.
    open_quote = ""
    for line in joined.splitlines():
        open_quote += line + "\n"
        if open_quote.count("'") % 2 == 0:
            command = re.sub(r"(^|\s)# .*$", "", open_quote.rstrip(), flags=re.MULTILINE).strip()
            open_quote = ""
            if command:
                yield command


# --- what stands in the prose ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name):
    page = PAGES[name]
    links = re.findall(r"\]\(([^)\s]+)\)|<(https?://[^>]+)>", page.prose)
    for link in (inline or bare for inline, bare in links):
        if "://" in link:
            assert link in ELSEWHERE, link
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in Page(target.relative_to(ROOT).as_posix()).headings, link


def test_no_link_that_leaves_is_listed_in_vain():
    text = "".join(page.text for page in PAGES.values())
    assert [link for link in ELSEWHERE if link not in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_file_and_test_that_a_page_names_exists(name):
    for word in in_backticks(PAGES[name].prose):
        if re.fullmatch(r"test_\w+", word):
            assert word in names_of_tests(), word
        elif re.fullmatch(rf"({TOP_FOLDERS})/[\w./-]*", word):
            assert (ROOT / word).exists(), word
        elif (
            re.fullmatch(r"[\w.-]+\.(py|md|toml|sh|yaml|yml|json|jsonl|html|txt)", word) and word not in NOT_FILES
        ):
            assert (ROOT / word).exists() or (PAGES[name].path.parent / word).exists(), word


@pytest.mark.parametrize("name", PAGES)
def test_every_name_of_code_on_a_page_is_in_the_code(name):
    """Where the paragraph or row names a module, the name is defined there."""
    for block in PAGES[name].blocks:
        words = in_backticks(block)
        modules = [ROOT / word for word in words if re.fullmatch(r"etl/[\w/]+\.py", word)]
        for word in words:
            if not re.fullmatch(r"[A-Za-z_]\w+(\.[A-Za-z_]\w*)*", word) or word in OTHER_NAMES | NOT_FILES:
                continue
            if modules and not word.startswith("test_"):
                assert any(word in defined_in(module) for module in modules), f"{word} in: {block}"
            elif "." in word:
                is_key = all(part in words_of_the_code() for part in word.split("."))
                assert word in defined_anywhere() or is_key, f"{word} in: {block}"
            else:
                assert word in words_of_the_code(), f"{word} in: {block}"


@pytest.mark.parametrize("name", PAGES)
def test_every_option_and_target_that_a_page_names_exists(name):
    added = re.findall(r'(?m)^\+    "(\w+)": "etl\.commands\.', PAGES[name].text)
    options = {
        form
        for command in COMMANDS.values()
        for option in command.params
        for form in (*option.opts, *option.secondary_opts)
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGES[name].text)) <= options | OTHER_OPTIONS
    for text in (*in_backticks(PAGES[name].prose), *(c for f in PAGES[name].fences for c in commands(f))):
        first, *rest = text.split(maxsplit=2)
        if first == "make" and rest and "=" not in rest[0]:
            assert rest[0] in targets(), text
        elif first == "ct-etl" and rest and not rest[0].startswith("-"):
            assert rest[0] in {*COMMANDS, *added}, text
        elif first == "python" and rest and not rest[0].startswith("-"):
            assert (ROOT / rest[0]).is_file(), text


# --- tables that repeat what the code says ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "codes"), [("Warnings", WarningCode), ("Failures", FailureCode), ("Exclusions", ExclusionCode)]
)
def test_the_tables_of_codes_are_those_of_the_code(heading, codes):
    assert PAGES["docs/dicom.md"].table(heading) == [[f"`{code}`", code.words] for code in codes]


def test_the_table_of_codes_of_labels_is_that_of_the_code():
    assert PAGES["docs/labels.md"].table("Codes") == [[f"`{code}`", code.words] for code in LabelCode]


def test_the_table_of_verdicts_is_that_of_the_code():
    rows = [[f"`{code}`", str(number), code.words] for number, code in enumerate(VerdictCode, start=1)]
    assert PAGES["docs/view.md"].table("Verdicts") == rows


def test_the_table_of_transfer_syntaxes_is_that_of_the_code():
    rows = [[f"`{s.uid}`", s.name, s.decoder, "yes" if s.is_lossy else "no"] for s in TRANSFER_SYNTAXES.values()]
    assert PAGES["docs/dicom.md"].table("Transfer syntaxes") == rows


def test_the_table_of_layers_is_that_of_the_code():
    rows = [set(in_backticks(row[1])) for row in PAGES["docs/architecture.md"].table("Layers")]
    assert rows == [set(layer) for layer in LAYERS]


def test_the_readme_ends_before_a_newcomer_is_tired():
    assert len(PAGES["README.md"].text.splitlines()) <= 130


def test_the_workflow_calls_what_has_to_hold_with_every_python_that_is_pinned():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    pins = {f"py{version.replace('.', '')}.txt" for version in job["strategy"]["matrix"]["python"]}
    assert pins == {path.name for path in (ROOT / "constraints").glob("py*.txt")}


# --- code blocks -----------------------------------------------------------------------------------------


class Workspace:
    """A copy of the checkout with an environment that `make` takes for complete, a small cohort, and data."""

    def __init__(self, folder: Path, dicom: Path, store: Path) -> None:
        self.folder, self._store = folder, store
        for part in ("etl", "tests", "bench", "docs", "deploy", "constraints"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("Makefile", "pyproject.toml", *(path.name for path in ROOT.glob("*.md"))):
            shutil.copy(ROOT / part, folder / part)
        shutil.copytree(dicom, folder / "demo/dicom")
        for name in ("data/CQ500", "data/scans"):
            shutil.copytree(dicom, folder / name)
        shutil.make_archive(str(folder / "data/more"), "zip", dicom)
        self._make_environment(folder / ".venv")

    def _make_environment(self, environment: Path) -> None:
        (environment / "bin").mkdir(parents=True)
        # A link would find the packages of another environment: Python looks beside the name it was called by.
        programs = {
            "python": shlex.quote(sys.executable),
            "ct-etl": f"{shlex.quote(sys.executable)} -m etl",
        }
        for name, command in programs.items():
            (environment / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (environment / "bin" / name).chmod(0o755)
        (environment / "pyvenv.cfg").touch()
        version = "{}.{}.{}".format(*sys.version_info)
        identity = f"{sys.implementation.name} {version} in {self.folder}\n"
        (environment / ".identity").write_text(identity)
        for extra in ("run", "test", "lint"):
            (environment / f".ready-{extra}").touch()

    @property
    def environment(self) -> dict[str, str]:
        """That of commands."""
        path = f"{self.folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
        # The copy of the code comes first, whatever else is to be found.
        found_in = os.pathsep.join(filter(None, (str(self.folder), os.environ.get("PYTHONPATH"))))
        given = {"PATH": path, "PYTHON": sys.executable, "PYTHONPATH": found_in, "ARGS": "--workers 0"}
        return {**os.environ, **given}

    def run(self, command: list[str], *, expected: int = 0) -> str:
        """Run a command; give what it wrote."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == expected, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def sh(self, command: str) -> None:
        for place, here in PLACES.items():
            command = command.replace(place, f"{self.folder / here}/")
        self.run(["sh", "-c", command])

    def python(self, fence: Fence) -> None:
        if not (self.folder / "demo/store.zarr").exists():
            shutil.copytree(self._store, self.folder / "demo/store.zarr")
        self.run([sys.executable, "-c", fence.text])

    def toml(self, fence: Fence) -> None:
        name = fence.text.splitlines()[0].removeprefix("# ")
        (self.folder / name).write_text(fence.text)
        preset = load_preset(str(self.folder / name))
        build_config(preset, {})

    def diff(self, fence: Fence) -> None:
        apply_diff(fence.text, self.folder)


@pytest.fixture(scope="module")
def one_patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first patient of the demo, in few and small slices."""
    folder = tmp_path_factory.mktemp("one-patient") / "dicom"
    write_cohort(folder, patients=1, rows=64, thin_slices=14)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, one_patient: Path, cohort_run: CohortRun) -> Workspace:
    return Workspace(tmp_path / "checkout", one_patient, cohort_run.store)


def needs_batch_system(fence: Fence) -> bool:
    """Run by test_the_page_on_dask_jobqueue_is_true."""
    return fence.language == "python" and "dask_jobqueue" in fence.text


def needs_torch(fence: Fence) -> bool:
    return fence.language == "python" and "torch" in fence.text


def replaced(command: str) -> str:
    """What is run for a command of a page, in one process: to start workers takes longer than the work here."""
    if command.startswith("ct-etl run") and "--workers" not in command:
        return f"{command} --workers 0"
    return next((other for start, other in INSTEAD.items() if command.startswith(start)), command)


def is_run(fence: Fence) -> bool:
    return fence.language in LANGUAGES - {"text", "json"}


@pytest.mark.parametrize("name", PAGES)
def test_every_code_block_says_its_language_so_that_it_can_be_checked(name):
    for fence in PAGES[name].fences:
        assert fence.language in LANGUAGES, f"{name}:{fence.line}"
        if fence.language == "json":
            json.loads(fence.text)
        if needs_torch(fence):
            used = {word for word in re.findall(r"\w+", fence.text) if word.isidentifier() and len(word) > 2}
            ast.parse(fence.text)
            assert {word for word in used if word[0].isupper()} <= words_of_the_code() | NAMES_OF_TORCH


# Its networks need all that came before on the page: tests/training/test_cq500.py runs it from its first line.
ONE_STORY = "docs/cq500.md"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, page in PAGES.items() if any(map(is_run, page.fences)) and name != ONE_STORY]
)
def test_the_code_blocks_of_a_page_work(name, workspace):
    for fence in filter(is_run, PAGES[name].fences):
        try:
            run_block(fence, workspace)
        except (AssertionError, ValueError, SyntaxError) as error:
            raise AssertionError(f"{name}:{fence.line}: {error}") from error


def run_block(fence: Fence, workspace: Workspace) -> None:
    if fence.language == "sh":
        for command in commands(fence):
            if command.startswith(tuple(NOT_RUN)) or SCHEDULER in command:
                continue
            assert command.startswith(RUN), f"neither run nor in NOT_RUN: {command}"
            workspace.sh(replaced(command))
    elif fence.language == "python" and not needs_torch(fence) and not needs_batch_system(fence):
        workspace.python(fence)
    elif fence.language in {"toml", "diff"}:
        getattr(workspace, fence.language)(fence)


def test_make_writes_the_status_that_it_cannot_end_with(workspace):
    # Its volumes would be larger.
    command = ["make", "etl", "STATUS=status.txt", "STORE=s.zarr", "INPUT=demo/dicom"]
    workspace.run([*command, "ARGS=--workers 0 --spacing-mm 0.5 --max-volume-mb 1"], expected=2)
    assert (workspace.folder / "status.txt").read_text() == "3\n"
    workspace.run([*command, "ARGS=--workers 0 --spacing-mm 6", "STORE=t.zarr"])
    assert (workspace.folder / "status.txt").read_text() == "0\n"


def test_make_writes_the_status_of_a_run_that_ctrl_c_stopped(workspace):
    """Ctrl-C reaches the whole group: make, its shell and the run."""
    options = "--workers 0 --spacing-mm 0.3"
    command = ["make", "etl", "STATUS=stopped.txt", "STORE=u.zarr", "INPUT=demo/dicom", f"ARGS={options}"]
    process = subprocess.Popen(
        command, cwd=workspace.folder, env=workspace.environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (workspace.folder / "u.zarr.runs").exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert (workspace.folder / "stopped.txt").read_text() == "130\n", said
    assert "Traceback" not in said


def test_nothing_is_left_out_in_vain():
    lines = [c for page in PAGES.values() for f in page.fences if f.language == "sh" for c in commands(f)]
    for start in (*NOT_RUN, *INSTEAD):
        assert any(line.startswith(start) for line in lines), start


@pytest.fixture
def cluster(workspace: Workspace) -> Iterator[tuple[Workspace, str]]:
    """Scheduler and workers, started as `deploy/README.md` starts them on one machine, on a free port."""
    block = next(f for f in PAGES["deploy/README.md"].fences if "deploy/start-scheduler.sh\n" in f.text)
    start_scheduler, start_workers, _ = commands(block)
    file = workspace.folder / "scheduler.json"
    options = f"--no-jupyter --scheduler-file {file}"
    environment = {**os.environ, "PORT": "0", "DASHBOARD_PORT": "0", "WORKERS": "1"}
    environment["PYTHONPATH"] = str(workspace.folder)
    started = []

    def start(command: str) -> None:
        with (workspace.folder / "dask.log").open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], cwd=workspace.folder, env=environment, stdout=log, stderr=log
            )
            started.append(process)

    try:
        start(f"{start_scheduler} {options}")
        address = wait_for(lambda: json.loads(file.read_text())["address"], workspace.folder / "dask.log")
        start(f"{start_workers} {address}")
        yield workspace, address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


def wait_for(ask: Callable[[], str], log: Path) -> str:
    for _ in range(300):
        try:
            return ask()
        except (OSError, ValueError):
            subprocess.run(["sleep", "0.2"], check=True)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_a_cluster_of_one_machine_starts_as_the_page_says(cluster):
    workspace, address = cluster
    lines = {
        command
        for page in PAGES.values()
        for fence in page.fences
        if fence.language == "sh"
        for command in commands(fence)
        if command.startswith(RUN) and SCHEDULER in command
    }
    assert len(lines) >= 2
    for command in sorted(lines):
        workspace.sh(command.replace(SCHEDULER, address))
