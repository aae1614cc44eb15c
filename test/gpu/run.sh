#!/usr/bin/env bash
# A whole run on a bare machine with an NVIDIA GPU, from what test/gpu/pack.mjs packed into .gpu/; nothing is fetched.
#   test/gpu/run.sh [OUT] [STAGE...]    stages in order: machine tests golden sanitizer train bench; default all
# Results go to OUT (default $OUT or runs/gpu); test/gpu/stages.mjs says which, and what the exit status means.
# One call ends within GPU_SECONDS (540): all stages want three of them, such as
#   test/gpu/run.sh "$OUT" machine tests golden;  test/gpu/run.sh "$OUT" sanitizer;  test/gpu/run.sh "$OUT" train bench
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:-${OUT:-runs/gpu}}
shift || true
mkdir -p "$out"
out=$(cd "$out" && pwd)

if [ -e .gpu/bundle.tar.xz ]; then # the machine has neither Node.js nor our build
  work=${TMPDIR:-/tmp}/polygrad-gpu
  rm -rf "$work"
  mkdir -p "$work/bin" "$work/build/Release" "$work/runs" "$work/.gpu"
  xz -dc .gpu/node.xz >"$work/bin/node"
  xz -dc .gpu/polygrad.node.xz >"$work/build/Release/polygrad.node"
  chmod +x "$work/bin/node"
  tar -xJf .gpu/bundle.tar.xz -C "$work"
  cp .gpu/text* "$work/runs/"
  cp .gpu/commit "$work/.gpu/"
  cp -r test docs scripts "$work/"
  export PATH="$work/bin:$PATH"
  cd "$work"
fi
exec node test/gpu/stages.mjs "$out" "$@"
