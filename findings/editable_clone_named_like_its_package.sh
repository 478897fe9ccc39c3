#!/usr/bin/env bash
# setuptools 84.2.1: beside a clone that has the name of its package, an editable install imports an empty namespace package.
#
# A project with the package `pumps` lies in a folder `pumps`, as after `git clone .../pumps`, and is installed with
# `pip install -e`. Python started in the folder around it finds the folder `pumps` there, without an `__init__.py`: a candidate
# for a namespace package, which Python takes only if no place that it looks in has a package of that name. For two top-level
# packages beside each other setuptools does not add the project to sys.path; it installs a finder at the end of sys.meta_path, and
# the finder of paths, which comes before it, has an answer already: the namespace. Importing succeeds, and every name is missing.
#
# Why one guesses wrong: a package wins over a namespace wherever the two lie on sys.path, the same project as a wheel is right, and
# so is the editable install from any other folder. `package-dir = {"" = "."}` makes setuptools install a path instead of a finder.
#
# Output seen:
#   setuptools 84.2.1
#   wheel:                      the package
#   editable:                   a namespace without __file__
#   editable, package-dir set:  the package
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "setuptools==84.2.1"
mkdir -p "$place/around/pumps/pumps" "$place/around/pumps/valves"
cd "$place/around"
touch pumps/pumps/__init__.py pumps/valves/__init__.py

project() {
  printf '%s\n' '[build-system]' 'requires = ["setuptools==84.2.1"]' 'build-backend = "setuptools.build_meta"' \
    '[project]' 'name = "pumps"' 'version = "1"' '[tool.setuptools]' 'packages = ["pumps", "valves"]' "$@" > pumps/pyproject.toml
}
try() {
  "$place/venv/bin/pip" install --quiet --force-reinstall --no-build-isolation --no-deps "${@:2}" ./pumps
  found=$("$place/venv/bin/python" -c 'import pumps; print("the package" if pumps.__file__ else "a namespace without __file__")')
  printf '%-27s %s\n' "$1" "$found" | tee -a "$place/seen"
}

"$place/venv/bin/python" -c 'import setuptools; print("setuptools", setuptools.__version__)'
project
try "wheel:"
try "editable:" --editable
project 'package-dir = {"" = "."}'
try "editable, package-dir set:" --editable
expected="the package;a namespace without __file__;the package;"
[ "$(sed 's/^[^:]*: *//' "$place/seen" | tr '\n' ';')" = "$expected" ] || { echo "the behaviour has changed"; exit 1; }
