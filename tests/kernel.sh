#!/usr/bin/env bash
# Two kernel trees through the real program, compared by rsync and measured: sizes, times, memory of each verb.
#
#   tests/kernel.sh FOLDER [RESTIC]
#
# FOLDER needs 12 GB; tests/kernel-sources.sh downloads the sources into it once. With RESTIC, a first
# snapshot of the same tree is taken by that program in turn. Ends with 1 at the first thing that is not as it should be.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mkdir -p "$1" && cd "$1" && pwd)
restic=${2:-}
(cd "$root" && cargo build --release --locked --quiet)
vault=$root/target/release/vault

"$root/tests/kernel-sources.sh" "$work"

export XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state VAULT_REPOSITORY=$work/repository
rm -rf "$work"/{cache,state,repository,source,out,mirror,restic}

# Runs the program, keeps its words, and says how long it took and how much memory.
run() {
    local start=$EPOCHREALTIME status=0
    /usr/bin/time -f '%M' -o "$work/memory" "$vault" "$@" >"$work/stdout" 2>"$work/stderr" || status=$?
    local memory
    wall=$(echo "$EPOCHREALTIME - $start" | bc)
    memory=$(($(tail -n 1 "$work/memory") / 1024))
    printf '%7.2f s  %4d MiB  exit %d  vault %s\n' "$wall" "$memory" "$status" "${*//$work\//}"
    if ((status)); then cat "$work/stderr" >&2; exit 1; fi
    if ((memory > 300)); then echo "more than 300 MiB" >&2; exit 1; fi
}
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }
size() { find "$1" -type f -printf '%s\n' | awk -v name="$2" -v most="$3" '{ sum += $1 } END { printf "%s: %.1f MiB in %d files\n", name, sum / 1048576, NR; exit sum / 1048576 > most }'; }
same() { # snapshot, source
    rm -rf "$work/out"
    run restore "$1:source" --target "$work/out"
    local differs
    differs=$(rsync -naiHAXSc --delete --modify-window=-1 "$2/" "$work/out/" | head -n 20)
    if [[ -n $differs ]]; then echo "$differs" >&2; exit 1; fi
    echo "             rsync finds no difference"
}

echo "== the first tree"
unset VAULT_PASSPHRASE VAULT_PASSPHRASE_FILE
run init --unencrypted
run snapshot --as-path /source "$work/6.1"
size "$VAULT_REPOSITORY" "after the first tree" 205
same latest "$work/6.1"
if [[ -n $restic ]]; then
    echo "== beside restic, in turn"
    export RESTIC_PASSWORD=x RESTIC_REPOSITORY=$work/restic RESTIC_CACHE_DIR=$work/cache/restic
    ours=() theirs=()
    for _ in 1 2 3; do
        rm -rf "$work"/{cache,repository,restic}
        run init --unencrypted
        run snapshot --as-path /source "$work/6.1"
        ours+=("$wall")
        "$restic" -q init
        /usr/bin/time -f '%e %M' -o "$work/memory" "$restic" -q backup "$work/6.1"
        read -r seconds kib <"$work/memory"
        printf '%7.2f s  %4d MiB          restic backup\n' "$seconds" $((kib / 1024))
        theirs+=("$seconds")
    done
    rm -rf "$work/restic"
    printf 'medians: vault %.2f s, restic %.2f s\n' "$(median "${ours[@]}")" "$(median "${theirs[@]}")"
    (($(echo "$(median "${ours[@]}") < $(median "${theirs[@]}")" | bc))) || { echo "slower than restic" >&2; exit 1; }
