"""create_env.sh, offline: stand-ins for conda, uv and Python write down how they were called."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
BASH = shutil.which("bash")
SYSTEM = "basename cat chmod cksum cp dirname flock grep ls mkdir mv perl pwd rm sed sleep tr true".split()

STAND_IN = f"""#!{BASH}
name=${{0##*/}}
echo "$name $*" >>"$CALLS"
make() {{ mkdir -p "$1/bin" && cp "$0" "$1/bin/python" && cp "$0" "$1/bin/show"; }}
case "$name $*" in
    *\\ --version) echo "$name 1.0" ;;
    show*) printf '%s\\n' "$PWD" "$@" ;;
    *"sys.version_info"*) eval "echo \\"\\${{VERSION_${{name/./_}}:-3.12}}\\"" ;;
    *"pip install"*) echo "much ado"; eval "${{DURING_INSTALL:-}}" ;;
    *"create --yes --prefix "*) make "$4" && mkdir "$4/conda-meta" ;;
    *venv*) make "${{!#}}" ;;
esac
"""


class Machine:
    """A project folder, a PATH with nothing but the named stand-ins, and the calls that they saw."""

    def __init__(self, folder: Path, tools: str):
        self.project, self.bin, self.log = folder / "the project", folder / "bin", folder / "calls"
        self.project.mkdir()
        self.bin.mkdir()
        self.script = self.project / "create_env.sh"
        self.env = self.project / ".venv"
        for name in "create_env.sh", "pyproject.toml", "constraints.txt":
            shutil.copy(ROOT / name, self.project)
        for name in SYSTEM:
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)
        for name in tools.split():
            self.add(name)

    def add(self, name: str):
        (self.bin / name).write_text(STAND_IN)
        (self.bin / name).chmod(0o755)

    def start(self, *command: str, cwd: Path | None = None, **variables: str) -> subprocess.Popen:
        environ = {"PATH": str(self.bin), "HOME": str(self.project), "CALLS": str(self.log), **variables}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [BASH, str(self.script), *command],
            **dict(cwd=cwd or self.project, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True),
            start_new_session=True,
        )

    def run(self, *command: str, **options) -> subprocess.CompletedProcess:
        process = self.start(*command, **options)
        out, err = process.communicate("typed by the user\n", timeout=30)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def calls(self, text: str = "") -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if text in line]


@pytest.fixture
def machine(tmp_path):
    return lambda tools="uv python3": Machine(tmp_path, tools)


def wait_for(path: Path):
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.parametrize(
    "tools, maker, installer",
    [
        ("conda mamba micromamba uv python3", "conda create --yes --prefix", "python -I -m pip install"),
        ("mamba micromamba uv python3", "mamba create --yes --prefix", "python -I -m pip install"),
        ("micromamba uv python3", "micromamba create --yes --prefix", "python -I -m pip install"),
        ("uv python3", "uv venv --seed --python", "uv pip install --python"),
        ("python3", "python3 -m venv", "python -I -m pip install"),
    ],
)
def test_order_of_tools(machine, tools, maker, installer):
    here = machine(tools)
    assert here.run("true").returncode == 0
    made = [call for call in here.calls() if "create" in call or "venv " in call and "pip" not in call]
    assert len(made) == 1 and made[0].startswith(maker) and str(here.env) in made[0]
    (installed,) = here.calls("pip install")
    assert installed.startswith(installer)
    assert installed.endswith("--constraint constraints.txt --editable .[test]")


def test_tool_that_does_not_run_is_passed_over(machine):
    here = machine("conda python3")
    (here.bin / "conda").write_text(f"#!{BASH}\nexit 127\n")  # as a version manager's left-over shim
    assert here.run("true").returncode == 0
    assert here.calls("python3 -m venv")


@pytest.mark.parametrize("tool", ["conda", "uv", "venv"])
def test_tool_can_be_chosen(machine, tool):
    here = machine("conda uv python3")
    assert here.run("true", LENS_ENV_TOOL=tool).returncode == 0
    assert here.calls({"conda": "conda create", "uv": "uv venv", "venv": "python3 -m venv"}[tool])
    installs = len(here.calls("pip install"))
    assert here.run("true").returncode == 0  # no wish: what is there will do
    assert len(here.calls("pip install")) == installs


def test_command_is_untouched(machine, tmp_path):
    here = machine()
    elsewhere = tmp_path / "some where"
    elsewhere.mkdir()
    arguments = ["a b", "", "$HOME *", "--help", 'quo"te']
    done = here.run("show", *arguments, cwd=elsewhere)
    assert done.stdout.splitlines() == [str(elsewhere), *arguments]  # and nothing of the installation
    assert here.run("cat").stdout == "typed by the user\n"
    assert here.run(BASH, "-c", "exit 37").returncode == 37
    assert here.run("no-such-command").returncode == 127


def test_first_call_leaves_the_input_to_the_command(machine):
    assert machine().run("cat", DURING_INSTALL="cat >/dev/null").stdout == "typed by the user\n"


def test_signal_reaches_the_command(machine, tmp_path):
    here = machine()
    wait = 'trap "exit 41" TERM; : >"$0"; while :; do sleep 0.02; done'
    process = here.start(BASH, "-c", wait, str(tmp_path / "up"))
    wait_for(tmp_path / "up")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 41


def test_second_call_installs_nothing(machine):
    here = machine()
    here.run("true")
    before = here.calls()
    here.add("conda")  # a tool that comes later changes nothing
    assert here.run("true").returncode == 0
    assert here.calls() == before


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_change_makes_the_environment_anew(machine, name):
    here = machine()
    here.run("true")
    (here.env / "left-over").touch()
    with open(here.project / name, "a") as file:
        file.write("# changed\n")
    assert here.run("true").returncode == 0
    assert len(here.calls("pip install")) == 2 and not (here.env / "left-over").exists()


def test_moved_project_makes_the_environment_anew(machine, tmp_path):
    here = machine()
    here.run("true")
    here.project = here.project.rename(tmp_path / "moved")
    here.script, here.env = here.project / "create_env.sh", here.project / ".venv"
    assert here.run("true").returncode == 0
    assert len(here.calls("pip install")) == 2


def test_failed_installation_heals(machine):
    here = machine()
    failed = here.run("show", DURING_INSTALL="exit 5")
    assert failed.returncode != 0 and failed.stdout == ""
    assert "the next call starts it anew" in failed.stderr.splitlines()[-1]
    assert here.run("show").returncode == 0


def test_killed_installation_heals(machine, tmp_path):
    here = machine()
    process = here.start("show", DURING_INSTALL=f": >{shlex.quote(str(tmp_path / 'up'))}; sleep 60")
    wait_for(tmp_path / "up")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert here.run("show").returncode == 0
    assert len(here.calls("pip install")) == 2


@pytest.mark.parametrize("damage", ["stamp", "python", "half-made"])
def test_damaged_environment_heals(machine, damage):
    here = machine()
    if damage == "half-made":  # another hand's, and without pip
        (here.env / "bin").mkdir(parents=True)
        (here.env / "bin" / "python").symlink_to(here.bin / "python3")
    else:
        here.run("true")
        (here.env / {"stamp": ".made-by-create_env", "python": "bin/python"}[damage]).unlink()
    installs = len(here.calls("pip install"))
    assert here.run("show").returncode == 0
    assert len(here.calls("pip install")) == installs + 1
    assert here.run("show").returncode == 0
    assert len(here.calls("pip install")) == installs + 1


@pytest.mark.parametrize("without_flock", [False, True])
def test_two_calls_at_once_install_once(machine, without_flock):
    here = machine()
    if without_flock:
        if not shutil.which("perl"):
            pytest.skip("needs perl, which locks where there is no flock command")
        (here.bin / "flock").unlink(missing_ok=True)
    processes = [here.start("show", str(i), DURING_INSTALL="sleep 0.4") for i in range(3)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len(here.calls("pip install")) == 1


def test_unsupported_python_is_one_line(machine):
    here = machine("python3 python")
    done = here.run("true", VERSION_python3="3.9", VERSION_python="2.7")
    assert done.returncode != 0 and done.stdout == "" and not here.env.exists()
    (line,) = done.stderr.splitlines()
    assert "3.10 to 3.13" in line and "3.9" in line


def test_no_python_at_all(machine):
    done = machine("").run("true")
    (line,) = done.stderr.splitlines()
    assert done.returncode != 0 and "3.10 to 3.13" in line and "none" in line


def test_uv_may_fetch_a_python(machine):
    here = machine("uv python3")
    done = here.run("true", VERSION_python3="3.9")
    assert done.returncode == 0 and here.calls("uv venv --seed --python 3.12 ")
    assert "found 3.9: uv fetches 3.12" in done.stderr


def test_supported_python_is_looked_for(machine):
    here = machine("python3 python3.11")
    assert here.run("true", VERSION_python3="3.14", VERSION_python3_11="3.11").returncode == 0
    assert here.calls("python3.11 -m venv") and not here.calls("python3 -m venv")


def test_chosen_python(machine):
    here = machine("python3 python3.10")
    chosen = dict(LENS_PYTHON="3.10", VERSION_python3_10="3.10", VERSION_python="3.10")
    assert here.run("true", **chosen).returncode == 0
    assert here.run("true", **chosen).returncode == 0
    assert len(here.calls("-m venv")) == 1 and here.calls("python3.10 -m venv")


@pytest.mark.parametrize("wish", [{"LENS_PYTHON": "3.9"}, {"LENS_ENV_TOOL": "pipenv"}, {"LENS_ENV_TOOL": "conda"}])
def test_impossible_wish_is_one_line(machine, wish):
    here = machine()
    done = here.run("true", **wish)
    (line,) = done.stderr.splitlines()
    (name, value) = wish.popitem()
    assert done.returncode != 0 and f"{name}={value}" in line and not here.env.exists()


def test_no_command_prints_the_activation_line(machine):
    here = machine("conda python3")
    venv, conda = here.run(LENS_ENV_TOOL="venv"), here.run(LENS_ENV_TOOL="conda")
    assert shlex.split(venv.stdout) == ["source", f"{here.env}/bin/activate"]
    assert shlex.split(conda.stdout) == ["conda", "activate", str(here.env)]


def test_environment_elsewhere(machine, tmp_path):
    here = machine()
    done = here.run("show", cwd=tmp_path, LENS_ENV_DIR="else where/env/")  # relative to the caller's folder
    assert done.returncode == 0 and (tmp_path / "else where/env/bin/python").exists() and not here.env.exists()
    (tmp_path / "else where/env/.made-by-create_env").unlink()
    assert here.run("show", LENS_ENV_DIR=str(tmp_path / "else where/env")).returncode == 0


def test_foreign_folder_is_left_alone(machine, tmp_path):
    here = machine()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    done = here.run("true", LENS_ENV_DIR=str(tmp_path / "mine"))
    (line,) = done.stderr.splitlines()
    assert done.returncode != 0 and "holds something else" in line
    assert (tmp_path / "mine" / "thesis.tex").exists() and not here.calls("pip install")


@pytest.fixture
def clones(machine, tmp_path):
    """Two clones, and the variables that put the environment of either into one folder."""
    first = machine()
    second = tmp_path / "second"
    shutil.copytree(first.project, second)

    def run_second(*command: str, **variables: str) -> subprocess.CompletedProcess:
        there = Machine.__new__(Machine)
        there.__dict__.update(first.__dict__, project=second, script=second / "create_env.sh")
        return there.run(*command, **variables)

    return first, run_second, {"LENS_ENV_DIR": str(tmp_path / "shared env")}


def test_environment_of_another_clone_is_left_alone(clones):
    first, run_second, folder = clones
    assert first.run("true", **folder).returncode == 0
    (Path(folder["LENS_ENV_DIR"]) / "installed").touch()
    done = run_second("true", **folder)
    (line,) = done.stderr.splitlines()
    assert done.returncode != 0 and f"belongs to the clone {first.project}" in line and "LENS_ENV_FORCE=1" in line
    assert (Path(folder["LENS_ENV_DIR"]) / "installed").exists() and len(first.calls("pip install")) == 1
    assert first.run("true", **folder).returncode == 0 and len(first.calls("pip install")) == 1


def test_owner_is_read_from_pip_where_it_was_not_written_down(clones):
    first, run_second, folder = clones
    first.run("true", **folder)
    env = Path(folder["LENS_ENV_DIR"])
    (env / ".clone").unlink()
    info = env / "lib/python3.12/site-packages/darklens-0.2.0.dist-info"
    info.mkdir(parents=True)
    (info / "direct_url.json").write_text(f'{{"dir_info": {{"editable": true}}, "url": "file://{first.project}"}}')
    assert "belongs to the clone" in run_second("true", **folder).stderr


def test_environment_can_be_taken_over(clones):
    first, run_second, folder = clones
    first.run("true", **folder)
    assert run_second("true", **folder, LENS_ENV_FORCE="1").returncode == 0
    assert "belongs to the clone" in first.run("true", **folder).stderr


def test_environment_of_a_clone_that_is_gone_is_made_anew(clones):
    first, run_second, folder = clones
    first.run("true", **folder)
    shutil.rmtree(first.project)
    first.project = first.project.parent  # a home folder and working folder for the second
    assert run_second("true", **folder).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("force", [{}, {"LENS_ENV_FORCE": "1"}])
def test_environment_in_use_is_never_deleted(machine, force):
    here = machine()
    here.run("true")
    program = here.env / "bin" / "long"
    shutil.copy(BASH, program)
    with subprocess.Popen([program, "-c", "read -r line"], stdin=subprocess.PIPE) as process:
        (here.project / "constraints.txt").write_text("# changed")
        done = here.run("true", **force)
        (line,) = done.stderr.splitlines()
        assert done.returncode != 0 and f"in use by process {process.pid}" in line and program.exists()
        process.communicate(b"\n")
    assert here.run("true").returncode == 0 and not program.exists()


def test_active_environment_of_the_user_is_left_alone(machine, tmp_path):
    here = machine()
    foreign = dict(VIRTUAL_ENV="/theirs", PYTHONHOME="/theirs", CONDA_PREFIX="/theirs", PIP_TARGET="/theirs")
    seen = tmp_path / "seen"
    install = f"echo ${{VIRTUAL_ENV-}}${{PYTHONHOME-}}${{PIP_TARGET-}} >{shlex.quote(str(seen))}"
    report = 'echo "$VIRTUAL_ENV ${PYTHONHOME-none} ${CONDA_PREFIX-none} ${PATH%%:*}"'
    done = here.run(BASH, "-c", report, DURING_INSTALL=install, **foreign)
    assert seen.read_text() == "\n"
    assert done.stdout == f"{here.env} none none {here.env}/bin\n"


def test_script_and_project_file_agree():
    project = (ROOT / "pyproject.toml").read_text()
    script = (ROOT / "create_env.sh").read_text()
    low, high = map(int, re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups())
    supported = re.search(r'^supported="([\d. ]+)"', script, re.M)[1].split()
    assert sorted(supported) == [f"3.{minor}" for minor in range(low, high)]


def test_every_requirement_is_pinned():
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0].split("[project]")[1]
    wanted = {name.lower() for name in re.findall(r'"([A-Za-z0-9-]+)[>=]=', project)}
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), re.M))
    assert len(wanted) >= 15 and wanted <= pinned


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_wheels_for_the_cpu_alone_satisfy_the_constraints(name):
    """An index with CPU wheels offers 2.15.0+cpu where the ordinary one has 2.15.0: a sixth of the size."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if re.match(f"{name}==", line)]
    pins = [Requirement(line).specifier for line in lines]
    versions = [re.search("==([^ ;]+)", line)[1] for line in lines]
    assert pins and all(pin.contains(f"{version}+cpu") for pin, version in zip(pins, versions, strict=True))
    project = re.search(rf'"({name}>=[^"]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert all(Requirement(project).specifier.contains(f"{version}+cpu") for version in versions)
