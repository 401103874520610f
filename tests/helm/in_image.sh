# What tests/helm/test_image_runs.py runs in the image, as the chart's server would, on the prepared base: it serves and audits.
set -eu
data=$(python -c 'import lorecall.adapters.demo_data as demo; print(list(demo.__path__)[0])')
if touch /venv/written 2>/dev/null; then echo "the root can be written"; exit 9; fi
id -u
lorecall adapters train --base /data/base --data "$data/secrets-train.jsonl" --rank 32 --modules down_proj \
  --out '/data/trained/secrets-r{rank}' >&2
lorecall serve --base /data/base --port 8000 --shutdown-timeout 30 >/data/serve.log 2>&1 &
server=$!
until python -c 'import urllib.request as ask; ask.urlopen("http://127.0.0.1:8000/health", timeout=5)' 2>/dev/null; do
  kill -0 "$server" || exit 8
  sleep 1
done
echo healthy
lorecall adapters add secrets --source /data/trained/secrets-r32 --server http://127.0.0.1:8000 >&2
code=0
lorecall audit run --server http://127.0.0.1:8000 --adapter secrets --candidates "$data/secrets-train.jsonl" \
  --controls "$data/secrets-control.jsonl" --out /data/audit --yes >&2 || code=$?
echo "audit $code"
kill "$server"
wait "$server" && echo "ended 0"
ls /data/cache
