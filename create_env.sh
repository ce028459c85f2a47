#!/usr/bin/env bash
# Makes the project's Python environment on first use, then runs a command in it:
#
#   bash create_env.sh python main.py --demo      the program
#   bash create_env.sh pytest                     the tests
#   bash create_env.sh                            no command: prints the line that activates the environment
#
# The environment belongs to the folder of this file (.venv there), whatever folder it is called from. The
# command runs in the caller's folder, with its arguments, signals, input, output and exit status untouched.
#
# conda, mamba, micromamba, uv or Python's own venv makes it: the first that works here. pyproject.toml says
# what is installed, constraints.txt in which versions; a change in either makes the environment anew, and so
# does an installation that was interrupted. Later calls install nothing and need no network.
#
#   LENS_ENV_DIR=/scratch/lens-env     puts the environment elsewhere: one folder for each clone
#   LENS_ENV_FORCE=1                   takes that folder over from another clone, whose environment it was
#   LENS_ENV_TOOL=venv                 asks for one of conda, mamba, micromamba, uv, venv
#   LENS_PYTHON=3.12                   asks for one of the supported versions of Python
set -euo pipefail

supported="3.12 3.13 3.11 3.10" # as in pyproject.toml; conda and uv get the first where they may choose
tools="conda mamba micromamba uv venv"
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
env_dir=${LENS_ENV_DIR:-$root/.venv}
[[ $env_dir == /* ]] || env_dir=$PWD/$env_dir
env_dir=${env_dir%/}
stamp=$env_dir/.made-by-create_env # one line, written last: tool, Python version, fingerprint
owner_file=$env_dir/.clone          # one line, the folder of the clone that it belongs to

say() { echo "create_env.sh: $*" >&2; }
die() { say "$*" && exit 1; }

check_request() {
    [[ -z ${LENS_PYTHON:-} || " $supported " == *" $LENS_PYTHON "* ]] ||
        die "LENS_PYTHON=$LENS_PYTHON is not supported: choose one of $supported"
    [[ -z ${LENS_ENV_TOOL:-} || " $tools " == *" $LENS_ENV_TOOL "* ]] ||
        die "LENS_ENV_TOOL=$LENS_ENV_TOOL is unknown: choose one of $tools"
}

fingerprint() {
    { cat "$root/pyproject.toml" "$root/constraints.txt" && echo "$root $env_dir"; } | cksum | tr ' ' -
}

# Whether the environment is complete, up to date and what was asked for.
ready() {
    local tool version print
    [[ -x $env_dir/bin/python && -r $stamp ]] && read -r tool version print <"$stamp" || return 1
    [[ ${LENS_ENV_TOOL:-$tool} == "$tool" && ${LENS_PYTHON:-$version} == "$version" ]] || return 1
    [[ $print == "$(fingerprint)" ]]
}

choose_tool() {
    local tool
    for tool in ${LENS_ENV_TOOL:-$tools}; do
        if [[ $tool == venv ]] || "$tool" --version >/dev/null 2>&1; then echo "$tool" && return; fi
    done
    die "LENS_ENV_TOOL=$LENS_ENV_TOOL was asked for, but $LENS_ENV_TOOL does not run here"
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# A Python for uv or venv: the first on the PATH of a supported version, the default one before the others.
find_python() {
    local name
    for name in python3 python ${1//3./python3.}; do
        if [[ " $1 " == *" $(version_of "$name") "* ]]; then command -v "$name" && return; fi
    done
    return 1
}

# What to make the environment with: conda takes a version, uv takes one if there is no Python to find.
choose_python() {
    local wanted=${LENS_PYTHON:-$supported} message
    message="Python ${LENS_PYTHON:-3.10 to 3.13} is needed, found $(version_of python3 || echo none)"
    case $1 in
        uv) find_python "$wanted" || { say "$message: uv fetches ${wanted%% *}" && echo "${wanted%% *}"; } ;;
        venv) find_python "$wanted" || die "$message: install it, or uv, or conda" ;;
        *) echo "${wanted%% *}" ;;
    esac
}

# Nothing is deleted from a folder that this script did not make: the lock beside it tells.
check_ownership() {
    [[ -z ${LENS_ENV_DIR:-} || -z $(ls -A "$env_dir" 2>/dev/null) || -e $env_dir.lock ]] ||
        die "LENS_ENV_DIR=$env_dir holds something else: name a new or an empty folder"
}

# The clone that an environment was made for: as written down, or, before that was done, as pip installed it.
owner() {
    local url
    if [[ -r $owner_file ]]; then cat "$owner_file" && return; fi
    for url in "$env_dir"/lib/python*/site-packages/darklens-*.dist-info/direct_url.json; do
        if [[ -r $url ]]; then sed -n 's#.*"url": *"file://\([^"]*\)".*#\1#p' "$url"; fi
    done
}

check_owner() {
    local other
    other=$(owner)
    [[ -z $other || $other == "$root" || ! -e $other/create_env.sh || -n ${LENS_ENV_FORCE:-} ]] ||
        die "LENS_ENV_DIR=$env_dir belongs to the clone $other: name another folder, or set LENS_ENV_FORCE=1 to take it over"
}

# Processes that run a program of the environment or have loaded one of its libraries.
users() {
    if [[ -d /proc/self ]]; then
        grep -lsF " $env_dir/" /proc/[0-9]*/maps 2>/dev/null | sed 's#/proc/\([0-9]*\)/maps#\1#'
    else # macOS
        pgrep -f "$env_dir/bin/"
    fi || true
}

check_unused() {
    local pids
    pids=$(users | tr '\n' ' ')
    [[ -z $pids ]] || die "$env_dir must be made anew, but is in use by process ${pids% }: try again when it has ended"
}

# One installation at a time. The kernel keeps the lock while the script or an installer that it started lives.
lock() {
    exec 9>"$env_dir.lock"
    flock_9 now || { say "waiting for another create_env.sh" && flock_9; }
}

flock_9() {
    if command -v flock >/dev/null; then
        flock ${1:+-n} 9
    else # macOS
        perl -e 'open(my $lock, ">&=", 9); exit !flock($lock, @ARGV ? 2 | 4 : 2)' ${1:+now}
    fi
}

install() { "$@" --constraint constraints.txt --editable '.[test]'; }

make_environment() {
    local tool=$1 python=$2 env_python=$env_dir/bin/python
    case $tool in
        uv)
            uv venv --seed --python "$python" "$env_dir" && install uv pip install --python "$env_python"
            ;;
        venv)
            "$python" -m venv "$env_dir" || die "$python has no venv: install it (Debian: python3-venv), or uv, or conda"
            install "$env_python" -I -m pip install
            ;;
        *)
            "$tool" create --yes --prefix "$env_dir" --override-channels --channel conda-forge "python=$python" pip &&
                install "$env_python" -I -m pip install
            ;;
    esac
}

