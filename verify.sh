#!/usr/bin/env bash
# Checks everything: the code, the tests, and the real program with real peers. README.md says more.
#
#   ./verify.sh                checks with what is installed, and says what it skipped
#   ./verify.sh --with-peers   installs prometheus and prometheus-pushgateway first, with apt-get
#   ./verify.sh --hunt ROUNDS  runs all hunts that long: for torn reads, lost updates, stale bytes, leaks, wrong answers
#   ./verify.sh --soak [SECONDS]
#                              runs the mixed load that long, 600 s if not said, and looks at what has grown
#   ./verify.sh --sanitize     runs the tests of memory, pool and slab under the address and the thread sanitizer, where there
#                              is a nightly toolchain
#
# Flags can stand together.
#
# Where valgrind is installed it counts instructions, and with rustup's llvm-tools it measures what the tests cover.
#
# The first failure stops it with the reason. It needs a Rust toolchain with rustfmt and clippy, bash, curl, cmp and
# the core utilities. It writes to cargo's target directory and to a temporary directory, which it removes; processes
# that it started end with it. Ports are chosen by the system, so nothing that runs already is in its way.
#
# Read it from the end: the last lines are the list of steps.

# shellcheck disable=SC2317 # traps and until_true call functions by name

set -Eeuo pipefail
export LC_ALL=C CARGO_TERM_COLOR=never
unset CDPATH GREP_OPTIONS POSIXLY_CORRECT

# ---- Steps, failures, leaving ---------------------------------------------------------------------------------------

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=''              # the temporary directory
started=()           # processes that run in the background; each leads its own group
policy_file=''       # a policy-rc.d of ours, while one stands
step_name=''         # the step that runs
steps_passed=0
checks_passed=0      # single facts that were looked at, in this step and all before
skipped=()
evidence=''          # a file whose end helps to understand the next failure
finished=no

now_ms() { date +%s%3N; }

# A number of milliseconds, for people.
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

# Begins a step. Whatever fails until `passed` is this step's failure.
step() {
    step_name=$1
    step_began=$(now_ms)
    printf '%-48s ' "$step_name"
}

# Ends a step; says something about it if there is something to say.
passed() {
    steps_passed=$((steps_passed + 1))
    printf 'ok  %8s%s\n' "$(seconds $(($(now_ms) - step_began)))" "${1:+  ($1)}"
    step_name=''
}

# Leaves a step out: its name, and why.
skip() {
    printf '%-48s skipped: %s\n' "$1" "$2"
    skipped+=("$1")
}

