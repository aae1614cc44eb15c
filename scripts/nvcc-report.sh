#!/bin/sh
# Runs a compiler command and keeps what ptxas says of each kernel (registers, spills) beside the object, for
# scripts/kernel-report.mjs; all else that the compiler prints goes on to the reader.
object=
previous=
for argument in "$@"; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
"$@" 2>"$object.log"
status=$?
grep -E '^ptxas (info|warning)|^ +[0-9]+ bytes stack frame' "$object.log" >"$object.ptxas"
grep -vE '^ptxas info|^ +[0-9]+ bytes stack frame' "$object.log" >&2
rm -f "$object.log"
exit $status
