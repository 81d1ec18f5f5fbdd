#!/bin/sh
# One `embedmigrate upgrade` for a scheduler. Exits 0 when nobody has to get up for it, otherwise
# tells a person and exits with the status of the command. Arguments go to `upgrade`:
#
#     nightly.sh                   apply what is pending
#     nightly.sh --until ready     prepare it, and leave the switch to a person
#
# From the environment, all optional:
#     PROJECT        folder of embedmigrate.toml; default: the folder of this script
#     EMBEDMIGRATE   the program; default: embedmigrate, found in PATH
#     PAGE           program that reaches a person; it is given one line of text
#     WINDOW         longest run, for example 5h; it is then stopped and goes on the next night
set -u

cd "${PROJECT:-$(dirname "$0")}" || exit 78

${WINDOW:+timeout --preserve-status "$WINDOW"} "${EMBEDMIGRATE:-embedmigrate}" upgrade "$@" &
child=$!

# A signal to this script goes on to the program, which checkpoints and ends within 25 seconds.
stopped=
trap 'stopped=yes; kill -TERM "$child"' TERM INT HUP
wait "$child"
status=$?
while [ -n "$stopped" ]; do # the signal ended `wait`, not the program
    stopped=
    wait "$child"
    status=$?
done

log() {
    echo "nightly: $1" >&2
}

case $status in
0)
    exit 0
    ;;
7)
    log "stopped before the end; the next run carries on"
    exit 0
    ;;
75)
    log "could not work now; the next run tries again"
    exit 0
    ;;
3) why="a safety check refused: read its message and decide" ;;
4) why="the new model is worse: keep the old one, or decide otherwise" ;;
5) why="it is undecided whether the new model is worse: add known queries, or decide" ;;
6) why="some documents could not be embedded" ;;
2 | 78) why="the command, the configuration or a script cannot be used" ;;
*) why="an unexpected failure" ;;
esac

message="embedmigrate in $PWD ended with status $status: $why"
log "$message"
if [ -n "${PAGE:-}" ]; then
    "$PAGE" "$message"
fi
exit "$status"
