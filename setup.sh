#!/usr/bin/env bash
# Makes a fresh clone ready: system packages, npm packages, the build. Safe to run again; seconds when there is nothing to do.
#   ./setup.sh          CPU; with CUDA where both nvcc and a GPU are found
#   ./setup.sh --cuda   with CUDA in any case (needs nvcc)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  echo "setup.sh: $*" >&2
  exit 1
}
for argument in "$@"; do
  case "$argument" in
    --cuda) export POLYGRAD_CUDA=1 ;;
    -h | --help) sed -n '2,4s/^# *//p' "$0" && exit 0 ;;
    *) fail "unknown option $argument (only --cuda)" ;;
  esac
done

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || fail "polygrad runs on Linux x64 only for now, this is $(uname -s) $(uname -m)"
command -v node >/dev/null || fail "Node.js 20.19 or newer is needed and there is none: https://nodejs.org/en/download"
node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
  fail "Node.js is $(node --version), but 20.19 or newer is needed: https://nodejs.org/en/download"
command -v npm >/dev/null || fail "npm is missing; it comes with Node.js, or as the package npm: https://nodejs.org/en/download"

# System packages: the tools by name, OpenBLAS by the static library that is linked into the addon.
missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v g++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
compgen -G "/usr/lib/*/openblas-pthread/libopenblas.a" >/dev/null || [ -e /usr/local/lib/libopenblas.a ] || missing+=(libopenblas-pthread-dev)
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "missing: ${missing[*]} (Debian's names); install them and run this again"
  root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "as root: apt-get install ${missing[*]}; then run this again"
    root=(sudo)
  fi
  install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}")
  echo "setup.sh: installing system packages: ${install[*]}"
  if ! "${install[@]}" >/dev/null 2>&1; then
    "${root[@]}" apt-get update
    "${install[@]}"
  fi
fi

# npm packages, when those in node_modules are not the ones of package-lock.json.
if ! node -e '
  const read = (path) => JSON.parse(require("fs").readFileSync(path, "utf8")).packages
  const wanted = read("package-lock.json"), found = read("node_modules/.package-lock.json")
  const stale = Object.keys(wanted).filter((p) => p && !wanted[p].optional && wanted[p].integrity !== found[p]?.integrity)
  process.exit(stale.length)' 2>/dev/null; then
  echo "setup.sh: npm ci"
  npm ci --no-audit --no-fund
fi

npm run --silent build