# Stops everything: the end of $evidence, the reason, then lines that help, one argument each.
fail() {
    printf 'FAILED\n\n'
    if [ -n "$evidence" ]; then
        tail -n 80 "$evidence" | sed 's/^/  | /'
        printf '\n'
    fi
    printf 'verify.sh: "%s" failed: %s\n' "$step_name" "$1"
    shift
    [ $# -eq 0 ] || printf '%s\n' "$@" | sed 's/^/  /'
    finished=failed
    exit 1
}

usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

# Whether there is a Python that can speak HTTP.
have_python() { command -v python3 >/dev/null && python3 -c 'import http.client' 2>/dev/null; }

# Whether a process, or anything left in the group that it leads, still runs.
runs() { kill -0 -- "-$1" 2>/dev/null; }

# Ends one process that we started and what it started; kindly, then not.
end() {
    local pid=$1 tries=0
    kill -TERM -- "-$pid" 2>/dev/null || true
    while runs "$pid" && [ $tries -lt 100 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -KILL -- "-$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    forget "$pid"
}

# Takes a process that has ended out of the list of those to end.
forget() {
    local pid left=()
    for pid in "${started[@]}"; do
        [ "$pid" = "$1" ] || left+=("$pid")
    done
    started=("${left[@]}")
}

leave() {
    local code=$? pid
    trap - EXIT ERR
    trap '' INT TERM HUP # a second Ctrl-C must not leave anything behind
    set +e
    for pid in "${started[@]}"; do end "$pid"; done
    [ -z "$policy_file" ] || as_root rm -f "$policy_file"
    [ -z "$work" ] || rm -rf "$work"
    if [ "$finished" = no ]; then
        printf '\nverify.sh: stopped%s\n' "${step_name:+ in \"$step_name\"}"
        [ "$code" -ne 0 ] || code=1
    fi
    exit "$code"
}

# A command that failed where nothing expected it to: name the line, so that it can be looked at.
surprised() {
    local code=$1 line=$2 command=$3
    [ "$BASH_SUBSHELL" -eq 0 ] || exit "$code"
    fail "the command at line $line of verify.sh ended with $code: $command"
}

trap leave EXIT
trap 'surprised $? $LINENO "$BASH_COMMAND"' ERR
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- Processes -------------------------------------------------------------------------------------------------------

# Starts a command in the background, in its own process group, with its output in a file: launch FILE COMMAND…
# Its pid is $launched.
launch() {
    local output=$1
    shift
    set -m
    "$@" >"$output" 2>&1 </dev/null &
    set +m
    launched=$!
    started+=("$launched")
}

# Waits for the process $1 to end, and sets $ended to its exit code.
reap() {
    ended=0
    wait "$1" 2>/dev/null || ended=$?
    forget "$1"
}

# Runs a command to its end with its output in a file, so that a signal to us interrupts it at once: run FILE COMMAND…
run() {
    launch "$@"
    reap "$launched"
}

# Waits until a command succeeds: until_true SECONDS COMMAND…
until_true() {
    local deadline=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        [ "$(now_ms)" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}

# ---- cargo -----------------------------------------------------------------------------------------------------------

# One step that is one command of cargo: its name, what to look at when it fails, the command.
cargo_step() {
    local name=$1 hint=$2
    shift 2
    step "$name"
    cargo_log=$work/cargo.log
    run "$cargo_log" "$@"
    [ "$ended" -eq 0 ] || {
        evidence=$cargo_log
        fail "exit code $ended" "$hint" "to see it all: $*"
    }
}

# How many tests passed, from cargo's output; and that there were some.
count_tests() {
    local count
    count=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$cargo_log" | { sum=0; while read -r n; do sum=$((sum + n)); done; echo $sum; })
    [ "$count" -gt 0 ] || fail "no test ran" "the filter matches nothing: $1"
    passed "$count tests"
}

preflight() {
    local tool
    step "tools"
    for tool in cargo curl sed grep cmp; do
        command -v "$tool" >/dev/null || fail "$tool is not installed" "MaaS needs a Rust toolchain (https://rustup.rs), bash, curl, cmp and the core utilities"
    done
    cargo fmt --version >/dev/null 2>&1 || fail "rustfmt is not installed" "rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || fail "clippy is not installed" "rustup component add clippy"
    passed "$(cargo --version | cut -d ' ' -f 1-2)"
}

# Shows what the tests of the last step printed about themselves, line by line: those that begin with a name of $1.
figures() {
    grep -E "^(test .* \.\.\. )?($1)[^:]*: .*[0-9]" "$cargo_log" | sed -E -e 's/^test .* \.\.\. //' -e '/_SEED=/d' -e 's/^/    /'
}

# The hunts that are short among all tests, for so many rounds. Built with assertions, like those.
check_hunts() {
    cargo_step "hunts in the pool: $1 rounds" "a hunt that fails says what it found" \
        env MAAS_HUNT_ROUNDS="$1" cargo test --locked --lib -- --nocapture pool::
    count_tests "pool::"
    cargo_step "hunts over connections: $1 rounds" "MAAS_HUNT_SEED, as printed, repeats the choices of one that failed" \
        env MAAS_HUNT_ROUNDS="$1" cargo test --locked --test service -- --nocapture twin:: hunts:: cancel:: arena_races::
    count_tests "twin:: hunts:: cancel:: arena_races::"
    figures 'twin|tearing|lost updates|stale bytes|cancel|leaving'
}

# The mixed load, against the program as it is released.
check_soak() {
    cargo_step "soak: $1 s" "the lines that begin with soak: are the figures" \
        env MAAS_SOAK_SECONDS="$1" cargo test --locked --release --test service -- --nocapture soak::
    count_tests "soak::"
    figures soak
}

# ---- Coverage and sanitizers -----------------------------------------------------------------------------------------

# Of the lines of src/memory/ and src/pool/, tests left out, so many percent are run by the library's own tests of them.
readonly coverage_floor=95

# Finds LLVM's tools, as new as the compiler, whose profiles older ones cannot read: $llvm_profdata and $llvm_cov.
# They stand beside rustc as the component llvm-tools, in PATH, or where LLVM_PROFDATA and LLVM_COV say.
find_llvm() {
    local wanted found host directory
    wanted=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    host=$(rustc -vV | sed -n 's/^host: //p')
    directory=$(rustc --print sysroot)/lib/rustlib/$host/bin
    for llvm_cov in "${LLVM_COV-}" "$directory/llvm-cov" llvm-cov "llvm-cov-$wanted"; do
        llvm_profdata=${llvm_cov/%llvm-cov/llvm-profdata}
        llvm_profdata=${llvm_profdata/%llvm-cov-$wanted/llvm-profdata-$wanted}
        [ "$llvm_cov" != "${LLVM_COV-}" ] || llvm_profdata=${LLVM_PROFDATA-}
        if ! command -v "$llvm_cov" >/dev/null || ! command -v "$llvm_profdata" >/dev/null; then continue; fi
        found=$("$llvm_cov" --version | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p')
        [ "${found:-0}" -lt "$wanted" ] || return 0
    done
    return 1
}

# Percent, lines that ran, lines, file: for each file of src/memory/, src/pool/ and src/slab/ in a report in lcov's form, and for
# all of them at the end. Test modules, which end a file or are files of their own, do not count.
coverage_by_file() {
    awk '
        function line(name, ran, all) { printf "%.1f %d %d %s\n", 100 * ran / all, ran, all, name }
        /^SF:/ {
            file = substr($0, 4)
            counts = file ~ /\/src\/(memory|pool|slab)\// && file !~ /tests/
            tests_begin = 0
            for (at = 1; counts && (getline text < file) > 0; at++) {
                if (before ~ /^#\[cfg\(.*test/ && text ~ /^(pub\(crate\) )?mod / && !tests_begin) tests_begin = at
                before = text
            }
            close(file)
            sub(/.*\/src\//, "", file)
        }
        /^DA:/ && counts {
            split(substr($0, 4), number, ",")
            if (tests_begin && number[1] >= tests_begin) next
            all[file]++
            ran[file] += number[2] > 0
        }
        END {
            for (file in all) {
                line(file, ran[file], all[file])
                sum += all[file]
                sum_ran += ran[file]
            }
            if (sum) line("total", sum_ran, sum)
        }' "$1"
}

# Only our own crate is compiled again, beside the ordinary build.
check_coverage() {
    local name="line coverage of memory/, pool/ and slab/" wrapper tests total
    if ! find_llvm; then
        skip "$name" "no llvm-cov as new as rustc (rustup component add llvm-tools)"
        return
    fi
    wrapper=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/coverage/rustc
    mkdir -p "${wrapper%/*}"
    # At the same place each time, so that cargo knows what it built.
    # shellcheck disable=SC2016 # the wrapper expands it
    printf '#!/bin/sh\nexec "$@" -C instrument-coverage\n' >"$wrapper"
    chmod +x "$wrapper"
    cargo_step "$name" "the tests fail, or do not build, when they are measured" \
        env RUSTC_WORKSPACE_WRAPPER="$wrapper" cargo test --locked --lib --no-run --message-format json-render-diagnostics
    tests=$(grep -o '"executable":"[^"]*"' "$cargo_log" | tail -n 1 | cut -d '"' -f 4)
    run "$cargo_log" env LLVM_PROFILE_FILE="$work/profiles/%p-%m.profraw" "$tests" memory:: pool:: slab::
    evidence=$cargo_log
    [ "$ended" -eq 0 ] || fail "exit code $ended"
    # A test may end a process of its own on purpose, which leaves half a profile behind.
    "$llvm_profdata" merge --failure-mode=all --sparse "$work"/profiles/*.profraw -o "$work/profile" >"$cargo_log" 2>&1 ||
        fail "llvm-profdata cannot read the profiles"
    "$llvm_cov" export --format=lcov --instr-profile="$work/profile" "$tests" >"$work/lcov" 2>"$cargo_log" ||
        fail "llvm-cov cannot read the profile"
    coverage_by_file "$work/lcov" | sort -n >"$work/coverage"
    evidence=$work/coverage
    total=$(awk '$4 == "total" { print $1 }' "$work/coverage")
    [ -n "$total" ] || fail "no line of memory/, pool/ and slab/ was measured"
    awk -v total="$total" -v floor=$coverage_floor 'BEGIN { exit !(total >= floor) }' ||
        fail "$total % of the lines are run, $coverage_floor % is the floor" "each line above: percent, lines run, lines, file"
    evidence=''
    passed "$total %"
    awk -v floor=$coverage_floor '$1 < floor { printf "    %s: %s %%\n", $4, $1 }' "$work/coverage"
}

# One sanitizer over the tests of memory, pool and slab, with what cargo needs beside. Those that hold a time are left out:
# everything takes ten times as long. So are the one that a sanitizer's own handler of faults ends otherwise, and one
# that leaks on purpose.
# rustix_use_libc: a sanitizer sees what is mapped and unmapped only where the C library is asked for it.
sanitize() {
    local name=$1
    shift
    cargo_step "$name sanitizer: memory/, pool/ and slab/" "the report above names both sides" \
        env RUSTFLAGS="-Zsanitizer=$name --cfg rustix_use_libc" CARGO_PROFILE_TEST_DEBUG=line-tables-only CARGO_PROFILE_DEV_DEBUG=line-tables-only \
        MAAS_DRIFT_OPERATIONS=20000 MAAS_HUNT_ROUNDS=200 \
        cargo +nightly test --locked --lib --target "$(rustc -vV | sed -n 's/^host: //p')" \
        --target-dir "target/sanitize/$name" "$@" -- memory:: pool:: slab:: slot:: --skip quick --skip faults_that_are_not_ours \
        --skip that_is_forgotten
    count_tests "memory:: pool:: slab:: slot::"
}

check_sanitizers() {
    if ! cargo +nightly --version >/dev/null 2>&1; then
        skip "address and thread sanitizer" "no nightly toolchain (rustup toolchain install nightly)"
        return
    fi
    sanitize address
    # It knows nothing of what a library does that was built without it, and takes that for races.
    if [ -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ]; then
        sanitize thread -Zbuild-std
    else
        skip "thread sanitizer: memory/, pool/ and slab/" "no source of the standard library (rustup +nightly component add rust-src)"
    fi
}

check_code() {
    cargo_step "formatting" "cargo fmt puts it right" cargo fmt --check -- --color never
    passed
    cargo_step "lints: clippy, warnings are errors" "each warning above names its line" \
        cargo clippy --locked --all-targets -- -D warnings
    passed
    # What a program takes that embeds the allocator. Its pages come first: those of the whole take their place.
    cargo_step "lints of the library alone" "each warning above names its line" \
        cargo clippy --locked --no-default-features --lib -- -D warnings
    passed
    cargo_step "documentation of the library alone" "each warning above names its line" \
        env RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --locked --no-deps --no-default-features
    passed
    cargo_step "documentation, warnings are errors" "each warning above names its line" \
        env RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --locked --no-deps
    passed
    cargo_step "all tests" "one test alone: cargo test NAME" cargo test --locked
    count_tests "cargo test"
    # Beside the ordinary build in the same directory: only our own crate is compiled a second time.
    cargo_step "model checking of the lock-free parts" "one model alone: cargo test --features loom --lib NAME" \
        cargo test --locked --features loom --lib loom_
    count_tests "--features loom --lib loom_"
    cargo_step "random schedules of the whole heap" "MAAS_SHUTTLE_SCHEDULES says how many each test tries" \
        cargo test --locked --features shuttle --lib shuttle_
    count_tests "--features shuttle --lib shuttle_"
    check_coverage
    cargo_step "release build" "each error above names its line" \
        cargo build --locked --release --message-format json-render-diagnostics
    maas=$(grep -o '"executable":"[^"]*/maas"' "$cargo_log" | tail -n 1 | cut -d '"' -f 4)
    [ -x "$maas" ] || fail "cargo does not say where the program is"
    passed
}

# Counts instructions of the hot paths and compares them with the committed numbers. After the release build, and in its
# directory: what the guard depends on is there already, built as it is released.
check_instructions() {
    local name="instructions of the hot paths" numbers=benches/instructions.txt held compiler
    held=$(sed -n 's/^# rustc //p' "$numbers")
    compiler=$(rustc -vV | sed -n -e 's/^rustc //p' -e 's/^host: //p' | paste -s -d ' ' | sed 's/ \([^ ]*\)$/ for \1/')
    if ! command -v valgrind >/dev/null; then
        skip "$name" "valgrind is not installed"
        return
    fi
    if [ "$held" != "$compiler" ]; then
        skip "$name" "the numbers are for rustc $held, this is rustc $compiler"
        return
    fi
    cargo_step "$name" "where a change is meant, the same with -- --renew writes new numbers; where Cargo.lock is stale, cargo update --workspace --manifest-path benches/Cargo.toml" \
        cargo run --locked --release --manifest-path benches/Cargo.toml --no-default-features \
        --target-dir "${CARGO_TARGET_DIR:-$root/target}" --bin instructions
    [ "$(grep -c ' committed ' "$cargo_log")" -gt 0 ] || {
        evidence=$cargo_log
        fail "no path was counted"
    }
    passed "$(grep -c ' committed ' "$cargo_log") paths within 2 %"
}

# ---- The server and questions to it ----------------------------------------------------------------------------------

# Nothing of this machine's configuration: the environment is empty, and the directory has no config.toml or .env.
bare() { env -i PATH="$PATH" HOME="$work" "$@"; }

server_log_has() { grep -q "$2" "$1"; }

# Whether the process launched last has said something in its log, or will never.
settled() { server_log_has "$@" || ! runs "$launched"; }

# Starts a server on a free port: serve NAME [VARIABLE=VALUE]… -- [FLAG]…
# Its address is $base, its pid $server, its log $log.
serve() {
    local name=$1 variables=()
    shift
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    shift
    log=$work/$name.log
    mkdir -p "$work/empty"
    : >"$log" # it is looked at before the background has opened it
    cd "$work/empty"
    # How full this machine is, and what it stalls for, would change what is answered.
    launch "$log" env -i PATH="$PATH" HOME="$work" MAAS__PRESSURE__CGROUP_ROOT="$work/empty" "${variables[@]}" \
        "$maas" --port 0 "$@"
    cd "$root"
    server=$launched
    until_true 10 settled "$log" 'listening on http://' || true
    server_log_has "$log" 'listening on http://' || {
        evidence=$log
        fail "the server does not say that it listens"
    }
    base=$(sed -n 's/.*listening on \(http:\/\/[^ ,]*\).*/\1/p' "$log")
}

# Asks a server to stop, and holds it to a clean end: stop PID LOG
stop() {
    kill -TERM "$1"
    reap "$1"
    [ "$ended" -eq 0 ] || {
        evidence=$2
        fail "the server ended with $ended after SIGTERM, expected 0"
    }
    grep -q 'stopped' "$2" || fail "the server did not log that it stopped"
    checks_passed=$((checks_passed + 1))
}

# curl without this machine's proxies and settings.
plain_curl() { curl -q -sS --noproxy '*' --max-time 20 "$@"; }

# One request: call STATUS METHOD PATH [curl's options]…
# Holds the answer to the status; leaves $body, $headers (lower-case names, no carriage returns) and $request.
call() {
    local expected=$1 method=$2 url=$base$3 status
    shift 3
    request="$method ${url:0:200}"
    [ $# -eq 0 ] || request+=" ${*:0:200}"
    if [ "$method" = HEAD ]; then set -- -I "$@"; else set -- -X "$method" "$@"; fi
    status=$(plain_curl -o "$work/body" -D "$work/head" -w '%{http_code}' "$@" "$url") ||
        fail "$request: curl got no answer" "the server's log: $(tail -n 3 "$log")"
    body=''
    [ ! -s "$work/body" ] || [ "$method" = HEAD ] || body=$(cat "$work/body")
    headers=$(tr -d '\r' <"$work/head" | sed 's/^\([A-Za-z-]*\):/\L\1:/')
    : >"$work/body"
    [ "$status" = "$expected" ] || fail "$request: status $status, expected $expected" "the body: ${body:0:600}"
    checks_passed=$((checks_passed + 1))
}

# The body must match this regular expression, whole.
body_is() {
    [[ $body =~ ^$1$ ]] || fail "$request: the body is not as expected" "expected: $1" "got:      ${body:0:1200}"
    checks_passed=$((checks_passed + 1))
}

# The body must contain this text.
body_has() {
    [[ $body == *"$1"* ]] || fail "$request: the body lacks something" "expected: $1" "got:      ${body:0:1200}"
    checks_passed=$((checks_passed + 1))
}

# A header line must match this regular expression, whole.
header_is() {
    grep -Eqx "$1" <<<"$headers" || fail "$request: a header is not as expected" "expected: $1" "got:" "${headers:0:1200}"
    checks_passed=$((checks_passed + 1))
}

# A request that is refused: refused STATUS CODE METHOD PATH [curl's options]…
refused() {
    local status=$1 code=$2 id
    shift 2
    call "$status" "$@"
    header_is 'content-type: application/problem\+json'
    id=$(sed -n 's/^x-request-id: //p' <<<"$headers")
    body_is "\{\"type\":\"urn:maas:problem:$code\",\"title\":\"[^\"]+\",\"status\":$status,\"detail\":\".+\",\"code\":\"$code\",\"request_id\":\"$id\".*\}"
}

readonly json='Content-Type: application/json'
readonly uuid='[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}'

# Takes the first id of the body: $id
take_id() {
    id=${body#*\"id\":\"}
    id=${id%%\"*}
}

# Allocates; the id is $id: allocate SIZE ACTUAL_SIZE SIZE_MB
allocate() {
    call 201 POST /allocate -H "$json" -d "{\"size_bytes\":$1}"
    body_is "\{\"id\":\"$uuid\",\"size_bytes\":$1,\"actual_size_bytes\":$2,\"size_mb\":$3,\"age_seconds\":0\}"
    take_id
    header_is "location: /allocate/$id"
    header_is 'content-type: application/json'
}

# The number of a metric: metric 'name{labels}'
metric() {
    plain_curl "$base/metrics" | sed -n "s/^$(sed 's/[][\.*^$/]/\\&/g' <<<"$1") //p"
}

# A metric must have this number now, or within the seconds given: metric_is SERIES NUMBER [SECONDS]
metric_is() {
    until_true "${3:-0}" metric_equals "$1" "$2" || fail "the metric $1 is \"$(metric "$1")\", expected $2"
    checks_passed=$((checks_passed + 1))
}
metric_equals() { [ "$(metric "$1")" = "$2" ]; }

# ---- The program, end to end -----------------------------------------------------------------------------------------

check_allocations() {
    local first second bad size
    step "allocate, inspect, list, free"
    # One worker: so one CPU's free slabs, and it is known which slab is given out next.
    serve main -- --set memory.max_pool_size=1GiB --set server.worker_threads=1
    allocate 102400 131072 0\\.125
    first=$id
    allocate 1 1024 0\\.0009765625
    second=$id
    [ "$first" != "$second" ] || fail "two allocations have the id $first"
    call 200 GET "/allocate/$first"
    body_is "\{\"id\":\"$first\",\"size_bytes\":102400,\"actual_size_bytes\":131072,\"size_mb\":0\.125,\"age_seconds\":[0-9]+\}"
    call 200 GET "/allocate/${first^^}"
    call 200 HEAD "/allocate/$first"
    call 200 GET /allocate
    body_is "\{\"allocations\":\[\{\"id\":\"$first\",.*\},\{\"id\":\"$second\",.*\}\],\"next_cursor\":null\}"
    call 200 GET '/allocate?limit=1'
    body_is "\{\"allocations\":\[\{\"id\":\"$first\",[^]]*\}\],\"next_cursor\":\"[^\"]+\"\}"
    bad=${body##*\"next_cursor\":\"}
    call 200 GET "/allocate?limit=1&cursor=${bad%%\"*}"
    body_has "\"id\":\"$second\""
    metric_is maas_active_allocations 2
    metric_is maas_allocation_size_bytes 132096
    call 204 DELETE "/allocate/$first"
    body_is ''
    refused 404 not-found DELETE "/allocate/$first"
    refused 404 not-found GET "/allocate/$first"
    call 204 DELETE "/allocate/$second"
    call 200 GET /allocate
    body_is '\{"allocations":\[\],"next_cursor":null\}'
    # The last one is larger than the largest class, and made of pages.
    local -A actual=([1024]=1024 [1025]=2048 [4194304]=4194304 [4194305]=4198400)
    for size in 1024 1025 4194304 4194305; do
        allocate $size "${actual[$size]}" '[0-9.]+'
        call 204 DELETE "/allocate/$id"
    done
    # The first user of a slab made ready at start reuses nobody's; the second, who gets the slab again, does.
    metric_is 'maas_slab_reuse_total{slab_size="1024"}' 1
    metric_is maas_active_allocations 0
    passed
}

check_bad_input() {
    local size bad
    step "bad input"
    for size in 0 -1 1.5 1e3 '"1024"' null true '[1]' '{}' 18446744073709551616; do
        refused 400 invalid-size POST /allocate -H "$json" -d "{\"size_bytes\":$size}"
    done
    refused 400 invalid-size POST /allocate -H "$json" -d '{}'
    refused 400 unknown-field POST /allocate -H "$json" -d '{"size_bytes":1,"size":1}'
    refused 400 invalid-field POST /allocate -H "$json" -d '{"size_bytes":1,"size_bytes":1}'
    for bad in '' '{' '[]' 'size_bytes=1' '{"size_bytes":1' '{"size_bytes":1}x'; do
        refused 400 invalid-json POST /allocate -H "$json" -d "$bad"
    done
    head -c 100000 /dev/zero | tr '\0' '[' >"$work/nested"
    refused 400 invalid-json POST /allocate -H "$json" --data-binary "@$work/nested"
    head -c 1048577 /dev/zero | tr '\0' ' ' >"$work/large"
    refused 413 body-too-large POST /allocate -H "$json" --data-binary "@$work/large"
    refused 415 unsupported-media-type POST /allocate -d '{"size_bytes":1}'
    body_has 'Content-Type: application/json'
    refused 415 unsupported-media-type POST /allocate -H 'Content-Type:' -d '{"size_bytes":1}'
    refused 400 invalid-query POST '/allocate?size_bytes=1' -H "$json" -d '{"size_bytes":1}'
    refused 400 invalid-query GET '/allocate?limit=0'
    refused 400 invalid-query GET '/allocate?cursor=nonsense'
    refused 422 size-too-large POST /allocate -H "$json" -d '{"size_bytes":1073741825}'
    refused 422 size-too-large POST /allocate -H "$json" -d '{"size_bytes":18446744073709551615}'
    for bad in x 00000000000040008000000000000000 '%7B00000000-0000-4000-8000-000000000000%7D'; do
        refused 400 invalid-id GET "/allocate/$bad"
        refused 400 invalid-id DELETE "/allocate/$bad"
    done
    refused 404 not-found GET /allocate/00000000-0000-4000-8000-000000000000
    refused 404 no-such-route GET /nowhere
    refused 405 method-not-allowed PUT /allocate
    header_is 'allow: .*POST.*'
    refused 405 method-not-allowed POST /health
    call 431 GET "/$(head -c 100000 /dev/zero | tr '\0' a)"
    call 404 GET /nowhere -H 'X-Request-Id: my-own-id'
    header_is 'x-request-id: my-own-id'
    body_has '"request_id":"my-own-id"'
    call 200 GET /allocate
    body_is '\{"allocations":\[\],"next_cursor":null\}'
    metric_is maas_active_allocations 0
    passed
}

check_service_routes() {
    local family template
    step "health, statistics, metrics, description"
    call 200 GET /health
    body_is '\{"status":"healthy","version":"[0-9.]+","uptime_seconds":[0-9]+,"memory":\{"in_use_bytes":0,"pool_size_bytes":[0-9]+,"max_pool_size_bytes":1073741824,"utilization_percent":0\.0,"active_allocations":0\},"connection":\{"state":"off","since_seconds":[0-9]+,"attempts":0,"last_error":null,"next_retry_seconds":null\},"pushgateway":\{"state":"off",.*\}\}'
    header_is 'content-type: application/json'
    header_is 'x-request-id: .+'
    call 200 HEAD /health
    call 200 GET /livez
    body_is '\{"status":"alive"\}'
    call 200 HEAD /livez
    call 200 GET /readyz
    body_is '\{"status":"ready"\}'
    call 200 GET '/readyz?verbose'
    body_has '"name":"pool"'
    call 200 GET /stats
    body_is '\{"memory":\{.*\},"peak_in_use_bytes":[0-9]+,"draining_bytes":0,"retired_bytes":0,"inflight_bytes":0,.*"slab_sizes":\[\{"slab_size_bytes":1024,"total":[0-9]+,"used":0,"free":[0-9]+,"created":[0-9]+,"reused":1,"reuse_rate":0\.5\},.*'
    call 200 GET /metrics
    header_is 'content-type: text/plain; version=0\.0\.4; charset=utf-8'
    for family in maas_active_allocations maas_allocation_size_bytes maas_pool_size_bytes maas_utilization_percent \
        maas_request_count maas_slab_reuse_total; do
        body_has "# TYPE $family "
    done
    call 200 GET /openapi.json
    header_is 'content-type: application/json'
    body_has '"openapi": "3.1.0"'
    for template in /allocate '/allocate/{id}' '/allocate/{id}/data' /arenas '/arenas/{id}/commit' /health /livez /readyz /stats /metrics /openapi.json /; do
        body_has "\"$template\": {"
    done
    call 200 GET /
    header_is 'content-type: text/plain; charset=utf-8'
    body_has 'POST   /allocate'
    call 200 GET / -H 'Accept: text/html'
    header_is 'content-type: text/html; charset=utf-8'
    body_has '<!doctype html>'
    if [[ $(curl --version) == *HTTP2* ]]; then
        call 200 GET /livez --http2-prior-knowledge
        header_is 'HTTP/2 200 '
    fi
    stop "$server" "$log"
    passed
}

check_small_pool() {
    local ids=() number
    step "a pool of ten slabs"
    serve small -- --set memory.max_pool_size=10240 --set memory.slab_sizes=1024,2048
    for number in 1 2 3 4 5 6 7 8 9 10; do
        allocate 1000 1024 0\\.0009765625
        ids+=("$id")
    done
    refused 507 pool-exhausted POST /allocate -H "$json" -d '{"size_bytes":1000}'
    body_has '"requested_bytes":1000,"in_use_bytes":10240,"free_bytes":0,"limit_bytes":10240,"largest_available_bytes":0,"refused_by":"pool","retry_after_seconds":null}'
    refused 422 size-too-large POST /allocate -H "$json" -d '{"size_bytes":10241}'
    metric_is maas_utilization_percent 100
    metric_is maas_pool_size_bytes 10240
    metric_is 'maas_refused_total{reason="pool-exhausted"}' 1
    call 200 GET /health
    body_has '"status":"healthy"'
    call 200 GET /readyz
    call 204 DELETE "/allocate/${ids[0]}"
    refused 507 pool-exhausted POST /allocate -H "$json" -d '{"size_bytes":2000}'
    call 204 DELETE "/allocate/${ids[9]}"
    # What two small slabs gave back serves a large one.
    allocate 2000 2048 0\\.001953125
    refused 507 pool-exhausted POST /allocate -H "$json" -d '{"size_bytes":1}'
    metric_is maas_pool_size_bytes 10240
    stop "$server" "$log"
    passed
}

# When a line with this text came first, in milliseconds: when FILE TEXT
when() { grep -m 1 -F -- "$2" "$1" | cut -d ' ' -f 1; }

# A small pool is filled along a ramp: its level, the forecast, the events and the answers' header tell what comes, who matters
# little is turned away, and only then is anybody refused.
check_pressure() {
    local events=$work/ramp.events began number blocks=64 listener level status pressure seconds code words=''
    local -A first=() # when each thing came first
    step "a ramp to a full pool: told before it is refused"
    serve ramp -- --set memory.max_pool_size=64MiB --set memory.slab_sizes=1MiB --set pressure.interval=500ms \
        --set pressure.psi=false --set "pressure.cgroup_root=$work/empty"
    launch "$events" bash -c 'curl -q -sSN --noproxy "*" "$0/pressure/events" | while IFS= read -r line; do
        printf "%s %s\n" "$(date +%s%3N)" "$line"; done' "$base"
    listener=$launched
    until_true 10 server_log_has "$events" '"level":"normal"' || fail "the first event does not come at once"
    grep -q ' event: pressure' "$events" || fail "the event has no name"
    began=$(now_ms)
    # Four blocks a second, of 64.
    for ((number = 1; number <= blocks; number++)); do
        while [ "$(now_ms)" -lt $((began + number * 250)) ]; do sleep 0.02; done
        call 201 POST /allocate -H "$json" -d '{"size_bytes":1048576}'
        level=$(sed -n 's/^x-maas-pressure: //p' <<<"$headers")
        [ -z "$level" ] || [ -n "${first[header-$level]-}" ] || first[header-$level]=$(now_ms)
        # What matters little is tried beside it, and given back where it is served.
        if [ $number -lt $blocks ]; then
            status=$(plain_curl -o "$work/low" -w '%{http_code}' -H "$json" -d '{"size_bytes":1,"priority":"low"}' "$base/allocate")
            code=$(sed -n 's/.*"code":"\([a-z-]*\)".*/\1/p' "$work/low")
            [ -n "${first[low-$status-$code]-}" ] || first[low-$status-$code]=$(now_ms)
            if [ "$status" = 201 ]; then
                id=$(sed -n 's/.*"id":"\([^"]*\)".*/\1/p' "$work/low")
                call 204 DELETE "/allocate/$id"
            fi
        fi
        call 200 GET /pressure
        pressure=$body
        level=$(sed -n 's/.*"level":"\([a-z]*\)".*/\1/p' <<<"$pressure")
        [ -n "${first[level-$level]-}" ] || first[level-$level]=$(now_ms)
        # Seconds to critical, said while it is below.
        seconds=$(sed -n 's/.*"critical":\([0-9.]*\),.*/\1/p' <<<"$pressure")
        if [ "$level" != critical ] && [ "$level" != emergency ] && [ -n "$seconds" ] && [ -z "${first[forecast]-}" ]; then
            [[ $pressure =~ \"predicted_30s\":[0-9.]+ ]] || fail "it says when, and not how full" "$pressure"
            first[forecast]=$(now_ms)
            words="$seconds s before critical at $number of $blocks"
        fi
    done
    first[refused]=$(now_ms)
    refused 507 pool-exhausted POST /allocate -H "$json" -d '{"size_bytes":1048576}'
    header_is 'retry-after: ([1-9]|[1-9][0-9]|[12][0-9][0-9]|300)'
    header_is 'x-maas-pressure: emergency'
    # What was told as events, and when it came to the listener.
    for level in moderate high critical emergency; do
        first[event-$level]=$(when "$events" "\"level\":\"$level\"")
        [ -n "${first[event-$level]}" ] || fail "no event told of the level $level"
    done
    in_order event-moderate event-high event-critical event-emergency refused
    in_order level-normal level-moderate level-high level-critical level-emergency refused
    in_order header-moderate header-high header-critical header-emergency refused
    in_order low-201- low-503-admission-deferred low-507-admission-rejected refused
    in_order forecast level-critical refused
    metric_is 'maas_refused_total{reason="pool-exhausted"}' 1
    [ "$(metric 'maas_refused_total{reason="admission-deferred"}')" -gt 0 ] || fail "no deferral was counted"
    [ "$(metric 'maas_refused_total{reason="admission-rejected"}')" -gt 0 ] || fail "no rejection was counted"
    stop "$server" "$log" # with a listener
    until_true 5 ended_by_itself "$listener" || fail "the stream of events did not end with the service"
    reap "$listener"
    passed "$words; refused $(seconds $((first[refused] - first[event-moderate]))) after the first event"
}

# The instants of these names follow each other, each of which has one: in_order NAME… (in the caller's array `first`)
in_order() {
    local name before=0 last='the beginning'
    for name in "$@"; do
        [ -n "${first[$name]-}" ] || fail "it never came to $name"
        [ "${first[$name]}" -ge "$before" ] || fail "$name came before $last"
        before=${first[$name]}
        last=$name
        checks_passed=$((checks_passed + 1))
    done
}

ended_by_itself() { ! runs "$1"; }

# Runs a command of the program in $work/place: command_is CODE PATTERN [VARIABLE=VALUE]… -- ARGUMENT…
# Holds it to its exit code, and what it prints to a regular expression.
command_is() {
    local expected=$1 pattern=$2 code=0 output variables=()
    shift 2
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    shift
    output=$(cd "$work/place" && bare "${variables[@]}" "$maas" "$@" 2>&1 </dev/null) || code=$?
    [ $code -eq "$expected" ] || fail "maas $*: exit code $code, expected $expected" "it printed: $output"
    grep -Eq -- "$pattern" <<<"$output" || fail "maas $*: the output lacks something" "expected: $pattern" "got: $output"
    checks_passed=$((checks_passed + 1))
}

# The content at $data must be that of a file: content_is FILE [curl's options]…
content_is() {
    local expected=$1
    shift
    plain_curl -f -o "$work/content" "$@" "$base$data" || fail "GET $data $*: curl got no content"
    cmp "$work/content" "$expected" >/dev/null 2>&1 || fail "GET $data $*: the content is not that of $expected"
    checks_passed=$((checks_passed + 1))
}

check_content() {
    local data part parts=() hash
    local -r bytes=4194304 step=524288
    step "content: curl writes, reads, resumes"
    head -c $((bytes * 3 / 4)) /dev/urandom | base64 -w 0 >"$work/first"
    head -c $((bytes * 3 / 4)) /dev/urandom | base64 -w 0 >"$work/second"
    head -c $bytes /dev/zero >"$work/zeros"
    serve content -- --set memory.max_pool_size=1GiB
    allocate $bytes $bytes 4\\.0
    data=/allocate/$id/data
    content_is "$work/zeros"
    call 204 PUT "$data" -T "$work/first"
    header_is 'etag: "1"'
    content_is "$work/first"
    # A length that nobody announces.
    call 204 PUT "$data" -T - <"$work/second"
    header_is 'etag: "2"'
    content_is "$work/second"
    if [[ $(curl --version) == *HTTP2* ]]; then
        call 204 PUT "$data" -T "$work/first" --http2-prior-knowledge
        content_is "$work/first" --http2-prior-knowledge
        call 204 PUT "$data" -T "$work/second" --http2-prior-knowledge
        # It still sends when it is refused, and must see why.
        refused 411 length-required POST /allocate -H 'Content-Type: application/octet-stream' \
            --http2-prior-knowledge -T - <"$work/second"
    else
        call 204 PUT "$data" -T "$work/first"
        call 204 PUT "$data" -T "$work/second"
    fi
    call 206 GET "$data" -r 0-0
    header_is "content-range: bytes 0-0/$bytes"
    head -c 2000000 "$work/second" | tail -c 1000000 >"$work/middle"
    content_is "$work/middle" -r 1000000-1999999
    tail -c 1000 "$work/second" >"$work/tail"
    content_is "$work/tail" -r -1000
    refused 416 range-not-satisfiable GET "$data" -r "$bytes-"
    header_is "content-range: bytes \\*/$bytes"
    # A download that broke off goes on.
    head -c 1500000 "$work/second" >"$work/content"
    content_is "$work/second" -C -
    # In ranges, all at once.
    for ((part = 0; part < bytes; part += step)); do
        launch "$work/part.log" plain_curl -f -o "$work/part.$part" -r "$part-$((part + step - 1))" "$base$data"
        parts+=("$launched")
    done
    for part in "${parts[@]}"; do
        reap "$part"
        [ "$ended" -eq 0 ] || fail "curl could not read a range: it ended with $ended" "$(cat "$work/part.log")"
    done
    hash=$(for ((part = 0; part < bytes; part += step)); do cat "$work/part.$part"; done | sha256sum)
    [ "$hash" = "$(sha256sum <"$work/second")" ] || fail "ranges that were read in parallel do not make up the content"
    checks_passed=$((checks_passed + 1))
    call 204 PATCH "$data?offset=1000000" -H 'Content-Type: application/octet-stream' --data-binary "@$work/middle"
    call 204 PATCH "$data?offset=0" -H 'Content-Type: application/octet-stream' --data-binary "@$work/middle"
    { cat "$work/middle"; tail -c +1000001 "$work/second"; } >"$work/patched"
    content_is "$work/patched"
    refused 412 precondition-failed PUT "$data" -H 'If-Match: "1"' -T "$work/first"
    refused 413 past-end PATCH "$data?offset=$bytes" -H 'Content-Type: application/octet-stream' -d x
    echo >>"$work/first"
    refused 413 body-too-large PUT "$data" -T "$work/first"
    refused 413 body-too-large PUT "$data" -T - <"$work/first"
    content_is "$work/patched"
    call 204 DELETE "/allocate/$id"
    refused 404 not-found GET "$data"
    metric_is maas_in_use_bytes 0 10
    metric_is maas_draining_bytes 0
    metric_is maas_inflight_bytes 0
    stop "$server" "$log"
    passed
}

check_large_objects() {
    local data large
    local -r bytes=9437185 pages=9441280
    step "a large object: 9 MiB and a byte, written, patched, read"
    serve large -- --set memory.max_pool_size=64MiB
    allocate $bytes $pages 9\\.00390625
    large=$id
    data=/allocate/$id/data
    metric_is maas_large_objects 1
    metric_is maas_large_object_bytes $pages
    metric_is maas_in_use_bytes $pages
    call 200 GET /stats
    body_has "\"large_objects\":{\"objects\":1,\"bytes\":$pages,\"segments\":"
    head -c $bytes /dev/zero >"$work/zeros"
    content_is "$work/zeros"
    head -c $bytes /dev/urandom >"$work/large"
    call 204 PUT "$data" -T "$work/large"
    header_is 'etag: "1"'
    content_is "$work/large"
    # Across the end of the first 4 MiB, and the very last byte.
    head -c 4200000 "$work/large" | tail -c 10000 >"$work/middle"
    content_is "$work/middle" -r 4190000-4199999
    tail -c 1 "$work/large" >"$work/tail"
    content_is "$work/tail" -r 9437184-
    call 204 PATCH "$data?offset=4194304" -H 'Content-Type: application/octet-stream' --data-binary x
    { head -c 4194304 "$work/large"; printf x; tail -c +4194306 "$work/large"; } >"$work/patched"
    content_is "$work/patched"
    # What is told to fit does, in whatever pieces.
    refused 507 pool-exhausted POST /allocate -H "$json" -d '{"size_bytes":62914560}'
    body_has '"largest_available_bytes":57667584,"refused_by":"pool"'
    allocate 57667584 57667584 54\\.99609375
    call 204 DELETE "/allocate/$id"
    content_is "$work/patched"
    call 204 DELETE "/allocate/$large"
    refused 404 not-found GET "$data"
    metric_is maas_in_use_bytes 0 10
    metric_is maas_large_objects 0
    metric_is maas_large_object_bytes 0
    call 200 GET /stats
    body_has '"large_objects":{"objects":0,"bytes":0,"segments":0,'
    stop "$server" "$log"
    passed
}

# Makes an arena; the id is $id: arena BODY PROFILE LIMIT
arena() {
    call 201 POST /arenas -H "$json" -d "$1"
    body_is "\{\"id\":\"$uuid\",\"profile\":\"$2\",\"limit_bytes\":$3,\"used_bytes\":0,\"allocations\":0,\"parent\":.+,\"state\":\"open\",\"age_seconds\":0.*\}"
    take_id
    header_is "location: /arenas/$id"
}

# Allocates in an arena; the id is $id: member ARENA SIZE ACTUAL_SIZE
member() {
    call 201 POST "/arenas/$1/allocate" -H "$json" -d "{\"size_bytes\":$2}"
    body_is "\{\"id\":\"$uuid\",\"size_bytes\":$2,\"actual_size_bytes\":$3,.*\"arena\":\"$1\"\}"
    take_id
    header_is "location: /allocate/$id"
}

check_arenas() {
    local outer inner kept lost number
    step "arenas: fill, nest, commit, roll back"
    serve arenas -- --set memory.max_pool_size=64MiB --set budgets.bounded=2KiB
    # Everything that can be said of one, and nothing at all.
    arena '{"estimated_size_bytes":100000,"lease_seconds":600,"tag":"txn","wait_ms":0,"priority":"low"}' small 524288
    outer=$id
    body_has '"parent":null'
    body_has '"expires_in_seconds":600,"tag":"txn"'
    metric_is maas_in_use_bytes 32768
    call 201 POST /arenas
    body_has '"profile":"'
    take_id
    call 200 POST "/arenas/$id/rollback"
    body_is '\{"freed_bytes":0,"freed_allocations":0,"state":"rolled_back"\}'
    # Small ones and one of its own pages: written, read, patched, listed, freed.
    member "$outer" 100 112
    kept=$id
    call 204 PUT "/allocate/$kept/data" -d 'one row'
    call 200 HEAD "/allocate/$kept/data"
    header_is 'etag: "1"'
    call 204 PATCH "/allocate/$kept/data?offset=4" -H 'Content-Type: application/octet-stream' -d 'two'
    call 206 GET "/allocate/$kept/data" -r 0-6
    body_is 'one two'
    refused 412 precondition-failed PUT "/allocate/$kept/data" -H 'If-Match: "1"' -d late
    for number in 1 2 3 4 5 6 7 8 9 10; do member "$outer" $((number * 16)) $((number * 16)); done
    call 204 DELETE "/allocate/$id"
    refused 404 not-found GET "/allocate/$id"
    member "$outer" 100000 102400
    lost=$id
    head -c 100000 /dev/urandom >"$work/random"
    call 204 PUT "/allocate/$lost/data" -T "$work/random"
    data=/allocate/$lost/data content_is "$work/random"
    call 200 GET '/allocate?tag=txn&limit=1'
    body_has "\"id\":\"$kept\""
    call 200 GET "/arenas/$outer"
    body_has '"used_bytes":103392,"allocations":11,'
    # One within it: its use counts in both, its commit frees it from both.
    arena "{\"parent\":\"$outer\",\"profile\":\"tiny\"}" tiny 65536
    inner=$id
    body_has "\"parent\":\"$outer\""
    member "$inner" 16384 16384
    call 200 GET "/arenas/$outer"
    body_has '"used_bytes":119776,"allocations":11,'
    refused 507 arena-exhausted POST "/arenas/$inner/allocate" -H "$json" -d '{"size_bytes":65536}'
    body_has '"in_use_bytes":16384,"free_bytes":49152,"limit_bytes":65536,"largest_available_bytes":49152,"refused_by":"arena"'
    metric_is 'maas_refused_total{reason="arena-exhausted"}' 1
    call 200 GET /arenas
    body_is "\{\"arenas\":\[\{\"id\":\"$outer\",.*\},\{\"id\":\"$inner\",.*\}\],\"next_cursor\":null\}"
    refused 400 invalid-field POST "/arenas/$inner/commit" -H "$json" -d '{"keep":true}'
    call 200 POST "/arenas/$inner/commit"
    body_is '\{"freed_bytes":16384,"freed_allocations":1,"state":"committed"\}'
    refused 409 arena-ended POST "/arenas/$inner/allocate" -H "$json" -d '{"size_bytes":1}'
    refused 409 arena-ended POST /arenas -H "$json" -d "{\"parent\":\"$inner\"}"
    # A lease is the arena's.
    refused 400 invalid-field POST "/allocate/$kept/renew" -H "$json" -d '{"lease_seconds":1}'
    call 200 POST "/arenas/$outer/renew" -H "$json" -d '{"lease_seconds":3600}'
    body_has '"expires_in_seconds":3600'
    # What is kept outlives the commit; nothing else does.
    refused 400 invalid-id POST "/arenas/$outer/commit" -H "$json" -d '{"keep":["7"]}'
    refused 400 invalid-field POST "/arenas/$outer/commit" -H "$json" -d '{"keep":["00000000-0000-8000-8000-000000000000"]}'
    call 200 POST "/arenas/$outer/commit" -H "$json" -d "{\"keep\":[\"$kept\"]}"
    body_is '\{"freed_bytes":103280,"freed_allocations":10,"state":"committed"\}'
    for number in commit rollback reset; do refused 409 arena-ended POST "/arenas/$outer/$number"; done
    call 200 GET "/arenas/$outer"
    body_has '"state":"committed"'
    refused 404 not-found GET "/allocate/$lost/data"
    call 206 GET "/allocate/$kept/data" -r 0-6
    body_is 'one two'
    metric_is maas_in_use_bytes 32768
    metric_is maas_active_allocations 1
    call 204 DELETE "/allocate/$kept"
    # A reset leaves it open, and a lease ends it if nobody does.
    arena '{"profile":"tiny","limit_bytes":4096,"lease_seconds":1}' tiny 4096
    outer=$id
    member "$outer" 4000 4000
    refused 507 arena-exhausted POST "/arenas/$outer/allocate" -H "$json" -d '{"size_bytes":100}'
    call 200 POST "/arenas/$outer/reset"
    body_is '\{"freed_bytes":4000,"freed_allocations":1,"state":"open"\}'
    member "$outer" 4096 4096
    metric_is 'maas_arenas_ended_total{state="expired"}' 1 10
    refused 404 not-found GET "/allocate/$id"
    refused 409 arena-ended POST "/arenas/$outer/commit"
    # What is wrong, each with its own code.
    refused 404 not-found POST /arenas/20000000-0000-8000-8000-000000000000/commit
    refused 404 not-found GET /arenas/20000000-0000-8000-8000-000000000000
    refused 400 invalid-id GET /arenas/7
    refused 400 invalid-field POST /arenas -H "$json" -d '{"limit_bytes":0}'
    refused 400 invalid-size POST /arenas -H "$json" -d '{"estimated_size_bytes":0}'
    refused 400 invalid-field POST /arenas -H "$json" -d '{"profile":"grand"}'
    refused 400 invalid-field POST /arenas -H "$json" -d '{"profile":"tiny","estimated_size_bytes":1}'
    refused 400 unknown-field POST /arenas -H "$json" -d '{"size_bytes":1}'
    refused 422 size-too-large POST /arenas -H "$json" -d '{"estimated_size_bytes":67108865}'
    refused 415 unsupported-media-type POST /arenas -d '{}'
    refused 507 budget-exhausted POST /arenas -H "$json" -d '{"profile":"small","tag":"bounded"}'
    # Nothing is left, and the numbers say what was.
    metric_is maas_in_use_bytes 0 10
    metric_is maas_active_allocations 0
    metric_is maas_arenas 0
    metric_is maas_arena_chunk_bytes 0
    metric_is 'maas_arenas_created_total{profile="tiny"}' 2
    metric_is 'maas_arenas_ended_total{state="committed"}' 2
    metric_is 'maas_arenas_ended_total{state="rolled_back"}' 1
    call 200 GET /stats
    body_has '"arenas":{"active":0,"created":4,"commits":2,"rollbacks":1,"expirations":1,"resets":1,"allocations":0,"used_bytes":0,"chunk_bytes":0,"profiles":[{"profile":"tiny","created":2},'
    stop "$server" "$log"
    passed
}

# A client that sends all of its body before it looks for an answer must see the answer, not a broken connection.
check_early_refusal() {
    step "Python's http.client: an early 413"
    serve early --
    allocate 4194304 4194304 4\\.0
    cat >"$work/early.py" <<'CLIENT'
import http.client, json, sys

connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
for length in (4194305, 16 << 20):
    connection.request("PUT", sys.argv[2], body=bytes(length))
    answer = connection.getresponse()
    problem = json.load(answer)
    assert (answer.status, problem["code"]) == (413, "body-too-large"), problem
connection.request("PUT", sys.argv[2], body=b"as before")
answer = connection.getresponse()
assert (answer.status, answer.read()) == (204, b""), answer.status
CLIENT
    run "$work/early.log" python3 "$work/early.py" "${base#http://}" "/allocate/$id/data"
    [ "$ended" -eq 0 ] || {
        evidence=$work/early.log
        fail "Python's client did not see the answer"
    }
    checks_passed=$((checks_passed + 3))
    stop "$server" "$log"
    passed
}

check_commands() {
    local port
    step "commands, configuration, exit codes"
    mkdir -p "$work/place"
    command_is 0 '^maas [0-9]+\.[0-9]+\.[0-9]+$' -- --version
    command_is 0 '^Examples:$' -- --help
    command_is 2 'launch' -- launch
    command_is 2 'KEY=VALUE' -- --set server.port
    # Each source is stronger than the one before it.
    command_is 0 '^server\.port += 3000 +# default$' -- config
    printf '[server]\nport = 4001\n' >"$work/place/config.toml"
    command_is 0 '^server\.port += 4001 +# config\.toml$' -- config
    printf 'SERVER_PORT=4002\nFOREIGN_NAME=1\n' >"$work/place/.env"
    command_is 0 '^server\.port += 4002 +# \.env SERVER_PORT$' -- config
    command_is 0 '^server\.port += 4003 +# environment SERVER_PORT$' SERVER_PORT=4003 -- config
    command_is 0 '^server\.port += 4003 +# environment SERVER_PORT$' SERVER_PORT=4003 MAAS__SERVER__PORT=1 -- config
    command_is 0 '^server\.port += 4004 +# --set$' SERVER_PORT=4003 -- config --set server.port=4004
    command_is 0 '^server\.port += 4005 +# --port$' -- config --set server.port=4004 --port 4005
    printf '[server]\nport = 4006\n' >"$work/place/other.toml"
    rm "$work/place/.env"
    command_is 0 '^server\.port += 4006 +# other\.toml$' -- config --config other.toml
    printf '[server]\nprot = 1\nport = -1\n' >"$work/place/bad.toml"
    command_is 0 '^other\.toml: ok$' -- config --check other.toml
    command_is 78 'did you mean server\.port' -- config --check bad.toml
    command_is 78 '2 problems' -- --config bad.toml
    command_is 78 'MAAS__SERVER__PROT' MAAS__SERVER__PROT=1 -- config
    command_is 78 'none\.toml' -- --config none.toml
    rm "$work/place/config.toml"
    cp "$root/config.toml" "$root/.env.example" "$work/place/"
    command_is 0 '^config\.toml: ok$' -- config --check config.toml
    serve asked LOG_FORMAT=json RUST_LOG=debug --
    grep -q '^{"timestamp":.*"message":"listening on ' "$log" || fail "the log is not JSON: $(head -n 1 "$log")"
    base=${base%%\"*}
    port=${base##*:}
    command_is 0 '' -- healthcheck --url "$base/health"
    command_is 0 '' SERVER_PORT="$port" -- healthcheck
    command_is 1 'cannot listen|in use' -- --port "$port"
    kill -TERM "$server"
    reap "$server"
    [ "$ended" -eq 0 ] || fail "the server ended with $ended after SIGTERM, expected 0"
    command_is 1 'refused' -- healthcheck --url "$base/health"
    passed
}

check_stop() {
    local client address
    step "a clean stop while a request runs"
    serve stopped --
    address=${base#http://}
    # A request that has sent half its body, and sends the rest when a file appears.
    cat >"$work/client" <<'CLIENT'
exec 3<>"/dev/tcp/${1%:*}/${1##*:}"
printf 'POST /allocate HTTP/1.1\r\nHost: maas\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n{"size_by' >&3
until [ -e "$2" ]; do sleep 0.05; done
printf 'tes":1024}' >&3
IFS= read -r -t 10 status <&3
echo "$status"
CLIENT
    launch "$work/client.log" bash "$work/client" "$address" "$work/go-on"
    client=$launched
    # It, and the one that asks.
    metric_is maas_http_connections 2 10
    kill -TERM "$server"
    until_true 10 server_log_has "$log" 'told to stop' || fail "the log does not say that it was told to stop"
    # It still answers: that it takes no new work.
    refused 503 stopping GET /health
    refused 503 stopping GET /readyz
    refused 503 stopping POST /allocate -H "$json" -d '{"size_bytes":1}'
    header_is 'retry-after: [0-9]+'
    call 200 GET /livez
    : >"$work/go-on"
    reap "$client"
    grep -q '^HTTP/1.1 201 ' "$work/client.log" || {
        evidence=$work/client.log
        fail "the running request was not answered 201: what runs is finished"
    }
    reap "$server"
    [ "$ended" -eq 0 ] || fail "the server ended with $ended, expected 0" "its log: $(tail -n 5 "$log")"
    checks_passed=$((checks_passed + 2))
    passed
}

check_dead_backend() {
    step "a backend that is down"
    # Nobody listens on port 1 of loopback.
    serve lonely -- --set backend.server_url=http://127.0.0.1:1 --set backend.retry_interval=50ms \
        --set backend.retry_interval_max=100ms
    allocate 100 1024 0\\.0009765625
    metric_is 'maas_connection_state{state="native_metrics"}' 1 10
    metric_is maas_backend_up 0
    call 200 GET /health
    body_has '"status":"degraded"'
    body_has '"connection":{"state":"native_metrics"'
    call 200 GET /readyz
    call 204 DELETE "/allocate/$id"
    command_is 0 '' -- healthcheck --url "$base/health"
    stop "$server" "$log"
    passed
}

# ---- README.md and the guides ----------------------------------------------------------------------------------------

# A page that is wrong is a defect: its sessions are typed again, and what they print is compared. A session is a
# block marked `console`; a command begins with "$ ", and what follows is its output, where … stands for anything.
# The servers that the README starts on 3000 and 3001 listen on other ports here, and ids differ from run to run.

readme_ids=() # pairs: an id of the README, the one that this run got in its place

# Puts this run's addresses and ids into a text of the README.
as_here() {
    local text=$1 i
    text=${text//127.0.0.1:3000/${main#http://}}
    text=${text//127.0.0.1:3001/${small#http://}}
    for ((i = 0; i < ${#readme_ids[@]}; i += 2)); do
        text=${text//${readme_ids[i]}/${readme_ids[i + 1]}}
    done
    printf '%s' "$text"
}

# Takes times and request ids, which differ from run to run, out of a text.
timeless() {
    sed -E -e 's/"(age|uptime|since)_seconds":[0-9]+/"\1_seconds":N/g' -e 's/"request_id":"[0-9a-f]{16}"/"request_id":"R"/' \
        -e 's/^x-request-id: [0-9a-f]{16}$/x-request-id: R/' -e 's/^date: .*/date: D/' -e 's/[[:space:]]+$//'
}

# Types one command of a page and compares.
readme_command() {
    local typed=$1 expected=$2 line=$3 page=$4 output pattern i theirs=() ours=()
    local -r curl_here='curl() { command curl -q -sS --noproxy "*" --max-time 20 "$@"; }'
    output=$(cd "$work/session" && bare bash -c "$curl_here; $(as_here "$typed")" 2>&1 </dev/null | tr -d '\r' | timeless) || true
    # Of what is allocated, the ids are new: each of the README's is the one at the same place here.
    if [[ $typed == *size_bytes* || $typed == *octet-stream* || $typed == */arenas ]]; then
        mapfile -t theirs < <(grep -Eo "$uuid" <<<"$expected" || true)
        mapfile -t ours < <(grep -Eo "$uuid" <<<"$output" || true)
        for ((i = 0; i < ${#theirs[@]} && i < ${#ours[@]}; i++)); do
            [[ " ${readme_ids[*]} " == *" ${theirs[i]} "* ]] || readme_ids+=("${theirs[i]}" "${ours[i]}")
        done
    fi
    expected=$(as_here "$expected" | timeless)
    # The landing page names the default address.
    output=$(as_here "$output")
    # The quoted text as a pattern of the shell, in which only … is special.
    pattern=$(sed -e 's/[][*?\\()!+@|]/\\&/g' -e 's/…/*/g' <<<"$expected")
    # shellcheck disable=SC2053 # a pattern is what it is
    [[ $output == $pattern ]] || fail "line $line of $page is not what happens: $typed" \
        "the page says:" "$expected" "this happened:" "$output"
    checks_passed=$((checks_passed + 1))
}

# Types all commands of a page; adds their number to $commands.
type_page() {
    local page=$1 line text='' typed='' inside=no number=0 at=0 before=$commands
    while IFS= read -r line; do
        number=$((number + 1))
        if [ "$inside" = no ]; then
            [ "$line" != '```console' ] || inside=yes
        elif [[ $line == '```' || $line == '$ '* ]]; then
            if [ -n "$typed" ]; then
                readme_command "$typed" "${text%$'\n'}" $at "$page"
                commands=$((commands + 1))
            fi
            typed=''
            text=''
            at=$number
            [ "$line" != '```' ] || inside=no
            [[ $line != '$ '* ]] || typed=${line#'$ '}
        else
            text+=$line$'\n'
        fi
    done <"$root/$page"
    [ "$commands" -gt "$before" ] || fail "$page has no sessions"
}

# The blocks of Python in the integration guide are one program, which ends well only if all it says is so.
run_python_of_guide() {
    local program=$work/guide.py
    awk '/^```python$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$root/docs/integration.md" >"$program.here"
    [ -s "$program.here" ] || fail "docs/integration.md has no Python"
    as_here "$(cat "$program.here")" >"$program"
    run "$work/guide.log" env -i PATH="$PATH" HOME="$work" python3 "$program"
    [ "$ended" -eq 0 ] || {
        evidence=$work/guide.log
        fail "the Python of docs/integration.md ended with $ended"
    }
    checks_passed=$((checks_passed + 1))
}

check_pages() {
    local main small main_server main_log commands=0
    local documented found
    step "README.md and the guide: every session typed again"
    mkdir -p "$work/session/target/release"
    ln -s "$maas" "$work/session/target/release/maas"
    cp "$root/config.toml" "$work/session/"
    # What this machine's memory is like is not to be in them.
    local -r calm=(--set pressure.psi=false --set "pressure.cgroup_root=$work/calm")
    mkdir -p "$work/empty" "$work/calm/proc/pressure"
    echo 'MemTotal: 16777216 kB' >"$work/calm/proc/meminfo"
    echo 'some avg10=0.00 avg60=0.00 avg300=0.00 total=0' >"$work/calm/proc/pressure/memory"
    serve readme-small -- "${calm[@]}" --set memory.max_pool_size=10240 --set memory.slab_sizes=1024 --set budgets.cache=2048
    small=$base
    small_server=$server
    small_log=$log
    serve readme-main -- "${calm[@]}" --set memory.max_pool_size=1GiB
    main=$base
    main_server=$server
    main_log=$log
    type_page README.md
    type_page docs/integration.md
    if have_python; then run_python_of_guide; fi

    # Its tables have every key and every metric, and no others. What `health.` begins are fields of /stats.
    # shellcheck disable=SC2016 # the backquotes are Markdown's
    documented=$(sed -n 's/^| `\([a-z]*\.[A-Za-z_.]*\)`.*/\1/p' "$root/README.md" | grep -v -e '\.SIZE\.' -e '\.TAG$' -e '^health\.' | sort)
    found=$(cd "$work/empty" && bare "$maas" config | cut -d ' ' -f 1 | sort)
    [ "$documented" = "$found" ] || fail "the README's table of keys is not that of maas config" \
        "$(diff <(echo "$documented") <(echo "$found"))"
    # shellcheck disable=SC2016 # the backquotes are Markdown's
    documented=$(sed -n 's/^| `\(maas_[a-z_]*\)[`{].*/\1/p' "$root/README.md" | sort)
    found=$(plain_curl "$base/metrics" | sed -n 's/^# TYPE \(maas_[a-z_]*\) .*/\1/p' | sort)
    [ "$documented" = "$found" ] || fail "the README's table of metrics is not that of /metrics" \
        "$(diff <(echo "$documented") <(echo "$found"))"
    checks_passed=$((checks_passed + 2))

    stop "$main_server" "$main_log"
    stop "$small_server" "$small_log"
    passed "$commands commands"
}

# ---- Peers -----------------------------------------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

have_peers() {
    command -v prometheus >/dev/null && command -v promtool >/dev/null && command -v prometheus-pushgateway >/dev/null
}

# Debian starts a service when it is installed, which nobody asked for here: a policy says no for as long as we install.
install_peers() {
    step "install the peers"
    if have_peers; then
        passed "they are there already"
        return
    fi
    command -v apt-get >/dev/null || fail "there is no apt-get here" \
        "install prometheus, promtool and prometheus-pushgateway by hand, then run ./verify.sh"
    [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null || fail "installing needs root, or sudo without a password"
    if [ -d /usr/sbin ] && [ ! -e /usr/sbin/policy-rc.d ]; then
        policy_file=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$work/policy"
        as_root install -m 755 "$work/policy" "$policy_file"
    fi
    run "$work/apt.log" as_root apt-get -o DPkg::Lock::Timeout=120 update || true
    [ "$ended" -eq 0 ] || {
        evidence=$work/apt.log
        fail "apt-get update ended with $ended"
    }
    run "$work/apt.log" as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends prometheus prometheus-pushgateway
    [ "$ended" -eq 0 ] || {
        evidence=$work/apt.log
        fail "apt-get install ended with $ended"
    }
    if [ -n "$policy_file" ]; then
        as_root rm -f "$policy_file"
        policy_file=''
    fi
    have_peers || fail "apt-get installed them, but they are not in PATH"
    passed
}

# Starts a peer on a free port and reads its address from its log: peer NAME COMMAND…
# Its address is $peer, its pid $peer_pid.
peer() {
    local name=$1
    shift
    launch "$work/$name.log" env -i PATH="$PATH" HOME="$work" "$@"
    peer_pid=$launched
    until_true 30 settled "$work/$name.log" 'msg="Listening on".* address=' || true
    server_log_has "$work/$name.log" 'msg="Listening on".* address=' || {
        evidence=$work/$name.log
        fail "$name does not say that it listens"
    }
    peer=http://$(sed -n 's/.*msg="Listening on".* address=\([^ ]*\).*/\1/p' "$work/$name.log" | head -n 1)
}

check_promtool() {
    local complaints
    step "promtool: the form of the metrics"
    serve linted --
    allocate 100 1024 0\\.0009765625
    call 200 GET /metrics
    # It ends with 3 where it only complains; maas_request_count has the name that users know.
    complaints=$(promtool check metrics <<<"$body" 2>&1 | grep -v '^maas_request_count ') || true
    [ -z "$complaints" ] || fail "promtool complains" "$complaints"
    stop "$server" "$log"
    passed
}

# Whether a query of Prometheus has this number as its one result.
prometheus_says() {
    local answer
    answer=$(plain_curl -G --data-urlencode "query=$1" "$peer/api/v1/query" 2>&1) || return 1
    last_answer=$answer
    [[ $answer =~ \"result\":\[\{.*\"value\":\[[0-9.]+,\"$2\"\]\}\] ]]
}

check_prometheus() {
    local query number
    step "a real Prometheus scrapes it"
    serve scraped --
    allocate 100 1024 0\\.0009765625
    allocate 100000 131072 0\\.125
    printf 'global:\n  scrape_interval: 500ms\nscrape_configs:\n  - job_name: maas\n    static_configs:\n      - targets: ["%s"]\n' \
        "${base#http://}" >"$work/prometheus.yml"
    peer prometheus prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/prometheus" \
        --web.listen-address=127.0.0.1:0
    while read -r query number; do
        until_true 30 prometheus_says "$query" "$number" ||
            fail "Prometheus does not come to say that $query is $number" "its last answer: $last_answer"
        checks_passed=$((checks_passed + 1))
    done <<'QUERIES'
up{job="maas"} 1
maas_active_allocations 2
maas_allocation_size_bytes 132096
maas_request_count{method="POST",route="/allocate",status="201"} 2
sum(maas_slabs{state="used"}) 2
QUERIES
    call 204 DELETE "/allocate/$id"
    until_true 30 prometheus_says maas_active_allocations 1 || fail "Prometheus does not see the free: $last_answer"
    stop "$server" "$log"
    until_true 30 prometheus_says 'up{job="maas"}' 0 || fail "Prometheus does not see the end: $last_answer"
    end "$peer_pid"
    passed
}

gateway_has() { grep -Eq "$1" <<<"$(plain_curl "$peer/metrics")"; }
gateway_lacks() { ! gateway_has "$1"; }

check_pushgateway() {
    local instance
    step "a real Pushgateway receives it"
    peer pushgateway prometheus-pushgateway --web.listen-address=127.0.0.1:0 --persistence.file=
    # As a backend it stands in for one that takes metrics by POST.
    serve pushing PROMETHEUS_PUSH_ENABLED=true PROMETHEUS_PUSHGATEWAY_URL="$peer" PROMETHEUS_PUSH_INTERVAL=200ms \
        BACKEND_SERVER_URL="$peer" -- --set backend.health_path=/-/healthy --set backend.push_path=/metrics/job/backend
    instance=${base#http://}
    allocate 100 1024 0\\.0009765625
    until_true 20 gateway_has "^maas_active_allocations\{instance=\"$instance\",job=\"maas\"\} 1$" ||
        fail "the group of $instance does not come to the Pushgateway" "the server's log: $(tail -n 3 "$log")"
    gateway_has "^push_time_seconds\{instance=\"$instance\",job=\"maas\"\}" || fail "the group has no time of its push"
    until_true 20 gateway_has "^maas_active_allocations\{instance=\"\",job=\"backend\"\} 1$" ||
        fail "the backend does not get the metrics" "the server's log: $(tail -n 3 "$log")"
    metric_is maas_backend_up 1 10
    metric_is 'maas_connection_state{state="connected"}' 1
    metric_is 'maas_push_attempts_total{target="pushgateway",result="error"}' 0
    call 200 GET /health
    body_has '"status":"healthy"'
    body_is '.*"connection":\{"state":"connected".*"pushgateway":\{"state":"connected".*'
    stop "$server" "$log"
    gateway_lacks "instance=\"$instance\"" || fail "the group of $instance is still there after a clean stop"
    checks_passed=$((checks_passed + 4))
    end "$peer_pid"
    passed
}

# ---- The list of steps -----------------------------------------------------------------------------------------------

# Ends it because of how it was called.
misused() {
    printf 'verify.sh: %s\n\n' "$1" >&2
    usage >&2
    finished=yes
    exit 2
}

main() {
    local with_peers=no sanitized=no hunt_rounds='' soak_seconds='' began total
    while [ $# -gt 0 ]; do
        case $1 in
            --with-peers) with_peers=yes ;;
            --hunt)
                [[ ${2-} =~ ^[1-9][0-9]*$ ]] || misused "--hunt takes a number of rounds"
                hunt_rounds=$2
                shift
                ;;
            --soak)
                soak_seconds=600
                if [[ ${2-} =~ ^[1-9][0-9]*$ ]]; then
                    soak_seconds=$2
                    shift
                fi
                ;;
            --sanitize) sanitized=yes ;;
            -h | --help)
                usage
                finished=yes
                exit 0
                ;;
            *) misused "unknown argument $1" ;;
        esac
        shift
    done
    began=$(now_ms)
    work=$(mktemp -d "${TMPDIR:-/tmp}/maas-verify.XXXXXX")
    cd "$root"
    preflight
    if [ "$with_peers" = yes ]; then install_peers; fi
    check_code
    if [ "$sanitized" = yes ]; then check_sanitizers; fi
    check_instructions
    if [ -n "$hunt_rounds" ]; then check_hunts "$hunt_rounds"; fi
    if [ -n "$soak_seconds" ]; then check_soak "$soak_seconds"; fi
    check_allocations
    check_bad_input
    check_service_routes
    check_small_pool
    check_pressure
    check_content
    check_large_objects
    check_arenas
    if have_python; then
        check_early_refusal
    else
        skip "Python's http.client: an early 413" "python3 is not installed"
    fi
    check_commands
    check_stop
    check_dead_backend
    check_pages
    if command -v promtool >/dev/null; then check_promtool; else skip "promtool" "it is not installed (--with-peers)"; fi
    if command -v prometheus >/dev/null; then check_prometheus; else skip "Prometheus" "it is not installed (--with-peers)"; fi
    if command -v prometheus-pushgateway >/dev/null; then
        check_pushgateway
    else
        skip "Pushgateway" "it is not installed (--with-peers)"
    fi
    total=$(($(now_ms) - began))
    finished=yes
    printf '\nverify.sh: all %d steps passed in %d min %d s: %d single checks of the running program, %d steps skipped\n' \
        "$steps_passed" $((total / 60000)) $((total / 1000 % 60)) "$checks_passed" "${#skipped[@]}"
}

# One group, read whole before it runs: this file may change meanwhile.
{
    main "$@"
    exit
}
