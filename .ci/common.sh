# shellcheck shell=bash
# What .ci/run and .ci/soak share: steps that are named, timed and counted, and what a fresh machine may lack.
# Sourced with `set -euo pipefail` in force and the crate's root as working directory.

shopt -s inherit_errexit
export CARGO_TERM_COLOR=never RUST_BACKTRACE=1
target=${CARGO_TARGET_DIR:-target}
shared=$(cd .. && pwd)/shared
oracle=$shared/tools/kafka/oracle.sh
host=$(rustc -vV | sed -n 's/^host: //p')
work=$(mktemp -d "${TMPDIR:-/tmp}/logstead-ci.XXXXXX")
trap 'rm -rf "$work"' EXIT

passed=0 failed=0 skipped=0 summary=

# step NAME FUNCTION: runs the function in a shell of its own, where any failing command ends it.
step() {
  local name=$1 began=$SECONDS status word
  printf '\n==== %s\n' "$name"
  set +e
  (set -euo pipefail; "$2")
  status=$?
  set -e
  case $status in
    0) word=passed; passed=$((passed + 1)) ;;
    77) word=skipped; skipped=$((skipped + 1)) ;;
    *) word=FAILED; failed=$((failed + 1)) ;;
  esac
  summary+=$(printf '%-8s %5d s  %s' "$word" $((SECONDS - began)) "$name")$'\n'
  printf '==== %s: %s after %d s\n' "$name" "$word" $((SECONDS - began))
}

skip() {
  echo "skipped: $*"
  exit 77
}

fail() {
  echo "failed: $*" >&2
  exit 1
}

# finish: the summary; its status is that of the whole run.
finish() {
  printf '\n%s\nsteps: %d passed, %d failed, %d skipped\n' "$summary" "$passed" "$failed" "$skipped"
  [ "$failed" -eq 0 ]
}

# need COMMAND PACKAGE: installs Debian's package when the command is missing.
need() {
  command -v "$1" >/dev/null && return
  echo "installing $2"
  if [ ! -e "$work/apt-updated" ]; then
    apt-get update -qq
    touch "$work/apt-updated"
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

component() {
  cargo "$1" --version >/dev/null 2>&1 || rustup component add "$2"
}

# Kafka's own classes, when they are beside the crate.
need_oracle() {
  [ -x "$oracle" ] || skip "../shared/tools/kafka is not here"
  need java default-jdk-headless
  need mvn maven
  "$shared/tools/kafka/setup.sh"
}

# A Python with kafka-python and its codecs; prints the interpreter.
decoder_python() {
  local venv=$target/decoder
  if [ ! -e "$venv/.ready" ]; then
    need python3 python3 >&2
    python3 -m venv "$venv" >&2 || { need python3-venv python3-venv >&2 && python3 -m venv --clear "$venv" >&2; }
    "$venv/bin/pip" -q install --disable-pip-version-check \
      kafka-python==3.0.12 lz4==4.4.5 zstandard==0.25.0 python-snappy==0.7.3 >&2
    touch "$venv/.ready"
  fi
  echo "$venv/bin/python"
}

unpack() { # unpack ARCHIVE: into a directory of its own; prints it
  local dir
  dir=$work/$(basename "$1" .tar.zst)
  mkdir -p "$dir"
  tar -C "$dir" --zstd -xSf "$1"
  echo "$dir"
}

records_only() {
  grep '"type":"record"' || true # none is an answer too
}

# Many schedules of the protocols between threads, each replayable. Only the library itself is built otherwise.
schedules() {
  cargo rustc --lib --profile test --features testing -- --cfg logstead_shuttle
  "$(newest "$target/debug/deps/logstead-*")" schedules
}

# newest GLOB: the program that was built last.
newest() {
  local found
  found=$(find "${1%/*}" -maxdepth 1 -name "${1##*/}" -executable -type f -printf '%T@ %p\n' | sort -n | tail -n 1)
  echo "${found#* }"
}

# fuzz_all SECONDS: every target of fuzz/ for that long, two at a time. fuzz/README.md explains the flags.
fuzz_all() {
  [ -d fuzz/fuzz_targets ] || skip "there is no fuzz/ here"
  need c++ g++
  local flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions=yes"
  RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags CARGO_TARGET_DIR=$target/fuzz \
    cargo build --release --manifest-path fuzz/Cargo.toml --target "$host" --bins
  local programs=$target/fuzz/$host/release
  export -f fuzz_one
  printf '%s\n' fuzz/fuzz_targets/*.rs | xargs -P 2 -I{} bash -euo pipefail -c 'fuzz_one "$@"' - {} "$programs" "$1" ||
    fail "the input is in fuzz/artifacts, below the name of the target"
}

# fuzz_one SOURCE PROGRAMS SECONDS: what it says is shown when it is over.
fuzz_one() {
  local name corpus said
  name=$(basename "$1" .rs)
  corpus=("fuzz/corpus/$name")
  mkdir -p "${corpus[0]}" "fuzz/artifacts/$name"
  [ ! -d "fuzz/seeds/$name" ] || corpus+=("fuzz/seeds/$name")
  local status=0
  said=$("$2/$name" "${corpus[@]}" -max_total_time="$3" -timeout=20 -rss_limit_mb=2048 \
    -print_final_stats=1 -verbosity=0 "-artifact_prefix=fuzz/artifacts/$name/" 2>&1) || status=$?
  # Words that libFuzzer recommends are of no use here.
  printf -- '-- %s\n%s\n' "$name" "$(grep -v '# Uses: ' <<<"$said")"
  return "$status"
}
