#!/usr/bin/env bash
# Two kernel trees to try the program on: Debian's linux-source-6.1 as FOLDER/6.1 and linux-source-6.12 as FOLDER/6.12.
#
#   tests/kernel-sources.sh FOLDER
#
# They are downloaded once, by apt-get on Debian, and need 3 GB; what is there already is taken as it is.
set -euo pipefail
work=$(mkdir -p "$1" && cd "$1" && pwd)

fetch() { # version, suite
    [[ -d $work/$1 ]] && return
    local apt=$work/apt
    rm -rf "$work/$1."{deb,part}
    mkdir -p "$apt/lists/partial" "$work/$1.part"
    # Another suite of the mirror that this machine uses.
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$')
    echo "deb $mirror $2 main" >"$apt/sources.list"
    local options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$apt/lists")
    apt-get "${options[@]}" update
    (cd "$work" && apt-get "${options[@]}" download "linux-source-$1")
    dpkg-deb -x "$work/linux-source-$1"_*.deb "$work/$1.deb"
    tar -C "$work/$1.part" --strip-components=1 -xf "$work/$1.deb/usr/src/linux-source-$1.tar.xz"
    rm -rf "$work/$1.deb"
    mv "$work/$1.part" "$work/$1"
}
fetch 6.1 bookworm
fetch 6.12 trixie
