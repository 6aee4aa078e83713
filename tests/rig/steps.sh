# shellcheck shell=bash disable=SC2154
# Running steps, for tests/run: a process group, a time limit, a log and a line of result for each.
#
# Uses $steps and $cache, and calls step_NAME (with `-` in a name as `_`). A step runs with `set -e` in a
# process of its own, with no standard input; $scratch is a folder that lasts until the runner ends.

# What a step exits with when something that it needs is missing: neither success nor failure.
readonly exit_skipped=77
readonly log_lines_shown=80

run_steps() {
  case ${1-} in
    --list) list_steps; exit ;;
    --step) run_here "$2" ;;            # the runner's own: one step, in this process
    -*) echo "usage: tests/run [--list | NAME…]" >&2; exit 2 ;;
  esac
  local chosen=("$@") name row
  if [ $# = 0 ]; then
    for row in "${steps[@]}"; do chosen+=("${row%% *}"); done
  fi
  for name in "${chosen[@]}"; do
    step_limit "$name" > /dev/null || { echo "tests/run: no step is called '$name'" >&2; list_steps >&2; exit 2; }
  done

  mkdir -p "$cache/logs" || exit 2
  scratch=$(mktemp -d) || exit 2
  export scratch
  passed=0 failed=0 skipped=0 group=
  trap end_of_run EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  for name in "${chosen[@]}"; do run_step "$name"; done
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ]
}

list_steps() {
  local row name limit what
  for row in "${steps[@]}"; do
    read -r name limit what <<< "$row"
    printf '%-11s %s\n' "$name" "$what"
  done
}

# The limit of step $1 in seconds; fails if there is no such step.
step_limit() {
  local row name limit what
  for row in "${steps[@]}"; do
    read -r name limit what <<< "$row"
    [ "$name" = "$1" ] && echo "$limit" && return
  done
  return 1
}

# One step in a process group of its own, so that whatever it leaves behind can be ended with it.
run_step() {
  local name=$1 log=$cache/logs/$1.log started=$SECONDS status
  set -m
  timeout --kill-after=15 "$(step_limit "$name")" "$BASH" "$0" --step "$name" < /dev/null > "$log" 2>&1 &
  group=$!
  set +m
  wait "$group"; status=$?
  end_group
  local seconds=$((SECONDS - started))
  case $status in
    0) passed=$((passed + 1)); report "$name" passed "$seconds" ;;
    "$exit_skipped") skip_step "$name" "$seconds" "$(tail -n 1 "$log")" ;;
    124) fail_step "$name" "$seconds" "still running after $(step_limit "$name") s" "$log" ;;
    *) fail_step "$name" "$seconds" "exit status $status" "$log" ;;
  esac
}

skip_step() {
  if [ "${CI-}" = true ]; then
    failed=$((failed + 1)); report "$1" FAILED "$2" "would be skipped: $3"
  else
    skipped=$((skipped + 1)); report "$1" SKIPPED "$2" "$3"
  fi
}

fail_step() {
  failed=$((failed + 1))
  report "$1" FAILED "$2" "$3; the end of $4:"
  tail -n $log_lines_shown "$4" | sed 's/^/    /'
}

report() { printf '%-11s %-7s %4s s%s\n' "$1" "$2" "$3" "${4:+  $4}"; }

run_here() {
  set -eu
  export CARGO_TERM_COLOR=never NO_COLOR=1
  "step_${1//-/_}"
  exit
}

# Ends what is left of the running step's process group.
end_group() {
  [ -n "$group" ] || return 0
  kill -KILL -- "-$group" 2> /dev/null
  group=
}

# A TERM first, for timeout passes it on, and a step may have something to take down in order.
end_of_run() {
  if [ -n "$group" ] && kill -TERM "$group" 2> /dev/null; then wait "$group"; fi
  end_group
  rm -rf "$scratch"
}