fi
echo "== unchanged, with and without local state, and with caches in every condition"
files() { find "$VAULT_REPOSITORY" -type f | wc -l; }
before=$(files)
sleep 3
run snapshot --as-path /source "$work/6.1"
(($(files) == before + 1)) || { echo "not one file more" >&2; exit 1; }
same latest "$work/6.1"
run snapshot --no-cache --as-path /source "$work/6.1"
same latest "$work/6.1"
rm -rf "$XDG_CACHE_HOME/vault"
run snapshot --as-path /source "$work/6.1"
same latest "$work/6.1"
(
    for cache in "$XDG_CACHE_HOME"/vault/*/*; do exec {held}<>"$cache"; flock -x "$held"; done
    run snapshot --as-path /source "$work/6.1"
    grep -q 'another process' "$work/stderr" || { echo "the lock was not noticed" >&2; exit 1; }
    same latest "$work/6.1"
)
for cache in "$XDG_CACHE_HOME"/vault/*/*; do head -c 3000000 /dev/urandom >"$cache"; done
run snapshot --as-path /source "$work/6.1"
same latest "$work/6.1"
echo "== the second tree under the same path"
run snapshot --as-path /source "$work/6.12"
size "$VAULT_REPOSITORY" "after both trees" 380
same latest "$work/6.12"
same latest~1 "$work/6.1"
echo "== every other verb"
run snapshots --alone
run ls -R -l latest
run find 'Kconfig*'
run diff latest~1 latest
run diff latest:source "$work/6.12"
run cat latest:source/drivers
run stats
run check
run check --read-data
run mirror --new "$work/mirror"
run mirror "$work/mirror"
run -r "$work/mirror" check --read-data
echo "== spec/reader.py"
python=$root/target/python/bin/python3
[[ -x $python ]] || python=python3
"$python" -c 'import argon2, blake3, cryptography, zstandard'
for pair in latest:6.12 latest~1:6.1; do
    id=$("$vault" snapshots --json | tail -n +1 | "$python" -c 'import json, sys; print([json.loads(line) for line in sys.stdin if "\"snapshot\"" in line][-1 - int(sys.argv[1])]["id"])' "$([[ ${pair%:*} == latest ]] && echo 0 || echo 1)")
    rm -rf "$work/out"
    "$python" "$root/spec/reader.py" "$VAULT_REPOSITORY" restore "$id:source" "$work/out"
    [[ -z $(rsync -naiHAXSc --delete --modify-window=-1 "$work/${pair#*:}/" "$work/out/" | head -n 20) ]]
    echo "             the reader's tree of ${pair#*:} is the same"
done
echo "== what encryption costs, in turn"
# On the disk, as backups are: in memory a first snapshot takes 4 s, and trying the passphrase alone 0.26 s of it. Medians, as the
# least of five is whichever pair met an idle disk; the first pair is not counted.
place=$work
plain_saved=() plain_restored=() sealed_saved=() sealed_restored=()
for pair in 0 1 2 3 4 5 6 7; do
    for mode in plain sealed; do
        rm -rf "$work/cache" "$place"/{repository,out}
        sync
        sleep 3
        if [[ $mode == plain ]]; then
            unset VAULT_PASSPHRASE
            run -r "$place/repository" init --unencrypted
        else
            export VAULT_PASSPHRASE='correct horse'
            run -r "$place/repository" init
        fi
        run -r "$place/repository" snapshot --as-path /source "$work/6.1"
        declare -n saved=${mode}_saved restored=${mode}_restored
        if ((pair)); then saved+=("$wall"); fi
        run -r "$place/repository" restore latest:source --target "$place/out"
        if ((pair)); then restored+=("$wall"); fi
    done
done
differs=$(rsync -naiHAXSc --delete --modify-window=-1 "$work/6.1/" "$place/out/" | head -n 20)
if [[ -n $differs ]]; then echo "$differs" >&2; exit 1; fi
size "$place/repository" "encrypted" 210
for what in saved restored; do
    declare -n plain=plain_$what sealed=sealed_$what
    printf '%s: plain %.2f s, encrypted %.2f s\n' $what "$(median "${plain[@]}")" "$(median "${sealed[@]}")"
    (($(echo "$(median "${sealed[@]}") <= 1.1 * $(median "${plain[@]}")" | bc))) || { echo "more than 10 % slower" >&2; exit 1; }
done
start=$EPOCHREALTIME status=0
VAULT_PASSPHRASE=wrong "$vault" -r "$place/repository" snapshots 2>/dev/null || status=$?
wall=$(echo "$EPOCHREALTIME - $start" | bc)
printf 'a wrong passphrase: exit %d in %.2f s\n' $status "$wall"
((status == 12 && $(echo "$wall < 2" | bc)))
rm -rf "$work"/{cache,state,repository,out,mirror}
echo "== all as it should be"
