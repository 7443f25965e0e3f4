#!/usr/bin/env bash
# Instructions per record on the hot paths: a figure that neither the clock nor the neighbours change.
#
#   benches/instructions.sh [PATH…]      default: send batch scan
#
# Each path of benches/walk.rs runs twice, with N and with 2 N records: the difference, divided by N, is free of
# set-up. `perf stat` counts where the machine has counters (user space only); else valgrind's callgrind does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

walk=$(cargo bench --bench walk --no-run --message-format=json 2>/dev/null |
  grep -o '"executable":"[^"]*/walk-[^"]*"' | tail -n 1 | cut -d '"' -f 4)
[ -x "$walk" ] || { echo "instructions: benches/walk.rs does not build" >&2; exit 1; }
scratch=$(mktemp)
trap 'rm -f "$scratch"' EXIT

if command -v perf >/dev/null && perf stat -x, -e instructions:u true 2>&1 | grep -q '^[0-9]'; then
  tool="perf stat"
  scale=10
  count() { perf stat -x, -o "$scratch" -e instructions:u "$walk" "$@" >/dev/null && grep instructions "$scratch" | cut -d , -f 1; }
elif command -v valgrind >/dev/null; then
  tool="callgrind"
  scale=1
  count() {
    LOGSTEAD_BENCH_STD_CLOCK=1 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$walk" "$@" 2>"$scratch" >/dev/null &&
      grep -o 'Collected : [0-9]*' "$scratch" | grep -o '[0-9]*'
  }
else
  echo "instructions: neither perf with counters nor valgrind is here" >&2
  exit 1
fi

[ $# -gt 0 ] || set -- send batch scan
for path; do
  case $path in
    get | by-time) records=$((2000 * scale)) ;;
    # Whole rounds over the log, which holds 2,684,354 records.
    scan) records=2684354 ;;
    *) records=$((200000 * scale)) ;;
  esac
  once=$(count "$path" "$records")
  twice=$(count "$path" $((2 * records)))
  echo "$path: $(((twice - once) / records)) instructions each ($tool, $records more)"
done
