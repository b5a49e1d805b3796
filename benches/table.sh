#!/usr/bin/env bash
# Measures everything again and writes the figures into docs/benchmarks.md, below its marker; what stands above stays.
#
#   benches/table.sh                  about six minutes after the build; nothing else should run meanwhile
#   benches/table.sh --rounds 31      more rounds, and less spread

set -euo pipefail
export LC_ALL=C
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
page=$root/docs/benchmarks.md
marker='<!-- below: written by benches/table.sh -->'
manifest=(--locked --manifest-path "$root/benches/Cargo.toml")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

grep -qxF "$marker" "$page" || {
    echo "table.sh: $page has no marker" >&2
    exit 1
}
cargo bench "${manifest[@]}" --no-run

version() { sed -n "/^name = \"$1\"/{n;s/version = \"\(.*\)\"/\1/p;q}" "$root/benches/Cargo.lock"; }
# A commit stands for the code only where nothing was changed since.
commit=$(git -C "$root" rev-parse --short HEAD)
[ -z "$(git -C "$root" status --porcelain -- src benches Cargo.toml)" ] || commit="$commit and changes that are not committed"
load=$(cut -d ' ' -f 1 /proc/loadavg)

{
    printf '\nMeasured %s at commit %s.\n\n' "$(date -u +%F)" "$commit"
    # Building was some of it, so the bound is not low; a busy machine is far above.
    if [ "${load%.*}" -ge "$(($(nproc) + 1))" ]; then
        printf '**The machine was busy** (load %s): to be measured again before anything is decided by it.\n\n' "$load"
    fi
    printf -- '- Processor: %s, %s CPUs; load of the last minute before: %s, our build included.\n' \
        "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$load"
    printf -- '- Linux %s, %s, %s.\n' "$(uname -r | cut -d - -f 1)" "$(rustc -V)" "$(getconf GNU_LIBC_VERSION)"
    printf -- '- mimalloc crate %s (its third generation), tikv-jemallocator %s, bumpalo %s, criterion %s.\n' \
        "$(version mimalloc)" "$(version tikv-jemallocator)" "$(version bumpalo)" "$(version criterion)"
    # shellcheck disable=SC2016 # the backquotes are Markdown's
    printf '\n## Ratios\n\n`cargo bench --manifest-path benches/Cargo.toml --bench ratios -- CASE` makes the rows of a case.\n'
    cargo bench "${manifest[@]}" --bench ratios -- "$@"
    # shellcheck disable=SC2016 # the backquotes are Markdown's
    printf '\n## The library\n\n`cargo bench --manifest-path benches/Cargo.toml --bench library -- CASE` makes the rows of a case.\n'
    cargo bench "${manifest[@]}" --bench library -- "$@"
    # shellcheck disable=SC2016 # the backquotes are Markdown's
    printf '\n## Arenas\n\n`cargo bench --manifest-path benches/Cargo.toml --bench arenas -- CASE` makes the rows of a case.\n'
    cargo bench "${manifest[@]}" --bench arenas -- "$@"
    # shellcheck disable=SC2016 # the backquotes are Markdown's
    printf '\n## Large blocks, and a long run\n\n`cargo bench --manifest-path benches/Cargo.toml --bench large -- CASE` makes the rows of a case.\n'
    cargo bench "${manifest[@]}" --bench large -- "$@"
    # shellcheck disable=SC2016 # the backquotes are Markdown's
    printf '\n## Memory and start\n\n`cargo bench --manifest-path benches/Cargo.toml --bench footprint -- CASE` makes the rows of a case.\n\n'
    cargo bench "${manifest[@]}" --bench footprint
    # shellcheck disable=SC2016 # the backquotes are Markdown's
    printf '\n## Instructions\n\n`cargo run --release --manifest-path benches/Cargo.toml --no-default-features --bin instructions` compares with these.\n\n'
    printf '| hot path | instructions |\n|---|---|\n'
    sed -n 's/^\([^#].*\): \(.*\)/| \1 | \2 |/p' "$root/benches/instructions.txt"
} >"$work/figures"

{ sed "\|^$marker\$|q" "$page"; cat "$work/figures"; } >"$work/page"
cp "$work/page" "$page"
echo "written: $page"
