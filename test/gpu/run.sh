#!/usr/bin/env bash
# A whole run on a bare machine with an NVIDIA GPU, from what test/gpu/pack.mjs packed into .gpu/; nothing is fetched.
#   test/gpu/run.sh [OUT] [STAGE...]    stages in order: machine tests golden sanitizer train bench; default all
# Each stage has its own time limit; what it prints goes to OUT/STAGE.log (one tar at the end), its result to OUT/run.json.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:-${OUT:-runs/gpu}}
shift || true
stages=${*:-machine tests golden sanitizer train bench}
mkdir -p "$out/logs"
out=$(cd "$out" && pwd)
work=${TMPDIR:-/tmp}/polygrad-gpu
started=$SECONDS

if [ -e .gpu/bundle.tar.xz ]; then # the machine has neither Node.js nor our build
  rm -rf "$work" && mkdir -p "$work/bin" "$work/build/Release" "$work/runs"
  xz -dc .gpu/node.xz >"$work/bin/node" && chmod +x "$work/bin/node"
  tar -xJf .gpu/bundle.tar.xz -C "$work"
  cp .gpu/polygrad.node "$work/build/Release/"
  cp .gpu/text*.bin .gpu/text*.json "$work/runs/" 2>/dev/null
  cp -r test docs "$work/"
  export PATH="$work/bin:$PATH"
  cd "$work"
fi
export POLYGRAD_TEST_COMPILED=1 # dist/ came along, and no compiler did
vitest() { node node_modules/vitest/vitest.mjs run --project cuda "$@"; }

machine() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
  node dist/cli/main.js doctor --json
}
tests() { TEST_REPORT=$out/tests.json vitest; }
golden() { TEST_REPORT=$out/golden.json vitest test/train/golden.test.ts; }
# One small case of each kernel: the op tests, each file once under each tool.
sanitizer() {
  command -v compute-sanitizer >/dev/null || { echo 'compute-sanitizer is not on this machine'; return 3; }
  local failed=0
  for tool in memcheck initcheck synccheck racecheck; do
    for file in poly norm softmax loss matmul attention moe embedding reduce elementwise optim; do
      echo "== $tool $file"
      timeout 120 compute-sanitizer --tool $tool --error-exitcode 9 --target-processes all --launch-count 400 \
        node test/gpu/once.mjs $file || failed=1
    done
  done
  return $failed
}
train() {
  for capture in 1 0; do
    POLYGRAD_CAPTURE=$capture node dist/cli/main.js train configs/gpt2-124m.json --device cuda --out "$work/runs/train-$capture" \
      --set "train.steps=$((capture ? 300 : 40))" || return 1
    cp "$work/runs/train-$capture/metrics.jsonl" "$out/train-capture-$capture.jsonl"
  done
  node -e '
    const { readFileSync } = require("fs")
    const read = (n) => readFileSync(`${process.argv[1]}/train-capture-${n}.jsonl`, "utf8").trim().split("\n").map(JSON.parse)
    const [with_, without] = [read(1), read(0)]
    const mean = (rows) => rows.reduce((s, r) => s + r.loss, 0) / rows.length
    const median = (xs) => xs.sort((a, b) => a - b)[xs.length >> 1]
    const first = mean(with_.slice(0, 10)), last = mean(with_.slice(-10))
    const rate = (rows) => median(rows.slice(5).map((r) => r.tokens_per_second))
    console.log(JSON.stringify({ first, last, captured: rate(with_), eager: rate(without) }))
    if (!(last < first - 1)) throw new Error(`the loss fell from ${first} to ${last} only`)' "$out"
}
bench() { node dist/cli/main.js bench --device cuda --peers --json "$out/bench.json"; }

declare -A limit=([machine]=60 [tests]=420 [golden]=240 [sanitizer]=420 [train]=300 [bench]=500)
results=()
for stage in $stages; do
  printf '== %s (%d s)\n' "$stage" $((SECONDS - started))
  begun=$SECONDS
  export -f "$stage" vitest
  export out work
  timeout "${limit[$stage]}" bash -c "$stage" >"$out/logs/$stage.log" 2>&1
  status=$?
  tail -n 12 "$out/logs/$stage.log"
  results+=("\"$stage\": {\"status\": $status, \"seconds\": $((SECONDS - begun))}")
done
(IFS=,; printf '{%s}\n' "${results[*]}") >"$out/run.json"
tar -C "$out" -czf "$out/logs.tar.gz" logs && rm -rf "$out/logs"
cat "$out/run.json"