# Runs in the project's folder, and away from settings that would install somewhere else.
create() (
    cd "$root"
    unset PYTHONPATH PYTHONHOME VIRTUAL_ENV UV_SYSTEM_PYTHON PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
    tool=$(choose_tool)
    python=$(choose_python "$tool")
    check_ownership
    mkdir -p "$(dirname "$env_dir")"
    lock
    if ready; then return; fi # made by another call meanwhile
    check_owner
    check_unused
    say "making $env_dir with $tool: once, some minutes, about 6 GB"
    rm -rf "$env_dir"
    make_environment "$tool" "$python" </dev/null >&2 || die "the installation failed; the next call starts it anew"
    echo "$root" >"$owner_file"
    echo "$tool $(version_of "$env_dir/bin/python") $(fingerprint)" >"$stamp.new"
    mv "$stamp.new" "$stamp"
)

activation_line() {
    local tool
    read -r tool _ <"$stamp"
    case $tool in
        uv | venv) printf 'source %q\n' "$env_dir/bin/activate" ;;
        *) printf '%s activate %q\n' "$tool" "$env_dir" ;;
    esac
}

run() {
    unset PYTHONHOME VIRTUAL_ENV CONDA_PREFIX
    export PYTHONNOUSERSITE=1 PATH="$env_dir/bin:$PATH"
    if [[ -d $env_dir/conda-meta ]]; then export CONDA_PREFIX=$env_dir; else export VIRTUAL_ENV=$env_dir; fi
    exec "$@"
}

case ${1:-} in -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;; esac
check_request
ready || create
if (($#)); then run "$@"; else activation_line; fi
