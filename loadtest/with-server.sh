#!/usr/bin/env bash
# Runs a command while a server runs: loadtest/with-server.sh COMMAND...
# The command finds the server's address in LOADTEST_URL. LOADTEST_SERVER names the binary, SERVE_FLAGS adds flags.
set -euo pipefail

binary=${LOADTEST_SERVER:-target/release/gossamer}
out=$(mktemp)
# shellcheck disable=SC2086 # the flags are meant to be split
"$binary" serve --port 0 ${SERVE_FLAGS:-} >"$out" 2>"$out.log" &
server=$!
trap 'kill -TERM "$server" 2>/dev/null || true; wait "$server" || true; rm -f "$out" "$out.log"' EXIT

for _ in $(seq 600); do
    LOADTEST_URL=$(sed -n 's/.*\(http:\/\/[^ ]*:[0-9]*\).*/\1/p' "$out" | head -n 1)
    [ -n "$LOADTEST_URL" ] && break
    kill -0 "$server" 2>/dev/null || { cat "$out" "$out.log" >&2; exit 1; }
    sleep 0.1
done
[ -n "$LOADTEST_URL" ] || { echo "the server did not start within a minute" >&2; exit 1; }
export LOADTEST_URL
"$@"
