#!/usr/bin/env bash
# Sees to it that the tests find a MinIO: nothing to do when $MINIO names one or one is on the PATH, else it is built from
# its Go module into ${XDG_CACHE_HOME:-~/.cache}/dlcloud/bin, once. Needs go and the Go module proxy; 5 minutes on 2 cores.
set -euo pipefail

module=github.com/minio/minio
version=v0.0.0-20260212201848-7aac2a2c5b7c
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dlcloud
program=$cache/bin/minio

fail() { echo "build_minio.sh: $*" >&2; exit 1; }

if [[ -n ${MINIO:-} ]]; then
  [[ -x $MINIO && ! -d $MINIO ]] || fail "MINIO: '$MINIO' is no program; give the path of one, or unset it"
  exit 0
fi
if command -v minio >/dev/null; then exit 0; fi
# A build that was interrupted leaves no program; one of another version of this script is replaced, one put there by
# hand is not.
if [[ -x $program && $(cat "$program.version" 2>/dev/null || echo "$version") == "$version" ]]; then exit 0; fi

command -v go >/dev/null || fail "go is missing: install it (https://go.dev/dl), put a minio on the PATH, or name one with MINIO=/path/to/minio"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache/bin"
cd "$work"
export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false -trimpath" GOTOOLCHAIN="${GOTOOLCHAIN:-auto}"
echo "fetching $module@$version (a minute the first time)"
{ go mod init minio.local && go get "$module@$version"; } >get.log 2>&1 || { tail -n 20 get.log >&2; fail "the module could not be fetched (above: the end of go's output)"; }

# `go list` knows how many packages there are, `go build -v` names each one it has compiled.
total=$(go list -deps "$module" | wc -l)
echo "building $program ($total packages; minutes the first time)"
compiled=0
while IFS= read -r line; do
  case $line in
    "#"* | *": "*) echo "$line" >&2 ;;
    *) compiled=$((compiled + 1)); if ((compiled % 50 == 0)); then echo "  $compiled of at most $total packages"; fi ;;
  esac
done < <(go build -v -ldflags "-s -w" -o minio "$module" 2>&1)
[[ -x minio ]] || fail "the build failed (above: go's output)"
mv minio "$program.new"
mv "$program.new" "$program"
echo "$version" >"$program.version"
echo "$program is ready (${SECONDS} s)"
