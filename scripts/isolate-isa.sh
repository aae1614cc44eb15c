#!/bin/sh
# isolate-isa.sh ISA OUT ARCHIVE: joins the objects compiled for one instruction set so that none of their code can be
# picked for another. Templates and inline functions are weak: the linker keeps one copy of each for the whole program, and
# were that the AVX-512 one, a machine without AVX-512 would die of SIGILL in std::vector.
set -eu
isa=$1 out=$2 archive=$3
namespace="3cpu${#isa}$isa"

# Comdat groups are dissolved first: a group can be discarded as a whole, whatever its symbols are bound to.
ld -r --force-group-allocation -o "$out.joined" --whole-archive "$archive"
# W: weak functions. Weak and unique data (V, u: type names, static variables) stay shared; they hold no instructions.
nm --defined-only "$out.joined" | awk '$2 == "W" { print $3 }' | sort -u >"$out.weak"
objcopy --localize-symbols="$out.weak" "$out.joined" "$out.tmp"

leaks=$(nm --defined-only "$out.tmp" | awk -v ns="$namespace" '($2 == "W" || $2 == "T" || $2 == "i") && index($3, ns) == 0 { print $3 }')
if [ -n "$leaks" ]; then
  echo "isolate-isa: code compiled for $isa is visible outside namespace cpu::$isa:" >&2
  echo "$leaks" | c++filt >&2
  exit 1
fi
# What runs at load runs on every machine, before any choice.
if readelf -SW "$out.tmp" | grep -Eq '\.(init_array|ctors)'; then
  echo "isolate-isa: an '// isa: all' file has a static initialiser, which would run as $isa on every machine at load" >&2
  readelf -SW "$archive" | awk '/^File:/ { file = $2 } /\.(init_array|ctors)/ { print "  " file }' >&2
  exit 1
fi
rm -f "$out.joined" "$out.weak"
mv "$out.tmp" "$out"
